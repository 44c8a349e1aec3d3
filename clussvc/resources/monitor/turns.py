"""Which calls of entry points may begin: not all of five hundred at once.

Python runs one thread at a time, and each that waits for its turn asks for it two hundred times a second. A hundred
workers that all want to compute get nothing done, and hold up the main loop, which must keep feeding the deadman. So
only a few calls that are *young* run at the same time. A call that has run for a while is most likely waiting for
something outside and is not counted any more: one that hangs delays the others by that while and no longer.

Decides only. Not thread-safe: the owner has a lock.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Calls that wait for their turn, first come first served."""

    def __init__(self, at_once: int, young_ms: int) -> None:
        """At most ``at_once`` calls run that are younger than ``young_ms``."""
        assert at_once >= 1, at_once
        self._at_once = at_once
        self._young_ms = young_ms
        self._waiting: OrderedDict[int, T] = OrderedDict()
        """By the identity of the call."""
        self._young: dict[int, int] = {}
        """When each young call began, by its identity, oldest first."""

    def wait(self, call: T) -> None:
        """The call waits for its turn from now on."""
        self._waiting[id(call)] = call

    def withdraw(self, call: T) -> bool:
        """The call is not wanted any more; False when it does not wait, but has had its turn already."""
        return self._waiting.pop(id(call), None) is not None

    def next(self, now_ms: int) -> T | None:
        """The call whose turn it is now, if any; it begins with that."""
        while self._young and now_ms - next(iter(self._young.values())) >= self._young_ms:
            del self._young[next(iter(self._young))]
        if not self._waiting or len(self._young) >= self._at_once:
            return None
        _, call = self._waiting.popitem(last=False)
        self._young[id(call)] = now_ms
        return call

    def over(self, call: T) -> None:
        """The call has returned."""
        self._young.pop(id(call), None)

    @property
    def look_ms(self) -> int | None:
        """When a place becomes free though no call returns; None when nobody waits for one."""
        if not self._waiting or not self._young:
            return None
        return next(iter(self._young.values())) + self._young_ms

"""The monitor's own fence (rule R4): what the others rely on must be true also when the service is dead.

When the lease ends, or the service goes, everything this monitor runs must have ended a release budget later. If it has
not, the machine is ended by the means of the node file. The service does the same when it is alive; but it may be the
one that is stopped, or was killed.

A thread of its own waits for that moment. It is made before anything is wrong, and shares nothing with the work that it
judges.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from clussvc.resources.monitor.kernel import boottime_ms

LOOK_MS = 50
"""How late the moment may be noticed when no clock of threads can be trusted (a machine that was suspended)."""


class LastResort:
    """Ends of everything that have to be over in time. May be used from any thread."""

    def __init__(self, fence: Callable[[str], None], budget_ms: Callable[[], int]) -> None:
        """``fence(why)`` ends the machine; ``budget_ms`` tells the release budget of the present timings."""
        self._fence = fence
        self._budget_ms = budget_ms
        self._changed = threading.Condition()
        self._open: dict[int, tuple[int, str]] = {}
        """When each must be over (CLOCK_BOOTTIME), and why it began."""
        self._count = 0
        self._thread = threading.Thread(target=self._watch, name="last-resort", daemon=True)

    def start(self, then: Callable[[], None]) -> None:
        """Begin to watch. ``then`` is called in the thread of this object when the fence has been used in vain."""
        self._then = then
        self._thread.start()

    def begin(self, lease_ended_ms: int, why: str) -> int:
        """An end of everything has begun, for a lease that ended (or will end) then. Returns its number."""
        with self._changed:
            self._count += 1
            budget_ms = self._budget_ms()
            why = f"{why}, and not everything was terminated {budget_ms} ms after the lease"
            self._open[self._count] = lease_ended_ms + budget_ms, why
            self._changed.notify()
            return self._count

    def over(self, number: int, *, clean: bool) -> None:
        """It has ended. What is left, unless it was ``clean``, may yet end by the moment, by another attempt."""
        with self._changed:
            if clean:
                # Whatever began before has ended as well: nothing runs.
                self._open = {other: held for other, held in self._open.items() if other > number}
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while True:
                if not self._open:
                    self._changed.wait()
                    continue
                number, (due_ms, why) = min(self._open.items(), key=lambda item: item[1])
                left_ms = due_ms - boottime_ms()
                if left_ms > 0:
                    self._changed.wait(min(left_ms, LOOK_MS) / 1000)
                    continue
                del self._open[number]
                self._changed.release()
                try:
                    self._fence(why)
                    self._then()
                finally:
                    self._changed.acquire()

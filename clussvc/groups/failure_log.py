"""The failures of this node's resources that the cluster's history does not know yet.

A state can be reported late and be right: the newest one is what counts. A failure cannot be told by a state, since a
restart that succeeds quickly leaves none behind. So every failure is kept here until an entry of the log has told it.

The same failures are proposed under the same request id until the log has answered, so that a proposal whose outcome
nobody knows is repeated and yet told once. The log outlives the node's incarnations: what failed, failed.

Bounded: failures of one resource that wait together become one with a count and the newest text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from clussvc.global_update.update import ResourceFailure
from clussvc.model.ids import RequestId, ResourceId

FAILURES_PER_REPORT_MAX = 100
"""Failures in one log entry; the rest follows in the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """Failures of one resource; ``at_ms`` is the newest one's moment on this node's clock."""

    failure: ResourceFailure
    at_ms: int

    def seen_at(self, now_ms: int) -> ResourceFailure:
        return replace(self.failure, ago_ms=max(0, now_ms - self.at_ms))


class FailureLog:
    """What has to be told; times are this node's boot-time clock."""

    def __init__(self) -> None:
        self._waiting: dict[ResourceId, _Waiting] = {}
        self._under_way: tuple[_Waiting, ...] = ()
        self.request: RequestId | None = None
        """Under which id the failures that are under way were proposed first."""

    def add(self, failure: ResourceFailure, at_ms: int) -> None:
        """A resource failed at that moment."""
        earlier = self._waiting.pop(failure.resource, None)
        count = failure.count + (earlier.failure.count if earlier else 0)
        self._waiting[failure.resource] = _Waiting(failure=replace(failure, count=count), at_ms=at_ms)

    def batch(self, now_ms: int) -> tuple[ResourceFailure, ...]:
        """The failures to tell now, oldest first; the same ones until they are settled."""
        if not self._under_way:
            chosen = list(self._waiting)[:FAILURES_PER_REPORT_MAX]
            self._under_way = tuple(self._waiting.pop(resource) for resource in chosen)
        return tuple(waiting.seen_at(now_ms) for waiting in self._under_way)

    def proposed(self, request: RequestId) -> None:
        """The batch is proposed under this id."""
        assert self._under_way
        self.request = request

    def settled(self, request: RequestId, *, told: bool) -> None:
        """The log answered: the batch is in the history, or was refused and needs another proposal."""
        if request != self.request:
            return
        self.request = None
        if told:
            self._under_way = ()

    @property
    def empty(self) -> bool:
        """Everything has been told."""
        return not self._waiting and not self._under_way

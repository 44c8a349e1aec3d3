"""One resource on the node that owns it: its state, and what each report and command makes of it.

```
            bring online              online
  OFFLINE ---------------> ONLINE ---------------> ONLINE
     ^                     PENDING                    |  take offline
     |  offline               | failed    failed      v
     +------------------------+---> FAILED <----- OFFLINE
     |       terminated, restart      |           PENDING
     +--------------------------------+              | offline
     +-----------------------------------------------+
```

A FAILED resource is *dirty* until the monitor has terminated it; only then may it be restarted, and only then does it
count as stopped when its group is released. Failures are judged at once (the restart policy), carried out when the
dependents are down and the resource is terminated.

Invariant: ``state`` is OFFLINE, or FAILED without ``dirty``, exactly when nothing of the resource can be running.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from clussvc.model.config import Resource
from clussvc.model.monitoring import ResourceReported
from clussvc.model.states import ResourceState
from clussvc.resources import restart_policy
from clussvc.resources.restart_policy import Verdict

TERMINATE_AGAIN_MS = 5_000
"""Pause before a resource that could not be terminated is terminated again. Until it is gone its group stays where it
is, and nothing above it starts (rule R1)."""

DETAIL_LENGTH_MAX = 300
"""Characters of a failure's text that are kept; it travels through the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failure: what failed, what the restart policy made of it, and when, on this node's clock."""

    detail: str
    because: str
    at_ms: int


@dataclass(slots=True)
class LocalResource:
    """The owner's knowledge of one resource; lives as long as the ownership epoch."""

    epoch: int
    """The epoch under which the last command was given; reports of another one are old."""
    online_ticket: int
    fail_ticket: int
    monitor: str = ""
    """The name of the monitor in which it was started last."""
    state: ResourceState = ResourceState.OFFLINE
    detail: str = ""
    dirty: bool = False
    """FAILED and not terminated yet."""
    terminating: bool = False
    terminate_again_ms: int | None = None
    """It could not be terminated; when to try again."""
    stays_failed: bool = False
    """The restart policy gave up; only a command, a retry period or another node changes that."""
    wants_failover: str = ""
    """Why the group should fail over; empty once the coordinator knows, or if it should not."""
    retry_at_ms: int | None = None
    last_failure: str = ""
    untold: list[Failure] = field(default_factory=list)
    """Failures that the owner has not fetched yet; it does so after every input."""
    restarts_ms: list[int] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        """Nothing of it can be running."""
        return self.state is ResourceState.OFFLINE or (self.state is ResourceState.FAILED and not self.dirty)

    def begin_online(self, epoch: int) -> None:
        """The monitor is being told to bring it online."""
        assert self.state is ResourceState.OFFLINE, self.state
        self.epoch = epoch
        self.state, self.detail = ResourceState.ONLINE_PENDING, ""

    def begin_offline(self, epoch: int) -> None:
        """The monitor is being told to take it offline."""
        assert self.state is ResourceState.ONLINE, self.state
        self.epoch = epoch
        self.state, self.detail = ResourceState.OFFLINE_PENDING, ""

    def begin_terminate(self, epoch: int) -> None:
        """The monitor is being told to terminate it; a FAILED resource stays FAILED while that runs."""
        self.epoch = epoch
        self.terminating, self.terminate_again_ms = True, None
        if self.state is not ResourceState.FAILED:
            self.state = ResourceState.OFFLINE_PENDING

    def take_report(self, report: ResourceReported, resource: Resource, now_ms: int) -> None:
        """Take in a report of the monitor."""
        if report.epoch != self.epoch:
            return
        match report.state:
            case ResourceState.ONLINE if self.state is ResourceState.ONLINE_PENDING:
                self.state, self.detail = ResourceState.ONLINE, report.detail
            case ResourceState.ONLINE_PENDING if self.state is ResourceState.ONLINE_PENDING:
                self.detail = report.detail
            case ResourceState.OFFLINE:
                self._stopped()
            case ResourceState.FAILED:
                if self.state in (ResourceState.ONLINE, ResourceState.ONLINE_PENDING):
                    self.fail(report.detail, resource, now_ms, terminated=report.terminated)
                elif report.terminated:
                    # It failed while it was being stopped; what matters is that it is gone.
                    self._stopped()
                elif self.terminating or self.state is ResourceState.OFFLINE_PENDING:
                    self.termination_failed(report.detail, now_ms)
            case _:
                pass

    def fail(self, detail: str, resource: Resource, now_ms: int, *, terminated: bool) -> None:
        """The resource has failed: judge it by its restart policy."""
        detail = detail[:DETAIL_LENGTH_MAX]
        self.state, self.detail, self.last_failure = ResourceState.FAILED, detail, detail
        self.dirty = not terminated
        self.terminating = False
        decision = restart_policy.decide(
            action=resource.restart_action,
            threshold=resource.restart_threshold,
            period_ms=resource.restart_period_ms,
            restarts_ms=self.restarts_ms,
            now_ms=now_ms,
        )
        self.untold.append(Failure(detail=detail, because=decision.because, at_ms=now_ms))
        if decision.verdict is Verdict.RESTART:
            self.restarts_ms = [t for t in self.restarts_ms if now_ms - t < resource.restart_period_ms] + [now_ms]
        else:
            self.stays_failed = True
            self.detail = f"{detail} ({decision.because})" if detail else decision.because
            if resource.retry_period_on_failure_ms is not None:
                self.retry_at_ms = now_ms + resource.retry_period_on_failure_ms
            if decision.verdict is Verdict.FAIL_OVER:
                self.wants_failover = f"{resource.name} failed: {detail or 'no detail'}; {decision.because}"
        if not self.dirty:
            self._after_failure()

    def termination_failed(self, detail: str, now_ms: int) -> None:
        """Something of it is left although it was to be stopped; it counts as running, and is terminated again."""
        detail = detail[:DETAIL_LENGTH_MAX]
        if detail != self.detail:
            because = (
                f"it is terminated again every {TERMINATE_AGAIN_MS // 1000} s, and its group stays until it is gone"
            )
            self.untold.append(Failure(detail=detail, because=because, at_ms=now_ms))
        self.state, self.detail, self.dirty = ResourceState.FAILED, detail, True
        self.terminating, self.terminate_again_ms = False, now_ms + TERMINATE_AGAIN_MS

    def try_again(self) -> None:
        """Forget the verdict; used when an administrator brings it online, and when a retry period ends."""
        self.restarts_ms.clear()
        self.retry_at_ms = None
        self.wants_failover = ""
        if self.stays_failed:
            self.stays_failed = False
            if self.state is ResourceState.FAILED and not self.dirty:
                self.state, self.detail = ResourceState.OFFLINE, ""

    def _stopped(self) -> None:
        self.dirty = self.terminating = False
        self.terminate_again_ms = None
        if self.state is ResourceState.FAILED:
            self._after_failure()
        else:
            self.state, self.detail = ResourceState.OFFLINE, ""

    def _after_failure(self) -> None:
        if not self.stays_failed:
            self.state, self.detail = ResourceState.OFFLINE, ""

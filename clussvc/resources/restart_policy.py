"""What follows when a resource has failed: restart here, give up here, or ask for failover.

The rule of MSCS: a resource may be restarted RestartThreshold times within RestartPeriod on one node; with a threshold
of 3 the first three failures lead to a restart and the fourth, if it comes within the period of the first, escalates.
RestartAction 0 never restarts; 1 restarts but leaves the group alone when the threshold is passed; 2 asks for failover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique

DO_NOT_RESTART = 0
RESTART_ONLY = 1
RESTART_AND_FAIL_OVER = 2


@unique
class Verdict(Enum):
    """What to do with a failed resource."""

    RESTART = "restart"
    STAY_FAILED = "stay failed"
    FAIL_OVER = "fail over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict with its reason."""

    verdict: Verdict
    because: str


def decide(*, action: int, threshold: int, period_ms: int, restarts_ms: Sequence[int], now_ms: int) -> Decision:
    """Decide after a failure at ``now_ms``; ``restarts_ms`` are the times of earlier restarts on this node."""
    if action == DO_NOT_RESTART:
        return Decision(verdict=Verdict.STAY_FAILED, because="its RestartAction is 0, do not restart")
    recent = count_recent(restarts_ms, period_ms=period_ms, now_ms=now_ms)
    window = f"{recent} of {threshold} restarts used in the last {_duration(period_ms)}"
    if recent < threshold:
        return Decision(verdict=Verdict.RESTART, because=f"{window}, so it is restarted in place")
    if action == RESTART_AND_FAIL_OVER:
        return Decision(verdict=Verdict.FAIL_OVER, because=f"{window}, so its group should fail over")
    return Decision(verdict=Verdict.STAY_FAILED, because=f"{window}, and its RestartAction is 1, so the group stays")


def count_recent(times_ms: Sequence[int], *, period_ms: int, now_ms: int) -> int:
    """How many of these moments lie within the sliding window that ends now."""
    return sum(1 for time_ms in times_ms if now_ms - time_ms < period_ms)


def _duration(period_ms: int) -> str:
    seconds = period_ms / 1000
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"

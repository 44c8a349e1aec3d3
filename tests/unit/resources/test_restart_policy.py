"""Restart, give up, or fail over."""

from __future__ import annotations

import pytest

from clussvc.resources.restart_policy import Verdict, decide

MINUTE_MS = 60_000


@pytest.mark.parametrize(
    ("action", "threshold", "restarts", "verdict"),
    [
        (0, 3, 0, Verdict.STAY_FAILED),
        (2, 3, 0, Verdict.RESTART),
        (2, 3, 2, Verdict.RESTART),
        (2, 3, 3, Verdict.FAIL_OVER),
        (1, 3, 3, Verdict.STAY_FAILED),
        (2, 0, 0, Verdict.FAIL_OVER),
        (1, 0, 0, Verdict.STAY_FAILED),
    ],
)
def test_verdicts(action: int, threshold: int, restarts: int, verdict: Verdict) -> None:
    """A threshold of three tolerates three restarts; the fourth failure within the period escalates."""
    times = [10 * MINUTE_MS] * restarts
    decision = decide(
        action=action, threshold=threshold, period_ms=15 * MINUTE_MS, restarts_ms=times, now_ms=11 * MINUTE_MS
    )

    assert decision.verdict is verdict
    assert decision.because


def test_old_restarts_do_not_count() -> None:
    """The window slides: what happened longer ago than the period is forgotten."""
    decision = decide(
        action=2,
        threshold=3,
        period_ms=15 * MINUTE_MS,
        restarts_ms=[0, MINUTE_MS, 2 * MINUTE_MS],
        now_ms=15 * MINUTE_MS,
    )

    assert decision.verdict is Verdict.RESTART

"""The books on resource monitors: when the next one is started after a death."""

from __future__ import annotations

from clussvc.model.monitoring import EverythingTerminated
from clussvc.resources.monitors import GOOD_LIFE_MS, RESTART_PAUSE_MS, RESTARTS_AT_ONCE_MAX, MonitorPool


def live_and_die(pool: MonitorPool, now_ms: int, life_ms: int) -> int:
    """A monitor starts, is clean, and dies after so long; how long its successor waits for its start."""
    pool.due_to_start(now_ms)
    monitor = pool.began("", now_ms)
    assert monitor.owes is not None
    pool.answered("", EverythingTerminated(ticket=monitor.owes), now_ms)
    pool.died("", "signal 9", now_ms + life_ms)
    assert monitor.start_at_ms is not None
    return monitor.start_at_ms - now_ms - life_ms


def test_a_monitor_that_cannot_live_is_started_ever_more_slowly() -> None:
    """At once at first, then with a pause."""
    pool = MonitorPool()
    pool.want("", 0)
    pauses_ms = [live_and_die(pool, 0, 10) for _ in range(RESTARTS_AT_ONCE_MAX + 2)]

    assert pauses_ms == [0] * RESTARTS_AT_ONCE_MAX + [RESTART_PAUSE_MS] * 2


def test_a_long_life_forgets_the_deaths_before() -> None:
    """Bad days of long ago do not slow down what follows a single death."""
    pool = MonitorPool()
    pool.want("", 0)
    for _ in range(RESTARTS_AT_ONCE_MAX + 1):
        live_and_die(pool, 0, 10)

    assert live_and_die(pool, 0, GOOD_LIFE_MS - 1) == RESTART_PAUSE_MS
    assert live_and_die(pool, 0, GOOD_LIFE_MS) == 0
    assert [live_and_die(pool, 0, 10) for _ in range(RESTARTS_AT_ONCE_MAX)][-1] == RESTART_PAUSE_MS

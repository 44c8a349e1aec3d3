"""Counting failovers, and the arithmetic of failback windows."""

from __future__ import annotations

import pytest

from clussvc.groups.failover_policy import (
    HOUR_MS,
    MINUTE_MS,
    failback,
    failovers_in_period,
    local_hour,
    may_fail_over,
    next_opening_ms,
)
from clussvc.groups.placement import Hosting
from clussvc.model.config import Config, Move, failback_window_open
from clussvc.model.states import MoveCause
from tests.unit.groups.samples import N1, N2, NOW_MS, SQL, cluster, group, node, resource


@pytest.mark.parametrize(
    ("ago_ms", "counted"),
    [((), 0), ((0,), 1), ((6 * HOUR_MS - 1,), 1), ((6 * HOUR_MS,), 0), ((7 * HOUR_MS, HOUR_MS, 1), 2)],
)
def test_the_period_slides(ago_ms: tuple[int, ...], counted: int) -> None:
    """A failover counts for one period, to the millisecond."""
    sql = group("SQL", 1, failover_period_h=6, failovers=tuple(NOW_MS - each for each in ago_ms))

    assert counted == failovers_in_period(sql, NOW_MS)


@pytest.mark.parametrize(("threshold", "allowed"), [(0, False), (1, False), (2, False), (3, True)])
def test_the_threshold(threshold: int, allowed: bool) -> None:
    """So many failovers are allowed within a period; two were used."""
    ruling = may_fail_over(group("SQL", 1, failover_threshold=threshold, failovers=(NOW_MS - 1, NOW_MS)), NOW_MS)

    assert allowed == ruling.allowed
    assert f"2 of {threshold} failovers used in the last 6 h" == ruling.because


@pytest.mark.parametrize(("offset_min", "hour"), [(0, 12), (60, 13), (-60, 11), (330, 17), (-765, 23), (12 * 60, 0)])
def test_local_hour(offset_min: int, hour: int) -> None:
    """Noon in Greenwich is another hour elsewhere, perhaps of another day."""
    assert hour == local_hour(Config(cluster=cluster().cluster, name="C", utc_offset_min=offset_min), NOW_MS)


@pytest.mark.parametrize("offset_min", [0, 60, 330, -765])
@pytest.mark.parametrize("start_h", [0, 11, 12, 13, 23])
@pytest.mark.parametrize("late_ms", [0, 1, 59 * MINUTE_MS])
def test_next_opening(offset_min: int, start_h: int, late_ms: int) -> None:
    """It lies in the future, within a day, and the window has just opened then."""
    config = Config(cluster=cluster().cluster, name="C", utc_offset_min=offset_min)
    sql = group("SQL", 2, failback_window_start_h=start_h, failback_window_end_h=(start_h + 2) % 24)
    now_ms = NOW_MS + late_ms

    at_ms = next_opening_ms(config, sql, now_ms)

    assert now_ms < at_ms <= now_ms + 24 * HOUR_MS
    assert failback_window_open(sql, local_hour(config, at_ms))
    assert not failback_window_open(sql, local_hour(config, at_ms - 1))


def home(config: Config) -> str | None:
    """Where the group would fail back to."""
    found = failback(
        config,
        config.groups[SQL],
        resources=list(config.resources_of(SQL)),
        hosting=Hosting.of(config),
        now_ms=NOW_MS,
    )
    return config.node_name(found.node) if found is not None else None


def test_it_goes_home() -> None:
    """All conditions are met; each of the next tests takes one away."""
    assert home(cluster(group("SQL", 2, 1, 2, auto_failback=True, homecoming=True))) == "NODE1"


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_failback": False},
        {"preferred_owners": ()},
        {"preferred_owners": (N2, N1)},
        {"homecoming": False},
        {"moved_by_hand": True},
        {"halted": True},
        {"released": True},
        {"move": Move(to=None, cause=MoveCause.ADMIN, because="a test")},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_it_stays(fields: dict[str, object]) -> None:
    """One condition is missing."""
    sql = {"preferred_owners": (N1, N2), "auto_failback": True, "homecoming": True, **fields}

    assert home(cluster(group("SQL", 2, **sql))) is None


@pytest.mark.parametrize("fields", [{"up": False}, {"paused": True}, {"stopping": True}])
def test_it_stays_while_the_better_node_takes_nothing(fields: dict[str, bool]) -> None:
    """The better node must be a candidate."""
    assert home(cluster(node(1, **fields), node(2), group("SQL", 2, 1, auto_failback=True, homecoming=True))) is None


def test_it_stays_if_the_better_node_may_not_own_it() -> None:
    """A preferred owner need not be a possible one."""
    sql = group("SQL", 2, 1, auto_failback=True, homecoming=True)

    assert home(cluster(sql, resource("APP", "SQL", 2, 3))) is None

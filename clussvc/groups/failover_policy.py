"""How often a group may fail over, and when it goes home.

FailoverThreshold failovers are allowed within FailoverPeriod hours; a group that fails more often stays where it is and
is kept offline, since it would only wander. Failback needs AutoFailbackType=1 and preferred owners: a group returns to
a node that ranks higher in its list than the present owner, when such a node joins or ends its pause, at once or within
the window of hours; never while it has failed, is moving, or was put where it is by an administrator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clussvc.groups.networks import cut_off
from clussvc.groups.placement import Hosting, obstacle
from clussvc.model.config import Config, Group, Resource, failback_window_open
from clussvc.model.ids import NodeId
from clussvc.model.states import ResourceState

HOUR_MS = 3_600_000
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """Yes or no, with the reason in words."""

    allowed: bool
    because: str


def failovers_in_period(group: Group, now_ms: int) -> int:
    """Failovers within the period that ends now (wall clock)."""
    since_ms = now_ms - group.failover_period_h * HOUR_MS
    return sum(1 for at_ms in group.failovers if at_ms > since_ms)


def may_fail_over(group: Group, now_ms: int) -> Ruling:
    """Whether one more failover is within the threshold."""
    used = failovers_in_period(group, now_ms)
    counted = f"{used} of {group.failover_threshold} failovers used in the last {group.failover_period_h} h"
    return Ruling(allowed=used < group.failover_threshold, because=counted)


def local_hour(config: Config, now_ms: int) -> int:
    """The hour of the day in the cluster's time, 0-23."""
    return (now_ms + config.utc_offset_min * MINUTE_MS) // HOUR_MS % 24


def next_opening_ms(config: Config, group: Group, now_ms: int) -> int:
    """The wall clock when the group's failback window opens next; windows begin on the hour."""
    this_hour_ms = now_ms - (now_ms + config.utc_offset_min * MINUTE_MS) % HOUR_MS
    for hours in range(1, 25):
        at_ms = this_hour_ms + hours * HOUR_MS
        if local_hour(config, at_ms) == group.failback_window_start_h:
            return at_ms
    raise AssertionError(group.failback_window_start_h)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failback:
    """A better node for a group: to go there now, or at ``opens_ms`` when the window opens."""

    node: NodeId
    because: str
    opens_ms: int | None = None


def failback(
    config: Config, group: Group, *, resources: Iterable[Resource], hosting: Hosting, now_ms: int
) -> Failback | None:
    """Where the group should fail back to; None if it is to stay."""
    if not group.auto_failback or not group.preferred_owners or group.owned is None:
        return None
    if not group.homecoming or group.moved_by_hand:
        return None
    if group.move is not None or group.failover is not None or group.halted:
        return None
    needed = list(resources)
    if any(resource.state is ResourceState.FAILED for resource in needed):
        return None
    higher = group.preferred_owners
    if group.owned in higher:
        higher = higher[: higher.index(group.owned)]
    away = cut_off(config, needed)
    for node in higher:
        if (
            node in away
            or obstacle(config, group, node, resources=needed, hosting=hosting) is not None
            or hosting.repelled_by(group, node) is not None
        ):
            continue
        better = f"{config.node_name(node)} can take it again and is preferred to {config.node_name(group.owned)}"
        if failback_window_open(group, local_hour(config, now_ms)):
            return Failback(node=node, because=f"failback: {better}")
        return Failback(
            node=node,
            because=f"{better}, but failback waits until {group.failback_window_start_h:02}:00",
            opens_ms=next_opening_ms(config, group, now_ms),
        )
    return None

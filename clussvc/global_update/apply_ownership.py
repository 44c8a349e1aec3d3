"""Who owns a group: moves, releases, assignments and failovers (rule R1).

A group is assigned only when it is released, and every assignment raises its epoch, so at any index of the log at most
one node owns it. Everything here that was decided elsewhere carries the epoch on which it was decided.
"""

from __future__ import annotations

from dataclasses import replace

from clussvc.global_update.eligibility import why_not
from clussvc.global_update.outcome import Done, Result, all_offline, find_group, find_resource, note, with_groups
from clussvc.global_update.refusals import instance_wanted
from clussvc.global_update.update import AssignGroup, DenyFailover, GroupReleased, MoveGroup, RequestFailover
from clussvc.model.config import Config, FailoverRequest, Group, Move
from clussvc.model.ids import NodeId
from clussvc.model.reports import Report, Severity, group_is_moving, stale
from clussvc.model.settings import FAILOVER_HISTORY_MAX
from clussvc.model.states import MoveCause


def wish_to_move(
    group: Group, to: NodeId | None, cause: MoveCause, because: str, *, bring_online: bool = False
) -> Group:
    """The group with a move decided; its owner lets go, or nobody owns it and the wish is for the next owner."""
    return replace(
        group,
        move=Move(to=to, cause=cause, because=because, bring_online=bring_online),
        failover=None,
        moved_by_hand=cause is MoveCause.ADMIN,
    )


def move_group(config: Config, update: MoveGroup, at_ms: int) -> Result:
    """Decide a change of owner; the owner stops everything and releases the group."""
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    if update.epoch is not None and update.epoch != group.epoch:
        return stale(f"group {group.name!r} has epoch {group.epoch}, not {update.epoch}")
    if group.parallel:
        return instance_wanted("group", group.name, _whereabouts(config, group))
    if update.to is not None:
        bad = why_not(config, group, update.to, although_paused=update.to == group.owned)
        if bad is not None:
            return bad
    if group.owned is None and update.cause is not MoveCause.ADMIN:
        return stale(f"group {group.name!r} has no owner, so it is assigned, not moved")
    if group.owned is not None and group.move is not None:
        return group_is_moving(group.name, f" to {config.node_name(group.move.to)}" if group.move.to else "")
    if update.to is not None and update.to == group.owned:
        return Done(config=config)
    moving = wish_to_move(group, update.to, update.cause, update.because)
    if update.cause in (MoveCause.RESOURCE_FAILURE, MoveCause.NETWORK_FAILURE):
        moving = _count_failover(moving, update.at_ms or at_ms)
    target = config.node_name(update.to) if update.to is not None else "the best possible node"
    message = f"Group {group.name} is to move from {config.node_name(group.owned)} to {target}: {update.because}."
    return Done(
        config=with_groups(config, [moving]),
        records=note(
            "group.moving",
            message,
            kind="group",
            thing=group.name,
            because=update.because,
            node=config.node_name(group.owned) if group.owned is not None else "",
        ),
    )


def _whereabouts(config: Config, group: Group) -> list[str]:
    return [f"{each.name} on {config.node_name(each.owned)}" for each in config.instances_of(group.id)]


def _count_failover(group: Group, at_ms: int) -> Group:
    return replace(group, failovers=(*group.failovers, at_ms)[-FAILOVER_HISTORY_MAX:])


def assign_group(config: Config, update: AssignGroup, at_ms: int) -> Result:
    """Make a node the owner under the next epoch: only of a released group, only a node that may own it now."""
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    if not group.released:
        return stale(f"group {group.name!r} is owned by {config.node_name(group.owner)}")
    if update.epoch != group.epoch:
        return stale(f"group {group.name!r} has epoch {group.epoch}, not {update.epoch}")
    if group.parallel or config.instances_of(group.id):
        return stale(f"group {group.name!r} runs in instances, and nobody owns it itself")
    bad = why_not(config, group, update.to, although_paused=update.to == group.owner)
    if bad is not None:
        return bad
    by_hand = group.move is not None and group.move.cause is MoveCause.ADMIN
    assigned = replace(
        group,
        owner=update.to,
        epoch=group.epoch + 1,
        released=False,
        released_because="",
        move=None,
        failover=None,
        placed_because=update.because,
        homecoming=False,
        moved_by_hand=group.moved_by_hand and (by_hand or update.to == group.owner),
    )
    if update.counts_as_failover:
        assigned = _count_failover(assigned, update.at_ms or at_ms)
    new = config.node_name(update.to)
    if group.owner is None or group.owner == update.to:
        name, event_id = "group.placed", 0
        message = f"Group {group.name} is now on {new}: {update.because}."
    else:
        name, event_id = "group.moved", 1641
        message = f"Group {group.name} moved from {config.node_name(group.owner)} to {new}: {update.because}."
    return Done(
        config=all_offline(with_groups(config, [assigned]), [group.id]),
        records=note(
            name, message, kind="group", thing=group.name, because=update.because, event_id=event_id, node=new
        ),
    )


def group_released(config: Config, update: GroupReleased) -> Result:
    """Believe the owner that nothing of the group runs. The decided move stays, for whoever chooses the next owner."""
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    if group.owned != update.node or group.epoch != update.epoch:
        return stale(f"{config.node_name(update.node)} does not own group {group.name!r} under epoch {update.epoch}")
    stopping = config.nodes[update.node].stopping
    unplanned = MoveCause.NODE_STOPPING if stopping else MoveCause.OWNERS_CHANGED
    released = replace(
        group,
        released=True,
        released_because=update.because,
        released_cause=group.move.cause if group.move is not None else unplanned,
        failover=None,
    )
    name = config.node_name(update.node)
    return Done(
        config=all_offline(with_groups(config, [released]), [group.id]),
        records=note(
            "group.released",
            f"{name} let group {group.name} go: {update.because}.",
            kind="group",
            thing=group.name,
            because=update.because,
            node=name,
        ),
    )


def request_failover(config: Config, update: RequestFailover, at_ms: int) -> Result:
    """Remember the owner's wish until the coordinator answers it with a move or a denial."""
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    if group.released or group.epoch != update.epoch or resource.group != group.id:
        return stale(f"group {group.name!r} is not owned under epoch {update.epoch} any more")
    if group.move is not None:
        return stale(f"group {group.name!r} is moving already")
    wish = FailoverRequest(resource=resource.id, because=update.because, at_ms=update.at_ms or at_ms)
    owner = config.node_name(group.owner)
    return Done(
        config=with_groups(config, [replace(group, failover=wish)]),
        records=note(
            "group.failover_wanted",
            f"Group {group.name} should leave {owner}: resource {resource.name}: {update.because}.",
            kind="group",
            thing=group.name,
            because=update.because,
            severity=Severity.WARNING,
            node=owner,
        ),
    )


def deny_failover(config: Config, update: DenyFailover) -> Result:
    """The group stays; ``halt`` keeps it offline altogether until somebody brings it online."""
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    if group.released or group.epoch != update.epoch or group.failover is None:
        return stale(f"nobody waits for a failover of group {group.name!r} under epoch {update.epoch}")
    owner = config.node_name(group.owner)
    kept = " and is kept offline" if update.halt else ""
    return Done(
        config=with_groups(config, [replace(group, failover=None, halted=group.halted or update.halt)]),
        records=note(
            "group.failover_denied",
            f"Group {group.name} stays on {owner}{kept}: {update.because}.",
            kind="group",
            thing=group.name,
            because=update.because,
            event_id=1254 if update.halt else 0,
            severity=Severity.ERROR,
            node=owner,
        ),
    )

"""The planner: a configuration in, the next decisions about groups out. Pure; specified by the planner's scenarios.

It looks at every group once and answers five questions: who gets a group that is released, what becomes of a wish for
failover, which group has lost its clients, which group goes home, and what could not be done and why. Every decision
carries its reason in words, which travels through the log into the event history. After its decisions have been
applied, planning again yields nothing new. A parallel group is not planned itself: its instances are, like all other
groups, but never two of them on one node (docs/decisions/0019).

```
  released            -> AssignGroup, or blocked: nobody can take it
  failover wished     -> MoveGroup, or DenyFailover (too often: halted; nobody else: it stays)
  network failed      -> MoveGroup, if it works on another node and the threshold allows it
  better node is back -> MoveGroup, now or when the failback window opens
```
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from clussvc.global_update.update import AssignGroup, DenyFailover, MoveGroup
from clussvc.groups.failover_policy import failback, may_fail_over
from clussvc.groups.networks import cut_off, doubtful
from clussvc.groups.placement import Choice, Hosting, choose_target, obstacle
from clussvc.model.config import Config, Group, Move, Resource
from clussvc.model.ids import GroupId, NodeId
from clussvc.model.states import MoveCause

PlannedUpdate = AssignGroup | MoveGroup | DenyFailover


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A group that nobody can take now."""

    group: GroupId
    because: str
    rejected: tuple[tuple[NodeId, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The decisions, in the order in which they were taken."""

    updates: tuple[PlannedUpdate, ...]
    blocked: tuple[Blocked, ...] = ()
    next_ms: int | None = None
    """When to plan again although nothing has changed (wall clock): the next failback window."""


@dataclass(slots=True)
class _Draft:
    config: Config
    now_ms: int
    resources: dict[GroupId, list[Resource]]
    hosting: Hosting
    updates: list[PlannedUpdate] = field(default_factory=list)
    blocked: list[Blocked] = field(default_factory=list)
    next_ms: int | None = None


def plan(config: Config, *, now_ms: int, busy: frozenset[GroupId] = frozenset()) -> Plan:
    """Decide about every group except those in ``busy``; ``now_ms`` is the wall clock."""
    draft = _Draft(config=config, now_ms=now_ms, resources=config.resources_by_group(), hosting=Hosting.of(config))
    groups = [group for group in config.groups.values() if group.id not in busy and _planned(config, group)]
    # Groups without an owner come first: their place decides where others may fail over to. Of the instances of a
    # parallel group those that can go back where they were come before those that look for a place.
    released = [group for group in groups if group.released]
    for group in sorted(released, key=lambda each: each.instance_of is not None and not _may_return(draft, each)):
        _assign(draft, group)
    for group in groups:
        if not group.released and group.failover is not None and group.move is None:
            _answer_failover(draft, group)
        elif not group.released and not _leaves_failed_network(draft, group):
            _consider_failback(draft, group)
    return Plan(updates=tuple(draft.updates), blocked=tuple(draft.blocked), next_ms=draft.next_ms)


def _planned(config: Config, group: Group) -> bool:
    """A parallel group is owned by nobody, nor is a former one as long as instances of it are left."""
    return not group.parallel and not (group.released and config.instances_of(group.id))


def _assign(draft: _Draft, group: Group) -> None:
    choice = _wished(draft, group) or _in_place(draft, group) or _anew(draft, group)
    if choice.node is None:
        draft.blocked.append(Blocked(group=group.id, because=choice.because, rejected=choice.rejected))
        return
    draft.hosting.put(group, choice.node)
    draft.updates.append(
        AssignGroup(
            group=group.id,
            epoch=group.epoch,
            to=choice.node,
            because=choice.because,
            at_ms=draft.now_ms,
            # A decided move was counted when it was decided, if it was for a failure; others are no failovers.
            counts_as_failover=group.released_cause is MoveCause.NODE_DOWN
            and group.move is None
            and group.owner not in (None, choice.node),
        )
    )


def _wished(draft: _Draft, group: Group) -> Choice | None:
    """The target that was decided when the move was, if it can still take the group, and has the networks for it."""
    move = group.move
    if move is None or move.to is None or _obstacle(draft, group, move.to) is not None:
        return None
    if move.to in cut_off(draft.config, draft.resources[group.id]):
        return None
    return Choice(node=move.to, because=move.because)


def _in_place(draft: _Draft, group: Group) -> Choice | None:
    """Back to the node that had it, when nothing but that node's absence took it away: least is moved."""
    sent_away = group.move is not None and group.move.cause not in (MoveCause.NODE_STOPPING, MoveCause.FAILBACK)
    if sent_away or not _may_return(draft, group):
        return None
    assert group.owner is not None
    if group.owner in cut_off(draft.config, draft.resources[group.id]):
        # The rules of placement may find a better one, or come back to this.
        return None
    name = draft.config.node_name(group.owner)
    because = f"{name} had it before and can take it again"
    if group.move is not None and group.move.cause is MoveCause.FAILBACK and group.move.to is not None:
        because = f"{_lost_target(draft, group, group.move)}; it returns to {name}"
    return Choice(node=group.owner, because=because)


def _may_return(draft: _Draft, group: Group) -> bool:
    """Whether the last owner could have it again; a pause does not matter, since it keeps what it had."""
    owner = group.owner
    return owner is not None and _obstacle(draft, group, owner, although_paused=True) is None


def _obstacle(draft: _Draft, group: Group, node: NodeId, *, although_paused: bool = False) -> str | None:
    return obstacle(
        draft.config,
        group,
        node,
        resources=draft.resources[group.id],
        hosting=draft.hosting,
        although_paused=although_paused,
    )


def _anew(draft: _Draft, group: Group) -> Choice:
    """Choose by the rules of placement. A group that was sent away goes elsewhere if any other node can take it."""
    sent = group.move is not None and group.owner is not None
    why = _why(draft, group)
    draft.hosting.remove(group)
    choice = choose_target(
        draft.config,
        group,
        group.move.cause if group.move is not None else group.released_cause,
        resources=draft.resources[group.id],
        hosting=draft.hosting,
        exclude=frozenset((group.owner,)) if sent and group.owner is not None else frozenset(),
    )
    away = cut_off(draft.config, draft.resources[group.id])
    worse = sent and choice.node in away and group.owner not in away
    if choice.node is not None and not (worse and _may_return(draft, group)):
        return replace(choice, because=f"{why}; {choice.because}")
    if _may_return(draft, group):
        # Better back where it was than nowhere, or where its clients do not reach it.
        name = draft.config.node_name(group.owner)
        return replace(choice, node=group.owner, because=f"{why}; {choice.because}; it returns to {name}")
    return choice


def _why(draft: _Draft, group: Group) -> str:
    """Why the group needs an owner. What is told elsewhere at length, such as a node's death, is only named."""
    if group.move is not None and group.move.to is not None:
        return _lost_target(draft, group, group.move)
    owner = draft.config.nodes.get(group.owner) if group.owner is not None else None
    if owner is not None and not owner.up and group.released_cause is MoveCause.NODE_STOPPING:
        return f"{owner.name} was stopped"
    if group.move is not None:
        return group.move.because
    if owner is not None and not owner.up:
        return f"{owner.name} went down"
    return group.released_because or group.released_cause.value


def _lost_target(draft: _Draft, group: Group, move: Move) -> str:
    assert move.to is not None
    resources = draft.resources[group.id]
    reason = _obstacle(draft, group, move.to) or cut_off(draft.config, resources).get(move.to)
    return f"{move.because}, but {reason}" if reason else move.because


def _answer_failover(draft: _Draft, group: Group) -> None:
    wish = group.failover
    assert wish is not None
    failed = draft.config.resources.get(wish.resource)
    if failed is None or failed.group != group.id or not failed.persistent_state:
        _deny(draft, group, f"{wish.because}; but it is not wanted online any more", halt=False)
        return
    ruling = may_fail_over(group, draft.now_ms)
    if not ruling.allowed:
        _deny(draft, group, f"{wish.because}; but {ruling.because}", halt=True)
        return
    choice = choose_target(
        draft.config,
        group,
        MoveCause.RESOURCE_FAILURE,
        resources=draft.resources[group.id],
        hosting=draft.hosting,
        exclude=frozenset((group.owner,)) if group.owner is not None else frozenset(),
    )
    if choice.node is None:
        _deny(draft, group, f"{wish.because}; but {choice.because}", halt=False)
        return
    _move(draft, group, choice.node, MoveCause.RESOURCE_FAILURE, f"{wish.because}; {choice.because}", wish.at_ms)


def _deny(draft: _Draft, group: Group, because: str, *, halt: bool) -> None:
    draft.updates.append(DenyFailover(group=group.id, epoch=group.epoch, because=because, halt=halt))


def _move(draft: _Draft, group: Group, to: NodeId, cause: MoveCause, because: str, at_ms: int) -> None:
    draft.hosting.put(group, to)
    draft.updates.append(MoveGroup(group=group.id, to=to, cause=cause, because=because, epoch=group.epoch, at_ms=at_ms))


def _leaves_failed_network(draft: _Draft, group: Group) -> bool:
    """Whether a client network that the group needs has failed on its owner, and it goes where that works.

    Only what is wanted online needs its clients. A group that could only go where the network is doubtful stays: it
    would gain nothing, and the others may know no better.
    """
    if group.move is not None or group.halted:
        return False
    wanted = [resource for resource in draft.resources[group.id] if resource.persistent_state]
    lost = cut_off(draft.config, wanted)
    if group.owner not in lost or not may_fail_over(group, draft.now_ms).allowed:
        return False
    choice = choose_target(
        draft.config,
        group,
        MoveCause.NETWORK_FAILURE,
        resources=draft.resources[group.id],
        hosting=draft.hosting,
        exclude=doubtful(draft.config, wanted) | {group.owner},
    )
    if choice.node is None:
        return False
    because = f"{lost[group.owner]}; {choice.because}"
    _move(draft, group, choice.node, MoveCause.NETWORK_FAILURE, because, draft.now_ms)
    return True


def _consider_failback(draft: _Draft, group: Group) -> None:
    found = failback(
        draft.config, group, resources=draft.resources[group.id], hosting=draft.hosting, now_ms=draft.now_ms
    )
    if found is None:
        return
    if found.opens_ms is not None:
        draft.next_ms = min(draft.next_ms or found.opens_ms, found.opens_ms)
        return
    _move(draft, group, found.node, MoveCause.FAILBACK, found.because, draft.now_ms)

"""The planner: a configuration in, the next decisions about groups out. Pure; specified by the planner's scenarios.

It looks at every group once and answers four questions: who gets a group that is released, what becomes of a wish for
failover, which group goes home, and what could not be done and why. Every decision carries its reason in words, which
travels through the log into the event history. After its decisions have been applied, planning again yields nothing
new.

```
  released            -> AssignGroup, or blocked: nobody can take it
  failover wished     -> MoveGroup, or DenyFailover (too often: halted; nobody else: it stays)
  better node is back -> MoveGroup, now or when the failback window opens
```
"""

from __future__ import annotations

from dataclasses import dataclass, field

from clussvc.global_update.update import AssignGroup, DenyFailover, MoveGroup
from clussvc.groups.failover_policy import failback, may_fail_over
from clussvc.groups.placement import Choice, Hosting, choose_target, rejection
from clussvc.model.config import Config, Group, Resource
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
    groups = [group for group in config.groups.values() if group.id not in busy]
    # Groups without an owner come first: their place decides where others may fail over to.
    for group in groups:
        if group.released:
            _assign(draft, group)
    for group in groups:
        if not group.released and group.failover is not None and group.move is None:
            _answer_failover(draft, group)
        elif not group.released:
            _consider_failback(draft, group)
    return Plan(updates=tuple(draft.updates), blocked=tuple(draft.blocked), next_ms=draft.next_ms)


def _assign(draft: _Draft, group: Group) -> None:
    config, resources = draft.config, draft.resources[group.id]
    choice = _wished(draft, group, resources) or _in_place(config, group, resources)
    if choice is None:
        cause = group.move.cause if group.move is not None else group.released_cause
        choice = _choose_by_cause(draft, group, resources, cause)
    if choice.node is None:
        draft.blocked.append(Blocked(group=group.id, because=choice.because, rejected=choice.rejected))
        return
    draft.hosting.put(group, choice.node)
    failed_over = group.released_cause is MoveCause.NODE_DOWN and choice.node != group.owner
    draft.updates.append(
        AssignGroup(
            group=group.id,
            epoch=group.epoch,
            to=choice.node,
            because=_sentence(group, choice),
            at_ms=draft.now_ms,
            counts_as_failover=failed_over,
        )
    )


def _wished(draft: _Draft, group: Group, resources: list[Resource]) -> Choice | None:
    """The target that was decided when the move was, if it can still take the group."""
    move = group.move
    if move is None or move.to is None or rejection(draft.config, resources, move.to) is not None:
        return None
    return Choice(node=move.to, because=f"{draft.config.node_name(move.to)} was chosen for the move")


def _in_place(config: Config, group: Group, resources: list[Resource]) -> Choice | None:
    """Back to the node that had it, when that node was only admitted anew: least is moved."""
    owner = config.nodes.get(group.owner) if group.owner is not None else None
    if group.move is not None or owner is None or not owner.up or owner.stopping:
        return None
    paused_only = owner.paused and rejection(config, resources, owner.id) == f"{owner.name} is paused"
    if rejection(config, resources, owner.id) is not None and not paused_only:
        return None
    return Choice(node=owner.id, because=f"{owner.name} had it before and is back")


def _choose_by_cause(draft: _Draft, group: Group, resources: list[Resource], cause: MoveCause) -> Choice:
    leaving = frozenset((group.owner,)) if group.owner is not None and group.move is not None else frozenset()
    draft.hosting.remove(group)
    choice = choose_target(draft.config, group, cause, resources=resources, hosting=draft.hosting, exclude=leaving)
    if choice.node is None and leaving and cause is not MoveCause.NODE_STOPPING:
        # Better back where it was than nowhere.
        choice = choose_target(draft.config, group, cause, resources=resources, hosting=draft.hosting)
    return choice


def _sentence(group: Group, choice: Choice) -> str:
    why = group.move.because if group.move is not None else group.released_because
    return f"{why}; {choice.because}" if why else choice.because


def _answer_failover(draft: _Draft, group: Group) -> None:
    assert group.failover is not None
    wish = group.failover.because
    ruling = may_fail_over(group, draft.now_ms)
    if not ruling.allowed:
        draft.updates.append(
            DenyFailover(
                group=group.id,
                epoch=group.epoch,
                because=f"{wish}; but {ruling.because}, so the group stays and is kept offline",
                halt=True,
            )
        )
        return
    leaving = frozenset((group.owner,)) if group.owner is not None else frozenset()
    draft.hosting.remove(group)
    choice = choose_target(
        draft.config,
        group,
        MoveCause.RESOURCE_FAILURE,
        resources=draft.resources[group.id],
        hosting=draft.hosting,
        exclude=leaving,
    )
    if choice.node is None:
        if group.owner is not None:
            draft.hosting.put(group, group.owner)
        draft.updates.append(
            DenyFailover(
                group=group.id, epoch=group.epoch, because=f"{wish}; but {choice.because}, so it stays", halt=False
            )
        )
        return
    draft.hosting.put(group, choice.node)
    draft.updates.append(
        MoveGroup(
            group=group.id,
            to=choice.node,
            cause=MoveCause.RESOURCE_FAILURE,
            because=f"{wish}; {choice.because}",
            epoch=group.epoch,
            at_ms=group.failover.at_ms,
        )
    )


def _consider_failback(draft: _Draft, group: Group) -> None:
    found = failback(
        draft.config, group, resources=draft.resources[group.id], hosting=draft.hosting, now_ms=draft.now_ms
    )
    if found is None:
        return
    if found.opens_ms is not None:
        draft.next_ms = min(draft.next_ms or found.opens_ms, found.opens_ms)
        return
    draft.hosting.put(group, found.node)
    draft.updates.append(
        MoveGroup(
            group=group.id,
            to=found.node,
            cause=MoveCause.FAILBACK,
            because=found.because,
            epoch=group.epoch,
            at_ms=draft.now_ms,
        )
    )

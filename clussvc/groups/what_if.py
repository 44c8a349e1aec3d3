"""What the cluster would do if something happened: the production planner on a configuration that is only supposed.

The event is applied to a copy of the configuration by the same ``apply`` that every node uses, then the planner and the
owners take turns until nothing is left to decide: a group that is to move is released, a released group is assigned.
Owners are supposed to succeed at everything they do. Nothing is proposed and nobody is asked.

Without a majority of the voters nobody decides anything and every owner stops what it holds; so that is what is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import assert_never

from clussvc.global_update.apply import apply
from clussvc.global_update.instances import copies_of
from clussvc.global_update.update import (
    GroupReleased,
    MoveGroup,
    NodeDown,
    NodeUp,
    PauseNode,
    Proposal,
    RequestFailover,
    ResumeNode,
    Update,
)
from clussvc.groups.failover_policy import failback
from clussvc.groups.placement import Hosting
from clussvc.groups.planner import plan
from clussvc.model.config import Config, Group, Node, Resource
from clussvc.model.ids import GroupId, NodeId, RequestId, ResourceId
from clussvc.model.reports import Report
from clussvc.model.states import MoveCause
from clussvc.quorum.majority import is_majority, needed
from clussvc.resources.restart_policy import Verdict, decide

ROUNDS_MAX = 16
"""Turns of planner and owners. A group needs two for a move; more than these would be a circle, and is told as one."""

_TOLD = frozenset(
    ("node.down", "node.up", "node.paused", "node.resumed", "group.moved", "group.placed", "group.failover_denied")
)
"""Records of ``apply`` that become steps; the others only lead there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDies:
    """The node is switched off; the others declare it down."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePaused:
    """An administrator pauses the node."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResumed:
    """An administrator ends the node's pause."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReturns:
    """A node that is down starts and is admitted."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMoved:
    """An administrator moves the group; ``to`` None: to the best possible node."""

    group: GroupId
    to: NodeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceFails:
    """The resource fails again and again where it is, until its restart policy gives up there."""

    resource: ResourceId


Hypothesis = NodeDies | NodePaused | NodeResumed | NodeReturns | GroupMoved | ResourceFails


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerChange:
    """One group and its owners by name; ``after`` None: nobody would own it."""

    group: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The answer. All texts are sentences for administrators."""

    event: str
    quorum: str
    """Which voters would be left, and what that means."""
    steps: tuple[str, ...] = ()
    """What would happen, in order."""
    changes: tuple[OwnerChange, ...] = ()
    """The groups that would end elsewhere."""
    unchanged: int = 0
    """How many groups would stay where they are."""
    blocked: tuple[str, ...] = ()
    """The groups that nobody could take, and why."""
    later: tuple[str, ...] = ()
    """What would follow when a failback window opens."""


@dataclass(slots=True)
class _Story:
    """The supposed configuration and what led to it."""

    config: Config
    now_ms: int
    steps: list[str] = field(default_factory=list)
    count: int = 0

    def do(self, update: Update) -> Report | None:
        """Apply one update; a refusal is the end of the story."""
        self.count += 1
        proposal = Proposal(
            request=RequestId(f"supposed {self.count}"), proposer=NodeId(0), at_ms=self.now_ms, update=update
        )
        applied = apply(self.config, proposal)
        self.config = applied.config
        self.steps += [record.message for record in applied.records if record.name in _TOLD]
        return applied.refusal


def simulate(config: Config, hypothesis: Hypothesis, *, now_ms: int) -> WhatIf:
    """What would follow; ``now_ms`` is the wall clock, for failover periods and failback windows.

    The objects of the hypothesis must exist. An event that is impossible now is answered with the reason as its only
    step, in the words in which the cluster would refuse it.
    """
    story = _Story(config=config, now_ms=now_ms)
    event = _event(config, hypothesis)
    obstacle = _happen(story, hypothesis)
    if obstacle is not None:
        return WhatIf(event=event, quorum=_quorum(config)[1], steps=(obstacle,), unchanged=_count(config))
    held, quorum = _quorum(story.config)
    if not held:
        return WhatIf(
            event=event,
            quorum=quorum,
            steps=("No node could decide anything; the nodes that are left would stop their groups.",),
            changes=tuple(
                OwnerChange(group=group.name, before=config.node_name(group.owned), after=None)
                for group in config.groups.values()
                if group.owned is not None
            ),
            unchanged=_count(config, ownerless=True),
        )
    _settle(story)
    changes = tuple(_changes(config, story.config))
    final = plan(story.config, now_ms=now_ms)
    return WhatIf(
        event=event,
        quorum=quorum,
        steps=tuple(story.steps),
        changes=changes,
        unchanged=_count(config) - len(changes),
        blocked=tuple(f"{story.config.groups[one.group].name}: {one.because}." for one in final.blocked),
        later=tuple(_later(story.config, now_ms)) if final.next_ms is not None else (),
    )


# --- the event ------------------------------------------------------------------------------------------------------


def _event(config: Config, hypothesis: Hypothesis) -> str:
    match hypothesis:
        case NodeDies():
            return f"Node {config.node_name(hypothesis.node)} dies."
        case NodePaused():
            return f"Node {config.node_name(hypothesis.node)} is paused."
        case NodeResumed():
            return f"The pause of node {config.node_name(hypothesis.node)} ends."
        case NodeReturns():
            return f"Node {config.node_name(hypothesis.node)} starts and joins."
        case GroupMoved():
            name = config.groups[hypothesis.group].name
            to = config.node_name(hypothesis.to) if hypothesis.to is not None else "the best possible node"
            return f"Group {name} is moved to {to}."
        case ResourceFails():
            return f"Resource {config.resources[hypothesis.resource].name} fails again and again."
        case _:
            assert_never(hypothesis)


def _happen(story: _Story, hypothesis: Hypothesis) -> str | None:
    """Let it happen; answers why it cannot, or has no effect."""
    config = story.config
    match hypothesis:
        case NodeDies():
            return _die(story, config.nodes[hypothesis.node])
        case NodePaused():
            node = config.nodes[hypothesis.node]
            if node.paused:
                return f"{node.name} is paused already."
            return _refused(story.do(PauseNode(node=node.id)))
        case NodeResumed():
            return _refused(story.do(ResumeNode(node=hypothesis.node)))
        case NodeReturns():
            return _return(story, config.nodes[hypothesis.node])
        case GroupMoved():
            return _move(story, config.groups[hypothesis.group], hypothesis.to)
        case ResourceFails():
            return _fail(story, config.resources[hypothesis.resource])
        case _:
            assert_never(hypothesis)


def _die(story: _Story, node: Node) -> str | None:
    if not node.up:
        return f"{node.name} is {node.state.value.lower()} already."
    return _refused(
        story.do(
            NodeDown(
                node=node.id,
                incarnation=node.incarnation,
                voters_version=story.config.voters_version,
                because="it was switched off",
            )
        )
    )


def _return(story: _Story, node: Node) -> str | None:
    if node.up:
        return f"{node.name} is {node.state.value.lower()} already."
    return _refused(story.do(NodeUp(node=node.id, incarnation=node.incarnation, boot=node.boot + 1, attempt=1)))


def _move(story: _Story, group: Group, to: NodeId | None) -> str | None:
    if to is not None and to == group.owned and group.move is None:
        return f"{story.config.node_name(to)} owns {group.name} already."
    because = "an administrator moved it"
    return _refused(story.do(MoveGroup(group=group.id, to=to, cause=MoveCause.ADMIN, because=because)))


def _fail(story: _Story, resource: Resource) -> str | None:
    """All restarts that the policy allows are used up within its period, then one more failure."""
    group = story.config.groups[resource.group]
    if group.parallel:
        copies = ", ".join(copy.name for copy in copies_of(story.config, resource))
        return f"{resource.name} runs in instances; name one of them: {copies or 'there is none now'}."
    if group.owned is None:
        return f"Nobody owns group {group.name} now, so nothing of it can fail."
    if not resource.persistent_state:
        return f"{resource.name} is to be offline, so it cannot fail."
    owner = story.config.node_name(group.owned)
    decision = decide(
        action=resource.restart_action,
        threshold=resource.restart_threshold,
        period_ms=resource.restart_period_ms,
        restarts_ms=[story.now_ms] * resource.restart_threshold,
        now_ms=story.now_ms,
    )
    story.steps.append(f"Resource {resource.name} fails on {owner}: {decision.because}.")
    if decision.verdict is not Verdict.FAIL_OVER:
        return None
    return _refused(
        story.do(
            RequestFailover(
                group=group.id,
                epoch=group.epoch,
                resource=resource.id,
                because=f"{resource.name} failed",
                at_ms=story.now_ms,
            )
        )
    )


def _refused(report: Report | None) -> str | None:
    return report.message if report is not None else None


# --- what follows ---------------------------------------------------------------------------------------------------


def _quorum(config: Config) -> tuple[bool, str]:
    """Whether the nodes that are up can act, and the sentence about it."""
    if config.quorum.on_disk:
        up = sum(1 for node in config.nodes.values() if node.up)
        if up:
            return True, f"{up} of {len(config.nodes)} nodes would be up; the cluster goes on with the quorum disk."
        return False, "no node would be up, and every group would stop."
    voters = config.voters
    present = [node for node in config.nodes.values() if node.up and node.id in voters]
    votes = f"{len(present)} of {len(voters)} voters would be up, {needed(len(voters))} are needed"
    if is_majority([node.id for node in present], voters):
        return True, f"{votes}: the cluster goes on."
    if config.witness_open and 2 * len(present) == len(voters) and present:
        return True, f"{votes}: the cluster goes on if the witness is reached, which decides for this half."
    return False, f"{votes}: no node would hold quorum, and every group would stop."


def _settle(story: _Story) -> None:
    """Planner and owners take turns until there is nothing left to decide."""
    for _ in range(ROUNDS_MAX):
        updates: list[Update] = [*_releases(story.config), *plan(story.config, now_ms=story.now_ms).updates]
        if not updates:
            return
        for update in updates:
            story.do(update)
    story.steps.append(f"The groups would not come to rest within {ROUNDS_MAX} moves each.")


def _releases(config: Config) -> Iterator[GroupReleased]:
    """What the owners of groups that are to move would say."""
    for group in config.groups.values():
        if group.owned is not None and group.move is not None:
            yield GroupReleased(group=group.id, epoch=group.epoch, node=group.owned, because=group.move.because)


def _count(config: Config, *, ownerless: bool = False) -> int:
    """The groups that are somewhere, or could be, the instances of parallel groups among them."""
    groups = [group for group in config.groups.values() if not group.parallel]
    return sum(group.owned is None for group in groups) if ownerless else len(groups)


def _changes(before: Config, after: Config) -> Iterator[OwnerChange]:
    """An instance of a parallel group that was on its way out may be gone in the end, and has no owner then."""
    for group in before.groups.values():
        old = group.owned
        new = after.groups[group.id].owned if group.id in after.groups else None
        if old != new:
            yield OwnerChange(
                group=group.name,
                before=before.node_name(old) if old is not None else None,
                after=after.node_name(new) if new is not None else None,
            )


def _later(config: Config, now_ms: int) -> Iterator[str]:
    """The groups that wait for their failback window."""
    resources, hosting = config.resources_by_group(), Hosting.of(config)
    for group in config.groups.values():
        found = failback(config, group, resources=resources[group.id], hosting=hosting, now_ms=now_ms)
        if found is not None and found.opens_ms is not None:
            yield f"{group.name}: {found.because}."

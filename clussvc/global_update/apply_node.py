"""Nodes that come, go, pause and stop (rules R2 and R3).

Whatever a node held is released in the same step in which it is admitted anew or declared down. These are, beside the
owner's own word, the only ways in which a group is ever released.

A node that was lost too often is kept out for a while (quarantine, off by default): its groups would only follow it to
and fro. A loss is every end of an incarnation that was neither a stop nor a first admission.
"""

from __future__ import annotations

from dataclasses import replace

from clussvc.global_update.outcome import Done, Result, all_offline, find_node, note, with_groups, with_node
from clussvc.global_update.update import (
    ClearQuarantine,
    ConfirmNodeDown,
    FencingFailed,
    NodeDown,
    NodeFenced,
    NodeSettled,
    NodeUp,
    PauseNode,
    ResumeNode,
    SetNodeProperties,
    StopNode,
)
from clussvc.model.config import Config, Group, Move, Node
from clussvc.model.ids import GroupId, NodeId
from clussvc.model.properties import common_changes, private_changes
from clussvc.model.records import Record
from clussvc.model.reports import (
    Report,
    Severity,
    node_in_quarantine,
    node_is_down,
    node_not_paused,
    node_not_quarantined,
    stale,
    voters_changed,
)
from clussvc.model.settings import QUARANTINE_THRESHOLD_MAX
from clussvc.model.states import MoveCause


def node_up(config: Config, update: NodeUp, at_ms: int) -> Result:
    """Admit a new incarnation. The node asked only after it had terminated everything, which releases its groups."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if update.incarnation != node.incarnation:
        return stale(f"{node.name} was admitted meanwhile (incarnation {node.incarnation})")
    if (update.boot, update.attempt) <= (node.boot, node.attempt):
        return stale(f"this request of {node.name} was granted already")
    if config.quarantined(node, at_ms):
        return node_in_quarantine(node.name)
    because = update.because or f"{node.name} asked to be admitted"
    if node.up:
        # Its former incarnation ended and nobody has noted that yet.
        lost, _ = _lose(config, node, at_ms)
        if config.quarantined(lost, at_ms):
            return _goes_down(config, node, at_ms, because=f"{because}, which it does too often", stopped=False)
        node = lost
    admitted = replace(
        node,
        losses=() if node.quarantined_until_ms else node.losses,
        quarantined_until_ms=0,
        fence_failure="",
        up=True,
        joining=False,
        stopping=False,
        # A wish to evict was for a node that is down; one that came back first stays until it is wished again.
        evicting=False,
        incarnation=node.incarnation + 1,
        boot=update.boot,
        attempt=update.attempt,
        down_because="",
        # What the former incarnation told of its interfaces is over.
        interfaces=(),
        # A new incarnation has never acted by another quorum than this one.
        unsettled=False,
    )
    released = _release_all(
        with_node(config, admitted), admitted, MoveCause.NODE_DOWN, f"{node.name} was admitted anew and holds nothing"
    )
    released = _call_home(released, admitted)
    message = f"Node {node.name} is up (incarnation {admitted.incarnation})."
    return Done(
        config=released,
        records=note("node.up", message, kind="node", thing=node.name, because=because, event_id=1062, node=node.name),
    )


def _call_home(config: Config, node: Node) -> Config:
    """Note the groups that prefer this node to the one that owns them; whether they go is their failback policy's."""
    called = []
    for group in config.groups.values():
        preferred = group.preferred_owners
        if node.id not in preferred or group.owner == node.id or group.parallel:
            continue
        if group.owner in preferred and preferred.index(node.id) > preferred.index(group.owner):
            continue
        if group.instance_of is None or group is _worst_placed(config, group.instance_of, node.id):
            called.append(replace(group, homecoming=True))
    return with_groups(config, called) if called else config


def _worst_placed(config: Config, pattern: GroupId, node: NodeId) -> Group | None:
    """The instance that a node calls home: the one on the least preferred node, since there is room for one alone. None
    if the node has one already, or one has no node and goes there anyway."""
    instances = config.instances_of(pattern)
    if any(each.owned in (None, node) for each in instances):
        return None

    def rank(each: Group) -> tuple[int, int]:
        preferred = each.preferred_owners
        place = preferred.index(each.owned) if each.owned in preferred else len(preferred)
        return place, each.instance

    return max(instances, key=rank, default=None)


def _lose(config: Config, node: Node, at_ms: int) -> tuple[Node, tuple[Record, ...]]:
    """Count a loss, and begin a quarantine if there were too many lately."""
    if not config.quarantine_threshold:
        return node, ()
    since_ms = at_ms - config.quarantine_period_s * 1_000
    losses = (*(each for each in node.losses if each > since_ms), at_ms)[-QUARANTINE_THRESHOLD_MAX:]
    if len(losses) < config.quarantine_threshold:
        return replace(node, losses=losses), ()
    until_ms = at_ms + config.quarantine_duration_s * 1_000
    message = f"Node {node.name} is kept out for {config.quarantine_duration_s} s (quarantine)."
    record = note(
        "node.quarantined",
        message,
        kind="node",
        thing=node.name,
        because=f"it was lost {len(losses)} times within {config.quarantine_period_s} s",
        event_id=1672,
        severity=Severity.ERROR,
        node=node.name,
    )
    return replace(node, losses=losses, quarantined_until_ms=until_ms), record


def clear_quarantine(config: Config, update: ClearQuarantine) -> Result:
    """Let the node in again at once; its losses are forgotten."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if not node.quarantined_until_ms:
        return node_not_quarantined(node.name)
    return Done(
        config=with_node(config, replace(node, quarantined_until_ms=0, losses=())),
        records=note(
            "node.quarantine-cleared",
            f"The quarantine of node {node.name} was ended.",
            kind="node",
            thing=node.name,
            node=node.name,
        ),
    )


def node_down(config: Config, update: NodeDown, at_ms: int) -> Result:
    """Declare a node down, on a majority's silence or on its own word that it has released everything."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if not node.up or update.incarnation != node.incarnation:
        return stale(f"incarnation {update.incarnation} of {node.name} is not up any more")
    if update.voters_version != config.voters_version and not update.stopped:
        # Its majority was counted on another set, or its silence by other timings.
        return voters_changed()
    return _goes_down(config, node, at_ms, because=update.because, stopped=update.stopped)


def node_fenced(config: Config, update: NodeFenced, at_ms: int) -> Result:
    """Declare a node down because it was switched off while this incarnation was up; nothing to do if that is over.

    A coordinator and an administrator may have the same node fenced, and both have done it.
    """
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if not node.up or update.incarnation != node.incarnation:
        return Done(config=config)
    return _goes_down(config, node, at_ms, because=update.because, stopped=False)


def node_settled(config: Config, update: NodeSettled) -> Result:
    """From now on the owner of the quorum disk judges this node alone, as it does all others."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if not node.up or update.incarnation != node.incarnation or update.settling_version != config.settling_version:
        return stale(f"{node.name} has changed since it said that it acts by the quorum disk alone")
    if not node.unsettled:
        return Done(config=config)
    return Done(config=with_node(config, replace(node, unsettled=False)))


def fencing_failed(config: Config, update: FencingFailed) -> Result:
    """Remember why a node could not be switched off, and tell it once."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if not node.up or update.incarnation != node.incarnation:
        return stale(f"incarnation {update.incarnation} of {node.name} is not up any more")
    if node.fence_failure == update.because:
        return Done(config=config)
    message = f"Node {node.name} could not be fenced: {update.because}."
    return Done(
        config=with_node(config, replace(node, fence_failure=update.because)),
        records=note(
            "node.fencing-failed",
            message,
            kind="node",
            thing=node.name,
            because=update.because,
            severity=Severity.ERROR,
            node=node.name,
        ),
    )


def confirm_node_down(config: Config, update: ConfirmNodeDown, at_ms: int) -> Result:
    """Declare a node down on an administrator's word; nothing to do if it is down.

    DANGER: nothing can check this word. If the node still runs, its groups run twice until its lease ends; whoever
    says this must have cut its power first.
    """
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if not node.up:
        return Done(config=config)
    because = "an administrator confirmed that it does not run"
    return _goes_down(config, node, at_ms, because=because, stopped=False)


def _goes_down(config: Config, node: Node, at_ms: int, *, because: str, stopped: bool) -> Done:
    lost, told = (node, ()) if stopped else _lose(config, node, at_ms)
    down = replace(lost, up=False, stopping=False, down_because=because, fence_failure="", unsettled=False)
    cause = MoveCause.NODE_STOPPING if stopped else MoveCause.NODE_DOWN
    word = "was stopped" if stopped else "went down"
    released = _release_all(with_node(config, down), down, cause, f"{node.name} {word}: {because}")
    return Done(
        config=released,
        records=note(
            "node.stopped" if stopped else "node.down",
            f"Node {node.name} {word}: {because}.",
            kind="node",
            thing=node.name,
            because=because,
            event_id=1063 if stopped else 1135,
            severity=Severity.INFORMATION if stopped else Severity.ERROR,
            node=node.name,
        )
        + told,
    )


def _release_all(config: Config, node: Node, cause: MoveCause, because: str) -> Config:
    """Release every group of the node. A move to a named node stays a wish; other plans of the owner are void."""
    released = [
        replace(
            group,
            released=True,
            released_because=because,
            released_cause=cause,
            failover=None,
            move=group.move if group.move is not None and group.move.to not in (None, node.id) else None,
        )
        for group in config.groups_owned_by(node.id)
    ]
    return all_offline(with_groups(config, released), [group.id for group in released])


def stop_node(config: Config, update: StopNode) -> Result:
    """Ask the node to hand over its groups and end; nothing to do if it was asked already."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if not node.up:
        return node_is_down(node.name, node.down_because)
    if node.stopping:
        return Done(config=config)
    leaving = [_leaving(group, node) for group in config.groups_owned_by(node.id) if group.move is None]
    stopping = with_groups(with_node(config, replace(node, stopping=True)), leaving)
    message = f"Node {node.name} is being stopped; it hands its groups over."
    return Done(config=stopping, records=note("node.stopping", message, kind="node", thing=node.name, node=node.name))


def _leaving(group: Group, node: Node) -> Group:
    move = Move(to=None, cause=MoveCause.NODE_STOPPING, because=f"{node.name} is being stopped")
    return replace(group, move=move, failover=None)


def pause_node(config: Config, update: PauseNode) -> Result:
    """The node keeps its groups and receives none; it may be down. Nothing to do if it is paused already."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if node.paused:
        return Done(config=config)
    message = f"Node {node.name} is paused: it keeps its groups and takes no others."
    return Done(
        config=with_node(config, replace(node, paused=True)),
        records=note("node.paused", message, kind="node", thing=node.name, node=node.name),
    )


def resume_node(config: Config, update: ResumeNode) -> Result:
    """End of a pause."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if not node.paused:
        return node_not_paused(node.name)
    message = f"Node {node.name} takes groups again."
    resumed = replace(node, paused=False)
    return Done(
        config=_call_home(with_node(config, resumed), resumed),
        records=note("node.resumed", message, kind="node", thing=node.name, node=node.name),
    )


def set_node_properties(config: Config, update: SetNodeProperties) -> Result:
    """All values, or none of them."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    owner = f"node {node.name}"
    common = common_changes("node", owner, update.common)
    if isinstance(common, Report):
        return common
    private = private_changes(owner, node.private, update.private)
    if isinstance(private, Report):
        return private
    changed = replace(node, private=private, **common)  # type: ignore[arg-type]  # the table pairs fields and types
    names = ", ".join((*update.common, *update.private)) or "nothing"
    message = f"Properties of node {node.name} were set: {names}."
    return Done(
        config=with_node(config, changed),
        records=note("node.properties", message, kind="node", thing=node.name, node=node.name),
    )

"""Regroup: from silences and requests to the next view of the membership.

Pure. The coordinator asks it after every heartbeat and every entry of the log; what it answers goes through the log
with preconditions, so an answer that has become wrong meanwhile is refused there.
"""

from __future__ import annotations

from clussvc.global_update.apply_member import lost_without
from clussvc.global_update.update import NodeDown, NodeSettled, NodeUp, RemoveNode, SetVoter
from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.membership.jury import Jury
from clussvc.model.config import Config, Node
from clussvc.model.ids import NodeId
from clussvc.model.quorum import slowest_silence_ms
from clussvc.model.states import NodePhase
from clussvc.quorum.majority import is_majority

FORMATION_GRACE_MS = 3_000
"""How long a coordinator waits for nodes that it has not heard in its own life before it counts their silence. At a
start of the whole cluster the machines come one after the other; groups that stay where they were move least."""


RESTART_GRACE_MS = 10_000
"""How long a service that was started anew may take to clean up after its earlier life; a node that cannot fences
itself then. Until lease and release budget have passed after that, its groups wait for it."""


def declare_down(
    config: Config, table: HeartbeatTable, *, node: NodeId, jury: Jury, now_ms: int
) -> tuple[NodeDown, ...]:
    """The nodes that a majority of the jury has heard nothing from for long enough (rule R3), those whose service
    was started anew and does not come to ask for admission, and those whose last will was heard."""
    found = []
    for member in config.nodes.values():
        if member.up and member.id != node and (because := _why_down(config, table, member, jury, now_ms)):
            found.append(
                NodeDown(
                    node=member.id,
                    incarnation=member.incarnation,
                    voters_version=config.voters_version,
                    because=because,
                )
            )
    return tuple(found)


def _why_down(config: Config, table: HeartbeatTable, member: Node, jury: Jury, now_ms: int) -> str:
    """What proves that this incarnation of the node is over and holds nothing; empty if nothing does."""
    if last_will_heard(table, member):
        return f"the service of {member.name} ended, and its resource monitors have terminated everything"
    needed_ms = silence_needed_ms(config, table, member)
    silence_ms = proven_silence_ms(config, table, member, jury, now_ms)
    let_go_ms = jury.not_before_ms(member.id, silence_ms=needed_ms, lease_ms=config.timing.lease_ms)
    proven = silence_ms >= needed_ms and now_ms >= let_go_ms
    if proven and not (config.fencing_required and config.fence_devices_of(member.id)):
        who = "the owner of the quorum disk" if config.quorum.on_disk else "a majority of the voters"
        return f"{who} has heard nothing from {member.name} for {silence_ms} ms (limit {needed_ms} ms)"
    if stuck_ms := _stuck_ms(config, table, member, now_ms):
        return (
            f"its service was started anew {stuck_ms} ms ago and has not asked to be admitted since;"
            f" see the service log of {member.name}"
        )
    return ""


def proven_silence_ms(config: Config, table: HeartbeatTable, member: Node, jury: Jury, now_ms: int) -> int:
    """For how long those who judge the node have heard nothing of it.

    One that may act by the majority that gave way to a quorum disk, or by a grant of the disk's owner, has let go only
    when both are over: the owner has heard nothing, and so many of the former voters that the rest is no majority.
    """
    silence_ms = jury.silence_ms(table, member.id, now_ms, newborn_grace_ms=FORMATION_GRACE_MS)
    if member.unsettled and silence_ms:
        by_voters_ms = table.common_silence_ms(
            member.id, config.voters, now_ms, newborn_grace_ms=FORMATION_GRACE_MS, blocking=True
        )
        return min(silence_ms, by_voters_ms)
    return silence_ms


def settled(config: Config, table: HeartbeatTable, *, node: NodeId, said_version: int) -> tuple[NodeSettled, ...]:
    """The nodes that have said that they act by the quorum disk alone, in the life and the incarnation that the log
    knows; ``said_version`` is what this node itself says."""
    found = []
    for member in config.nodes.values():
        if not member.unsettled:
            continue
        if member.id == node:
            said = said_version
        else:
            heartbeat = table.last(member.id)
            if heartbeat is None or heartbeat.phase not in (NodePhase.MEMBER, NodePhase.STOPPING):
                continue
            if (heartbeat.boot, heartbeat.incarnation) != (member.boot, member.incarnation):
                continue
            said = heartbeat.voters_version
        if said >= config.settling_version:
            found.append(
                NodeSettled(node=member.id, incarnation=member.incarnation, settling_version=config.settling_version)
            )
    return tuple(found)


def why_no_cut(
    config: Config, table: HeartbeatTable, *, node: NodeId, said_version: int, to_majority: bool, now_ms: int
) -> str:
    """Why the log cannot be changed now, in a sentence; empty if it can.

    Every node that is up must be heard, and act by the present voters and timing, so that nobody is more than one step
    behind. Before a majority takes over from a disk all of them must hear each other, and be a majority; else the
    change itself would take somebody's quorum.
    """
    up = [member for member in config.nodes.values() if member.up]
    fresh_ms = 3 * config.timing.heartbeat_interval_ms
    for member in up:
        said = said_version
        if member.id != node:
            heartbeat, silent_ms = table.last(member.id), table.silent_ms(member.id, now_ms)
            if heartbeat is None or silent_ms is None or silent_ms > fresh_ms:
                return f"nothing is heard of {member.name} at this moment; wait until it is heard, or known to be down"
            said = heartbeat.voters_version
        if said != config.voters_version:
            return f"{member.name} does not act by the newest voters and timings yet; try again in a few seconds"
    if not to_majority:
        return ""
    for listener in up:
        for speaker in up:
            if listener is not speaker and not _hears(config, table, listener.id, speaker.id, node=node, now_ms=now_ms):
                return f"{listener.name} does not hear {speaker.name}; all nodes that are up must hear each other"
    if not is_majority({member.id for member in up}, config.voters):
        missing = ", ".join(config.node_name(each) for each in sorted(config.voters) if not config.nodes[each].up)
        return f"no majority of the voters is up; start {missing} first"
    return ""


def silence_needed_ms(config: Config, table: HeartbeatTable, member: Node) -> int:
    """How long a majority must have heard nothing of the node (rule R3).

    That is known when the node has said that it acts by the present timing. A node says so only when leases of a slower
    kind have run out, so it is enough to have heard it once (docs/decisions/0013).
    """
    heartbeat = table.last(member.id)
    said = heartbeat.voters_version if heartbeat is not None else -1
    present_ms, former_ms = config.timing.silence_ms(), config.quorum.former_silence_ms
    if said >= config.timing_version or not config.timing_version:
        return present_ms
    if former_ms and said == config.timing_version - 1:
        # It has not said that it knows of the present quorum, but that nothing slower is left than what was before it
        # (docs/decisions/0020).
        return max(present_ms, former_ms)
    return slowest_silence_ms(config.quorum)


def last_will_heard(table: HeartbeatTable, member: Node) -> bool:
    """Whether the incarnation in the log is over and holds nothing, by its own word: the process of its service has
    ended, and every one of its monitors has terminated everything (docs/decisions/0012)."""
    heartbeat = table.last(member.id)
    return (
        heartbeat is not None
        and heartbeat.phase is NodePhase.STOPPED
        and (heartbeat.boot, heartbeat.incarnation) == (member.boot, member.incarnation)
    )


def _stuck_ms(config: Config, table: HeartbeatTable, member: Node, now_ms: int) -> int:
    """For how long a new service of this node has been heard without asking, once that proves that the incarnation
    in the log is over and holds nothing (docs/decisions/0009); 0 before."""
    heard_ms = waiting_ms(table, member, now_ms)
    return heard_ms if heard_ms >= RESTART_GRACE_MS + config.timing.silence_ms() else 0


def waiting_ms(table: HeartbeatTable, member: Node, now_ms: int) -> int:
    """For how long a new service of this node has been heard without asking to be admitted; 0 if there is none."""
    heartbeat, heard_ms = table.last(member.id), table.boot_heard_ms(member.id, now_ms)
    if heartbeat is None or heard_ms is None or heartbeat.boot <= member.boot:
        return 0
    waits = heartbeat.phase in (NodePhase.STARTING, NodePhase.ASKING) and heartbeat.attempt == 0
    return heard_ms if waits else 0


def admit(
    config: Config, table: HeartbeatTable, *, node: NodeId, own: tuple[int, int] | None, now_ms: int, wall_ms: int
) -> tuple[NodeUp, ...]:
    """The nodes that ask to be admitted, are heard now and are not in quarantine. ``own`` is this node's boot and
    attempt if it asks."""
    found = []
    for member in config.nodes.values():
        asks = own if member.id == node else _asks(table, member.id, now_ms, config.timing.lease_ms)
        if asks is None or asks <= (member.boot, member.attempt) or config.quarantined(member, wall_ms):
            continue
        boot, attempt = asks
        found.append(
            NodeUp(
                node=member.id,
                incarnation=member.incarnation,
                boot=boot,
                attempt=attempt,
                because=f"{member.name} asked to be admitted and holds nothing",
            )
        )
    return tuple(found)


def _asks(table: HeartbeatTable, node: NodeId, now_ms: int, fresh_ms: int) -> tuple[int, int] | None:
    heartbeat = table.last(node)
    silent_ms = table.silent_ms(node, now_ms)
    if heartbeat is None or silent_ms is None or silent_ms > fresh_ms:
        return None
    if heartbeat.phase is not NodePhase.ASKING or heartbeat.attempt == 0:
        return None
    return heartbeat.boot, heartbeat.attempt


def next_change(config: Config, table: HeartbeatTable, *, node: NodeId, now_ms: int) -> SetVoter | RemoveNode | None:
    """The next change of the voters or of the members, once every node that is up uses the present set of voters.

    That precondition makes the majorities of what any acting node believes and of what the log says overlap: the two
    sets differ by one node at most.
    """
    if any(member.unsettled for member in config.nodes.values()):
        return None
    if not all_use_present_voters(config, table, node=node, now_ms=now_ms):
        return None
    if eviction := next_eviction(config):
        return eviction
    candidates = _candidates(config, table, node=node, now_ms=now_ms)
    if config.dynamic_votes and not config.quorum.on_disk:
        return _dynamic_change(config, candidates)
    if not candidates:
        return None
    return SetVoter(node=candidates[0], voter=True, voters_version=config.voters_version)


def all_use_present_voters(config: Config, table: HeartbeatTable, *, node: NodeId, now_ms: int) -> bool:
    """Whether every node that is up has said so lately."""
    for member in config.nodes.values():
        if not member.up or member.id == node:
            continue
        heartbeat = table.last(member.id)
        silent_ms = table.silent_ms(member.id, now_ms)
        if heartbeat is None or silent_ms is None or silent_ms > config.timing.lease_ms:
            return False
        if heartbeat.voters_version != config.voters_version:
            return False
    return True


def _dynamic_change(config: Config, candidates: list[NodeId]) -> SetVoter | None:
    """With dynamic votes: nodes that are down, or stop, lose theirs, and an even number becomes an odd one unless there
    is a witness to break a tie. One that stops and has the only vote hands it on first."""
    version, voters = config.voters_version, [config.nodes[each] for each in sorted(config.voters)]
    for voter in voters:
        if not voter.up and len(voters) > 1 and not lost_without(config, voter):
            return SetVoter(node=voter.id, voter=False, voters_version=version)
    candidates = [each for each in candidates if not config.nodes[each].stopping]
    stopping = [voter for voter in voters if voter.stopping]
    if len(voters) == 1 and stopping and candidates:
        return SetVoter(node=candidates[0], voter=True, voters_version=version)
    for voter in stopping:
        if len(voters) > 1 and not lost_without(config, voter):
            return SetVoter(node=voter.id, voter=False, voters_version=version)
    even_will_do = config.witness.chosen
    if candidates and (even_will_do or len(voters) % 2 == 0 or len(candidates) > 1):
        return SetVoter(node=candidates[0], voter=True, voters_version=version)
    if len(voters) % 2 == 0 and not even_will_do and all(voter.up for voter in voters):
        return SetVoter(node=voters[-1].id, voter=False, voters_version=version)
    return None


def next_eviction(config: Config) -> SetVoter | RemoveNode | None:
    """The next step towards what administrators want evicted: first the vote, then the node.

    A vote without which those that are up would be no majority stays until more are up, or its node is.
    """
    for member in config.nodes.values():
        if member.evicting and not member.up:
            if member.voter and lost_without(config, member):
                continue
            if member.voter:
                return SetVoter(node=member.id, voter=False, voters_version=config.voters_version)
            return RemoveNode(node=member.id)
    return None


def _candidates(config: Config, table: HeartbeatTable, *, node: NodeId, now_ms: int) -> list[NodeId]:
    """The nodes that could get a vote. Each and every node that is up must hear each other, or the change itself would
    take the quorum from somebody."""
    up = [member.id for member in config.nodes.values() if member.up]
    return [
        candidate
        for candidate in up
        if not config.nodes[candidate].voter
        and all(
            _hears(config, table, one, other, node=node, now_ms=now_ms)
            for peer in up
            if peer != candidate
            for one, other in ((peer, candidate), (candidate, peer))
        )
    ]


def _hears(
    config: Config, table: HeartbeatTable, listener: NodeId, speaker: NodeId, *, node: NodeId, now_ms: int
) -> bool:
    """Whether a node has heard another one lately, as far as this node knows."""
    fresh_ms = config.timing.lease_ms // 2
    if listener == node:
        silent_ms = table.silent_ms(speaker, now_ms)
        return silent_ms is not None and silent_ms <= fresh_ms
    heartbeat = table.last(listener)
    return heartbeat is not None and any(
        hearing.node == speaker and hearing.seq > 0 and hearing.silent_ms <= fresh_ms for hearing in heartbeat.heard
    )

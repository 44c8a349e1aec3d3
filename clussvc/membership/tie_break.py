"""The coordinator's steps that keep a tie-breaker in force: the witness, or a dropped vote (docs/decisions/0023).

Pure. Two things change one step at a time and independently of each other, each by rules of its own: the voters in the
configuration, whose leases and silences count, and the members of the log, whose journals do. Here is decided what is
next for both, so that they end with the same voters and, if these are an even number, with a tie-breaker:

```
  closed --all up use this version; log = voters--> log takes in the stand-in --> open
    ^                                                                              |
    |   somebody is to join, to leave, or to get or lose a vote: CloseWitness      |
    +------------------------------------------------------------------------------+
    |   the witness has dropped a vote: DropVote                                   |
    +------------------------------------------------------------------------------+
  closed, with the stand-in of an earlier version in the log: the node whose vote was dropped leaves the log, then the
  stand-in does, then nodes come and go as they are heard
```
"""

from __future__ import annotations

from dataclasses import dataclass

from clussvc.global_update.update import CloseWitness, DropVote, OpenWitness, RemoveNode, SetVoter
from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.membership.regroup import all_use_present_voters, next_change
from clussvc.model.config import Config
from clussvc.model.ids import NodeId
from clussvc.quorum.stand_in import Decision, dropped_by, dropped_stand_in, split, version_of, witness_stand_in

FRESH_HEARTBEATS = 2
"""Whoever is to take part in the log was heard within so many intervals; who was lost has been silent for longer."""

VoteChange = SetVoter | RemoveNode | OpenWitness | CloseWitness | DropVote


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteStep:
    """What is to change now: at most one thing in the configuration, and members of the log."""

    update: VoteChange | None = None
    add_log_members: tuple[NodeId, ...] = ()
    remove_log_members: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Situation:
    config: Config
    node: NodeId
    nodes: frozenset[NodeId]
    """The members of the log that are nodes."""
    stand_in: NodeId | None
    joiners: tuple[NodeId, ...]
    leavers: tuple[NodeId, ...]
    change: SetVoter | RemoveNode | None
    """What else is to change among the voters and members."""
    settled: bool
    """Every node that is up uses the present version of the voters."""

    @property
    def restless(self) -> bool:
        return bool(self.joiners or self.leavers or self.change)


def next_step(
    config: Config,
    table: HeartbeatTable,
    *,
    node: NodeId,
    log_members: frozenset[NodeId],
    decision: Decision | None,
    now_ms: int,
) -> VoteStep:
    """The next step towards what the nodes that are up, and the administrators, want."""
    if config.quorum.on_disk:
        # The log has no votes of its own, and the owner of the disk needs nobody's.
        return VoteStep(update=next_change(config, table, node=node, now_ms=now_ms))
    nodes, stand_in = split(log_members)
    situation = _Situation(
        config=config,
        node=node,
        nodes=nodes,
        stand_in=stand_in,
        joiners=tuple(
            member for member in config.nodes if member not in nodes and _lives(config, table, node, member, now_ms)
        ),
        leavers=tuple(sorted(member for member in nodes if _leaves_the_log(config, member))),
        change=next_change(config, table, node=node, now_ms=now_ms),
        settled=all_use_present_voters(config, table, node=node, now_ms=now_ms),
    )
    return _while_open(situation, decision) if config.witness_open else _while_closed(situation, decision)


def _lives(config: Config, table: HeartbeatTable, me: NodeId, node: NodeId, now_ms: int) -> bool:
    """Whether the node hears this one and is heard, at this moment: a member that the log takes in is needed at once,
    and one that has just been lost must not be. Or others hear one that does not know of this node yet, since it was
    away for long: it learns of this node from the log alone."""
    fresh_ms = FRESH_HEARTBEATS * config.timing.heartbeat_interval_ms
    heartbeat, silent_ms = table.last(node), table.silent_ms(node, now_ms)
    if heartbeat is not None and silent_ms is not None and silent_ms <= fresh_ms:
        return any(heard.node == me and heard.seq and heard.silent_ms <= fresh_ms for heard in heartbeat.heard)
    for other in config.nodes:
        heartbeat, silent_ms = table.last(other), table.silent_ms(other, now_ms)
        if heartbeat is None or silent_ms is None or silent_ms > fresh_ms:
            continue
        if any(heard.node == node and heard.seq and heard.silent_ms <= fresh_ms for heard in heartbeat.heard):
            return True
    return False


def _leaves_the_log(config: Config, member: NodeId) -> bool:
    """Evicted; or, if votes are dynamic, down and without one."""
    known = config.nodes.get(member)
    if known is None:
        return member in config.evicted
    return config.dynamic_votes and not known.up and not known.voter


def _while_open(now: _Situation, decision: Decision | None) -> VoteStep:
    config, version = now.config, now.config.voters_version
    wanted = witness_stand_in(version)
    if decision is not None and decision.version == version:
        return VoteStep(update=DropVote(node=decision.dropped, voters_version=version))
    if now.restless:
        return VoteStep(update=CloseWitness(voters_version=version))
    if now.stand_in is not None and now.stand_in != wanted:
        return _without_stand_in(now, decision)
    if now.stand_in is None:
        if now.nodes == config.voters:
            return VoteStep(add_log_members=(wanted,))
        return VoteStep(update=CloseWitness(voters_version=version))
    return VoteStep()


def _while_closed(now: _Situation, decision: Decision | None) -> VoteStep:
    config, stand_in = now.config, now.stand_in
    if stand_in is None:
        return _without_tie_breaker(now)
    if version_of(stand_in) == config.voters_version and config.witness.chosen:
        if now.restless or now.nodes != config.voters:
            return VoteStep(update=now.change, remove_log_members=(stand_in,))
        opened = OpenWitness(voters_version=config.voters_version) if now.settled else None
        return VoteStep(update=opened)
    dropped = dropped_by(stand_in)
    if dropped is not None and dropped not in now.nodes and now.joiners == (dropped,) and len(now.nodes) % 2:
        return VoteStep(update=now.change, add_log_members=now.joiners)
    waits = not now.joiners and not now.leavers and (now.change is not None or not now.settled)
    if waits and dropped in config.voters and now.nodes == config.voters and config.witness.chosen:
        # Until the witness can be opened for both of them, the log goes on without the one that has come.
        return VoteStep(update=now.change)
    in_force = dropped is not None and dropped not in config.voters and now.nodes == config.voters | {dropped}
    wanted = config.dynamic_votes or config.witness.chosen
    if in_force and wanted and not now.joiners and not set(now.leavers) - {dropped}:
        # As it should be; the node itself leaves the log when it is down.
        return VoteStep(update=now.change, remove_log_members=now.leavers)
    step = _without_stand_in(now, decision)
    return VoteStep(update=now.change, remove_log_members=step.remove_log_members)


def _without_stand_in(now: _Situation, decision: Decision | None) -> VoteStep:
    """A tie-breaker that is over goes, but not before the node whose vote it had dropped: without that the others may
    be no majority."""
    assert now.stand_in is not None
    dropped = dropped_by(now.stand_in)
    if dropped is None and decision is not None and decision.version == version_of(now.stand_in):
        dropped = decision.dropped if decision.voters == now.nodes else None
    if dropped in now.nodes and dropped not in now.config.voters and dropped != now.node:
        known = now.config.nodes.get(dropped) if dropped is not None else None
        if dropped is not None and (known is None or not known.up or version_of(now.stand_in) is not None):
            return VoteStep(remove_log_members=(dropped,))
    return VoteStep(remove_log_members=(now.stand_in,))


def _without_tie_breaker(now: _Situation) -> VoteStep:
    config = now.config
    ties = config.dynamic_votes or config.witness.chosen
    if ties and len(now.joiners) == 1 and not now.leavers and len(now.nodes) % 2:
        # It is not to be needed at once: if it is lost again, those that are there go on.
        return VoteStep(update=now.change, add_log_members=(dropped_stand_in(now.joiners[0]),))
    if now.restless:
        return VoteStep(update=now.change, add_log_members=now.joiners, remove_log_members=now.leavers)
    if not now.settled or len(now.nodes) % 2:
        return VoteStep()
    if config.witness.chosen and now.nodes == config.voters:
        return VoteStep(add_log_members=(witness_stand_in(config.voters_version),))
    without_vote = now.nodes - config.voters
    if config.dynamic_votes and len(without_vote) == 1 and config.voters <= now.nodes:
        return VoteStep(add_log_members=(dropped_stand_in(next(iter(without_vote))),))
    return VoteStep()

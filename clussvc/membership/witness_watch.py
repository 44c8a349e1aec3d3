"""What a node knows of the file share witness, and when it asks it (docs/decisions/0023).

Pure. The witness is a register on a share that is written once for each version of the voters: whose vote is dropped.
Whoever has read it counts by the voters that are left as well as by all of them; any two majorities of these sets share
a voter, so it does not matter who has read it and when, and nothing of this rests on time.

The witness is asked when it matters: exactly half of the voters, this node among them, are heard and have heard this
node lately. The half with the leader asks at once, and the other one a heartbeat later, so that a cut between two
halves is decided for the leader, as long as its half reaches the share.
"""

from __future__ import annotations

from dataclasses import dataclass

from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.model.config import Config
from clussvc.model.ids import NodeId
from clussvc.model.witness import Witness
from clussvc.quorum.stand_in import Decision

FIRST_WAIT_MS = 3_000
"""How long a node that has just been started waits for the others before it asks for the decision: when the whole
cluster starts, nobody is to lose a vote for being a little later."""

ASK_AGAIN_MS = 250
"""Pause before the witness is asked again, after it could not be reached or has decided nothing yet."""

SILENT_HEARTBEATS = 2.2
"""After so many intervals without a word a voter is not on this node's side any more: two heartbeats are missing."""

PATIENT_HEARTBEATS = 3.0
"""After so many the half that does not hear the leader asks."""

LEASE_SHARE = 0.2
"""With so much of a lease left whoever gave it is not on this node's side any more, however well it is heard; and with
so much left every half asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskWitness:
    """Read what the witness has decided for a version of the voters; with ``drop``, have it decide that if it has not
    yet. Answered by WitnessAnswered; the newest question counts."""

    witness: Witness
    version: int
    voters: frozenset[NodeId]
    drop: NodeId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessAnswered:
    """What came of a question."""

    version: int
    decision: Decision | None
    """None: nothing is decided, or nobody can say."""
    trouble: str = ""
    """Why nobody can say; empty if the witness was reached."""


class WitnessWatch:
    """The part of one node; times are its own clock."""

    def __init__(self, node: NodeId, now_ms: int) -> None:
        self._node = node
        self._decision: Decision | None = None
        self._asked: AskWitness | None = None
        self._again_ms = 0
        self._not_before_ms = now_ms + FIRST_WAIT_MS
        self.next_ms: int | None = None
        """When it has to be looked at again although nothing happens."""

    @property
    def decision(self) -> Decision | None:
        """The newest one that is known, for whatever version."""
        return self._decision

    def dropped(self, config: Config | None) -> NodeId | None:
        """Whose vote does not count for this configuration; None: all count."""
        decision = self._decision
        if config is None or decision is None or not config.witness_open:
            return None
        return decision.dropped if decision.version == config.voters_version else None

    def electorates(self, config: Config | None, voters: frozenset[NodeId]) -> tuple[frozenset[NodeId], ...]:
        """The sets of which a majority counts."""
        dropped = self.dropped(config)
        return (voters,) if dropped is None else (voters, voters - {dropped})

    def answered(self, event: WitnessAnswered, now_ms: int) -> Decision | None:
        """Take in an answer; the decision if it is news."""
        self._asked = None
        self._again_ms = now_ms + ASK_AGAIN_MS
        decision = event.decision
        if decision is None or (self._decision is not None and decision.version <= self._decision.version):
            return None
        self._decision = decision
        return decision

    def ask(
        self,
        config: Config | None,
        table: HeartbeatTable,
        *,
        leader: NodeId | None,
        until_ms: int,
        now_ms: int,
    ) -> AskWitness | None:
        """The question that is due now. ``until_ms``: until when this node holds quorum if it hears nothing more;
        ``leader``: of the log, this node or another.
        """
        self.next_ms = None
        if config is None or not config.witness.chosen or not config.witness.opened:
            return None
        # Also when that is over: the log may still have its stand-in.
        version = config.witness.opened
        if self._decision is not None and self._decision.version >= version:
            return None
        holds = until_ms > now_ms
        drop = None
        at_ms = self._not_before_ms
        if config.witness_open and version == config.voters_version:
            side = self._side(config, table, now_ms)
            if 2 * len(side) == len(config.voters):
                drop = max(config.voters - side)
            if holds:
                at_ms = now_ms if leader in side else self._patient_until_ms(config, table, side, until_ms)
        if holds and drop is None:
            return None
        at_ms = max(at_ms, self._again_ms)
        if now_ms < at_ms:
            self.next_ms = min(at_ms, self.next_ms) if self.next_ms is not None else at_ms
            return None
        question = AskWitness(witness=config.witness, version=version, voters=config.voters, drop=drop)
        if self._asked is not None:
            return None
        self._asked = question
        return question

    def _side(self, config: Config, table: HeartbeatTable, now_ms: int) -> frozenset[NodeId]:
        """The voters that are heard and have heard this node lately, itself included; and when that has to be looked at
        again."""
        side = {self._node} & config.voters
        timing = config.timing
        for voter in config.voters - side:
            quiet_ms = table.quiet_from_ms(voter)
            if quiet_ms is None:
                continue
            silent_at_ms = quiet_ms + int(SILENT_HEARTBEATS * timing.heartbeat_interval_ms)
            short_at_ms = table.lease_until_ms(voter) - int(LEASE_SHARE * timing.lease_ms)
            off_ms = min(silent_at_ms, short_at_ms)
            if off_ms > now_ms:
                side.add(voter)
                self.next_ms = off_ms if self.next_ms is None else min(self.next_ms, off_ms)
        return frozenset(side)

    def _patient_until_ms(self, config: Config, table: HeartbeatTable, side: frozenset[NodeId], until_ms: int) -> int:
        """When this node asks although the leader may be in the other half."""
        timing = config.timing
        quiet = [quiet_ms for each in config.voters - side if (quiet_ms := table.quiet_from_ms(each)) is not None]
        patient_ms = max(quiet, default=0) + int(PATIENT_HEARTBEATS * timing.heartbeat_interval_ms)
        return min(patient_ms, until_ms - int(LEASE_SHARE * timing.lease_ms))

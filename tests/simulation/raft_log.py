"""The real log in the simulator: PySyncObj behind our guard and journal, on the world's time, network and disks.

What the thread of the log and the assembly do in the service is done here in the same order: a step whenever something
arrived or is due, the outcome of proposals as events, changes of leadership as events.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clussvc import codec
from clussvc.actions import AddLogMember, Propose, RemoveLogMember
from clussvc.events import Committed, ConfigInstalled, LeadershipChanged, ProposalFailed, ProposalFate
from clussvc.global_update.apply import Applied, apply, founded
from clussvc.global_update.raft.replicator import Outcome, OutcomeKind, RaftNode, RaftSettings
from clussvc.global_update.update import Proposal
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.reports import Report
from clussvc.model.settings import Timing
from tests.simulation.machine import Machine
from tests.simulation.referee import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

CLUSTER = "simulated-cluster"
RECOMPUTED_EVERY = 16
"""Applying is pure, so one computation serves all nodes; every so often it is done anew and compared."""
_INDEX = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What stands at one index, and what it meant, as the first node to apply it found."""

    command: bytes
    before: Config | None
    proposal: Proposal
    applied: Applied


class _State:
    """The state machine of one node. It differs from ReplicatedState only in sharing the work with the other nodes."""

    def __init__(self, log: RaftLog, machine: Machine) -> None:
        self._log = log
        self._machine = machine
        self._generation = machine.generation
        self._config: Config | None = None
        self._index = 0

    def apply(self, index: int, command: bytes) -> bytes:
        """See StateMachine."""
        if index != self._index + 1:
            raise Violation("one log", f"n{self._machine.id} applies entry {index} after {self._index}")
        self._index = index
        entry = self._log.entry(self._machine, index, command, self._config)
        self._config = entry.applied.config if founded(entry.applied.config) else None
        if self._config is not None:
            self._tell(
                Committed(
                    index=index,
                    proposal=entry.proposal,
                    config=entry.applied.config,
                    refusal=entry.applied.refusal,
                    records=entry.applied.records,
                )
            )
        return _INDEX.pack(index)

    def snapshot(self) -> bytes:
        """See StateMachine."""
        return codec.encode_config(self._config) if self._config is not None else b""

    def restore(self, index: int, image: bytes) -> None:
        """See StateMachine."""
        self._index = index
        decoded = codec.decode_config(image) if image else None
        known = self._log.config_at(index)
        if decoded != known:
            raise Violation("equal state", f"n{self._machine.id} restores another state of index {index} than applied")
        self._config = known
        if self._config is not None:
            self._tell(ConfigInstalled(index=index, config=self._config))

    def _tell(self, event: Committed | ConfigInstalled) -> None:
        if self._machine.generation == self._generation:
            self._log.world.post(self._machine, event)


@dataclass(slots=True)
class _Member:
    """The log's part of one service process."""

    node: RaftNode
    generation: int
    wake_us: int = -1
    """When the next step is scheduled; -1: not at all."""
    told: tuple[int | None, bool, frozenset[int]] = (None, False, frozenset())
    blocked_until_us: int = -1
    """The disk does not answer until then: what the step before has written is not durable, and nothing goes on."""


class RaftLog:
    """See the module."""

    def __init__(self, world: World, settings: RaftSettings) -> None:
        self.world = world
        self._settings = settings
        self._members: dict[NodeId, _Member] = {}
        self._entries: list[_Entry] = []
        self.entries: list[tuple[Proposal, Config | None, Report | None]] = []
        self._leaders: dict[int, NodeId] = {}
        self._booted: set[NodeId] = set()

    # --- the one history --------------------------------------------------------------------------------------------

    def entry(self, machine: Machine, index: int, command: bytes, before: Config | None) -> _Entry:
        """What stands at this index; the first node to come there says it, the others must agree."""
        if index <= len(self._entries):
            entry = self._entries[index - 1]
            if entry.command != command:
                raise Violation(
                    "one log",
                    f"n{machine.id} applies {codec.decode_proposal(command).request} at index {index}, where"
                    f" {entry.proposal.request} was applied before",
                )
            if before is not entry.before and before != entry.before:
                raise Violation("equal state", f"n{machine.id} has another state than others before index {index}")
            if (index + machine.id) % RECOMPUTED_EVERY == 0:
                again = apply(before, codec.decode_proposal(command))
                if again != entry.applied:
                    raise Violation("equal state", f"n{machine.id} comes to another state at index {index}")
            return entry
        proposal = codec.decode_proposal(command)
        entry = _Entry(command, before, proposal, apply(before, proposal))
        self._entries.append(entry)
        self.entries.append((proposal, entry.applied.config, entry.applied.refusal))
        self.world.referee.committed(index, proposal, before, entry.applied.config)
        return entry

    def config_at(self, index: int) -> Config | None:
        """The configuration after an entry that somebody has applied."""
        config = self._entries[index - 1].applied.config if index else None
        return config if founded(config) else None

    # --- the port ---------------------------------------------------------------------------------------------------

    def boot(self, machine: Machine, *, members: frozenset[NodeId], joining: bool) -> None:
        """See LogModel. Raises ClusterError when the log cannot be opened."""
        world = self.world
        member_of: list[_Member] = []

        def fatal(error: Exception) -> None:
            if isinstance(error, Violation) or isinstance(error.__cause__, Violation):
                raise error
            if member_of:
                generation = member_of[0].generation
                world.scheduler.later(0, lambda: world.service_died(machine, generation, f"the log ended: {error}"))

        settings = self._settings
        if machine.stored:
            timing = machine.stored[-1][1].timing
            settings = replace(
                settings, heartbeat_ms=timing.raft_heartbeat_ms, election_timeout_ms=timing.raft_election_ms
            )
        node = RaftNode(
            node_id=machine.id,
            cluster_id=CLUSTER,
            members=frozenset(int(member) for member in members),
            folder=machine.disk.folder,
            first_boot=machine.id not in self._booted,
            state_machine=_State(self, machine),
            settings=settings,
            send=lambda receiver, frame: self._send(machine, receiver, frame),
            now_s=lambda: machine.clock.now_us / 1_000_000,
            rng=random.Random(world.random.getrandbits(32)),
            on_fatal=fatal,
            joining=joining,
            storage=machine.disk,
        )
        self._booted.add(machine.id)
        member = self._members[machine.id] = _Member(node=node, generation=machine.generation)
        member_of.append(member)
        self._wake(machine, member, 0)

    def stop(self, machine: Machine) -> None:
        """See LogModel."""
        member = self._members.pop(machine.id, None)
        if member is not None:
            member.node.close()

    def erase(self, machine: Machine) -> None:
        """The machine is set up anew."""
        self._booted.discard(machine.id)
        machine.disk.erase()

    def thawed(self, machine: Machine) -> None:
        """See LogModel."""
        member = self._members.get(machine.id)
        if member is not None:
            self._wake(machine, member, 0)

    def network_changed(self) -> None:
        """See LogModel: the network itself tells what changed."""

    def leader(self) -> NodeId | None:
        """See LogModel."""
        for node, member in self._members.items():
            if self.world.nodes[node].awake and member.node.is_leader_with_lease:
                return node
        return None

    def propose(self, machine: Machine, action: Propose) -> None:
        """See LogModel."""
        request = action.proposal.request
        member = self._members.get(machine.id)
        generation = machine.generation

        def done(outcome: Outcome) -> None:
            if outcome.kind is OutcomeKind.COMMITTED or machine.generation != generation:
                return
            fate = ProposalFate.NOT_APPLIED if outcome.kind is OutcomeKind.REFUSED else ProposalFate.UNKNOWN
            self.world.post(machine, ProposalFailed(request=request, fate=fate, detail=outcome.detail))

        if member is None:
            return
        try:
            command = codec.encode_proposal(action.proposal)
        except ClusterError as error:
            done(Outcome(kind=OutcomeKind.REFUSED, detail=error.message))
            return
        member.node.propose(command, action.timeout_ms / 1000, done)
        self._wake(machine, member, 0.05)

    def set_timing(self, machine: Machine, timing: Timing) -> None:
        """See LogModel."""
        member = self._members.get(machine.id)
        if member is not None:
            member.node.set_timing(heartbeat_ms=timing.raft_heartbeat_ms, election_timeout_ms=timing.raft_election_ms)
            self._wake(machine, member, 0)

    def forget_leader(self, machine: Machine, node: NodeId) -> None:
        """See LogModel."""
        member = self._members.get(machine.id)
        if member is not None:
            member.node.forget_leader(int(node))
            self._wake(machine, member, 0)

    def change_members(self, machine: Machine, action: AddLogMember | RemoveLogMember) -> None:
        """See LogModel."""
        member = self._members.get(machine.id)
        if member is None:
            return

        def done(_: Outcome) -> None:
            if self._members.get(machine.id) is member:
                self._tell(machine, member, always=True)

        act = member.node.add_member if isinstance(action, AddLogMember) else member.node.remove_member
        act(int(action.node), done)
        self._wake(machine, member, 0.05)

    # --- network ----------------------------------------------------------------------------------------------------

    def _send(self, machine: Machine, receiver: int, frame: bytes) -> None:
        member = self._members.get(machine.id)
        stalled_us = machine.disk.stalled_until_us - self.world.scheduler.now_us
        if member is None or stalled_us <= 0:
            self.world.network.send(machine.id, NodeId(receiver), frame)
            return
        # The sync that this frame waits for takes so long.
        generation = machine.generation

        def leave() -> None:
            if machine.generation == generation:
                self.world.network.send(machine.id, NodeId(receiver), frame)

        self.world.scheduler.later(stalled_us / 1000, leave)

    def deliver(self, sender: NodeId, receiver: NodeId, frame: bytes) -> None:
        """A frame has arrived."""
        member = self._members.get(receiver)
        if member is not None:
            member.node.receive(sender, frame)
            self._wake(self.world.nodes[receiver], member, 0)

    def link_changed(self, node: NodeId, other: NodeId, up: bool) -> None:
        """A node's connection to another one came or went."""
        member = self._members.get(node)
        if member is None:
            return
        if up:
            member.node.peer_connected(other)
        else:
            member.node.peer_disconnected(other)
        self._wake(self.world.nodes[node], member, 0)

    # --- steps ------------------------------------------------------------------------------------------------------

    def _wake(self, machine: Machine, member: _Member, delay_ms: float) -> None:
        due_us = self.world.scheduler.now_us + int(delay_ms * 1000)
        if 0 <= member.wake_us <= due_us:
            return
        member.wake_us = due_us

        def step() -> None:
            if self._members.get(machine.id) is member and member.wake_us == due_us:
                member.wake_us = -1
                self._step(machine, member)

        self.world.scheduler.later(delay_ms, step)

    def _step(self, machine: Machine, member: _Member) -> None:
        if not machine.awake:
            return
        if member.blocked_until_us > self.world.scheduler.now_us:
            self._wake(machine, member, (member.blocked_until_us - self.world.scheduler.now_us) / 1000)
            return
        # What the disk is asked for in this step is answered when the stall is over; so is all that follows from it.
        member.blocked_until_us = machine.disk.stalled_until_us
        member.node.step()
        if self._members.get(machine.id) is not member:
            return
        self._tell(machine, member)
        wait_s = member.node.next_wake_s() - machine.clock.now_us / 1_000_000
        self._wake(machine, member, max(0.2, wait_s * 1000))

    def _check_leader(self, machine: Machine, member: _Member) -> None:
        term = member.node.statistics().term
        first = self._leaders.setdefault(term, machine.id)
        if first != machine.id:
            raise Violation("one leader", f"n{first} and n{machine.id} lead in term {term}")

    def _tell(self, machine: Machine, member: _Member, *, always: bool = False) -> None:
        node = member.node
        leads = node.is_leader_with_lease
        now = (node.leader, leads, node.members if leads else frozenset())
        if now == member.told and not always:
            return
        member.told = now
        if leads:
            self._check_leader(machine, member)
        leader = NodeId(now[0]) if now[0] is not None else None
        members = frozenset(NodeId(other) for other in node.members)
        self.world.post(machine, LeadershipChanged(leader=leader, leads=leads, members=members))

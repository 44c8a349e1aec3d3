"""The real log in the simulator: PySyncObj behind our guard and journal, on the world's time, network and disks.

What the thread of the log and the assembly do in the service is done here in the same order: a step whenever something
arrived or is due, the outcome of proposals as events, changes of leadership as events.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clussvc import codec
from clussvc.actions import AddLogMember, ContestQuorum, Propose, RemoveLogMember
from clussvc.events import LeadershipChanged, OfLog, ProposalFailed, ProposalFate
from clussvc.global_update.raft.replicator import (
    SNAPSHOT_NAME,
    Outcome,
    OutcomeKind,
    RaftNode,
    RaftSettings,
    Snapshot,
    begin,
)
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.settings import Timing
from clussvc.quorum.stand_in import Decision
from tests.simulation.common_history import CommonHistory, SimState
from tests.simulation.machine import Machine
from tests.simulation.referee import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

CLUSTER = "simulated-cluster"
Send = Callable[[NodeId, NodeId, bytes], None]
"""From a node, to a node, a frame."""


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

    def __init__(
        self, world: World, settings: RaftSettings, history: CommonHistory, generation: int, send: Send
    ) -> None:
        """``generation``: of the quorum whose log this is; ``send`` brings a frame to the same log of another node."""
        self.world = world
        self._history = history
        self._generation = generation
        self._send_frame = send
        self._settings = settings
        self._members: dict[NodeId, _Member] = {}
        self._leaders: dict[int, NodeId] = {}
        self._booted: set[NodeId] = set()
        self._begun: dict[NodeId, tuple[frozenset[int], bool]] = {}

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
        begins, begun = self._begun.get(machine.id, (frozenset(int(member) for member in members), False))
        if machine.id in self._begun:
            joining = not begun
        node = RaftNode(
            node_id=machine.id,
            cluster_id=CLUSTER,
            members=begins,
            folder=self.folder_of(machine),
            first_boot=machine.id not in self._booted,
            begun=begun,
            state_machine=SimState(self._history, machine, of_log=self._generation),
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

    def folder_of(self, machine: Machine) -> Path:
        """Where the machine keeps this log."""
        return machine.disk.folder / f"log-{self._generation}"

    def begin(self, machine: Machine, snapshot: Snapshot) -> None:
        """The machine begins to take part with a snapshot, made durable here. Raises OSError."""
        folder = self.folder_of(machine)
        machine.disk.erase_folder(folder)
        self._begun[machine.id] = begin(folder, machine.disk, snapshot, node_id=machine.id)

    def snapshot_of(self, machine: Machine) -> bytes | None:
        """The snapshot that the machine has."""
        return machine.disk.read(self.folder_of(machine) / SNAPSHOT_NAME)

    def stop(self, machine: Machine) -> None:
        """See LogModel."""
        member = self._members.pop(machine.id, None)
        if member is not None:
            member.node.close()

    def erase(self, machine: Machine) -> None:
        """The machine is set up anew."""
        self._booted.discard(machine.id)
        self._begun.pop(machine.id, None)
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
            self._tell_core(machine, ProposalFailed(request=request, fate=fate, detail=outcome.detail))

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

    def use_decision(self, machine: Machine, decision: Decision) -> None:
        """See LogModel."""
        member = self._members.get(machine.id)
        if member is not None:
            member.node.use_decision(decision)
            self._wake(machine, member, 0)

    def contest(self, machine: Machine, action: ContestQuorum) -> None:
        """See LogModel: a majority is not contested."""

    def give_back(self, machine: Machine) -> None:
        """See LogModel: there is nothing to give back."""

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
            self._send_frame(machine.id, NodeId(receiver), frame)
            return
        # The sync that this frame waits for takes so long.
        generation = machine.generation

        def leave() -> None:
            if machine.generation == generation:
                self._send_frame(machine.id, NodeId(receiver), frame)

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
        self._tell_core(machine, LeadershipChanged(leader=leader, leads=leads, members=members))

    def _tell_core(self, machine: Machine, event: LeadershipChanged | ProposalFailed) -> None:
        self.world.post(machine, OfLog(generation=self._generation, event=event))

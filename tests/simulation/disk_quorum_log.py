"""The log on a quorum disk in the simulator: the real one of every node, on one simulated disk.

What the thread of the log does in the service is done here in the same order: what has happened is told to the log, and
what the log wants then is performed. The messages between nodes pass through their real form.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clussvc import codec
from clussvc.actions import AddLogMember, ContestQuorum, Propose, RemoveLogMember
from clussvc.events import LeadershipChanged, OfLog, ProposalFailed, ProposalFate
from clussvc.global_update.disk import wire
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.settings import PROFILES, Timing, disk_timing
from clussvc.quorum.disk_layout import DISK_BYTES_MIN, SECTOR_BYTES, Superblock
from clussvc.quorum.disk_log import QuorumDiskLog, Role
from clussvc.quorum.disk_messages import DiskFailed, Fate, GiveWay, Held, Lost, OwnerKnown, Perform, Send, Trouble
from clussvc.quorum.stand_in import Decision
from tests.simulation.common_history import CommonHistory, SimState
from tests.simulation.machine import Machine
from tests.simulation.referee import Violation
from tests.simulation.shared_disk import SharedDisk

if TYPE_CHECKING:
    from tests.simulation.world import World

CLUSTER = "5" * 32
LINGERS_MS = 2_000
"""A service that gives the disk back ends so much later at most."""

Call = Callable[[int], None]
SendFrame = Callable[[NodeId, NodeId, bytes], None]
"""From a node, to a node, a frame."""


def simulated_quorum(log: str) -> Quorum:
    """The quorum of a world with that log."""
    if not log.startswith("disk-"):
        return Quorum()
    return Quorum(
        kind=QuorumKind.DISK,
        device="/dev/simulated",
        disk="0" * 15 + "7",
        sectors=2 * DISK_BYTES_MIN // SECTOR_BYTES,
        reservations=log == "disk-reservations",
    )


def superblock(quorum: Quorum) -> Superblock:
    """What the first sector of its disk says."""
    return Superblock(
        cluster=CLUSTER,
        cluster_name="SIM",
        disk=int(quorum.disk, 16),
        sectors=quorum.sectors,
        prepared_ms=0,
        base_index=quorum.base_index,
    )


@dataclass(slots=True)
class _Member:
    """The log's part of one service process."""

    log: QuorumDiskLog
    generation: int
    power: int
    waiting: deque[Call] = field(default_factory=deque)
    """What has happened while the process stood still."""
    tick_us: int = -1
    held: Held | None = None
    gives_back: bool = False
    troubles: list[str] = field(default_factory=list)


class DiskQuorumLog:
    """See the module."""

    def __init__(self, world: World, quorum: Quorum, disk: SharedDisk, history: CommonHistory, send: SendFrame) -> None:
        """``send`` brings a frame to the same log of another node."""
        self.world = world
        self._history = history
        self._send_frame = send
        self._quorum = quorum
        self._generation = quorum.generation
        self._members: dict[NodeId, _Member] = {}
        self._lingering: dict[NodeId, _Member] = {}
        self.disk = disk
        self._block = superblock(quorum)

    # --- the port ---------------------------------------------------------------------------------------------------

    def boot(self, machine: Machine, *, members: frozenset[NodeId], joining: bool) -> None:
        """See LogModel."""
        del members, joining
        quorum, profile = self._quorum, self.world.timing.profile
        index, config = machine.stored[-1] if machine.stored else (0, None)
        if config is not None:
            profile = config.timing.profile
        self._lingering.pop(machine.id, None)
        log = QuorumDiskLog(
            node=machine.id,
            boot=machine.boots,
            key=(0xC1 << 40 | int(machine.id) << 32 | machine.boots) if quorum.reservations else 0,
            superblock=self._block,
            timing=disk_timing(PROFILES[profile], quorum.hold_ms),
            state=SimState(self._history, machine, of_log=self._generation, index=index, config=config),
            index=index,
            log_bytes_max=1,
            rng=random.Random(self.world.random.getrandbits(32)),
            now_ms=machine.clock.now_ms,
        )
        self._members[machine.id] = _Member(log=log, generation=machine.generation, power=machine.power)

    def stop(self, machine: Machine) -> None:
        """See LogModel."""
        member = self._members.pop(machine.id, None)
        gave_back = member is not None and member.gives_back
        self.world.referee.hold_ended(machine, self._generation, gave_back=gave_back)
        if member is not None and member.gives_back and member.power == machine.power:
            # The process ends when the disk has taken note that it is free.
            self._lingering[machine.id] = member
            self.world.scheduler.later(LINGERS_MS, lambda: self._linger_no_more(machine, member))

    def _linger_no_more(self, machine: Machine, member: _Member) -> None:
        if self._lingering.get(machine.id) is member:
            del self._lingering[machine.id]

    def erase(self, machine: Machine) -> None:
        """See LogModel: what the node wrote on the disk stays there."""

    def thawed(self, machine: Machine) -> None:
        """See LogModel."""
        member = self._members.get(machine.id)
        if member is not None:
            self._go_on(machine, member)

    def network_changed(self) -> None:
        """See LogModel: the network itself tells what changed."""

    def leader(self) -> NodeId | None:
        """See LogModel."""
        for node, member in self._members.items():
            machine = self.world.nodes[node]
            if (
                member.generation == machine.generation
                and machine.awake
                and member.held is not None
                and member.held.until_ms > machine.clock.now_ms
            ):
                return node
        return None

    def propose(self, machine: Machine, action: Propose) -> None:
        """See LogModel."""
        request, generation = action.proposal.request, machine.generation

        def done(fate: Fate, detail: str) -> None:
            if fate is Fate.COMMITTED or machine.generation != generation:
                return
            failed = ProposalFate.NOT_APPLIED if fate is Fate.NOT_APPLIED else ProposalFate.UNKNOWN
            self._tell_core(machine, ProposalFailed(request=request, fate=failed, detail=detail))

        try:
            command = codec.encode_proposal(action.proposal)
        except ClusterError as error:
            done(Fate.NOT_APPLIED, error.message)
            return
        member = self._members.get(machine.id)
        if member is not None:
            log = member.log
            self._soon(
                machine,
                lambda now_ms: log.propose(command, timeout_ms=action.timeout_ms, done=done, now_ms=now_ms),
            )

    def use_decision(self, machine: Machine, decision: Decision) -> None:
        """See LogModel: only the real log of a majority counts by decisions of a witness."""

    def contest(self, machine: Machine, action: ContestQuorum) -> None:
        """See LogModel."""
        member = self._members.get(machine.id)
        if member is not None:
            log, wanted, networks = member.log, action.wanted, action.client_networks
            self._soon(machine, lambda now_ms: log.contest(wanted=wanted, client_networks=networks, now_ms=now_ms))

    def give_back(self, machine: Machine) -> None:
        """See LogModel."""
        member = self._members.get(machine.id)
        if member is not None:
            member.gives_back = True
            log = member.log
            self._soon(machine, lambda now_ms: log.give_back(now_ms=now_ms))

    def set_timing(self, machine: Machine, timing: Timing) -> None:
        """See LogModel."""
        member = self._members.get(machine.id)
        if member is not None:
            config = machine.core.config if machine.core is not None else None
            same = config is not None and config.quorum.disk == self._quorum.disk
            hold_ms = config.quorum.hold_ms if config is not None and same else self._quorum.hold_ms
            log, wanted = member.log, disk_timing(PROFILES[timing.profile], hold_ms)
            self._soon(machine, lambda now_ms: log.set_timing(wanted, now_ms=now_ms))

    def forget_leader(self, machine: Machine, node: NodeId) -> None:
        """See LogModel: a hold ends by itself."""

    def change_members(self, machine: Machine, action: AddLogMember | RemoveLogMember) -> None:
        """See LogModel: nobody votes here."""
        raise AssertionError(action)

    # --- network ----------------------------------------------------------------------------------------------------

    def deliver(self, sender: NodeId, receiver: NodeId, frame: bytes) -> None:
        """See LogModel."""
        member = self._members.get(receiver)
        if member is not None:
            log, message = member.log, wire.decode(frame)
            self._act(self.world.nodes[receiver], member, lambda now_ms: log.received(sender, message, now_ms=now_ms))

    def link_changed(self, node: NodeId, other: NodeId, up: bool) -> None:
        """See LogModel."""
        member = self._members.get(node)
        if member is not None:
            change = member.log.peer_connected if up else member.log.peer_disconnected
            self._act(self.world.nodes[node], member, lambda now_ms: change(other, now_ms=now_ms))

    # --- turns ------------------------------------------------------------------------------------------------------

    def _soon(self, machine: Machine, call: Call) -> None:
        """What the core wants reaches the log's thread a moment later."""
        member = self._members[machine.id]
        self.world.scheduler.later(0.05, lambda: self._act(machine, member, call))

    def _current(self, machine: Machine, member: _Member) -> bool:
        return self._members.get(machine.id) is member or self._lingering.get(machine.id) is member

    def _act(self, machine: Machine, member: _Member, call: Call) -> None:
        if not self._current(machine, member):
            return
        lingers = self._lingering.get(machine.id) is member
        if machine.suspended or (machine.frozen and not lingers) or member.waiting:
            member.waiting.append(call)
            return
        self._run(machine, member, call)

    def _go_on(self, machine: Machine, member: _Member) -> None:
        while member.waiting and machine.awake and self._current(machine, member):
            self._run(machine, member, member.waiting.popleft())
        if machine.awake:
            self._run(machine, member, lambda now_ms: member.log.tick(now_ms=now_ms))

    def _run(self, machine: Machine, member: _Member, call: Call) -> None:
        try:
            call(machine.clock.now_ms)
        except ClusterError as error:
            if self._members.get(machine.id) is member:
                self.world.service_died(machine, member.generation, f"the log ended: {error}")
            return
        self._perform(machine, member)

    def _perform(self, machine: Machine, member: _Member) -> None:
        for action in member.log.take():
            match action:
                case Perform():
                    self.disk.ask(machine, action.request, self._answer_to(machine, member))
                case Send():
                    if self._members.get(machine.id) is member:
                        self._send_frame(machine.id, action.node, wire.encode(action.message))
                case Held() | Lost() | GiveWay():
                    self._tell(machine, member, action)
                case OwnerKnown():
                    if self._members.get(machine.id) is member:
                        leads = action.node == machine.id
                        event = LeadershipChanged(leader=action.node, leads=leads, members=frozenset())
                        self._tell_core(machine, event)
                case Trouble():
                    member.troubles.append(action.detail)
                    if action.code == "quorum-damaged":
                        raise Violation("one log", f"n{machine.id}: {action.detail}")
        if member.log.role is Role.FOLLOWING and self._lingering.get(machine.id) is member:
            del self._lingering[machine.id]
            return
        self._schedule_tick(machine, member)

    def _tell(self, machine: Machine, member: _Member, action: Held | Lost | GiveWay) -> None:
        world = self.world
        if isinstance(action, Held):
            member.held = action
            until_us = world.scheduler.now_us + int(machine.clock.until_ms(action.until_ms) * 1000)
            world.referee.held(machine, until_us, self._generation)
        elif isinstance(action, Lost):
            member.held = None
            if member.gives_back:
                world.referee.hold_ended(machine, self._generation, gave_back=True)
        if self._members.get(machine.id) is member:
            self._tell_core(machine, action)

    def _tell_core(self, machine: Machine, event: LeadershipChanged | ProposalFailed | Held | Lost | GiveWay) -> None:
        self.world.post(machine, OfLog(generation=self._generation, event=event))

    def _answer_to(self, machine: Machine, member: _Member) -> Callable[[bytes | DiskFailed], None]:
        log = member.log
        return lambda answer: self._act(machine, member, lambda now_ms: log.answered(answer, now_ms=now_ms))

    def _schedule_tick(self, machine: Machine, member: _Member) -> None:
        if not self._current(machine, member):
            return
        wait_ms = machine.clock.until_ms(member.log.deadline_ms) + 0.001
        due_us = self.world.scheduler.now_us + int(wait_ms * 1000)
        if self.world.scheduler.now_us < member.tick_us <= due_us:
            return
        member.tick_us = due_us

        def tick() -> None:
            if member.tick_us == due_us:
                member.tick_us = -1
                self._act(machine, member, lambda now_ms: member.log.tick(now_ms=now_ms))

        self.world.scheduler.later(wait_ms, tick)

"""A small world for the quorum-disk log alone: nodes, one disk, messages, all from one seed.

It is rougher with the disk than any device: a write may take effect at any moment until it is answered, or long after
its node is dead or was answered with an error; a write of several sectors arrives in pieces. With reservations the
device refuses what comes of a node that was preempted, also late.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from clussvc.model.ids import NodeId
from clussvc.model.settings import LAN, disk_timing
from clussvc.quorum.disk_layout import (
    DISK_BYTES_MIN,
    SECTOR_BYTES,
    Superblock,
    encode_superblock,
    used_sectors,
)
from clussvc.quorum.disk_log import RESET_LEAP, QuorumDiskLog
from clussvc.quorum.disk_messages import (
    Clear,
    DiskFailed,
    DiskRequest,
    Fate,
    GiveWay,
    Held,
    Lost,
    OwnerKnown,
    Perform,
    Preempt,
    Read,
    Register,
    Release,
    Reserve,
    Send,
    Trouble,
    Write,
)

TIMING = disk_timing(LAN)


@dataclass
class SharedDisk:
    """Sectors and reservations."""

    sectors: dict[int, bytes] = field(default_factory=dict)
    registered: dict[int, int] = field(default_factory=dict)
    """Which key each node has registered."""
    holder: int = 0
    """The node with the reservation; 0: none."""
    reservations: bool = True

    def read(self, sector: int, count: int) -> bytes:
        blank = bytes(SECTOR_BYTES)
        return b"".join(self.sectors.get(at, blank) for at in range(sector, sector + count))

    def put(self, node: int, sector: int, data: bytes) -> bool:
        """One sector takes effect, unless the device refuses it."""
        if self.reservations and self.holder and node not in self.registered:
            return False
        self.sectors[sector] = data
        return True

    def reserve(self, node: int, request: DiskRequest) -> bytes | DiskFailed:
        """SPC-4: a reservation is of a registrant, and goes with its registration, whatever becomes of its key."""
        conflict = DiskFailed(code="reservation-conflict", detail="refused")
        if isinstance(request, Register):
            self.registered[node] = request.key
            return b""
        if self.registered.get(node) != getattr(request, "key", 0):
            return conflict
        match request:
            case Reserve():
                if self.holder not in (0, node):
                    return conflict
                self.holder = node
            case Preempt(victim=victim):
                victims = [each for each, key in self.registered.items() if key == victim and each != node]
                if not victims:
                    return conflict
                for each in victims:
                    del self.registered[each]
                if self.holder in victims:
                    self.holder = node
            case Release():
                if self.holder == node:
                    self.holder = 0
            case Clear():
                self.registered.clear()
                self.holder = 0
        return b""


class State:
    """A list of commands."""

    def __init__(self, highest_node: int) -> None:
        self.highest_node = highest_node
        self.leapt = 0
        """By how much the index is ahead, after a damaged log was given up."""
        self.commands: list[bytes] = []

    @property
    def retired(self) -> bool:
        return b"the last one" in self.commands[-1:]

    def apply(self, index: int, command: bytes) -> bytes:
        assert index == self.leapt + len(self.commands) + 1, (index, len(self.commands))
        self.commands.append(command)
        return b""

    def snapshot(self) -> bytes:
        return b"\n".join(self.commands)

    def restore(self, index: int, image: bytes) -> None:
        self.commands = image.split(b"\n") if image else []
        self.leapt = index - len(self.commands)
        assert self.leapt == 0 or self.leapt >= RESET_LEAP, self.leapt


class Node:
    """One node: its log, and what it does to the disk."""

    def __init__(self, world: DiskWorld, number: int) -> None:
        self.world = world
        self.id = NodeId(number)
        self.boot = 0
        self.state = State(world.size)
        self.log: QuorumDiskLog | None = None
        self.held: Held | None = None
        self.leader: NodeId | None = None
        self.clients = 1
        self.stalled_until_ms = 0
        self.frozen_until_ms = 0
        self.ticking = -1.0
        self.waiting: list[Callable[[QuorumDiskLog], None]] = []
        self.gave_way: list[NodeId] = []
        self.troubles: list[tuple[str, str]] = []

    def start(self, *, reset_log: bool = False) -> None:
        self.boot += 1
        self.waiting.clear()
        self.ticking = -1.0
        self.held, self.leader = None, None
        world = self.world
        self.log = QuorumDiskLog(
            node=self.id,
            boot=self.boot,
            key=(0xC1 << 32 | self.id << 16 | self.boot) if world.disk.reservations else 0,
            superblock=world.block,
            timing=TIMING,
            state=self.state,
            index=self.state.leapt + len(self.state.commands),
            log_bytes_max=world.log_bytes_max,
            rng=random.Random(world.random.getrandbits(32)),
            now_ms=world.now_ms,
            reset_log=reset_log,
        )
        for other in world.nodes.values():
            if other.log is not None and other is not self:
                world.connect(self, other)
        self.act(lambda log: log.contest(wanted=True, client_networks=self.clients, now_ms=world.now_ms))

    def crash(self) -> None:
        self.log, self.held = None, None
        for other in self.world.nodes.values():
            if other.log is not None and other is not self:
                other.act(lambda log: log.peer_disconnected(self.id, now_ms=self.world.now_ms))

    def act(self, call: Callable[[QuorumDiskLog], None]) -> None:
        """Let the log do something, now or when the process goes on."""
        if self.log is None:
            return
        world, log = self.world, self.log
        if self.waiting or world.now_ms < self.frozen_until_ms:
            self.waiting.append(call)
            if len(self.waiting) == 1:
                world.later(self.frozen_until_ms - world.now_ms, lambda: self.go_on(log))
            return
        call(log)
        self.perform()

    def go_on(self, log: QuorumDiskLog) -> None:
        """The process runs again: what has happened meanwhile, in its order."""
        if self.log is not log:
            return
        if self.world.now_ms < self.frozen_until_ms:
            self.world.later(self.frozen_until_ms - self.world.now_ms, lambda: self.go_on(log))
            return
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call(log)
            self.perform()

    def perform(self) -> None:
        assert self.log is not None
        world, log = self.world, self.log
        for action in log.take():
            match action:
                case Perform(request=request):
                    world.ask_disk(self, log, request)
                case Send(node=receiver, message=message):
                    world.send(self, world.nodes[receiver], message)
                case Held():
                    self.held = action
                    world.check_held(self, action)
                case Lost():
                    self.held = None
                case OwnerKnown(node=leader):
                    self.leader = leader
                case GiveWay(to=to):
                    self.gave_way.append(to)
                    log.give_back(now_ms=world.now_ms)
                    self.perform()
                    return
                case Trouble(code=code, detail=detail):
                    self.troubles.append((code, detail))
        # The core hears heartbeats all the time; it notices soon that the owner is silent.
        due = min(log.deadline_ms, world.now_ms + 50)
        if not world.now_ms < self.ticking <= due:
            self.ticking = due
            world.later(due - world.now_ms, lambda: self.tick(log, due))

    def tick(self, log: QuorumDiskLog, due: float) -> None:
        if self.log is log and self.ticking == due:
            self.ticking = -1
            hears = self.leader is not None and self.leader != self.id and self.world.hears(self.id, self.leader)
            self.act(lambda log: log.contest(wanted=not hears, client_networks=self.clients, now_ms=self.world.now_ms))
            self.act(lambda log: log.tick(now_ms=self.world.now_ms))


class DiskWorld:
    """See the module. Times are milliseconds; all nodes' clocks agree here."""

    def __init__(self, seed: int, nodes: int, *, reservations: bool, log_bytes_max: int = 4096 * 1024) -> None:
        self.random = random.Random(seed)
        self.now_ms = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.disk = SharedDisk(reservations=reservations)
        self.block = Superblock(
            cluster="c", cluster_name="C", disk=7, sectors=used_sectors(DISK_BYTES_MIN // SECTOR_BYTES), prepared_ms=0
        )
        self.disk.sectors[0] = encode_superblock(self.block)
        self.log_bytes_max = log_bytes_max
        self.size = nodes
        self.nodes: dict[int, Node] = {}
        self.cut: set[frozenset[int]] = set()
        self.blind: set[int] = set()
        """Nodes that do not reach the disk."""
        self.acknowledged: list[bytes] = []
        self.refused: set[bytes] = set()
        self.late_writes = True
        self.owners: list[tuple[int, int]] = []
        for number in range(1, nodes + 1):
            self.nodes[number] = Node(self, number)
        for node in self.nodes.values():
            node.start()

    # --- time -------------------------------------------------------------------------------------------------------

    def later(self, delay_ms: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now_ms + max(0, int(delay_ms)), self._count, call))

    def run(self, duration_ms: int) -> None:
        end = self.now_ms + duration_ms
        while self._events and self._events[0][0] <= end:
            self.now_ms, _, call = heapq.heappop(self._events)
            call()
        self.now_ms = end

    # --- network ----------------------------------------------------------------------------------------------------

    def hears(self, one: int, other: int) -> bool:
        """Whether one node hears that the other one owns the disk."""
        speaker = self.nodes[other]
        if speaker.log is None or self.now_ms < speaker.frozen_until_ms:
            return False
        if speaker.held is None or speaker.held.until_ms <= self.now_ms:
            return False
        return frozenset((one, other)) not in self.cut

    def connect(self, one: Node, other: Node) -> None:
        if frozenset((one.id, other.id)) not in self.cut:
            one.act(lambda log: log.peer_connected(other.id, now_ms=self.now_ms))
            other.act(lambda log: log.peer_connected(one.id, now_ms=self.now_ms))

    def cut_link(self, one: int, other: int) -> None:
        self.cut.add(frozenset((one, other)))
        for here, there in ((one, other), (other, one)):
            self.nodes[here].act(lambda log, there=there: log.peer_disconnected(NodeId(there), now_ms=self.now_ms))  # type: ignore[misc]

    def mend(self) -> None:
        pairs, self.cut = self.cut, set()
        for one, other in (sorted(pair) for pair in pairs):
            if self.nodes[one].log is not None and self.nodes[other].log is not None:
                self.connect(self.nodes[one], self.nodes[other])

    def send(self, sender: Node, receiver: Node, message: object) -> None:
        log = receiver.log

        def arrive() -> None:
            if receiver.log is log and log is not None and frozenset((sender.id, receiver.id)) not in self.cut:
                receiver.act(lambda log: log.received(sender.id, message, now_ms=self.now_ms))  # type: ignore[arg-type]

        self.later(self.random.choice((0, 1, 1, 2)), arrive)

    # --- disk -------------------------------------------------------------------------------------------------------

    def ask_disk(self, node: Node, log: QuorumDiskLog, request: DiskRequest) -> None:
        delay = self.random.choice((0, 0, 1, 1, 2, 5)) + max(0, node.stalled_until_ms - self.now_ms)

        def answer(what: bytes | DiskFailed) -> None:
            if node.log is log:
                node.act(lambda log: log.answered(what, now_ms=self.now_ms))

        if node.id in self.blind:
            self.later(delay + 20, lambda: answer(DiskFailed(code="device-lost", detail="no path")))
            if isinstance(request, Write) and self.late_writes and self.random.random() < 0.3:
                self._write(node, request, self.random.randint(0, 3_000), lambda _: None)
            return
        match request:
            case Read(sector=sector, count=count):
                self.later(delay, lambda: answer(self.disk.read(sector, count)))
            case Write():
                self._write(node, request, delay, answer)
            case _:
                self.later(delay, lambda: answer(self.disk.reserve(node.id, request)))

    def _write(self, node: Node, request: Write, delay: int, answer: Callable[[bytes | DiskFailed], None]) -> None:
        count = len(request.data) // SECTOR_BYTES
        refused: list[int] = []

        def put(number: int) -> None:
            data = request.data[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]
            if not self.disk.put(node.id, request.sector + number, data):
                refused.append(number)

        order = list(range(count))
        self.random.shuffle(order)
        for number in order:
            self.later(self.random.randint(0, delay) if delay else 0, lambda number=number: put(number))  # type: ignore[misc]
        conflict = DiskFailed(code="reservation-conflict", detail="refused")
        self.later(delay, lambda: answer(conflict if refused else b""))

    # --- work and checks --------------------------------------------------------------------------------------------

    def propose(self, number: int, command: bytes) -> None:
        def done(fate: Fate, _: str) -> None:
            if fate is Fate.COMMITTED:
                self.acknowledged.append(command)
            elif fate is Fate.NOT_APPLIED:
                self.refused.add(command)

        self.nodes[number].act(lambda log: log.propose(command, timeout_ms=2_000, done=done, now_ms=self.now_ms))

    def check_held(self, node: Node, held: Held) -> None:
        for other in self.nodes.values():
            if other is node or other.held is None or other.held.until_ms <= self.now_ms:
                continue
            raise AssertionError(f"{node.id} and {other.id} own the disk at {self.now_ms}")
        if not self.owners or self.owners[-1] != (held.epoch, node.id):
            assert held.before_over_ms <= self.now_ms
            assert not self.owners or held.epoch > self.owners[-1][0], (held, self.owners)
            self.owners.append((held.epoch, node.id))

    def owner(self) -> Node | None:
        """Who owns the disk now."""
        for node in self.nodes.values():
            if node.log is not None and node.held is not None and node.held.until_ms > self.now_ms:
                return node
        return None

    def check(self) -> None:
        """One order everywhere, nothing acknowledged lost, nothing refused applied, nothing twice."""
        longest = max((node.state.commands for node in self.nodes.values()), key=len)
        for node in self.nodes.values():
            assert node.state.commands == longest[: len(node.state.commands)], "two orders"
        assert len(set(longest)) == len(longest), "applied twice"
        lost = [command for command in self.acknowledged if command not in set(longest)]
        assert not lost, f"lost: {lost}"
        assert not self.refused & set(longest), "refused, but applied"

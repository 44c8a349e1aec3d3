"""Several real nodes of the log, with the real library inside, on one virtual clock, network and set of disks.

The disks lose what was not synced, tear the last write, forget renames that were not made durable, and fail after a
given number of operations. Checkers run after every step: one command at one index everywhere, one leader in a term,
never two leases, and what was acknowledged is there in the end.
"""

from __future__ import annotations

import heapq
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clussvc.global_update.raft.raft_node import JOURNAL_NAME, SNAPSHOT_NAME
from clussvc.global_update.raft.replicator import Outcome, OutcomeKind, RaftNode, RaftSettings
from clussvc.global_update.raft.storage import AppendFile
from clussvc.quorum.stand_in import split

SETTINGS = RaftSettings(election_timeout_ms=300, heartbeat_ms=60, compaction_entries=1_000)
CLUSTER = "cluster-under-test"


class VirtualDisk:
    """One node's disk: real files, with an own idea of what is durable."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._synced: dict[Path, int] = {}
        self._names: dict[Path, bytes | None] = {}
        self.operations_left: int | None = None
        self.syncs = 0

    def _operate(self) -> None:
        if self.operations_left is not None:
            self.operations_left -= 1
            if self.operations_left < 0:
                raise OSError(5, "the power is off")

    def read(self, path: Path) -> bytes | None:
        return path.read_bytes() if path.exists() else None

    def append_to(self, path: Path, size: int) -> AppendFile:
        os.truncate(path, size)
        self._synced[path] = size
        return _VirtualAppendFile(self, path)

    def append(self, path: Path, data: bytes) -> None:
        try:
            self._operate()
        except OSError:
            data = data[: self._rng.randrange(len(data))]
            with path.open("ab") as file:
                file.write(data)
            raise
        with path.open("ab") as file:
            file.write(data)

    def sync_file(self, path: Path) -> None:
        self._operate()
        self.syncs += 1
        self._synced[path] = path.stat().st_size

    def write_synced(self, path: Path, data: bytes) -> None:
        self._operate()
        path.write_bytes(data)

    def replace(self, path: Path, data: bytes) -> None:
        self.sync_folder(path.parent)
        fresh = path.with_name(path.name + ".new")
        self.write_synced(fresh, data)
        self._operate()
        fresh.rename(path)
        self._synced[path] = len(data)
        self.sync_folder(path.parent)

    def sync_folder(self, folder: Path) -> None:
        self._operate()
        snapshot = folder / SNAPSHOT_NAME
        self._names[snapshot] = snapshot.read_bytes() if snapshot.exists() else None

    def lose_power(self, folder: Path) -> None:
        """Leave what a crash would leave: synced bytes, a torn rest, and perhaps not the newest names."""
        journal = folder / JOURNAL_NAME
        if journal.exists():
            size, synced = journal.stat().st_size, self._synced.get(journal, 0)
            assert synced <= size
            os.truncate(journal, self._rng.randint(synced, size))
        snapshot = folder / SNAPSHOT_NAME
        if snapshot in self._names and self._rng.random() < 0.5:
            before = self._names[snapshot]
            if before is not None:
                snapshot.write_bytes(before)
            else:
                snapshot.unlink(missing_ok=True)
        self.operations_left = None


class _VirtualAppendFile:
    def __init__(self, disk: VirtualDisk, path: Path) -> None:
        self._disk = disk
        self._path = path

    def write(self, data: bytes) -> None:
        self._disk.append(self._path, data)

    def sync(self) -> None:
        self._disk.sync_file(self._path)

    def close(self) -> None:
        """Nothing is held open."""


class Recorder:
    """A state machine that is its own history; a command seen before changes nothing and gets the first answer."""

    retired = False

    def __init__(self, world: World, node_id: int) -> None:
        self._world = world
        self._node_id = node_id
        self.index = 0
        self.history: list[bytes] = []
        self.places: dict[bytes, int] = {}

    def apply(self, index: int, command: bytes) -> bytes:
        assert index == self.index + 1
        self.index = index
        self._world.applied(self._node_id, index, command)
        if command not in self.places:
            self.history.append(command)
            self.places[command] = len(self.history)
        return b"%d" % self.places[command]

    def snapshot(self) -> bytes:
        return b"\n".join(self.history)

    def restore(self, index: int, image: bytes) -> None:
        self.index = index
        self.history = image.split(b"\n") if image else []
        self.places = {command: place for place, command in enumerate(self.history, 1)}


@dataclass(slots=True)
class Network:
    """What happens to frames; all times in seconds."""

    delay_s: tuple[float, float] = (0.0005, 0.002)
    loss: float = 0.0
    duplication: float = 0.0
    late: float = 0.0
    late_s: float = 6.0
    fifo: bool = True
    cut: set[tuple[int, int]] = field(default_factory=set)


@dataclass(slots=True)
class Machine:
    """One computer: its disk outlives its node."""

    folder: Path
    disk: VirtualDisk
    node: RaftNode | None = None
    state: Recorder | None = None
    booted: bool = False
    wake_s: float = 0.0
    crash_expected: bool = False


class World:
    """The cluster under test."""

    def __init__(self, folder: Path, size: int, *, seed: int = 1, settings: RaftSettings = SETTINGS) -> None:
        self.rng = random.Random(seed)
        self.settings = settings
        self.now_s = 1_000.0
        self.network = Network()
        self.machines: dict[int, Machine] = {}
        self.founders = frozenset(range(1, size + 1))
        self.acknowledged: dict[bytes, bytes] = {}
        self.outcomes: dict[bytes, Outcome] = {}
        self.order: dict[int, bytes] = {}
        self.leaders: dict[int, int] = {}
        self.frames: list[tuple[float, int, int, int, bytes]] = []
        self.sent = 0
        self.scrap: set[int] = set()
        self.last_arrival: dict[tuple[int, int], float] = {}
        self.tap: Callable[[int, int, bytes], bool] = lambda sender, receiver, frame: True
        self._folder = folder
        for node_id in sorted(self.founders):
            self.boot(node_id, self.founders)

    # Machines.

    def boot(self, node_id: int, members: frozenset[int] | None = None, *, joining: bool = False) -> RaftNode:
        """Start a machine, for the first time or again."""
        if node_id not in self.machines:
            disk = VirtualDisk(random.Random(self.rng.getrandbits(32)))
            self.machines[node_id] = Machine(folder=self._folder / f"n{node_id}", disk=disk)
        machine = self.machines[node_id]
        machine.state = Recorder(self, node_id)
        machine.node = RaftNode(
            node_id=node_id,
            cluster_id=CLUSTER,
            members=members if members is not None else self.founders | {node_id},
            folder=machine.folder,
            first_boot=not machine.booted,
            state_machine=machine.state,
            settings=self.settings,
            send=lambda receiver, frame: self._send(node_id, receiver, frame),
            now_s=lambda: self.now_s,
            rng=random.Random(self.rng.getrandbits(32)),
            on_fatal=lambda error: self._fatal(node_id, error),
            joining=joining,
            storage=machine.disk,
        )
        machine.booted = True
        machine.crash_expected = False
        machine.wake_s = self.now_s
        for other, peer in self.up():
            if other != node_id:
                peer.peer_connected(node_id)
                machine.node.peer_connected(other)
        return machine.node

    def crash(self, node_id: int) -> None:
        """Power off: unsynced bytes are lost."""
        machine = self.machines[node_id]
        assert machine.node is not None
        machine.crash_expected = True
        machine.node.close()
        machine.node = None
        machine.disk.lose_power(machine.folder)
        for other, peer in self.up():
            peer.peer_disconnected(node_id)
            self.machines[other].wake_s = self.now_s

    def forget_leader(self, node_id: int, leader: int) -> None:
        """A node learns that the process of the leader is certainly over."""
        self.node(node_id).forget_leader(leader)
        self.machines[node_id].wake_s = self.now_s

    def up(self) -> list[tuple[int, RaftNode]]:
        """The running nodes."""
        return [(node_id, machine.node) for node_id, machine in self.machines.items() if machine.node is not None]

    def node(self, node_id: int) -> RaftNode:
        """A running node."""
        node = self.machines[node_id].node
        assert node is not None
        return node

    def history(self, node_id: int) -> list[bytes]:
        """What a node's state machine has seen."""
        state = self.machines[node_id].state
        assert state is not None
        return state.history

    def _fatal(self, node_id: int, error: Exception) -> None:
        machine = self.machines[node_id]
        if machine.disk.operations_left is None and not machine.crash_expected:
            raise AssertionError(f"node {node_id} ended: {error!r}") from error
        machine.crash_expected = True

    # Network and time.

    def _send(self, sender: int, receiver: int, frame: bytes) -> None:
        if not self.tap(sender, receiver, frame):
            return
        network = self.network
        for _ in range(2 if self.rng.random() < network.duplication else 1):
            if self.rng.random() < network.loss:
                continue
            late = self.rng.random() < network.late
            arrival = self.now_s + (self.rng.uniform(0, network.late_s) if late else self.rng.uniform(*network.delay_s))
            if network.fifo:
                arrival = max(arrival, self.last_arrival.get((sender, receiver), 0.0))
                self.last_arrival[sender, receiver] = arrival
            self.inject(sender, receiver, frame, arrival)

    def inject(self, sender: int, receiver: int, frame: bytes, arrival_s: float | None = None) -> None:
        """Put a frame on its way, whoever made it."""
        self.sent += 1
        heapq.heappush(
            self.frames, (self.now_s if arrival_s is None else arrival_s, self.sent, sender, receiver, frame)
        )

    def isolate(self, *group: int) -> None:
        """Cut these nodes off from the others, silently and both ways."""
        rest = set(self.machines) - set(group)
        self.network.cut |= {(a, b) for a in group for b in rest} | {(b, a) for a in group for b in rest}

    def heal(self) -> None:
        """All links work."""
        self.network.cut.clear()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until a condition holds; False when the limit came first."""
        end = self.now_s + limit_s
        while not condition():
            due = min(
                (machine.wake_s for machine in self.machines.values() if machine.node is not None), default=float("inf")
            )
            if self.frames:
                due = min(due, self.frames[0][0])
            if due > end:
                self.now_s = end
                return condition()
            self.now_s = max(self.now_s, due)
            self._advance()
        return True

    def settle(self, condition: Callable[[], bool], limit_s: float = 20.0) -> None:
        """As run_until, but the condition must come true."""
        assert self.run_until(condition, limit_s), "the cluster did not get there in time"

    def _advance(self) -> None:
        while self.frames and self.frames[0][0] <= self.now_s:
            _, _, sender, receiver, frame = heapq.heappop(self.frames)
            machine = self.machines.get(receiver)
            if machine is not None and machine.node is not None and (sender, receiver) not in self.network.cut:
                machine.node.receive(sender, frame)
                machine.wake_s = self.now_s
        for node_id, machine in self.machines.items():
            if machine.node is not None and machine.wake_s <= self.now_s:
                machine.node.step()
                if machine.crash_expected:
                    self.crash(node_id)
                    continue
                machine.wake_s = max(machine.node.next_wake_s(), self.now_s + 0.001)
                self._check_leaders()

    # Work and checks.

    def propose(self, node_id: int, command: bytes, timeout_s: float = 5.0) -> None:
        """Propose at a node; the outcome is kept."""

        def done(outcome: Outcome) -> None:
            assert command not in self.outcomes, f"two outcomes for {command!r}"
            self.outcomes[command] = outcome
            if outcome.kind is OutcomeKind.COMMITTED:
                assert outcome.result is not None
                self.acknowledged[command] = outcome.result

        self.node(node_id).propose(command, timeout_s, done)
        self.machines[node_id].wake_s = self.now_s

    def commit(self, node_id: int, *commands: bytes) -> None:
        """Propose and wait until all are acknowledged."""
        for command in commands:
            self.propose(node_id, command)
        self.settle(lambda: all(command in self.outcomes for command in commands))
        for command in commands:
            assert self.outcomes[command].kind is OutcomeKind.COMMITTED, (command, self.outcomes[command])

    def lead(self) -> int:
        """Wait for a leader with a lease."""
        self.settle(lambda: self.holder() is not None)
        holder = self.holder()
        assert holder is not None
        return holder

    def holder(self) -> int | None:
        """Who holds the lease now."""
        holders = [node_id for node_id, node in self.up() if node.is_leader_with_lease]
        assert len(holders) <= 1, f"{holders} hold leases at once"
        return holders[0] if holders else None

    def applied(self, node_id: int, index: int, command: bytes) -> None:
        """Called by the state machines."""
        expected = self.order.setdefault(index, command)
        assert expected == command, f"node {node_id} applies {command!r} at {index}, others applied {expected!r}"

    def _check_leaders(self) -> None:
        for node_id, node in self.up():
            statistics = node.statistics()
            if statistics.is_leader:
                first = self.leaders.setdefault(statistics.term, node_id)
                assert first == node_id, f"nodes {first} and {node_id} lead in term {statistics.term}"
        self.holder()

    def converge(self, limit_s: float = 30.0) -> None:
        """Heal everything and expect all nodes to agree, with all that was acknowledged."""
        self.heal()
        self.network = Network()
        for node_id, machine in self.machines.items():
            machine.disk.operations_left = None
            if machine.node is None:
                self.boot(node_id)
        self.lead()
        members = split(self.node(self.lead()).members)[0]
        last = b"last-%d" % self.rng.getrandbits(40)
        self.commit(min(members), last)
        self.settle(lambda: all(last in self.history(node_id) for node_id in members), limit_s)
        self.run(1.0)
        histories = {node_id: self.history(node_id) for node_id in members}
        reference = histories[min(members)]
        for node_id, history in histories.items():
            assert history == reference, f"node {node_id} differs"
        for command, result in self.acknowledged.items():
            assert reference[int(result) - 1] == command, f"{command!r} was acknowledged and is lost"

    def close(self) -> None:
        """End all nodes."""
        for _, node in self.up():
            node.close()

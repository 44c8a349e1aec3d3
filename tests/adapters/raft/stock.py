"""Several nodes of the library as it is shipped, on one virtual clock, with its own journal, dump and protocol.

The transport here does what the library's TCP transport does, without sockets: the library's own messages, pickled and
unpickled as they are, in order on each connection; a connection that is lost takes its messages with it and is noticed
by both ends; one that is only cut holds them until it is healed or times out. Nothing of the library is changed or
subclassed beyond what its users subclass. Only its clock and its dice are replaced, and reading the clock takes a
little virtual time, or loops that wait for it would never end.

:class:`StockCluster` has the methods of the :class:`~tests.adapters.raft.world.World` that stories need, so that one
story can be told of both.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pysyncobj.journal as library_journal
import pysyncobj.pickle as library_pickle
import pysyncobj.serializer as library_serializer
import pysyncobj.syncobj as library
import pytest
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.journal import createJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from clussvc.global_update.raft.library import install
from clussvc.global_update.raft.replicator import Outcome, OutcomeKind

CLOCK_READ_S = 20e-6
TICK_S = 0.01
DELAY_S = 0.001
BYTES_PER_S = 20e6
CONNECTION_TIMEOUT_S = 3.5
CONNECTION_RETRY_S = 0.3
JOURNAL_NAME = "journal"
DUMP_NAME = "dump"

_KINDS = {
    FAIL_REASON.SUCCESS: OutcomeKind.COMMITTED,
    FAIL_REASON.LEADER_CHANGED: OutcomeKind.UNKNOWN,
    FAIL_REASON.UNKNOWN_OUTCOME: OutcomeKind.UNKNOWN,
}
"""What the library's answers mean; all others say that the command was not applied."""

Tap = Callable[[int, int, Mapping[str, Any]], bool]


class StockPeer(Node):  # type: ignore[misc]  # The library has no types.
    """A node whose hash does not depend on the process, so that a story is the same every time."""

    def __hash__(self) -> int:
        return int(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.id == other.id


class StockNode(SyncObj):  # type: ignore[misc]
    """A user's object as the library's manual writes it: a replicated list."""

    def __init__(self, on_apply: Callable[[bytes], None], *args: Any, **kwargs: Any) -> None:
        # What is set before belongs to this process, what is set after to the dump: so the library tells them apart.
        self.on_apply = on_apply
        self.errors: list[Exception] = []
        super().__init__(*args, **kwargs)
        self.history: list[bytes] = []

    @replicated  # type: ignore[untyped-decorator]
    def put(self, command: bytes) -> int:
        """Append a command, and say at which place."""
        self.on_apply(command)
        self.history.append(command)
        return len(self.history)


class _StockTransport(Transport):  # type: ignore[misc]
    """What the library sends through."""

    def __init__(self, cluster: StockCluster, node_id: int, known: set[int]) -> None:
        super().__init__(None, None, [])
        self._cluster = cluster
        self._node_id = node_id
        self.known = known

    def send(self, node: Any, message: Mapping[str, Any]) -> bool:
        return self._cluster.post(self._node_id, int(node.id), message)

    def addNode(self, node: Any) -> None:
        self.known.add(int(node.id))

    def dropNode(self, node: Any) -> None:
        self.known.discard(int(node.id))
        self._cluster.disconnect(self._node_id, int(node.id))

    def connected(self, peer: int) -> None:
        self._onNodeConnected(StockPeer(str(peer)))

    def disconnected(self, peer: int) -> None:
        self._onNodeDisconnected(StockPeer(str(peer)))

    def received(self, peer: int, message: Mapping[str, Any]) -> None:
        self._onMessageReceived(StockPeer(str(peer)), message)


@dataclass(slots=True)
class _Connection:
    up: bool = False
    generation: int = 0
    cut_s: float | None = None
    retry_s: float = 0.0
    held: list[tuple[int, int, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class _Process:
    """One running node."""

    raft: StockNode
    transport: _StockTransport
    journal: Any
    tick_s: float


class _Dice:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def random(self) -> float:
        return self._rng.random()


class StockCluster:
    """The library's nodes under test. Use it inside :func:`stock_library`, which puts the clock in place."""

    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        seed: int = 1,
        hooks: Callable[[int], Mapping[str, Any]] = lambda node_id: {},
        **options: Any,
    ) -> None:
        """``options`` are the library's own, ``hooks`` those that differ from node to node; what is not given is its
        default, except that it is ticked by hand, writes its dump without a fork (a fork inside a test would not be
        repeatable) and does not batch."""
        self.now_s = 1_000.0
        self.rng = random.Random(seed)
        self.founders = frozenset(range(1, size + 1))
        self.outcomes: dict[bytes, Outcome] = {}
        self.tap: Tap = lambda sender, receiver, message: True
        self.on_apply: Callable[[int, bytes], None] = lambda node_id, command: None
        self.sent = 0
        self._options = options
        self._hooks = hooks
        self._folder = folder
        self._processes: dict[int, _Process] = {}
        self._connections: dict[frozenset[int], _Connection] = {}
        self._cut: set[frozenset[int]] = set()
        self._messages: list[tuple[float, int, int, int, int, bytes]] = []
        self._last_arrival: dict[tuple[int, int], float] = {}
        self._journal: Any = None

    def begin(self) -> None:
        """Boot all founders."""
        for node_id in sorted(self.founders):
            self.boot(node_id)

    # The library's surroundings.

    def read_clock(self) -> float:
        """The library's clock."""
        self.now_s += CLOCK_READ_S
        return self.now_s

    def make_journal(self, path: str | None = None) -> Any:
        """The library's own journal; kept, so that a killed process can be told from one that ends in order."""
        self._journal = createJournal(path)
        return self._journal

    # Machines.

    def folder(self, node_id: int) -> Path:
        """Where a node keeps its files."""
        return self._folder / f"n{node_id}"

    def boot(
        self, node_id: int, members: frozenset[int] | None = None, *, kind: type[StockNode] = StockNode
    ) -> StockNode:
        """Start a process, for the first time or again, with the members of its command line."""
        folder = self.folder(node_id)
        folder.mkdir(parents=True, exist_ok=True)
        others = (members if members is not None else self.founders) - {node_id}
        options: dict[str, Any] = {
            "autoTick": False,
            "appendEntriesUseBatch": False,
            "useFork": False,
            "dynamicMembershipChange": True,
            "journalFile": str(folder / JOURNAL_NAME),
            "fullDumpFile": str(folder / DUMP_NAME),
        }
        transport = _StockTransport(self, node_id, set(others))
        raft = kind(
            lambda command: self.on_apply(node_id, command),
            StockPeer(str(node_id)),
            [StockPeer(str(other)) for other in sorted(others)],
            SyncObjConf(**(options | self._options | dict(self._hooks(node_id)))),
            nodeClass=StockPeer,
            transport=transport,
        )
        self._processes[node_id] = _Process(raft, transport, self._journal, self.now_s)
        return raft

    def crash(self, node_id: int) -> None:
        """Kill the process. What it wrote stays, as the kernel keeps it; nothing is written in farewell."""
        process = self._processes.pop(node_id)
        for other in list(self._processes):
            self.disconnect(node_id, other)
        process.journal._destroy()

    def close(self) -> None:
        """End all processes."""
        for node_id in list(self._processes):
            self.crash(node_id)

    def node(self, node_id: int) -> StockNode:
        """A running node."""
        return self._processes[node_id].raft

    def journal(self, node_id: int) -> Any:
        """The library's journal of a running node."""
        return self._processes[node_id].journal

    # Network.

    def post(self, sender: int, receiver: int, message: Mapping[str, Any]) -> bool:
        """What the library's transport does with a message: false when there is no connection."""
        connection = self._connection(sender, receiver)
        if not connection.up:
            return False
        if self.tap(sender, receiver, message):
            self._put(sender, receiver, bytes(library_pickle.dumps(message)))
        return True

    def inject(self, sender: int, receiver: int, message: Mapping[str, Any]) -> None:
        """Put a message on its way, whoever made it."""
        self._put(sender, receiver, bytes(library_pickle.dumps(message)))

    def _put(self, sender: int, receiver: int, data: bytes) -> None:
        arrival = max(self.now_s + DELAY_S, self._last_arrival.get((sender, receiver), 0.0)) + len(data) / BYTES_PER_S
        self._last_arrival[sender, receiver] = arrival
        self.sent += 1
        generation = self._connection(sender, receiver).generation
        heapq.heappush(self._messages, (arrival, self.sent, sender, receiver, generation, data))

    def isolate(self, *group: int) -> None:
        """Cut these nodes off from the others; both ends notice when the connection times out."""
        for a in group:
            for b in set(self._processes) - set(group):
                self.cut(a, b)

    def cut(self, a: int, b: int) -> None:
        """Cut one link."""
        self._cut.add(frozenset((a, b)))

    def heal(self) -> None:
        """All links work; what was held is delivered, in order."""
        self._cut.clear()
        for connection in self._connections.values():
            connection.cut_s = None
            held, connection.held = connection.held, []
            for sender, receiver, data in held:
                self._put(sender, receiver, data)

    def reset(self, a: int, b: int) -> None:
        """Break one connection; both ends notice at once and connect again after the retry time."""
        self.disconnect(a, b)

    def _connection(self, a: int, b: int) -> _Connection:
        return self._connections.setdefault(frozenset((a, b)), _Connection())

    def disconnect(self, a: int, b: int) -> None:
        """Both ends notice; what was under way is gone."""
        connection = self._connection(a, b)
        if not connection.up:
            return
        connection.up = False
        connection.generation += 1
        connection.retry_s = self.now_s + CONNECTION_RETRY_S
        connection.cut_s = None
        connection.held.clear()
        for end, other in ((a, b), (b, a)):
            if end in self._processes:
                self._processes[end].transport.disconnected(other)

    def _look_after_connections(self) -> None:
        nodes = sorted(self._processes)
        for position, a in enumerate(nodes):
            for b in nodes[position + 1 :]:
                self._look_after(a, b)

    def _look_after(self, a: int, b: int) -> None:
        connection = self._connection(a, b)
        if frozenset((a, b)) in self._cut:
            if connection.up and connection.cut_s is None:
                connection.cut_s = self.now_s
            if connection.cut_s is not None and self.now_s - connection.cut_s > CONNECTION_TIMEOUT_S:
                self.disconnect(a, b)
            return
        mutual = b in self._processes[a].transport.known and a in self._processes[b].transport.known
        if not connection.up and mutual and self.now_s >= connection.retry_s:
            connection.up = True
            self._processes[a].transport.connected(b)
            self._processes[b].transport.connected(a)

    # Time.

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until a condition holds; False when the limit came first."""
        end = self.now_s + limit_s
        while not condition():
            due = min((process.tick_s for process in self._processes.values()), default=end)
            if self._messages:
                due = min(due, self._messages[0][0])
            if due > end or self.now_s > end:
                self.now_s = max(self.now_s, end)
                return condition()
            self.now_s = max(self.now_s, due)
            self._advance()
        return True

    def settle(self, condition: Callable[[], bool], limit_s: float = 20.0) -> None:
        """As run_until, but the condition must come true."""
        assert self.run_until(condition, limit_s), "the cluster did not get there in time"

    def _advance(self) -> None:
        self._look_after_connections()
        if self._messages and self._messages[0][0] <= self.now_s:
            self._deliver(*heapq.heappop(self._messages)[2:])
            return
        for node_id, process in list(self._processes.items()):
            if process.tick_s <= self.now_s and self._processes.get(node_id) is process:
                self.tick(node_id)

    def _deliver(self, sender: int, receiver: int, generation: int, data: bytes) -> None:
        connection = self._connection(sender, receiver)
        if frozenset((sender, receiver)) in self._cut:
            if connection.generation == generation:
                connection.held.append((sender, receiver, data))
            return
        process = self._processes.get(receiver)
        if process is None or connection.generation != generation:
            return
        try:
            process.transport.received(sender, library_pickle.loads(data))
        except Exception as error:  # noqa: BLE001 (as below: messages are read inside a turn of the loop)
            process.raft.errors.append(error)
        self.tick(receiver)

    def tick(self, node_id: int) -> None:
        """One turn of the library's own loop, which logs what is raised and goes on."""
        process = self._processes[node_id]
        try:
            process.raft.doTick(0)
        except Exception as error:  # noqa: BLE001 (as the library's tick thread does)
            process.raft.errors.append(error)
        process.tick_s = self.now_s + TICK_S

    # Work.

    def propose(self, node_id: int, command: bytes, timeout_s: float = 5.0) -> None:
        """Propose at a node. The library knows no time-out; what it answers, and when, is kept."""
        del timeout_s

        def done(result: int | None, reason: int) -> None:
            kind = _KINDS.get(reason, OutcomeKind.REFUSED)
            self.outcomes[command] = Outcome(kind=kind, result=None if result is None else b"%d" % result)

        self.node(node_id).put(command, callback=done)

    def commit(self, node_id: int, *commands: bytes) -> None:
        """Propose and wait until all are acknowledged."""
        for command in commands:
            self.propose(node_id, command)
        self.settle(lambda: all(command in self.outcomes for command in commands))
        for command in commands:
            assert self.outcomes[command].kind is OutcomeKind.COMMITTED, (command, self.outcomes[command])

    def lead(self) -> int:
        """Wait for a leader that has committed something in its term."""
        self.settle(lambda: self.holder() is not None)
        holder = self.holder()
        assert holder is not None
        return holder

    def holder(self) -> int | None:
        """The leader of the newest term, once all of its log is committed."""
        leaders = {self.term(node_id): node_id for node_id in self._processes if self.claims(node_id)}
        if not leaders:
            return None
        newest = leaders[max(leaders)]
        return newest if int(self.node(newest).raftCommitIndex) == self.log_last(newest) else None

    # What is seen.

    def history(self, node_id: int) -> list[bytes]:
        """What a node's state holds."""
        return self.node(node_id).history

    def claims(self, node_id: int) -> bool:
        """Whether a node believes that it leads."""
        return bool(self.node(node_id)._isLeader())

    def term(self, node_id: int) -> int:
        """A node's term."""
        return int(self.node(node_id).raftCurrentTerm)

    def log_last(self, node_id: int) -> int:
        """The index of the last entry that a node holds."""
        return int(self.journal(node_id)[-1][1])

    def log_first(self, node_id: int) -> int:
        """The index of the first entry that a node holds."""
        return int(self.journal(node_id)[0][1])

    def members(self, node_id: int) -> frozenset[int]:
        """Who counts, by a node's reckoning."""
        return frozenset(int(other.id) for other in self.node(node_id).otherNodes) | {node_id}

    def compact(self, node_id: int) -> None:
        """Have a node write its dump at its next tick."""
        self.node(node_id).forceLogCompaction()


@contextmanager
def stock_library(folder: Path, size: int, *, seed: int = 1, **options: Any) -> Iterator[StockCluster]:
    """A cluster of the library as it is shipped; afterwards all is as before."""
    install()
    cluster = StockCluster(folder, size, seed=seed, **options)
    with ExitStack() as opened, pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "monotonicTime", cluster.read_clock)
        patch.setattr(library, "random", _Dice(cluster.rng))
        patch.setattr(library, "createJournal", cluster.make_journal)
        # What it logs while it fails, often in a loop, is of no interest here and costs more than all the rest.
        for module in (library, library_serializer):
            patch.setattr(module.logger, "disabled", True)
        keep_open_files(opened, patch)
        try:
            cluster.begin()
            yield cluster
        finally:
            cluster.close()


def keep_open_files(opened: ExitStack, patch: pytest.MonkeyPatch) -> None:
    """Close in the end what the library leaves to the garbage collector."""
    # Our own seams first: put in place later, they would be undone with these.
    install()

    def keep(path: str, mode: str) -> IO[Any]:
        file: IO[Any] = opened.enter_context(open(path, mode))  # noqa: SIM115 (the stack is the context)
        return file

    for module in (library_journal, library_serializer):
        patch.setattr(module, "open", keep, raising=False)


def commands(name: str, count: int, *, size: int = 0) -> list[bytes]:
    """Distinct commands, of at least ``size`` bytes."""
    return [f"{name} {number} ".encode().ljust(size, b".") for number in range(count)]

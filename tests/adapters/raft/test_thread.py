"""The log on real threads, the real clock and a real disk, with queues for a network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clussvc.global_update.raft.replicator import Outcome, OutcomeKind, RaftSettings, RaftThread, beginning
from clussvc.global_update.raft.stored_log import begin_offline, read_stored_log
from clussvc.model.errors import ClusterError

SETTINGS = RaftSettings(election_timeout_ms=600, heartbeat_ms=100, compaction_entries=100)
LIMIT_S = 30.0


class Counter:
    """A state machine that keeps what it has seen, and tells waiting tests."""

    retired = False

    def __init__(self) -> None:
        self.history: list[bytes] = []
        self.changed = threading.Condition()

    def apply(self, index: int, command: bytes) -> bytes:
        with self.changed:
            if command not in self.history:
                self.history.append(command)
            self.changed.notify_all()
        return b"%d" % index

    def snapshot(self) -> bytes:
        return b"\n".join(self.history)

    def restore(self, index: int, image: bytes) -> None:
        with self.changed:
            self.history = image.split(b"\n") if image else []
            self.changed.notify_all()

    def wait_for(self, command: bytes) -> None:
        """Wait until a command was applied."""
        with self.changed:
            assert self.changed.wait_for(lambda: command in self.history, LIMIT_S)


class Trio:
    """Three running nodes in one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.threads: dict[int, RaftThread] = {}
        self.states: dict[int, Counter] = {}
        self.failures: list[Exception] = []
        self.leading = threading.Condition()
        self.leaders: dict[int, tuple[int | None, bool]] = {}

    def start(self, node_id: int, *, first_boot: bool, joining: bool = False) -> None:
        """Start one node and connect it with the running ones."""
        self.states[node_id] = Counter()
        thread = RaftThread(
            node_id=node_id,
            cluster_id="threads",
            members=frozenset({1, 2, 3}),
            folder=self.folder / str(node_id),
            first_boot=first_boot,
            joining=joining,
            state_machine=self.states[node_id],
            settings=SETTINGS,
            send=lambda receiver, frame: self._send(node_id, receiver, frame),
            on_fatal=self.failures.append,
            on_leader_changed=self._listener(node_id),
        )
        self.threads[node_id] = thread
        thread.start()
        for other, peer in list(self.threads.items()):
            if other != node_id:
                peer.peer_connected(node_id)
                thread.peer_connected(other)

    def stop(self, node_id: int) -> None:
        """Stop one node."""
        self.threads.pop(node_id).stop()
        with self.leading:
            self.leaders.pop(node_id, None)
        for peer in self.threads.values():
            peer.peer_disconnected(node_id)

    def _send(self, sender: int, receiver: int, frame: bytes) -> None:
        peer = self.threads.get(receiver)
        if peer is not None:
            peer.receive(sender, frame)

    def _listener(self, node_id: int) -> Callable[[int | None, bool], None]:
        def changed(leader: int | None, with_lease: bool) -> None:
            with self.leading:
                self.leaders[node_id] = (leader, with_lease)
                self.leading.notify_all()

        return changed

    def lead(self) -> int:
        """Wait for a leader with a lease."""
        with self.leading:
            assert self.leading.wait_for(lambda: any(lease for _, lease in self.leaders.values()), LIMIT_S)
            return next(node_id for node_id, (_, lease) in self.leaders.items() if lease)

    def commit(self, node_id: int, command: bytes) -> None:
        """Propose and wait."""
        answered = threading.Event()
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            answered.set()

        self.threads[node_id].propose(command, LIMIT_S, done)
        assert answered.wait(LIMIT_S)
        assert OutcomeKind.COMMITTED is outcomes[0].kind, outcomes


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    """Three nodes that are stopped afterwards."""
    made = Trio(tmp_path)
    for node_id in (1, 2, 3):
        made.start(node_id, first_boot=True)
    yield made
    for node_id in list(made.threads):
        made.stop(node_id)


def test_commits_failover_and_restart_on_real_threads(trio: Trio) -> None:
    """Commands from every node, the leader stops, the others go on, and it catches up after its return."""
    leader = trio.lead()
    for number in range(30):
        trio.commit(1 + number % 3, b"first %d" % number)
    trio.stop(leader)
    rest = sorted(trio.threads)
    for number in range(150):
        trio.commit(rest[number % 2], b"second %d" % number)
    assert trio.lead() != leader
    trio.start(leader, first_boot=False)
    trio.commit(leader, b"last")
    for node_id in (1, 2, 3):
        trio.states[node_id].wait_for(b"last")
    assert trio.states[1].history == trio.states[2].history == trio.states[3].history
    assert 181 == len(trio.states[1].history)
    assert not trio.failures


def test_what_is_stored_can_be_read_without_taking_part(tmp_path: Path) -> None:
    """Image and commands together are what the node has applied; its last entry is the newest; damage is refused."""
    trio = Trio(tmp_path)
    for node_id in (1, 2, 3):
        trio.start(node_id, first_boot=True)
    for number in range(130):
        trio.commit(1, b"%d" % number)
    for node_id in (1, 2, 3):
        trio.states[node_id].wait_for(b"129")
        trio.stop(node_id)
    for node_id in (1, 2, 3):
        stored = read_stored_log(tmp_path / str(node_id), cluster_id="threads", node_id=node_id)
        image = stored.image.split(b"\n") if stored.image else []
        assert [b"%d" % number for number in range(130)] == [*image, *stored.commands]
        assert stored.applied == len(image)
        assert stored.index > 130
        assert stored.term >= 1
    with pytest.raises(ClusterError) as caught:
        read_stored_log(tmp_path / "1", cluster_id="threads", node_id=2)
    assert "journal-foreign" == caught.value.code
    (tmp_path / "1" / "raft.journal").unlink()
    with pytest.raises(ClusterError) as caught:
        read_stored_log(tmp_path / "1", cluster_id="threads", node_id=1)
    assert "journal-missing" == caught.value.code
    assert not trio.failures


def test_a_node_joins_a_log_that_began_with_a_state(tmp_path: Path) -> None:
    """As after a change of the quorum: what the log began with reaches a node that was no part of it, like the rest."""
    trio = Trio(tmp_path)
    image = b"\n".join(b"old %d" % number for number in range(5))
    for node_id in (1, 2):
        snapshot = beginning(cluster_id="threads", members=frozenset({1, 2}), index=1_000, image=image)
        begin_offline(tmp_path / str(node_id), snapshot, node_id=node_id)
    for node_id in (1, 2):
        trio.start(node_id, first_boot=False)
    for number in range(3):
        trio.commit(1, b"new %d" % number)
    trio.start(3, first_boot=True, joining=True)
    added = threading.Event()
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        added.set()

    trio.threads[trio.lead()].add_member(3, done)
    assert added.wait(LIMIT_S)
    assert OutcomeKind.COMMITTED is outcomes[0].kind, outcomes
    trio.commit(3, b"last")
    for node_id in (1, 2, 3):
        trio.states[node_id].wait_for(b"last")
    wanted = [*image.split(b"\n"), b"new 0", b"new 1", b"new 2", b"last"]
    assert [wanted] * 3 == [trio.states[node_id].history for node_id in (1, 2, 3)]
    assert not trio.failures
    for node_id in (1, 2, 3):
        trio.stop(node_id)


def test_a_failing_state_machine_ends_the_node(tmp_path: Path) -> None:
    """An exception while applying is fatal, once, and the proposal's outcome is unknown; later ones are refused."""

    class Broken(Counter):
        def apply(self, index: int, command: bytes) -> bytes:
            raise RuntimeError("broken")

    failed = threading.Event()
    failures: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        failures.append(error)
        failed.set()

    outcomes: list[Outcome] = []
    thread = one_node(tmp_path, Broken(), on_fatal)
    thread.start()
    thread.propose(b"x", LIMIT_S, outcomes.append)
    assert failed.wait(LIMIT_S)
    thread.stop()
    thread.propose(b"y", LIMIT_S, outcomes.append)
    assert [OutcomeKind.UNKNOWN, OutcomeKind.REFUSED] == [outcome.kind for outcome in outcomes]
    assert ["broken"] == [str(error) for error in failures]


def test_another_release_of_the_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safety was shown for one release only; the message says how to get it."""
    monkeypatch.setattr("clussvc.global_update.raft.library.VERSION", "0.3.18")
    with pytest.raises(ClusterError, match=r"pip install pysyncobj==0\.3\.17"):
        one_node(tmp_path, Counter(), lambda error: None)


def test_a_failing_callback_ends_the_node(tmp_path: Path) -> None:
    """An exception in a callback never runs through the library, which would apply the command again."""
    failed = threading.Event()
    state = Counter()
    thread = one_node(tmp_path, state, lambda error: failed.set())
    thread.start()

    def done(outcome: Outcome) -> None:
        raise RuntimeError("callback")

    thread.propose(b"x", LIMIT_S, done)
    assert failed.wait(LIMIT_S)
    thread.stop()
    outcomes: list[Outcome] = []
    thread.propose(b"y", LIMIT_S, outcomes.append)
    assert [OutcomeKind.REFUSED] == [outcome.kind for outcome in outcomes]
    assert [b"x"] == state.history
    assert 1 == thread.applied_index
    assert not thread.is_leader_with_lease


def one_node(folder: Path, state: Counter, on_fatal: Callable[[Exception], None]) -> RaftThread:
    """A cluster of one."""
    return RaftThread(
        node_id=1,
        cluster_id="one",
        members=frozenset({1}),
        folder=folder,
        first_boot=True,
        state_machine=state,
        settings=SETTINGS,
        send=lambda receiver, frame: None,
        on_fatal=on_fatal,
    )

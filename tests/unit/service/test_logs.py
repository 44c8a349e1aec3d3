"""The logs of a node while they change: what reaches which of them, and what is kept until the next one is open."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import pytest

from clussvc import codec
from clussvc.actions import AddLogMember, ChangeLog, ContestQuorum, RemoveLogMember, TellNews
from clussvc.comms.wire import Kind
from clussvc.events import PeerBehind, QuorumNews
from clussvc.global_update.raft.replicator import beginning, encode_snapshot
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import ClusterId, NodeId
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.settings import LAN, WAN, Timing
from clussvc.ports import Done, Outcome, OutcomeKind
from clussvc.quorum.news import NewsPiece, Notice, pieces
from clussvc.quorum.stand_in import Decision
from clussvc.service import logs as module
from clussvc.service.logs import LogMakers, Logs

LIMIT_S = 20.0
CLUSTER = "c" * 32
MAJORITY = Quorum(generation=1)
DISK = Quorum(kind=QuorumKind.DISK, device="/dev/sdb", disk="0" * 15 + "1", sectors=25_600, generation=2)


class Engine:
    """A log that writes down what it is told."""

    trouble = ""
    applied_index = 5

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.told: list[tuple[object, ...]] = []
        self.stopped = threading.Event()

    def start(self) -> None:
        self.told.append(("start",))

    def stop(self) -> None:
        self.stopped.set()

    def receive(self, sender: int, frame: bytes) -> None:
        self.told.append(("frame", sender, frame))

    def peer_connected(self, node: int) -> None:
        self.told.append(("connected", node))

    def peer_disconnected(self, node: int) -> None:
        self.told.append(("disconnected", node))

    def use_timing(self, timing: Timing) -> None:
        self.told.append(("timing", timing.profile))

    def use_quorum(self, quorum: Quorum) -> None:
        """Told in every change."""

    def forget_leader(self, node: int) -> None:
        self.told.append(("forget", node))

    def use_decision(self, decision: Decision) -> None:
        self.told.append(("decision", decision))

    def propose(self, command: bytes, timeout_s: float, done: Done) -> None:
        self.told.append(("propose", command))

    def change_members(self, action: AddLogMember | RemoveLogMember, done: Done) -> None:
        self.told.append(("members", action.node))

    def contest(self, *, wanted: bool, client_networks: int) -> None:
        self.told.append(("contest", wanted, client_networks))

    def give_back(self) -> None:
        self.told.append(("give back",))


class Room:
    """A node in the log of the first generation, connected to node 2."""

    def __init__(self) -> None:
        self.first, self.next = Engine(Kind.RAFT), Engine(Kind.DISK_LOG)
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.fails: Exception | None = None
        self.sent: list[tuple[int, Kind, bytes]] = []
        self.events: list[PeerBehind | QuorumNews] = []
        self.discarded: list[int] = []
        self.deaths: list[str] = []
        self.snapshot: bytes | None = None
        makers = LogMakers(begin=self.begin, discard=self.discarded.append, snapshot=lambda generation: self.snapshot)
        self.logs = Logs(
            self.first,
            MAJORITY,
            cluster_id=CLUSTER,
            makers=makers,
            send=lambda node, kind, payload: self.sent.append((node, kind, payload)),
            tell=self.events.append,
            die=self.die,
        )
        self.logs.start()
        self.logs.peer_connected(2)
        self.first.told.clear()
        self.sent.clear()

    def begin(self, action: ChangeLog) -> Engine:
        assert self.gate.wait(LIMIT_S)
        if self.fails is not None:
            raise self.fails
        return self.next

    def die(self, why: str) -> None:
        self.deaths.append(why)
        self.begun.set()

    def change(self) -> None:
        self.logs.change(ChangeLog(quorum=DISK, index=9, config=config(DISK), beginning=b""))

    def open(self) -> None:
        """The next log may be opened now; returns when it is."""
        self.gate.set()
        changing = self.logs._changing
        if changing is not None:
            changing.join(LIMIT_S)

    def words(self) -> list[Notice | NewsPiece]:
        return [
            codec.decode_one_of(Notice | NewsPiece, payload, module.WORD_BYTES_MAX)
            for _, kind, payload in self.sent
            if kind is Kind.QUORUM
        ]


def config(quorum: Quorum) -> Config:
    return Config(cluster=ClusterId("c"), name="C", quorum=quorum)


def later_frame(generation: int, frame: bytes) -> bytes:
    return struct.pack("<I", generation) + frame


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setattr(module, "NOTICE_PAUSE_S", 0.0)
    made = Room()
    yield made
    made.gate.set()
    made.logs.stop()


def test_frames_reach_the_log_of_their_generation_alone(room: Room) -> None:
    room.logs.receive(2, Kind.LATER_LOG, later_frame(1, b"mine"))
    room.logs.receive(2, Kind.RAFT, b"of the first log")
    room.logs.receive(3, Kind.LATER_LOG, later_frame(2, b"of the next"))
    room.logs.receive(2, Kind.LATER_LOG, b"\0")
    assert room.first.told == [("frame", 2, b"mine")]
    assert room.events == [PeerBehind(node=NodeId(2))]
    assert room.words() == [Notice(generation=1)], "who is ahead is told so"


def test_what_the_core_wants_meanwhile_reaches_the_next_log(room: Room) -> None:
    room.change()
    outcomes: list[Outcome] = []
    room.logs.propose(b"x", 1.0, outcomes.append)
    room.logs.change_members(AddLogMember(node=NodeId(2)), outcomes.append)
    assert [each.kind for each in outcomes] == [OutcomeKind.REFUSED] * 2
    assert "being opened" in room.logs.trouble
    room.logs.use_timing(WAN)
    room.logs.contest(ContestQuorum(wanted=True, client_networks=2))
    room.logs.peer_connected(3)
    room.open()
    assert room.next.told[0] == ("start",)
    assert set(room.next.told[1:]) == {("connected", 2), ("connected", 3), ("timing", "wan"), ("contest", True, 2)}
    assert Notice(generation=2) in room.words()
    room.logs.use_timing(LAN)
    assert room.next.told[-1] == ("timing", "lan")
    assert ("timing", "lan") not in room.first.told


def test_the_log_that_was_left_goes_on_for_a_moment(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGERS_S", 0.3)
    room.change()
    room.open()
    room.logs.receive(2, Kind.LATER_LOG, later_frame(1, b"late"))
    assert ("frame", 2, b"late") in room.first.told
    assert room.first.stopped.wait(LIMIT_S)
    assert room.events == [PeerBehind(node=NodeId(2))]
    while not room.discarded:
        room.first.stopped.wait(0.01)
    assert room.discarded == [1]
    room.logs.receive(2, Kind.LATER_LOG, later_frame(1, b"too late"))
    assert ("frame", 2, b"too late") not in room.first.told


def test_a_log_that_cannot_be_begun_ends_the_process(room: Room) -> None:
    room.fails = ClusterError("device-lost", "no space left")
    room.change()
    room.gate.set()
    assert room.begun.wait(LIMIT_S)
    assert "no space left" in room.deaths[0]


def test_who_is_behind_is_told_and_follows(room: Room) -> None:
    image = beginning(
        cluster_id=CLUSTER, members=frozenset({1, 2}), index=4, image=codec.encode_config(config(MAJORITY))
    )
    room.logs.tell_news(TellNews(node=NodeId(2), index=9, config=config(MAJORITY)))
    assert room.words() == [], "its snapshot is being made"
    room.snapshot = encode_snapshot(image)
    room.logs.tell_news(TellNews(node=NodeId(2), index=9, config=config(MAJORITY)))
    assert len(room.words()) == 1

    # The other way round: this node is behind.
    for piece in pieces(generation=2, index=9, snapshot=False, data=codec.encode_config(config(DISK))):
        room.logs.receive(2, Kind.QUORUM, codec.encode_value(piece))
    newer = Quorum(generation=3)
    snapshot = encode_snapshot(
        beginning(cluster_id=CLUSTER, members=frozenset({1}), index=12, image=codec.encode_config(config(newer)))
    )
    for piece in pieces(generation=3, index=0, snapshot=True, data=snapshot):
        room.logs.receive(2, Kind.QUORUM, codec.encode_value(piece))
    assert room.events == [
        QuorumNews(index=9, config=config(DISK), beginning=b""),
        QuorumNews(index=12, config=config(newer), beginning=snapshot),
    ]


def test_what_cannot_be_read_changes_nothing(room: Room) -> None:
    foreign = beginning(cluster_id="x" * 32, members=frozenset({1}), index=12, image=b"")
    broken = pieces(generation=3, index=0, snapshot=True, data=encode_snapshot(foreign))[0]
    for payload in (b"", b"\x01junk", codec.encode_value(broken)):
        room.logs.receive(2, Kind.QUORUM, payload)
    assert room.events == []
    assert room.logs.quorum == MAJORITY

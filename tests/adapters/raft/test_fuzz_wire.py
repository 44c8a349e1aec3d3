"""Whatever a peer sends: it is read, or refused and counted, and the log goes on."""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clussvc.global_update.raft import wire
from clussvc.global_update.raft.entries import NO_OPERATION, command_entry_bytes
from clussvc.global_update.raft.guard import CHUNK_BYTES, CHUNKS_MAX
from clussvc.global_update.raft.replicator import RaftSettings, RaftThread
from clussvc.global_update.raft.snapshot_file import Snapshot, encode_snapshot
from tests.adapters.raft.conftest import MakeWorld
from tests.adapters.raft.pair import commands, ours
from tests.adapters.raft.test_thread import Counter
from tests.adapters.raft.world import CLUSTER, World

TIMEOUT_S = 30.0

MESSAGES: tuple[wire.Message, ...] = (
    wire.Append(3, 2, 1, 1, ((NO_OPERATION, 2, 3), (command_entry_bytes(b"x"), 3, 3)), 1.5),
    wire.Append(3, 2, None, None, (), 1.5),
    wire.Alive(3, 1.5),
    wire.Reply(3, 4, True, False, 1.5),
    wire.Chunk(3, 1, 20, 2, 0, 2, b"piece", 1.5),
    wire.ChunkReply(3, 1, 0, 1.5),
    wire.PreVote(1, 4, 3, 3),
    wire.PreVoteReply(1, 3, True),
    wire.VoteRequest(4, 3, 3),
    wire.VoteReply(4),
    wire.Newer(5),
    wire.Forward(7, 1, b"command"),
    wire.ForwardReply(7, 1, "committed", 3, b"result"),
)
REASONS = frozenset(
    {
        "unreadable frame",
        "entry refused",
        "message of an older term",
        "term that is known already",
        "reply of another term, or nobody's",
        "vote of another term, or nobody's",
        "vote asked while a leader is heard",
        "pre-vote of another round, or nobody's",
        "late answer to a forwarded command",
        "chunk out of range",
        "snapshot refused: snapshot-damaged",
        "snapshot refused: snapshot-foreign",
        "snapshot refused: not the announced one",
        "snapshot refused: an entry that must not enter the log",
    }
)
"""Every reason that these tests can meet; a reason that quoted what was sent would make their number endless."""

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=20)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A message in which a field has any value of any type, is missing, or is one too many."""
    fields = msgspec.msgpack.decode(wire.encode(draw(st.sampled_from(MESSAGES)))[1:])
    place = draw(st.integers(0, len(fields) - 1))
    match draw(st.sampled_from(("replace", "remove", "insert", "whole"))):
        case "replace":
            fields[place] = draw(anything)
        case "remove":
            del fields[place]
        case "insert":
            fields.insert(place, draw(anything))
        case _:
            fields = draw(anything)
    return b"\x01" + msgspec.msgpack.encode(fields)


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A message with changed, missing or additional bytes, or just bytes."""
    data = bytearray(wire.encode(draw(st.sampled_from(MESSAGES))))
    place = draw(st.integers(0, len(data) - 1))
    match draw(st.sampled_from(("flip", "cut", "insert", "rubbish"))):
        case "flip":
            data[place] ^= draw(st.integers(1, 255))
        case "cut":
            del data[place:]
        case "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=10))
        case _:
            return draw(st.binary(max_size=60))
    return bytes(data)


frames = bent() | broken()


def is_refused(frame: bytes) -> bool:
    """Whether decoding refuses it; anything else that it raises is the defect that is looked for."""
    try:
        wire.decode(frame)
    except wire.FrameError:
        return True
    return False


@settings(max_examples=1_500, deadline=None)
@given(frames)
def test_a_frame_is_read_or_refused(frame: bytes) -> None:
    """What is read can be written, and is then read as the same."""
    if not is_refused(frame):
        again = wire.encode(wire.decode(frame))
        assert again == wire.encode(wire.decode(again))


@pytest.mark.parametrize(
    "frame",
    [
        wire.encode(wire.ForwardReply(7, 1, "committed", 3, b"")).replace(b"committed", b"commit\xff\xfed"),
        b"\x01\x92\xa1\xff\x05",
        b"\x01" + b"\x91" * 200_000,
        b"\x01\x97\xa1a\x01\x01\x01\x01" + b"\x91" * 200_000,
    ],
    ids=["text that is none", "tag that is none", "nesting", "nested entries"],
)
def test_frames_that_msgpack_refuses_in_its_own_way(frame: bytes) -> None:
    """Not every failure of the decoder is one of its own exceptions."""
    assert is_refused(frame)


@pytest.mark.parametrize("header", [b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"])
@pytest.mark.parametrize("place", range(1, 7))
def test_a_lying_length_reserves_no_memory(header: bytes, place: int) -> None:
    """In place of every field of an append: at most 1 MB for a frame of 10 kB."""
    head = [b"\xa1a", b"\x03", b"\x02", b"\x01", b"\x01", b"\x90", b"\xcb" + bytes(8)][:place]
    frame = b"\x01\x97" + b"".join(head) + header + bytes(10_000)
    tracemalloc.start()
    try:
        assert is_refused(frame)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# --- a node that is sent such things ---------------------------------------------------------------------------------


def drops(world: World, node_id: int) -> dict[str, int]:
    """What a node has dropped, by reason."""
    found = dict(world.node(node_id).statistics().drops)
    assert set(found) <= REASONS, "a reason that is not in the table"
    return found


def in_a_world(story: Callable[[World], None], *, compaction_entries: int = 1_000) -> None:
    """Tell a story of three nodes that are up and have a leader, and expect them to agree in the end."""
    with tempfile.TemporaryDirectory() as name, ours(Path(name), 3, compaction_entries=compaction_entries) as world:
        world.commit(world.lead(), *commands("before", 5))
        world.run(0.3)
        story(world)
        world.converge()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(rubbish=st.lists(frames.filter(is_refused), min_size=5, max_size=40))
def test_a_node_that_is_sent_rubbish_goes_on(rubbish: list[bytes]) -> None:
    """Each frame is counted, the leader stays, what is proposed meanwhile is committed."""

    def story(world: World) -> None:
        leader, term = world.lead(), world.node(world.lead()).statistics().term
        peer = min(world.founders - {leader})
        before = {node_id: drops(world, node_id).get("unreadable frame", 0) for node_id in (leader, peer)}
        for number, frame in enumerate(rubbish):
            world.inject(peer, leader, frame)
            world.inject(leader, peer, frame)
            world.propose(peer, b"meanwhile %d" % number)
        world.settle(lambda: len(world.outcomes) == 5 + len(rubbish))
        assert len(world.acknowledged) == 5 + len(rubbish)
        assert (leader, term) == (world.holder(), world.node(leader).statistics().term)
        for node_id, count in before.items():
            assert len(rubbish) == drops(world, node_id)["unreadable frame"] - count

    in_a_world(story)


naturals = st.integers(0, 30) | st.integers(0, 2**62)
stamps = st.floats()


def stale_messages(term: int) -> st.SearchStrategy[wire.Message]:
    """Well-formed messages of terms that are over, with anything in them."""
    old = st.integers(0, max(0, term - 1))
    return st.one_of(
        st.builds(wire.Append, old, naturals, naturals, st.just(0), st.just(()), stamps),
        st.builds(wire.Alive, old, stamps),
        st.builds(wire.Reply, old, naturals, st.booleans(), st.booleans(), stamps),
        st.builds(wire.Chunk, old, naturals, naturals, naturals, naturals, naturals, st.binary(max_size=9), stamps),
        st.builds(wire.ChunkReply, old, naturals, naturals, stamps),
        st.builds(wire.VoteRequest, old, naturals, naturals),
        st.builds(wire.VoteReply, old),
        st.builds(wire.Newer, old),
        st.builds(wire.ForwardReply, naturals, naturals, st.text(max_size=9), naturals, st.binary(max_size=9)),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_old_messages_change_nothing_and_are_counted(data: st.DataObject) -> None:
    """Whatever they claim: the leader stays, the term stays, nothing is lost, and each is counted under a reason."""

    def story(world: World) -> None:
        leader = world.lead()
        term = world.node(leader).statistics().term
        peer = min(world.founders - {leader})
        messages = data.draw(st.lists(stale_messages(term), min_size=5, max_size=40))
        before = sum(drops(world, leader).values())
        for message in messages:
            world.inject(peer, leader, wire.encode(message))
        world.run(0.01)
        assert len(messages) == sum(drops(world, leader).values()) - before
        world.commit(peer, b"after")
        assert (leader, term) == (world.holder(), world.node(leader).statistics().term)

    in_a_world(story)


# --- snapshots from a peer -------------------------------------------------------------------------------------------


def a_snapshot(*, cluster: str = CLUSTER, index: int = 500, term: int = 1, last: bytes = NO_OPERATION) -> bytes:
    """The bytes of a snapshot that a peer might send."""
    return encode_snapshot(
        Snapshot(
            cluster_id=cluster,
            previous=(NO_OPERATION, index - 1, term),
            last=(last, index, term),
            members=(1, 2, 3),
            applied=index,
            image=b"image",
        )
    )


def send_snapshot(world: World, leader: int, peer: int, blob: bytes, *, transfer: int, index: int, term: int) -> None:
    """Send it in two pieces, as that leader."""
    now = world.node(leader).statistics()
    half = len(blob) // 2
    for number, piece in enumerate((blob[:half], blob[half:])):
        chunk = wire.Chunk(now.term, transfer, index, term, number, 2, piece, world.now_s)
        world.inject(leader, peer, wire.encode(chunk))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_damaged_snapshots_of_a_peer_are_refused_and_counted(seed: int) -> None:
    """Changed, cut, lengthened, foreign, not the announced one, or with an entry that must not be unpickled."""

    def story(world: World) -> None:
        rng = random.Random(seed)
        leader = world.lead()
        peer = min(world.founders - {leader})
        good = a_snapshot()
        flipped = bytearray(good)
        flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        blobs = {
            "snapshot-damaged": [bytes(flipped), good[: rng.randrange(len(good))], good + rng.randbytes(3), b""],
            "snapshot-foreign": [a_snapshot(cluster="other")],
            "not the announced one": [a_snapshot(index=501), a_snapshot(term=2)],
            "an entry that must not enter the log": [a_snapshot(last=b"\x00cos\nsystem\n(S'true'\ntR.")],
        }
        transfer = 0
        for reason, each in blobs.items():
            for blob in each:
                transfer += 1
                send_snapshot(world, leader, peer, blob, transfer=transfer, index=500, term=1)
                world.run(0.02)
            assert len(each) == drops(world, peer)[f"snapshot refused: {reason}"]
        assert 0 == world.node(peer).statistics().snapshots_installed
        world.commit(leader, b"after")

    in_a_world(story)


def test_pieces_without_end_take_no_memory(make_world: MakeWorld) -> None:
    """A transfer of more pieces than the longest snapshot has is not begun; empty ones are no way around the bound."""
    world = make_world(3, settings=RaftSettings(inbox_frames_max=100_000))
    leader = world.lead()
    peer = min(world.founders - {leader})
    world.run(0.3)
    term = world.node(leader).statistics().term
    totals = (0, CHUNKS_MAX + 1, 2**40, 2**62)
    tracemalloc.start()
    try:
        for transfer, total in enumerate(totals):
            for number in range(5_000):
                chunk = wire.Chunk(term, transfer, 500, 1, number, total, b"", world.now_s)
                world.node(peer).receive(leader, wire.encode(chunk))
            world.machines[peer].wake_s = world.now_s
            world.run(0.2)
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert current < 2_000_000
    assert 20_000 == drops(world, peer)["chunk out of range"]
    assert CHUNKS_MAX * CHUNK_BYTES < 300 * 1024 * 1024
    world.converge()


def test_frames_without_room_are_counted(tmp_path: Path) -> None:
    """A thread that has not come to its frames holds as many as it may, and counts those that it had to drop."""
    state = Counter()
    thread = RaftThread(
        node_id=1,
        cluster_id="threads",
        members=frozenset({1}),
        folder=tmp_path,
        first_boot=True,
        state_machine=state,
        settings=RaftSettings(inbox_frames_max=3, inbox_bytes_max=100),
        send=lambda receiver, frame: None,
        on_fatal=lambda error: None,
    )
    for _ in range(10):
        thread.receive(2, b"rubbish")
    thread.receive(2, bytes(200))
    thread.start()
    try:
        thread.propose(b"x", TIMEOUT_S, lambda outcome: None)
        state.wait_for(b"x")
    finally:
        thread.stop()
    assert {("inbox full", 8), ("unreadable frame", 3)} <= set(thread.statistics().drops)

"""Whatever arrives at the sockets: each datagram and each frame is taken, or dropped and counted under its reason."""

from __future__ import annotations

import itertools
import socket
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clussvc.comms.heartbeats import HeartbeatNetwork
from clussvc.comms.wire import FRAME_BYTES_MAX, STRANGER_FRAME_BYTES_MAX, FrameDecoder, Kind, encode_frame
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.native import Heartbeats
from tests.unit.native.twin import CONTENT, DATAGRAM_BYTES_MAX, HEADER, HEARING, Twin, signed

KEY = b"k" * 16
TIMEOUT_S = 30.0
BODY = CONTENT.pack(2, 0, 0, 7, 1, 2) + HEARING.pack(1, 1, 5, 10, 0) + HEARING.pack(3, 1, 5, 0, 0)
BODY_BYTES_MAX = DATAGRAM_BYTES_MAX - HEADER.size - 16


def datagram(seq: int, body: bytes = BODY, *, sender: int = 2) -> bytes:
    """An authentic one."""
    return signed(KEY, HEADER.pack(b"CLHB", 2, 0, sender, 1, 1, seq) + body)


# --- heartbeats ------------------------------------------------------------------------------------------------------


@st.composite
def bent_bodies(draw: st.DrawFn) -> bytes:
    """A body with changed, missing or additional bytes, or just bytes; the tag will fit."""
    body = bytearray(BODY)
    place = draw(st.integers(0, len(body) - 1))
    match draw(st.sampled_from(("change", "cut", "insert", "rubbish"))):
        case "change":
            body[place] ^= draw(st.integers(1, 255))
        case "cut":
            del body[place:]
        case "insert":
            body[place:place] = draw(st.binary(min_size=1, max_size=40))
        case _:
            return draw(st.binary(max_size=BODY_BYTES_MAX))
    return bytes(body)


@st.composite
def broken_datagrams(draw: st.DrawFn) -> bytes:
    """A good datagram with changed, missing or additional bytes, or just bytes."""
    data = bytearray(datagram(2**40))
    place = draw(st.integers(0, len(data) - 1))
    match draw(st.sampled_from(("change", "cut", "insert", "rubbish", "long"))):
        case "change":
            data[place] ^= draw(st.integers(1, 255))
        case "cut":
            del data[place:]
        case "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=40))
        case "long":
            data += bytes(draw(st.integers(DATAGRAM_BYTES_MAX, 5_000)))
        case _:
            return draw(st.binary(max_size=100))
    return bytes(data)


def fresh() -> Heartbeats:
    native = Heartbeats(4, 1, KEY)
    native.set_peers((1, 2, 3), 0)
    return native


@settings(max_examples=500, deadline=None)
@given(broken_datagrams())
def test_a_broken_datagram_is_dropped_with_a_reason(data: bytes) -> None:
    """Never taken, and nothing is raised."""
    native = fresh()
    outcome, news, answer = native.receive(data, 1)

    assert outcome.startswith("dropped.")
    assert (news, answer, native.take()) == (False, False, [])
    assert native.statistics()[outcome] == 1


@settings(max_examples=500, deadline=None)
@given(bent_bodies())
def test_an_authentic_datagram_with_an_odd_body(body: bytes) -> None:
    """A key that leaked, or a mistake of a peer: it is read as what it says, or dropped as the twin drops it."""
    data = datagram(1, body[:BODY_BYTES_MAX])
    native, twin = fresh(), Twin(node=4, boot=1, key=KEY)
    twin.set_peers((1, 2, 3), 0)

    assert native.receive(data, 1)[::2] == twin.receive(data, 1, 0, False)
    assert native.take() == twin.take()


class Listener:
    """A real socket with the native thread behind it."""

    def __init__(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.seq = 0
        self.native = fresh()
        self.network = HeartbeatNetwork(
            native=self.native, cluster_id="c", listen=(("127.0.0.1", self.port),), on_news=lambda: None
        )
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, data: bytes) -> None:
        """Send a datagram as it is."""
        self.sender.sendto(data, ("127.0.0.1", self.port))

    def send_good(self) -> None:
        """Send a good heartbeat of node 1 and wait until it was heard: what was sent before has then been seen."""
        self.seq += 1
        self.send(datagram(self.seq, sender=1))
        deadline_s = time.monotonic() + TIMEOUT_S
        while not any(heard.heartbeat.sender == NodeId(1) for heard in self.network.take()):
            assert time.monotonic() < deadline_s, self.native.statistics()
            time.sleep(0.001)


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    made = Listener()
    made.network.start()
    yield made
    made.network.stop()
    made.sender.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(broken=st.lists(broken_datagrams(), max_size=20), bodies=st.lists(bent_bodies(), max_size=10))
def test_every_datagram_is_counted(listener: Listener, broken: list[bytes], bodies: list[bytes]) -> None:
    """Received or dropped under a reason, none twice, and good ones are heard in between."""
    before = Counter(listener.native.statistics())
    for data in broken:
        listener.send(data)
    for body in bodies:
        listener.seq += 1
        listener.send(datagram(listener.seq, body[:BODY_BYTES_MAX], sender=3))
    listener.send_good()
    counted = Counter(listener.native.statistics()) - before
    dropped = {name: count for name, count in counted.items() if name.startswith("dropped.")}

    assert len(broken) + len(bodies) + 1 == sum(dropped.values()) + counted["received"]
    assert len(broken) <= sum(dropped.values())


# --- streams ---------------------------------------------------------------------------------------------------------

kinds = st.sampled_from(list(Kind))
honest = st.tuples(kinds, st.binary(max_size=300))


def fed(decoder: FrameDecoder, data: bytes, cuts: list[int]) -> tuple[list[tuple[Kind, bytes]], str]:
    """What a decoder makes of bytes that arrive in pieces, and the code with which it refused."""
    found: list[tuple[Kind, bytes]] = []
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    try:
        for begin, end in itertools.pairwise(places):
            found += decoder.feed(data[begin:end])
    except ClusterError as error:
        return found, error.code
    return found, ""


@settings(max_examples=300, deadline=None)
@given(frames=st.lists(honest, max_size=6), cuts=st.lists(st.integers(0, 10**6), max_size=30))
def test_frames_arrive_whatever_the_pieces(frames: list[tuple[Kind, bytes]], cuts: list[int]) -> None:
    """Cut at any places, within the head too."""
    data = b"".join(encode_frame(*frame) for frame in frames)
    assert (frames, "") == fed(FrameDecoder(), data, cuts)


@settings(max_examples=500, deadline=None)
@given(
    frames=st.lists(honest, max_size=4),
    lie=st.integers(0, 2**32 - 1),
    kind=st.integers(0, 255),
    rest=st.binary(max_size=200),
    cuts=st.lists(st.integers(0, 10**6), max_size=10),
)
def test_a_lying_head_ends_the_stream_or_waits(
    frames: list[tuple[Kind, bytes]], lie: int, kind: int, rest: bytes, cuts: list[int]
) -> None:
    """What came before it arrives; nothing is made of what was never sent."""
    data = b"".join(encode_frame(*frame) for frame in frames) + lie.to_bytes(4, "big") + bytes([kind]) + rest
    decoder = FrameDecoder(bytes_max=STRANGER_FRAME_BYTES_MAX)
    found, code = fed(decoder, data, cuts)
    impossible = not 1 <= lie <= STRANGER_FRAME_BYTES_MAX or kind not in Kind.__members__.values()
    assert code in ("", "malformed-frame")
    assert not impossible or code == "malformed-frame"
    assert found[: len(frames)] == frames[: len(found)]
    assert code or found[: len(frames)] == frames
    assert sum(len(payload) + 5 for _, payload in found) <= len(data)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 10**6), max_size=20))
def test_any_bytes_in_any_pieces_are_the_same(data: bytes, cuts: list[int]) -> None:
    """How they are cut does not decide whether they are refused."""
    assert fed(FrameDecoder(), data, [])[1] == fed(FrameDecoder(), data, cuts)[1]


@pytest.mark.parametrize("length", [FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("kind", [Kind.RAFT, Kind.JOIN_REQUEST])
def test_a_lying_length_reserves_no_memory(length: int, kind: Kind) -> None:
    """A thousand connections that each announce as much as they can, and send a kilobyte: 4 MB in all."""
    tracemalloc.start()
    try:
        decoders = [FrameDecoder() for _ in range(1_000)]
        for decoder in decoders:
            code = fed(decoder, length.to_bytes(4, "big") + bytes([kind]) + bytes(1_000), [])[1]
            assert code == ("" if length <= FRAME_BYTES_MAX else "malformed-frame")
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_decoder_never_holds_more_than_a_frame() -> None:
    """A frame that never ends is refused, not collected: at most its limit and what arrived last is held."""
    decoder = FrameDecoder(bytes_max=STRANGER_FRAME_BYTES_MAX)
    frame = encode_frame(Kind.JOIN_REQUEST, bytes(STRANGER_FRAME_BYTES_MAX - 1))
    tracemalloc.start()
    try:
        for _ in range(200):
            assert [(Kind.JOIN_REQUEST, frame[5:])] == decoder.feed(frame)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()

"""Frames, datagrams and tokens: what is written can be read, everything else is refused with a reason."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.comms.heartbeat_body import decode_body, encode_body
from clussvc.comms.token import JoinToken, make_token, parse_token
from clussvc.comms.wire import (
    BODY_BYTES_MAX,
    DATAGRAM_BYTES_MAX,
    Datagram,
    Drop,
    FrameDecoder,
    Kind,
    ReplayGuard,
    decode_heartbeat,
    encode_frame,
    encode_heartbeat,
)
from clussvc.membership.heartbeat import Hearing, Heartbeat
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NODES_MAX, NodeId
from clussvc.model.states import NodePhase

KEY, OTHER_KEY = b"k" * 16, b"o" * 16
DATAGRAM = Datagram(sender=3, boot=7, incarnation=2, seq=99, body=b"body")

kinds = st.sampled_from(list(Kind))
hearings = st.builds(
    Hearing,
    node=st.integers(1, 2**16 - 1).map(NodeId),
    boot=st.integers(0, 2**32 - 1),
    seq=st.integers(0, 2**32 - 1),
    silent_ms=st.integers(0, 2**32 - 1),
)


@given(st.lists(st.tuples(kinds, st.binary(max_size=50)), max_size=8), st.integers(1, 7))
def test_frames_survive_any_cutting(frames: list[tuple[Kind, bytes]], piece: int) -> None:
    """A stream may deliver bytes in any portions."""
    data = b"".join(encode_frame(kind, payload) for kind, payload in frames)
    decoder = FrameDecoder()
    found = [frame for at in range(0, len(data), piece) for frame in decoder.feed(data[at : at + piece])]

    assert found == frames


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff\x01", b"\x00\x00\x00\x00\x01", b"\x00\x00\x00\x02\x63x", b"GET / HTTP/1.1"]
)
def test_malformed_frames_are_refused(data: bytes) -> None:
    """Too long, empty, of unknown kind, of another protocol."""
    with pytest.raises(ClusterError) as caught:
        FrameDecoder().feed(data)

    assert caught.value.code == "malformed-frame"


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    """Nothing else can happen: no other exception, and never more bytes out than came in."""
    frames: list[tuple[Kind, bytes]] = []
    with contextlib.suppress(ClusterError):
        frames = FrameDecoder(bytes_max=64).feed(data)

    assert sum(len(payload) for _, payload in frames) <= len(data)


def test_a_heartbeat_comes_back_as_it_was() -> None:
    """With the right key."""
    assert decode_heartbeat(KEY, encode_heartbeat(KEY, DATAGRAM)) == DATAGRAM


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Drop.TOO_SHORT),
        (b"CLHB" + bytes(40), Drop.TOO_SHORT),
        (bytes(DATAGRAM_BYTES_MAX + 1), Drop.TOO_LONG),
        (bytes(100), Drop.FOREIGN),
        (encode_heartbeat(OTHER_KEY, DATAGRAM), Drop.FORGED),
        (encode_heartbeat(KEY, DATAGRAM, key_number=1), Drop.WRONG_KEY_NUMBER),
        (encode_heartbeat(KEY, DATAGRAM)[:-1] + b"\x00", Drop.FORGED),
    ],
)
def test_other_datagrams_are_dropped_with_a_reason(data: bytes, reason: Drop) -> None:
    """Short, long, foreign, forged."""
    assert decode_heartbeat(KEY, data) is reason


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_changed_bit_passes(position: int, bit: int) -> None:
    """Whatever is changed, the tag does not fit any more, or the datagram is not ours at all."""
    data = bytearray(encode_heartbeat(KEY, DATAGRAM))
    data[position % len(data)] ^= 1 << bit

    assert isinstance(decode_heartbeat(KEY, bytes(data)), Drop)


def test_replays_are_noticed() -> None:
    """Equal, older, and of an earlier life."""
    guard = ReplayGuard()

    def at(boot: int, seq: int) -> bool:
        return guard.fresh(Datagram(sender=3, boot=boot, incarnation=1, seq=seq, body=b""))

    assert at(2, 5)
    assert [at(2, 5), at(2, 4), at(1, 900)] == [False, False, False]
    assert at(2, 6)
    assert at(3, 1)


def test_sixty_four_nodes_fit_into_a_datagram() -> None:
    """The largest cluster's heartbeat is within the limit."""
    hearing = Hearing(node=NodeId(2**16 - 1), boot=2**32 - 1, seq=2**32 - 1, silent_ms=2**32 - 1)
    heartbeat = Heartbeat(
        sender=NodeId(1),
        boot=1,
        seq=1,
        incarnation=1,
        phase=NodePhase.MEMBER,
        attempt=0,
        index=2**60,
        voters_version=2**31,
        heard=(hearing,) * NODES_MAX,
    )

    assert len(encode_body(heartbeat)) <= BODY_BYTES_MAX


@given(
    phase=st.sampled_from(list(NodePhase)),
    attempt=st.integers(0, 2**32 - 1),
    index=st.integers(0, 2**64 - 1),
    version=st.integers(0, 2**32 - 1),
    heard=st.lists(hearings, max_size=NODES_MAX),
)
def test_bodies_come_back_as_they_were(
    phase: NodePhase, attempt: int, index: int, version: int, heard: list[Hearing]
) -> None:
    """Every field, at its limits too."""
    heartbeat = Heartbeat(
        sender=NodeId(3),
        boot=7,
        seq=99,
        incarnation=2,
        phase=phase,
        attempt=attempt,
        index=index,
        voters_version=version,
        heard=tuple(heard),
    )

    assert decode_body(encode_body(heartbeat), sender=NodeId(3), boot=7, seq=99, incarnation=2) == heartbeat


@given(st.binary(max_size=120))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """No other exception; what is read is written the same again."""
    with contextlib.suppress(ClusterError):
        heartbeat = decode_body(body, sender=NodeId(1), boot=1, seq=1, incarnation=1)

        assert encode_body(heartbeat) == body


TOKEN = JoinToken(
    cluster="PAYROLL",
    contacts=(("10.0.0.1", 3343), ("fd00::1", 3343)),
    authority_sha256="ab" * 32,
    id="0123456789abcdef",
    secret="a secret",
    expires_ms=1_800_000_000_000,
)


def test_a_token_is_one_word_and_comes_back() -> None:
    """Also with blanks around it, as copying leaves them."""
    text = make_token(TOKEN)

    assert len(text.split()) == 1
    assert parse_token(f"  {text}\n") == TOKEN


@given(st.integers(5, 10_000))
def test_a_token_that_was_cut_off_is_refused(length: int) -> None:
    """The checksum notices."""
    text = make_token(TOKEN)
    with pytest.raises(ClusterError) as caught:
        parse_token(text[: length % (len(text) - 1)])

    assert caught.value.code == "bad-token"


@given(st.text(max_size=80))
def test_other_texts_are_no_tokens(text: str) -> None:
    """With and without the prefix."""
    for candidate in (text, f"clj1-{text}"):
        with pytest.raises(ClusterError):
            parse_token(candidate)


def test_a_token_that_was_wrapped_is_read() -> None:
    """Terminals and mail programs break long words."""
    text = make_token(TOKEN)

    assert parse_token(f"{text[:40]}\n  {text[40:90]}\r\n{text[90:]}") == TOKEN


@pytest.mark.parametrize("contacts", [(), (("10.0.0.1", 0),), (("10.0.0.1", 65_536),), (("10.0.0.1", -1),)])
def test_a_token_without_a_usable_contact_is_refused(contacts: tuple[tuple[str, int], ...]) -> None:
    """The checksum fits, the content does not."""
    with pytest.raises(ClusterError) as caught:
        parse_token(make_token(dataclasses.replace(TOKEN, contacts=contacts)))

    assert caught.value.code == "bad-token"


def test_a_token_of_nothing_but_brackets_is_refused() -> None:
    """With a checksum that fits."""
    content = b"[" * 2_900
    text = "clj1-" + base64.urlsafe_b64encode(zlib.crc32(content).to_bytes(4, "big") + content).decode().rstrip("=")
    with pytest.raises(ClusterError) as caught:
        parse_token(text)

    assert caught.value.code == "bad-token"

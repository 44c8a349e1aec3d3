"""Frames and tokens: what is written can be read, everything else is refused with a reason."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.comms.token import JoinToken, make_token, parse_token
from clussvc.comms.wire import FrameDecoder, Kind, encode_frame
from clussvc.model.errors import ClusterError

kinds = st.sampled_from(list(Kind))


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

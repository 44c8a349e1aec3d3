"""What nodes say about the log on a quorum disk, as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.global_update.disk.disk_thread import reservation_key
from clussvc.global_update.disk.wire import decode, encode
from clussvc.model.errors import ClusterError
from clussvc.quorum.disk_messages import Answer, Entries, Fate, Forward, Have, Image, Leading, LogMessage

NUMBERS = st.integers(0, 2**63 - 1)
MESSAGES: st.SearchStrategy[LogMessage] = st.one_of(
    st.builds(Leading, epoch=NUMBERS, index=NUMBERS),
    st.builds(Have, epoch=NUMBERS, index=NUMBERS),
    st.builds(Entries, epoch=NUMBERS, first_index=NUMBERS, commands=st.lists(st.binary(), max_size=4).map(tuple)),
    st.builds(Image, epoch=NUMBERS, index=NUMBERS, number=st.integers(0, 7), total=st.just(8), data=st.binary()),
    st.builds(Forward, boot=NUMBERS, request=NUMBERS, command=st.binary()),
    st.builds(
        Answer, boot=NUMBERS, request=NUMBERS, fate=st.sampled_from(Fate), index=NUMBERS, detail=st.text(max_size=9)
    ),
)


@given(MESSAGES)
def test_what_is_said_is_understood(message: LogMessage) -> None:
    assert decode(encode(message)) == message


def code_of(data: bytes) -> str:
    """Of the refusal; empty if the bytes are a message."""
    try:
        decode(data)
    except ClusterError as error:
        return error.code
    return ""


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    assert code_of(data) in ("", "malformed-message")


@given(MESSAGES, st.data())
def test_a_bent_message_is_refused_or_another_one(message: LogMessage, data: st.DataObject) -> None:
    said = bytearray(encode(message))
    at = data.draw(st.integers(0, len(said) - 1))
    said[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(said)))
    assert {code_of(bytes(said)), code_of(bytes(said[:cut]))} <= {"", "malformed-message"}


@pytest.mark.parametrize("wrong", [{"number": 8}, {"total": 5_000}])
def test_an_image_of_too_many_pieces_is_refused(wrong: dict[str, int]) -> None:
    image = Image(**({"epoch": 1, "index": 1, "number": 0, "total": 8, "data": b"x"} | wrong))  # type: ignore[arg-type]
    with pytest.raises(ClusterError):
        decode(encode(image))


def test_every_boot_of_every_node_has_a_key_of_its_own() -> None:
    keys = {reservation_key(cluster * 32, node, boot) for cluster in "ab" for node in range(1, 128) for boot in (1, 2)}
    assert len(keys) == 2 * 127 * 2
    assert all(0 < key < 2**64 for key in keys)

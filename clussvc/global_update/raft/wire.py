"""What nodes say to each other about the log: one frame is a version byte and a MessagePack array.

Every message has a fixed shape that is checked on receipt; nothing is unpickled. Terms and indexes are non-negative.
``stamp`` is the sender's clock, opaque to the receiver, which only echoes it: a leader learns from the echo how long
ago a majority certainly followed it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from clussvc.global_update.raft.entries import Entry

FRAME_BYTES_MAX = 4 * 1024 * 1024
ENTRIES_MAX = 65_536
_VERSION = b"\x01"

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
WireEntry = tuple[bytes, Natural, Natural]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Append(_Message, frozen=True, tag="a"):
    """Entries of the log after ``prev_index``; none of them is a heartbeat."""

    term: Natural
    commit: Natural
    prev_index: Natural | None
    prev_term: Natural | None
    entries: tuple[WireEntry, ...]
    stamp: float


class Alive(_Message, frozen=True, tag="l"):
    """A heartbeat of a leader that has nothing else to say, such as while a snapshot travels."""

    term: Natural
    stamp: float


class Reply(_Message, frozen=True, tag="r"):
    """Answer to Append and Alive: how far the log matches and where to go on."""

    term: Natural
    next_index: Natural
    reset: bool
    success: bool
    echo: float


class Chunk(_Message, frozen=True, tag="c"):
    """A piece of a snapshot that ends at ``index``; ``total`` pieces make it whole."""

    term: Natural
    transfer: Natural
    index: Natural
    index_term: Natural
    sequence: Natural
    total: Natural
    data: bytes
    stamp: float


class ChunkReply(_Message, frozen=True, tag="k"):
    """A piece has arrived."""

    term: Natural
    transfer: Natural
    sequence: Natural
    echo: float


class PreVote(_Message, frozen=True, tag="p"):
    """Would you vote for me in ``term``? Changes nothing at the receiver."""

    round: Natural
    term: Natural
    last_term: Natural
    last_index: Natural


class PreVoteReply(_Message, frozen=True, tag="q"):
    """Answer to PreVote with the receiver's own term."""

    round: Natural
    term: Natural
    granted: bool


class VoteRequest(_Message, frozen=True, tag="v"):
    """A candidate asks for a vote."""

    term: Natural
    last_term: Natural
    last_index: Natural


class VoteReply(_Message, frozen=True, tag="w"):
    """A vote in favour; refusals stay silent."""

    term: Natural


class Newer(_Message, frozen=True, tag="n"):
    """The receiver of something stale knows this newer term."""

    term: Natural


class Forward(_Message, frozen=True, tag="f"):
    """A command on its way to the leader; ``boot`` and ``request`` name it, so a late answer meets no other one."""

    boot: Natural
    request: Natural
    command: bytes


class ForwardReply(_Message, frozen=True, tag="g"):
    """What became of a forwarded command: ``committed``, ``lost`` (never applied), ``busy`` or ``not-leader``."""

    boot: Natural
    request: Natural
    status: str
    index: Natural
    result: bytes


Message = (
    Append
    | Alive
    | Reply
    | Chunk
    | ChunkReply
    | PreVote
    | PreVoteReply
    | VoteRequest
    | VoteReply
    | Newer
    | Forward
    | ForwardReply
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class FrameError(ValueError):
    """A frame that no node of this version sends."""


def encode(message: Message) -> bytes:
    """The frame of a message."""
    frame = _VERSION + _ENCODER.encode(message)
    assert len(frame) <= FRAME_BYTES_MAX, f"a frame of {len(frame)} bytes is too long"
    return frame


def is_reply(frame: bytes) -> bool:
    """Whether the frame says that it is a Reply; what is wrong with it otherwise is found when it is read."""
    return frame[2:4] == b"\xa1r"


def decode(frame: bytes) -> Message:
    """Read a frame; raises FrameError."""
    if len(frame) > FRAME_BYTES_MAX:
        raise FrameError(f"a frame of {len(frame)} bytes exceeds {FRAME_BYTES_MAX}")
    if frame[:1] != _VERSION:
        raise FrameError("a frame of another version")
    try:
        message = _DECODER.decode(memoryview(frame)[1:])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # Text that is not UTF-8 is told by a UnicodeDecodeError, which is a ValueError.
        raise FrameError(str(error)) from error
    if isinstance(message, Append):
        _check_entries(message)
    return message


def _check_entries(message: Append) -> None:
    if len(message.entries) > ENTRIES_MAX:
        raise FrameError("too many entries in one append")
    if message.prev_index is None or message.prev_term is None:
        if message.entries:
            raise FrameError("entries without the entry before them")
        return
    index, term = message.prev_index, message.prev_term
    for _, entry_index, entry_term in message.entries:
        if entry_index != index + 1 or not term <= entry_term <= message.term:
            raise FrameError("entries that do not follow each other")
        index, term = entry_index, entry_term


def plain_entries(message: Append) -> list[Entry]:
    """The entries as the library wants them."""
    return [(command, index, term) for command, index, term in message.entries]

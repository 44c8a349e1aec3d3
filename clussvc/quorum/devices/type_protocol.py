"""What the service and the process of a quorum type say to each other, on a socket pair.

A frame is four bytes of length (big endian) and one msgpack object with the name of its class. Each side takes the
classes of the other one alone; anything else, and a frame above ``FRAME_BYTES_MAX``, is a broken protocol. Nothing is
ever unpickled. Every question is answered once, with its number, before the next one is asked; ``Lost`` and ``Said``
may come at any time.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import msgspec

from clussvc.model.errors import ClusterError

FRAME_BYTES_MAX: Final = 1 << 20
TRANSFER_BYTES_MAX: Final = 256 * 1024
"""Longer reads and writes are asked for in pieces."""
TEXT_MAX: Final = 500
LENGTH: Final = struct.Struct(">I")

_PLACE = re.compile(r"(?P<type>[A-Za-z][A-Za-z0-9-]*)://(?P<argument>[^?]*)(\?(?P<more>.*))?")


class Arbitrate(msgspec.Struct, frozen=True, tag=True, tag_field="message"):
    """Win the quorum. ``properties`` are as they were written; an empty name is the first property of the type. It is
    lost again when nothing is asked for ``silence_ms``: who does not renew is no owner."""

    number: int
    type: str
    properties: dict[str, str]
    silence_ms: int


class ReadAt(msgspec.Struct, frozen=True, tag=True, tag_field="message"):
    """Read from the storage."""

    number: int
    at: int
    size: int


class WriteAt(msgspec.Struct, frozen=True, tag=True, tag_field="message"):
    """Write to the storage."""

    number: int
    at: int
    data: bytes


class Release(msgspec.Struct, frozen=True, tag=True, tag_field="message"):
    """Let another node have the quorum; harmless if this one has not."""

    number: int


class Done(msgspec.Struct, frozen=True, tag=True, tag_field="message"):
    """It was done: what was read, or how large the storage is."""

    number: int
    data: bytes = b""
    size_bytes: int = 0


class Failed(msgspec.Struct, frozen=True, tag=True, tag_field="message"):
    """It was not done; ``code`` is one of QuorumDevice."""

    number: int
    code: str
    text: str


class Lost(msgspec.Struct, frozen=True, tag=True, tag_field="message"):
    """This node has the quorum no more."""

    because: str


class Said(msgspec.Struct, frozen=True, tag=True, tag_field="message"):
    """Text of the type for the log."""

    level: str
    text: str


Question = Arbitrate | ReadAt | WriteAt | Release
Answer = Done | Failed
QUESTIONS: Final = msgspec.msgpack.Decoder(Question)
ANSWERS: Final = msgspec.msgpack.Decoder(Done | Failed | Lost | Said)
_ENCODER: Final = msgspec.msgpack.Encoder()


def frame(message: Question | Answer | Lost | Said) -> bytes:
    """The message with its length."""
    body = _ENCODER.encode(message)
    assert len(body) <= FRAME_BYTES_MAX, len(body)
    return LENGTH.pack(len(body)) + body


@dataclass(frozen=True, slots=True, kw_only=True)
class TypePlace:
    """A quorum of somebody else's type, as it is written: ``TYPE://ARGUMENT?Property=value&Property=value``."""

    type: str
    """The name of the type; a hyphen where it has a blank."""
    properties: dict[str, str]
    """The argument under an empty name."""


def parse_place(place: str) -> TypePlace | None:
    """None for what is no such place. ``%20`` and the like are what they stand for in addresses of the web.

    Raises ClusterError(``device-unsuitable``) when it is one, but written wrongly.
    """
    found = _PLACE.fullmatch(place)
    if found is None or found["type"].casefold() == "iscsi":
        return None
    properties = {"": unquote(found["argument"])} if found["argument"] else {}
    for part in (found["more"] or "").split("&"):
        name, equals, value = part.partition("=")
        if part and (not equals or not name or unquote(name) in properties):
            raise ClusterError(
                "device-unsuitable", f"{place!r}: write each property once, as in TYPE://ARGUMENT?Name=value&Name=value"
            )
        if part:
            properties[unquote(name)] = unquote(value)
    return TypePlace(type=found["type"], properties=properties)

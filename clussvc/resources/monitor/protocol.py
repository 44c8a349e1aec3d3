"""How commands and reports travel between the service and a monitor: frames on a Unix socket pair.

A frame is four bytes of length (big endian) and one msgpack array ``[class name, fields]``. Each side accepts only the
classes the other may send; anything else, and any frame above ``FRAME_BYTES_MAX``, is a broken protocol and ends the
connection. Nothing is ever unpickled. ``Ping`` and ``Pong`` belong to this layer: they show that the monitor's main
loop still turns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, get_args

import msgspec

from clussvc.model.errors import ClusterError
from clussvc.model.monitoring import MonitorCommand, MonitorReport

FRAME_BYTES_MAX: Final = 1 << 20
"""The longest frame; private properties are bounded far below it."""

HUNG_STATUS: Final = 75
"""Exit status of a monitor that had to terminate everything while an online hung, and ended itself to stop it."""

_LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """The service asks whether the monitor's main loop turns."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """The answer, with the number of the question."""

    number: int


class _Envelope(msgspec.Struct, array_like=True):
    tag: str
    fields: msgspec.Raw


_T = TypeVar("_T")


class Codec(Generic[_T]):
    """Encodes what one side says, decodes what it hears; knows only the classes it was given."""

    def __init__(self, classes: Iterable[type[Any]]) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._envelope = msgspec.msgpack.Decoder(_Envelope)
        self._decoders = {known.__name__: msgspec.msgpack.Decoder(known) for known in classes}

    def encode(self, message: _T) -> bytes:
        """The frame for ``message``. Raises ClusterError(``message-too-large``)."""
        tag = type(message).__name__
        assert tag in self._decoders, f"{tag} does not belong to this side of the protocol"
        body = self._encoder.encode((tag, message))
        if len(body) > FRAME_BYTES_MAX:
            raise ClusterError(
                "message-too-large",
                f"a {tag} for the resource monitor takes {len(body)} bytes; at most {FRAME_BYTES_MAX} are allowed:"
                " shorten the private properties",
            )
        return _LENGTH.pack(len(body)) + body

    def decode(self, body: bytes) -> _T:
        """The message in the body of one frame. Raises ClusterError(``monitor-protocol``), remote."""
        try:
            envelope = self._envelope.decode(body)
            decoder = self._decoders.get(envelope.tag)
            if decoder is None:
                raise _broken(f"it sent an unknown message {envelope.tag[:60]!r}")
            message: _T = decoder.decode(envelope.fields)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            # Text that is not UTF-8 is told by a UnicodeDecodeError, which is a ValueError.
            raise _broken(f"it sent a malformed message: {error}") from error
        return message


class FrameReader:
    """Cuts a stream of bytes into the bodies of frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The bodies completed by ``chunk``, in order. Raises ClusterError(``monitor-protocol``), remote."""
        self._buffer += chunk
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > FRAME_BYTES_MAX:
                raise _broken(f"it announced a message of {length} bytes; at most {FRAME_BYTES_MAX} are allowed")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield body


def _broken(why: str) -> ClusterError:
    return ClusterError(
        "monitor-protocol", f"the other end of the monitor connection broke the protocol: {why}", remote=True
    )


def command_codec() -> Codec[MonitorCommand | Ping]:
    """For what the service says."""
    return Codec((*get_args(MonitorCommand), Ping))


def report_codec() -> Codec[MonitorReport | Pong]:
    """For what a monitor says."""
    return Codec((*get_args(MonitorReport), Pong))

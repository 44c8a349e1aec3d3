"""Bytes on the network: frames of a stream, and the datagram of a heartbeat.

A stream carries frames: ``u32 length, u8 kind, payload`` (big-endian, the length counts kind and payload). A heartbeat
is one datagram (little-endian): a header, an opaque body, and a 16-byte tag over both under the cluster's key:

```
  4s "CLHB"  u8 version  u8 key number  u16 sender  u64 boot  u64 incarnation  u64 sequence number   body   16s tag
```

Malformed input raises :class:`ClusterError` (streams) or is answered by a reason to drop it (datagrams), never more.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum, unique

from clussvc.model.errors import ClusterError
from clussvc.native import siphash128

FRAME_BYTES_MAX = 4 * 1024 * 1024
"""The longest frame between members."""

STRANGER_FRAME_BYTES_MAX = 64 * 1024
"""The longest frame of somebody who has not shown a certificate."""

DATAGRAM_BYTES_MAX = 1_200
"""Fits into one packet on every network, IPv6's smallest link included."""

KEY_BYTES = 16


@unique
class Kind(IntEnum):
    """What a frame is."""

    RAFT = 1
    AUTHORITY_REQUEST = 2
    """A stranger asks for the authority's certificate, to compare it with the fingerprint in its token."""
    AUTHORITY_REPLY = 3
    JOIN_REQUEST = 4
    JOIN_REPLY = 5


STRANGERS_MAY_SEND = frozenset((Kind.AUTHORITY_REQUEST, Kind.JOIN_REQUEST))


def encode_frame(kind: Kind, payload: bytes) -> bytes:
    """One frame. Payloads must be shorter than FRAME_BYTES_MAX; a longer one is a mistake of the caller."""
    assert len(payload) < FRAME_BYTES_MAX, len(payload)
    return struct.pack(">IB", len(payload) + 1, kind) + payload


class FrameDecoder:
    """Takes bytes as they come and gives whole frames."""

    def __init__(self, *, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Kind, bytes]]:
        """The frames that are complete now.

        Raises ClusterError(``malformed-frame``) when a frame is too long, empty, or of unknown kind; the connection
        must then be closed, since the place of the next frame is unknown.
        """
        self._buffer += data
        frames = []
        at = 0
        while len(self._buffer) - at >= 5:
            length, kind = struct.unpack_from(">IB", self._buffer, at)
            if not 1 <= length <= self._bytes_max:
                raise ClusterError(
                    "malformed-frame", f"a frame of {length} bytes (limit {self._bytes_max})", remote=True
                )
            if kind not in Kind.__members__.values():
                raise ClusterError("malformed-frame", f"a frame of unknown kind {kind}", remote=True)
            if len(self._buffer) - at < 4 + length:
                break
            frames.append((Kind(kind), bytes(self._buffer[at + 5 : at + 4 + length])))
            at += 4 + length
        del self._buffer[:at]
        return frames


# --- heartbeats -----------------------------------------------------------------------------------------------------

_MAGIC = b"CLHB"
_VERSION = 1
_HEADER = struct.Struct("<4sBBHQQQ")
_TAG_BYTES = 16

BODY_BYTES_MAX = DATAGRAM_BYTES_MAX - _HEADER.size - _TAG_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Datagram:
    """An authenticated heartbeat."""

    sender: int
    boot: int
    incarnation: int
    seq: int
    body: bytes


@unique
class Drop(IntEnum):
    """Why a datagram was dropped; the names appear in the statistics."""

    TOO_SHORT = 1
    TOO_LONG = 2
    FOREIGN = 3
    """Not a heartbeat of this product or of this version."""
    WRONG_KEY_NUMBER = 4
    FORGED = 5
    """The tag does not fit: another cluster's, or somebody's invention."""
    REPLAYED = 6
    MALFORMED = 7


def encode_heartbeat(key: bytes, datagram: Datagram, *, key_number: int = 0) -> bytes:
    """One datagram."""
    assert len(datagram.body) <= BODY_BYTES_MAX, len(datagram.body)
    header = _HEADER.pack(
        _MAGIC, _VERSION, key_number, datagram.sender, datagram.boot, datagram.incarnation, datagram.seq
    )
    return header + datagram.body + siphash128(key, header + datagram.body)


def decode_heartbeat(key: bytes, data: bytes, *, key_number: int = 0) -> Datagram | Drop:
    """The heartbeat in a datagram, or why it is dropped."""
    if len(data) > DATAGRAM_BYTES_MAX:
        return Drop.TOO_LONG
    if len(data) < _HEADER.size + _TAG_BYTES:
        return Drop.TOO_SHORT
    magic, version, number, sender, boot, incarnation, seq = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        return Drop.FOREIGN
    if number != key_number:
        return Drop.WRONG_KEY_NUMBER
    signed, tag = data[:-_TAG_BYTES], data[-_TAG_BYTES:]
    if not hmac.compare_digest(siphash128(key, signed), tag):
        return Drop.FORGED
    return Datagram(sender=sender, boot=boot, incarnation=incarnation, seq=seq, body=signed[_HEADER.size :])


class ReplayGuard:
    """Remembers the newest heartbeat of every sender; an older or equal one is a replay.

    A node's boot counter never goes back, so heartbeats of an earlier life stay refused for as long as this process
    lives. The number of senders is bounded by the width of the sender field, and only authenticated ones get here.
    """

    def __init__(self) -> None:
        self._newest: dict[int, tuple[int, int]] = {}

    def fresh(self, datagram: Datagram) -> bool:
        """Whether it is newer than everything seen of its sender; if so it is remembered."""
        place = (datagram.boot, datagram.seq)
        if place <= self._newest.get(datagram.sender, (0, 0)):
            return False
        self._newest[datagram.sender] = place
        return True

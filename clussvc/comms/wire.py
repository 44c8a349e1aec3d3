"""Bytes on a stream: frames of ``u32 length, u8 kind, payload`` (big-endian, the length counts kind and payload).

Malformed input raises :class:`ClusterError`, never more. (The datagram of a heartbeat is described and read in
``clussvc/native/heartbeat_core.h``.)
"""

from __future__ import annotations

import struct
from enum import IntEnum, unique

from clussvc.model.errors import ClusterError

FRAME_BYTES_MAX = 4 * 1024 * 1024
"""The longest frame between members."""

STRANGER_FRAME_BYTES_MAX = 64 * 1024
"""The longest frame of somebody who has not shown a certificate."""


@unique
class Kind(IntEnum):
    """What a frame is."""

    RAFT = 1
    """Of the log that is replicated among the nodes, if it is the cluster's first log."""
    AUTHORITY_REQUEST = 2
    """A stranger asks for the authority's certificate, to compare it with the fingerprint in its token."""
    AUTHORITY_REPLY = 3
    JOIN_REQUEST = 4
    JOIN_REPLY = 5
    DISK_LOG = 6
    """Of the log on a quorum disk, if it is the cluster's first log."""
    LATER_LOG = 7
    """Of a log that the cluster has changed to; the generation of the quorum comes first."""
    QUORUM = 8
    """About the generation of the quorum; see clussvc.quorum.news."""
    FORCE = 9
    """Between nodes that are about to go on by force; see clussvc.service.forced_start."""


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

"""The snapshot: an image of the replicated state with the place in the log it belongs to.

One value, one encoding, used alike on disk and on the wire: magic, CRC32C and length, then a MessagePack map. A file
that does not check out is never used in part; it is refused by name. Writing is left to the caller, since the library
decides when (it renames the file itself); :class:`~clussvc.global_update.raft.storage.Storage` says what is durable.
"""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec

from clussvc.global_update.raft.entries import Entry
from clussvc.model.errors import ClusterError
from clussvc.native import crc32c

JOIN_ANEW = (
    "start it with --resetquorumlog and give 'cluster /quorum /renewlog' on another node. If that cannot be, evict"
    " the node from the cluster ('cluster node NAME /evict' on another node), clean it up on its own machine ('cluster"
    " node /forcecleanup'), and let it join anew."
)
"""The way out for a node whose part of the log is lost; it must not vote under its old identity."""

OTHER_FOLDER = (
    "Point the node to its own data folder ('data' in its node file). If that is lost, evict the node ('cluster node"
    " NAME /evict' on another), clean it up on its own machine ('cluster node /forcecleanup'), and let it join anew."
)
"""The way out for a node that finds the files of another one."""

SNAPSHOT_BYTES_MAX = 256 * 1024 * 1024
_MAGIC = b"CLSNAP\x00\x01"
_HEAD = struct.Struct("<8sIQ")


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """State after ``last``; ``previous`` is the entry before it, which the library wants to keep as well.

    ``members`` are exactly those in force at ``last``, never those of a change that is still undecided. ``applied`` is
    the number of commands applied up to there.
    """

    cluster_id: str
    previous: Entry
    last: Entry
    members: tuple[int, ...]
    applied: int
    image: bytes

    @property
    def index(self) -> int:
        """Index of the last entry that the image contains."""
        return self.last[1]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Snapshot)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The one encoding of a snapshot."""
    body = _ENCODER.encode(snapshot)
    if len(body) > SNAPSHOT_BYTES_MAX:
        raise ClusterError(
            "snapshot-too-large",
            f"The snapshot has {len(body)} bytes; at most {SNAPSHOT_BYTES_MAX} can be sent to a node.",
        )
    return _HEAD.pack(_MAGIC, crc32c(body), len(body)) + body


def decode_snapshot(data: bytes, *, cluster_id: str, source: Path | str) -> Snapshot:
    """Check and read a snapshot.

    Raises ClusterError ``snapshot-damaged`` or ``snapshot-foreign``; the message names ``source`` and the way out.
    """
    way_out = f"The node cannot go on without it: {JOIN_ANEW}"
    if len(data) < _HEAD.size:
        raise ClusterError("snapshot-damaged", f"The snapshot {source} is cut off after {len(data)} bytes. {way_out}")
    magic, checksum, length = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if magic != _MAGIC:
        raise ClusterError("snapshot-damaged", f"{source} is not a snapshot of this version. {way_out}")
    if length != len(body) or checksum != crc32c(body):
        raise ClusterError("snapshot-damaged", f"The snapshot {source} is damaged (its checksum differs). {way_out}")
    try:
        snapshot = _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # Text that is not UTF-8 is told by a UnicodeDecodeError, which is a ValueError.
        raise ClusterError("snapshot-damaged", f"The snapshot {source} cannot be read: {error}. {way_out}") from error
    if snapshot.cluster_id != cluster_id:
        raise ClusterError(
            "snapshot-foreign",
            f"The snapshot {source} belongs to cluster {snapshot.cluster_id}, this node to {cluster_id}. "
            f"{OTHER_FOLDER}",
        )
    if snapshot.last[1] != snapshot.previous[1] + 1 or snapshot.previous[1] < 1:
        raise ClusterError("snapshot-damaged", f"The snapshot {source} names entries that do not follow. {way_out}")
    return snapshot

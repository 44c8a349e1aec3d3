"""The quorum disk as bytes: superblock, node slots, areas of image and log.

```
  sector 0          superblock: whose disk this is, and its geometry; written once, and again when the disk is left
  sectors 1..508    a slot for each of 127 nodes, in four copies, written by that node alone
  sectors 512..     eight areas, each with an image of the configuration and the log that follows it
```

**Slots.** A node writes its slot into one of its four sectors, not into the one with its newest words; the newest copy
counts. A write that was answered with an error, or whose process is gone, may still take effect later. So a sector that
such a write went to is left alone for :data:`GHOST_MS`, or an old word could take the place of a newer one. And a node
that was started anew writes nothing before :data:`LAST_WORDS_MS` have passed.

A sector has 4096 bytes and a checksum, and is the unit that a device writes whole or not at all; every sector can be
read without any other. There is no record that two nodes write: who owns the disk, and where the log is, follows from
the slots (:mod:`clussvc.quorum.arbitration`). An owner writes two areas alone, a *pair* that it names in its slot when
it claims the disk; the next owner chooses another one. So a write of an earlier owner that arrives late, from a device
without reservations, meets nothing that is in use.

**Log.** A batch of entries takes whole sectors, and no sector is written a second time with other content; so a write
that is torn or lost can only harm the batch it belongs to, which nobody was told of. Each sector names the
preparation of the disk, the epoch, the generation of the area and its own position, so what an earlier life of the area
or of the disk has left is never taken for news.
Reading ends at the first sector that is not the next one. That is the end of the log, unless the owner has said in its
slot that there is more, or a later batch stands behind: then acknowledged entries are damaged, and nobody may go on.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import AREAS, AREAS_FROM_SECTOR, NODE_NUMBER_MAX, SECTOR_KB

SECTOR_BYTES = SECTOR_KB * 1024
FIRST_SLOT_SECTOR = 1
SLOT_COPIES = 4
SLOT_SECTORS = NODE_NUMBER_MAX * SLOT_COPIES
FIRST_AREA_SECTOR = AREAS_FROM_SECTOR
GHOST_MS = 30_000
"""After so long a write that was not answered has taken effect, or never will; SCSI gives commands up after 30 s."""
LAST_WORDS_MS = 5_000
"""After so long what a process or a machine that is gone has begun to write has taken effect, or never will."""
PAIRS = AREAS // 2
DISK_BYTES_MIN = 50 * 1024 * 1024
"""MSCS: the quorum disk has to be larger than 50 MB."""
IMAGE_BYTES_MAX = 256 * 1024 * 1024
BATCH_BYTES_MAX = 1024 * 1024
"""Entries of one batch, their lengths included; a single command is shorter."""

_SUPERBLOCK = struct.Struct("<8sII36s64sQQQQQ")
_SLOT = struct.Struct("<8sIHHQQQQQHQHHIQQ")
_PLACE = struct.Struct("<QIHQIQIQ")
_SECTOR = struct.Struct("<4sIQQIIIIH")
_ENTRY = struct.Struct("<I")
_FIRST = struct.Struct("<Q")
_SUPERBLOCK_MAGIC, _SLOT_MAGIC, _SECTOR_MAGIC = b"CLQDISK\x01", b"CLQSLOT\x01", b"CLQL"
_LEFT_MAGIC = b"CLQLEFT\x01"
"""In place of the superblock's: a release that does not know it takes the disk for a strange one."""
_PAYLOAD = SECTOR_BYTES - _SECTOR.size

BATCH_SECTORS_MAX = -(-(BATCH_BYTES_MAX + _FIRST.size) // _PAYLOAD)


class LogDamaged(Exception):
    """Entries that were acknowledged cannot be read any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """Whose disk this is."""

    cluster: str
    """The identifier of the cluster."""
    cluster_name: str
    disk: int
    """A number drawn when the disk was prepared; another preparation draws another one."""
    sectors: int
    """How much of the device is used."""
    prepared_ms: int
    """Wall clock, for people."""
    base_index: int = 0
    """Who begins the log on the empty disk must have applied so much of the log before it."""
    generation: int = 0
    """For which of the cluster's quorums it was prepared."""
    left: bool = False
    """The cluster has another quorum now. Its log can still be read, by nodes that do not know yet; whoever wants the
    disk for something else may have it."""

    @property
    def area_sectors(self) -> int:
        """The size of one area."""
        return (self.sectors - FIRST_AREA_SECTOR) // AREAS


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlace:
    """Where an image and the log behind it are."""

    disk: int
    """The number of the superblock."""
    epoch: int
    """The ownership under which it was written."""
    generation: int
    """Raised with every image of the epoch."""
    area: int
    image_bytes: int
    image_crc: int
    image_index: int
    """The log index that the image contains."""
    tail: int = 0
    """So many sectors of the log were durable when this was written, at least."""
    tail_index: int = 0
    """The index of the last entry in them."""

    @property
    def log_start(self) -> int:
        """The first sector of the log within the area."""
        return -(-self.image_bytes // SECTOR_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What one node says on the disk. The fields of the contest are explained in :mod:`clussvc.quorum.arbitration`."""

    node: NodeId
    boot: int = 0
    counter: int = 0
    """Raised with every writing."""
    contested: int = 0
    """The epoch for which this node takes part in a contest, or did last."""
    ballot: int = 0
    accepted: int = 0
    choice: NodeId | None = None
    epoch: int = 0
    """The last epoch as whose owner this node has acted; 0: none."""
    held: bool = False
    """It has not given that ownership back."""
    hold_ms: int = 0
    """For how long this writing lets it act as the owner."""
    pair: int = 0
    """Which areas it writes as the owner."""
    wants: bool = False
    """The node cannot hear the owner and would take over."""
    client_networks: int = 0
    """How many networks of clients work on this node; 65535 at most."""
    key: int = 0
    """Its key of persistent reservations; 0: it uses none."""
    log: LogPlace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBatch:
    """Entries that were written, and become durable, together."""

    first_index: int
    commands: tuple[bytes, ...]
    sectors: int


# --- superblock ------------------------------------------------------------------------------------------------------


def used_sectors(device_sectors: int) -> int:
    """How much of a device is used: areas never need to be longer than the largest image and the largest log.

    Raises ClusterError(``device-unsuitable``) when the device is too small.
    """
    if device_sectors * SECTOR_BYTES < DISK_BYTES_MIN:
        raise ClusterError(
            "device-unsuitable",
            f"the device has {device_sectors * SECTOR_BYTES} bytes; a quorum disk needs at least {DISK_BYTES_MIN}"
            " (50 MB); choose a larger one",
        )
    most = FIRST_AREA_SECTOR + AREAS * 2 * (IMAGE_BYTES_MAX // SECTOR_BYTES)
    return min(device_sectors, most)


def encode_superblock(block: Superblock) -> bytes:
    """One sector."""
    body = _SUPERBLOCK.pack(
        _LEFT_MAGIC if block.left else _SUPERBLOCK_MAGIC,
        0,
        SECTOR_BYTES,
        block.cluster.encode()[:36],
        block.cluster_name.encode()[:64],
        block.disk,
        block.sectors,
        block.prepared_ms,
        block.base_index,
        block.generation,
    )
    return _sealed(body, 8)


def decode_superblock(sector: bytes) -> Superblock | None:
    """What the first sector says; None when it is no superblock of a quorum disk.

    Raises ClusterError(``quorum-damaged``) when it is one, but damaged.
    """
    magic, _, _, cluster, name, disk, sectors, prepared_ms, base_index, generation = _SUPERBLOCK.unpack_from(sector)
    if magic not in (_SUPERBLOCK_MAGIC, _LEFT_MAGIC):
        return None
    if not _intact(sector, 8):
        raise ClusterError("quorum-damaged", "the superblock of the quorum disk is damaged (its checksum differs)")
    return Superblock(
        cluster=cluster.rstrip(b"\0").decode("utf-8", "replace"),
        cluster_name=name.rstrip(b"\0").decode("utf-8", "replace"),
        disk=disk,
        sectors=sectors,
        prepared_ms=prepared_ms,
        base_index=base_index,
        generation=generation,
        left=magic == _LEFT_MAGIC,
    )


# --- slots -----------------------------------------------------------------------------------------------------------


def slot_sector(node: NodeId, copy: int) -> int:
    """Where a copy of a node's slot is."""
    assert 1 <= node <= NODE_NUMBER_MAX, node
    assert 0 <= copy < SLOT_COPIES, copy
    return FIRST_SLOT_SECTOR + (node - 1) * SLOT_COPIES + copy


def encode_slot(slot: Slot, disk: int) -> bytes:
    """One sector; ``disk`` is the number of the superblock."""
    flags = slot.held | slot.wants << 1 | (slot.log is not None) << 2
    body = _SLOT.pack(
        _SLOT_MAGIC,
        0,
        slot.node,
        flags,
        disk,
        slot.boot,
        slot.counter,
        slot.contested,
        slot.ballot,
        slot.choice or 0,
        slot.accepted,
        min(slot.client_networks, 65535),
        slot.pair,
        slot.hold_ms,
        slot.epoch,
        slot.key,
    )
    if slot.log is not None:
        log = slot.log
        body += _PLACE.pack(
            log.epoch,
            log.generation,
            log.area,
            log.image_bytes,
            log.image_crc,
            log.image_index,
            log.tail,
            log.tail_index,
        )
    return _sealed(body, 8)


def decode_slot(sector: bytes, node: NodeId, disk: int) -> Slot | None:
    """What a node says; None for a slot that was never written, belongs to an earlier preparation, or is torn."""
    (magic, _, said, flags, of_disk, *numbers) = _SLOT.unpack_from(sector)
    if magic != _SLOT_MAGIC or not _intact(sector, 8) or said != node or of_disk != disk:
        return None
    boot, counter, contested, ballot, choice, accepted, networks, pair, hold_ms, epoch, key = numbers
    place = None
    if flags & 4:
        where = _PLACE.unpack_from(sector, _SLOT.size)
        names = ("epoch", "generation", "area", "image_bytes", "image_crc", "image_index", "tail", "tail_index")
        place = LogPlace(disk=disk, **dict(zip(names, where, strict=True)))
    return Slot(
        node=node,
        boot=boot,
        counter=counter,
        contested=contested,
        ballot=ballot,
        accepted=accepted,
        choice=NodeId(choice) if choice else None,
        epoch=epoch,
        held=bool(flags & 1),
        wants=bool(flags & 2),
        hold_ms=hold_ms,
        pair=pair,
        client_networks=networks,
        key=key,
        log=place,
    )


def decode_copies(data: bytes, node: NodeId, disk: int) -> list[Slot | None]:
    """All copies of one slot, in sectors that were read from the first slot on."""
    begin = (node - 1) * SLOT_COPIES * SECTOR_BYTES
    places = range(begin, begin + SLOT_COPIES * SECTOR_BYTES, SECTOR_BYTES)
    return [
        decode_slot(data[at : at + SECTOR_BYTES], node, disk) if data.startswith(_SLOT_MAGIC, at) else None
        for at in places
    ]


def newest_copy(copies: Sequence[Slot | None]) -> int | None:
    """The number of the copy with the node's newest words; None if it has said nothing yet."""
    said = [number for number, slot in enumerate(copies) if slot is not None]
    return max(said, key=lambda number: _age(copies[number]), default=None)


def _age(slot: Slot | None) -> tuple[int, int]:
    assert slot is not None
    return slot.boot, slot.counter


def decode_slots(data: bytes, disk: int) -> dict[NodeId, Slot]:
    """The slots in sectors that were read from the first one on."""
    found = {}
    for number in range(1, len(data) // (SLOT_COPIES * SECTOR_BYTES) + 1):
        copies = decode_copies(data, NodeId(number), disk)
        newest = newest_copy(copies)
        if newest is not None and (slot := copies[newest]) is not None:
            found[NodeId(number)] = slot
    return found


# --- the log ---------------------------------------------------------------------------------------------------------


def area_start(block: Superblock, area: int) -> int:
    """The first sector of an area."""
    return FIRST_AREA_SECTOR + area * block.area_sectors


def encode_batch(place: LogPlace, position: int, first_index: int, commands: Sequence[bytes]) -> bytes:
    """Whole sectors for entries ``first_index``, ``first_index + 1``, …, to be written from there on in the log."""
    payload = _FIRST.pack(first_index) + b"".join(_ENTRY.pack(len(each)) + each for each in commands)
    assert commands
    assert len(payload) <= BATCH_BYTES_MAX + _FIRST.size, len(payload)
    count = -(-len(payload) // _PAYLOAD)
    sectors = []
    for number in range(count):
        part = payload[number * _PAYLOAD : (number + 1) * _PAYLOAD]
        head = _SECTOR.pack(
            *(_SECTOR_MAGIC, 0, place.disk, place.epoch, place.generation),
            *(position + number, position, count, len(part)),
        )
        sectors.append(_sealed(head + part, 4))
    return b"".join(sectors)


def batch_room(commands: Sequence[bytes]) -> int:
    """How many bytes of BATCH_BYTES_MAX these commands take."""
    return sum(_ENTRY.size + len(each) for each in commands)


def batch_sectors(commands: Sequence[bytes]) -> int:
    """How many sectors a batch of these commands takes."""
    return -(-(_FIRST.size + batch_room(commands)) // _PAYLOAD)


def _log_sector(sector: bytes, place: LogPlace, position: int) -> tuple[int, int, bytes] | None:
    """Start of its batch, length of the batch in sectors, and content of a log sector; None if it is not the one that
    belongs there."""
    magic, _, disk, epoch, generation, said, start, count, length = _SECTOR.unpack_from(sector)
    wanted = _SECTOR_MAGIC, place.disk, place.epoch, place.generation, position
    fits = (magic, disk, epoch, generation, said) == wanted
    if not fits or length > _PAYLOAD or not _intact(sector, 4):
        return None
    return start, count, sector[_SECTOR.size : _SECTOR.size + length]


def decode_batch(data: bytes, place: LogPlace, position: int) -> LogBatch | int | None:
    """The batch that begins at ``position``, where ``data`` begins.

    A number says that so many sectors are needed to tell; None: no whole batch begins there.
    """
    if len(data) < SECTOR_BYTES:
        return 1
    first = _log_sector(data[:SECTOR_BYTES], place, position)
    if first is None or first[0] != position or not 1 <= first[1] <= BATCH_SECTORS_MAX:
        return None
    count = first[1]
    if len(data) < count * SECTOR_BYTES:
        return count
    payload = first[2]
    for number in range(1, count):
        part = _log_sector(data[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES], place, position + number)
        if part is None or part[:2] != (position, count):
            return None
        payload += part[2]
    commands, at = [], _FIRST.size
    while at < len(payload):
        (length,) = _ENTRY.unpack_from(payload, at)
        at += _ENTRY.size
        commands.append(payload[at : at + length])
        at += length
    assert at == len(payload), "a batch with a right checksum is not whole"
    return LogBatch(first_index=_FIRST.unpack_from(payload)[0], commands=tuple(commands), sectors=count)


def check_end(data: bytes, place: LogPlace, position: int) -> None:
    """The log seems to end at ``position``, from where ``data`` was read (BATCH_SECTORS_MAX + 1 sectors, or all that is
    left of the area).

    Raises LogDamaged when it can be told that more was acknowledged.
    """
    if position < place.tail:
        raise LogDamaged(f"sector {position} of the log cannot be read, and {place.tail} were durable")
    for number in range(len(data) // SECTOR_BYTES):
        found = _log_sector(data[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES], place, position + number)
        if found is not None and found[0] > position:
            raise LogDamaged(f"sector {position} of the log cannot be read, but a later batch can")


def crc(data: bytes) -> int:
    """The checksum used on the disk (CRC-32 of ISO 3309)."""
    return zlib.crc32(data)


def _sealed(body: bytes, crc_at: int) -> bytes:
    """A whole sector with its checksum, which is computed with zeros in its place."""
    assert len(body) <= SECTOR_BYTES
    sector = bytearray(body.ljust(SECTOR_BYTES, b"\0"))
    sector[crc_at : crc_at + 4] = zlib.crc32(sector).to_bytes(4, "little")
    return bytes(sector)


def _intact(sector: bytes, crc_at: int) -> bool:
    said = sector[crc_at : crc_at + 4]
    return said == zlib.crc32(sector[:crc_at] + b"\0\0\0\0" + sector[crc_at + 4 :]).to_bytes(4, "little")

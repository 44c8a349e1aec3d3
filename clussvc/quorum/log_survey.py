"""What can be read of the log on a quorum disk, without writing anything: for looking at a damaged one.

Whoever takes the disk over refuses a damaged log as a whole (:mod:`clussvc.quorum.disk_log`). Here all is read that can
be, up to the damage, which is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clussvc.model.ids import NodeId
from clussvc.quorum import arbitration, disk_layout
from clussvc.quorum.disk_layout import (
    BATCH_SECTORS_MAX,
    FIRST_SLOT_SECTOR,
    SECTOR_BYTES,
    SLOT_SECTORS,
    LogDamaged,
    LogPlace,
    Superblock,
)

PIECE_SECTORS = 256
"""Read at once."""

ReadSectors = Callable[[int, int], bytes]
"""First sector and count; as QuorumDevice.read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What there is, as of one reading. An owner that is at work meanwhile may make it look damaged."""

    owner: NodeId | None
    """Who owned the disk last; None: nobody ever did, and there is no log."""
    epoch: int = 0
    image_index: int = 0
    image: bytes = b""
    """The state after entry ``image_index``; empty when it is damaged."""
    commands: tuple[bytes, ...] = ()
    """The entries that follow and can be read; without the image they cannot be applied."""
    durable_index: int = 0
    """The owner has said that so much is safe, at least."""
    damage: str = ""
    """What cannot be read; empty when all of it can."""

    @property
    def index(self) -> int:
        """The last entry that can be read."""
        return self.image_index + len(self.commands)


def survey(read: ReadSectors, block: Superblock) -> Survey:
    """Read slots, image and log. Whatever ``read`` raises passes through."""
    slots = disk_layout.decode_slots(_read(read, FIRST_SLOT_SECTOR, SLOT_SECTORS), block.disk)
    owner, place = arbitration.owner_of(slots), arbitration.log_of(slots)
    if owner is None or place is None:
        return Survey(owner=owner.node if owner is not None else None, epoch=owner.epoch if owner is not None else 0)
    start = disk_layout.area_start(block, place.area)
    image = _read(read, start, place.log_start)[: place.image_bytes]
    damage = ""
    if disk_layout.crc(image) != place.image_crc:
        image, damage = b"", "the image of the configuration is damaged (its checksum differs)"
    commands, found = _entries(read, start + place.log_start, block.area_sectors - place.log_start, place)
    return Survey(
        owner=owner.node,
        epoch=owner.epoch,
        image_index=place.image_index,
        image=image,
        commands=tuple(commands),
        durable_index=place.tail_index,
        damage="; ".join(filter(None, (damage, found))),
    )


def _entries(read: ReadSectors, start: int, room: int, place: LogPlace) -> tuple[list[bytes], str]:
    """The entries up to the end of the log, or to the damage, which is named."""
    commands: list[bytes] = []
    position, data = 0, b""
    while True:
        batch = disk_layout.decode_batch(data, place, position)
        if isinstance(batch, int):
            count = min(max(batch, PIECE_SECTORS), room - position)
            if count * SECTOR_BYTES <= len(data):
                break
            data = _read(read, start + position, count)
            continue
        if batch is None or batch.first_index != place.image_index + len(commands) + 1:
            break
        commands += batch.commands
        position += batch.sectors
        data = data[batch.sectors * SECTOR_BYTES :]
    try:
        disk_layout.check_end(
            _read(read, start + position, min(BATCH_SECTORS_MAX + 1, room - position)), place, position
        )
    except LogDamaged as damage:
        return commands, str(damage)
    return commands, ""


def _read(read: ReadSectors, sector: int, count: int) -> bytes:
    data = b""
    while len(data) < count * SECTOR_BYTES:
        done = len(data) // SECTOR_BYTES
        data += read(sector + done, min(PIECE_SECTORS, count - done))
    return data

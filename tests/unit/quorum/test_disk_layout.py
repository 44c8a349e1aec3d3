"""The bytes of the quorum disk: whole or refused, whatever was torn."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import AREAS
from clussvc.quorum import disk_layout
from clussvc.quorum.disk_layout import (
    BATCH_BYTES_MAX,
    DISK_BYTES_MIN,
    SECTOR_BYTES,
    LogBatch,
    LogDamaged,
    LogPlace,
    Slot,
    Superblock,
)

DISK = 77
NUMBERS = st.integers(0, 2**63)
PLACE = LogPlace(disk=DISK, epoch=5, generation=2, area=1, image_bytes=10, image_crc=3, image_index=40)

places = st.builds(
    LogPlace,
    disk=st.just(DISK),
    epoch=NUMBERS,
    generation=st.integers(0, 2**32 - 1),
    area=st.integers(0, AREAS - 1),
    image_bytes=NUMBERS,
    image_crc=st.integers(0, 2**32 - 1),
    image_index=NUMBERS,
    tail=st.integers(0, 2**32 - 1),
    tail_index=NUMBERS,
)
slots = st.builds(
    Slot,
    node=st.integers(1, 255).map(NodeId),
    boot=NUMBERS,
    counter=NUMBERS,
    contested=NUMBERS,
    ballot=NUMBERS,
    accepted=NUMBERS,
    choice=st.none() | st.integers(1, 255).map(NodeId),
    epoch=NUMBERS,
    held=st.booleans(),
    hold_ms=st.integers(0, 2**32 - 1),
    pair=st.integers(0, 3),
    wants=st.booleans(),
    client_networks=st.integers(0, 65535),
    key=NUMBERS,
    log=st.none() | places,
)
commands = st.lists(st.binary(max_size=3 * SECTOR_BYTES), min_size=1, max_size=6)


@given(slots)
def test_a_slot_comes_back(slot: Slot) -> None:
    sector = disk_layout.encode_slot(slot, DISK)
    assert len(sector) == SECTOR_BYTES
    assert disk_layout.decode_slot(sector, slot.node, DISK) == slot


@given(slots, st.integers(0, SECTOR_BYTES - 1), st.integers(1, 255))
def test_a_damaged_slot_says_nothing(slot: Slot, at: int, change: int) -> None:
    sector = bytearray(disk_layout.encode_slot(slot, DISK))
    sector[at] ^= change
    assert disk_layout.decode_slot(bytes(sector), slot.node, DISK) is None


@given(slots)
def test_a_slot_of_another_disk_or_node_says_nothing(slot: Slot) -> None:
    """Such as one that was left from before the disk was prepared."""
    sector = disk_layout.encode_slot(slot, DISK)
    assert disk_layout.decode_slot(sector, slot.node, DISK + 1) is None
    assert disk_layout.decode_slot(sector, NodeId(slot.node % 255 + 1), DISK) is None


@given(st.text(max_size=16), st.integers(0, 2**32), NUMBERS)
def test_a_superblock_comes_back(name: str, sectors: int, number: int) -> None:
    name = name.replace("\0", "")
    block = Superblock(
        cluster="c" * 36, cluster_name=name, disk=number, sectors=sectors, prepared_ms=number, base_index=number
    )
    sector = disk_layout.encode_superblock(block)
    assert disk_layout.decode_superblock(sector) == block
    damaged = sector[:-1] + b"x"
    with pytest.raises(ClusterError, match="damaged"):
        disk_layout.decode_superblock(damaged)


def test_what_is_no_superblock_is_none() -> None:
    assert disk_layout.decode_superblock(bytes(SECTOR_BYTES)) is None
    assert disk_layout.decode_superblock(b"\xeb\x3c\x90mkfs" + bytes(SECTOR_BYTES)) is None


def test_a_device_that_is_too_small_is_refused() -> None:
    with pytest.raises(ClusterError, match="50 MB") as refused:
        disk_layout.used_sectors(DISK_BYTES_MIN // SECTOR_BYTES - 1)
    assert refused.value.code == "device-unsuitable"


@given(commands, st.integers(0, 1_000), NUMBERS)
def test_a_batch_comes_back(batch: list[bytes], position: int, index: int) -> None:
    data = disk_layout.encode_batch(PLACE, position, index, batch)
    sectors = len(data) // SECTOR_BYTES
    assert sectors == disk_layout.batch_sectors(batch)
    assert disk_layout.decode_batch(data + bytes(SECTOR_BYTES), PLACE, position) == LogBatch(
        first_index=index, commands=tuple(batch), sectors=sectors
    )
    if sectors > 1:
        assert disk_layout.decode_batch(data[:SECTOR_BYTES], PLACE, position) == sectors


@given(commands, st.data())
def test_a_torn_batch_is_no_batch(batch: list[bytes], data: st.DataObject) -> None:
    """Any sector of it may be missing, or be of an earlier life of the area, or stand elsewhere."""
    whole = disk_layout.encode_batch(PLACE, 7, 41, batch)
    torn = data.draw(st.integers(0, len(whole) // SECTOR_BYTES - 1))
    old = replace(PLACE, epoch=4)
    other = replace(PLACE, disk=DISK - 1)
    instead = data.draw(
        st.sampled_from(
            [
                bytes(SECTOR_BYTES),
                disk_layout.encode_batch(old, 7 + torn, 41, [b"old"])[:SECTOR_BYTES],
                disk_layout.encode_batch(other, 7 + torn, 41, [b"of another preparation"])[:SECTOR_BYTES],
                disk_layout.encode_batch(PLACE, 8 + torn, 41, [b"elsewhere"])[:SECTOR_BYTES],
            ]
        )
    )
    parts = whole[: torn * SECTOR_BYTES] + instead + whole[(torn + 1) * SECTOR_BYTES :]
    assert disk_layout.decode_batch(parts, PLACE, 7) is None


def test_the_longest_batch_fits() -> None:
    batch = [bytes(BATCH_BYTES_MAX - 4)]
    assert disk_layout.batch_room(batch) == BATCH_BYTES_MAX
    data = disk_layout.encode_batch(PLACE, 0, 1, batch)
    assert len(data) // SECTOR_BYTES == disk_layout.BATCH_SECTORS_MAX


def test_the_end_of_the_log_is_told_from_damage() -> None:
    """A torn last batch is the end; anything behind it that was begun later is damage."""
    first = disk_layout.encode_batch(PLACE, 0, 41, [bytes(2 * SECTOR_BYTES)])
    torn = bytes(SECTOR_BYTES) + first[SECTOR_BYTES:]
    blank = bytes(3 * SECTOR_BYTES)
    disk_layout.check_end(torn + blank, PLACE, 0)
    later = disk_layout.encode_batch(PLACE, len(first) // SECTOR_BYTES, 42, [b"later"])
    with pytest.raises(LogDamaged, match="later batch"):
        disk_layout.check_end(torn + later, PLACE, 0)


def test_less_than_the_owner_has_said_is_damage() -> None:
    told = replace(PLACE, tail=4)
    disk_layout.check_end(b"", told, 4)
    with pytest.raises(LogDamaged, match="4 were durable"):
        disk_layout.check_end(b"", told, 3)

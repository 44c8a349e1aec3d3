"""What can be read of the log on a quorum disk without taking it over."""

from __future__ import annotations

import pytest

from clussvc.quorum.arbitration import log_of
from clussvc.quorum.disk_layout import FIRST_SLOT_SECTOR, SECTOR_BYTES, SLOT_SECTORS, LogPlace, area_start, decode_slots
from clussvc.quorum.log_survey import Survey, survey
from tests.unit.quorum.disk_world import DiskWorld

COUNT = 300


def read(world: DiskWorld) -> Survey:
    before = dict(world.disk.sectors)
    found = survey(world.disk.read, world.block)
    assert before == world.disk.sectors, "it only reads"
    return found


def place_of(world: DiskWorld) -> LogPlace:
    data = world.disk.read(FIRST_SLOT_SECTOR, SLOT_SECTORS)
    place = log_of(decode_slots(data, world.block.disk))
    assert place is not None
    return place


@pytest.fixture
def world() -> DiskWorld:
    """A log of many entries, whose owner is gone."""
    made = DiskWorld(11, 2, reservations=False)
    made.run(3_000)
    owner = made.owner()
    assert owner is not None
    for number in range(COUNT):
        made.propose(owner.id, b"entry %d" % number)
        made.run(5)
    made.run(1_000)
    for node in made.nodes.values():
        node.crash()
    return made


def test_an_empty_disk_has_no_log() -> None:
    world = DiskWorld(1, 1, reservations=False)
    assert read(world) == Survey(owner=None)


def test_a_good_log_is_read_to_its_end(world: DiskWorld) -> None:
    found = read(world)
    assert (found.damage, found.owner, found.index) == ("", world.owners[-1][1], COUNT)
    assert [*filter(None, found.image.split(b"\n")), *found.commands] == world.acknowledged
    assert found.durable_index <= found.index


def test_a_lost_sector_of_the_log_is_named_and_what_is_before_is_read(world: DiskWorld) -> None:
    place = place_of(world)
    assert place.tail > 10
    world.disk.sectors[area_start(world.block, place.area) + place.log_start + 7] = bytes(SECTOR_BYTES)
    found = read(world)
    assert "sector 7 of the log cannot be read" in found.damage
    assert found.image_index <= found.index < found.durable_index
    assert list(found.commands) == world.acknowledged[found.image_index : found.index]


def test_a_damaged_image_is_named(world: DiskWorld) -> None:
    """The next owner has written one with everything; a byte of it is lost."""
    for node in world.nodes.values():
        node.start()
    world.run(20_000)
    for node in world.nodes.values():
        node.crash()
    place = place_of(world)
    assert place.image_index == COUNT
    found = read(world)
    assert (found.damage, found.image.split(b"\n")) == ("", world.acknowledged)
    world.disk.sectors[area_start(world.block, place.area)] = b"x" * SECTOR_BYTES
    found = read(world)
    assert "image of the configuration is damaged" in found.damage
    assert (found.image, found.index) == (b"", COUNT)

"""The disk of the next quorum of a running cluster: prepared once, and never under somebody's hands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.quorum.devices import create_file, open_device
from clussvc.quorum.disk_layout import (
    DISK_BYTES_MIN,
    FIRST_SLOT_SECTOR,
    SECTOR_BYTES,
    decode_superblock,
    encode_superblock,
)
from clussvc.service.quorum_choice import Wanted, choose_on_running, opener
from clussvc.service.settings_file import NodeFile
from tests.unit.groups.samples import cluster, node

CLUSTER_ID = "d9a6711baebd41b591887906406e16f2"
THREE = cluster(node(1), node(2), node(3))


@pytest.fixture
def file(tmp_path: Path) -> NodeFile:
    return NodeFile(
        cluster="PAYROLL",
        cluster_id=CLUSTER_ID,
        node="NODE1",
        node_id=1,
        addresses=("10.77.0.11",),
        port=3343,
        admin_port=0,
        data=tmp_path,
        socket=tmp_path / "socket",
    )


def chosen(file: NodeFile, place: object, config: Config = THREE, *, force: bool = False) -> Quorum:
    return choose_on_running(Wanted(place=str(place), force=force), file, config, base_index=40)


def test_a_change_that_was_prepared_in_vain_finds_its_disk_as_it_was(file: NodeFile, tmp_path: Path) -> None:
    """Its outcome may be unknown: the update that names this very preparation may come to be yet."""
    first = chosen(file, tmp_path / "disk")
    assert (first.generation, first.base_index, first.kind) == (1, 40, QuorumKind.DISK)
    again = choose_on_running(Wanted(place=first.device, force=True), file, THREE, base_index=90)
    assert again == first


def test_a_disk_on_which_a_slot_was_written_takes_force(file: NodeFile, tmp_path: Path) -> None:
    first = chosen(file, tmp_path / "disk")
    content = bytearray((tmp_path / "disk").read_bytes())
    content[FIRST_SLOT_SECTOR * SECTOR_BYTES] = 1
    (tmp_path / "disk").write_bytes(content)
    with pytest.raises(ClusterError, match="use /force"):
        chosen(file, first.device)


def test_a_disk_that_was_left_is_free_for_everybody(file: NodeFile, tmp_path: Path) -> None:
    first = chosen(file, tmp_path / "disk")
    content = bytearray((tmp_path / "disk").read_bytes())
    block = decode_superblock(bytes(content[:SECTOR_BYTES]))
    assert block is not None
    content[:SECTOR_BYTES] = encode_superblock(replace(block, left=True))
    (tmp_path / "disk").write_bytes(content)
    present = replace(THREE, quorum=Quorum(generation=2))
    again = chosen(file, first.device, present)
    assert (again.generation, again.disk != first.disk) == (3, True)


def test_the_present_quorum_is_the_answer(file: NodeFile, tmp_path: Path) -> None:
    first = chosen(file, tmp_path / "disk")
    present = replace(THREE, quorum=first)
    before = (tmp_path / "disk").read_bytes()
    (tmp_path / "other name").symlink_to(tmp_path / "disk")
    for place in (first.device, tmp_path / "other name"):
        assert chosen(file, place, present, force=True) == first
    assert (tmp_path / "disk").read_bytes() == before


def test_nothing_is_written_for_a_change_that_would_be_refused(file: NodeFile, tmp_path: Path) -> None:
    unsettled = cluster(replace(node(1), unsettled=True), node(2))
    with pytest.raises(ClusterError) as caught:
        chosen(file, tmp_path / "disk", unsettled)
    assert caught.value.code == "quorum-changing"
    assert not (tmp_path / "disk").exists()
    with pytest.raises(ClusterError, match="evict NODE2"):
        chosen(file, "local", replace(THREE, quorum=chosen(file, tmp_path / "disk")))


def test_a_node_that_knows_the_former_disk_by_another_name_finds_the_next_one(file: NodeFile, tmp_path: Path) -> None:
    """Its node file names the disk that was left, or one that is gone."""
    former = chosen(file, tmp_path / "former")
    present = chosen(file, tmp_path / "present", replace(THREE, quorum=former))
    create_file(str(tmp_path / "blank"), DISK_BYTES_MIN)
    for name in ("former", "blank", "present"):
        here = replace(file, quorum_device=str(tmp_path / name))
        device = opener(here, present)()
        block = decode_superblock(device.read(0, 1))
        device.close()
        assert block is not None and f"{block.disk:016x}" == present.disk
    here = replace(file, quorum_device=str(tmp_path / "present"))
    device = opener(here, replace(present, device=str(tmp_path / "nowhere")))()
    assert device.sectors == open_device(present.device, initiator="iqn.x", timeout_ms=15_000).sectors
    device.close()

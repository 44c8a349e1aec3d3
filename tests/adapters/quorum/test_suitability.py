"""Which disks are refused as a quorum disk, with what words; that nothing is written then, and what force overrules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clussvc.global_update.disk.device_worker import DeviceWorker, check_identity
from clussvc.global_update.disk.disk_thread import reservation_key
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum
from clussvc.quorum.devices.facts import DeviceFacts
from clussvc.quorum.disk_layout import (
    DISK_BYTES_MIN,
    FIRST_AREA_SECTOR,
    SECTOR_BYTES,
    Slot,
    Superblock,
    decode_superblock,
    encode_slot,
    encode_superblock,
    slot_sector,
)
from clussvc.quorum.disk_messages import DiskFailed, Read, Register, Reserve, Write
from clussvc.service import quorum_choice
from clussvc.service.quorum_choice import Wanted, choose
from clussvc.service.settings_file import NodeFile
from tests.adapters.quorum.fake_disks import KernelDisk, MemoryDisk

OURS, OTHERS = "d9a6711baebd41b591887906406e16f2", "0123456789abcdef0123456789abcdef"
PLACE = "/dev/quorum"
WANTED = Wanted(place=PLACE)
FORCED = Wanted(place=PLACE, force=True)
Setting = Callable[[MemoryDisk], None]


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(DISK_BYTES_MIN)


@pytest.fixture
def file(tmp_path: Path, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch) -> NodeFile:
    """A node that finds the disk at its place."""
    monkeypatch.setattr(quorum_choice, "open_device", lambda place, **_: disk.open(1))
    monkeypatch.setattr(quorum_choice, "examine", lambda place: DeviceFacts(place=place))
    return NodeFile(
        cluster="PAYROLL",
        cluster_id=OURS,
        node="NODE1",
        node_id=1,
        addresses=("10.77.0.11",),
        port=3343,
        admin_port=0,
        data=tmp_path,
        socket=tmp_path / "socket",
    )


def refused(wanted: Wanted, file: NodeFile, pause: Callable[[float], None]) -> str:
    with pytest.raises(ClusterError) as caught:
        choose(wanted, file, generation=5, pause=pause)
    assert caught.value.code == "device-unsuitable"
    return caught.value.message


# --- what may be on a disk -------------------------------------------------------------------------------------------


def superblock(cluster: str, *, generation: int = 0) -> Superblock:
    name = "PAYROLL" if cluster == OURS else "OTHER"
    return Superblock(cluster=cluster, cluster_name=name, disk=77, sectors=12_800, prepared_ms=0, generation=generation)


def write_slot(disk: MemoryDisk, counter: int, *, hold_ms: int = 1_000) -> None:
    slot = Slot(node=NodeId(3), boot=1, counter=counter, epoch=4, held=True, hold_ms=hold_ms)
    at = slot_sector(NodeId(3), counter % 4) * SECTOR_BYTES
    disk.content[at : at + SECTOR_BYTES] = encode_slot(slot, 77)


def of_another_cluster(disk: MemoryDisk) -> None:
    disk.content[:SECTOR_BYTES] = encode_superblock(superblock(OTHERS))
    write_slot(disk, 1)


def of_an_older_generation(disk: MemoryDisk) -> None:
    disk.content[:SECTOR_BYTES] = encode_superblock(superblock(OURS, generation=3))
    write_slot(disk, 1)


def with_a_damaged_superblock(disk: MemoryDisk) -> None:
    of_another_cluster(disk)
    disk.content[60] ^= 1


def with_data(disk: MemoryDisk) -> None:
    disk.content[100_000:100_015] = b"somebody's data"


def reserved(disk: MemoryDisk) -> None:
    disk.state.register(9, 0, 0xABC, ignore=True)
    disk.state.reserve(9, 0xABC)


def registered(disk: MemoryDisk) -> None:
    for machine in range(9, 15):
        disk.state.register(machine, 0, 0xABC + machine, ignore=True)


def reserved_and_of_another_cluster(disk: MemoryDisk) -> None:
    reserved(disk)
    of_another_cluster(disk)


FOREIGN = pytest.mark.parametrize(
    ("setting", "words"),
    [
        (of_another_cluster, ["quorum disk of cluster 'OTHER'", OTHERS, "/force"]),
        (of_an_older_generation, ["of this very cluster", "number 3", "/force"]),
        (with_a_damaged_superblock, ["damaged", "/resetquorumlog", "/force"]),
        (with_data, ["holds data", "/force", "another disk"]),
        (reserved, ["reserved by another machine", "0xabc", "/force clears"]),
        (registered, ["registered by another machine", "0xac5, 0xac6, 0xac7, 0xac8 and others", "/force clears"]),
        (reserved_and_of_another_cluster, ["quorum disk of cluster 'OTHER'", "reserved by another machine", "0xabc"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)


@FOREIGN
def test_what_is_not_ours_is_refused_and_left_alone(
    file: NodeFile, disk: MemoryDisk, setting: Setting, words: list[str]
) -> None:
    """With the reason and the way out; not a byte and not a registration is changed, and nobody waits."""
    setting(disk)
    content, keys = bytes(disk.content), dict(disk.state.keys)

    def pause(seconds: float) -> None:
        raise AssertionError("there is nothing to wait for")

    said = refused(WANTED, file, pause)
    assert PLACE in said
    assert all(word in said for word in words), said
    assert (content, keys) == (bytes(disk.content), disk.state.keys)


@FOREIGN
def test_force_overrules_it_when_nobody_uses_the_disk(
    file: NodeFile, disk: MemoryDisk, setting: Setting, words: list[str]
) -> None:
    """What was reserved or registered is gone: such a key could write on the disk whoever owns it."""
    setting(disk)
    paused: list[float] = []
    quorum = choose(FORCED, file, generation=5, pause=paused.append)
    block = decode_superblock(bytes(disk.content[:SECTOR_BYTES]))
    assert block is not None
    assert (block.cluster, block.generation, quorum.reservations) == (OURS, 5, True)
    assert paused == [2.0]
    assert disk.state.keys == {} and disk.state.holder is None
    assert not disk.content[SECTOR_BYTES : FIRST_AREA_SECTOR * SECTOR_BYTES].strip(b"\0")


def renew_the_slot(disk: MemoryDisk) -> None:
    write_slot(disk, 2)


def write_somewhere(disk: MemoryDisk) -> None:
    disk.content[1_000_000] ^= 1


def register_one_more(disk: MemoryDisk) -> None:
    disk.state.register(30, 0, 0xDEF, ignore=True)


@pytest.mark.parametrize(
    ("setting", "use", "words"),
    [
        (of_another_cluster, renew_the_slot, "node 3 of cluster 'OTHER' writes on it"),
        (of_an_older_generation, renew_the_slot, "node 3 of cluster 'PAYROLL' writes on it"),
        (with_a_damaged_superblock, renew_the_slot, "it changes"),
        (with_data, write_somewhere, "it changes"),
        (reserved, write_somewhere, "it changes"),
        (reserved, register_one_more, "its registrations do"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_not_even_force_takes_a_disk_that_somebody_uses(
    file: NodeFile, disk: MemoryDisk, setting: Setting, use: Setting, words: str
) -> None:
    """As far as can be seen: by looking twice."""
    setting(disk)
    seen: list[tuple[bytes, dict[object, int]]] = []

    def pause(seconds: float) -> None:
        use(disk)
        seen.append((bytes(disk.content), dict(disk.state.keys)))

    said = refused(FORCED, file, pause)
    assert "Not even /force" in said
    assert words in said
    assert seen == [(bytes(disk.content), disk.state.keys)]


def test_an_owner_with_a_long_hold_is_watched_for_so_long(file: NodeFile, disk: MemoryDisk) -> None:
    of_another_cluster(disk)
    write_slot(disk, 2, hold_ms=20_000)
    paused: list[float] = []
    choose(FORCED, file, pause=paused.append)
    assert paused == [22.0]


def test_what_the_cluster_itself_has_registered_is_no_hindrance(file: NodeFile, disk: MemoryDisk) -> None:
    """Such as a preparation that was broken off. It is cleared, so that no old key can write."""
    key = reservation_key(OURS, 2, 7)
    disk.state.register(9, 0, key, ignore=True)
    disk.state.reserve(9, key)
    assert choose(WANTED, file).on_disk
    assert disk.state.keys == {}


@pytest.mark.parametrize("force", [False, True])
def test_a_disk_in_use_on_this_machine_is_never_taken(
    file: NodeFile, disk: MemoryDisk, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for use in ("sdb1 is mounted at /srv", "sdb is used as swap", "sdb is a part of md0", "/dev/loop3 is made of it"):
        monkeypatch.setattr(quorum_choice, "examine", lambda place, use=use: DeviceFacts(place=place, used_by=use))
        said = refused(replace(WANTED, force=force), file, lambda seconds: None)
        assert use in said and "another disk" in said
    assert not disk.content.strip(b"\0")


@pytest.mark.parametrize("force", [False, True])
def test_a_disk_that_is_too_small_is_never_taken(file: NodeFile, disk: MemoryDisk, force: bool) -> None:
    del disk.content[-SECTOR_BYTES:]
    said = refused(replace(WANTED, force=force), file, lambda seconds: None)
    assert PLACE in said and "50 MB" in said and "larger" in said
    assert not disk.content.strip(b"\0")


@pytest.mark.parametrize("taken", [False, True])
def test_a_device_that_does_not_tell_its_registrants_is_tried(
    file: NodeFile, tmp_path: Path, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has no call for it on some disks: whether it can be reserved shows whether somebody else has."""
    place = tmp_path / "disk"
    place.write_bytes(bytes(DISK_BYTES_MIN))
    kernel = KernelDisk(place, "scsi")
    kernel.tells_registrants = False
    monkeypatch.setattr(quorum_choice, "open_device", lambda place, **_: kernel.open(1))
    if taken:
        kernel.state.register(9, 0, 0xABC, ignore=True)
        kernel.state.reserve(9, 0xABC)
        said = refused(WANTED, file, lambda seconds: None)
        assert "reserved by another machine, and does not tell which" in said
        assert kernel.state.keys == {9: 0xABC}
        assert not place.read_bytes().strip(b"\0")
        assert choose(FORCED, file, pause=lambda seconds: None).on_disk
    else:
        assert choose(WANTED, file).on_disk
    assert kernel.state.keys == {} and kernel.state.holder is None


# --- the disk that a running service finds ---------------------------------------------------------------------------


@pytest.fixture
def quorum(file: NodeFile, disk: MemoryDisk) -> Quorum:
    """The quorum of the cluster, whose disk is prepared, and has been used by node 3."""
    made = choose(WANTED, file, generation=5)
    slot = Slot(node=NodeId(3), boot=1, counter=1)
    at = slot_sector(NodeId(3), 1) * SECTOR_BYTES
    disk.content[at : at + SECTOR_BYTES] = encode_slot(slot, int(made.disk, 16))
    return made


def other_preparation(block: Superblock) -> Superblock:
    return replace(block, disk=block.disk ^ 1)


def older_generation(block: Superblock) -> Superblock:
    return replace(block, disk=block.disk ^ 1, generation=4)


def newer_generation(block: Superblock) -> Superblock:
    return replace(block, disk=block.disk ^ 1, generation=6)


def erased(block: Superblock) -> None:
    return None


def other_cluster(block: Superblock) -> Superblock:
    return replace(block, cluster=OTHERS, cluster_name="OTHER")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_preparation, ["prepared for it, and that it does not use"]),
        (older_generation, ["its quorum number 4, and it has number 5 now"]),
        (newer_generation, ["its quorum number 6, and this node knows of no later one than", "Start any other node"]),
        (other_cluster, ["of cluster 'OTHER'", "clussvc run /forcequorum:", "cluster node /forcecleanup"]),
        (erased, ["no quorum disk was prepared there", "clussvc run /forcequorum:"]),
    ],
)
def test_another_disk_is_not_taken_for_the_clusters(
    disk: MemoryDisk, quorum: Quorum, change: Callable[[Superblock], Superblock | None], words: list[str]
) -> None:
    """The refusal says what it is instead, and every way out."""
    block = decode_superblock(bytes(disk.content[:SECTOR_BYTES]))
    assert block is not None
    check_identity(disk.open(1), quorum, OURS)
    changed = change(block)
    disk.content[:SECTOR_BYTES] = encode_superblock(changed) if changed is not None else bytes(SECTOR_BYTES)
    with pytest.raises(ClusterError) as caught:
        check_identity(disk.open(1), quorum, OURS)
    assert caught.value.code == "device-unsuitable"
    expected = [*words, "same disk under that name", "'quorum_device' in this node's file"]
    assert all(word in caught.value.message for word in expected), caught.value.message


def test_a_disk_that_has_become_smaller_is_another_one(disk: MemoryDisk, quorum: Quorum) -> None:
    del disk.content[-SECTOR_BYTES:]
    with pytest.raises(ClusterError, match="was made smaller") as caught:
        check_identity(disk.open(1), quorum, OURS)
    assert caught.value.code == "device-unsuitable"


def answers(disk: MemoryDisk, quorum: Quorum, *, repair: bool) -> list[str]:
    """The codes of failures when a node takes its disk."""
    worker = DeviceWorker(quorum, OURS, lambda: disk.open(1), lambda answer: None, repair=repair)
    asked = [worker._perform(request) for request in (Read(sector=1, count=1), Register(key=5), Reserve(key=5))]
    asked.append(worker._perform(Write(sector=600, data=b"x" * SECTOR_BYTES)))
    worker._close()
    return [answer.code if isinstance(answer, DiskFailed) else "" for answer in asked]


def test_a_damaged_superblock_is_written_anew_when_somebody_says_so(disk: MemoryDisk, quorum: Quorum) -> None:
    """By ``resetquorumlog``, on a disk whose slots show that it is the cluster's; nobody does it by himself."""
    good = bytes(disk.content[:SECTOR_BYTES])
    disk.content[60] ^= 1
    damaged = bytes(disk.content)
    assert answers(disk, quorum, repair=False) == ["quorum-damaged"] * 4
    assert damaged == bytes(disk.content)
    with pytest.raises(ClusterError, match=r"--resetquorumlog.*/forcequorum:"):
        check_identity(disk.open(1), quorum, OURS)

    assert answers(disk, quorum, repair=True) == [""] * 4
    before, after = decode_superblock(good), decode_superblock(bytes(disk.content[:SECTOR_BYTES]))
    assert before is not None and after is not None
    assert replace(before, prepared_ms=0, cluster_name="") == after
    assert answers(disk, quorum, repair=False) == [""] * 4


def test_a_damaged_disk_that_is_not_the_clusters_is_never_repaired(disk: MemoryDisk, quorum: Quorum) -> None:
    disk.content[60] ^= 1
    damaged = bytes(disk.content)
    assert (
        answers(disk, replace(quorum, disk=f"{int(quorum.disk, 16) ^ 1:016x}"), repair=True) == ["quorum-damaged"] * 4
    )
    assert damaged == bytes(disk.content)


def test_the_present_disk_is_not_looked_at_again(
    file: NodeFile, disk: MemoryDisk, quorum: Quorum, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service has it open: another look would be refused, or end its session."""

    def never(place: str, **_: object) -> None:
        raise AssertionError("it was opened")

    monkeypatch.setattr(quorum_choice, "open_device", never)
    before = bytes(disk.content)
    assert choose(FORCED, file, generation=6, present=quorum) == quorum
    assert before == bytes(disk.content)

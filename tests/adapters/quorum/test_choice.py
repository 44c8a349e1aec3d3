"""Choosing a quorum disk: what is refused, and that nothing is overwritten unless somebody insists."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from clussvc.global_update.disk.device_worker import check_identity
from clussvc.model.errors import ClusterError
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.quorum.devices import create_file, open_device
from clussvc.quorum.devices.facts import DeviceFacts
from clussvc.quorum.disk_layout import DISK_BYTES_MIN
from clussvc.service import quorum_choice
from clussvc.service.quorum_choice import Wanted, choose, initiator_name
from clussvc.service.settings_file import NodeFile
from tests.adapters.quorum.elsewhere import Target
from tests.adapters.quorum.places import detach, initiator, loop_over, needs_target

CLUSTER_ID = "d9a6711baebd41b591887906406e16f2"


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


def no_pause(seconds: float) -> None:
    """Nobody else is there to be watched for."""


def refused(wanted: Wanted, file: NodeFile) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        choose(wanted, file)
    return caught.value


def test_words_choose_quorums_without_a_disk(file: NodeFile) -> None:
    assert choose(Wanted(place="Majority"), file) == Quorum()
    assert choose(Wanted(place="local"), file) == Quorum(kind=QuorumKind.LOCAL)


def test_by_itself_the_smallest_shared_disk_is_chosen(
    file: NodeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a local quorum where there is none."""
    place = str(tmp_path / "disk")
    create_file(place, 2 * DISK_BYTES_MIN)
    monkeypatch.setattr(quorum_choice, "candidates", lambda: (DeviceFacts(place=place), DeviceFacts(place="/larger")))
    assert choose(Wanted(), file).device == place
    monkeypatch.setattr(quorum_choice, "candidates", lambda: ())
    assert choose(Wanted(), file).kind is QuorumKind.LOCAL


def test_a_new_file_is_made_and_is_the_clusters_from_then_on(file: NodeFile, tmp_path: Path) -> None:
    place = str(tmp_path / "new")
    quorum = choose(Wanted(place=place), file)
    assert (quorum.kind, quorum.device, quorum.reservations) == (QuorumKind.DISK, place, False)
    assert quorum.max_log_kb == 4096
    device = open_device(place, initiator=initiator_name(file), timeout_ms=15_000)
    check_identity(device, quorum, CLUSTER_ID)
    for other, cluster, words in (
        (quorum, "another", "of cluster 'PAYROLL'"),
        (replace(quorum, disk="0" * 16), CLUSTER_ID, "prepared for it, and that it does not use"),
        (replace(quorum, reservations=True), CLUSTER_ID, "connect it in the same way"),
    ):
        with pytest.raises(ClusterError) as caught:
            check_identity(device, other, cluster)
        assert caught.value.code == "device-unsuitable"
        assert words in caught.value.message
    device.close()


def test_the_disk_of_another_cluster_is_left_alone(file: NodeFile, tmp_path: Path) -> None:
    """Unless somebody insists; a preparation is another one each time."""
    place = str(tmp_path / "disk")
    first = choose(Wanted(place=place), file)
    before = Path(place).read_bytes()
    other = replace(file, cluster="OTHER", cluster_id="0" * 32)
    error = refused(Wanted(place=place), other)
    assert (error.code, "PAYROLL" in error.message, "/force" in error.message) == ("device-unsuitable", True, True)
    assert Path(place).read_bytes() == before
    assert choose(Wanted(place=place, force=True), other, pause=no_pause).disk != first.disk


def test_damage_and_foreign_data_are_left_alone(file: NodeFile, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    choose(Wanted(place=str(place)), file)
    content = bytearray(place.read_bytes())
    content[60] ^= 1
    place.write_bytes(content)
    assert "damaged" in refused(Wanted(place=str(place)), file).message
    assert place.read_bytes() == content
    if shutil.which("mkswap") and shutil.which("blkid"):
        place.write_bytes(bytes(2 * DISK_BYTES_MIN))
        subprocess.run(["mkswap", str(place)], check=True, capture_output=True)
        swap = place.read_bytes()
        assert "swap" in refused(Wanted(place=str(place)), file).message
        assert place.read_bytes() == swap


def test_data_that_nobody_knows_is_left_alone(file: NodeFile, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    create_file(str(place), 2 * DISK_BYTES_MIN)
    with place.open("r+b") as disk:
        disk.seek(100_000)
        disk.write(b"somebody's data")
    assert "holds data" in refused(Wanted(place=str(place)), file).message
    assert choose(Wanted(place=str(place), force=True), file, pause=no_pause).on_disk


def test_a_disk_in_use_is_never_taken(file: NodeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "disk")
    create_file(place, 2 * DISK_BYTES_MIN)
    monkeypatch.setattr(
        quorum_choice, "examine", lambda place: DeviceFacts(place=place, used_by="sdb1 is mounted at /srv")
    )
    assert "mounted at /srv" in refused(Wanted(place=place, force=True), file).message
    assert not Path(place).read_bytes().strip(b"\0")


def test_a_disk_that_is_too_small_is_refused(file: NodeFile, tmp_path: Path) -> None:
    place = str(tmp_path / "disk")
    create_file(place, DISK_BYTES_MIN - 4096)
    assert "50 MB" in refused(Wanted(place=place), file).message
    least = str(tmp_path / "least")
    create_file(least, DISK_BYTES_MIN)
    assert "room for a log of 3072 KB" in refused(Wanted(place=least, max_log_kb=4_096), file).message
    assert choose(Wanted(place=least), file).max_log_kb == 3_072


@pytest.mark.parametrize("place", ["relative", "/dev/null", "/nowhere/there/is", "iscsi://nobody"])
def test_what_is_no_disk_is_refused(file: NodeFile, place: str) -> None:
    assert place in refused(Wanted(place=place), file).message


# --- with real devices -----------------------------------------------------------------------------------------------


@needs_target
def test_a_foreign_reservation_on_a_real_target_is_refused_and_cleared_by_force(file: NodeFile, tmp_path: Path) -> None:
    """The disk is empty, but another machine has it; the target itself would refuse our writes."""
    (tmp_path / "target").mkdir()
    with Target(tmp_path / "target", size_bytes=DISK_BYTES_MIN) as target:

        def reserve() -> None:
            other = open_device(target.place, initiator=initiator(9), timeout_ms=15_000)
            other.register(0xABC)
            other.reserve(0xABC)
            other.close()

        target.elsewhere.call(reserve)
        error = target.elsewhere.call(refused, Wanted(place=target.place), file)
        assert "reserved by another machine or cluster (key 0xabc)" in error.message
        assert not target.file.read_bytes().strip(b"\0")
        wanted = Wanted(place=target.place, force=True)
        quorum = target.elsewhere.call(choose, wanted, file, pause=no_pause)
        assert (quorum.on_disk, quorum.reservations) == (True, True)

        def known() -> frozenset[int]:
            device = open_device(target.place, initiator=initiator(1), timeout_ms=15_000)
            found = device.registrants()
            device.close()
            assert found is not None
            return found.all

        assert target.elsewhere.call(known) == frozenset()


@pytest.mark.parametrize("force", [False, True])
def test_a_mounted_device_and_what_it_is_made_of_are_refused(file: NodeFile, tmp_path: Path, force: bool) -> None:
    """By their place, whatever else speaks against them; nothing of the file system is changed."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("there is no mkfs.ext4")
    image, point = tmp_path / "image", tmp_path / "point"
    create_file(str(image), DISK_BYTES_MIN)
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
    place = loop_over(image)
    try:
        if subprocess.run(["mount", "-o", "ro", place, str(point)], capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            before = image.read_bytes()
            assert f"mounted at {point}" in refused(Wanted(place=place, force=force), file).message
            said = refused(Wanted(place=str(image), force=force), file).message
            assert f"the loop device {place} is made of it" in said
            assert image.read_bytes() == before
        finally:
            subprocess.run(["umount", str(point)], check=True)
    finally:
        detach(place)

"""What is particular to each kind of quorum device; what all have in common is in ``test_contract.py``."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clussvc.global_update.disk.device_worker import DeviceWorker
from clussvc.model.errors import ClusterError
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.ports import QuorumDevice
from clussvc.quorum.devices import create_file, iscsi, open_device, shared_file
from clussvc.quorum.devices.block_device import (
    CLEAR,
    NVME_ID,
    NVME_IO,
    PREEMPT,
    REGISTER,
    RELEASE,
    RESERVE,
    SG_IO,
    BlockDevice,
    NvmeCommand,
    ScsiCommand,
)
from clussvc.quorum.devices.facts import FileSystem
from clussvc.quorum.devices.iscsi import session_number
from clussvc.quorum.disk_layout import Superblock, encode_superblock
from clussvc.quorum.disk_messages import DiskFailed, DiskRequest, Preempt, Read, Register, Reserve, Write
from tests.adapters.quorum.elsewhere import Target
from tests.adapters.quorum.fake_disks import KernelDisk
from tests.adapters.quorum.odd_target import NAME, POWER_ON, Oddities, OddTarget
from tests.adapters.quorum.places import (
    SIZE_BYTES,
    Open,
    detach,
    initiator,
    loop,
    loop_over,
    machines,
    needs_target,
    sector,
    target,
)

__all__ = ["loop", "machines", "target"]


# --- a target that is gone -------------------------------------------------------------------------------------------


@needs_target
@pytest.mark.parametrize("way", ["gone", "hangs"])
def test_a_target_that_does_not_answer_is_lost(target: Target, machines: Open, way: str) -> None:
    """The call ends within its bound, and a new session works as soon as the target does."""
    device = machines(1)
    device.write(1, sector("before"))
    if way == "gone":
        target.stop()
    else:
        target.freeze(signal.SIGSTOP)
    for call in (lambda: device.read(1, 1), lambda: machines(2)):
        with pytest.raises(ClusterError) as caught:
            call()
        assert caught.value.code == "device-lost", caught.value
    if way == "gone":
        target.start()
    else:
        target.freeze(signal.SIGCONT)
    assert machines(1).read(1, 1) == sector("before")


# --- iSCSI targets as they are ---------------------------------------------------------------------------------------


@pytest.fixture
def odd(request: pytest.FixtureRequest) -> Iterator[OddTarget]:
    """A target with the peculiarities that the test names."""
    made = OddTarget(Oddities(**getattr(request, "param", {})), size_bytes=SIZE_BYTES)
    yield made
    made.close()


def connect(odd: OddTarget, machine: int = 1) -> Any:
    return open_device(odd.place, initiator=initiator(machine), timeout_ms=1_000)


@pytest.mark.parametrize(
    ("odd", "forces", "flush"),
    [
        pytest.param({}, True, None, id="forces-writes"),
        pytest.param({"told_fua": None}, True, None, id="tells-nothing-and-forces"),
        pytest.param({"told_fua": False, "obeys_fua": False}, False, 0x91, id="cannot-force"),
        pytest.param({"told_fua": True, "obeys_fua": False}, False, 0x91, id="says-it-forces-and-refuses"),
        pytest.param({"told_fua": None, "obeys_fua": False}, False, 0x91, id="tells-nothing-and-refuses"),
        pytest.param({"told_fua": False, "obeys_fua": False, "flushes": (0x35,)}, False, 0x35, id="flushes-as-of-old"),
        pytest.param(
            {"told_fua": False, "obeys_fua": False, "write_back": False, "flushes": ()}, False, None, id="no-cache"
        ),
    ],
    indirect=["odd"],
)
def test_what_is_written_outlives_a_loss_of_power(odd: OddTarget, forces: bool, flush: int | None) -> None:
    """However the target can be made to keep it; and in one way only, so that nothing costs twice."""
    device = connect(odd)
    device.write(3, sector("first"))
    del odd.asked[:]
    device.write(4, sector("second"))
    assert odd.asked == [0x8A] + [flush] * (flush is not None)
    odd.lose_power()
    assert device.read(3, 2) == sector("first") + sector("second")
    assert device.forces_writes is forces
    device.close()


@pytest.mark.parametrize(
    "odd",
    [{"told_fua": False, "obeys_fua": False, "flushes": ()}, {"told_fua": None, "obeys_fua": False, "flushes": ()}],
    indirect=True,
)
def test_a_target_that_may_lose_writes_is_no_quorum_disk(odd: OddTarget) -> None:
    """And nothing is written on it."""
    device = connect(odd)
    with pytest.raises(ClusterError) as caught:
        device.write(3, sector("x"))
    assert (caught.value.code, "write cache" in caught.value.message) == ("device-unsuitable", True)
    assert not odd.cache and not any(odd.medium)
    device.close()


def test_a_target_says_what_it_has_to_say_first(odd: OddTarget) -> None:
    """After a change of power, of others' registrations and so on, more than one thing; then it does what was asked."""
    device = connect(odd)
    odd.odd.senses += [POWER_ON, (6, 0x2A03), (6, 0x2A01), (6, 0x3F0E), (2, 0x0401), (0xB, 0x4700)]
    device.write(3, sector("x"))
    odd.odd.busy = 3
    assert device.read(3, 1) == sector("x")
    device.close()


@pytest.mark.parametrize(
    ("sense", "words"),
    [((3, 0x1100), "MEDIUM|\\(3\\)"), ((7, 0x2700), "DATA"), ((2, 0x3A00), "NOT READY"), ((4, 0x4400), "HARDWARE")],
)
def test_a_failure_is_told_at_once(odd: OddTarget, sense: tuple[int, int], words: str) -> None:
    """Asking again would only take time."""
    device = connect(odd)
    odd.odd.senses += [sense]
    with pytest.raises(ClusterError, match=words) as caught:
        device.read(3, 1)
    assert caught.value.code == "device-lost"
    assert device.read(3, 1) == bytes(4096)
    device.close()


def test_a_target_that_is_always_busy_is_lost(odd: OddTarget) -> None:
    device = connect(odd)
    odd.odd.busy = 1_000
    with pytest.raises(ClusterError, match="busy") as caught:
        device.read(3, 1)
    assert caught.value.code == "device-lost"
    assert odd.odd.busy > 900
    device.close()


@pytest.mark.parametrize("odd", [{"reservations": False}], indirect=True)
def test_a_target_without_reservations_says_so(odd: OddTarget) -> None:
    device = connect(odd)
    assert (device.reservations, device.registrants()) == (False, None)
    device.write(3, sector("x"))
    device.close()


def test_each_disk_of_a_node_has_a_session_of_its_own(odd: OddTarget) -> None:
    """And the same one each time: a target goes by the initiator's name and this number. A second session of one number
    would end the first."""
    first = connect(odd)
    first.close()
    connect(odd).close()
    connect(odd, machine=2).close()
    numbers = {number for _, number in odd.names}
    assert (len(odd.names), len(numbers)) == (2, 1)
    several = {session_number(name, lun) for name in ("iqn.a", "iqn.b") for lun in range(50)}
    assert len(several) == 100
    assert numbers == {bytes([0x80]) + a.to_bytes(3) + b.to_bytes(2) for a, b in [session_number(NAME, 0)]}


@needs_target
def test_two_disks_of_one_target_do_not_disturb_each_other(target: Target) -> None:
    """The real one ends a session when another one of the same name and number begins."""
    other = target.add_disk()

    def both() -> bytes:
        one = open_device(target.place, initiator=initiator(1), timeout_ms=5_000)
        two = open_device(other, initiator=initiator(1), timeout_ms=5_000)
        one.write(1, sector("one"))
        two.write(1, sector("two"))
        said = one.read(1, 1) + two.read(1, 1)
        one.close()
        two.close()
        return said

    assert target.elsewhere.call(both) == sector("one") + sector("two")


def test_a_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    iscsi._library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(ClusterError) as caught:
        open_device("iscsi://127.0.0.1/iqn.x/1", initiator="", timeout_ms=1_000)
    assert caught.value.code == "device-unsuitable"
    assert "apt install libiscsi7" in caught.value.message
    iscsi._library.cache_clear()


# --- a session that breaks, as the log sees it -----------------------------------------------------------------------

CLUSTER = "c" * 32
QUORUM = Quorum(kind=QuorumKind.DISK, device="/disk", disk=f"{7:016x}", sectors=2048, reservations=True)


class Asker:
    """A worker of the quorum disk whose requests are performed at once."""

    def __init__(self, odd: OddTarget, machine: int) -> None:
        self.device: QuorumDevice | None = None

        def opened() -> QuorumDevice:
            self.device = connect(odd, machine)
            return self.device

        self._worker = DeviceWorker(QUORUM, CLUSTER, opened, lambda answer: None)

    def ask(self, request: DiskRequest) -> str:
        """The code of the failure; empty when it was done."""
        answer = self._worker._perform(request)
        return answer.code if isinstance(answer, DiskFailed) else ""

    def close(self) -> None:
        """Let go."""
        self._worker._close()


@pytest.mark.parametrize("odd", [{"strangers": True}, {"strangers": False}], indirect=True)
@pytest.mark.parametrize("preempted", [False, True])
def test_a_broken_session_costs_the_disk_only_if_somebody_took_over(odd: OddTarget, preempted: bool) -> None:
    """On targets that know a node again and on those that do not."""
    block = Superblock(cluster=CLUSTER, cluster_name="", disk=7, sectors=2048, prepared_ms=0)
    odd.medium[:4096] = encode_superblock(block)
    owner, other = Asker(odd, 1), Asker(odd, 2)
    assert [owner.ask(Register(key=11)), owner.ask(Reserve(key=11)), other.ask(Register(key=22))] == ["", "", ""]
    odd.drop_sessions()
    assert owner.ask(Write(sector=600, data=sector("x"))) == "device-lost"
    if preempted:
        assert other.ask(Read(sector=600, count=1)) == "device-lost"
        assert other.ask(Preempt(key=22, victim=11)) == ""
    refusal = "reservation-conflict" if preempted else ""
    assert owner.ask(Write(sector=600, data=sector("owner"))) == refusal
    assert owner.ask(Read(sector=600, count=1)) == ""
    assert owner.ask(Write(sector=601, data=sector("owner"))) == refusal
    assert (sector("owner") in odd.medium) is not preempted
    owner.close()
    other.close()


# --- the kernel's reservations ---------------------------------------------------------------------------------------


def test_the_kernel_is_asked_as_its_header_says(tmp_path: Path) -> None:
    """linux/pr.h: numbers and layouts, and what statuses mean. No machine of the tests has such a disk."""
    asked: list[tuple[int, tuple[int, ...]]] = []
    status = 0

    def ioctl(file: int, request: int, argument: bytearray) -> int:
        forms = {REGISTER: "=QQII", RESERVE: "=QII", RELEASE: "=QII", PREEMPT: "=QQII", CLEAR: "=QII"}
        asked.append((request, struct.unpack(forms[request], argument)))
        return status

    assert [hex(number) for number in (REGISTER, RESERVE, RELEASE, PREEMPT, CLEAR)] == [
        "0x401870c8",
        "0x401070c9",
        "0x401070ca",
        "0x401870cb",
        "0x401070cd",
    ]
    place = tmp_path / "disk"
    create_file(str(place), SIZE_BYTES)
    device = BlockDevice(str(place), ioctl)
    assert device.reservations
    device.register(7)
    device.reserve(7)
    device.preempt(7, 9)
    device.release(7)
    device.clear(7)
    device.unregister(7)
    assert asked[1:] == [
        (REGISTER, (0, 7, 1, 0)),
        (RESERVE, (7, 3, 0)),
        (PREEMPT, (7, 9, 3, 0)),
        (RELEASE, (7, 3, 0)),
        (CLEAR, (7, 0, 0)),
        (REGISTER, (7, 0, 1, 0)),
    ]
    status = 0x18
    device.release(7)
    with pytest.raises(ClusterError) as caught:
        device.reserve(7)
    assert caught.value.code == "reservation-conflict"
    status = 0xE0000
    with pytest.raises(ClusterError) as caught:
        device.reserve(7)
    assert caught.value.code == "device-lost"
    device.close()


@pytest.mark.parametrize(
    ("status", "known"),
    [(0, True), (0x18, True), (0x118, True), (0x83, True), (0x4083, True), (0x2, False), (0x8000002, False)],
)
def test_only_a_disk_that_knows_reservations_is_taken_for_one(tmp_path: Path, status: int, known: bool) -> None:
    """A SCSI disk that has none takes the question and answers that it does not understand."""
    place = tmp_path / "disk"
    create_file(str(place), SIZE_BYTES)
    device = BlockDevice(str(place), lambda *_: status)
    assert device.reservations is known
    device.close()


def test_a_device_without_reservations_says_so(loop: str) -> None:
    device = open_device(loop, initiator="", timeout_ms=1_000)
    assert not device.reservations
    device.close()


def test_a_write_that_the_device_refuses_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says EBADE when a disk answers that another node has it reserved."""
    place = tmp_path / "disk"
    create_file(str(place), SIZE_BYTES)
    device = open_device(str(place), initiator="", timeout_ms=1_000)

    def refuse(*_: object) -> int:
        raise OSError(errno.EBADE, "Invalid exchange")

    monkeypatch.setattr(os, "pwritev", refuse)
    with pytest.raises(ClusterError) as caught:
        device.write(0, sector("x"))
    assert caught.value.code == "reservation-conflict"
    device.close()


def test_nvme_is_told_what_takes_the_place_of_what(tmp_path: Path) -> None:
    """NVMe refuses a first registration of somebody who is registered with another key."""
    file = tmp_path / "disk"
    create_file(str(file), SIZE_BYTES)
    asked: list[tuple[int, int]] = []
    disk = KernelDisk(file, "nvme")
    device = disk.open(1)
    inner = device._ioctl

    def ioctl(number: int, request: int, argument: bytearray) -> int:
        if request == REGISTER:
            asked.append(struct.unpack("=QQII", argument)[:2])
        return inner(number, request, argument)

    device._ioctl = ioctl
    device.register(7)
    device.register(8)
    assert asked == [(0, 7), (0, 8), (8, 8)]
    device.close()


def test_the_kernel_is_asked_for_registrants_as_its_headers_say() -> None:
    assert (hex(SG_IO), hex(NVME_ID), hex(NVME_IO)) == ("0x2285", "0x4e40", "0xc0484e43")
    assert (ctypes.sizeof(NvmeCommand), ctypes.sizeof(ScsiCommand)) == (72, 88)
    assert (ScsiCommand.data.offset, ScsiCommand.timeout_ms.offset, ScsiCommand.status.offset) == (16, 40, 64)


@pytest.mark.parametrize("kind", ["scsi", "nvme"])
def test_a_device_that_does_not_tell_its_registrants_is_believed_nothing(tmp_path: Path, kind: Any) -> None:
    file = tmp_path / "disk"
    create_file(str(file), SIZE_BYTES)
    disk = KernelDisk(file, kind)
    disk.tells_registrants = False
    device = disk.open(1)
    assert device.reservations
    assert device.registrants() is None
    device.close()


def test_an_open_quorum_disk_cannot_be_mounted_and_a_mounted_one_not_opened(tmp_path: Path) -> None:
    """One claim at a time; the kernel sees to it for whatever holds a device."""
    file, point = tmp_path / "disk", tmp_path / "point"
    create_file(str(file), SIZE_BYTES)
    point.mkdir()
    if not shutil.which("mkfs.ext4"):
        pytest.skip("there is no mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", str(file)], check=True, capture_output=True)
    place = loop_over(file)
    mount = ["mount", "-t", "ext4", place, str(point)]
    try:
        device = open_device(place, initiator="", timeout_ms=1_000)
        assert subprocess.run(mount, capture_output=True, check=False).returncode != 0
        with pytest.raises(ClusterError, match="has it open") as caught:
            open_device(place, initiator="", timeout_ms=1_000)
        assert caught.value.code == "device-unsuitable"
        device.close()
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            with pytest.raises(ClusterError, match=f"mounted at {point}") as caught:
                open_device(place, initiator="", timeout_ms=1_000)
            assert caught.value.code == "device-unsuitable"
        finally:
            subprocess.run(["umount", str(point)], check=True)
        open_device(place, initiator="", timeout_ms=1_000).close()
    finally:
        detach(place)


def test_a_share_without_direct_access_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node would be shown what its own memory has of it. A file system of one machine has no such trouble."""
    place = tmp_path / "disk"
    create_file(str(place), SIZE_BYTES)
    really_open = os.open

    def no_direct_access(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return really_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", no_direct_access)
    open_device(str(place), initiator="", timeout_ms=1_000).close()
    monkeypatch.setattr(shared_file, "file_system_of", lambda path: FileSystem(kind="9p"))
    with pytest.raises(ClusterError, match="O_DIRECT") as caught:
        open_device(str(place), initiator="", timeout_ms=1_000)
    assert caught.value.code == "device-unsuitable"


def test_a_device_that_may_not_be_written_is_unsuitable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "disk"
    create_file(str(place), SIZE_BYTES)

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ClusterError, match="Read-only") as caught:
        open_device(str(place), initiator="", timeout_ms=1_000)
    assert caught.value.code == "device-unsuitable"


# --- places that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("relative/path", "device-unsuitable"),
        ("/nowhere/at/all", "device-lost"),
        ("/dev/null", "device-unsuitable"),
        ("iscsi://host", "device-unsuitable"),
        ("iscsi://host:99/target", "device-unsuitable"),
    ],
)
def test_what_is_no_device_is_refused(place: str, code: str) -> None:
    with pytest.raises(ClusterError) as caught:
        open_device(place, initiator="iqn.2026-11.test:node1", timeout_ms=1_000)
    assert (caught.value.code, place in caught.value.message) == (code, True)

"""The contract of quorum devices, on a file, a loop device and a real iSCSI target; and what is particular to each."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clussvc.model.errors import ClusterError
from clussvc.ports import QuorumDevice
from clussvc.quorum.devices import create_file, open_device
from clussvc.quorum.devices.block_device import CLEAR, PREEMPT, REGISTER, RELEASE, RESERVE, BlockDevice
from clussvc.quorum.disk_layout import SECTOR_BYTES
from tests.adapters.quorum.elsewhere import Remote, Target

SIZE_BYTES = 8 * 1024 * 1024
Open = Callable[[int], QuorumDevice]
"""Opens the device as the machine of that number."""

needs_target = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("tgtd") or not shutil.which("ip"),
    reason="an iSCSI target in a network namespace needs root, tgt and iproute2",
)


def sector(text: str) -> bytes:
    return text.encode().ljust(SECTOR_BYTES, b".")


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with Target(tmp_path, size_bytes=SIZE_BYTES) as made:
        yield made


@pytest.fixture
def machines(target: Target) -> Iterator[Open]:
    """Initiators of the target."""
    opened: list[Remote] = []

    def connect(machine: int) -> Any:
        device = target.elsewhere.call(
            open_device, target.place, initiator=f"iqn.2026-11.test:node{machine}", timeout_ms=1_000
        )
        opened.append(Remote(target.elsewhere, device))
        return opened[-1]

    yield connect
    for device in opened:
        device.close()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A block device over a file."""
    file = tmp_path / "loop"
    create_file(str(file), SIZE_BYTES)
    made = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device can be made here: {made.stderr.strip()}")
    place = made.stdout.strip()
    yield place
    subprocess.run(["losetup", "--detach", place], check=True)


@pytest.fixture(params=["file", "loop", pytest.param("iscsi", marks=needs_target)])
def open_one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    if request.param == "iscsi":
        yield request.getfixturevalue("machines")
        return
    if request.param == "loop":
        place = request.getfixturevalue("loop")
    else:
        place = str(tmp_path / "disk")
        create_file(place, SIZE_BYTES)
    opened: list[QuorumDevice] = []

    def open_it(machine: int) -> QuorumDevice:
        opened.append(open_device(place, initiator=f"iqn.2026-11.test:node{machine}", timeout_ms=1_000))
        return opened[-1]

    yield open_it
    for device in opened:
        device.close()


# --- the contract ----------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_by_others(open_one: Open) -> None:
    """One sector, and more than one transfer takes; each machine sees what another one has written."""
    one, two = open_one(1), open_one(2)
    assert one.sectors == SIZE_BYTES // SECTOR_BYTES
    one.write(3, sector("three"))
    long = b"".join(sector(f"number {number}") for number in range(700))
    two.write(100, long)
    assert two.read(2, 3) == bytes(SECTOR_BYTES) + sector("three") + bytes(SECTOR_BYTES)
    assert one.read(100, 700) == long


def test_behind_the_end_is_nothing(open_one: Open) -> None:
    device = open_one(1)
    last = device.sectors - 1
    device.write(last, sector("last"))
    for beyond in (lambda: device.read(last, 2), lambda: device.write(last, sector("a") + sector("b"))):
        with pytest.raises(ClusterError) as caught:
            beyond()
        assert caught.value.code == "device-lost"
    assert device.read(last, 1) == sector("last")


# --- reservations, on the real target ------------------------------------------------------------------------------


@needs_target
def test_the_target_refuses_whoever_was_preempted(machines: Open) -> None:
    """Three machines: one owns the disk, one takes it over, one is a stranger all the time."""
    owner, challenger, stranger = machines(1), machines(2), machines(3)
    assert owner.reservations
    owner.register(11)
    owner.register(11)
    owner.reserve(11)
    owner.reserve(11)
    challenger.register(22)
    owner.write(5, sector("owner"))
    challenger.write(6, sector("a registrant"))
    refusals: list[Callable[[], None]] = [
        lambda: challenger.reserve(22),
        lambda: stranger.reserve(33),
        lambda: stranger.write(5, sector("stranger")),
    ]
    for refused in refusals:
        with pytest.raises(ClusterError) as caught:
            refused()
        assert caught.value.code == "reservation-conflict"
    challenger.release(22)

    challenger.preempt(22, 11)
    challenger.reserve(22)
    refusals = [lambda: owner.write(5, sector("late")), lambda: owner.reserve(11)]
    for refused in refusals:
        with pytest.raises(ClusterError) as caught:
            refused()
        assert caught.value.code == "reservation-conflict"
    assert stranger.read(5, 1) == sector("owner")
    with pytest.raises(ClusterError) as caught:
        challenger.preempt(22, 11)
    assert caught.value.code == "reservation-conflict"

    owner.register(12)
    owner.write(5, sector("a registrant again"))
    challenger.release(22)
    challenger.unregister(22)
    owner.reserve(12)
    with pytest.raises(ClusterError):
        challenger.write(6, sector("late"))


@needs_target
def test_a_reservation_outlives_its_session(machines: Open) -> None:
    """The owner is gone without a word: the next one preempts it. (This target takes a new session of a machine for a
    stranger; others know it again.)"""
    owner, challenger = machines(1), machines(2)
    owner.register(11)
    owner.reserve(11)
    owner.close()
    challenger.register(22)
    with pytest.raises(ClusterError):
        challenger.reserve(22)
    challenger.preempt(22, 11)
    again = machines(1)
    with pytest.raises(ClusterError) as caught:
        again.write(5, sector("late"))
    assert caught.value.code == "reservation-conflict"
    with pytest.raises(ClusterError) as caught:
        again.clear(11)
    assert caught.value.code == "reservation-conflict"
    challenger.close()
    next_one = machines(2)
    next_one.register(22)
    next_one.clear(22)
    next_one.register(22)
    next_one.reserve(22)
    next_one.write(5, sector("next"))


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


# --- the kernel's reservations ---------------------------------------------------------------------------------------


def test_the_kernel_is_asked_as_its_header_says(tmp_path: Path) -> None:
    """linux/pr.h: numbers and layouts, and what statuses mean. No machine of the tests has such a disk."""
    asked: list[tuple[int, tuple[int, ...]]] = []
    status = 0

    def ioctl(file: int, request: int, argument: bytes) -> int:
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
        (PREEMPT, (9, 7, 3, 0)),
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


@pytest.mark.parametrize(("status", "known"), [(0, True), (0x18, True), (0x83, True), (0x2, False), (0x8000002, False)])
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

"""Every kind of quorum device that the contract is held against, as fixtures."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from clussvc.ports import QuorumDevice
from clussvc.quorum.devices import create_file, open_device
from clussvc.quorum.disk_layout import SECTOR_BYTES
from tests.adapters.quorum import kernel_target
from tests.adapters.quorum.elsewhere import Remote, Target
from tests.adapters.quorum.fake_disks import KernelDisk, MemoryDisk
from tests.adapters.quorum.odd_target import Oddities, OddTarget

SIZE_BYTES = 8 * 1024 * 1024
Open = Callable[[int], QuorumDevice]
"""Opens the device as the machine of that number."""

needs_target = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("tgtd") or not shutil.which("ip"),
    reason="an iSCSI target in a network namespace needs root, tgt and iproute2",
)
needs_kernel_target = pytest.mark.skipif(
    not kernel_target.available(), reason="the kernel of this machine has no SCSI target; script/test-kernels has one"
)
KINDS_WITH_RESERVATIONS = (
    "memory", "kernel-scsi", "kernel-linux", "kernel-nvme", "iscsi-by-name", "iscsi-strangers",
    pytest.param("tgt", marks=needs_target), pytest.param("kernel-target", marks=needs_kernel_target),
    pytest.param("kernel-target-iscsi", marks=needs_kernel_target),
)  # fmt: skip
"""``tgt`` and the kernel's target are real; the others are held to the same as they are."""
KERNEL_KINDS: dict[str, Literal["linux", "nvme"]] = {"kernel-linux": "linux", "kernel-nvme": "nvme"}
KINDS = ("file", "loop", *KINDS_WITH_RESERVATIONS)


def sector(text: str) -> bytes:
    """One sector that begins with it."""
    return text.encode().ljust(SECTOR_BYTES, b".")


def initiator(machine: int) -> str:
    """The name of a machine for targets."""
    return f"iqn.2026-11.test:node{machine}"


def loop_over(file: Path) -> str:
    """A new loop device."""
    made = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device can be made here: {made.stderr.strip()}")
    return made.stdout.strip()


def detach(place: str) -> None:
    """End a loop device."""
    subprocess.run(["losetup", "--detach", place], check=True)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with Target(tmp_path, size_bytes=SIZE_BYTES) as made:
        yield made


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A block device over a file."""
    file = tmp_path / "loop"
    create_file(str(file), SIZE_BYTES)
    place = loop_over(file)
    yield place
    detach(place)


@pytest.fixture
def machines(target: Target) -> Iterator[Open]:
    """Initiators of the real target."""
    opened: list[Remote] = []

    def connect(machine: int) -> Any:
        device = target.elsewhere.call(open_device, target.place, initiator=initiator(machine), timeout_ms=5_000)
        opened.append(Remote(target.elsewhere, device))
        return opened[-1]

    yield connect
    for device in opened:
        device.close()


@pytest.fixture
def kernel_disks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """One disk of the kernel's own target, through one adapter for each machine, or over iSCSI."""
    file = tmp_path / "disk"
    create_file(str(file), SIZE_BYTES)
    opened: list[QuorumDevice] = []
    with kernel_target.KernelTarget(file) as target:
        served = target.served() if "iscsi" in str(request.node.callspec.params["open_one"]) else ""

        def open_it(machine: int) -> QuorumDevice:
            place = served or target.place(machine)
            opened.append(open_device(place, initiator=initiator(machine), timeout_ms=5_000))
            return opened[-1]

        yield open_it
        for device in opened:
            # Closing twice is the test's affair.
            with contextlib.suppress(OSError, ValueError):
                device.close()


@pytest.fixture
def open_one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the device of the kind that the test is run for."""
    kind = str(request.param)
    if kind == "tgt":
        yield request.getfixturevalue("machines")
        return
    if kind.startswith("kernel-target"):
        yield request.getfixturevalue("kernel_disks")
        return
    opened: list[QuorumDevice] = []
    file = tmp_path / "disk"
    create_file(str(file), SIZE_BYTES)
    loops: dict[int, str] = {}
    odd = OddTarget(Oddities(strangers=kind == "iscsi-strangers"), size_bytes=SIZE_BYTES) if "iscsi" in kind else None
    memory = MemoryDisk(SIZE_BYTES)
    kernel = KernelDisk(file, KERNEL_KINDS.get(kind, "scsi"))

    def open_it(machine: int) -> QuorumDevice:
        if kind == "memory":
            return memory.open(machine)
        if kind.startswith("kernel-"):
            return kernel.open(machine)
        if kind == "loop":
            # Each machine has a device of its own, and claims it.
            place = loops.get(machine) or loops.setdefault(machine, loop_over(file))
        else:
            place = odd.place if odd else str(file)
        return open_device(place, initiator=initiator(machine), timeout_ms=5_000)

    def open_and_note(machine: int) -> QuorumDevice:
        opened.append(open_it(machine))
        return opened[-1]

    yield open_and_note
    for device in opened:
        # Closing twice is the test's affair.
        try:
            device.close()
        except (OSError, ValueError):
            continue
    for place in loops.values():
        detach(place)
    if odd is not None:
        odd.close()

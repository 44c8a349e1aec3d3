"""A disk of this kernel's own SCSI target, seen through several adapters: each is another machine to the target.

The kernel's block layer, its ioctls for reservations and its target are real; only the wire is missing, unless the disk
is served over iSCSI. Needs root, the modules target_core_file, tcm_loop and iscsi_target_mod, and configfs
(``script/test-kernels`` has a kernel with all of that).
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from types import TracebackType

CORE = Path("/sys/kernel/config/target/core")
LOOPBACK = Path("/sys/kernel/config/target/loopback")
ISCSI = Path("/sys/kernel/config/target/iscsi")
APPEARS_S_MAX = 30.0
_numbers = itertools.count(1)


def available() -> bool:
    """Whether this machine can make one."""
    return os.geteuid() == 0 and CORE.is_dir() and Path("/sys/module/tcm_loop").is_dir()


class KernelTarget:
    """See the module; to be used with ``with``."""

    def __init__(self, file: Path) -> None:
        """``file`` becomes the content of the disk."""
        self._number = next(_numbers)
        self._file = file
        self._store = CORE / f"fileio_{self._number}" / f"clussvc{self._number}"
        self._adapters: dict[int, Path] = {}
        self._places: dict[int, str] = {}
        self._served: Path | None = None

    def __enter__(self) -> KernelTarget:
        self._store.mkdir(parents=True)
        size_bytes = self._file.stat().st_size
        (self._store / "control").write_text(f"fd_dev_name={self._file},fd_dev_size={size_bytes}")
        (self._store / "wwn" / "vpd_unit_serial").write_text(f"clussvc-{os.getpid()}-{self._number}")
        (self._store / "enable").write_text("1")
        return self

    def place(self, machine: int) -> str:
        """The disk as that machine sees it, such as ``/dev/sdb``."""
        if machine not in self._places:
            self._places[machine] = self._connect(machine)
        return self._places[machine]

    def served(self) -> str:
        """The disk as every machine of this host reaches it over iSCSI."""
        name = f"iqn.2026-11.test.kernel:{self._number}"
        port = 13_000 + self._number
        group = self._served = ISCSI / name / "tpgt_1"
        group.mkdir(parents=True)
        for setting, value in (("authentication", 0), ("generate_node_acls", 1), ("demo_mode_write_protect", 0)):
            (group / "attrib" / setting).write_text(str(value))
        (group / "np" / f"127.0.0.1:{port}").mkdir()
        (group / "lun" / "lun_0").mkdir()
        (group / "lun" / "lun_0" / "disk").symlink_to(self._store)
        (group / "enable").write_text("1")
        return f"iscsi://127.0.0.1:{port}/{name}/0"

    def _connect(self, machine: int) -> str:
        names = (f"naa.6{part}{os.getpid():07x}{self._number:03x}{machine:03x}00" for part in (0, 1))
        target, initiator = names
        adapter = self._adapters[machine] = LOOPBACK / target / "tpgt_1"
        adapter.mkdir(parents=True)
        (adapter / "nexus").write_text(initiator)
        (adapter / "lun" / "lun_0").mkdir()
        (adapter / "lun" / "lun_0" / "disk").symlink_to(self._store)
        host, channel, number = (adapter / "address").read_text().strip().split(":")
        device = Path(f"/sys/bus/scsi/devices/{host}:{channel}:{number}:0/block")
        until_s = time.monotonic() + APPEARS_S_MAX
        while True:
            found = [Path("/dev") / entry.name for entry in device.iterdir()] if device.is_dir() else []
            if found and _is_ready(found[0]):
                return str(found[0])
            assert time.monotonic() < until_s, f"no disk appeared for {adapter}"
            time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._served is not None:
            (self._served / "enable").write_text("0")
            for portal in (self._served / "np").iterdir():
                portal.rmdir()
            self._adapters[0] = self._served
        for adapter in self._adapters.values():
            (adapter / "lun" / "lun_0" / "disk").unlink(missing_ok=True)
            (adapter / "lun" / "lun_0").rmdir()
            adapter.rmdir()
            adapter.parent.rmdir()
        self._store.rmdir()
        self._store.parent.rmdir()


def _is_ready(place: Path) -> bool:
    """Whether the disk can be opened and has a size; its name is there a little earlier."""
    try:
        with place.open("rb") as disk:
            return disk.seek(0, os.SEEK_END) > 0
    except OSError:
        return False

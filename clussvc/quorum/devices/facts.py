"""What this machine says of a disk before it becomes a quorum disk, and which of its disks could become one."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clussvc.quorum.disk_layout import DISK_BYTES_MIN

TOOL_TIMEOUT_S = 10.0
SHARED_TRANSPORTS = ("iscsi", "fc", "fcoe", "sas", "srp")
"""Ways to a disk that several machines can have."""
SHARED_SYSTEMS = (
    "nfs", "nfs4", "gfs2", "ocfs2", "ceph", "lustre", "cifs", "smb3", "gpfs", "beegfs", "9p", "virtiofs", "afs",
    "fuse.glusterfs", "fuse.ceph", "fuse.moosefs",
)  # fmt: skip
"""File systems that several machines can have at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What lies at a place. Empty texts mean that nothing is known against it."""

    place: str
    size_bytes: int = 0
    used_by: str = ""
    """Who works with it now on this machine."""
    signature: str = ""
    """What seems to lie on it: a file system, a table of partitions, another cluster's lock space."""
    hints: tuple[str, ...] = ()
    """What to mind about the storage itself, in sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """Where a file lies."""

    kind: str = ""
    """As the kernel calls it; empty: nobody knows."""
    options: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether other machines can have it at the same time."""
        return self.kind in SHARED_SYSTEMS


def file_system_of(path: str, mountinfo: str | None = None) -> FileSystem:
    """The file system of the longest mount point above the path, the latest if several were made there."""
    fields, rest = _mount_of(path, mountinfo)
    if not rest:
        return FileSystem()
    options = (*fields[5].split(","), *(rest[2].split(",") if len(rest) > 2 else ()))
    return FileSystem(kind=rest[0], options=options)


def mount_source_of(path: str, mountinfo: str | None = None) -> str:
    """What is mounted there, as the kernel calls it: a device, or a server and what it serves; empty: nobody knows."""
    rest = _mount_of(path, mountinfo)[1]
    return _unescaped(rest[1]) if len(rest) > 1 else ""


def _mount_of(path: str, mountinfo: str | None) -> tuple[list[str], list[str]]:
    """The fields of the line, before and behind its dash; nothing if there is none."""
    if mountinfo is None:
        mountinfo = Path("/proc/self/mountinfo").read_text()
    where = Path(path).resolve()
    best = -1
    found: tuple[list[str], list[str]] = [], []
    for line in mountinfo.splitlines():
        before, _, behind = line.partition(" - ")
        fields, rest = before.split(), behind.split()
        if len(fields) < 6 or not rest:
            continue
        point = Path(_unescaped(fields[4]))
        if where.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), (fields, rest)
    return found


def _unescaped(text: str) -> str:
    """A path of mountinfo, which writes blanks and the like as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def storage_hints(system: FileSystem) -> tuple[str, ...]:
    """What an administrator should know about a file there that is to be the quorum disk of several nodes."""
    if not system.kind:
        return ()
    if not system.shared:
        return (
            f"it lies on {system.kind}, a file system of this machine alone; other nodes must find the same file under"
            " that name, or they can never own the quorum",
        )
    hints = []
    if system.kind.startswith("nfs"):
        if "noac" not in system.options:
            hints.append("it lies on NFS that is mounted without 'noac'; mount it with noac,hard")
        if "soft" in system.options:
            hints.append("it lies on NFS that is mounted 'soft', so writes may be lost; mount it with noac,hard")
    if system.kind in ("cifs", "smb3") and "cache=none" not in system.options:
        hints.append("it lies on a share of SMB that may show old content; mount it with cache=none")
    return tuple(hints)


def examine(place: str) -> DeviceFacts:
    """Look at a device or file without writing; places that this machine has no node for tell nothing."""
    try:
        mode = os.stat(place)
    except OSError:
        return DeviceFacts(place=place)
    number = (os.major(mode.st_rdev), os.minor(mode.st_rdev)) if stat.S_ISBLK(mode.st_mode) else None
    sys, swaps = Path("/sys"), Path("/proc/swaps").read_text()
    used_by = loop_over(place, sys) or swap_at(place, swaps)
    hints: tuple[str, ...] = ()
    if number is not None:
        used_by = block_used_by(number, sys, Path("/proc/self/mountinfo").read_text(), swaps) or used_by
        size_bytes = _block_bytes(number, sys)
    else:
        size_bytes, hints = mode.st_size, storage_hints(file_system_of(place))
    return DeviceFacts(place=place, size_bytes=size_bytes, used_by=used_by, signature=_signature(place), hints=hints)


def _block_bytes(number: tuple[int, int], sys: Path) -> int:
    """The size of a block device; 0 if the kernel does not tell."""
    try:
        return int((sys / "dev" / "block" / "{}:{}".format(*number) / "size").read_text()) * 512
    except (OSError, ValueError):
        return 0


def loop_over(place: str, sys: Path) -> str:
    """Which loop device shows the content of that file or device as its own; empty: none."""
    wanted = os.path.realpath(place)
    for told in sorted((sys / "block").glob("loop*/loop/backing_file")):
        try:
            if os.path.realpath(told.read_text().rstrip("\n")) == wanted:
                return f"the loop device /dev/{told.parent.parent.name} is made of it"
        except OSError:
            continue
    return ""


def swap_at(place: str, swaps: str) -> str:
    """Whether a file is used as swap; empty: it is not."""
    wanted = os.path.realpath(place)
    names = [_unescaped(line.split()[0]) for line in swaps.splitlines()[1:] if line.strip()]
    return "it is used as swap" if any(os.path.realpath(name) == wanted for name in names) else ""


def block_used_by(number: tuple[int, int], sys: Path, mountinfo: str, swaps: str) -> str:
    """Where a block device or one of its partitions is mounted or used as swap, or what is built on it."""
    folder = sys / "dev" / "block" / "{}:{}".format(*number)
    parts = [folder, *(entry.parent for entry in folder.glob("*/partition"))]
    mounted: dict[str, str] = {}
    for line in mountinfo.splitlines():
        fields = line.split()
        if len(fields) > 4:
            mounted[fields[2]] = fields[4]
            # Btrfs and others mount under a number that is no device's; the name behind the dash is.
            source = line.partition(" - ")[2].split()[1:2]
            mounted.update(
                (os.path.basename(os.path.realpath(name)), fields[4]) for name in source if name.startswith("/dev/")
            )
    swapping = {Path(line.split()[0]).name for line in swaps.splitlines()[1:] if line.strip()}
    for part in parts:
        try:
            which, name = (part / "dev").read_text().strip(), part.resolve().name
        except OSError:
            continue
        if point := mounted.get(which) or mounted.get(name):
            return f"{name} is mounted at {point}"
        if name in swapping:
            return f"{name} is used as swap"
        holders = sorted(entry.name for entry in (part / "holders").glob("*"))
        if holders:
            return f"{name} is a part of {', '.join(holders)}"
    return ""


def _signature(place: str) -> str:
    """What blkid finds; nothing where that program is missing."""
    try:
        found = subprocess.run(
            ["blkid", "-p", "-o", "export", place], capture_output=True, text=True, check=False, timeout=TOOL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return signature_of(found.stdout)


def signature_of(text: str) -> str:
    """The answer of blkid in words."""
    told = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if "TYPE" in told:
        label = f" called {told['LABEL']!r}" if told.get("LABEL") else ""
        return f"a {told['TYPE']} ({told.get('USAGE', 'data')}){label}"
    if "PTTYPE" in told:
        return f"a table of partitions ({told['PTTYPE']})"
    return ""


def candidates() -> tuple[DeviceFacts, ...]:
    """The disks of this machine that could be the quorum disk: shared, free, empty, larger than 50 MB (MSCS); the
    smallest first."""
    columns = "PATH,SIZE,TYPE,TRAN,RO,FSTYPE,PTTYPE,MOUNTPOINTS"
    try:
        found = subprocess.run(
            ["lsblk", "--json", "--bytes", "--output", columns],
            capture_output=True,
            text=True,
            check=False,
            timeout=TOOL_TIMEOUT_S,
        )
        listed = json.loads(found.stdout)["blockdevices"]
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        return ()
    free = [examine(each.place) for each in shared_disks(listed)]
    return tuple(each for each in free if not each.used_by and not each.signature)


def shared_disks(listed: Iterable[Mapping[str, Any]]) -> list[DeviceFacts]:
    """Of what lsblk lists, the disks that several machines can have and that nothing is known to lie on.

    A disk with several paths is listed below each of them; the paths themselves are not to be used then.
    """
    found: dict[str, int] = {}
    for disk in listed:
        over = [child for child in disk.get("children") or () if child.get("type") == "mpath"]
        used = over or [disk]
        for each in used:
            shared = bool(over) or disk.get("tran") in SHARED_TRANSPORTS
            mounted = any(each.get("mountpoints") or ())
            empty = not (each.get("children") or each.get("fstype") or each.get("pttype") or mounted)
            large = int(each.get("size") or 0) > DISK_BYTES_MIN
            if shared and empty and large and not each.get("ro") and each.get("type") in ("disk", "mpath"):
                found[str(each["path"])] = int(each["size"])
    return [DeviceFacts(place=place, size_bytes=size) for place, size in sorted(found.items(), key=lambda one: one[1])]

"""What this machine says of a disk before it becomes a quorum disk, and which of its disks could become one."""

from __future__ import annotations

import json
import os
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What lies at a place. Empty texts mean that nothing is known against it."""

    place: str
    size_bytes: int = 0
    used_by: str = ""
    """Who works with it now on this machine."""
    signature: str = ""
    """What seems to lie on it: a file system, a table of partitions, another cluster's lock space."""


def examine(place: str) -> DeviceFacts:
    """Look at a device or file without writing; places that this machine has no node for tell nothing."""
    try:
        mode = os.stat(place)
    except OSError:
        return DeviceFacts(place=place)
    used_by = ""
    if stat.S_ISBLK(mode.st_mode):
        used_by = block_used_by(
            (os.major(mode.st_rdev), os.minor(mode.st_rdev)),
            Path("/sys"),
            Path("/proc/self/mountinfo").read_text(),
            Path("/proc/swaps").read_text(),
        )
    return DeviceFacts(place=place, size_bytes=mode.st_size, used_by=used_by, signature=_signature(place))


def block_used_by(number: tuple[int, int], sys: Path, mountinfo: str, swaps: str) -> str:
    """Where a block device or one of its partitions is mounted or used as swap, or what is built on it."""
    folder = sys / "dev" / "block" / "{}:{}".format(*number)
    parts = [folder, *(entry.parent for entry in folder.glob("*/partition"))]
    mounted = {fields[2]: fields[4] for line in mountinfo.splitlines() if len(fields := line.split()) > 4}
    swapping = {Path(line.split()[0]).name for line in swaps.splitlines()[1:] if line.strip()}
    for part in parts:
        try:
            which, name = (part / "dev").read_text().strip(), part.resolve().name
        except OSError:
            continue
        if which in mounted:
            return f"{name} is mounted at {mounted[which]}"
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

"""What is told of disks before one becomes a quorum disk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clussvc.quorum.devices import candidates, create_file, examine
from clussvc.quorum.devices.facts import block_used_by, shared_disks, signature_of

MB = 1024 * 1024


def disk(path: str, size_mb: int, **more: Any) -> dict[str, Any]:
    return {"path": path, "size": size_mb * MB, "type": "disk", "tran": "iscsi", "ro": False} | more


def test_of_many_disks_the_free_shared_ones_are_listed_smallest_first() -> None:
    """As lsblk tells them; two paths to one disk stand below each other."""
    paths = {"type": "mpath", "path": "/dev/mapper/quorum", "size": 60 * MB, "tran": None}
    listed = [
        disk("/dev/sda", 9_000, tran="sata"),
        disk("/dev/sdb", 900),
        disk("/dev/sdc", 100, tran="fc"),
        disk("/dev/sdd", 50),
        disk("/dev/sde", 100, fstype="ext4"),
        disk("/dev/sdf", 100, children=[{"path": "/dev/sdf1", "type": "part"}]),
        disk("/dev/sdg", 100, pttype="gpt"),
        disk("/dev/sdh", 100, mountpoints=["/srv"]),
        disk("/dev/sdi", 100, ro=True),
        disk("/dev/sdj", 60, fstype="mpath_member", children=[paths]),
        disk("/dev/sdk", 60, fstype="mpath_member", children=[paths]),
        disk("/dev/sr0", 100, type="rom"),
    ]
    assert [each.place for each in shared_disks(listed)] == ["/dev/mapper/quorum", "/dev/sdc", "/dev/sdb"]


def test_this_machine_can_be_asked() -> None:
    assert all(not each.used_by and not each.signature for each in candidates())


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """A disk sdb with two partitions, as sysfs has them."""
    root = tmp_path / "sys"
    for name, number in (("sdb", "8:16"), ("sdb/sdb1", "8:17"), ("sdb/sdb2", "8:18")):
        folder = root / "block" / name
        (folder / "holders").mkdir(parents=True)
        (folder / "dev").write_text(f"{number}\n")
        if "/" in name:
            (folder / "partition").write_text("1\n")
    (root / "dev" / "block").mkdir(parents=True)
    (root / "dev" / "block" / "8:16").symlink_to(root / "block" / "sdb")
    return root


def test_a_disk_in_use_is_known_by_its_parts(sys: Path) -> None:
    mounts = "25 1 8:18 / /srv rw - ext4 /dev/sdb2 rw\n"
    swaps = "Filename Type Size Used Priority\n/dev/sdb1 partition 1 0 -2\n"
    assert block_used_by((8, 16), sys, "", "") == ""
    assert block_used_by((8, 16), sys, mounts, "") == "sdb2 is mounted at /srv"
    assert block_used_by((8, 16), sys, "", swaps) == "sdb1 is used as swap"
    (sys / "block" / "sdb" / "holders" / "dm-3").mkdir()
    assert block_used_by((8, 16), sys, "", "") == "sdb is a part of dm-3"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("", ""),
        ("DEVNAME=/dev/sdb\nUUID=1\nTYPE=ext4\nUSAGE=filesystem\nLABEL=data\n", "a ext4 (filesystem) called 'data'"),
        ("DEVNAME=/dev/sdb\nPTUUID=1\nPTTYPE=gpt\n", "a table of partitions (gpt)"),
    ],
)
def test_what_blkid_says_in_words(told: str, words: str) -> None:
    assert signature_of(told) == words


@pytest.mark.skipif(not shutil.which("mkswap") or not shutil.which("blkid"), reason="util-linux is not whole here")
def test_a_file_with_something_on_it_is_not_empty(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    create_file(str(place), MB)
    assert examine(str(place)).signature == ""
    subprocess.run(["mkswap", str(place)], check=True, capture_output=True)
    assert examine(str(place)).signature == "a swap (other)"

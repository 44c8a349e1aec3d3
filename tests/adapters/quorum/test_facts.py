"""What is told of disks before one becomes a quorum disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clussvc.model.errors import ClusterError
from clussvc.quorum.devices import candidates, create_file, examine, open_device
from clussvc.quorum.devices.facts import (
    block_used_by,
    file_system_of,
    loop_over,
    shared_disks,
    signature_of,
    storage_hints,
    swap_at,
)
from tests.adapters.quorum.places import detach
from tests.adapters.quorum.places import loop_over as attach_loop

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


def test_a_file_or_device_below_a_loop_device_is_in_use(sys: Path, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(b"")
    told = sys / "block" / "loop3" / "loop"
    told.mkdir(parents=True)
    (told / "backing_file").write_text(f"{file}\n")
    assert loop_over(str(file), sys) == "the loop device /dev/loop3 is made of it"
    assert loop_over(str(tmp_path / "other"), sys) == ""


def test_a_swap_file_is_in_use(tmp_path: Path) -> None:
    swaps = f"Filename Type Size Used Priority\n{tmp_path}/a\\040b file 1 0 -2\n"
    assert swap_at(str(tmp_path / "a b"), swaps) == "it is used as swap"
    assert swap_at(str(tmp_path / "a"), swaps) == ""


def test_a_mount_is_known_by_the_name_of_its_device(sys: Path) -> None:
    """Btrfs mounts under a number that is no device's."""
    mounts = "25 1 0:45 / /srv rw - btrfs /dev/sdb1 rw\n26 1 0:46 / /net rw - nfs4 server:/sdb2 rw\n"
    assert block_used_by((8, 16), sys, mounts, "") == "sdb1 is mounted at /srv"


MOUNTS = """\
20 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
21 20 0:30 / /srv rw,relatime - nfs4 server:/export rw,vers=4.2,hard
22 20 0:31 / /srv/quiet rw,relatime - nfs4 server:/quiet rw,noac,hard
23 20 0:32 / /two\\040words rw - cifs //server/share rw,cache=strict
24 20 0:33 / /soft rw - nfs server:/soft rw,noac,soft
25 20 0:34 / /over rw - tmpfs none rw
26 20 8:9 / /over rw - ocfs2 /dev/sdz rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "hints"),
    [
        ("/var/quorum", "ext4", ["this machine alone"]),
        ("/srv/quorum", "nfs4", ["without 'noac'"]),
        ("/srv/quiet/quorum", "nfs4", []),
        ("/srvother/quorum", "ext4", ["this machine alone"]),
        ("/two words/quorum", "cifs", ["cache=none"]),
        ("/soft/quorum", "nfs", ["mounted 'soft'"]),
        ("/over/quorum", "ocfs2", []),
    ],
)
def test_a_file_system_is_judged_for_a_quorum_disk(path: str, kind: str, hints: list[str]) -> None:
    system = file_system_of(path, MOUNTS)
    assert system.kind == kind
    said = storage_hints(system)
    assert len(said) == len(hints)
    assert all(words in sentence for words, sentence in zip(hints, said, strict=True))


def test_the_file_system_of_a_file_of_this_machine_is_found(tmp_path: Path) -> None:
    assert file_system_of(str(tmp_path)).kind
    file = tmp_path / "disk"
    create_file(str(file), MB)
    facts = examine(str(file))
    assert (facts.size_bytes, facts.used_by) == (MB, "")


@pytest.mark.skipif(
    not Path("/dev/mapper/control").exists() or not shutil.which("dmsetup"),
    reason="there is no device mapper here; script/test-kernels has one",
)
def test_a_disk_that_a_volume_is_built_on_is_in_use(tmp_path: Path) -> None:
    """As the device mapper of the kernel tells it; nobody opens such a disk before the volume is gone."""
    file, name = tmp_path / "disk", f"clussvc-test-{tmp_path.name}"
    create_file(str(file), 8 * MB)
    place = attach_loop(file)
    try:
        table = f"0 {8 * MB // 512} linear {place} 0"
        dmsetup("create", name, "--table", table)
        try:
            assert " is a part of dm-" in examine(place).used_by
            with pytest.raises(ClusterError, match=r"is in use on this node: loop\d+ is a part of dm-"):
                open_device(place, initiator="", timeout_ms=5_000)
        finally:
            dmsetup("remove", name)
        assert examine(place).used_by == ""
        open_device(place, initiator="", timeout_ms=5_000).close()
    finally:
        detach(place)


def dmsetup(*words: str) -> None:
    """Without the daemon that would make the names of devices."""
    subprocess.run(["dmsetup", *words], env={**os.environ, "DM_DISABLE_UDEV": "1"}, check=True, capture_output=True)

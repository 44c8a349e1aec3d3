"""The node file: what is written can be read, and every mistake is named with its key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clussvc.model.errors import ClusterError
from clussvc.service.settings_file import NodeFile, read_node_file, write_node_file

GOOD = NodeFile(
    cluster='PAY "ROLL"',
    cluster_id="c3f0",
    node="NODE1",
    node_id=1,
    addresses=("10.0.0.1", "fd00::1"),
    port=3343,
    admin_port=0,
    data=Path("/var/lib/clussvc"),
    socket=Path("/run/clussvc/admin.sock"),
)


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    """Quotes in names included; the file is for its owner alone."""
    path = tmp_path / "deep" / "node.toml"
    write_node_file(path, GOOD)

    assert read_node_file(path) == GOOD
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("node_id = 1", "node_id = 0", "node_id"),
        ("node_id = 1", 'node_id = "1"', "node_id"),
        ("node_id = 1", "node_id = true", "node_id"),
        ("port = 3343", "port = 70000", "port"),
        ("parallel_starts = 16", "parallel_starts = 0", "parallel_starts"),
        ("port = 3343", "port = 3343\nprot = 1", "prot"),
        ('"10.0.0.1"', '"10.0.0.256"', "addresses"),
        ('["10.0.0.1", "fd00::1"]', "[]", "addresses"),
        ('node = "NODE1"', "", "node"),
        ('cluster_id = "c3f0"', "cluster_id = c3f0", "TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    """Wrong types and ranges, unknown and missing keys, no TOML at all."""
    path = tmp_path / "node.toml"
    write_node_file(path, GOOD)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ClusterError, match=named) as caught:
        read_node_file(path)

    assert caught.value.code == "node-file-bad"


def test_a_machine_without_the_file_is_told_what_to_do(tmp_path: Path) -> None:
    """Form a cluster, or join one."""
    with pytest.raises(ClusterError, match="/create") as caught:
        read_node_file(tmp_path / "node.toml")

    assert caught.value.code == "node-file-missing"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """The folder is a file."""
    (tmp_path / "folder").write_text("x")
    with pytest.raises((ClusterError, FileExistsError, NotADirectoryError)):
        write_node_file(tmp_path / "folder" / "node.toml", replace(GOOD, port=1))

    assert (tmp_path / "folder").read_text() == "x"

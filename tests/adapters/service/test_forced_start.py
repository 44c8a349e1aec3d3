"""What is done with the files of a node before a forced start, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clussvc import codec
from clussvc.configdb.store import SqliteConfigStore
from clussvc.global_update.raft.replicator import beginning
from clussvc.global_update.raft.stored_log import begin_offline, read_stored_log
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.quorum.disk_log import RESET_LEAP
from clussvc.service import forced_start
from clussvc.service.forced_start import force_quorum, reset_log
from clussvc.service.lifecycle import Birth, read_birth, write_birth
from clussvc.service.settings_file import NodeFile
from tests.unit.groups.samples import cluster, node

CLUSTER = "c" * 32
DISK = Quorum(kind=QuorumKind.DISK, device="/dev/sdb", disk="0" * 15 + "1", sectors=25_600)


def made(tmp_path: Path, config: Config, *, index: int = 40) -> tuple[NodeFile, Birth]:
    """A node that is stopped: its part of the log, if it has one, and the copy of the configuration."""
    file = NodeFile(
        cluster="C",
        cluster_id=CLUSTER,
        node="NODE1",
        node_id=1,
        addresses=("127.0.0.1",),
        port=7_343,
        admin_port=0,
        data=tmp_path,
        socket=tmp_path / "admin.sock",
    )
    if config.quorum.replicated:
        snapshot = beginning(
            cluster_id=CLUSTER,
            members=frozenset(map(int, config.voters)),
            index=index,
            image=codec.encode_config(config),
        )
        begin_offline(file.log_folder(config.quorum.generation), snapshot, node_id=1)
    store = SqliteConfigStore(file.database)
    store.save(index, config, [])
    store.close()
    birth = Birth(profile="lan", members={}, joining=False, found=None, quorum=config.quorum, log_made=True)
    write_birth(file, birth)
    return file, birth


def taken_over(file: NodeFile) -> tuple[int, Config]:
    """With what the node goes on."""
    quorum = read_birth(file).quorum
    stored = read_stored_log(file.log_folder(quorum.generation), cluster_id=CLUSTER, node_id=1)
    return stored.applied, codec.decode_config(stored.image)


def damage(file: NodeFile) -> None:
    journal = file.log_folder(0) / "raft.journal"
    content = bytearray(journal.read_bytes())
    content[20] ^= 0xFF
    journal.write_bytes(content)


THREE = cluster(node(1), node(2), node(3))


@pytest.mark.parametrize("config", [THREE, replace(THREE, quorum=DISK)], ids=["majority", "disk"])
def test_one_listed_node_goes_on_alone(tmp_path: Path, config: Config) -> None:
    file, birth = made(tmp_path, config)
    fresh = force_quorum(file, birth, ("node1",))
    assert fresh == read_birth(file)
    assert (fresh.quorum.kind, fresh.log_made) == (QuorumKind.MAJORITY, True)
    index, begun = taken_over(file)
    assert index == 40 + RESET_LEAP
    assert begun.voters == {1}
    assert begun.quorum == fresh.quorum
    assert begun.quorum.generation > 1_700_000_000
    # It has been done: once more it is no forced start any more.
    assert force_quorum(file, fresh, ("NODE1",)) is fresh
    # A later one is a later generation, also within the same second.
    wider = replace(begun, nodes={each.id: replace(each, voter=True) for each in begun.nodes.values()})
    snapshot = beginning(
        cluster_id=CLUSTER, members=frozenset({1, 2, 3}), index=index, image=codec.encode_config(wider)
    )
    begin_offline(file.log_folder(fresh.quorum.generation), snapshot, node_id=1)
    assert force_quorum(file, fresh, ("NODE1",)).quorum.generation > fresh.quorum.generation


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("NODE9",), "there is no node NODE9"),
        (("NODE2", "NODE3"), "NODE1 is not on the list"),
        ((), "there is no node"),
    ],
)
def test_a_list_that_makes_no_sense_changes_nothing(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    file, birth = made(tmp_path, THREE)
    with pytest.raises(ClusterError, match=words) as caught:
        force_quorum(file, birth, names)
    assert caught.value.code == "force-refused"
    assert read_birth(file) == birth


def test_the_voters_need_no_force(tmp_path: Path) -> None:
    file, birth = made(tmp_path, THREE)
    assert force_quorum(file, birth, ("NODE1", "NODE2", "NODE3")) is birth


def test_a_crash_in_between_leaves_the_node_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, birth = made(tmp_path, THREE)

    def crash(*_: object) -> None:
        raise OSError("the power failed")

    monkeypatch.setattr(forced_start, "write_birth", crash)
    with pytest.raises(OSError, match="power"):
        force_quorum(file, birth, ("NODE1",))
    monkeypatch.undo()
    assert read_birth(file) == birth
    assert force_quorum(file, birth, ("NODE1",)).quorum.generation > 0


def test_a_log_that_cannot_be_read_forces_nothing(tmp_path: Path) -> None:
    file, birth = made(tmp_path, THREE)
    damage(file)
    with pytest.raises(ClusterError, match="is damaged") as caught:
        force_quorum(file, birth, ("NODE1",))
    assert caught.value.code == "journal-damaged"
    assert read_birth(file) == birth


def test_the_damaged_log_of_one_node_is_made_anew_from_the_copy(tmp_path: Path) -> None:
    file, birth = made(tmp_path, cluster(node(1)))
    assert reset_log(file, birth) == (birth, "")
    damage(file)
    fresh, lost = reset_log(file, birth)
    assert (fresh, lost) == (read_birth(file), "")
    index, begun = taken_over(file)
    assert (index, begun.quorum.kind) == (40 + RESET_LEAP, QuorumKind.MAJORITY)
    assert begun.voters == {1}


def test_the_damaged_log_of_one_of_several_nodes_is_not(tmp_path: Path) -> None:
    """The others may count on what it has promised; it has to wait for another log."""
    file, birth = made(tmp_path, THREE)
    damage(file)
    assert reset_log(file, birth) == (birth, "journal-damaged")
    assert read_birth(file) == birth


def test_without_even_a_copy_there_is_nothing_to_begin_with(tmp_path: Path) -> None:
    file, birth = made(tmp_path, cluster(node(1)))
    damage(file)
    file.database.unlink()
    with pytest.raises(ClusterError, match="is damaged"):
        reset_log(file, birth)

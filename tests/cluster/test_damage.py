"""A damaged file on one node: that node says what to do, doing it brings the node back, and the others go on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pysyncobj.pickle as library_pickle
import pytest

from clussvc.global_update.raft.journal import Journal, JournalIdentity
from clussvc.global_update.raft.raft_node import JOURNAL_NAME, SNAPSHOT_NAME
from clussvc.global_update.raft.snapshot_file import Snapshot, encode_snapshot
from clussvc.global_update.raft.storage import DiskStorage
from clussvc.service.replicated_state import ReplicatedState
from clussvc.service.settings_file import read_node_file
from tests.cluster.formation import TOKEN, Cluster
from tests.cluster.lab import Node
from tests.cluster.probe import longest_gap

GAP_S_MAX = 5.0
"""A client that waited longer than this was not served without interruption, however busy the machine is."""


@contextmanager
def others_go_on(cluster: Cluster) -> Iterator[None]:
    """While this lasts the group is online on NODE1 for a client that never stops asking, and updates are made."""
    first, second, _ = cluster.lab.nodes
    probe = cluster.lab.probe()
    begun_s = time.monotonic()
    probe.wait_answered(since_s=begun_s)
    begun_s = time.monotonic()
    update(cluster, "BEFORE", on=second)
    yield
    update(cluster, "AFTER", on=second)
    ended_s = time.monotonic()
    probe.wait_answered(since_s=ended_s)
    attempts = probe.end()
    assert {first.name} == {attempt.node for attempt in attempts if attempt.answer and attempt.begun_s > begun_s}
    gap = longest_gap(attempts, since_s=begun_s, until_s=ended_s)
    assert gap is not None
    assert gap.length_s < GAP_S_MAX
    cluster.wait_group(first.name, on=second)


def update(cluster: Cluster, name: str, *, on: Node) -> None:
    """Change the configuration there and back."""
    cluster.command("group", name, "/create", on=on)
    cluster.command("group", name, "/delete", on=on)


def stopped(cluster: Cluster) -> Node:
    """The third node, its service stopped in order."""
    node = cluster.lab[3]
    node.stop_service()
    node.wait_service_ended()
    cluster.wait_nodes({each.name: "Down" if each is node else "Up" for each in cluster.lab.nodes}, on=cluster.lab[1])
    return node


def refusal(node: Node) -> str:
    """What a service says that ends because it cannot start."""
    before = node.log.read_text() if node.log.exists() else ""
    node.start_service()
    node.wait_service_ended()
    return node.log.read_text().removeprefix(before)


def flip(path: str, node: Node, *, share: float) -> None:
    """Change one byte of a file of the node's data folder."""
    file = node.data / path
    data = bytearray(file.read_bytes())
    data[int(len(data) * share)] ^= 0xFF
    file.write_bytes(data)


def evict_and_join_anew(cluster: Cluster, node: Node) -> None:
    """What the message says, word by word."""
    cluster.command("node", node.name, "/evict", on=cluster.lab[1])
    cleaned = node.cluster("node", node.name, "/forcecleanup")
    assert cleaned.returncode == 0, cleaned.stderr
    assert not node.config.exists() and not (node.data / "log").exists()
    token = TOKEN.findall(cluster.command(f"/addnodes:{node.name}"))
    assert len(token) == 1
    cluster.join(node, token[0])
    cluster.wait_all_up()


def says_how_to_join_anew(said: str, node: Node) -> bool:
    """Whether each step of the way out is named."""
    steps = ("evict the node from the cluster", "/evict", "cluster node /forcecleanup", "join anew")
    return str(node.data) in said and all(step in said for step in steps)


def test_a_damaged_journal(cluster: Cluster) -> None:
    """One byte in the middle: the node refuses, since it may have forgotten a promise; it comes back as a new one."""
    with others_go_on(cluster):
        node = stopped(cluster)
        flip(f"log/{JOURNAL_NAME}", node, share=0.5)
        said = refusal(node)
        assert "journal" in said and "damaged" in said
        assert says_how_to_join_anew(said, node)
        update(cluster, "MEANWHILE", on=cluster.lab[1])
        evict_and_join_anew(cluster, node)


def test_a_lost_journal(cluster: Cluster) -> None:
    """The node does not begin as if it had never voted."""
    with others_go_on(cluster):
        node = stopped(cluster)
        (node.data / "log" / JOURNAL_NAME).unlink()
        said = refusal(node)
        assert "missing" in said
        assert says_how_to_join_anew(said, node)
        evict_and_join_anew(cluster, node)


def test_an_evicted_node_cleans_itself_up(cluster: Cluster) -> None:
    """It was away when it was evicted, learns it from the first node that it calls, and can join again."""
    with others_go_on(cluster):
        node = stopped(cluster)
        cluster.command("node", node.name, "/evict", on=cluster.lab[1])
        cluster.wait_nodes({each.name: "Up" for each in cluster.lab.nodes[:2]}, on=cluster.lab[1])
        said = refusal(node)
        assert "was evicted from the cluster" in said and f"{node.name} is no node any more" in said
        assert not node.config.exists() and not (node.data / "keys").exists()
        assert "node.was-evicted" in (node.data / "service.log").read_text()
        (token,) = TOKEN.findall(cluster.command(f"/addnodes:{node.name}"))
        cluster.join(node, token)
        cluster.wait_all_up()


def make_snapshot(node: Node) -> None:
    """Write the snapshot that the node would have written by itself after some thousand changes, from its journal."""
    file = read_node_file(node.config)
    folder = node.data / "log"
    identity = JournalIdentity(cluster_id=file.cluster_id, node_id=file.node_id, members=(file.node_id,), joining=True)
    journal = Journal(folder / JOURNAL_NAME, identity, DiskStorage(), create=False)
    entries = journal[:]
    members = set(journal.identity.members)
    for change in journal.changes:
        (members.add if change.adding else members.discard)(change.node_id)
    journal.close()
    state = ReplicatedState(lambda event: None)
    applied = 0
    for command, _, _ in entries:
        if command[:1] == b"\x00":
            applied += 1
            state.apply(applied, library_pickle.loads(command[1:])[1][0].encode("latin-1"))
    assert not state.malformed
    snapshot = Snapshot(
        cluster_id=file.cluster_id,
        previous=entries[-2],
        last=entries[-1],
        members=tuple(sorted(members)),
        applied=applied,
        image=state.snapshot(),
    )
    (folder / SNAPSHOT_NAME).write_bytes(encode_snapshot(snapshot))


def test_a_damaged_snapshot(cluster: Cluster) -> None:
    """With the snapshot as it should be the node starts; with one byte changed it refuses and comes back as new."""
    with others_go_on(cluster):
        node = stopped(cluster)
        make_snapshot(node)
        node.start_service()
        cluster.wait_all_up()
        stopped(cluster)
        flip(f"log/{SNAPSHOT_NAME}", node, share=0.5)
        said = refusal(node)
        assert "snapshot" in said and "damaged" in said
        assert says_how_to_join_anew(said, node)
        evict_and_join_anew(cluster, node)


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["head", "middle"])
def test_a_damaged_database(cluster: Cluster, share: float) -> None:
    """It is a copy: moved away, as the message says, it is made again from the log."""
    with others_go_on(cluster):
        node = stopped(cluster)
        database = node.data / "cluster.db"
        before = cluster.ask("group", on=cluster.lab[1])
        if share:
            # A page in the middle: all of it, since one byte may fall where nothing is stored.
            data = bytearray(database.read_bytes())
            page = len(data) // 4096 // 2 * 4096
            data[page : page + 4096] = b"\xa5" * 4096
            database.write_bytes(data)
        else:
            flip("cluster.db", node, share=share)
        said = refusal(node)
        assert f"the configuration database {database} is damaged" in said
        assert f"move {database} away" in said
        for suffix in ("", "-wal", "-shm"):
            file = database.with_name(database.name + suffix)
            if file.exists():
                file.rename(file.with_name(f"damaged-{file.name}"))
        node.start_service()
        cluster.wait_all_up()
        assert before == cluster.ask("group", on=node)


def test_a_copy_of_another_nodes_log_is_refused(cluster: Cluster) -> None:
    """A backup restored on the wrong machine would vote twice; the message says whose it is."""
    with others_go_on(cluster):
        node = stopped(cluster)
        own = node.data / "log" / JOURNAL_NAME
        kept = own.read_bytes()
        shutil.copyfile(cluster.lab[2].data / "log" / JOURNAL_NAME, own)
        said = refusal(node)
        assert "belongs to node" in said
        assert "own data folder" in said and "cluster node /forcecleanup" in said
        own.write_bytes(kept)
        node.start_service()
        cluster.wait_all_up()

"""A cluster of three nodes changes its quorum, there and back and on, while a client asks its web server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from clussvc.quorum.disk_layout import DISK_BYTES_MIN, SECTOR_BYTES, decode_superblock
from tests.cluster.formation import WORKER, Cluster
from tests.cluster.lab import Lab, Node, eventually
from tests.cluster.storage import Storage, can_serve


@pytest.fixture(scope="module")
def storage(formed: Cluster) -> Iterator[Storage | None]:
    """A machine with an iSCSI disk, where that can be had."""
    if not can_serve():
        yield None
        return
    made = Storage(formed.lab, size_bytes=2 * DISK_BYTES_MIN)
    yield made
    made.close()


def wait_generation(cluster: Cluster, generation: int, *nodes: Node) -> None:
    """Until these nodes act by that quorum, and the log takes changes."""
    for node in nodes or cluster.lab.nodes:

        def there(node: Node = node) -> bool:
            told = cluster.ask("/quorum", on=node)
            return bool(told) and told["generation"] == generation and told["coordinator"] is not None

        eventually(there, f"{node.name} acts by quorum {generation}")


def change(cluster: Cluster, *words: str, on: Node) -> None:
    """Another quorum, as soon as the last change is finished."""

    def done() -> bool:
        return on.cluster(*words).returncode == 0

    eventually(done, f"cluster {' '.join(words)} on {on.name}")


def left(lab: Lab, name: str) -> bool:
    """Whether the cluster has left this disk."""
    block = decode_superblock((lab.folder / name).read_bytes()[:SECTOR_BYTES])
    return block is not None and block.left


def incarnations(cluster: Cluster) -> list[str]:
    """What the nodes are by the log of the first one."""
    lines = cluster.lab[1].data.joinpath("service.log").read_text().splitlines()
    return [line for line in lines if "node.releasing" in line or "node.down" in line]


def test_the_quorum_changes_while_a_client_is_served(cluster: Cluster, storage: Storage | None) -> None:
    """Majority, a file, majority, another disk: by commands on all nodes, and the group stays what it is. Then a node
    is lost in the middle of a change; it comes back and finds the quorum of that time."""
    lab = cluster.lab
    first, second, third = lab.nodes
    worker = cluster.process(first, WORKER)
    assert worker is not None
    trouble = incarnations(cluster)
    probe = lab.probe()
    other_disk = storage.place if storage else str(lab.folder / "b.disk")
    file = str(lab.folder / "a.disk")
    changes = (
        ("/quorum:disk", f"/path:{file}"),
        ("/quorum:majority",),
        (f"/quorum:{other_disk}",),
        ("/quorum", f"/path:{file}"),
    )
    for generation, (words, node) in enumerate(zip(changes, itertools.cycle(lab.nodes)), 1):
        change(cluster, *words, on=node)
        wait_generation(cluster, generation)
        cluster.command("group", f"QUORUM{generation}", "/create", on=lab.nodes[generation % 3])
    told = cluster.ask("/quorum", on=second)
    assert (told["type"], told["device"]) == ("Physical Disk", file)
    attempts = probe.end()
    assert all(attempt.answer for attempt in attempts), [each for each in attempts if not each.answer][:5]
    assert cluster.process(first, WORKER) == worker
    assert incarnations(cluster) == trouble

    # The last change: a node loses its power as soon as it was told.
    change(cluster, "/quorum:majority", on=second)
    third.crash()
    wait_generation(cluster, 5, first, second)
    cluster.wait_nodes({"NODE1": "Up", "NODE2": "Up", "NODE3": "Down"}, on=first)
    change(cluster, "/quorum:disk", f"/path:{file}", on=first)
    wait_generation(cluster, 6, first, second)
    cluster.command("group", "MEANWHILE", "/create", on=first)
    third.boot()
    third.start_service()
    wait_generation(cluster, 6)
    cluster.wait_all_up()
    assert "MEANWHILE" in {group["name"] for group in cluster.ask("group", on=third)}
    cluster.check_worker()
    eventually(
        lambda: {path.name for path in first.data.glob("log*")} == {"log-6"}, "nothing is kept of logs that were left"
    )


def test_a_node_finds_the_quorum_alone_in_the_log_that_was_left(cluster: Cluster) -> None:
    """Two of three are told of another disk and lose their power; the third has nothing but the disk that was left."""
    lab = cluster.lab
    first, second, third = lab.nodes
    generation = cluster.ask("/quorum", on=first)["generation"]
    third.crash()
    cluster.wait_nodes({"NODE1": "Up", "NODE2": "Up", "NODE3": "Down"}, on=first)
    disk = lab.folder / "c.disk"
    change(cluster, "/quorum:disk", f"/path:{disk}", on=first)
    wait_generation(cluster, generation + 1, first, second)
    cluster.command("group", "LAST", "/create", on=second)
    first.crash()
    second.crash()
    third.boot()
    third.start_service()
    wait_generation(cluster, generation + 1, third)
    cluster.wait_group("NODE3", on=third)
    assert "LAST" in {group["name"] for group in cluster.ask("group", on=third)}
    for node in (first, second):
        node.boot()
        node.start_service()
    cluster.wait_all_up()


def test_what_is_refused_names_the_way_out(cluster: Cluster, tmp_path: Path) -> None:
    """Nothing is written on a disk for a change that would be refused, and no living quorum disk is taken."""
    first = cluster.lab[1]
    present = cluster.ask("/quorum", on=first)
    assert present["type"] == "Physical Disk"
    refused = first.cluster("/quorum:local")
    assert "evict NODE2, NODE3 first" in refused.stdout + refused.stderr
    occupied = tmp_path / "data"
    occupied.write_bytes(b"mail" * 4096 + bytes(DISK_BYTES_MIN))
    refused = first.cluster("/quorum:disk", f"/path:{occupied}")
    assert "use /force to overwrite it" in refused.stdout + refused.stderr
    same = first.cluster("/quorum:disk", f"/path:{present['device']}", "/force")
    assert same.returncode == 0
    assert cluster.ask("/quorum", on=first)["generation"] == present["generation"]

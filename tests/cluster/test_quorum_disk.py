"""Two nodes and a quorum disk, a file on shared storage: one of the two is enough, and never both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.formation import WORKER, Cluster
from tests.cluster.lab import Lab, eventually


@pytest.fixture(scope="module")
def formed(folder: Path) -> Iterator[Cluster]:
    """Two nodes with the group of the web server on NODE1."""
    with Lab(folder=folder, nodes=2) as lab:
        cluster = Cluster(lab)
        cluster.form("loopback", quorum=str(folder / "quorum.disk"))
        cluster.create_web_group(failback=False)
        yield cluster


def test_the_quorum_is_shown(cluster: Cluster) -> None:
    told = cluster.ask("/quorum", on=cluster.lab[2])
    assert ("Physical Disk", False, 4096) == (told["type"], told["reservations"], told["max_log_kb"])
    assert told["coordinator"] in ("NODE1", "NODE2")


@pytest.mark.parametrize("victim", [1, 2])
def test_the_one_that_is_left_goes_on(cluster: Cluster, victim: int) -> None:
    """Whoever dies, with the quorum disk in its hands or without: the other one has everything, and all that was
    acknowledged."""
    first, second = cluster.lab[victim], cluster.lab[3 - victim]
    cluster.command("group", f"BEFORE{victim}", "/create", on=first)
    first.crash()
    cluster.wait_group(second.name, on=second)
    assert f"BEFORE{victim}" in {group["name"] for group in cluster.ask("group", on=second)}
    cluster.command("group", f"ALONE{victim}", "/create", on=second)

    first.boot()
    first.start_service()
    cluster.wait_all_up()
    assert f"ALONE{victim}" in {group["name"] for group in cluster.ask("group", on=first)}


def test_of_two_that_do_not_hear_each_other_one_goes_on(cluster: Cluster) -> None:
    """The link between them is cut, both reach the disk: its owner stays, and the other one has let go."""
    first, second = cluster.lab.nodes
    owner = cluster.lab.named(cluster.ask("/quorum", on=first)["coordinator"])
    other = second if owner is first else first
    cluster.command("group", "WEB", f"/moveto:{other.name}", "/wait:60", on=first)
    before = cluster.process(other, WORKER)
    assert before is not None
    other.cut()
    cluster.wait_group(owner.name, on=owner)
    assert [] == cluster.traces(other)

    other.heal()
    cluster.wait_all_up()


def test_a_cluster_that_was_switched_off_as_a_whole_comes_back(cluster: Cluster) -> None:
    """Either node alone can form the cluster, with all that the last owner knew."""
    first, second = cluster.lab.nodes
    first.crash()
    cluster.wait_group(second.name, on=second)
    cluster.command("group", "LATEST", "/create", on=second)
    second.crash()
    first.boot()
    first.start_service()
    # Until it has read the log, a node shows what it knew last.
    eventually(
        lambda: "LATEST" in {group["name"] for group in cluster.ask("group", on=first) or ()},
        "NODE1, which was down when it was made, reads of the newest group on the disk",
    )
    cluster.wait_group(first.name, on=first)
    second.boot()
    second.start_service()
    cluster.wait_all_up()

"""Two nodes and a file share witness: one of the two is enough, and never both.

The share is a folder that both nodes see; on one machine that is a plain one, which has to be forced.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.formation import WORKER, Cluster
from tests.cluster.lab import Lab, Node, eventually


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[Lab]:
    with Lab(folder=folder, nodes=2) as made:
        yield made


@pytest.fixture(scope="module")
def share(lab: Lab) -> Path:
    made = lab.folder / "share"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def formed(lab: Lab, share: Path) -> Cluster:
    """Two nodes with the group of the web server on NODE1, and a witness that may break a tie."""
    cluster = Cluster(lab)
    cluster.form("loopback")
    refused = lab[1].cluster("/quorum", f"/witness:{share}")
    assert refused.returncode != 0
    assert "of this machine alone" in refused.stdout + refused.stderr
    cluster.command("/quorum", f"/witness:{share}", "/force")
    wait_open(cluster)
    cluster.create_web_group(failback=False)
    return cluster


def wait_open(cluster: Cluster) -> None:
    """The witness may decide, and each node sees the share."""

    def told(node: Node) -> bool:
        quorum = cluster.ask("/quorum", on=node)
        return bool(quorum["witness_open"] and quorum["witness_trouble"] == "" and len(quorum["voters"]) == 2)

    for node in cluster.lab.nodes:
        eventually(lambda node=node: told(node), f"{node.name} sees an open witness")  # type: ignore[misc]


@pytest.mark.parametrize("victim", [1, 2])
def test_the_one_that_is_left_goes_on(cluster: Cluster, victim: int) -> None:
    """Whoever dies, the leader or the other one: the one that is left has everything, and all that was acknowledged."""
    first, second = cluster.lab[victim], cluster.lab[3 - victim]
    cluster.command("group", f"BEFORE{victim}", "/create", on=first)
    first.crash()
    cluster.wait_group(second.name, on=second)
    assert f"BEFORE{victim}" in {group["name"] for group in cluster.ask("group", on=second)}
    cluster.command("group", f"ALONE{victim}", "/create", on=second)
    assert [second.name] == cluster.ask("/quorum", on=second)["voters"]

    first.boot()
    first.start_service()
    cluster.wait_all_up()
    assert f"ALONE{victim}" in {group["name"] for group in cluster.ask("group", on=first)}
    wait_open(cluster)


def test_of_two_that_do_not_hear_each_other_one_goes_on(cluster: Cluster) -> None:
    """The link is cut, both reach the share: one has let go of everything before the other one takes it."""
    leader = cluster.lab.named(cluster.ask("/quorum", on=cluster.lab[1])["coordinator"])
    other = next(node for node in cluster.lab.nodes if node is not leader)
    cluster.command("group", "WEB", f"/moveto:{other.name}", "/wait:60", on=leader)
    assert cluster.process(other, WORKER) is not None
    other.cut()
    eventually(
        lambda: (
            sum(cluster.takes_part(node) for node in (leader, other)) == 1
            and any(len(cluster.ask("/quorum", on=node)["voters"]) == 1 for node in (leader, other))
        ),
        "exactly one of the two goes on",
    )
    left = leader if cluster.takes_part(leader) else other
    lost = other if left is leader else leader
    cluster.wait_group(left.name, on=left)
    assert [] == cluster.traces(lost)

    other.heal()
    cluster.wait_all_up()
    wait_open(cluster)


def test_without_the_share_nothing_happens_until_half_is_lost(cluster: Cluster, share: Path) -> None:
    """A witness that cannot be reached is told of, and costs nothing; it is missed when a node is lost as well."""
    away = share.with_name("away")
    share.rename(away)
    eventually(
        lambda: "is the share mounted there" in str(cluster.ask("/quorum", on=cluster.lab[1])["witness_trouble"]),
        "the loss of the share is told",
    )
    cluster.wait_all_up()
    cluster.lab[2].crash()
    eventually(lambda: not cluster.takes_part(cluster.lab[1]), "the one that is left stops, since nobody can decide")
    assert [] == cluster.traces(cluster.lab[1])
    away.rename(share)
    cluster.wait_group("NODE1", on=cluster.lab[1])
    cluster.lab[2].boot()
    cluster.lab[2].start_service()
    cluster.wait_all_up()
    wait_open(cluster)

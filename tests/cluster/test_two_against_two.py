"""Four nodes and a quorum disk, two against two: the two that have the owner of the disk go on, the others let go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.formation import Cluster
from tests.cluster.lab import Lab


@pytest.fixture(scope="module")
def formed(folder: Path) -> Iterator[Cluster]:
    """Four nodes with the group of the web server; the disk is a file, which everybody reaches all the time."""
    with Lab(folder=folder, nodes=4) as lab:
        cluster = Cluster(lab)
        cluster.form("loopback", quorum=str(folder / "quorum.disk"))
        cluster.create_web_group(failback=False)
        yield cluster


def test_the_half_with_the_owner_of_the_disk_goes_on(cluster: Cluster) -> None:
    nodes = cluster.lab.nodes
    owner = cluster.lab.named(str(cluster.coordinator(nodes[0])))
    friend, *strangers = [node for node in nodes if node is not owner]
    cluster.command("group", "WEB", f"/moveto:{strangers[0].name}", "/wait:60", on=owner)
    cluster.lab.split(*strangers)
    here = {node.name: "Up" for node in (owner, friend)} | {node.name: "Down" for node in strangers}
    cluster.wait_nodes(here, on=owner)
    heir = cluster.owner(on=friend)
    assert heir in (owner, friend)
    for node in strangers:
        assert [] == cluster.traces(node)
        assert not cluster.takes_part(node)
    cluster.command("group", "SIGNED", "/create", on=friend)

    cluster.lab.join_again(*strangers)
    cluster.wait_all_up()
    assert "SIGNED" in {group["name"] for group in cluster.ask("group", on=strangers[1])}
    cluster.wait_group(heir.name, on=strangers[0])

"""A parallel group on real machines: two instances on three nodes, and the spare node takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.cluster.formation import Cluster
from tests.cluster.lab import Node, eventually

FARM: Final = "FARM"
SECONDS: Final = "98765"
"""What the application sleeps; by this word its process is found."""


def farm(cluster: Cluster, *, on: Node) -> dict[str, tuple[str, str]]:
    """Where each instance is, and in which state, as a node sees it."""
    (group,) = cluster.ask("group", FARM, on=on) or ({"instances": []},)
    return {each["name"]: (each["node"], each["state"]) for each in group["instances"]}


def application(cluster: Cluster, node: Node) -> int | None:
    return cluster.process(node, Path(SECONDS))


def test_two_of_three_nodes_and_a_spare(cluster: Cluster, tmp_path: Path) -> None:
    """Two run; one machine loses power, the spare takes its instance, the other one is not disturbed, and the machine
    that returns is the spare. Then one instance is moved by hand, and the other is taken offline."""
    first, second, third = cluster.lab.nodes
    told = tmp_path / "told"
    line = f"sh -c 'echo $CLUSSVC_NODE $CLUSSVC_INSTANCE >> {told}; exec sleep {SECONDS}'"
    for words in (
        ("group", FARM, "/create"),
        ("group", FARM, f"/setowners:{first.name},{second.name}"),
        ("res", "ROW", "/create", f"/group:{FARM}", "/type:Generic Application", "/separate"),
        ("res", "ROW", "/priv", f"CommandLine={line}"),
        ("group", FARM, "/prop", "GroupType=parallel", "MaxInstances=2"),
        ("group", FARM, "/online", "/wait:60"),
    ):
        cluster.command(*words)
    both = {"FARM#1": (first.name, "Online"), "FARM#2": (second.name, "Online")}
    eventually(lambda: farm(cluster, on=third) == both, "both instances are online")
    undisturbed = application(cluster, second)
    assert None not in (application(cluster, first), undisturbed)
    assert application(cluster, third) is None
    assert {f"{first.name} 1", f"{second.name} 2"} == set(told.read_text().splitlines())

    first.crash()
    taken = {"FARM#1": (third.name, "Online"), "FARM#2": (second.name, "Online")}
    eventually(lambda: farm(cluster, on=second) == taken, "the spare has the instance")
    assert application(cluster, third) is not None
    assert undisturbed == application(cluster, second)
    assert f"{third.name} 1" == told.read_text().splitlines()[-1]
    because = cluster.command("explain", "FARM#1", on=second)
    assert f"{first.name} went down" in because and f"{second.name} has FARM#2 already" in because

    first.boot()
    first.start_service()
    cluster.wait_all_up()
    assert taken == farm(cluster, on=first)
    assert application(cluster, first) is None
    cluster.command("group", FARM, f"/moveto:{first.name}", f"/from:{third.name}", "/wait:60")
    cluster.command("group", FARM, "/offline", f"/node:{second.name}", "/wait:60")
    ended = {"FARM#1": (first.name, "Online"), "FARM#2": (second.name, "Offline")}
    eventually(lambda: farm(cluster, on=third) == ended, "one runs, one does not")
    assert application(cluster, first) is not None
    assert [None, None] == [application(cluster, second), application(cluster, third)]

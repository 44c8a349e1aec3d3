"""Two networks: one may fail without harm, groups leave a node that has lost their clients, roles change, and the
commands show it all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.formation import WORKER, Cluster
from tests.cluster.lab import CLIENT_ADDRESS, Lab, Node, eventually

PUBLIC, HEART = "Public", "Heart"


@pytest.fixture(scope="module")
def formed(folder: Path) -> Iterator[Cluster]:
    """Three nodes on two networks; the group of the web server, whose address is on the first, on NODE1."""
    with Lab(folder=folder, networks=2) as lab:
        cluster = Cluster(lab)
        cluster.form("loopback")
        cluster.create_web_group(failback=False)
        cluster.command("net", "Cluster Network 1", f"/ren:{PUBLIC}")
        cluster.command("net", "Cluster Network 2", f"/ren:{HEART}")
        yield cluster


@pytest.fixture
def cluster(cluster: Cluster) -> Cluster:
    """Both networks have both roles and work everywhere."""
    for name in (PUBLIC, HEART):
        cluster.command("net", name, "/prop", "Role=3")
    everything_works(cluster)
    return cluster


def states(cluster: Cluster, network: str, *, on: Node) -> tuple[str, ...]:
    """The state of the network, and those of its interfaces by node, as a node shows them."""
    shown = cluster.ask("net", network, on=on) or [{"state": "no answer"}]
    lines = cluster.ask("netint", f"/network:{network}", on=on) or ()
    return (shown[0]["state"], *(line["state"] for line in lines))


def wait_states(cluster: Cluster, network: str, *expected: str, on: Node | None = None) -> None:
    seen: list[tuple[str, ...]] = [()]

    def fits() -> bool:
        seen[0] = states(cluster, network, on=on or cluster.lab[2])
        return seen[0] == expected

    try:
        eventually(fits, f"{network} is {expected}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {seen[0]}") from None


def everything_works(cluster: Cluster) -> None:
    for node in cluster.lab.nodes:
        for name in (PUBLIC, HEART):
            wait_states(cluster, name, "Up", "Up", "Up", "Up", on=node)


def events(cluster: Cluster) -> str:
    return cluster.command("events", "/limit:200", on=cluster.lab[2])


@pytest.mark.parametrize("way", ["cut", "mute"])
@pytest.mark.parametrize("network", [0, 1])
def test_nodes_survive_the_loss_of_one_network(cluster: Cluster, network: int, way: str) -> None:
    """Nobody is declared down; and only the loss of the network with the clients moves their group."""
    first, second, _ = cluster.lab.nodes
    name = (PUBLIC, HEART)[network]
    deaths = events(cluster).count("went down")
    worker = cluster.process(first, WORKER)
    assert worker is not None

    getattr(first, way)(network)
    wait_states(cluster, name, "Up", "Failed", "Up", "Up")
    if network == 0:
        cluster.wait_group(second.name, on=second)
        assert cluster.traces(first) == []
    assert cluster.node_states(second) == {"NODE1": "Up", "NODE2": "Up", "NODE3": "Up"}

    first.heal(network)
    everything_works(cluster)
    if network == 1:
        assert cluster.process(first, WORKER) == worker, "the loss of a network without clients moves nothing"
        cluster.wait_group(first.name, on=second)
    assert events(cluster).count("went down") == deaths


def test_the_history_says_why(cluster: Cluster) -> None:
    """A network that is lost silently is no failure of any resource; the group moves all the same, and says why."""
    first, second, _ = cluster.lab.nodes
    first.mute(0)
    cluster.wait_group(second.name, on=second)
    told = events(cluster)
    assert f"NODE1 has lost {PUBLIC} (NODE1 reaches nobody on {PUBLIC}, where others reach each other)" in told
    assert f"The interface of node NODE1 on network {PUBLIC} failed" in told
    explained = cluster.command("explain", "WEB", on=second)
    assert f"NODE1 can take it as the last resort: NODE1 has lost {PUBLIC}" in explained

    first.heal(0)
    everything_works(cluster)
    assert f"The interface of node NODE1 on network {PUBLIC} is up." in events(cluster)


def test_a_network_that_is_cut_everywhere_moves_nothing(cluster: Cluster) -> None:
    """Where the clients reach nobody, a move would gain nothing; the other network keeps the nodes together."""
    first, second, _ = cluster.lab.nodes
    worker = cluster.process(first, WORKER)
    for node in cluster.lab.nodes:
        node.mute(0)
    wait_states(cluster, PUBLIC, "Partitioned", "Unreachable", "Unreachable", "Unreachable")
    assert cluster.node_states(second) == {"NODE1": "Up", "NODE2": "Up", "NODE3": "Up"}
    assert cluster.process(first, WORKER) == worker
    for node in cluster.lab.nodes:
        node.heal(0)
    everything_works(cluster)
    cluster.wait_group(first.name, on=second)


def test_roles(cluster: Cluster) -> None:
    """A network of clients alone carries no heartbeats: nobody misses them there. The last internal one stays."""
    first, second, _ = cluster.lab.nodes
    cluster.command("net", PUBLIC, "/prop", "Role=2")
    assert first.cluster("net", HEART, "/prop", "Role=0").returncode != 0
    assert cluster.ask("cluster", "/listnetpri", on=first) == [HEART]
    worker = cluster.process(first, WORKER)
    first.mute(0)
    before = cluster.ask("net", PUBLIC, on=second)
    cluster.command("net", HEART, "/prop", "Description=seen by all")
    assert cluster.ask("net", PUBLIC, on=second) == before
    assert cluster.process(first, WORKER) == worker
    first.heal(0)


def test_ping_targets(cluster: Cluster) -> None:
    """A router that answers no more is a network lost, though the link is up and nobody sends heartbeats there."""
    first, second, _ = cluster.lab.nodes
    cluster.command("net", PUBLIC, "/prop", "Role=2")
    cluster.command("net", PUBLIC, "/priv", f"PingTargets={CLIENT_ADDRESS}")
    wait_states(cluster, PUBLIC, "Up", "Up", "Up", "Up")
    first.mute(0)
    wait_states(cluster, PUBLIC, "Up", "Failed", "Up", "Up")
    cluster.wait_group(second.name, on=second)
    assert f"no ping target answers ({CLIENT_ADDRESS})" in events(cluster)
    first.heal(0)
    wait_states(cluster, PUBLIC, "Up", "Up", "Up", "Up")
    cluster.command("net", PUBLIC, "/priv:PingTargets", "/usedefault")


def test_screens(cluster: Cluster) -> None:
    """What an administrator sees, as text."""
    first, second, _ = cluster.lab.nodes
    first.cut(1)
    wait_states(cluster, HEART, "Up", "Failed", "Up", "Up")
    done = second.cluster("netint", "/network:Heart")
    shown = done.stdout + done.stderr
    assert [line.split()[-1] for line in shown.splitlines() if line.startswith("NODE")] == ["Failed", "Up", "Up"]
    assert "Heart - NODE1 has failed: the link eth1 is down or has no carrier." in shown
    properties = cluster.ask("net", HEART, "/prop", on=second)
    values = {line["name"]: line["value"] for line in properties}
    assert (values["Address"], values["AddressMask"], values["Role"]) == ("10.78.0.0", "255.255.255.0", 3)
    first.heal(1)
    everything_works(cluster)

"""A network of IPv6 carries everything that one of IPv4 carries: joining, heartbeats, the log, link state, ping targets
and remote administration."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clussvc.admin.client import connect
from tests.cluster.formation import Cluster
from tests.cluster.lab import OTHER_NETWORK_6, Lab, Node, eventually
from tests.cluster.test_multicast import MANY, rises

HEART, PUBLIC = "Heart", "Public"
SIX, FOUR = 1, 0
"""The networks of the lab; the cluster has that of IPv6 as its first."""


@pytest.fixture(scope="module")
def formed(folder: Path) -> Iterator[Cluster]:
    """Three nodes that were joined through IPv6, the first of their addresses."""
    with Lab(folder=folder, networks=2, ipv6=True) as lab:
        cluster = Cluster(lab)
        for node in lab.nodes[1:]:
            # Whoever could only be reached by IPv4 would not get in.
            node.mute(FOUR)
        cluster.form("loopback")
        for node in lab.nodes[1:]:
            node.heal(FOUR)
        cluster.command("net", "Cluster Network 1", f"/ren:{HEART}")
        cluster.command("net", "Cluster Network 2", f"/ren:{PUBLIC}")
        yield cluster


@pytest.fixture
def cluster(formed: Cluster) -> Cluster:
    """Both networks have both roles and work everywhere."""
    for name in (HEART, PUBLIC):
        formed.command("net", name, "/prop", "Role=3")
    everything_works(formed)
    return formed


def wait_states(cluster: Cluster, network: str, *expected: str, on: Node) -> None:
    """The state of the network, and those of its interfaces by node."""

    def look() -> tuple[str, ...]:
        shown = cluster.ask("net", network, on=on) or [{"state": "no answer"}]
        lines = cluster.ask("netint", f"/network:{network}", on=on) or ()
        return (shown[0]["state"], *(line["state"] for line in lines))

    eventually(lambda: look() == expected, f"{network} is {expected}, and not {look()}")


def everything_works(cluster: Cluster) -> None:
    for node in cluster.lab.nodes:
        for name in (HEART, PUBLIC):
            wait_states(cluster, name, "Up", "Up", "Up", "Up", on=node)


def heartbeats(node: Node) -> int:
    """How many its service has accepted."""
    with connect(socket_path=str(node.socket)) as client:
        counts = client.call("Cluster", "statistics")
    return int(counts["heartbeats_received"])


def test_the_network_is_known(cluster: Cluster) -> None:
    """Its subnet, and the adapters of the nodes on it."""
    first = cluster.lab[1]
    values = {line["name"]: line["value"] for line in cluster.ask("net", HEART, "/prop", on=first)}
    assert (values["Address"], values["AddressMask"]) == (f"{OTHER_NETWORK_6}:", "64")
    lines = cluster.ask("netint", f"/network:{HEART}", on=first)
    assert [(line["address"], line["adapter"]) for line in lines] == [
        (f"{OTHER_NETWORK_6}:{10 + number}", "eth1") for number in (1, 2, 3)
    ]


def test_heartbeats_and_the_log_by_ipv6_alone(cluster: Cluster) -> None:
    """Nothing but clients is left to the other network, and then not even these: nobody misses anybody."""
    first, second, third = cluster.lab.nodes
    cluster.command("net", PUBLIC, "/prop", "Role=2")
    deaths = cluster.command("events", "/limit:200").count("went down")
    for node in cluster.lab.nodes:
        node.mute(FOUR)
    before = heartbeats(second)
    for number in range(3):
        cluster.command("group", f"G{number}", "/create", on=third)
        cluster.command("group", f"G{number}", "/delete", on=first)
    eventually(lambda: heartbeats(second) >= before + 30, "heartbeats come")
    eventually(lambda: rises(second)[0] <= MANY // 3, "multicast replaces unicast")
    assert cluster.node_states(second) == {"NODE1": "Up", "NODE2": "Up", "NODE3": "Up"}
    assert deaths == cluster.command("events", "/limit:200").count("went down")
    for node in cluster.lab.nodes:
        node.heal(FOUR)


@pytest.mark.parametrize("way", ["cut", "mute"])
def test_its_loss_is_seen(cluster: Cluster, way: str) -> None:
    """By the link, or by what is not heard any more; and the node stays up by the other network."""
    first, second, _ = cluster.lab.nodes
    getattr(first, way)(SIX)
    wait_states(cluster, HEART, "Up", "Failed", "Up", "Up", on=second)
    why = {"cut": "the link eth1 is down or has no carrier", "mute": "NODE1 reaches nobody on Heart"}[way]
    eventually(lambda: why in cluster.command("events", "/limit:50", on=second), f"the history says: {why}")
    assert cluster.node_states(second) == {"NODE1": "Up", "NODE2": "Up", "NODE3": "Up"}
    first.heal(SIX)
    everything_works(cluster)


def test_ping_targets(cluster: Cluster) -> None:
    """The third node is the router here, which its own kernel answers for."""
    first, second, third = cluster.lab.nodes
    target = third.homes[SIX]
    cluster.command("net", HEART, "/prop", "Role=2")
    cluster.command("net", HEART, "/priv", f"PingTargets={target}")
    first.mute(SIX)
    wait_states(cluster, HEART, "Up", "Failed", "Up", "Up", on=second)
    why = f"no ping target answers ({target})"
    eventually(lambda: why in cluster.command("events", "/limit:50", on=second), f"the history says: {why}")
    first.heal(SIX)
    everything_works(cluster)
    refused = first.cluster("net", HEART, "/priv", "PingTargets=10.77.0.1")
    assert "no node has one of these on this network" in refused.stderr
    cluster.command("net", HEART, "/priv:PingTargets", "/usedefault")


def test_remote_administration(cluster: Cluster) -> None:
    """An address of IPv6 stands in brackets."""
    first, second, _ = cluster.lab.nodes
    folder = cluster.lab.folder / "olga"
    cluster.command("admincert", "olga", f"/folder:{folder}", "/role:read-only")
    words = (sys.executable, "-m", "cluster_cli.main", f"[{first.homes[SIX]}]:3344", "node")
    done = second.run("env", f"CLUSSVC_CERTS={folder}", *words)
    assert done.returncode == 0, done.stderr
    assert "NODE3" in done.stdout

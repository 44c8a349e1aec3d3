"""Heartbeats by multicast, chosen and given up by the nodes themselves."""

from __future__ import annotations

from clussvc.admin.client import connect
from tests.cluster.formation import Cluster
from tests.cluster.lab import Node, eventually

MANY = 30


def sent(node: Node) -> tuple[int, int]:
    """Heartbeats that its service has sent by unicast and by multicast."""
    with connect(socket_path=str(node.socket)) as client:
        counts = client.call("Cluster", "statistics")
    return counts["heartbeats_sent"], counts["heartbeats_sent.multicast"]


def rises(node: Node) -> tuple[int, int]:
    """By how much each has risen when MANY more heartbeats were sent by multicast."""
    before = sent(node)
    eventually(lambda: sent(node)[1] >= before[1] + MANY, "heartbeats go on")
    after = sent(node)
    return after[0] - before[0], after[1] - before[1]


def test_multicast_replaces_unicast_where_it_arrives_and_only_there(cluster: Cluster) -> None:
    """A switch that forwards none any more harms nobody: unicast is used again before anybody is missed."""
    cluster.wait_all_up()
    first = cluster.lab[1]
    eventually(lambda: rises(first)[0] <= MANY // 3, "unicast is hardly used")
    deaths = cluster.command("events", "/limit:200").count("went down")
    for node in cluster.lab.nodes:
        cluster.lab.on_switch("bridge", "link", "set", "dev", node.port, "mcast_flood", "off")
    try:
        eventually(lambda: rises(first)[0] >= MANY, "unicast is used again")
        cluster.wait_all_up()
    finally:
        for node in cluster.lab.nodes:
            cluster.lab.on_switch("bridge", "link", "set", "dev", node.port, "mcast_flood", "on")
    eventually(lambda: rises(first)[0] <= MANY // 3, "unicast is hardly used again")

    assert deaths == cluster.command("events", "/limit:200").count("went down")

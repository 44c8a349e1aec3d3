"""Nodes that live but cannot take part: cut off, frozen, in the minority. Nothing may run twice."""

from __future__ import annotations

import pytest

from tests.cluster.formation import GROUP, WORKER, Cluster
from tests.cluster.lab import VIP, eventually


@pytest.mark.parametrize("way", ["cut", "mute"])
def test_an_owner_that_is_cut_off_lets_go(cluster: Cluster, way: str) -> None:
    """It terminates its resources by itself while the others take them over, and rejoins when the network is back."""
    first, second, _ = cluster.lab.nodes
    getattr(first, way)()
    cluster.wait_group(second.name, on=second)

    # The others waited until it must have let go, so there is nothing to wait for here.
    assert [] == cluster.traces(first)
    assert cluster.traces(second)
    assert cluster.node_states(second)[first.name] == "Down"

    first.heal()
    cluster.wait_all_up()
    cluster.wait_group(first.name, on=second)
    assert [] == cluster.traces(second)


def test_a_cut_between_the_other_two_moves_nothing(cluster: Cluster) -> None:
    """A node without groups is cut off: the owner stays in the majority."""
    first, _, third = cluster.lab.nodes
    before = cluster.process(first, WORKER)
    third.cut()
    cluster.wait_nodes({"NODE1": "Up", "NODE2": "Up", "NODE3": "Down"}, on=first)

    assert before is not None
    assert before == cluster.process(first, WORKER)
    third.heal()
    cluster.wait_all_up()


def test_a_node_without_quorum_refuses_commands(cluster: Cluster) -> None:
    """It says why, with a non-zero status, and nothing of the command is done later."""
    third = cluster.lab[3]
    third.cut()
    cluster.wait_nodes({"NODE1": "Up", "NODE2": "Up", "NODE3": "Down"}, on=cluster.lab[1])
    for words in (("group", "LATER", "/create"), ("group", GROUP, f"/moveto:{third.name}")):
        done = third.cluster(*words)
        assert done.returncode != 0, f"{words} was accepted: {done.stdout}"
        assert "quorum" in (done.stdout + done.stderr).lower()
    third.heal()
    cluster.wait_all_up()
    cluster.wait_group("NODE1", on=third)
    groups = {group["name"] for group in cluster.ask("group", on=third)}
    assert "LATER" not in groups


def test_without_any_majority_everything_stops_and_comes_back(cluster: Cluster) -> None:
    """Three nodes that cannot see each other: none may run the group, until two meet again."""
    first, second, third = cluster.lab.nodes
    for node in (first, second, third):
        node.mute()
    eventually(lambda: not cluster.traces(first), "the owner lets go")
    for node in (first, second, third):
        assert [] == cluster.traces(node)

    second.heal()
    third.heal()
    # Until the two have met, each shows what it knew last: the group on NODE1.
    eventually(lambda: cluster.owner(on=second) is not first, "the group runs on one of the two that met")
    assert cluster.traces(cluster.owner(on=second))
    assert [] == cluster.traces(first)


def test_a_frozen_service_is_replaced(cluster: Cluster) -> None:
    """Its monitor ends the resources though nobody tells it to; thawed, the service finds itself out and rejoins."""
    first, second, _ = cluster.lab.nodes
    first.freeze_service()
    cluster.wait_group(second.name, on=second)

    assert [] == cluster.traces(first)

    first.thaw()
    cluster.wait_all_up()
    cluster.wait_group(first.name, on=second)


def test_a_machine_that_is_paused_wakes_up_into_another_world(cluster: Cluster) -> None:
    """A virtual machine that is paused neither runs nor answers; its resources end when it goes on."""
    first, second, _ = cluster.lab.nodes
    first.mute()
    first.freeze()
    cluster.wait_group(second.name, on=second)
    worker = cluster.process(first, WORKER)
    assert worker is not None, "a frozen machine cannot have let go yet"

    first.thaw()
    eventually(lambda: not cluster.traces(first), "the machine lets go when it wakes up")
    first.heal()
    cluster.wait_all_up()
    cluster.wait_group(first.name, on=second)
    cluster.pass_over_worker()


def test_a_frozen_owner_does_not_keep_the_address(cluster: Cluster) -> None:
    """All its processes stand still while its kernel goes on to answer for the address, until that runs out."""
    first, second, _ = cluster.lab.nodes
    first.freeze()
    cluster.wait_group(second.name, on=second)
    assert VIP not in first.addresses()

    first.thaw()
    eventually(lambda: not cluster.traces(first), "the machine lets go when it wakes up")
    cluster.wait_all_up()
    cluster.wait_group(first.name, on=second)
    cluster.pass_over_worker()


def test_a_service_that_dies_with_its_monitor_does_not_keep_the_address(cluster: Cluster) -> None:
    """Nobody is left who could remove it."""
    first, second, _ = cluster.lab.nodes
    first.kill_monitor()
    first.kill_service()
    cluster.wait_group(second.name, on=second)

    assert [] == cluster.traces(first)

"""Three nodes on three machines: forming, crashes, returns, planned moves."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from tests.cluster.formation import GROUP, WEB_RESOURCES, Cluster
from tests.cluster.lab import Probe, eventually
from tests.cluster.probe import longest_gap

ALL_ONLINE = dict.fromkeys(WEB_RESOURCES, "Online")


@pytest.fixture
def probe(cluster: Cluster) -> Iterator[Probe]:
    """A client that has been answered by NODE1 and asks on."""
    made = cluster.lab.probe()
    begun_s = time.monotonic()
    made.wait_answered(since_s=begun_s)
    yield made
    made.end()


def test_tokens_form_a_cluster_of_three(cluster: Cluster) -> None:
    """Every node knows all of it, and the group is where it was brought online."""
    for node in cluster.lab.nodes:
        status = cluster.ask("cluster", on=node)
        assert (3, 3, 2) == (status["nodes"], status["votes_held"], status["votes_needed"])
        assert ALL_ONLINE == cluster.resource_states(on=node)
    assert cluster.traces(cluster.lab[1])
    assert [] == cluster.traces(cluster.lab[2]) + cluster.traces(cluster.lab[3])


def test_a_token_works_once(cluster: Cluster) -> None:
    """Another machine that comes with a used token is refused, and nothing of it is written."""
    other = cluster.lab[3].folder / "other"
    done = cluster.lab[3].run(
        *(sys.executable, "-m", "clussvc.service.main", "join", cluster.used_tokens[0], "--node", "NODE9"),
        *("--address", cluster.lab[3].address, "--config", str(other / "node.toml"), "--data", str(other / "data")),
        *("--socket", str(other / "admin.sock")),
    )

    assert done.returncode == 1
    assert "token" in done.stderr
    assert not (other / "node.toml").exists()
    assert "NODE9" not in cluster.node_states(cluster.lab[1])


def test_a_second_cluster_is_refused_on_a_member(cluster: Cluster) -> None:
    """The message names the cluster that the machine is in."""
    node = cluster.lab[2]
    done = node.run(
        *(sys.executable, "-m", "clussvc.service.main", "create", "--cluster", "OTHER", "--node", node.name),
        *("--address", node.address, "--config", str(node.config), "--data", str(node.data)),
        *("--socket", str(node.socket)),
    )

    assert done.returncode == 1
    assert "DEMO" in done.stderr


def test_the_owner_crashes_and_returns(cluster: Cluster, probe: Probe) -> None:
    """The next preferred owner takes over; the old one rejoins, and the group fails back to it."""
    first, second, _ = cluster.lab.nodes
    fault_s = time.monotonic()
    first.crash()
    cluster.wait_group(second.name, on=second)
    probe.wait_answered(since_s=fault_s)
    gap = longest_gap(probe.attempts(), since_s=fault_s)

    assert gap is not None
    assert (first.name, second.name) == (gap.before.node, gap.after.node)
    assert cluster.node_states(second)[first.name] == "Down"
    assert ALL_ONLINE == cluster.resource_states(on=second)
    assert f"Group {GROUP} moved from {first.name} to {second.name}" in cluster.command("events", on=second)

    return_s = time.monotonic()
    first.boot()
    first.start_service()
    cluster.wait_all_up()
    cluster.wait_group(first.name, on=second)
    probe.wait_answered(since_s=return_s)
    assert [] == cluster.traces(second)


def test_the_coordinator_crashes(cluster: Cluster, probe: Probe) -> None:
    """Another node leads; a group that was elsewhere never notices."""
    watcher = cluster.lab[1]
    eventually(lambda: cluster.coordinator(on=watcher), "there is a coordinator")
    leader = cluster.lab.named(cluster.coordinator(on=watcher) or "")
    owner = next(node for node in cluster.lab.nodes if node is not leader)
    cluster.command("group", GROUP, f"/moveto:{owner.name}", "/wait:60")
    moved_s = time.monotonic()
    leader.crash()
    cluster.wait_nodes({node.name: "Down" if node is leader else "Up" for node in cluster.lab.nodes}, on=owner)

    assert cluster.coordinator(on=owner) not in (None, leader.name)
    cluster.command("group", "AFTER", "/create", on=owner)
    cluster.command("group", "AFTER", "/delete", on=owner)
    probe.wait_answered(since_s=moved_s)
    assert {owner.name} == {
        attempt.node for attempt in probe.attempts() if attempt.answer and attempt.begun_s > moved_s
    }


def test_a_planned_move(cluster: Cluster, probe: Probe) -> None:
    """It ends on the node that was named, and nothing stays behind."""
    first, _, third = cluster.lab.nodes
    command_s = time.monotonic()
    shown = cluster.command("group", GROUP, f"/moveto:{third.name}", "/wait:60")

    assert third.name in shown and "Online" in shown
    assert [] == cluster.traces(first)
    probe.wait_answered(since_s=command_s)
    assert probe.attempts()[-1].node == third.name


def test_a_node_is_stopped_in_order(cluster: Cluster, probe: Probe) -> None:
    """Its group is handed over before its service ends; nobody had to declare it down."""
    first, second, _ = cluster.lab.nodes
    stop_s = time.monotonic()
    cluster.command("node", first.name, "/stop", "/wait:60", on=second)
    first.wait_service_ended()

    cluster.wait_group(second.name, on=second)
    assert cluster.node_states(second)[first.name] == "Down"
    assert [] == cluster.traces(first)
    assert [] == first.monitors()
    probe.wait_answered(since_s=stop_s)
    assert "heard nothing" not in cluster.command("events", "/limit:6", on=second)

    first.start_service()
    cluster.wait_group(first.name, on=second)


def test_a_paused_node_is_passed_over(cluster: Cluster) -> None:
    """It keeps what it has and takes nothing more."""
    first, second, third = cluster.lab.nodes
    cluster.command("node", second.name, "/pause")
    try:
        first.crash()
        cluster.wait_group(third.name, on=third)
        assert cluster.node_states(third)[second.name] == "Paused"
    finally:
        cluster.command("node", second.name, "/resume", on=third)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("group", "NONE", "/moveto:NODE2"), "NONE"),
        (("group", GROUP, "/moveto:NODE9"), "NODE9"),
        (("group", GROUP, "/prop", "FailoverThreshold=many"), "FailoverThreshold"),
        (("res", WEB_RESOURCES[0], f"/adddep:{WEB_RESOURCES[1]}"), WEB_RESOURCES[1]),
        (("res", "X", "/create", f"/group:{GROUP}", "/type:No Such Type"), "No Such Type"),
        (("group", GROUP, "/create"), GROUP),
    ],
)
def test_bad_input_changes_nothing(cluster: Cluster, words: tuple[str, ...], named: str) -> None:
    """The message names what is wrong; the group runs on where it is."""
    before = cluster.ask("group", GROUP, "/prop", on=cluster.lab[1])
    done = cluster.lab[1].cluster(*words)

    assert done.returncode != 0
    assert named in done.stdout + done.stderr
    assert before == cluster.ask("group", GROUP, "/prop", on=cluster.lab[1])
    assert set(WEB_RESOURCES) == set(cluster.resource_states(on=cluster.lab[1]))

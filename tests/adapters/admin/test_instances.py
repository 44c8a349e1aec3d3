"""What administration shows of parallel groups: states derived from instances, what still moves, and what waits."""

from __future__ import annotations

from typing import Any

from clussvc.admin import instances
from clussvc.global_update.update import (
    GroupReleased,
    MoveGroup,
    NodeDown,
    OnlineGroup,
    PauseNode,
    SetGroupProperties,
)
from clussvc.model.ids import NodeId
from clussvc.model.reports import Report
from clussvc.model.states import MoveCause, NodePhase, ResourceState
from clussvc.model.view import LiveView
from tests.unit.global_update.world import (
    N1,
    N2,
    N3,
    SITE,
    SITE_1,
    SITE_2,
    SQL,
    WEB,
    WEB_1,
    World,
    parallel_nodes,
    three_nodes,
)

VIEW = LiveView(
    node=N1,
    phase=NodePhase.MEMBER,
    incarnation=1,
    holds_quorum=True,
    quorum_lease_ms=1,
    votes_held=3,
    votes_needed=2,
    coordinator=N1,
    index=1,
    peers={},
)


def group(world: World, on: NodeId | None = None) -> dict[str, Any]:
    assert world.config is not None
    return instances.group_of(world.config, world.group(WEB), world.config.resources_of(WEB), on)


def resource(world: World) -> dict[str, Any]:
    assert world.config is not None
    return instances.resource_of(world.config, world.resource(SITE), VIEW)


def down(world: World, node: NodeId) -> World:
    assert world.config is not None
    incarnation, version = world.node(node).incarnation, world.config.voters_version
    return world.do(NodeDown(node=node, incarnation=incarnation, voters_version=version, because="silent"))


def test_states_are_derived_from_all_instances() -> None:
    """By the rule for the resources of one group."""
    world = parallel_nodes().do(OnlineGroup(group=WEB))
    assert ("Offline", "Offline") == (group(world)["state"], resource(world)["state"])
    world.report(SITE_1, ResourceState.ONLINE_PENDING)
    assert ("Pending", "Online Pending", 129) == (
        group(world)["state"],
        resource(world)["state"],
        resource(world)["state_number"],
    )
    world.report(SITE_1, ResourceState.ONLINE)
    assert ("Partially Online", "Partially Online", -1) == (
        group(world)["state"],
        resource(world)["state"],
        resource(world)["state_number"],
    )
    world.report(SITE_2, ResourceState.ONLINE)
    assert ("Online", 0, "Online", 2) == (
        group(world)["state"],
        group(world)["state_number"],
        resource(world)["state"],
        resource(world)["state_number"],
    )
    world.report(SITE_2, ResourceState.FAILED, "out of memory")
    shown = group(world)
    assert ("Failed", ["SITE#2"], 2, 1) == (shown["state"], shown["failed"], shown["wanted"], shown["online"])
    assert ("Failed", "out of memory") == (resource(world)["state"], resource(world)["detail"])


def test_an_instance_that_no_node_can_take_waits_and_does_not_move() -> None:
    """Whoever waits for the group to settle does not wait for a dead node."""
    world = parallel_nodes().do(OnlineGroup(group=WEB)).report(SITE_2, ResourceState.ONLINE)
    down(world, N1)
    assert group(world)["moving"], "the spare can take it"
    world.do(PauseNode(node=N3))
    shown = group(world)
    assert (False, "Online", 1, 1) == (shown["moving"], shown["state"], shown["wanted"], shown["online"])
    assert ["WEB#1", "WEB#2"] == [each["name"] for each in shown["instances"]]
    assert ["WEB#2"] == [each["name"] for each in group(world, N2)["instances"]]


def test_what_is_under_way() -> None:
    """A group that becomes parallel, and an instance on its way."""
    becoming = three_nodes().do(SetGroupProperties(group=WEB, common={"GroupType": "parallel"}, instances=True))
    assert group(becoming)["moving"] and not group(becoming)["instances"]
    becoming.do(GroupReleased(group=WEB, epoch=1, node=N1, because="a test"))
    assert group(becoming)["moving"], "three instances look for a node"

    world = parallel_nodes()
    assert not group(world)["moving"]
    world.do(MoveGroup(group=WEB_1, to=N3, cause=MoveCause.ADMIN, because="a test"))
    assert group(world)["moving"] and resource(world)["moving"]


def test_an_instance_by_its_node() -> None:
    """Of an ordinary group, the group itself, if it is there."""
    world = parallel_nodes()
    config = world.config
    assert config is not None
    found = instances.instance_on(config, world.group(WEB), world.node(N2))
    copy = instances.copy_on(config, world.resource(SITE), world.node(N2))
    assert not isinstance(found, Report) and not isinstance(copy, Report)
    assert ("WEB#2", "SITE#2") == (found.name, copy.name)
    refused = instances.copy_on(config, world.resource(SITE), world.node(N3))
    assert isinstance(refused, Report) and "WEB#1 on NODE1, WEB#2 on NODE2" in refused.message
    assert world.group(SQL) is instances.instance_on(config, world.group(SQL), world.node(N1))
    elsewhere = instances.instance_on(config, world.group(SQL), world.node(N2))
    assert isinstance(elsewhere, Report) and elsewhere.code == "not-on-node"

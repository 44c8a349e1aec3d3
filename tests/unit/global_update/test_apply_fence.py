"""Fence devices in the configuration, what a fenced node leaves behind, and quarantine."""

from __future__ import annotations

from typing import Any

import pytest

from clussvc.global_update.update import (
    ClearQuarantine,
    ConfirmNodeDown,
    CreateFenceDevice,
    DeleteFenceDevice,
    EvictNode,
    FencingFailed,
    GroupReleased,
    NodeDown,
    NodeFenced,
    NodeUp,
    RemoveNode,
    SetClusterProperties,
    SetFenceDeviceProperties,
    SetVoter,
    Update,
)
from clussvc.model.config import FenceDevice
from clussvc.model.ids import FenceDeviceId, NodeId
from clussvc.model.settings import FENCE_DEVICES_MAX

from .world import N1, N2, N3, SQL, World, three_nodes

IPMI = FenceDeviceId("ipmi")


def create(device: FenceDeviceId = IPMI, name: str = "IPMI2", node: NodeId = N2, **more: Any) -> CreateFenceDevice:
    return CreateFenceDevice(device=device, name=name, node=node, agent=more.pop("agent", "fence_ipmilan"), **more)


@pytest.fixture
def world() -> World:
    return three_nodes().do(create(private={"ip": "192.0.2.9"}))


def device(world: World) -> FenceDevice:
    assert world.config is not None
    return world.config.fence_devices[IPMI]


def test_a_device_has_defaults_that_can_be_changed(world: World) -> None:
    made = device(world)
    assert (made.name, made.node, made.action, made.order, made.timeout_ms, made.verify) == (
        *("IPMI2", N2, "reboot", 100, 20_000),
        True,
    )
    world.do(
        SetFenceDeviceProperties(
            device=IPMI, common={"Action": "OFF", "Order": 1, "Verify": 0}, private={"ip": None, "plug": "3"}
        )
    )
    made = device(world)
    assert (made.action, made.order, made.verify, made.private) == ("off", 1, False, {"plug": "3"})
    assert world.config is not None
    assert world.config.fence_devices_of(N2) == [made]
    assert world.config.fence_device_named("ipmi2") is made
    world.do(DeleteFenceDevice(device=IPMI))
    assert world.config.fence_devices == {}


@pytest.mark.parametrize(
    ("update", "code"),
    [
        (create(), "object-exists"),
        (create(FenceDeviceId("b"), "ipmi2"), "object-exists"),
        (create(FenceDeviceId("b"), ""), "bad-name"),
        (create(FenceDeviceId("b"), "B", NodeId(9)), "node-not-found"),
        (create(FenceDeviceId("b"), "B", agent="fence_x; reboot"), "bad-property"),
        (create(FenceDeviceId("b"), "B", agent=""), "bad-property"),
        (create(FenceDeviceId("b"), "B", common={"Action": "explode"}), "bad-property"),
        (create(FenceDeviceId("b"), "B", common={"Timeout": 5}), "bad-property"),
        (create(FenceDeviceId("b"), "B", common={"Colour": "red"}), "unknown-property"),
        (create(FenceDeviceId("b"), "B", private={"action": "on"}), "bad-property"),
        (create(FenceDeviceId("b"), "B", private={"ip": "1\naction=on"}), "bad-property"),
        (create(FenceDeviceId("b"), "B", private={"i=p": "1"}), "bad-property"),
        (create(FenceDeviceId("b"), "B", private={"ip": ("a", "b")}), "bad-property"),
        (SetFenceDeviceProperties(device=IPMI, common={"Agent": "x"}), "read-only-property"),
        (SetFenceDeviceProperties(device=FenceDeviceId("b")), "fence-device-not-found"),
        (DeleteFenceDevice(device=FenceDeviceId("b")), "fence-device-not-found"),
        (NodeFenced(node=NodeId(9), incarnation=1, because="x"), "node-not-found"),
        (FencingFailed(node=NodeId(9), incarnation=1, because="x"), "node-not-found"),
        (FencingFailed(node=N2, incarnation=0, because="x"), "stale"),
        (ClearQuarantine(node=NodeId(9)), "node-not-found"),
        (ClearQuarantine(node=N2), "node-not-quarantined"),
    ],
)
def test_refusals_change_nothing(world: World, update: Update, code: str) -> None:
    assert world.config is not None
    before = world.config
    refusal = world.send(update).refusal
    assert refusal is not None
    assert refusal.code == code
    assert (world.config.fence_devices, world.config.nodes) == (before.fence_devices, before.nodes)


def test_there_are_not_endlessly_many(world: World) -> None:
    for number in range(FENCE_DEVICES_MAX - 1):
        world.do(create(FenceDeviceId(f"d{number}"), f"D{number}"))
    refusal = world.send(create(FenceDeviceId("more"), "More")).refusal
    assert refusal is not None
    assert refusal.code == "limit-reached"


def test_a_fenced_node_is_down_and_has_released_everything(world: World) -> None:
    """Whatever the set of voters was when it was decided: no silence was counted."""
    owned = world.group(SQL)
    world.do(GroupReleased(group=SQL, epoch=owned.epoch, node=N1, because="a test")).assign(SQL, N2)
    world.do(FencingFailed(node=N2, incarnation=1, because="no answer"))
    assert world.node(N2).fence_failure == "no answer"
    assert [record.name for record in world.records] == ["node.fencing-failed"]
    world.do(FencingFailed(node=N2, incarnation=1, because="no answer"))
    assert world.records == ()
    world.do(NodeFenced(node=N2, incarnation=1, because="fence device IPMI2 switched it off"))
    assert not world.node(N2).up
    assert world.node(N2).fence_failure == ""
    assert world.group(SQL).released
    before = world.config
    world.do(NodeFenced(node=N2, incarnation=1, because="an administrator's device did it as well"))
    assert world.config is not None
    assert before is not None
    assert (world.config.nodes, world.config.groups) == (before.nodes, before.groups)
    world.up(N2)
    world.do(NodeFenced(node=N2, incarnation=1, because="too late"))
    assert world.node(N2).up


def test_an_evicted_node_takes_its_devices_along(world: World) -> None:
    world.do(ConfirmNodeDown(node=N2), EvictNode(node=N2))
    world.do(SetVoter(node=N2, voter=False, voters_version=3), RemoveNode(node=N2))
    assert world.config is not None
    assert world.config.fence_devices == {}


# --- quarantine ---------------------------------------------------------------------------------------------------


def flapping(threshold: int = 2, **more: int) -> World:
    return three_nodes().do(SetClusterProperties(common={"QuarantineThreshold": threshold, **more}))


def lose(world: World, node: NodeId = N2) -> None:
    known = world.node(node)
    assert world.config is not None
    version = world.config.voters_version
    world.do(NodeDown(node=node, incarnation=known.incarnation, voters_version=version, because="silence"))


def test_nobody_is_kept_out_by_default() -> None:
    world = three_nodes()
    for _ in range(20):
        lose(world)
        world.up(N2)
    assert world.node(N2).losses == ()


def test_who_is_lost_too_often_is_kept_out() -> None:
    world = flapping()
    lose(world)
    world.up(N2)
    lose(world)
    assert [record.name for record in world.records] == ["node.down", "node.quarantined"]
    known = world.node(N2)
    again = NodeUp(node=N2, incarnation=known.incarnation, boot=known.boot + 1, attempt=1)
    refusal = world.send(again).refusal
    assert refusal is not None
    assert refusal.code == "node-quarantined"
    world.do(ClearQuarantine(node=N2))
    world.up(N2)
    assert (world.node(N2).losses, world.node(N2).quarantined_until_ms) == ((), 0)


def test_a_stop_is_no_loss() -> None:
    world = flapping(1)
    stop = NodeDown(node=N2, incarnation=1, voters_version=3, because="it ends", stopped=True)
    world.do(stop)
    world.up(N2)
    assert world.node(N2).up


def test_a_restart_that_nobody_noted_is_a_loss() -> None:
    """It asks under a new boot although the log calls it up: its crash was quicker than the silence."""
    world = flapping()
    world.up(N1)
    assert len(world.node(N1).losses) == 1
    world.up(N1)
    assert not world.node(N1).up
    assert world.node(N1).quarantined_until_ms
    assert world.group(SQL).released


def test_old_losses_do_not_count() -> None:
    """Each change in this world comes a millisecond after the other."""
    world = flapping(3, QuarantinePeriod=1)
    lose(world)
    world.up(N2)
    for _ in range(1_000):
        world.send(SetClusterProperties())
    lose(world)
    world.up(N2)
    assert len(world.node(N2).losses) == 1


def test_it_ends_by_itself() -> None:
    world = flapping(1, QuarantineDuration=1)
    lose(world)
    for _ in range(1_000):
        world.send(SetClusterProperties())
    world.up(N2)
    assert (world.node(N2).losses, world.node(N2).quarantined_until_ms) == ((), 0)


def test_the_last_one_is_not_kept_out() -> None:
    """A flapping node is better than none."""
    world = flapping(1)
    for node in (N1, N2, N3):
        lose(world, node)
    world.up(N2)
    assert world.node(N2).up

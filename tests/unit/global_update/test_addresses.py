"""Addresses of one node, of all hosts, and of the nodes themselves: no address is claimed twice."""

from __future__ import annotations

import pytest

from clussvc.global_update.update import CreateGroup, CreateResource, SetGroupProperties, SetResourceProperties
from clussvc.model.ids import GroupId, ResourceId
from clussvc.model.monitoring import PropertyValue
from tests.unit.global_update.world import World, three_nodes

VIP, FARM = ResourceId("vip"), ResourceId("farm")
HOSTS = ("NODE1 priority=1", "NODE2 priority=2")


def balancing(**private: PropertyValue) -> dict[str, PropertyValue]:
    return {"ClusterIPAddress": "192.0.2.10", "HostParameters": HOSTS, **private}


def created(resource: str, type_: str, private: dict[str, PropertyValue]) -> CreateResource:
    return CreateResource(
        resource=ResourceId(resource), name=resource, type=type_, group=GroupId("g"), private=dict(private)
    )


@pytest.fixture
def world() -> World:
    """A group with an address and a load-balanced cluster."""
    return three_nodes().do(
        CreateGroup(group=GroupId("g"), name="G"),
        created("vip", "IP Address", {"Address": "192.0.2.50", "SubnetMask": "24"}),
        created("farm", "Network Load Balancing", balancing()),
    )


@pytest.mark.parametrize(
    ("private", "whose"),
    [
        ({"ClusterIPAddress": "192.0.2.50"}, "'vip'"),
        ({"VirtualIPAddresses": ("192.0.2.51/24", "192.0.2.50/24")}, "'vip'"),
        ({"ClusterIPAddress": "192.0.2.1"}, "NODE1"),
    ],
)
def test_a_virtual_address_belongs_to_all_hosts_alone(
    world: World, private: dict[str, PropertyValue], whose: str
) -> None:
    """Neither an IP Address nor a node has it."""
    before = world.config
    refusal = world.send(SetResourceProperties(resource=FARM, private=private)).refusal

    assert refusal is not None
    assert ("address-in-use", 5057) == (refusal.code, refusal.status)
    assert whose in refusal.message
    assert before is not None
    assert world.config is not None
    assert before.resources == world.config.resources


def test_an_ip_address_cannot_take_a_virtual_one(world: World) -> None:
    """Nor can a second cluster; other addresses are free, and the own ones may be said again."""
    taken = world.send(SetResourceProperties(resource=VIP, private={"Address": "192.0.2.10"})).refusal
    other = world.send(created("other", "Network Load Balancing", balancing())).refusal

    assert taken is not None
    assert "'farm'" in taken.message
    assert other is not None
    assert "address-in-use" == other.code
    world.do(
        SetResourceProperties(resource=VIP, private={"Address": "192.0.2.60"}),
        SetResourceProperties(resource=FARM, private={"ClusterIPAddress": "192.0.2.10"}),
    )


def test_instances_do_not_quarrel_with_their_pattern(world: World) -> None:
    """The copies in a parallel group have the address of the resource that they are copies of."""
    world.do(
        SetGroupProperties(group=GroupId("g"), common={"GroupType": "parallel"}, instances=True),
        SetResourceProperties(resource=FARM, private={"VirtualIPAddresses": ("192.0.2.11/24",)}),
    )

    assert world.config is not None
    copies = [each for each in world.config.resources.values() if each.instance_of == FARM]
    assert len(copies) == 3
    assert {("192.0.2.11/24",)} == {each.private["VirtualIPAddresses"] for each in copies}


def test_a_change_may_depend_on_what_was_read(world: World) -> None:
    """Of two commands that were decided on the same state the second one is refused, and says why."""
    stop_1, stop_2 = ("NODE1 stop",), ("NODE2 stop",)
    first = SetResourceProperties(resource=FARM, private={"HostStates": stop_1}, expected_private={"HostStates": None})
    second = SetResourceProperties(resource=FARM, private={"HostStates": stop_2}, expected_private={"HostStates": None})
    world.do(first)
    refusal = world.send(second).refusal

    assert refusal is not None
    assert "property-changed" == refusal.code
    assert world.config is not None
    assert stop_1 == world.config.resources[FARM].private["HostStates"]

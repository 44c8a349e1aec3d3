"""Networks in the configuration: what is set, what nodes tell, and the events that follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clussvc.global_update.apply import Applied
from clussvc.global_update.apply_network import PING_TARGETS_MAX
from clussvc.global_update.update import (
    AddJoinToken,
    AdmitNode,
    NodeDown,
    NodeUp,
    Rename,
    ReportInterfaces,
    SetNetworkPriorities,
    SetNetworkProperties,
)
from clussvc.model.config import PING_TARGETS, Config, Interface, Network
from clussvc.model.ids import NetworkId, NodeId

from .world import N1, N2, N3, SECRET, World, three_nodes

FIRST, SECOND = NetworkId("network-1"), NetworkId("network-2")


@pytest.fixture
def world() -> World:
    """NODE1 to NODE3, each on two networks."""
    made = three_nodes()
    assert made.config is not None
    nodes = {
        node.id: replace(node, addresses=(f"192.0.2.{node.id}", f"198.51.100.{node.id}"))
        for node in made.config.nodes.values()
    }
    made.config = replace(made.config, nodes=nodes)
    return made


def config_of(world: World) -> Config:
    assert world.config is not None
    return world.config


def network(world: World, which: NetworkId = FIRST) -> Network:
    return next(each for each in config_of(world).all_networks if each.id == which)


def tell(
    world: World,
    node: NodeId,
    *,
    trouble: str = "",
    silent: tuple[int, ...] = (),
    on: int = 0,
    incarnation: int | None = None,
    prefix: int = 24,
) -> Applied:
    """The node tells of its interfaces; the words are for the network at place ``on``."""
    known = world.node(node)
    interfaces = [
        Interface(position=place, address=address, prefix=prefix) for place, address in enumerate(known.addresses)
    ]
    told = replace(interfaces[on], trouble=trouble, silent=tuple(map(NodeId, silent)))
    interfaces[on] = told
    held = known.incarnation if incarnation is None else incarnation
    return world.send(ReportInterfaces(node=node, incarnation=held, interfaces=tuple(interfaces)))


def set_(world: World, which: NetworkId = FIRST, **common: Any) -> str | None:
    refusal = world.send(SetNetworkProperties(network=which, common=common)).refusal
    return refusal.code if refusal else None


def events(applied: Applied) -> list[tuple[str, int, str]]:
    return [(record.name, record.event_id, record.object) for record in applied.records]


def test_networks_follow_from_the_addresses(world: World) -> None:
    """Nothing is stored of them as long as nothing is said of them."""
    assert [(each.id, each.name, each.role) for each in config_of(world).all_networks] == [
        (FIRST, "Cluster Network 1", 3),
        (SECOND, "Cluster Network 2", 3),
    ]
    assert config_of(world).networks == {}
    assert config_of(world).internal_positions == (0, 1)


def test_networks_are_renamed_and_described(world: World) -> None:
    world.do(Rename(kind="network", id=FIRST, name="Public"))
    assert set_(world, Description="for clients", Role=2) is None
    assert (network(world).name, network(world).description, network(world).role) == ("Public", "for clients", 2)
    assert config_of(world).network_named("public") == network(world)
    assert config_of(world).network_named("network-2") == network(world, SECOND)
    assert config_of(world).internal_positions == (1,)
    assert world.send(Rename(kind="network", id=SECOND, name="PUBLIC")).refusal is not None
    assert world.send(Rename(kind="network", id="network-9", name="X")).refusal is not None


def test_priorities_order_the_internal_networks(world: World) -> None:
    assert set_(world, FIRST, Priority=2) is None
    assert config_of(world).internal_positions == (1, 0)
    world.do(SetNetworkPriorities(networks=(FIRST, SECOND)))
    assert config_of(world).internal_positions == (0, 1)
    for wrong, code in (((FIRST,), "bad-argument"), ((FIRST, FIRST), "bad-argument"), ((), "bad-argument")):
        refusal = world.send(SetNetworkPriorities(networks=wrong)).refusal
        assert refusal is not None
        assert refusal.code == code
    assert set_(world, FIRST, Role=2) is None
    refusal = world.send(SetNetworkPriorities(networks=(FIRST, SECOND))).refusal
    assert refusal is not None
    assert refusal.code == "network-not-internal"


@pytest.mark.parametrize(
    ("update", "code"),
    [
        (SetNetworkProperties(network=NetworkId("network-3"), common={"Role": 1}), "network-not-found"),
        (SetNetworkProperties(network=FIRST, common={"Role": 4}), "bad-property"),
        (SetNetworkProperties(network=FIRST, common={"Address": "10.0.0.0"}), "read-only-property"),
        (SetNetworkProperties(network=FIRST, private={PING_TARGETS: "router"}), "bad-property"),
        (SetNetworkProperties(network=FIRST, private={PING_TARGETS: "2001:db8::1"}), "bad-property"),
        (SetNetworkProperties(network=FIRST, private={PING_TARGETS: "fe80::1%eth0"}), "bad-property"),
        (SetNetworkProperties(network=FIRST, private={"pingtargets": 7}), "bad-property"),
        (
            SetNetworkProperties(network=FIRST, private={PING_TARGETS: ("192.0.2.9",) * (PING_TARGETS_MAX + 1)}),
            "bad-property",
        ),
    ],
)
def test_refusals(world: World, update: SetNetworkProperties, code: str) -> None:
    before = config_of(world).networks
    refusal = world.send(update).refusal
    assert refusal is not None
    assert refusal.code == code
    assert config_of(world).networks == before


def test_ping_targets(world: World) -> None:
    world.do(SetNetworkProperties(network=FIRST, private={"pingtargets": ("192.0.2.254", "192.0.2.253")}))
    assert network(world).ping_targets == ("192.0.2.254", "192.0.2.253")
    world.do(SetNetworkProperties(network=FIRST, private={PING_TARGETS: "192.0.2.254"}))
    assert network(world).ping_targets == ("192.0.2.254",)
    world.do(SetNetworkProperties(network=FIRST, private={PING_TARGETS: None}))
    assert network(world).ping_targets == ()


# --- nodes must hear each other ---------------------------------------------------------------------------------------


def test_the_last_internal_network_stays(world: World) -> None:
    assert set_(world, FIRST, Role=2) is None
    assert set_(world, SECOND, Role=2) == "last-internal-network"
    assert set_(world, SECOND, Role=0) == "last-internal-network"
    assert set_(world, FIRST, Role=1) is None
    assert set_(world, SECOND, Role=0) is None


def test_a_network_stays_internal_for_a_node_that_has_no_other(world: World) -> None:
    """Even if that node is down now."""
    config = config_of(world)
    alone = replace(config.nodes[N3], addresses=("192.0.2.3",), up=False)
    world.config = replace(config, nodes={**config.nodes, N3: alone})
    assert set_(world, FIRST, Role=2) == "network-needed"
    assert set_(world, SECOND, Role=2) is None


def test_a_network_stays_internal_while_nodes_miss_each_other_on_the_others(world: World) -> None:
    tell(world, N2, silent=(3,), on=1)
    refusal = world.send(SetNetworkProperties(network=FIRST, common={"Role": 2})).refusal
    assert refusal is not None
    assert "NODE2 and NODE3 hear each other on no other internal network" in refusal.message
    tell(world, N2)
    assert set_(world, FIRST, Role=2) is None


def test_a_new_node_needs_an_internal_network(world: World) -> None:
    assert set_(world, FIRST, Role=2) is None

    def join(*addresses: str) -> str | None:
        world.do(AddJoinToken(token="t", secret_sha256=SECRET, expires_ms=2_000_000))
        admission = AdmitNode(
            token="t",
            secret_sha256=SECRET,
            node_name="NODE4",
            addresses=addresses,
            port=3343,
            admin_port=0,
            at_ms=1_500_000,
        )
        refusal = world.send(admission).refusal
        return refusal.message if refusal else None

    said = join("192.0.2.4")
    assert said is not None
    assert "these are only Cluster Network 2" in said


# --- what nodes tell --------------------------------------------------------------------------------------------------


def test_a_report_names_the_subnets(world: World) -> None:
    applied = tell(world, N2)
    assert applied.refusal is None
    assert applied.records == ()
    assert (network(world).address, network(world).mask) == ("192.0.2.0", "255.255.255.0")
    assert (network(world, SECOND).address, network(world, SECOND).prefix) == ("198.51.100.0", 24)
    tell(world, N1, prefix=26)
    assert network(world).prefix == 26, "the first node's word stands"
    tell(world, N2, prefix=28)
    assert network(world).prefix == 26


def test_the_same_report_again_changes_nothing(world: World) -> None:
    tell(world, N2, trouble="the link is down")
    before = config_of(world)
    applied = tell(world, N2, trouble="the link is down")
    assert (applied.refusal, applied.records) == (None, ())
    assert applied.config.nodes is before.nodes


@pytest.mark.parametrize("incarnation", [0, 2])
def test_another_incarnations_report_is_refused(world: World, incarnation: int) -> None:
    applied = tell(world, N1, incarnation=incarnation)
    assert applied.refusal is not None
    assert applied.refusal.code == "stale"


def test_a_report_of_other_addresses_is_refused(world: World) -> None:
    interface = Interface(position=0, address="203.0.113.1")
    applied = world.send(ReportInterfaces(node=N1, incarnation=1, interfaces=(interface,)))
    assert applied.refusal is not None


def test_a_new_incarnation_has_told_nothing(world: World) -> None:
    tell(world, N2, trouble="the link is down")
    node = world.node(N2)
    applied = world.send(NodeUp(node=N2, incarnation=node.incarnation, boot=node.boot + 1, attempt=1))
    assert world.node(N2).interfaces == ()
    assert "interface.up" in [name for name, _, _ in events(applied)]


# --- events -----------------------------------------------------------------------------------------------------------


def test_a_failed_link_is_told_once(world: World) -> None:
    applied = tell(world, N1, trouble="the link eth0 is down")
    assert events(applied) == [("interface.failed", 1127, "Cluster Network 1 - NODE1")]
    assert applied.records[0].because == "the link eth0 is down"
    assert events(tell(world, N2, silent=(1,))) == [("network.contact-lost", 1123, "Cluster Network 1")]
    tell(world, N2)
    assert events(tell(world, N1)) == [("interface.up", 0, "Cluster Network 1 - NODE1")]


def test_a_network_that_goes_down_and_comes_back(world: World) -> None:
    for node in (N1, N2):
        tell(world, node, trouble="the link is down")
    assert ("network.down", 1130, "Cluster Network 1") in events(tell(world, N3, trouble="the link is down"))
    assert events(tell(world, N3)) == [
        ("interface.up", 0, "Cluster Network 1 - NODE3"),
        ("network.up", 1128, "Cluster Network 1"),
    ]


def test_a_partition_is_told_with_who_lost_whom(world: World) -> None:
    assert events(tell(world, N2, silent=(3,), on=1)) == [
        ("network.contact-lost", 1123, "Cluster Network 2"),
        ("interface.unreachable", 1126, "Cluster Network 2 - NODE2"),
        ("interface.unreachable", 1126, "Cluster Network 2 - NODE3"),
        ("network.partitioned", 1129, "Cluster Network 2"),
    ]
    assert events(tell(world, N2)) == [
        ("network.contact-restored", 1122, "Cluster Network 2"),
        ("interface.up", 0, "Cluster Network 2 - NODE2"),
        ("interface.up", 0, "Cluster Network 2 - NODE3"),
        ("network.up", 1128, "Cluster Network 2"),
    ]


def test_a_node_that_dies_ends_a_partition(world: World) -> None:
    tell(world, N2, silent=(3,))
    config = config_of(world)
    applied = world.send(
        NodeDown(node=N3, incarnation=1, voters_version=config.voters_version, because="it is silent", stopped=False)
    )
    assert [name for name, _, _ in events(applied)] == ["node.down", "interface.up", "network.up"]

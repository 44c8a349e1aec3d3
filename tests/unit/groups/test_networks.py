"""Which network a resource needs, and what its Network property means on a node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clussvc.groups.networks import cut_off, doubtful, network_of, on_this_node
from clussvc.model.config import Config, Interface, Resource, default_network

from .samples import N1, N2, N3, cluster, group, node, resource


def interfaces(number: int, **first: Any) -> tuple[Interface, ...]:
    public = Interface(position=0, address=f"192.0.2.{number}", prefix=24, adapter="eth0")
    return (
        replace(public, **first),
        Interface(position=1, address=f"10.0.0.{number}", prefix=24, adapter=f"heart{number}"),
    )


def two_networks(*, heart_role: int = 3, **first: Any) -> Config:
    """NODE1's first interface has what is said in ``first``."""
    nodes = [
        node(
            number,
            addresses=(f"192.0.2.{number}", f"10.0.0.{number}"),
            interfaces=interfaces(number, **(first if number == 1 else {})),
        )
        for number in (1, 2, 3)
    ]
    heart = replace(default_network(1), name="Heart", role=heart_role)
    return replace(cluster(*nodes, group("WEB", 1)), networks={heart.id: heart})


def address(value: str = "", named: str | None = None, type_: str = "IP Address") -> Resource:
    private: dict[str, Any] = {"Address": value, "SubnetMask": "255.255.255.0"}
    return resource("IP", "WEB", type=type_, private=private if named is None else {**private, "Network": named})


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (address("192.0.2.99"), "Cluster Network 1"),
        (address("10.0.0.99"), "Heart"),
        (address("10.0.0.99", ""), "Heart"),
        (address("203.0.113.1", "heart"), "Heart"),
        (address("203.0.113.1", "network-2"), "Heart"),
        (address("203.0.113.1", "heart2"), "Heart"),
        # The subnet says more than an interface, whose name may mean another network on each node.
        (address("192.0.2.99", "heart1"), "Cluster Network 1"),
        (address("203.0.113.1"), None),
        (address("", ""), None),
        (address("192.0.2.99", type_="Generic Application"), None),
    ],
)
def test_the_network_of_a_resource(asked: Resource, name: str | None) -> None:
    found = network_of(two_networks(), asked)
    assert (found.name if found else None) == name


def test_only_networks_of_clients_are_needed() -> None:
    assert network_of(two_networks(heart_role=1), address("10.0.0.99")) is None


def test_who_is_cut_off() -> None:
    config = two_networks(trouble="the link eth0 is down")
    assert cut_off(config, [address("192.0.2.99")]) == {N1: "NODE1 has lost Cluster Network 1 (the link eth0 is down)"}
    assert cut_off(config, [address("10.0.0.99")]) == {}
    assert cut_off(two_networks(), [address("192.0.2.99")]) == {}


def test_who_is_doubtful() -> None:
    assert doubtful(two_networks(silent=(N2,)), [address("192.0.2.99")]) == {N1, N2}
    assert cut_off(two_networks(silent=(N2,)), [address("192.0.2.99")]) == {}
    assert doubtful(two_networks(), [address("192.0.2.99")]) == frozenset()


def test_the_name_of_a_network_means_an_interface_on_each_node() -> None:
    config = two_networks()
    for member, adapter in ((N1, "heart1"), (N3, "heart3")):
        assert on_this_node(config, address("10.0.0.99", "Heart"), member)["Network"] == adapter
    assert on_this_node(config, address("10.0.0.99", "eth7"), N1)["Network"] == "eth7"
    assert "Network" not in on_this_node(config, address("10.0.0.99"), N1)
    untold = replace(config, nodes={**config.nodes, N1: replace(config.nodes[N1], interfaces=())})
    assert on_this_node(untold, address("10.0.0.99", "Heart"), N1)["Network"] == ""

"""Which client networks a group needs, and on which nodes these have failed.

A group needs a network when one of its IP Address resources belongs there: the property Network names the network, or
the address lies in its subnet, or Network names the interface that nodes have there. Only networks with the role of a
client network count, so the loss of one that is internal alone moves nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from clussvc.membership.connectivity import interface_states, nothing_wrong, subnets, told_of, why_failed
from clussvc.model.config import Config, Network, Resource
from clussvc.model.ids import NodeId
from clussvc.model.monitoring import PropertyValue
from clussvc.model.states import InterfaceState

_ADDRESS_TYPE = "ip address"


def network_of(config: Config, resource: Resource) -> Network | None:
    """The client network that a resource needs; None for one that needs none, or nobody knows which."""
    if resource.type.casefold() != _ADDRESS_TYPE:
        return None
    values = {name.casefold(): value for name, value in resource.private.items()}
    named, address = str(values.get("network", "")), str(values.get("address", ""))
    clients = [network for network in config.all_networks if network.client]
    for network in clients:
        if named and named.casefold() in (network.name.casefold(), network.id):
            return network
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError:
        return None
    for network in clients:
        if any(wanted in subnet for subnet in subnets(config, network)):
            return network
    for network in clients:
        told = (each for node in config.nodes.values() for each in node.interfaces)
        if named and any(each.position == network.position and each.adapter == named for each in told):
            return network
    return None


def on_this_node(config: Config, resource: Resource, node: NodeId) -> dict[str, PropertyValue]:
    """The private properties as the resource type on that node understands them: where Network names a network of the
    cluster, the name of the interface that the node has there; without one, nothing, so that the subnet decides."""
    private = dict(resource.private)
    key = next((name for name in private if name.casefold() == "network"), "")
    if not key or resource.type.casefold() != _ADDRESS_TYPE or node not in config.nodes:
        return private
    network = config.network_named(str(private[key]))
    if network is None:
        return private
    member = config.nodes[node]
    adapter = told_of(member, network.position).adapter if network.position < len(member.addresses) else ""
    return {**private, key: adapter}


def cut_off(config: Config, resources: Iterable[Resource]) -> dict[NodeId, str]:
    """The nodes on which a network that these resources need has failed, each with a sentence that says so."""
    if nothing_wrong(config):
        return {}
    found: dict[NodeId, str] = {}
    for network in _needed(config, resources):
        for node, state in interface_states(config, network).items():
            if state is InterfaceState.FAILED:
                why = why_failed(config, network, node)
                found.setdefault(node, f"{config.node_name(node)} has lost {network.name} ({why})")
    return found


def doubtful(config: Config, resources: Iterable[Resource]) -> frozenset[NodeId]:
    """The nodes on which such a network is not known to work: it has failed there, or not all others are reached."""
    if nothing_wrong(config):
        return frozenset()
    return frozenset(
        node
        for network in _needed(config, resources)
        for node, state in interface_states(config, network).items()
        if state is not InterfaceState.UP
    )


def _needed(config: Config, resources: Iterable[Resource]) -> list[Network]:
    found = {network.id: network for each in resources if (network := network_of(config, each)) is not None}
    return list(found.values())

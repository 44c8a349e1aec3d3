"""Networks and interfaces as administration shows them: what is set, what nodes told, and the states that follow."""

from __future__ import annotations

from clussvc.admin.dto import Plain
from clussvc.membership.connectivity import interface_states, network_state, told_of, why_failed
from clussvc.model.config import Config, Network, Node
from clussvc.model.states import InterfaceState

ROLE_WORDS = ("none", "internal", "client", "internal and client")


def network_of(config: Config, network: Network) -> Plain:
    """A network with its state."""
    states = interface_states(config, network)
    state = network_state(states.values())
    return {
        "name": network.name,
        "id": network.id,
        "state": state.value,
        "state_number": state.number,
        "role": network.role,
        "role_words": ROLE_WORDS[network.role],
        "priority": network.priority,
        "address": network.address,
        "mask": network.mask,
        "ping_targets": list(network.ping_targets),
        "interfaces": len(states),
    }


def interfaces_of(config: Config, network: Network) -> list[Plain]:
    """All interfaces on one network."""
    states = interface_states(config, network)
    return [_interface(config, network, config.nodes[node], state) for node, state in states.items()]


def _interface(config: Config, network: Network, node: Node, state: InterfaceState) -> Plain:
    told = told_of(node, network.position)
    silent = [config.node_name(other) for other in told.silent if other in config.nodes and config.nodes[other].up]
    return {
        "name": f"{network.name} - {node.name}",
        "node": node.name,
        "network": network.name,
        "adapter": told.adapter,
        "address": told.address,
        "state": state.value,
        "state_number": state.number,
        "because": why_failed(config, network, node.id) if state is InterfaceState.FAILED else "",
        "does_not_hear": silent if node.up else [],
    }


def interface_properties(interface: Plain) -> list[Plain]:
    """The lines of a listing; nothing of an interface can be set."""
    return [
        {"name": name, "kind": "S", "read_only": True, "value": interface[name.lower()], "object": interface["name"]}
        for name in ("Name", "Node", "Network", "Adapter", "Address")
    ]

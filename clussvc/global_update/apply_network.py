"""Networks: what administrators set, what nodes tell of their interfaces, and what becomes known by that.

Networks exist by the addresses of the nodes; an object of the configuration is made only when something of it differs
from the default. A change of role takes effect on each node when it reads it, and only ever ends sending: leases can
become shorter by it, never longer. It is refused when nodes could not hear each other any more.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from clussvc.global_update.outcome import Done, Result, find_node, note, with_node
from clussvc.global_update.refusals import last_internal_network, nodes_parted, not_internal
from clussvc.global_update.update import ReportInterfaces, SetNetworkPriorities, SetNetworkProperties
from clussvc.membership.connectivity import (
    interface_states,
    network_state,
    nothing_wrong,
    subnet_of,
    talk_somewhere,
    told_of,
    why_failed,
)
from clussvc.model.config import PING_TARGETS, Config, Interface, Network, Node
from clussvc.model.ids import NetworkId
from clussvc.model.monitoring import PropertyValue
from clussvc.model.properties import common_changes, private_changes
from clussvc.model.records import Record
from clussvc.model.reports import Report, Severity, bad_argument, bad_property, network_not_found, stale
from clussvc.model.states import InterfaceState, NetworkState

PING_TARGETS_MAX = 8
"""Ping targets of one network."""
TEXT_LENGTH_MAX = 255
"""Of what a node tells in words."""


def find_network(config: Config, network: NetworkId) -> Network | Report:
    """The network, or the refusal that says that it is none."""
    found = next((each for each in config.all_networks if each.id == network), None)
    return found or network_not_found(network)


def with_network(config: Config, network: Network) -> Config:
    """The configuration with this network added or exchanged."""
    return replace(config, networks={**config.networks, network.id: network})


def set_network_properties(config: Config, update: SetNetworkProperties) -> Result:
    """All values, or none of them."""
    network = find_network(config, update.network)
    if isinstance(network, Report):
        return network
    owner = f"network {network.name!r}"
    common = common_changes("network", owner, update.common)
    if isinstance(common, Report):
        return common
    bad = _bad_targets(config, network, owner, update)
    if bad is not None:
        return bad
    private = private_changes(owner, network.private, update.private)
    if isinstance(private, Report):
        return private
    changed = replace(network, private=private, **common)  # type: ignore[arg-type]  # the table pairs fields and types
    after = with_network(config, changed)
    if network.internal and not changed.internal:
        refusal = _why_needed(config, after, network)
        if refusal is not None:
            return refusal
    names = ", ".join((*update.common, *update.private)) or "nothing"
    message = f"Properties of network {network.name} were set: {names}."
    return Done(config=after, records=note("network.properties", message, kind="network", thing=network.name))


def set_network_priorities(config: Config, update: SetNetworkPriorities) -> Result:
    """The first network carries the log as long as it works; the others follow."""
    networks = [find_network(config, each) for each in update.networks]
    for network in networks:
        if isinstance(network, Report):
            return network
        if not network.internal:
            return not_internal(network.name)
    internal = {network.id: network.name for network in config.all_networks if network.internal}
    if sorted(update.networks) != sorted(internal):
        return bad_argument(f"Name every internal network once; these are {', '.join(internal.values())}.")
    for priority, network in enumerate(networks, start=1):
        assert isinstance(network, Network)
        config = with_network(config, replace(network, priority=priority))
    names = ", ".join(internal[each] for each in update.networks)
    message = f"The order of the internal networks is now {names}."
    return Done(config=config, records=note("network.priorities", message, kind="cluster", thing=config.name))


def _bad_targets(config: Config, network: Network, owner: str, update: SetNetworkProperties) -> Report | None:
    versions = {6 if ":" in node.addresses[network.position] else 4 for node in _members(config, network)}
    for name, value in update.private.items():
        if name.casefold() != PING_TARGETS.casefold() or value is None:
            continue
        targets = _texts(value)
        if targets is None or len(targets) > PING_TARGETS_MAX:
            return bad_property(owner, PING_TARGETS, f"it is a list of at most {PING_TARGETS_MAX} addresses")
        for target in targets:
            try:
                version = ipaddress.ip_address(target).version
            except ValueError:
                return bad_property(owner, PING_TARGETS, f"{target[:80]!r} is no IP address")
            if "%" in target:
                return bad_property(owner, PING_TARGETS, f"{target[:80]!r} names an interface; each node knows its own")
            if version not in versions:
                why = f"{target} is an IPv{version} address, and no node has one of these on this network"
                return bad_property(owner, PING_TARGETS, why)
    return None


def _members(config: Config, network: Network) -> list[Node]:
    return [node for node in config.nodes.values() if network.position < len(node.addresses)]


def _texts(value: PropertyValue) -> tuple[str, ...] | None:
    if isinstance(value, int):
        return None
    return value if isinstance(value, tuple) else (value,) if value else ()


def _why_needed(config: Config, after: Config, network: Network) -> Report | None:
    """Why this network must stay internal; None if the others are enough."""
    internal = after.internal_positions
    if not internal:
        return last_internal_network(network.name)
    for node in config.nodes.values():
        if not any(position < len(node.addresses) for position in internal):
            return nodes_parted(network.name, f"{node.name} has an address on no other internal network")
    lost = talk_somewhere(config) - talk_somewhere(after)
    if lost:
        names = min(sorted(config.node_name(node) for node in pair) for pair in lost)
        return nodes_parted(network.name, f"{' and '.join(names)} hear each other on no other internal network now")
    return None


def check_reached(config: Config, addresses: tuple[str, ...]) -> Report | None:
    """Whether a new node with these addresses is on an internal network."""
    internal = config.internal_positions
    if not internal or any(position < len(addresses) for position in internal):
        return None
    wanted = [network.name for network in config.all_networks if network.internal]
    return bad_argument(
        f"A node needs an address on an internal network, and these are only {', '.join(wanted)}; give the node's"
        f" addresses in the order of the networks: {', '.join(each.name for each in config.all_networks)}."
    )


def report_interfaces(config: Config, update: ReportInterfaces) -> Result:
    """Remember what a node tells; what follows from it is told by :func:`told`."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if not node.up or node.incarnation != update.incarnation:
        return stale(f"incarnation {update.incarnation} of {node.name} is not up any more")
    bad = _bad_interfaces(node, update.interfaces)
    if bad is not None:
        return bad
    if node.interfaces == update.interfaces:
        return Done(config=config)
    reported = with_node(config, replace(node, interfaces=update.interfaces))
    return Done(config=_with_subnets(reported, node, update.interfaces))


def _bad_interfaces(node: Node, interfaces: tuple[Interface, ...]) -> Report | None:
    places = [(each.position, each.address) for each in interfaces]
    if places != list(enumerate(node.addresses)):
        return stale(f"{node.name} has other addresses by now")
    for each in interfaces:
        if not 0 <= each.prefix <= 128 or len(each.adapter) > TEXT_LENGTH_MAX or len(each.trouble) > TEXT_LENGTH_MAX:
            return bad_argument(f"What {node.name} tells of {each.address} is out of bounds.")
    return None


def _with_subnets(config: Config, node: Node, interfaces: tuple[Interface, ...]) -> Config:
    """Name the subnets of the networks. Where nodes tell different ones, the first node's word stands."""
    for network in config.all_networks:
        if network.position >= len(interfaces) or not interfaces[network.position].prefix:
            continue
        told = interfaces[network.position]
        others = [each for each in config.nodes.values() if each.id < node.id and told_of_subnet(each, network)]
        subnet = subnet_of(told.address, told.prefix)
        if subnet is None or others:
            continue
        address, prefix = str(subnet.network_address), subnet.prefixlen
        if (network.address, network.prefix) != (address, prefix):
            config = with_network(config, replace(network, address=address, prefix=prefix))
    return config


def told_of_subnet(node: Node, network: Network) -> bool:
    """Whether the node has told of its subnet on that network."""
    return network.position < len(node.addresses) and told_of(node, network.position).prefix > 0


# --- what becomes known -----------------------------------------------------------------------------------------------

_CHANGES = {
    NetworkState.UP: ("network.up", 1128, Severity.INFORMATION, "is up"),
    NetworkState.PARTITIONED: ("network.partitioned", 1129, Severity.ERROR, "is partitioned"),
    NetworkState.DOWN: ("network.down", 1130, Severity.ERROR, "is down"),
}


def told(before: Config, after: Config) -> tuple[Record, ...]:
    """What a change of nodes or networks means for the states of interfaces and networks.

    Interfaces of nodes that come or go are not told of: the event is the node's.
    """
    if nothing_wrong(before) and nothing_wrong(after):
        return ()
    records: list[Record] = []
    earlier = {network.id: network for network in before.all_networks}
    for network in after.all_networks:
        old = earlier.get(network.id)
        if old is None:
            continue
        was, now = interface_states(before, old), interface_states(after, network)
        records += _contacts(before, after, network)
        for node, state in now.items():
            if was.get(node, InterfaceState.UNAVAILABLE) not in (state, InterfaceState.UNAVAILABLE):
                records += _interface_changed(after, network, after.nodes[node], state)
        records += _network_changed(network, network_state(was.values()), network_state(now.values()))
    return tuple(records)


def _contacts(before: Config, after: Config, network: Network) -> list[Record]:
    """Whom a node does not hear any more on the network, or hears again; both nodes were up all the time."""
    records: list[Record] = []
    for node in after.nodes.values():
        old = before.nodes.get(node.id)
        if old is None or old.interfaces is node.interfaces or not (old.up and node.up):
            continue
        if network.position >= len(node.addresses) or not node.interfaces:
            continue
        was, now = told_of(old, network.position), told_of(node, network.position)
        if was.trouble or now.trouble:
            continue
        for other in sorted({*was.silent} ^ {*now.silent}):
            peer = after.nodes.get(other)
            if peer is None or not peer.up:
                continue
            lost = other in now.silent
            verb = "lost contact with" if lost else "is in contact again with"
            records += note(
                "network.contact-lost" if lost else "network.contact-restored",
                f"Node {node.name} {verb} node {peer.name} on network {network.name}.",
                kind="network",
                thing=network.name,
                because="no heartbeat of it came there for a while" if lost else "its heartbeats come there again",
                event_id=1123 if lost else 1122,
                severity=Severity.WARNING if lost else Severity.INFORMATION,
                node=node.name,
            )
    return records


def _interface_changed(config: Config, network: Network, node: Node, state: InterfaceState) -> tuple[Record, ...]:
    thing = f"{network.name} - {node.name}"
    if state is InterfaceState.UNAVAILABLE:
        return ()
    if state is InterfaceState.FAILED:
        why = why_failed(config, network, node.id)
        return note(
            "interface.failed",
            f"The interface of node {node.name} on network {network.name} failed: {why}.",
            kind="network",
            thing=thing,
            because=why,
            event_id=1127,
            severity=Severity.ERROR,
            node=node.name,
        )
    if state is InterfaceState.UNREACHABLE:
        why = "it and at least one other interface do not reach each other"
        return note(
            "interface.unreachable",
            f"The interface of node {node.name} on network {network.name} is unreachable: {why}.",
            kind="network",
            thing=thing,
            because=why,
            event_id=1126,
            severity=Severity.WARNING,
            node=node.name,
        )
    return note(
        "interface.up",
        f"The interface of node {node.name} on network {network.name} is up.",
        kind="network",
        thing=thing,
        because="it works, and reaches all others that do",
        node=node.name,
    )


def _network_changed(network: Network, was: NetworkState, now: NetworkState) -> tuple[Record, ...]:
    if was in (now, NetworkState.UNAVAILABLE) or now is NetworkState.UNAVAILABLE:
        return ()
    name, event_id, severity, words = _CHANGES[now]
    why = {
        NetworkState.UP: "all interfaces that work reach each other",
        NetworkState.PARTITIONED: "some interfaces do not reach each other",
        NetworkState.DOWN: "all its interfaces have failed",
    }[now]
    return note(
        name,
        f"Network {network.name} {words}: {why}.",
        kind="network",
        thing=network.name,
        because=why,
        event_id=event_id,
        severity=severity,
    )

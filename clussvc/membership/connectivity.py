"""Which interfaces and networks work: derived from what each node tells of its own addresses.

Every node tells two things of each of its addresses: the *trouble* that it knows of itself (no link, the address is
gone, no ping target answers), and the nodes whose heartbeats do not come there any more though they are heard
elsewhere (*silent*). Nobody's word decides alone; the states follow from all of them together, by one pure function:

| interface | when |
|---|---|
| Unavailable | its node is not up |
| Failed | its node knows of a trouble; or it and every other one miss each other, while two others reach each other |
| Unreachable | it does not reach some other interface that has not failed |
| Up | otherwise |

| network | when |
|---|---|
| Unavailable | no node on it is up |
| Down | every interface of a node that is up has failed |
| Partitioned | some interface is unreachable |
| Up | otherwise |

Two interfaces *reach* each other if neither node misses the other there; a connection that works in one direction only
is none. With two nodes, or when everybody is alone, nobody can tell whose fault a silence is: then both are
unreachable, and none has failed. Groups leave an interface that has failed, so this takes the word of both ends of
every connection: words arrive one after the other, and while a network goes down or comes back as a whole, half of
them would make it look as if a single node had lost it. On a network without internal role nobody sends heartbeats, so
there a node's own word is all there is. A node that has told nothing yet is taken to work.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from clussvc.model.config import Config, Interface, Network, Node
from clussvc.model.ids import NodeId
from clussvc.model.states import InterfaceState, NetworkState


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSeen:
    """What a machine's system says of one of the node's own addresses."""

    prefix: int = 0
    """How many bits name the subnet; 0: unknown."""
    adapter: str = ""
    trouble: str = ""


def interface_states(config: Config, network: Network) -> dict[NodeId, InterfaceState]:
    """The state of every node's address on this network, for the nodes that have one, in the order of the nodes."""
    members = [node for node in config.nodes.values() if network.position < len(node.addresses)]
    told = {node.id: told_of(node, network.position) for node in members}
    working = [node.id for node in members if node.up and not told[node.id].trouble]
    lost: set[NodeId] = set()
    unreachable: set[NodeId] = set()
    if network.internal and any(told[node].silent for node in working):
        missed = {(one, other) for one in working for other in told[one].silent}
        pairs = [frozenset(pair) for pair in combinations(working, 2)]
        apart = [pair for pair in pairs if missed & {tuple(pair), tuple(pair)[::-1]}]
        together = {node for pair in pairs if pair not in apart for node in pair}
        parted = [pair for pair in apart if missed >= {tuple(pair), tuple(pair)[::-1]}]
        if together:
            lost = {node for node in working if sum(node in pair for pair in parted) == len(working) - 1}
        unreachable = {node for pair in apart if not pair & lost for node in pair}
    states = {}
    for node in members:
        if not node.up:
            states[node.id] = InterfaceState.UNAVAILABLE
        elif told[node.id].trouble or node.id in lost:
            states[node.id] = InterfaceState.FAILED
        else:
            states[node.id] = InterfaceState.UNREACHABLE if node.id in unreachable else InterfaceState.UP
    return states


def network_state(states: Collection[InterfaceState]) -> NetworkState:
    """The state of a network from those of its interfaces."""
    live = [state for state in states if state is not InterfaceState.UNAVAILABLE]
    if not live:
        return NetworkState.UNAVAILABLE
    if all(state is InterfaceState.FAILED for state in live):
        return NetworkState.DOWN
    return NetworkState.PARTITIONED if InterfaceState.UNREACHABLE in live else NetworkState.UP


def told_of(node: Node, position: int) -> Interface:
    """What a node told of its address on that network; without a word of it, the address alone."""
    for interface in node.interfaces:
        if interface.position == position:
            return interface
    return Interface(position=position, address=node.addresses[position])


def nothing_wrong(config: Config) -> bool:
    """Whether no node has told of anything but working interfaces; then all of them are up or unavailable."""
    return not any(each.trouble or each.silent for node in config.nodes.values() for each in node.interfaces)


def why_failed(config: Config, network: Network, node: NodeId) -> str:
    """What is the matter with a failed interface, as the end of a sentence."""
    member = config.nodes[node]
    trouble = told_of(member, network.position).trouble
    return trouble or f"{member.name} reaches nobody on {network.name}, where others reach each other"


def talk_somewhere(config: Config) -> frozenset[frozenset[NodeId]]:
    """The pairs of nodes that are up and can hear each other on at least one internal network."""
    pairs: set[frozenset[NodeId]] = set()
    up = [node for node in config.nodes.values() if node.up]
    for position in config.internal_positions:
        here = [node for node in up if position < len(node.addresses) and not told_of(node, position).trouble]
        for one, other in combinations(here, 2):
            silent = other.id in told_of(one, position).silent or one.id in told_of(other, position).silent
            if not silent:
                pairs.add(frozenset((one.id, other.id)))
    return frozenset(pairs)


def subnets(config: Config, network: Network) -> set[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The subnets that nodes have told of on this network: one, unless it is routed."""
    known = [(network.address, network.prefix)] if network.prefix else []
    for node in config.nodes.values():
        known += [(each.address, each.prefix) for each in node.interfaces if each.position == network.position]
    return {found for address, prefix in known if prefix and (found := subnet_of(address, prefix)) is not None}


def subnet_of(address: str, prefix: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The subnet of an address; None for a name, or a prefix that the address cannot have."""
    try:
        return ipaddress.ip_network((address.partition("%")[0], prefix), strict=False)
    except ValueError:
        return None


# --- a node's own view ------------------------------------------------------------------------------------------------


def own_view(
    config: Config,
    node: NodeId,
    *,
    links: Mapping[int, LinkSeen],
    heard: Collection[tuple[NodeId, int]],
    lately: Collection[NodeId],
) -> tuple[Interface, ...]:
    """What a node tells of its addresses.

    ``links`` is what its system says, by the places of its addresses; ``heard`` who was heard where; ``lately`` who was
    heard at all. Nothing new is said of a node that is not heard anywhere: it is about to be declared down, which is no
    matter of networks. Nothing at all is said of one that has told of a trouble of its own there.
    """
    me = config.nodes[node]
    internal = config.internal_positions
    others = sorted((other for other in config.nodes.values() if other.up and other.id != node), key=lambda one: one.id)
    view = []
    for position, address in enumerate(me.addresses):
        link = links.get(position, LinkSeen())
        before = told_of(me, position).silent
        silent = [
            other.id
            for other in others
            if position < len(other.addresses)
            and not told_of(other, position).trouble
            and (other.id, position) not in heard
            and (other.id in lately or other.id in before)
        ]
        view.append(
            Interface(
                position=position,
                address=address,
                prefix=link.prefix,
                adapter=link.adapter,
                trouble=link.trouble,
                silent=tuple(silent) if position in internal and not link.trouble else (),
            )
        )
    return tuple(view)


def worse(before: Iterable[Interface], after: Iterable[Interface]) -> bool:
    """Whether an interface has a trouble now that had none before; this is told at once."""
    troubled = {each.position for each in before if each.trouble}
    return any(each.trouble and each.position not in troubled for each in after)


def clients_reached(config: Config, node: NodeId, links: Mapping[int, LinkSeen]) -> int:
    """On how many client networks the node's own address works, as far as it can tell."""
    member = config.nodes.get(node)
    if member is None:
        return 0
    count = 0
    for network in config.all_networks:
        if network.client and network.position < len(member.addresses):
            trouble = links[network.position].trouble if network.position in links else ""
            failed = not trouble and interface_states(config, network)[node] is InterfaceState.FAILED
            count += not trouble and not (failed and not told_of(member, network.position).trouble)
    return count

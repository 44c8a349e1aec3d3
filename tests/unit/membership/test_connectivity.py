"""The states of interfaces and networks: the rules as a table, and what holds whatever nodes tell."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.membership.connectivity import (
    LinkSeen,
    clients_reached,
    interface_states,
    network_state,
    own_view,
    subnets,
    talk_somewhere,
    worse,
)
from clussvc.model.config import Config, Interface, Network, Node, default_network
from clussvc.model.ids import ClusterId, NodeId
from clussvc.model.states import InterfaceState, NetworkState

UP, UNREACHABLE, FAILED, UNAVAILABLE = (
    InterfaceState.UP,
    InterfaceState.UNREACHABLE,
    InterfaceState.FAILED,
    InterfaceState.UNAVAILABLE,
)
LETTERS = {"U": UP, "R": UNREACHABLE, "F": FAILED, "-": UNAVAILABLE}
N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)


def cluster(
    count: int,
    *,
    misses: Collection[tuple[int, int]] = (),
    troubled: Collection[int] = (),
    down: Collection[int] = (),
    networks: int = 1,
    role: int = 3,
) -> Config:
    """Nodes 1 to ``count``, each with an address on every network. ``misses``: who does not hear whom on the first."""
    nodes = {}
    for number in map(NodeId, range(1, count + 1)):
        first = Interface(
            position=0,
            address=f"10.0.0.{number}",
            prefix=24,
            trouble="its link is down" if number in troubled else "",
            silent=tuple(NodeId(other) for one, other in sorted(misses) if one == number),
        )
        others = [Interface(position=place, address=f"10.0.{place}.{number}") for place in range(1, networks)]
        nodes[number] = Node(
            id=number,
            name=f"NODE{number}",
            addresses=tuple(f"10.0.{place}.{number}" for place in range(networks)),
            port=3343,
            up=number not in down,
            incarnation=1,
            interfaces=(first, *others),
        )
    first_network = replace(default_network(0), role=role)
    return Config(
        cluster=ClusterId("c"), name="C", nodes=nodes, networks={first_network.id: first_network} if role != 3 else {}
    )


def everybody(count: int) -> set[tuple[int, int]]:
    """Nobody hears anybody."""
    return {(one, other) for one in range(1, count + 1) for other in range(1, count + 1) if one != other}


def states_of(config: Config, place: int = 0) -> tuple[str, NetworkState]:
    states = interface_states(config, config.all_networks[place])
    letters = {state: letter for letter, state in LETTERS.items()}
    return "".join(letters[state] for state in states.values()), network_state(states.values())


@pytest.mark.parametrize(
    ("config", "interfaces", "network"),
    [
        (cluster(3), "UUU", NetworkState.UP),
        (cluster(1), "U", NetworkState.UP),
        (cluster(3, down={2}), "U-U", NetworkState.UP),
        (cluster(2, down={1, 2}), "--", NetworkState.UNAVAILABLE),
        # A node knows by itself that its link is down; the others reach all that work.
        (cluster(3, troubled={1}), "FUU", NetworkState.UP),
        (cluster(2, troubled={1}), "FU", NetworkState.UP),
        (cluster(2, troubled={1, 2}), "FF", NetworkState.DOWN),
        (cluster(2, troubled={1}, down={2}), "F-", NetworkState.DOWN),
        # Two nodes that miss each other: nobody can tell whose fault it is.
        (cluster(2, misses={(1, 2), (2, 1)}), "RR", NetworkState.PARTITIONED),
        # One that reaches nobody has failed, since the others show that the network works.
        (cluster(3, misses={(1, 2), (1, 3), (2, 1), (3, 1)}), "FUU", NetworkState.UP),
        # One direction is enough to be apart, but not to be blamed: the other word may be on its way.
        (cluster(3, misses={(1, 2)}), "RRU", NetworkState.PARTITIONED),
        (cluster(3, misses={(1, 2), (1, 3)}), "RRR", NetworkState.PARTITIONED),
        (cluster(3, misses={(2, 1), (3, 1)}), "RRR", NetworkState.PARTITIONED),
        (cluster(3, misses={(1, 2), (1, 3), (2, 1)}), "RRR", NetworkState.PARTITIONED),
        (cluster(3, misses={(1, 2), (1, 3), (2, 3)}), "RRR", NetworkState.PARTITIONED),
        (cluster(3, misses=everybody(3)), "RRR", NetworkState.PARTITIONED),
        (
            cluster(4, misses={(1, 3), (1, 4), (2, 3), (2, 4)}),
            "RRRR",
            NetworkState.PARTITIONED,
        ),
        # Two alone, two together.
        (cluster(4, misses=everybody(4) - {(3, 4), (4, 3)}), "FFUU", NetworkState.UP),
        # Silence of a node that is down, or whose link is, is no news.
        (cluster(3, misses={(1, 2)}, down={2}), "U-U", NetworkState.UP),
        (cluster(3, misses={(2, 1), (3, 1)}, troubled={1}), "FUU", NetworkState.UP),
        # Nobody sends heartbeats on a network of clients alone.
        (cluster(3, misses={(1, 2), (1, 3)}, role=2), "UUU", NetworkState.UP),
        (cluster(3, troubled={2}, role=2), "UFU", NetworkState.UP),
    ],
)
def test_states(config: Config, interfaces: str, network: NetworkState) -> None:
    assert states_of(config) == (interfaces, network)


def test_a_node_that_has_told_nothing_works() -> None:
    config = cluster(3)
    config = replace(config, nodes={number: replace(node, interfaces=()) for number, node in config.nodes.items()})
    assert states_of(config) == ("UUU", NetworkState.UP)


def test_nodes_with_fewer_addresses_have_fewer_interfaces() -> None:
    config = cluster(3, networks=2)
    alone = replace(config.nodes[N3], addresses=("10.0.0.3",), interfaces=())
    config = replace(config, nodes={**config.nodes, N3: alone})
    assert [network.name for network in config.all_networks] == ["Cluster Network 1", "Cluster Network 2"]
    assert states_of(config, 1) == ("UU", NetworkState.UP)


@st.composite
def clusters(draw: st.DrawFn) -> Config:
    count = draw(st.integers(1, 6))
    numbers = st.integers(1, count)
    return cluster(
        count,
        misses=draw(st.sets(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]), max_size=12)),
        troubled=draw(st.sets(numbers, max_size=2)),
        down=draw(st.sets(numbers, max_size=2)),
        networks=draw(st.integers(1, 2)),
        role=draw(st.integers(0, 3)),
    )


@given(clusters())
def test_what_the_states_mean(config: Config) -> None:
    """The words of the documentation, by brute force."""
    network = config.all_networks[0]
    states = interface_states(config, network)
    told = {number: node.interfaces[0] for number, node in config.nodes.items()}

    def talk(one: NodeId, other: NodeId) -> bool:
        return not network.internal or (other not in told[one].silent and one not in told[other].silent)

    working = [number for number, node in config.nodes.items() if node.up and not told[number].trouble]
    for number, state in states.items():
        node = config.nodes[number]
        others = [other for other in working if other != number]
        assert (state is UNAVAILABLE) == (not node.up)
        if state is UP:
            assert all(talk(number, other) for other in others if states[other] is not FAILED)
        if state is UNREACHABLE:
            assert any(not talk(number, other) for other in others)
        if state is FAILED and not told[number].trouble:
            assert all(other in told[number].silent and number in told[other].silent for other in others)
            assert any(talk(a, b) for a in others for b in others if a != b), "somebody shows that the network works"
    assert list(states) == list(config.nodes)


@given(st.integers(3, 6), st.permutations([1, 2, 3, 4, 5, 6]), st.integers(0, 6), st.booleans())
def test_a_network_that_goes_or_comes_as_a_whole_is_nobodys_fault(
    count: int, order: list[int], told: int, comes: bool
) -> None:
    """Whoever has told of it already, and whoever has not yet."""
    first = [number for number in order if number <= count][:told]
    silent = [number for number in range(1, count + 1) if (number in first) != comes]
    config = cluster(count, misses={pair for pair in everybody(count) if pair[0] in silent})
    assert FAILED not in interface_states(config, config.all_networks[0]).values()


@given(clusters(), st.permutations([1, 2, 3, 4, 5, 6]))
def test_states_do_not_depend_on_the_order_of_nodes(config: Config, order: list[int]) -> None:
    mixed = {NodeId(n): config.nodes[NodeId(n)] for n in order if NodeId(n) in config.nodes}
    network = config.all_networks[0]
    assert interface_states(replace(config, nodes=mixed), network) == interface_states(config, network)


@given(clusters())
def test_without_the_internal_role_only_a_nodes_own_word_counts(config: Config) -> None:
    network = replace(config.all_networks[0], role=2)
    for number, state in interface_states(config, network).items():
        node = config.nodes[number]
        expected = UNAVAILABLE if not node.up else FAILED if node.interfaces[0].trouble else UP
        assert state is expected


def test_who_talks_somewhere() -> None:
    """Two networks: missing each other on one harms nobody."""
    config = cluster(2, networks=2, misses={(1, 2)})
    assert talk_somewhere(config) == {frozenset((N1, N2))}
    assert talk_somewhere(cluster(2, misses={(1, 2)})) == frozenset()
    assert talk_somewhere(cluster(2, troubled={1})) == frozenset()


def test_subnets() -> None:
    found = subnets(cluster(2), cluster(2).all_networks[0])
    assert {str(subnet) for subnet in found} == {"10.0.0.0/24"}


# --- a node's own view ------------------------------------------------------------------------------------------------


def seen_by_first(
    config: Config,
    *,
    links: dict[int, LinkSeen] | None = None,
    heard: Collection[tuple[NodeId, int]] = ((N2, 0), (N3, 0), (N2, 1), (N3, 1)),
    lately: Collection[NodeId] = (N2, N3),
) -> list[tuple[str, tuple[int, ...]]]:
    view = own_view(config, N1, links=links or {}, heard=heard, lately=lately)
    return [(each.trouble, each.silent) for each in view]


def test_a_view_without_trouble() -> None:
    assert seen_by_first(cluster(3, networks=2)) == [("", ()), ("", ())]


def test_who_is_heard_elsewhere_is_missed_here() -> None:
    assert seen_by_first(cluster(3, networks=2), heard=[(N2, 0), (N3, 0), (N3, 1)]) == [("", ()), ("", (2,))]


def test_a_node_that_is_heard_nowhere_is_no_matter_of_networks() -> None:
    """It is about to be declared down. What was told of it before stays until then."""
    config = cluster(3, networks=2)
    assert seen_by_first(config, heard=[(N3, 0), (N3, 1)], lately=[N3]) == [("", ()), ("", ())]
    told = cluster(3, networks=2, misses={(1, 2)})
    assert seen_by_first(told, heard=[(N3, 0), (N3, 1)], lately=[N3]) == [("", (2,)), ("", ())]
    assert seen_by_first(cluster(3, networks=2, misses={(1, 2)}, down={2}), lately=[N3]) == [("", ()), ("", ())]


def test_a_link_that_is_down_says_it_all() -> None:
    link = LinkSeen(prefix=24, adapter="eth0", trouble="the link is down")
    config = cluster(3, networks=2)
    view = own_view(config, N1, links={0: link}, heard=[(N2, 1), (N3, 1)], lately=[N2, N3])
    assert view[0] == Interface(position=0, address="10.0.0.1", prefix=24, adapter="eth0", trouble="the link is down")
    assert worse(config.nodes[N1].interfaces, view)
    assert not worse(view, view)
    assert not worse(view, config.nodes[N1].interfaces)


def test_a_node_that_has_told_of_its_own_trouble_is_not_missed() -> None:
    """Else its recovery would look like a partition until everybody has told that it is heard again."""
    assert seen_by_first(cluster(3, troubled={2}), heard=[(N3, 0)]) == [("", ())]


def test_nobody_is_missed_where_nobody_sends() -> None:
    assert seen_by_first(cluster(3, networks=2, role=2), heard=[(N2, 1), (N3, 1)]) == [("", ()), ("", ())]


@pytest.mark.parametrize(
    ("role", "links", "misses", "expected"),
    [
        (3, {}, (), 2),
        (1, {}, (), 1),
        (3, {0: LinkSeen(trouble="the link is down")}, (), 1),
        # Its own link works, but the others hear each other and not this node.
        (3, {}, ((2, 1), (3, 1), (1, 2), (1, 3)), 1),
        (2, {1: LinkSeen(trouble="no ping target answers")}, (), 1),
    ],
)
def test_client_networks_that_work(
    role: int, links: dict[int, LinkSeen], misses: tuple[tuple[int, int], ...], expected: int
) -> None:
    config = cluster(3, networks=2, role=role, misses=misses)
    assert clients_reached(config, N1, links) == expected


def test_a_stranger_reaches_no_clients() -> None:
    assert clients_reached(cluster(1), NodeId(9), {}) == 0


@pytest.mark.parametrize(
    ("address", "prefix", "mask"),
    [("10.0.0.0", 24, "255.255.255.0"), ("10.0.0.0", 30, "255.255.255.252"), ("2001:db8::", 64, "64"), ("", 0, "")],
)
def test_masks(address: str, prefix: int, mask: str) -> None:
    network: Network = replace(default_network(0), address=address, prefix=prefix)
    assert network.mask == mask

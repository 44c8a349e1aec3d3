"""The laws of load balancing, on the twin in Python; the C core is held to the same decisions in ``tests/packets``."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc.model.ids import HostId
from clussvc.nlb.bucket_map import (
    BUCKETS_COMPATIBLE,
    BUCKETS_LARGE,
    BucketMap,
    default_host,
    empty_map,
    next_map,
    single_owner,
)
from clussvc.nlb.filter_table import FilterTable, FlowState, Reason, RuleBuckets, Verdict, all_to
from clussvc.nlb.ownership import Flows, bucket_of, decide
from clussvc.nlb.port_rule import Affinity, FilteringMode, PortRule
from tests.packets.frames import ACK, CLUSTER_MAC, FIN, OWN_MAC, RST, SYN, Packet
from tests.packets.random_frames import VIPS, Frames, random_rules
from tests.packets.tables import SEED

EVERYWHERE = {Reason.ICMP_EVERYWHERE, Reason.NEIGHBOUR, Reason.FRAGMENT_UNPLACED}
"""Reasons for which every host takes a frame, as described."""
NOBODY = {Reason.MALFORMED, Reason.TOO_MANY_HEADERS, Reason.RULE_DISABLED, Reason.NOBODY}


class Hosts:
    """All hosts of a cluster that agree on who owns what. A host that leaves takes its connections with it."""

    def __init__(self, rules: tuple[PortRule, ...], hosts: Mapping[HostId, int], buckets: int) -> None:
        self.rules = rules
        self.buckets = buckets
        self.weights: dict[HostId, int] = {}
        self.maps: list[BucketMap] = [empty_map(buckets) for _ in rules]
        self.flows: dict[HostId, Flows] = {}
        self.tables: dict[HostId, FilterTable] = {}
        self.now_ms = 0
        self.converge(hosts)

    def converge(self, weights: Mapping[HostId, int]) -> None:
        """These hosts live now, with these weights. Each learns which of its buckets others still use."""
        self.weights = dict(weights)
        self.flows = {host: self.flows.get(host, Flows()) for host in weights}
        for at, rule in enumerate(self.rules):
            if rule.mode is FilteringMode.MULTIPLE:
                self.maps[at] = next_map(self.maps[at], self.weights)
            else:
                owner = single_owner({host: int(host) for host in weights})
                self.maps[at] = (owner,) * self.buckets
        default = default_host(weights)
        for host in weights:
            base = self._table(host, default)
            others = [self._occupied(base, other) for other in weights if other != host]
            marked = [
                replace(each, dirty=frozenset().union(*(o.get(at, frozenset()) for o in others)))
                for at, each in (*enumerate(base.rule_buckets), (32, base.default))
            ]
            self.tables[host] = replace(base, rule_buckets=tuple(marked[:-1]), default=marked[-1])

    def _table(self, host: HostId, default: int) -> FilterTable:
        return FilterTable(
            seed=SEED,
            buckets=self.buckets,
            host=host,
            running=True,
            vips=tuple(map(ip_address, VIPS)),
            rules=self.rules,
            rule_buckets=tuple(RuleBuckets(owners=owners) for owners in self.maps),
            default=all_to(default, self.buckets),
            cluster_mac=CLUSTER_MAC,
            own_mac=OWN_MAC,
        )

    def _occupied(self, table: FilterTable, host: HostId) -> dict[int, frozenset[int]]:
        """The buckets of which a host has connections: where a packet of each of them falls."""
        found: dict[int, set[int]] = {}
        for client, client_port, server, server_port, protocol in self.flows[host].states:
            packet = Packet(
                source=str(client),
                target=str(server),
                protocol=protocol,
                source_port=client_port,
                target_port=server_port,
                flags=ACK,
                body=bytes(16) if protocol != 6 else b"",
            )
            placed = decide(table, Flows(), packet.frame(), self.now_ms)
            if placed.rule is not None and placed.bucket is not None:
                found.setdefault(placed.rule, set()).add(placed.bucket)
        return {rule: frozenset(buckets) for rule, buckets in found.items()}

    def takers(self, frame: bytes) -> list[HostId]:
        """Which hosts take a frame."""
        return [
            host
            for host in self.weights
            if decide(self.tables[host], self.flows[host], frame, self.now_ms).verdict is Verdict.ACCEPT
        ]


weights_of_hosts = st.dictionaries(
    st.integers(1, 32).map(HostId), st.sampled_from([0, 1, 30, 50, 100]), min_size=1, max_size=8
)
bucket_counts = st.sampled_from([BUCKETS_COMPATIBLE, BUCKETS_LARGE])
seeds = st.integers(0, 2**32)


@given(seed=seeds, weights=weights_of_hosts, buckets=bucket_counts)
@settings(max_examples=60, deadline=None)
def test_exactly_one_live_host_takes_any_frame(seed: int, weights: dict[HostId, int], buckets: int) -> None:
    """Any rules, any weights, any frame: all hosts give one of the reasons for which all decide alike, or just one of
    them takes it. Frames cut off or bent included; without what hosts remember, which is another law."""
    chance = random.Random(seed)
    hosts = Hosts(random_rules(chance), weights, buckets)
    frames = Frames(chance)
    for _ in range(40):
        frame = frames.next()
        said = {host: decide(table, Flows(), frame, 0) for host, table in hosts.tables.items() if host in weights}
        reasons = {each.reason for each in said.values()}
        takers = [host for host, each in said.items() if each.verdict is Verdict.ACCEPT]
        if reasons & EVERYWHERE:
            assert len(reasons) == 1 and len(takers) == len(weights)
        elif any(each.verdict is Verdict.PASS for each in said.values()):
            assert len(reasons) == 1
        elif reasons & NOBODY:
            assert len(reasons) == 1 and not takers
        else:
            assert len(takers) == 1, frame.hex()
        placed = {(each.rule, each.bucket, each.owner) for each in said.values()}
        assert len(placed) == 1


clients = st.lists(st.integers(1, 2**32 - 2**29), min_size=1, max_size=60, unique=True)


def syn(client: int, port: int = 40_000) -> bytes:
    """The first packet of a connection of that client."""
    return Packet(source=str(ip_address(client)), source_port=port).frame()


@given(weights=weights_of_hosts, leaver=st.data(), addresses=clients, buckets=bucket_counts)
@settings(max_examples=60, deadline=None)
def test_a_leave_moves_only_the_clients_of_the_leaver(
    weights: dict[HostId, int], leaver: st.DataObject, addresses: list[int], buckets: int
) -> None:
    hosts = Hosts((PortRule(),), {**weights, HostId(32): 50}, buckets)
    before = {client: hosts.takers(syn(client)) for client in addresses}
    gone = leaver.draw(st.sampled_from(sorted(hosts.weights)))
    left = {host: weight for host, weight in hosts.weights.items() if host != gone}
    hosts = Hosts((PortRule(),), {**weights, HostId(32): 50}, buckets)
    hosts.converge(left)

    for client in addresses:
        after = hosts.takers(syn(client, 40_001))
        assert after == before[client] or before[client] == [gone]
        assert len(after) == (1 if any(left.values()) else 0)


@given(weights=weights_of_hosts, joiner=st.integers(1, 32).map(HostId), addresses=clients, buckets=bucket_counts)
@settings(max_examples=60, deadline=None)
def test_a_join_moves_clients_only_to_the_joiner(
    weights: dict[HostId, int], joiner: HostId, addresses: list[int], buckets: int
) -> None:
    weights = {host: weight for host, weight in weights.items() if host != joiner} or {HostId(joiner % 32 + 1): 50}
    if not any(weights.values()):
        weights = dict.fromkeys(weights, 50)
    hosts = Hosts((PortRule(),), weights, buckets)
    before = {client: hosts.takers(syn(client)) for client in addresses}
    hosts.converge({**weights, joiner: 50})

    for client in addresses:
        after = hosts.takers(syn(client, 40_001))
        assert after in (before[client], [joiner])


events = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(1, 40)),
        st.tuples(st.just("again"), st.integers(0, 200)),
        st.tuples(st.just("send"), st.integers(0, 200)),
        st.tuples(st.just("close"), st.integers(0, 200)),
        st.tuples(st.just("reset"), st.integers(0, 200)),
        st.tuples(st.just("leave"), st.integers(1, 6)),
        st.tuples(st.just("join"), st.integers(1, 6)),
        st.tuples(st.just("weigh"), st.integers(1, 6)),
    ),
    max_size=60,
)


@given(happens=events, seed=seeds, affinity=st.sampled_from(list(Affinity)))
@settings(max_examples=80, deadline=None)
def test_a_connection_stays_where_it_is_while_its_host_lives(
    happens: list[tuple[str, int]], seed: int, affinity: Affinity
) -> None:
    """Hosts come, go and change their weights; whoever took the first packet of a connection takes every other one,
    alone, until it ends or that host is gone."""
    chance = random.Random(seed)
    hosts = Hosts((PortRule(affinity=affinity),), {HostId(1): 50, HostId(2): 50}, BUCKETS_COMPATIBLE)
    homes: dict[tuple[int, int], HostId] = {}
    for what, number in happens:
        hosts.now_ms += chance.choice((0, 1, 500))
        living = dict(hosts.weights)
        keys = sorted(homes)
        match what:
            case "open":
                key = (number, chance.randint(1024, 65_535))
                (home,) = hosts.takers(frame_of(*key, SYN))
                homes[key] = home
                assert hosts.takers(frame_of(*key, ACK)) == [home]
            case "again" if keys:
                # The client has given the connection up and begins anew with the same port.
                key = keys[number % len(keys)]
                (homes[key],) = hosts.takers(frame_of(*key, SYN))
                assert hosts.takers(frame_of(*key, ACK)) == [homes[key]]
            case "leave" if len(living) > 1:
                living.pop(HostId(number), None)
                hosts.converge(living or hosts.weights)
            case "join" | "weigh":
                hosts.converge({**living, HostId(number): chance.choice((10, 50, 100))})
            case "send" | "close" | "reset" if keys:
                key = keys[number % len(keys)]
                home = homes[key]
                flags = {"send": ACK, "close": FIN | ACK, "reset": RST}[what]
                assert hosts.takers(frame_of(*key, flags)) == [home], (what, key)
                if what == "reset":
                    del homes[key]
        gone = [key for key, home in homes.items() if home not in hosts.weights]
        for key in gone:
            del homes[key]


def frame_of(client: int, port: int, flags: int) -> bytes:
    """A packet of a connection to port 80."""
    return Packet(source=f"198.51.100.{client}", source_port=port, flags=flags).frame()


@given(client=st.integers(1, 254), server=st.integers(1, 254), port=st.integers(1024, 65_535), hosts=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_both_directions_meet_on_one_host(client: int, server: int, port: int, hosts: int) -> None:
    """A team: what the client sends comes by the outer adapter, what the server answers by the inner one, which is
    reversed; with the same map one host takes both."""
    outside = Hosts((PortRule(),), {HostId(host): 50 for host in range(1, hosts + 1)}, BUCKETS_COMPATIBLE)
    request = Packet(source=f"198.51.100.{client}", source_port=port, target=f"203.0.113.{server}")
    answer = Packet(source=request.target, source_port=80, target=request.source, target_port=port, flags=SYN | ACK)
    took: list[list[HostId]] = []
    for reverse, packet in ((False, request), (True, answer)):
        took.append(
            [
                host
                for host in outside.weights
                if decide(
                    replace(outside.tables[host], transit=True, reverse=reverse), Flows(), packet.frame(), 0
                ).verdict
                is Verdict.ACCEPT
            ]
        )

    assert len(took[0]) == 1
    assert took[0] == took[1]


def test_clients_are_spread_as_chance_would() -> None:
    """Sixteen thousand clients in a row over 960 buckets: no bucket has more than chance explains (17 are expected, and
    more than 45 would happen once in millions of such runs)."""
    counts = [0] * BUCKETS_LARGE
    for number in range(16_320):
        address = ip_address((10 << 24) + number)
        counts[bucket_of(SEED, BUCKETS_LARGE, Affinity.SINGLE, address, None)] += 1

    assert sum(counts) == 16_320
    assert max(counts) <= 45


def test_what_is_known_runs_out() -> None:
    """A flow is remembered for its time after the last packet that was noted, and not a millisecond longer."""
    hosts = Hosts((PortRule(),), {HostId(1): 50}, BUCKETS_COMPATIBLE)
    table, flows = hosts.tables[HostId(1)], Flows()
    decide(table, flows, frame_of(7, 1000, SYN), 0)
    assert decide(table, flows, frame_of(7, 1000, ACK), 60_000).known is FlowState.OPENING
    decide(table, flows, frame_of(7, 1000, FIN | ACK), 70_000)
    assert decide(table, flows, frame_of(7, 1000, ACK), 130_000).known is FlowState.CLOSING
    assert decide(table, flows, frame_of(7, 1000, ACK), 190_001).known is FlowState.UNKNOWN

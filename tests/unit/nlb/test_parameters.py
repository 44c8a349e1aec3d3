"""Parameters of clusters and hosts: properties and values mean each other, and every refusal names its way out."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.model.ids import HostId
from clussvc.model.monitoring import PropertyValue
from clussvc.nlb.filter_table import ADDRESSES_MAX
from clussvc.nlb.mac import OperationMode
from clussvc.nlb.parameters import (
    CLUSTER_DEFAULTS,
    VIPS_MAX,
    Balancing,
    ClusterParameters,
    HostParameters,
    HostState,
    InterfaceAddress,
    RuleNumber,
    Team,
    host_of,
    parse_host,
    read_parameters,
    validate_hosts,
    write_parameters,
)
from clussvc.nlb.port_rule import FilteringMode, PortRule, parse_scope

PRIMARY = InterfaceAddress(address=ip_address("192.0.2.10"), prefix=24)
SCOPES = [scope for scope in map(parse_scope, ["80", "all:80", "192.0.2.10:80", "[2001:db8::1]:80", "all"]) if scope]


@st.composite
def hosts(draw: st.DrawFn) -> HostParameters:
    """Parameters of a host that are valid by themselves."""
    weights = st.builds(RuleNumber, scope=st.sampled_from(SCOPES), number=st.integers(0, 100))
    handling = st.builds(RuleNumber, scope=st.sampled_from(SCOPES), number=st.integers(1, 32))
    dips = [InterfaceAddress(address=ip_address(word), prefix=24) for word in ("192.0.2.1", "2001:db8::9")]
    return HostParameters(
        node=draw(st.sampled_from(["NODE1", "a node", "x'y"])),
        host=HostId(draw(st.integers(1, 32))),
        dips=tuple(draw(st.lists(st.sampled_from(dips), unique=True))),
        initial=draw(st.sampled_from(HostState)),
        persist=frozenset(draw(st.sets(st.sampled_from(HostState)))),
        weights=tuple(draw(st.lists(weights, max_size=3))),
        handling=tuple(draw(st.lists(handling, max_size=3))),
    )


@given(host=hosts())
def test_the_text_of_a_host_means_the_host(host: HostParameters) -> None:
    """And nothing is wrong with it."""
    assert host == parse_host(host.text())
    assert host.validate() == ()


def test_properties_mean_parameters() -> None:
    """Everything that can be set, there and back."""
    values: dict[str, PropertyValue] = {
        "ClusterIPAddress": "192.0.2.10",
        "ClusterNetworkMask": "255.255.255.0",
        "VirtualIPAddresses": ("192.0.2.11/24", "2001:db8::10/64"),
        "ClusterName": "web.example.com",
        "OperationMode": "IGMP",
        "ClusterNetworkAddress": "01-00-5e-7f-02-0a",
        "MaskSourceMAC": 0,
        "IGMPVersion": 3,
        "BucketCount": 960,
        "PortRules": ("All 80 TCP Multiple Single 30", "192.0.2.11 25 TCP Single"),
        "HostParameters": ("N2 priority=2 weight:80=70", "N1 priority=1 dip=192.0.2.1/24 handling:25=7"),
        "AliveMsgPeriod": 25,
        "AliveMsgTolerance": 6,
        "FilterICMP": 1,
        "TCPConnectionTimeout": 30,
        "IPSecConnectionTimeout": 600,
        "TeamID": "inside",
        "Master": 1,
        "ReverseHash": 1,
    }
    read, problems = read_parameters(values)

    assert problems == ()
    assert read is not None
    assert [host.node for host in read.hosts] == ["N1", "N2"]
    assert (read.cluster.mode, read.cluster.detection_ms) == (OperationMode.IGMP, 150)
    assert read.cluster.team == Team(id="inside", master=True, reverse_hash=True)
    assert [read.hosts[1].weight(rule) for rule in read.cluster.rules] == [50, 70]
    assert [read.hosts[0].handling_priority(rule) for rule in read.cluster.rules] == [7, 1]
    assert read == read_parameters(write_parameters(read))[0]


def test_one_address_is_enough() -> None:
    """Everything else has a default; the total of detection is at most a second."""
    read, problems = read_parameters({"ClusterIPAddress": "192.0.2.10"})

    assert problems == ()
    assert read == Balancing(cluster=ClusterParameters(address=PRIMARY))
    assert read.cluster.detection_ms <= 1_000
    assert dict(CLUSTER_DEFAULTS).keys() == write_parameters(read).keys()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ClusterIPAddress", "web", "ClusterIPAddress is 'web'"),
        ("ClusterIPAddress", "224.0.0.9", "224.0.0.9 cannot be an address"),
        ("ClusterNetworkMask", "255.0.255.0", "the mask '255.0.255.0'"),
        ("ClusterNetworkMask", "0", "the mask '0'"),
        ("VirtualIPAddresses", ("192.0.2.11",), "give an address with its prefix"),
        ("VirtualIPAddresses", ("192.0.2.10/24",), "192.0.2.10 is given more than once"),
        ("OperationMode", "broadcast", "give unicast, multicast or igmp"),
        ("ClusterNetworkAddress", "02:bf", "give one such as 02-bf-c0-00-02-0a"),
        ("ClusterNetworkAddress", "03-bf-c0-00-02-0a", "the mode unicast needs a unicast address"),
        ("MaskSourceMAC", 2, "MaskSourceMAC is 2; give 0 or 1"),
        ("IGMPVersion", 4, "give 1, 2 or 3"),
        ("BucketCount", 64, "BucketCount is 64; give one of 60 or 960"),
        ("AliveMsgPeriod", 5, "give milliseconds in 10..10000"),
        ("AliveMsgPeriod", "soon", "AliveMsgPeriod is 'soon', which is not a number"),
        ("AliveMsgTolerance", 4, "give a number of periods in 5..100"),
        ("TCPConnectionTimeout", 0, "give seconds in 1..86400"),
        ("IPSecConnectionTimeout", 0, "give seconds in 1..604800"),
        ("Master", 1, "give its TeamID as well"),
        ("PortRules", ("All 80 TCP Multiple", "All 80 TCP Single"), "overlap"),
        ("PortRules", ("192.0.2.99 80 TCP Multiple",), "192.0.2.99 is not a virtual address"),
        ("HostParameters", ("N1 priority=33",), "Host 'N1': the priority is 33"),
        ("HostParameters", ("N1",), "give priority=N"),
        ("HostParameters", ("priority=1",), "do not begin with a node"),
        ("HostParameters", ("N1 priority=1 colour=red",), "'colour=red' is not understood"),
        ("HostParameters", ("N1 priority=1 weight:web=3",), "write weight:PORT=N"),
        ("HostParameters", ("N1 priority=1 dip=192.0.2.1",), "not an address with its prefix"),
        ("HostParameters", ("N1 priority=1 state=asleep",), "the states are started, stopped or suspended"),
        ("HostParameters", ("N1 priority=1 weight:80=101",), "give a number in 0..100"),
        ("HostParameters", ("N1 priority=1 handling:80=0",), "give a number in 1..32"),
        ("HostParameters", ("N1 priority=1", "N2 priority=1"), "'N1' and 'N2' have the priority 1"),
        ("HostParameters", ("N1 priority=1", "n1 priority=2"), "is given more than once"),
        ("HostParameters", ("N1 priority=1 dip=192.0.2.10/24",), "is a virtual address of the cluster too"),
        (
            "HostParameters",
            ("N1 priority=1 dip=192.0.2.1/24", "N2 priority=2 dip=192.0.2.1/24"),
            "given more than once",
        ),
        ("HostParameters", ("N1 'priority=1",), "a quotation mark is not closed"),
    ],
)
def test_what_is_refused(name: str, value: PropertyValue, words: str) -> None:
    """One wrong value, and the sentence that says so; nothing is read from the rest."""
    read, problems = read_parameters({"ClusterIPAddress": "192.0.2.10", name: value})

    assert read is None
    assert any(words in problem for problem in problems), problems


def test_too_many() -> None:
    """More addresses or hosts than there may be."""
    vips = tuple(f"192.0.2.{number}/24" for number in range(100, 164))
    _, problems = read_parameters({"ClusterIPAddress": "192.0.2.10", "VirtualIPAddresses": vips})
    assert "64 further virtual addresses; a cluster has at most 63" in problems[0]
    assert VIPS_MAX + 1 == ADDRESSES_MAX, "with the primary one they are what a filter takes"

    many = [HostParameters(node=f"N{number}", host=HostId(number)) for number in range(1, 34)]
    problems = validate_hosts(ClusterParameters(address=PRIMARY), many)
    assert "There are 33 hosts; a load-balanced cluster has at most 32." in problems


def test_hosts_and_rules_together() -> None:
    """Handling priorities are unique in each rule, and a scope that means no rule is a mistake of typing."""
    single = PortRule(start_port=25, end_port=25, mode=FilteringMode.SINGLE)
    scope = parse_scope("25")
    nowhere = parse_scope("26")
    assert scope is not None and nowhere is not None
    one = HostParameters(node="N1", host=HostId(1))
    two = HostParameters(node="N2", host=HostId(2), handling=(RuleNumber(scope=scope, number=1),))
    cluster = ClusterParameters(address=PRIMARY, rules=(single,))

    (problem,) = validate_hosts(cluster, [one, two])
    assert "'All 25-25 Both': two hosts have the handling priority 1" in problem

    lost = HostParameters(node="N1", host=HostId(1), weights=(RuleNumber(scope=nowhere, number=1),))
    (problem,) = validate_hosts(cluster, [lost])
    assert "no port rule is meant by 26" in problem


def test_a_team_needs_single_affinity() -> None:
    """Ports change between its networks."""
    _, problems = read_parameters(
        {"ClusterIPAddress": "192.0.2.10", "TeamID": "T", "PortRules": ("All 80 TCP Multiple None",)}
    )

    assert "a team needs affinity Single" in problems[0]


def test_a_node_without_parameters() -> None:
    """Its number is its host id, unless somebody else has that or there is no such host id."""
    given_ones = [HostParameters(node="NODE9", host=HostId(2))]

    assert host_of(given_ones, "node9", 9) == given_ones[0]
    assert host_of(given_ones, "NODE1", 1) == HostParameters(node="NODE1", host=HostId(1))
    assert "its number 2 belongs to host 'NODE9'" in str(host_of(given_ones, "NODE2", 2))
    assert "its number 33 is not in 1..32" in str(host_of(given_ones, "NODE33", 33))


def test_the_code_tells_what_must_be_equal() -> None:
    """Not the order of addresses, and not how often heartbeats are sent."""
    two = InterfaceAddress(address=ip_address("192.0.2.11"), prefix=24)
    base = ClusterParameters(address=PRIMARY, vips=(two,))
    others = [
        ClusterParameters(address=PRIMARY),
        ClusterParameters(address=PRIMARY, vips=(two,), mode=OperationMode.MULTICAST),
        ClusterParameters(address=PRIMARY, vips=(two,), bucket_count=960),
        ClusterParameters(address=PRIMARY, vips=(two,), filter_icmp=True),
        ClusterParameters(address=PRIMARY, vips=(two,), mac=b"\x02\xbf\1\2\3\4"),
    ]

    assert base.code() == ClusterParameters(address=PRIMARY, vips=(two,), period_ms=25, name="other").code()
    assert len({base.code(), *(other.code() for other in others)}) == 6

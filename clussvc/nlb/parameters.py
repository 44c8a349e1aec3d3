"""Parameters of a load-balanced cluster and of its hosts, as values and as the properties of its resource.

Cluster parameters and port rules are entered once and are equal on all hosts, since the cluster's log carries
them. Host parameters are those in which hosts may differ; one string of the property ``HostParameters`` for each host::

    NODE1 priority=1 dip=192.0.2.1/24 weight:80=30 handling:all:25=2 state=stopped persist=stopped,suspended

``priority`` is the host id, 1..32. ``dip`` gives dedicated addresses, which are never balanced. ``weight:SCOPE`` and
``handling:SCOPE`` give this host's load and handling priority for the rules that the scope names (see
:class:`~clussvc.nlb.port_rule.RuleScope`); the last one that names a rule counts. Without them the load is that of the
rule, and the handling priority is the host id, which no other host has. ``state`` is the one in which balancing
starts on the host, and ``persist`` lists the states that outlive a restart.

Names of properties are those of the original's registry, where it has them.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from clussvc.model.ids import HostId
from clussvc.model.monitoring import PropertyValue
from clussvc.nlb.bucket_map import BUCKET_COUNTS, BUCKETS_COMPATIBLE, WEIGHT_MAX
from clussvc.nlb.mac import Address, OperationMode, cluster_mac, mac_text, parse_mac
from clussvc.nlb.port_rule import DEFAULT_RULES, HOSTS_MAX, FilteringMode, PortRule, RuleScope, parse_rules, parse_scope

_Value = TypeVar("_Value")

VIPS_MAX = 63
"""Virtual addresses of one cluster besides the primary one; with it they are as many as the packet filter takes."""
DIPS_MAX = 16
"""Dedicated addresses of one host."""
LOADS_MAX = 64
"""Loads and handling priorities that one host may have of its own."""
NODE_NAME_LENGTH_MAX = 255

PERIOD_MS_DEFAULT = 100
TOLERANCE_DEFAULT = 5


@unique
class HostState(Enum):
    """What an administrator asked of balancing on a host."""

    STARTED = "started"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    """Stopped, and every control command but ``resume`` is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceAddress:
    """An address with the length of its network's prefix."""

    address: Address
    prefix: int

    def text(self) -> str:
        """``192.0.2.1/24``."""
        return f"{self.address}/{self.prefix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A bi-directional affinity team: adapters of one host that decide with the load of the team's master."""

    id: str
    master: bool
    reverse_hash: bool
    """This adapter sees the traffic in the other direction: the destination counts as the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterParameters:
    """All that is equal on the hosts of one load-balanced cluster."""

    address: InterfaceAddress
    """The primary virtual address; clusters on one segment are told apart by it."""
    vips: tuple[InterfaceAddress, ...] = ()
    """Further virtual addresses."""
    name: str = ""
    mode: OperationMode = OperationMode.UNICAST
    mac: bytes | None = None
    """The cluster's link address; None: derived from the primary address."""
    mask_source_mac: bool = True
    """In unicast mode, frames are sent from the host's own or masked address, so that no switch learns the
    cluster's."""
    igmp_version: int = 2
    """1..3; 2 because a version 2 querier that hears version 1 must stop honouring leaves (RFC 2236)."""
    bucket_count: int = BUCKETS_COMPATIBLE
    rules: tuple[PortRule, ...] = DEFAULT_RULES
    """In canonical order."""
    period_ms: int = PERIOD_MS_DEFAULT
    """Between two heartbeats of a host; 10..10000. The original's 1000 makes failures last ten times as long."""
    tolerance: int = TOLERANCE_DEFAULT
    """Periods of silence after which a host counts as dead; 5..100. So 0.5 s by default."""
    filter_icmp: bool = False
    """ICMP is balanced by client; otherwise every host receives it."""
    tcp_timeout_s: int = 60
    """How long a closing connection is remembered."""
    ipsec_timeout_s: int = 86_400
    """How long an IPsec session without traffic is remembered."""
    team: Team | None = None

    @property
    def detection_ms(self) -> int:
        """The silence after which a host counts as dead."""
        return self.period_ms * self.tolerance

    @property
    def all_vips(self) -> tuple[Address, ...]:
        """Every virtual address, the primary one first."""
        return (self.address.address, *(vip.address for vip in self.vips))

    def link_address(self) -> bytes:
        """Where clients' frames go: six octets."""
        return self.mac or cluster_mac(self.mode, self.address.address)

    def code(self) -> int:
        """The 32-bit digest of all that must be equal on the hosts besides the rules; never 0.

        The period, the tolerance and the team are not part of it: hosts may differ in the first two for the moment in
        which a change spreads, and heartbeats have a word of their own for the team.
        """
        vips = sorted(map(str, self.all_vips))
        words = (*vips, self.mode.value, self.link_address().hex(), str(self.bucket_count), str(int(self.filter_icmp)))
        digest = hashlib.blake2b("|".join(words).encode(), digest_size=4, person=b"nlb cluster").digest()
        return int.from_bytes(digest, "little") or 1

    def validate(self) -> tuple[str, ...]:
        """All that is wrong with these values, in sentences; empty when they may be used."""
        problems = []
        if not 10 <= self.period_ms <= 10_000:
            problems.append(f"AliveMsgPeriod is {self.period_ms}; give milliseconds in 10..10000.")
        if not 5 <= self.tolerance <= 100:
            problems.append(f"AliveMsgTolerance is {self.tolerance}; give a number of periods in 5..100.")
        if self.bucket_count not in BUCKET_COUNTS:
            problems.append(f"BucketCount is {self.bucket_count}; give one of {_listed(BUCKET_COUNTS)}.")
        if not 1 <= self.tcp_timeout_s <= 86_400:
            problems.append(f"TCPConnectionTimeout is {self.tcp_timeout_s}; give seconds in 1..86400.")
        if not 1 <= self.ipsec_timeout_s <= 604_800:
            problems.append(f"IPSecConnectionTimeout is {self.ipsec_timeout_s}; give seconds in 1..604800.")
        if not 1 <= self.igmp_version <= 3:
            problems.append(f"IGMPVersion is {self.igmp_version}; give 1, 2 or 3.")
        problems += [_unfit(vip) for vip in (self.address, *self.vips) if _unfit(vip)]
        if len(self.vips) > VIPS_MAX:
            problems.append(f"There are {len(self.vips)} further virtual addresses; a cluster has at most {VIPS_MAX}.")
        vips = self.all_vips
        problems += [f"{vip} is given more than once; each virtual address is given once." for vip in _repeated(vips)]
        if self.mac is not None:
            wanted = self.mode is not OperationMode.UNICAST
            if len(self.mac) != 6 or bool(self.mac[0] & 1) != wanted or self.mac in (b"\xff" * 6, bytes(6)):
                kind = "a multicast" if wanted else "a unicast"
                problems.append(
                    f"ClusterNetworkAddress is {mac_text(self.mac)}; the mode {self.mode.value} needs {kind} address."
                    " Leave it empty to derive it."
                )
        if self.team is not None:
            problems += [
                f"Port rule '{rule.title}': a team needs affinity Single, since ports change between its networks."
                for rule in self.rules
                if rule.mode is FilteringMode.MULTIPLE and rule.affinity.value != "Single"
            ]
        return tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleNumber:
    """A number that a host has of its own for the rules of a scope."""

    scope: RuleScope
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostParameters:
    """All in which one host differs from the others of its cluster."""

    node: str
    """The name of the cluster's node."""
    host: HostId
    """1..32; unique. The lowest one that lives is the default host."""
    dips: tuple[InterfaceAddress, ...] = ()
    """Dedicated addresses on the balanced adapter: never balanced."""
    initial: HostState = HostState.STARTED
    persist: frozenset[HostState] = frozenset()
    """States that are found again after a restart of the host."""
    weights: tuple[RuleNumber, ...] = ()
    handling: tuple[RuleNumber, ...] = ()

    def weight(self, rule: PortRule) -> int:
        """This host's weight in a rule with many hosts, 0..100."""
        return next((each.number for each in reversed(self.weights) if each.scope.means(rule)), rule.weight)

    def handling_priority(self, rule: PortRule) -> int:
        """This host's priority in a rule with one host, 1..32."""
        return next((each.number for each in reversed(self.handling) if each.scope.means(rule)), int(self.host))

    def text(self) -> str:
        """The canonical text; :func:`parse_host` understands it."""
        words = [shlex.quote(self.node), f"priority={self.host}"]
        if self.dips:
            words.append(f"dip={','.join(dip.text() for dip in self.dips)}")
        if self.initial is not HostState.STARTED:
            words.append(f"state={self.initial.value}")
        if self.persist:
            words.append(f"persist={','.join(state.value for state in HostState if state in self.persist)}")
        words += [f"weight:{each.scope.text()}={each.number}" for each in self.weights]
        words += [f"handling:{each.scope.text()}={each.number}" for each in self.handling]
        return " ".join(words)

    def validate(self) -> tuple[str, ...]:
        """All that is wrong with these values by themselves, in sentences that name the host."""
        problems = []
        if not self.node or len(self.node) > NODE_NAME_LENGTH_MAX or not self.node.isprintable():
            problems.append("the name must be that of a node of the cluster")
        if not 1 <= self.host <= HOSTS_MAX:
            problems.append(f"the priority is {self.host}; give a number in 1..{HOSTS_MAX} that no other host has")
        problems += [_unfit(dip).rstrip(".") for dip in self.dips if _unfit(dip)]
        if len(self.dips) > DIPS_MAX:
            problems.append(f"it has {len(self.dips)} dedicated addresses; give at most {DIPS_MAX}")
        if len(self.weights) + len(self.handling) > LOADS_MAX:
            problems.append(f"it has more than {LOADS_MAX} loads and handling priorities of its own")
        problems += [
            f"the weight for {each.scope.text()} is {each.number}; give a number in 0..{WEIGHT_MAX}"
            for each in self.weights
            if not 0 <= each.number <= WEIGHT_MAX
        ]
        problems += [
            f"the handling priority for {each.scope.text()} is {each.number}; give a number in 1..{HOSTS_MAX}"
            for each in self.handling
            if not 1 <= each.number <= HOSTS_MAX
        ]
        return tuple(f"Host {self.node!r}: {problem}." for problem in problems)


def validate_hosts(cluster: ClusterParameters, hosts: Sequence[HostParameters]) -> tuple[str, ...]:
    """All that is wrong with the hosts of one cluster, each alone and together; empty when they may be used."""
    problems = [problem for host in hosts for problem in host.validate()]
    if len(hosts) > HOSTS_MAX:
        return *problems, f"There are {len(hosts)} hosts; a load-balanced cluster has at most {HOSTS_MAX}."
    for name in _repeated([host.node.casefold() for host in hosts]):
        problems.append(f"Host {name!r} is given more than once; give all its parameters in one text.")
    for number in _repeated([host.host for host in hosts]):
        problems.append(f"{_names(hosts, number)} have the priority {number}; every host needs one of its own.")
    dips = [dip.address for host in hosts for dip in host.dips]
    problems += [f"The dedicated address {dip} is given more than once." for dip in _repeated(dips)]
    problems += [
        f"The dedicated address {dip} is a virtual address of the cluster too; it can be only one of them."
        for dip in dips
        if dip in cluster.all_vips
    ]
    for rule in cluster.rules:
        if rule.mode is FilteringMode.SINGLE:
            problems += [
                f"Port rule '{rule.title}': two hosts have the handling priority {number}; give each one of its own."
                for number in _repeated([host.handling_priority(rule) for host in hosts])
            ]
    for host in hosts:
        problems += [
            f"Host {host.node!r}: no port rule is meant by {each.scope.text()}; 'nlb params' lists the rules."
            for each in (*host.weights, *host.handling)
            if not any(each.scope.means(rule) for rule in cluster.rules)
        ]
    return tuple(problems)


def host_of(hosts: Sequence[HostParameters], node: str, number: int) -> HostParameters | str:
    """The parameters of a node: those given for it, or, if there are none, defaults with the node's number as host id.

    A sentence if a node without parameters cannot have that host id.
    """
    for host in hosts:
        if host.node.casefold() == node.casefold():
            return host
    taken = next((host for host in hosts if host.host == number), None)
    if not 1 <= number <= HOSTS_MAX or taken is not None:
        why = f"belongs to host {taken.node!r}" if taken else f"is not in 1..{HOSTS_MAX}"
        return (
            f"Node {node!r} has no host parameters, and its number {number} {why}. Add a text such as"
            f" '{node} priority=N' to HostParameters."
        )
    return HostParameters(node=node, host=HostId(number))


# --- text -----------------------------------------------------------------------------------------------------------

CLUSTER_DEFAULTS: Mapping[str, PropertyValue] = {
    "ClusterIPAddress": "",
    "ClusterNetworkMask": "255.255.255.0",
    "VirtualIPAddresses": (),
    "ClusterName": "",
    "OperationMode": "unicast",
    "ClusterNetworkAddress": "",
    "MaskSourceMAC": 1,
    "IGMPVersion": 2,
    "BucketCount": BUCKETS_COMPATIBLE,
    "PortRules": tuple(rule.text() for rule in DEFAULT_RULES),
    "HostParameters": (),
    "AliveMsgPeriod": PERIOD_MS_DEFAULT,
    "AliveMsgTolerance": TOLERANCE_DEFAULT,
    "FilterICMP": 0,
    "TCPConnectionTimeout": 60,
    "IPSecConnectionTimeout": 86_400,
    "TeamID": "",
    "Master": 0,
    "ReverseHash": 0,
}
"""The properties from which parameters are read, with what counts when one is not set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancing:
    """What the properties of one resource say."""

    cluster: ClusterParameters
    hosts: tuple[HostParameters, ...] = ()


def read_parameters(values: Mapping[str, PropertyValue]) -> tuple[Balancing | None, tuple[str, ...]]:
    """The parameters that properties mean, and all that is wrong with them in sentences; None unless all is well.

    Properties that are not given count as in :data:`CLUSTER_DEFAULTS`; others are passed over.
    """
    given = {**CLUSTER_DEFAULTS, **{name: value for name, value in values.items() if name in CLUSTER_DEFAULTS}}
    problems: list[str] = []

    def text(name: str) -> str:
        return str(given[name]).strip()

    def number(name: str) -> int:
        value = given[name]
        if isinstance(value, int):
            return value
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
            return int(value)
        problems.append(f"{name} is {value!r}, which is not a number.")
        return 0

    def flag(name: str) -> bool:
        value = number(name)
        if value not in (0, 1):
            problems.append(f"{name} is {value}; give 0 or 1.")
        return value == 1

    def texts(name: str) -> tuple[str, ...]:
        value = given[name]
        return value if isinstance(value, tuple) else (str(value),) if value else ()

    primary = _interface_address(f"{text('ClusterIPAddress')}/{text('ClusterNetworkMask').lstrip('/')}")
    if primary is None:
        problems.append(
            f"ClusterIPAddress is {text('ClusterIPAddress')!r} with the mask {text('ClusterNetworkMask')!r}; give"
            " an address such as 192.0.2.10 and a mask such as 255.255.255.0 or 24."
        )
    vips = []
    for word in texts("VirtualIPAddresses"):
        vip = _interface_address(word)
        if vip is None:
            problems.append(f"VirtualIPAddresses has {word!r}; give an address with its prefix, such as 192.0.2.11/24.")
        else:
            vips.append(vip)
    mode = next((mode for mode in OperationMode if mode.value == text("OperationMode").lower()), None)
    if mode is None:
        problems.append(
            f"OperationMode is {text('OperationMode')!r}; give {_listed(each.value for each in OperationMode)}."
        )
    mac = parse_mac(text("ClusterNetworkAddress"))
    if mac is None and text("ClusterNetworkAddress"):
        problems.append(
            f"ClusterNetworkAddress is {text('ClusterNetworkAddress')!r}; give one such as 02-bf-c0-00-02-0a."
        )
    team = None
    master, reverse = flag("Master"), flag("ReverseHash")
    if text("TeamID"):
        team = Team(id=text("TeamID"), master=master, reverse_hash=reverse)
    elif master or reverse:
        problems.append("Master and ReverseHash belong to a team; give its TeamID as well.")
    known = None if primary is None else (primary.address, *(vip.address for vip in vips))
    rules, wrong_rules = parse_rules(texts("PortRules"), known)
    problems += wrong_rules
    hosts, wrong_hosts = parse_hosts(texts("HostParameters"))
    problems += wrong_hosts
    cluster = ClusterParameters(
        address=primary or InterfaceAddress(address=IPv4Address("192.0.2.1"), prefix=24),
        vips=tuple(vips),
        name=text("ClusterName"),
        mode=mode or OperationMode.UNICAST,
        mac=mac,
        mask_source_mac=flag("MaskSourceMAC"),
        igmp_version=number("IGMPVersion"),
        bucket_count=number("BucketCount"),
        rules=rules,
        period_ms=number("AliveMsgPeriod"),
        tolerance=number("AliveMsgTolerance"),
        filter_icmp=flag("FilterICMP"),
        tcp_timeout_s=number("TCPConnectionTimeout"),
        ipsec_timeout_s=number("IPSecConnectionTimeout"),
        team=team,
    )
    problems += cluster.validate()
    if not wrong_hosts and not wrong_rules and primary is not None:
        problems += validate_hosts(cluster, hosts)
    return (None if problems else Balancing(cluster=cluster, hosts=hosts)), tuple(problems)


def write_parameters(balancing: Balancing) -> dict[str, PropertyValue]:
    """The properties that mean these parameters, all of them; :func:`read_parameters` gives the same again."""
    cluster = balancing.cluster
    team = cluster.team
    return {
        "ClusterIPAddress": str(cluster.address.address),
        "ClusterNetworkMask": str(cluster.address.prefix),
        "VirtualIPAddresses": tuple(vip.text() for vip in cluster.vips),
        "ClusterName": cluster.name,
        "OperationMode": cluster.mode.value,
        "ClusterNetworkAddress": mac_text(cluster.mac) if cluster.mac else "",
        "MaskSourceMAC": int(cluster.mask_source_mac),
        "IGMPVersion": cluster.igmp_version,
        "BucketCount": cluster.bucket_count,
        "PortRules": tuple(rule.text() for rule in cluster.rules),
        "HostParameters": tuple(host.text() for host in balancing.hosts),
        "AliveMsgPeriod": cluster.period_ms,
        "AliveMsgTolerance": cluster.tolerance,
        "FilterICMP": int(cluster.filter_icmp),
        "TCPConnectionTimeout": cluster.tcp_timeout_s,
        "IPSecConnectionTimeout": cluster.ipsec_timeout_s,
        "TeamID": team.id if team else "",
        "Master": int(team.master) if team else 0,
        "ReverseHash": int(team.reverse_hash) if team else 0,
    }


def parse_host(text: str) -> HostParameters | str:
    """The parameters that a text means, or a sentence that says what is wrong. They may still be invalid."""
    try:
        words = shlex.split(text)
    except ValueError:
        return f"Host parameters {text!r}: a quotation mark is not closed."
    if not words or "=" in words[0]:
        return f"Host parameters {text!r} do not begin with a node; write NODE priority=N [dip=ADDRESS/PREFIX] ..."
    numbers: dict[str, list[RuleNumber]] = {"weight": [], "handling": []}
    single: dict[str, str] = {}
    for word in words[1:]:
        name, equals, value = word.rpartition("=")
        kind, _, where = name.partition(":")
        kind = kind.lower()
        if equals and kind in numbers and where:
            scope = parse_scope(where)
            if scope is None or not re.fullmatch(r"[0-9]{1,9}", value):
                return (
                    f"Host parameters {text!r}: {word!r} is not understood; write {kind}:PORT=N or {kind}:VIP:PORT=N."
                )
            numbers[kind].append(RuleNumber(scope=scope, number=int(value)))
        elif equals and not where and kind in ("priority", "dip", "state", "persist") and kind not in single:
            single[kind] = value
        else:
            return (
                f"Host parameters {text!r}: {word!r} is not understood; priority=, dip=, state= and persist= may each"
                " be given once, weight:SCOPE= and handling:SCOPE= as often as needed."
            )
    if not re.fullmatch(r"[0-9]{1,9}", single.get("priority", "")):
        return f"Host parameters {text!r}: give priority=N, the host id in 1..{HOSTS_MAX}."
    dips = []
    for each in filter(None, single.get("dip", "").split(",")):
        dip = _interface_address(each)
        if dip is None:
            return f"Host parameters {text!r}: {each!r} is not an address with its prefix, such as 192.0.2.1/24."
        dips.append(dip)
    states = {state.value: state for state in HostState}
    persist = [word.strip().lower() for word in single.get("persist", "").split(",") if word.strip()]
    initial = single.get("state", "started").lower()
    if initial not in states or not set(persist) <= set(states):
        return f"Host parameters {text!r}: the states are {_listed(states)}."
    return HostParameters(
        node=words[0],
        host=HostId(int(single["priority"])),
        dips=tuple(dips),
        initial=states[initial],
        persist=frozenset(states[word] for word in persist),
        weights=tuple(numbers["weight"]),
        handling=tuple(numbers["handling"]),
    )


def parse_hosts(texts: Iterable[str]) -> tuple[tuple[HostParameters, ...], tuple[str, ...]]:
    """The hosts that the strings of ``HostParameters`` mean, by host id, and all texts that mean none."""
    read = [parse_host(text) for text in texts if text.strip()]
    hosts = sorted((each for each in read if isinstance(each, HostParameters)), key=lambda host: host.host)
    return tuple(hosts), tuple(each for each in read if isinstance(each, str))


def _interface_address(text: str) -> InterfaceAddress | None:
    where, _, length = text.strip().partition("/")
    if "%" in where:
        return None
    try:
        address = ip_address(where)
    except ValueError:
        return None
    if re.fullmatch(r"[0-9]{1,3}", length):
        prefix = int(length)
    else:
        try:
            mask = int(IPv4Address(length)) if address.version == 4 else int(IPv6Address(length))
        except ValueError:
            return None
        prefix = mask.bit_count()
        if mask != (1 << address.max_prefixlen) - (1 << (address.max_prefixlen - prefix)):
            return None
    return InterfaceAddress(address=address, prefix=prefix) if 1 <= prefix <= address.max_prefixlen else None


def _unfit(given: InterfaceAddress) -> str:
    address = given.address
    if (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address == IPv4Address("255.255.255.255")
    ):
        return f"{address} cannot be an address of a host or a cluster; give another one."
    return ""


def _repeated(values: Sequence[_Value]) -> list[_Value]:
    """Each value that stands there more than once, in the order of its first place."""
    return [value for at, value in enumerate(values) if values.count(value) > 1 and values.index(value) == at]


def _names(hosts: Sequence[HostParameters], number: int) -> str:
    return " and ".join(repr(host.node) for host in hosts if host.host == number)


def _listed(words: Iterable[object]) -> str:
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last

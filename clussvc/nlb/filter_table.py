"""What the packet filter of one host decides from, and what it says: plain values.

A :class:`FilterTable` is complete: with the same table and the same frames every host comes to the same verdicts
about itself. It is made anew for every change and replaces the former one whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, unique

from clussvc.model.ids import HostId
from clussvc.nlb.bucket_map import BUCKETS_COMPATIBLE, NOBODY, BucketMap
from clussvc.nlb.mac import MAC_BYTES, Address
from clussvc.nlb.port_rule import HOSTS_MAX, RULES_MAX, PortRule, validate_rules

BUCKETS_MAX = 1024
"""Room in the filter for the buckets of one rule."""
ADDRESSES_MAX = 64
"""Virtual addresses of one cluster, and dedicated ones of one host."""
SEED_BYTES = 16
DEFAULT_RULE = 32
"""Stands for the default rule where rules are numbered: what no rule covers, taken by the default host."""


@unique
class Verdict(Enum):
    """What becomes of a frame."""

    PASS = "pass"  # noqa: S105
    """Not for the cluster: as if there were no filter."""
    ACCEPT = "accept"
    """For the cluster, and this host takes it."""
    DROP = "drop"


@unique
class Reason(Enum):
    """Why; the words under which frames are counted."""

    NOT_IP = "not-ip"
    OTHER_ADDRESS = "other-address"
    DEDICATED = "dedicated-address"
    BUCKET_OWNER = "bucket-owner"
    SINGLE_HOST = "single-host"
    DEFAULT_HOST = "default-host"
    KNOWN_CONNECTION = "known-connection"
    KNOWN_SESSION = "known-session"
    ICMP_EVERYWHERE = "icmp-everywhere"
    NEIGHBOUR = "neighbour-discovery"
    FRAGMENT_FOLLOWS = "fragment-follows"
    FRAGMENT_UNPLACED = "fragment-unplaced"
    MALFORMED = "malformed"
    TOO_MANY_HEADERS = "too-many-headers"
    STOPPED = "stopped"
    RULE_DISABLED = "rule-disabled"
    RULE_CUT = "rule-disabled-here"
    OTHER_BUCKET = "bucket-of-another"
    NOT_SINGLE_HOST = "not-single-host"
    NOT_DEFAULT_HOST = "not-default-host"
    NOBODY = "nobody-owns"
    DIRTY = "dirty-bucket"
    OTHER_FRAGMENT = "fragment-of-another"


@unique
class FlowState(Enum):
    """What a host knows of a connection, a session or a fragmented datagram."""

    UNKNOWN = "unknown"
    OPENING = "opening"
    """Its first packet was accepted."""
    OPEN = "open"
    CLOSING = "closing"
    """A FIN was seen; what follows is the rest of it."""
    FRAGMENT_ACCEPTED = "fragment-accepted"
    FRAGMENT_DROPPED = "fragment-dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowTimes:
    """For how long a flow is remembered after its last packet, in milliseconds, 1..2**31. The filter measures in ticks
    of the kernel's timer (1 to 10 ms)."""

    opening_ms: int = 60_000
    """A connection whose second packet has not come. Clients give up a connection after about a minute."""
    idle_ms: int = 86_400_000
    """An open TCP connection without packets: a day, since nothing says when a silent one ends."""
    closing_ms: int = 60_000
    """After a FIN: ``TCPConnectionTimeout`` of the original."""
    gre_ms: int = 3_600_000
    """A PPTP tunnel without packets. (The original's value is not published reliably; tunnels may well be silent.)"""
    ipsec_ms: int = 86_400_000
    """An IPsec session: ``IPSecConnectionTimeout`` of the original."""
    fragment_ms: int = 30_000
    """Fragments of a datagram: as long as the stack waits for the rest."""
    touch_ms: int = 1_000
    """For how long a flow in use need not be noted anew."""

    def validate(self) -> tuple[str, ...]:
        """What is wrong with the times."""
        named = {name: getattr(self, name) for name in self.__slots__}
        return tuple(
            f"The time {name} of the filter is {value}; give milliseconds in 1..{1 << 31}."
            for name, value in named.items()
            if not 1 <= value <= 1 << 31
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleBuckets:
    """Who takes what of one rule.

    All modes use buckets: with Single and for the default rule one host owns all of them.
    """

    owners: BucketMap
    """For each bucket the host that owns it, or nobody (0)."""
    dirty: frozenset[int] = frozenset()
    """Own buckets of which another host still has connections: of these this host takes what opens a connection and
    what it knows, and leaves everything else of TCP, GRE and IPsec to the other."""
    kept: frozenset[int] | None = None
    """Buckets of others of which this host may still have connections; None: any. Only there does it look for them."""
    cut: bool = False
    """This host takes nothing of the rule, not even what it knows (the command ``disable``). To *drain* a rule, only
    give its buckets away."""

    def validate(self, buckets: int, title: str) -> tuple[str, ...]:
        """What is wrong, in sentences that name the rule."""
        problems = []
        if len(self.owners) != buckets:
            problems.append(f"{title} has owners for {len(self.owners)} buckets; there are {buckets}.")
        if not all(NOBODY <= owner <= HOSTS_MAX for owner in self.owners):
            problems.append(f"{title} has an owner that is no host; hosts are 1..{HOSTS_MAX}, and 0 is nobody.")
        if not all(0 <= bucket < buckets for bucket in self.dirty | (self.kept or frozenset())):
            problems.append(f"{title} marks a bucket that does not exist; there are {buckets}.")
        return tuple(problems)


def all_to(host: int, buckets: int) -> RuleBuckets:
    """One host owns everything, as with Single and for the default rule."""
    return RuleBuckets(owners=(host,) * buckets)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterTable:
    """All that the filter of one host decides from, besides the frames and the flows it knows."""

    generation: int = 0
    """A number of the maker's choice, 0..2**64-1; it is only told."""
    seed: bytes
    """The key of the hash: sixteen bytes, equal on all hosts of the cluster."""
    buckets: int = BUCKETS_COMPATIBLE
    host: HostId
    running: bool
    """False: stopped, suspended, or without quorum. Then everything for virtual addresses is dropped."""
    vips: tuple[Address, ...]
    dedicated: tuple[Address, ...] = ()
    rules: tuple[PortRule, ...] = ()
    """In canonical order."""
    rule_buckets: tuple[RuleBuckets, ...] = ()
    """One for each rule."""
    default: RuleBuckets
    """Of what no rule covers; owned by the default host."""
    cluster_mac: bytes
    """The link address of the cluster."""
    own_mac: bytes | None = None
    """Replaces the cluster's link address in what is accepted, for hosts that keep their own; None: nothing does."""
    filter_icmp: bool = False
    """Whether echo requests and the like are shared among the hosts; otherwise all of them answer. What an ICMP error
    quotes decides where it goes."""
    reverse: bool = False
    """Source and destination change their parts before anything is looked for: the inner side of a team of
    bi-directional affinity."""
    transit: bool = False
    """Frames for other addresses are shared as well if they are sent to the cluster's link address: the hosts route
    between networks, as in a team."""
    times: FlowTimes = field(default_factory=FlowTimes)

    def title(self, rule: int) -> str:
        """How messages name a rule."""
        return "The default rule" if rule == DEFAULT_RULE else f"Port rule '{self.rules[rule].title}'"

    def validate(self) -> tuple[str, ...]:
        """All that is wrong with the table, in sentences; empty when a filter can take it."""
        problems = [*validate_rules(self.rules, self.vips), *self.times.validate()]
        if len(self.seed) != SEED_BYTES:
            problems.append(f"The seed of the hash has {len(self.seed)} bytes; it must have {SEED_BYTES}.")
        if not 1 <= self.buckets <= BUCKETS_MAX:
            problems.append(f"There are {self.buckets} buckets; give 1..{BUCKETS_MAX}.")
        if not 1 <= self.host <= HOSTS_MAX:
            problems.append(f"This host is {self.host}; hosts are 1..{HOSTS_MAX}.")
        for name, addresses in (("virtual", self.vips), ("dedicated", self.dedicated)):
            if len(addresses) > ADDRESSES_MAX:
                problems.append(f"There are {len(addresses)} {name} addresses; a filter takes at most {ADDRESSES_MAX}.")
        every = (*self.vips, *self.dedicated)
        problems += [
            f"The address {each} is given twice." for each in sorted({str(e) for e in every if every.count(e) > 1})
        ]
        if any(len(mac) != MAC_BYTES for mac in (self.cluster_mac, self.own_mac or bytes(MAC_BYTES))):
            problems.append(f"A link address must have {MAC_BYTES} bytes.")
        if len(self.rule_buckets) != len(self.rules) or len(self.rules) > RULES_MAX:
            problems.append(f"There are {len(self.rules)} rules, and buckets for {len(self.rule_buckets)} of them.")
            return tuple(problems)
        for number, each in (*enumerate(self.rule_buckets), (DEFAULT_RULE, self.default)):
            problems += each.validate(self.buckets, self.title(number))
        return tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A connection or session that a host knows."""

    client: Address
    client_port: int
    """0 for sessions (GRE, IPsec), which belong to the client's address."""
    server: Address
    server_port: int
    protocol: int
    """6 TCP, 47 GRE, 50 IPsec."""
    state: FlowState
    idle_ms: int
    """For how long nothing of it has been noted; notes are at most a second late (``FlowTimes.touch_ms``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a filter says of one frame, and why."""

    verdict: Verdict
    reason: Reason
    rule: int | None = None
    """Its place among the rules, or :data:`DEFAULT_RULE`; None: no rule was looked for."""
    bucket: int | None = None
    owner: int | None = None
    """The host that owns the bucket; 0: nobody."""
    known: FlowState = FlowState.UNKNOWN
    """What was known of the flow before."""
    rewrite: bool = False
    """The frame's link address is replaced by the host's own."""

    def because(self, table: FilterTable) -> str:
        """The decision as a sentence for people."""
        sentence = _SENTENCES[self.reason]
        if self.rule is None or self.bucket is None:
            return sentence
        owner = f"host {self.owner} owns it" if self.owner else "no host owns it"
        return f"{table.title(self.rule)}, bucket {self.bucket} of {table.buckets}; {owner}. {sentence}"


_SENTENCES = {
    Reason.NOT_IP: "The frame is not IP, so the filter has no say in it.",
    Reason.OTHER_ADDRESS: "The address is none of the cluster's, so the filter has no say in it.",
    Reason.DEDICATED: "The address is this host's own.",
    Reason.BUCKET_OWNER: "This host owns the client's bucket.",
    Reason.SINGLE_HOST: "This host takes everything of the rule.",
    Reason.DEFAULT_HOST: "No port rule covers it, and this is the default host.",
    Reason.KNOWN_CONNECTION: "The connection is open on this host.",
    Reason.KNOWN_SESSION: "The session is open on this host.",
    Reason.ICMP_EVERYWHERE: "Every host takes ICMP, since FilterICMP is off.",
    Reason.NEIGHBOUR: "Neighbour discovery concerns every host.",
    Reason.FRAGMENT_FOLLOWS: "The first fragment of the datagram was accepted here.",
    Reason.FRAGMENT_UNPLACED: "The first fragment has not been seen; every host takes it, and reassembly decides.",
    Reason.MALFORMED: "The headers are damaged or cut off.",
    Reason.TOO_MANY_HEADERS: "There are more extension headers than the filter walks through.",
    Reason.STOPPED: "This host takes no traffic of the cluster: it is stopped, suspended, or without quorum.",
    Reason.RULE_DISABLED: "The rule is disabled; no host takes anything of it.",
    Reason.RULE_CUT: "The rule is disabled on this host.",
    Reason.OTHER_BUCKET: "Another host owns the client's bucket.",
    Reason.NOT_SINGLE_HOST: "Another host takes everything of the rule.",
    Reason.NOT_DEFAULT_HOST: "No port rule covers it, and another host is the default host.",
    Reason.NOBODY: "No host that lives has a share of the rule.",
    Reason.DIRTY: "This host owns the bucket, but another one still has connections of it, and this is none of ours.",
    Reason.OTHER_FRAGMENT: "The first fragment of the datagram was dropped here.",
}

"""The packet filter of one interface: give it a table, attach it, ask it what it did and why.

:class:`XdpFilter` runs in the kernel. Its order of use::

    filter = XdpFilter()                 # loaded into the kernel, attached to nothing
    filter.load(table)                   # as often as anything changes; whole and at once
    filter.attach("eth0")                # from now on every frame that eth0 receives is decided
    ...
    filter.close()                       # detached, everything given back

The filter lives as long as its object: when the process ends, in whatever way, the kernel detaches it. Then hosts that
keep their own link address (unicast without masking, multicast, IGMP) accept nothing of the cluster's: frames to the
cluster's link address are not theirs any more.

:class:`NativeFilter` makes the same decisions in this process, for tests, tools and ``explain``.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from clussvc.model.errors import ClusterError
from clussvc.native import NLB_REASONS, NlbFlows, NlbProgram, NlbTable
from clussvc.nlb.filter import netlink
from clussvc.nlb.filter_table import DEFAULT_RULE, Decision, FilterTable, Flow, FlowState, Reason, RuleBuckets, Verdict
from clussvc.nlb.mac import Address
from clussvc.nlb.port_rule import Affinity, FilteringMode, PortRule
from clussvc.nlb.rule_counters import DEFAULT_TITLE, Packets, RuleCounters

if TYPE_CHECKING:
    from clussvc.native import NlbFlowTuple

FLOWS_DEFAULT: Final = 65_536
"""Connections of which a filter keeps track, at 128 bytes of kernel memory each. The original's default is 262144
(``MaxConnectionDescriptors``), and so many can be asked for."""
FLOWS_MAX: Final = 1_048_576
"""The original's limit."""

_WAYS: Final = 16
"""Places of a set, as the core has it: a connection has its place in one set, whose oldest gives way."""
_PLACES_PER_FLOW: Final = 2
"""So that hardly any set is full (one of 120) when the filter has as many connections as it is to keep track of."""

_VERDICTS: Final = (Verdict.PASS, Verdict.ACCEPT, Verdict.DROP)
_REASONS: Final = tuple(Reason(word) for word in NLB_REASONS)
_STATES: Final = (
    FlowState.UNKNOWN,
    FlowState.OPENING,
    FlowState.OPEN,
    FlowState.CLOSING,
    FlowState.FRAGMENT_ACCEPTED,
    FlowState.FRAGMENT_DROPPED,
)
_MODES: Final = {FilteringMode.MULTIPLE: 0, FilteringMode.SINGLE: 1, FilteringMode.DISABLED: 2}
_AFFINITIES: Final = {Affinity.NONE: 0, Affinity.SINGLE: 1, Affinity.NETWORK: 2}
_DIRTY, _KEPT = 0x80, 0x40
_FILTER_ICMP, _REVERSE, _TRANSIT, _REWRITE = 1, 2, 4, 8
_NO_RULE: Final = 255
_OPENING_TABLE, _OPEN_TABLE, _FRAGMENTS_TABLE = 0, 1, 2
_MAPPED: Final = bytes(10) + b"\xff\xff"

TCP, UDP, GRE, ESP = 6, 17, 47, 50
"""Protocols of IP, as :meth:`XdpFilter.explain` and :class:`Flow` have them. ESP stands for a whole IPsec session."""


def address_bytes(address: Address) -> bytes:
    """An address as the filter has it: sixteen bytes, those of IPv4 in the mapped form."""
    return address.packed if address.version == 6 else _MAPPED + address.packed


def bytes_address(packed: bytes) -> Address:
    """The address that sixteen bytes stand for."""
    return IPv4Address(packed[12:]) if packed.startswith(_MAPPED) else IPv6Address(packed)


def _cells(table: FilterTable, buckets: RuleBuckets) -> bytes:
    """The byte of each bucket."""
    cells = bytearray(buckets.owners)
    for bucket, owner in enumerate(buckets.owners):
        if owner == table.host:
            if bucket in buckets.dirty:
                cells[bucket] |= _DIRTY
        elif buckets.kept is None or bucket in buckets.kept:
            cells[bucket] |= _KEPT
    return bytes(cells)


def _require_valid(table: FilterTable) -> None:
    problems = table.validate()
    if problems:
        raise ClusterError("filter-table-invalid", " ".join(problems))


def build(
    table: FilterTable, *, tick_ms: float = 1.0, open_sets: int = 1, counters: RuleCounters | None = None
) -> NlbTable:
    """The table as the C core has it. Raises ClusterError(``filter-table-invalid``) with all that is wrong with it.

    ``tick_ms``: the length of a tick of the clock that goes with it, in milliseconds. ``open_sets``: sets in the
    kernel's table of open connections, a power of two; only the kernel has them. ``counters``: those of the rules;
    None: all have the same, where nothing is counted by rule.
    """
    _require_valid(table)
    times = table.times
    in_order = (times.opening_ms, times.idle_ms, times.closing_ms, times.gre_ms, times.ipsec_ms, times.fragment_ms)
    ticks = tuple(max(1, round(time_ms / tick_ms)) for time_ms in (*in_order, times.touch_ms))
    flags = _FILTER_ICMP * table.filter_icmp | _REVERSE * table.reverse | _TRANSIT * table.transit
    try:
        return NlbTable(
            generation=table.generation,
            seed=table.seed,
            buckets=table.buckets,
            host=table.host,
            state=int(table.running),
            flags=flags | _REWRITE * (table.own_mac is not None),
            cluster_mac=table.cluster_mac,
            own_mac=table.own_mac or bytes(6),
            times_ticks=ticks,
            virtual=tuple(address_bytes(address) for address in table.vips),
            dedicated=tuple(address_bytes(address) for address in table.dedicated),
            rules=tuple(
                (
                    None if rule.vip is None else address_bytes(rule.vip),
                    rule.start_port,
                    rule.end_port,
                    rule.protocol.number,
                    _MODES[rule.mode],
                    _AFFINITIES[rule.affinity],
                    int(buckets.cut),
                    counters.counter_of(rule.title) if counters is not None else 0,
                    _cells(table, buckets),
                )
                for rule, buckets in zip(table.rules, table.rule_buckets, strict=True)
            ),
            default_cells=_cells(table, table.default),
            default_flags=int(table.default.cut),
            default_counter=counters.counter_of(DEFAULT_TITLE) if counters is not None else 0,
            open_sets=open_sets,
        )
    except ValueError as error:
        raise ClusterError("filter-table-invalid", f"The packet filter refuses the table: {error}.") from error


def _decision(values: tuple[int, int, int, int, int, int, int, int]) -> Decision:
    verdict, reason, slot, owner, bucket, rewrite, known, _ = values
    placed = slot != _NO_RULE
    return Decision(
        verdict=_VERDICTS[verdict],
        reason=_REASONS[reason],
        rule=slot if placed else None,
        bucket=bucket if placed else None,
        owner=owner if placed else None,
        known=_STATES[known],
        rewrite=bool(rewrite),
    )


class NativeFilter:
    """The same decisions as in the kernel, made in this process. Time is an argument; nothing is attached."""

    def __init__(self, table: FilterTable, *, flows_max: int = 4096) -> None:
        """``flows_max``: a power of two, 16..4194304; 0 to keep track of no flows at all."""
        self._table = build(table)
        self._flows_max = flows_max
        self._flows = NlbFlows(flows_max) if flows_max else None

    def load(self, table: FilterTable) -> None:
        """Replace the table; what is known of flows stays."""
        self._table = build(table)

    def decide(self, frame: bytes, now_ms: int = 0) -> Decision:
        """What becomes of an Ethernet frame. ``now_ms`` must not run backwards."""
        return _decision(self._table.decide(frame, self._flows, now_ms))

    def what_if(self, frame: bytes, now_ms: int = 0) -> Decision:
        """What :meth:`decide` would say, without noting anything."""
        flows = None
        if self._flows is not None:
            flows = NlbFlows(self._flows_max)
            for entry in self._flows.entries():
                flows.put(*entry)
        return _decision(self._table.decide(frame, flows, now_ms))

    def decide_all(self, frames: Sequence[bytes], now_ms: int = 0) -> list[tuple[Verdict, Reason, int, int]]:
        """For each frame its verdict, the reason, the owner (0: nobody, or none was looked for) and the rule's number
        (255: none was looked for). The interpreter is free meanwhile."""
        ends = array("I")
        end = 0
        for frame in frames:
            end += len(frame)
            ends.append(end)
        out = bytearray(4 * len(frames))
        self._table.decide_batch(b"".join(frames), ends, out, self._flows, now_ms)
        return [(_VERDICTS[out[at]], _REASONS[out[at + 1]], out[at + 2], out[at + 3]) for at in range(0, len(out), 4)]

    def flows(self, now_ms: int = 0) -> tuple[Flow, ...]:
        """What is known, fragments excepted."""
        entries = self._flows.entries() if self._flows is not None else []
        return tuple(_flow(entry, now_ms, 1.0) for entry in entries if entry[0] != _FRAGMENTS_TABLE)

    def occupied(self, now_ms: int = 0) -> Mapping[int, frozenset[int]]:
        """See :meth:`XdpFilter.occupied`."""
        return _occupied(self._flows.count(self._table, now_ms) if self._flows is not None else {})


def _flow(entry: NlbFlowTuple, now_ticks: int, tick_ms: float) -> Flow:
    _, client, client_port, server, server_port, protocol, state, seen = entry
    return Flow(
        client=bytes_address(client),
        client_port=client_port,
        server=bytes_address(server),
        server_port=server_port,
        protocol=protocol,
        state=_STATES[state],
        idle_ms=round(max(0, now_ticks - seen) * tick_ms),
    )


def _occupied(counts: Mapping[tuple[int, int], int]) -> Mapping[int, frozenset[int]]:
    found: dict[int, set[int]] = {}
    for rule, bucket in counts:
        found.setdefault(rule, set()).add(bucket)
    return {rule: frozenset(buckets) for rule, buckets in found.items()}


class XdpFilter:
    """The filter of one interface, in the kernel. One thread uses it.

    Every method may raise ClusterError: ``filter-unavailable`` (the kernel cannot or may not do it; the message says
    what is missing), ``filter-table-invalid``, ``interface-missing``, ``interface-taken`` (another XDP program is
    there; it is named), ``filter-closed``.
    """

    def __init__(self, *, flows_max: int = FLOWS_DEFAULT, sharing: XdpFilter | None = None) -> None:
        """``flows_max``: connections it keeps track of, 1024..1048576; the oldest give way.

        ``sharing``: another filter with which it shares what is known of flows. The instances of a team of
        bi-directional affinity do, so that what the one sees opening is known to the other. Their tables must have the
        same seed.
        """
        if not 1024 <= flows_max <= FLOWS_MAX:
            raise ClusterError("filter-unavailable", f"The filter can keep track of 1024 to {FLOWS_MAX} connections.")
        self._table: FilterTable | None = None
        self._built: NlbTable | None = None
        self._counters = RuleCounters()
        self._interface = ""
        self._closed = False
        self._look_again_s = 0.0
        # The kernel's coarse clock moves once a tick, and says so.
        self._tick_ms = time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1000
        shared: NlbProgram | None = None if sharing is None else sharing._program
        self._program: NlbProgram
        own_sets = 1 << (-(-_PLACES_PER_FLOW * flows_max // _WAYS) - 1).bit_length()
        self._open_sets: int = own_sets if sharing is None else sharing._open_sets
        with _kernel("load the packet filter"):
            self._program = NlbProgram(self._open_sets, shared)

    def load(self, table: FilterTable) -> None:
        """Replace the table, whole: every frame is decided by the old one or by the new one, and when this returns,
        by the new one. What is known of flows stays, but for a table that is not running: a host that starts anew has
        no connections.

        Where ``kept`` is None it is found out here, from what this filter owned before and what it knows.
        """
        self._require_open()
        _require_valid(table)
        completed = self._complete(table)
        counters = self._counters.with_rules((*(rule.title for rule in table.rules), DEFAULT_TITLE), self._counted())
        built = build(completed, tick_ms=self._tick_ms, open_sets=self._open_sets, counters=counters)
        with _kernel("load a table of the packet filter"):
            self._program.load(built)
            if not table.running:
                self._program.forget_flows()
        self._table, self._built, self._counters = completed, built, counters

    def keep_until(self, boot_time_ms: int | None) -> None:
        """Accept what is for the cluster until that moment of CLOCK_BOOTTIME, and drop it as ``stopped`` from then on,
        unless this is called again: the deadman, for an agent that stands still. None: without an end, as before the
        first call. Exact to a tick of the kernel; time in which the machine is suspended does not count.
        """
        self._require_open()
        with _kernel("set the packet filter's deadman"):
            if boot_time_ms is None:
                self._program.keep_until(2**64 - 1)
                return
            left_ms = max(0, boot_time_ms - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000)
            self._program.keep_until(NlbProgram.ticks() + int(left_ms / self._tick_ms))

    def attach(self, interface: str, *, native: bool = False) -> None:
        """Decide what that interface receives, from now on. A table must be loaded.

        ``native``: in the driver, before the kernel makes its own structure of a frame: faster, where the driver can
        do it. Not on virtual Ethernet pairs if link addresses are replaced, whether for unicast or for multicast ones:
        such a pair decides whom a frame is for before the program sees it, and TCP then takes no accepted frame.
        Otherwise generic, which every interface can do.
        """
        self._require_open()
        assert self._table is not None, "attached before a table was loaded"
        try:
            index = socket.if_nametoindex(interface)
        except OSError as error:
            raise ClusterError(
                "interface-missing", f"There is no interface {interface} on this host; 'ip link' lists those that are."
            ) from error
        if native and self._table.own_mac is not None:
            with _kernel(f"ask what {interface} is"):
                kind = netlink.link_kind(index)
            if kind == "veth":
                raise ClusterError(
                    "filter-unavailable",
                    f"{interface} is a virtual Ethernet pair, which decides whom a frame is for before a program in its"
                    " driver can replace the link address, so that no client would be served; use the generic mode"
                    " (FilterMode=generic).",
                )
        try:
            with _kernel(f"attach the packet filter to {interface}"):
                self._program.attach(index, native)
        except ClusterError as error:
            raise self._why_not_attached(interface, index, native, error) from error
        self._interface = interface

    def detach(self) -> None:
        """The interface receives without a filter again. Harmless when not attached."""
        self._program.detach()
        self._interface = ""

    def attached(self) -> bool:
        """Whether the filter is on an interface that still exists."""
        self._require_open()
        with _kernel("ask for the packet filter's interface"):
            return self._program.interface() != 0

    @property
    def interface(self) -> str:
        """The interface it was attached to; empty: none."""
        return self._interface

    def close(self) -> None:
        """Detach, and give everything back; harmless when repeated."""
        self._closed = True
        self._interface = ""
        self._program.close()

    def counters(self) -> Mapping[Reason, int]:
        """Frames decided since the filter was made, by reason; all reasons are there."""
        self._require_open()
        with _kernel("read the packet filter's counters"):
            return dict(zip(_REASONS, self._program.counters(), strict=True))

    def packets(self) -> Mapping[str, Packets]:
        """Frames decided by each rule of the table that is loaded, by its title, and by the default rule; counted
        since the filter first had the rule, however the tables changed since (:mod:`clussvc.nlb.rule_counters`).
        Frames that need no rule are in none: later fragments, and ICMP that every host takes."""
        self._require_open()
        return self._counters.packets(self._counted())

    def _counted(self) -> list[Packets]:
        """What each counter says."""
        with _kernel("read the packet filter's counters"):
            numbers = iter(self._program.rule_counters())
        return [Packets(accepted=accepted, dropped=dropped) for accepted, dropped in zip(numbers, numbers, strict=True)]

    def flows(self, limit: int = 1000) -> tuple[Flow, ...]:
        """Connections and sessions that this host knows, in no order, at most ``limit``. (``nlb open connections``)"""
        self._require_open()
        with _kernel("read the packet filter's flows"):
            entries, now = self._program.flows(limit), NlbProgram.ticks()
        return tuple(_flow(entry, now, self._tick_ms) for entry in entries if entry[0] != _FRAGMENTS_TABLE)

    def occupied(self) -> Mapping[int, frozenset[int]]:
        """For each rule (its place, or DEFAULT_RULE) the buckets of which this host has connections, by the table that
        is loaded: what is not in it is idle here."""
        self._require_open()
        assert self._built is not None, "asked before a table was loaded"
        if time.monotonic() >= self._look_again_s:
            self.forget_lost()
        with _kernel("read the packet filter's flows"):
            return _occupied(self._program.count(self._built, NlbProgram.ticks()))

    def forget_lost(self) -> int:
        """Forget the open connections that this machine's own services do not have any more, and say how many.

        The filter sees only what comes in. A server that resets a connection, or a client that vanishes, would leave it
        open here until it is too old (``FlowTimes.idle_ms``), and a bucket or a host would not come to rest. So where
        somebody listens on this machine at the flow's address and port, a flow that has been silent for five seconds
        must have a socket. Where the kernel tracks connections, and so may translate addresses, it is fifteen minutes:
        the one that listens may stand in for somebody behind this machine. Nothing is forgotten in transit, nor where
        nobody listens. :meth:`occupied` does it by itself, at most every ten seconds.
        """
        self._require_open()
        assert self._built is not None, "asked before a table was loaded"
        assert self._table is not None
        self._look_again_s = time.monotonic() + _LOOK_AGAIN_S
        if self._table.transit:
            return 0
        forgotten = 0
        with _kernel("compare the packet filter's flows with the sockets of this machine"):
            silent_ms = _SILENT_TRACKED_MS if netlink.tracks_connections() else _SILENT_MS
            before = max(0, NlbProgram.ticks() - round(silent_ms / self._tick_ms))
            # Flows first: a socket that is made meanwhile is then among the sockets.
            flows = [
                flow for flow in self._program.flows(FLOWS_MAX, before) if flow[0] == _OPEN_TABLE and flow[5] == TCP
            ]
            if not flows:
                return 0
            connections, listening = netlink.tcp_sockets()
            for _, client, client_port, server, server_port, protocol, *_ in flows:
                local = (server, server_port) in listening or (bytes(16), server_port) in listening
                if local and (client, client_port, server, server_port) not in connections:
                    forgotten += self._program.forget(self._built, client, client_port, server, server_port, protocol)
        return forgotten

    def explain(
        self,
        *,
        client: Address,
        server: Address,
        protocol: int = TCP,
        client_port: int = 0,
        server_port: int = 0,
        opens: bool = True,
    ) -> Decision:
        """What would become of a packet from that client, and why; nothing is noted or counted.

        ``opens``: the first packet of a connection (a SYN); otherwise one in its middle. Only TCP, UDP and GRE.
        """
        self._require_open()
        assert self._built is not None, "asked before a table was loaded"
        assert self._table is not None
        frame = example_frame(self._table, client, server, protocol, client_port, server_port, opens)
        flows = NlbFlows(16)
        ports = (client_port, server_port) if protocol == TCP else (0, 0)
        with _kernel("read the packet filter's flows"):
            now = NlbProgram.ticks()
            known = (
                self._program.flow(
                    self._built, address_bytes(client), ports[0], address_bytes(server), ports[1], protocol
                )
                if protocol in (TCP, GRE)
                else None
            )
        if known is not None:
            which, state, seen = known
            flows.put(which, address_bytes(client), ports[0], address_bytes(server), ports[1], protocol, state, seen)
        return _decision(self._built.decide(frame, flows, now))

    def test_run(self, frame: bytes, repeat: int = 1) -> tuple[bool, int, bytes]:
        """Let the kernel run the program on a frame (14 bytes at least) as if it had been received: whether it lets it
        through, nanoseconds for one run, and the frame afterwards. Flows are noted and frames counted as always."""
        self._require_open()
        with _kernel("run the packet filter for a test"):
            verdict, duration_ns, after = self._program.test_run(frame, repeat)
        return verdict == _XDP_PASS, duration_ns, after

    def identity(self) -> tuple[int, str]:
        """Number and name of the program in the kernel, as ``bpftool prog`` lists it."""
        self._require_open()
        with _kernel("ask for the packet filter's number"):
            number, name, _ = self._program.identity()
        return number, name

    def _require_open(self) -> None:
        if self._closed:
            raise ClusterError("filter-closed", "The packet filter is closed.")

    def _complete(self, table: FilterTable) -> FilterTable:
        """With ``kept`` known for every rule."""
        every = (*table.rule_buckets, table.default)
        if all(each.kept is not None for each in every):
            return table
        former = self._table
        if former is None or not former.running:
            return _with_kept(table, [each.kept or frozenset() for each in every])
        before = {_identity(rule): former.rule_buckets[at] for at, rule in enumerate(former.rules)}
        if former.buckets != table.buckets or former.seed != table.seed or len(before) != len(table.rules):
            return table
        if any(_identity(rule) not in before for rule in table.rules):
            return table
        occupied = self.occupied()
        numbers = {_identity(rule): at for at, rule in enumerate(former.rules)}
        kept = []
        for at, each in enumerate(every):
            rule = table.rules[at] if at < len(table.rules) else None
            was = before[_identity(rule)] if rule is not None else former.default
            number = numbers[_identity(rule)] if rule is not None else DEFAULT_RULE
            owned = {bucket for bucket, owner in enumerate(was.owners) if owner == former.host}
            held = occupied.get(number, frozenset())
            if was.kept is not None:
                held &= was.kept
            kept.append(each.kept if each.kept is not None else frozenset(owned | held))
        return _with_kept(table, kept)

    def _why_not_attached(self, interface: str, index: int, native: bool, error: ClusterError) -> ClusterError:
        """Names the program that is there already, if one is."""
        cause = error.__cause__
        number = cause.errno if isinstance(cause, OSError) else 0
        if number in (errno.EBUSY, errno.EEXIST):
            there = [
                f"{name} (number {prog}, {mode})"
                for prog, mode in netlink.xdp_programs(index)
                for name in (_name(prog),)
            ]
            return ClusterError(
                "interface-taken",
                f"Another XDP program is on {interface}: {', '.join(there) or 'its name is not known'}. Stop what put"
                f" it there, or remove it with 'ip link set dev {interface} xdp off' (a program that is held by a link"
                " ends with the process that holds it), or load-balance on another interface.",
            )
        if native and number in (errno.EOPNOTSUPP, errno.EINVAL):
            return ClusterError(
                "filter-unavailable",
                f"The driver of {interface} does not run XDP programs itself with its present settings; use the generic"
                " mode (FilterMode=generic).",
            )
        return error


_XDP_PASS: Final = 2
_LOOK_AGAIN_S: Final = 10.0
_SILENT_MS: Final = 5_000
_SILENT_TRACKED_MS: Final = 900_000
_CLOCK_MONOTONIC_COARSE: Final = 6


def _identity(rule: PortRule) -> tuple[object, ...]:
    """What must be equal for the buckets of two rules to hold the same clients."""
    return rule.vip, rule.start_port, rule.end_port, rule.protocol, rule.affinity


def _with_kept(table: FilterTable, kept: Sequence[frozenset[int]]) -> FilterTable:
    completed = [
        replace(each, kept=marks) for each, marks in zip((*table.rule_buckets, table.default), kept, strict=True)
    ]
    return replace(table, rule_buckets=tuple(completed[:-1]), default=completed[-1])


def _name(program: int) -> str:
    try:
        return NlbProgram.identity_of(program)[1] or "without a name"
    except OSError:
        return "gone meanwhile"


class _kernel:
    """Turns what the kernel refuses into a ClusterError that says what was tried and what may help."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.EPERM, errno.EACCES):
            way_out = "; it needs root, or the capabilities CAP_BPF and CAP_NET_ADMIN"
        elif error.errno in (errno.ENOSYS, errno.EINVAL):
            way_out = "; the kernel may be too old: it must be Linux 5.11 or later, with BPF"
        else:
            way_out = ""
        raise ClusterError("filter-unavailable", f"Cannot {self._what}: {error}{way_out}.") from error


def example_frame(
    table: FilterTable, client: Address, server: Address, protocol: int, client_port: int, server_port: int, opens: bool
) -> bytes:
    """A frame as that client's would be."""
    if protocol == TCP:
        flags = 0x02 if opens else 0x10
        transport = struct.pack(">HHIIBBHHH", client_port, server_port, 0, 0, 0x50, flags, 1024, 0, 0)
    elif protocol == UDP:
        transport = struct.pack(">HHHH", client_port, server_port, 8, 0)
    elif protocol == GRE:
        transport = struct.pack(">HH", 0x3001, 0x880B)
    else:
        raise ValueError(f"no packets of protocol {protocol} are made here")
    source, destination = client, server
    if table.reverse:
        source, destination = server, client
        if protocol != GRE:
            transport = transport[2:4] + transport[:2] + transport[4:]
    if client.version != server.version:
        raise ValueError("client and server must be of one family")
    if server.version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(transport), 0, 0, 64, protocol, 0)
        packet = b"\x08\x00" + head + source.packed + destination.packed
    else:
        head = struct.pack(">IHBB", 6 << 28, len(transport), protocol, 64)
        packet = b"\x86\xdd" + head + source.packed + destination.packed
    return table.cluster_mac + bytes(6) + packet + transport

"""The packet filter's decision once more, in Python and in plain words: the twin of the C core.

It is slow and simple, and was written from the description, not from the other: where the two differ, one of them is
wrong. Tests hold the C core, in the extension and in the kernel, to this meaning; the laws of load balancing (one host
takes a packet, a leave moves only what the leaver had, ...) are proved on it as properties.

What a frame meets, in this order:

1. what is no IP, or not for a virtual address, passes (in a team, whatever is sent to the cluster's link address is
   shared too);
2. a host that is not running takes nothing;
3. damaged headers are dropped; neighbour discovery goes to every host; so does ICMP, unless it is shared;
4. later fragments go where the first one went, and to every host if it has not been seen;
5. a rule that is cut on this host takes nothing;
6. a packet in the middle of a connection or session that this host knows is accepted;
7. a disabled rule takes nothing;
8. the client's bucket decides: the owner accepts, but of a bucket that is dirty only what opens something.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from clussvc.nlb.bucket_map import NOBODY
from clussvc.nlb.filter_table import DEFAULT_RULE, Decision, FilterTable, FlowState, Reason, RuleBuckets, Verdict
from clussvc.nlb.mac import Address
from clussvc.nlb.port_rule import Affinity, FilteringMode, PortRule, Protocol, find_rule

_ICMP, _TCP, _UDP, _GRE, _ESP, _AH, _ICMPV6 = 1, 6, 17, 47, 50, 51, 58
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _OPTIONS = 0, 43, 44, 60
_HEADERS_MAX = 6
_TRANSPORT_BYTES = {_TCP: 20, _UDP: 8, _GRE: 4, _ESP: 8, _AH: 12, _ICMP: 8, _ICMPV6: 8}
_PPTP, _IKE, _IKE_NAT = 1723, 500, 4500

# --- the hash -------------------------------------------------------------------------------------------------------

_MASK = (1 << 64) - 1


def siphash13(key: bytes, message: bytes) -> int:
    """SipHash with one round for each word and three at the end (Aumasson and Bernstein, 2012); 64 bits."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573

    def turned(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & _MASK

    def round_once() -> None:
        nonlocal v0, v1, v2, v3
        v0 = (v0 + v1) & _MASK
        v1 = turned(v1, 13) ^ v0
        v0 = turned(v0, 32)
        v2 = (v2 + v3) & _MASK
        v3 = turned(v3, 16) ^ v2
        v0 = (v0 + v3) & _MASK
        v3 = turned(v3, 21) ^ v0
        v2 = (v2 + v1) & _MASK
        v1 = turned(v1, 17) ^ v2
        v2 = turned(v2, 32)

    padded = message + bytes(7 - len(message) % 8) + bytes((len(message) & 0xFF,))
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v3 ^= word
        round_once()
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        round_once()
    return v0 ^ v1 ^ v2 ^ v3


def bucket_of(seed: bytes, buckets: int, affinity: Affinity, client: Address, port: int | None) -> int:
    """The bucket of a client: of its address and port, of its address, or of its network.

    ``port``: None where there is none, so that all of a session or of a fragmented protocol falls into one bucket.
    """
    message = client.packed
    if affinity is Affinity.NETWORK:
        message = message[:3] + b"\0" if client.version == 4 else message[:8] + bytes(8)
    if affinity is Affinity.NONE and port is not None:
        message += port.to_bytes(2, "big")
    return (siphash13(seed, message) >> 32) * buckets >> 32


# --- what is known --------------------------------------------------------------------------------------------------

FlowKey = tuple[Address, int, Address, int, int]
"""Client and its port, server and its port, protocol of IP. Sessions have no ports; all of IPsec is ESP."""
FragmentKey = tuple[Address, Address, int, int]
"""Client, server, protocol, identification."""


@dataclass(slots=True)
class Flows:
    """What one host remembers, without a limit."""

    states: dict[FlowKey, tuple[FlowState, int]] = field(default_factory=dict)
    """With the time at which the last packet was noted."""
    fragments: dict[FragmentKey, tuple[FlowState, int]] = field(default_factory=dict)

    def known(self, table: FilterTable, key: FlowKey, now_ms: int) -> FlowState:
        """What is known of a flow, unless it is too long ago."""
        state, seen_ms = self.states.get(key, (FlowState.UNKNOWN, now_ms))
        times, protocol = table.times, key[4]
        by_protocol = {_TCP: times.idle_ms, _GRE: times.gre_ms, _ESP: times.ipsec_ms}
        limits_ms = {FlowState.OPENING: times.opening_ms, FlowState.CLOSING: times.closing_ms}
        limit_ms = limits_ms.get(state, by_protocol.get(protocol, 0))
        return FlowState.UNKNOWN if now_ms - seen_ms > limit_ms else state

    def known_fragment(self, table: FilterTable, key: FragmentKey, now_ms: int) -> FlowState:
        """What became of the first fragment."""
        state, seen_ms = self.fragments.get(key, (FlowState.UNKNOWN, now_ms))
        return FlowState.UNKNOWN if now_ms - seen_ms > table.times.fragment_ms else state


# --- what a frame is ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packet:
    """A frame that is to be shared."""

    client: Address
    server: Address
    client_port: int = 0
    server_port: int = 0
    protocol: int = 0
    """As the flow has it."""
    rule_protocol: Protocol | None = None
    rule_port: int = 0
    tracked: bool = False
    """It belongs to a flow of which hosts keep track."""
    quoted: bool = False
    icmp: bool = False
    opens: bool = False
    fin: bool = False
    rst: bool = False
    transit: bool = False
    fragment: FragmentKey | None = None
    later: bool = False
    """Not the first fragment."""

    @property
    def key(self) -> FlowKey:
        return self.client, self.client_port, self.server, self.server_port, self.protocol


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _settled(verdict: Verdict, reason: Reason) -> Decision:
    return Decision(verdict=verdict, reason=reason)


_MALFORMED = _settled(Verdict.DROP, Reason.MALFORMED)


def _read(table: FilterTable, frame: bytes) -> Decision | _Packet:
    """What a frame is, or the decision if nothing more is needed for it."""
    if len(frame) < 14:
        return _MALFORMED
    to_cluster = frame[:6] == table.cluster_mac
    match _number(frame[12:14]):
        case 0x0800:
            return _read_ipv4(table, frame[14:], to_cluster)
        case 0x86DD:
            return _read_ipv6(table, frame[14:], to_cluster)
    return _settled(Verdict.PASS, Reason.NOT_IP)


def _whose(table: FilterTable, target: Address, group: bool, to_cluster: bool) -> Decision | bool:
    """Whether the packet passes through the cluster without being for one of its addresses; a decision if it is for
    none of the hosts to share."""
    if target in table.dedicated:
        return _settled(Verdict.PASS, Reason.DEDICATED)
    through = target not in table.vips
    if through and (group or not to_cluster or not table.transit):
        return _settled(Verdict.PASS, Reason.OTHER_ADDRESS)
    return through if table.running else _settled(Verdict.DROP, Reason.STOPPED)


def _read_ipv4(table: FilterTable, packet: bytes, to_cluster: bool) -> Decision | _Packet:
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return _MALFORMED
    source, target = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    through = _whose(table, target, packet[16] >= 224, to_cluster)
    if isinstance(through, Decision):
        return through
    header, total = 4 * (packet[0] & 15), _number(packet[2:4])
    if header < 20 or total < header or len(packet) < header:
        return _MALFORMED
    place = _number(packet[6:8])
    fragment = (packet[9], _number(packet[4:6])) if place & 0x3FFF else None
    base = _ends(table, source, target, through, fragment)
    if place & 0x1FFF:
        return replace(base, later=True)
    return _read_transport(table, base, packet[9], packet[header:total], source, target)


def _read_ipv6(table: FilterTable, packet: bytes, to_cluster: bool) -> Decision | _Packet:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return _MALFORMED
    source, target = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    if target.ipv4_mapped is not None:
        # Such an address stands for IPv4 inside a program and is never on the wire.
        return _settled(Verdict.PASS, Reason.OTHER_ADDRESS)
    through = _whose(table, target, packet[24] == 0xFF, to_cluster)
    if isinstance(through, Decision):
        return through
    length, kind = _number(packet[4:6]), packet[6]
    rest = packet[40:] if length == 0 and kind == _HOP_BY_HOP else packet[40 : 40 + length]
    fragment = None
    walked = 0
    while kind in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _OPTIONS):
        walked += 1
        if walked > _HEADERS_MAX:
            return _settled(Verdict.DROP, Reason.TOO_MANY_HEADERS)
        if len(rest) < 8:
            return _MALFORMED
        size = 8
        if kind == _FRAGMENT:
            place = _number(rest[2:4])
            here = (rest[0], int.from_bytes(rest[4:8], "little"))
            if place & 0xFFF8:
                return replace(_ends(table, source, target, through, here), later=True)
            if place & 1:
                fragment = here
            elif fragment is not None:
                # Several fragment headers are nonsense; the last one names the datagram.
                fragment = here
        else:
            size = 8 * rest[1] + 8
        kind, rest = rest[0], rest[size:]
    return _read_transport(table, _ends(table, source, target, through, fragment), kind, rest, source, target)


def _ends(
    table: FilterTable, source: Address, target: Address, through: bool, fragment: tuple[int, int] | None
) -> _Packet:
    client, server = (target, source) if table.reverse else (source, target)
    key = (client, server, *fragment) if fragment is not None else None
    return _Packet(client=client, server=server, transit=through, fragment=key)


def _with_ports(table: FilterTable, packet: _Packet, source_port: int, target_port: int) -> _Packet:
    client_port, server_port = (target_port, source_port) if table.reverse else (source_port, target_port)
    return replace(packet, client_port=client_port, server_port=server_port)


def _read_transport(
    table: FilterTable, packet: _Packet, protocol: int, body: bytes, source: Address, target: Address
) -> Decision | _Packet:
    icmp = protocol == (_ICMP if source.version == 4 else _ICMPV6)
    if protocol in (_ICMP, _ICMPV6) and not icmp:
        return replace(packet, protocol=protocol)
    if protocol not in _TRANSPORT_BYTES:
        return replace(packet, protocol=protocol)
    if len(body) < _TRANSPORT_BYTES[protocol]:
        return _MALFORMED
    if icmp:
        return _read_icmp(table, packet, body, source, target)
    if protocol == _TCP:
        if body[12] >> 4 < 5:
            return _MALFORMED
        fin, syn, rst, ack = (bool(body[13] & bit) for bit in (1, 2, 4, 16))
        packet = replace(packet, opens=syn and not (fin or rst or ack), fin=fin, rst=rst)
    if protocol in (_TCP, _UDP):
        packet = _with_ports(table, packet, _number(body[:2]), _number(body[2:4]))
    if protocol == _UDP:
        packet = replace(packet, opens=_opens_ike(packet.server_port, body[8:]))
    classified = _classify(packet, protocol)
    assert classified is not None
    return classified


def _classify(packet: _Packet, protocol: int) -> _Packet | None:
    """Flow and rule of a packet whose ends and ports are known; None for protocols without a flow or rule."""
    session = replace(packet, client_port=0, server_port=0, tracked=True)
    ike = protocol == _UDP and packet.server_port in (_IKE, _IKE_NAT)
    if protocol in (_ESP, _AH) or ike:
        return replace(session, protocol=_ESP, rule_protocol=Protocol.UDP, rule_port=_IKE)
    if protocol == _GRE:
        return replace(session, protocol=_GRE, rule_protocol=Protocol.TCP, rule_port=_PPTP)
    port = packet.server_port
    if protocol == _TCP:
        return replace(packet, protocol=_TCP, rule_protocol=Protocol.TCP, rule_port=port, tracked=True)
    if protocol == _UDP:
        return replace(packet, protocol=_UDP, rule_protocol=Protocol.UDP, rule_port=port)
    return None


def _opens_ike(port: int, message: bytes) -> bool:
    """Whether this is the first message of IKE: the answerer has no number yet."""
    if port == _IKE_NAT:
        if message[:4] != bytes(4):
            return False
        message = message[4:]
    elif port != _IKE:
        return False
    return len(message) >= 16 and message[:8] != bytes(8) and message[8:16] == bytes(8)


def _read_icmp(
    table: FilterTable, packet: _Packet, body: bytes, source: Address, target: Address
) -> Decision | _Packet:
    kind = body[0]
    if source.version == 6 and (130 <= kind <= 137 or kind == 143) and not packet.transit:
        return _settled(Verdict.ACCEPT, Reason.NEIGHBOUR)
    if not table.filter_icmp and not packet.transit:
        return _settled(Verdict.ACCEPT, Reason.ICMP_EVERYWHERE)
    errors = (3, 4, 5, 11, 12) if source.version == 4 else (1, 2, 3, 4)
    quoted = _read_quoted(table, packet, body[8:], target) if kind in errors else None
    if quoted is not None:
        return quoted
    return replace(packet, icmp=True, protocol=_ICMP if source.version == 4 else _ICMPV6)


def _read_quoted(table: FilterTable, packet: _Packet, quote: bytes, target: Address) -> _Packet | None:
    """The flow of the packet that an ICMP error quotes. It went from us, so its ends are the other way round."""
    sender: Address
    receiver: Address
    if target.version == 4:
        if len(quote) < 20 or quote[0] >> 4 != 4 or quote[0] & 15 < 5 or _number(quote[6:8]) & 0x1FFF:
            return None
        sender, receiver = IPv4Address(quote[12:16]), IPv4Address(quote[16:20])
        protocol, rest = quote[9], quote[4 * (quote[0] & 15) :]
    else:
        if len(quote) < 40 or quote[0] >> 4 != 6:
            return None
        sender, receiver = IPv6Address(quote[8:24]), IPv6Address(quote[24:40])
        protocol, rest = quote[6], quote[40:]
    if sender != target:
        return None
    client, server = (sender, receiver) if table.reverse else (receiver, sender)
    packet = replace(packet, client=client, server=server, quoted=True)
    if protocol in (_TCP, _UDP):
        if len(rest) < 4:
            return None
        packet = _with_ports(table, packet, _number(rest[2:4]), _number(rest[:2]))
    return _classify(packet, protocol)


# --- the decision ---------------------------------------------------------------------------------------------------


def _place(table: FilterTable, packet: _Packet) -> tuple[int, int]:
    """Rule and bucket."""
    rule = DEFAULT_RULE
    # What passes through is for no virtual address, so only rules of all addresses can be meant.
    if packet.rule_protocol is not None:
        found = _find(table, packet, packet.rule_port, packet.rule_protocol)
        rule = DEFAULT_RULE if found is None else found
    elif packet.icmp:
        rule = next(
            (
                at
                for at, each in enumerate(table.rules)
                if each.mode is FilteringMode.MULTIPLE
                and (each.vip is None or (not packet.transit and each.vip == _local(table, packet)))
            ),
            DEFAULT_RULE,
        )
    affinity = Affinity.SINGLE if rule == DEFAULT_RULE else table.rules[rule].affinity
    # A control connection of PPTP must fall where its tunnel does, and that has no port.
    alone = packet.protocol == _TCP and packet.rule_port == _PPTP
    port = packet.client_port if packet.protocol in (_TCP, _UDP) and not alone else None
    return rule, bucket_of(table.seed, table.buckets, affinity, packet.client, port)


def _local(table: FilterTable, packet: _Packet) -> Address:
    """The address of ours that the packet was sent to."""
    return packet.client if table.reverse else packet.server


def _find(table: FilterTable, packet: _Packet, port: int, protocol: Protocol) -> int | None:
    if packet.transit:
        rules: tuple[PortRule, ...] = table.rules
        return next(
            (at for at, r in enumerate(rules) if r.vip is None and r.covers_port(port) and r.protocol.meets(protocol)),
            None,
        )
    return find_rule(table.rules, _local(table, packet), port, protocol)


def decide(table: FilterTable, flows: Flows, frame: bytes, now_ms: int) -> Decision:
    """What becomes of a frame; ``flows`` takes note of it."""
    read = _read(table, frame)
    if isinstance(read, Decision):
        decision = read
    elif read.later:
        decision = _decide_later_fragment(table, flows, read, now_ms)
    else:
        decision = _decide_packet(table, flows, read, now_ms)
    readdressed = table.own_mac is not None and frame[:6] == table.cluster_mac
    return replace(decision, rewrite=readdressed and decision.verdict is Verdict.ACCEPT)


def _decide_later_fragment(table: FilterTable, flows: Flows, packet: _Packet, now_ms: int) -> Decision:
    assert packet.fragment is not None
    known = flows.known_fragment(table, packet.fragment, now_ms)
    if known is FlowState.FRAGMENT_DROPPED:
        return Decision(verdict=Verdict.DROP, reason=Reason.OTHER_FRAGMENT, known=known)
    follows = known is FlowState.FRAGMENT_ACCEPTED
    reason = Reason.FRAGMENT_FOLLOWS if follows else Reason.FRAGMENT_UNPLACED
    return Decision(verdict=Verdict.ACCEPT, reason=reason, known=known)


def _decide_packet(table: FilterTable, flows: Flows, packet: _Packet, now_ms: int) -> Decision:
    rule, bucket = _place(table, packet)
    buckets: RuleBuckets = table.default if rule == DEFAULT_RULE else table.rule_buckets[rule]
    mode = FilteringMode.SINGLE if rule == DEFAULT_RULE else table.rules[rule].mode
    owner = buckets.owners[bucket]
    mine = owner == table.host
    known = FlowState.UNKNOWN
    if packet.tracked and (mine or buckets.kept is None or bucket in buckets.kept):
        known = flows.known(table, packet.key, now_ms)
    placed = Decision(verdict=Verdict.DROP, reason=Reason.MALFORMED, rule=rule, bucket=bucket, owner=owner, known=known)
    tcp = packet.protocol == _TCP
    continues = known is not FlowState.UNKNOWN and not packet.opens
    if buckets.cut:
        decision = replace(placed, reason=Reason.RULE_CUT)
        flows.states.pop(packet.key, None) if known is not FlowState.UNKNOWN else None
    elif continues:
        reason = Reason.KNOWN_CONNECTION if tcp else Reason.KNOWN_SESSION
        decision = replace(placed, verdict=Verdict.ACCEPT, reason=reason)
        if not packet.quoted:
            _note_continued(table, flows, packet, known, now_ms)
    elif mode is FilteringMode.DISABLED:
        decision = replace(placed, reason=Reason.RULE_DISABLED)
    elif not mine:
        decision = replace(placed, reason=_not_mine(rule, mode, owner))
        if known is not FlowState.UNKNOWN:
            del flows.states[packet.key]
    elif bucket in buckets.dirty and packet.tracked and not packet.opens:
        decision = replace(placed, reason=Reason.DIRTY)
    else:
        decision = replace(placed, verdict=Verdict.ACCEPT, reason=_mine(rule, mode))
        if packet.tracked and not packet.quoted:
            _note_accepted(flows, packet, known, now_ms)
    _note_more(flows, packet, decision.verdict is Verdict.ACCEPT, now_ms)
    return decision


def _mine(rule: int, mode: FilteringMode) -> Reason:
    if rule == DEFAULT_RULE:
        return Reason.DEFAULT_HOST
    return Reason.BUCKET_OWNER if mode is FilteringMode.MULTIPLE else Reason.SINGLE_HOST


def _not_mine(rule: int, mode: FilteringMode, owner: int) -> Reason:
    if owner == NOBODY:
        return Reason.NOBODY
    if rule == DEFAULT_RULE:
        return Reason.NOT_DEFAULT_HOST
    return Reason.OTHER_BUCKET if mode is FilteringMode.MULTIPLE else Reason.NOT_SINGLE_HOST


def _note_continued(table: FilterTable, flows: Flows, packet: _Packet, known: FlowState, now_ms: int) -> None:
    """A packet in the middle: RST ends the flow, FIN begins its end, and the second packet makes it open."""
    if packet.rst:
        del flows.states[packet.key]
    elif packet.fin:
        flows.states[packet.key] = (FlowState.CLOSING, now_ms)
    elif known is FlowState.OPENING:
        flows.states[packet.key] = (FlowState.OPEN, now_ms)
    else:
        state, seen_ms = flows.states[packet.key]
        if now_ms - seen_ms > table.times.touch_ms:
            flows.states[packet.key] = (state, now_ms)


def _note_accepted(flows: Flows, packet: _Packet, known: FlowState, now_ms: int) -> None:
    """A packet that its bucket brought here: one that opens, or one of a connection from before the filter."""
    if packet.opens:
        if known is FlowState.CLOSING:
            flows.states[packet.key] = (FlowState.OPEN, now_ms)
        elif known is not FlowState.OPEN:
            flows.states[packet.key] = (FlowState.OPENING, now_ms)
    elif not packet.fin and not packet.rst:
        flows.states[packet.key] = (FlowState.OPEN, now_ms)


def _note_more(flows: Flows, packet: _Packet, accepted: bool, now_ms: int) -> None:
    """Later fragments follow the first one; a control connection of PPTP opens the tunnel."""
    if packet.fragment is not None and not packet.quoted:
        state = FlowState.FRAGMENT_ACCEPTED if accepted else FlowState.FRAGMENT_DROPPED
        flows.fragments[packet.fragment] = (state, now_ms)
    elif packet.protocol == _TCP and packet.opens and packet.rule_port == _PPTP:
        tunnel = (packet.client, 0, packet.server, 0, _GRE)
        if accepted:
            flows.states[tunnel] = (FlowState.OPEN, now_ms)
        else:
            flows.states.pop(tunnel, None)

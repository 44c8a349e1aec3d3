"""Frames and tables at random, from one seed: mostly sensible, often damaged."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from clussvc.model.ids import HostId
from clussvc.nlb.filter_table import FilterTable, FlowTimes, RuleBuckets
from clussvc.nlb.mac import Address
from clussvc.nlb.port_rule import Affinity, FilteringMode, PortRule, Protocol, sort_rules
from tests.packets.frames import CLUSTER_MAC, OWN_MAC, Packet, ike, quoting

VIPS = ("192.0.2.10", "192.0.2.20", "2001:db8::10", "2001:db8::20")
TARGETS = (
    *VIPS,
    *VIPS,
    *VIPS,
    "192.0.2.1",
    "192.0.2.99",
    "224.0.0.1",
    "255.255.255.255",
    "2001:db8::99",
    "ff02::1",
    "::ffff:192.0.2.10",
)
PORTS = (0, 22, 80, 81, 443, 500, 1023, 1723, 4500, 8080, 65_535)
MACS = (CLUSTER_MAC, CLUSTER_MAC, CLUSTER_MAC, OWN_MAC, b"\xff" * 6)
CLIENTS_V4 = tuple(f"198.51.100.{number}" for number in range(1, 30))
CLIENTS_V6 = tuple(f"2001:db8:{number:x}::7" for number in range(1, 30))
PROTOCOLS = (6, 6, 6, 6, 17, 17, 47, 50, 51, 1, 58, 132, 59)


def random_rules(chance: random.Random) -> tuple[PortRule, ...]:
    """Up to eight rules that do not overlap."""
    rules: list[PortRule] = []
    for _ in range(chance.randrange(9)):
        first = chance.choice(PORTS)
        mode = chance.choice((FilteringMode.MULTIPLE, FilteringMode.MULTIPLE, *FilteringMode))
        rule = PortRule(
            vip=chance.choice((None, *map(ip_address, VIPS))),
            start_port=first,
            end_port=min(65_535, first + chance.choice((0, 0, 1, 500, 65_535))),
            protocol=chance.choice(list(Protocol)),
            mode=mode,
            affinity=chance.choice(list(Affinity)) if mode is FilteringMode.MULTIPLE else Affinity.SINGLE,
        )
        if not any(rule.overlaps(other) for other in rules):
            rules.append(rule)
    return sort_rules(rules)


def random_table(chance: random.Random) -> FilterTable:
    """Any table that is valid. Owners are drawn by bucket, so every case occurs."""
    buckets = chance.choice((1, 7, 60, 60, 960, 1024))
    rules = random_rules(chance)
    hosts = chance.choice((1, 1, 2, 2, 4, 32))

    def shares() -> RuleBuckets:
        owners = tuple(
            chance.choice((*(range(1, hosts + 1) if chance.random() < 0.9 else (0,)),)) for _ in range(buckets)
        )
        return RuleBuckets(
            owners=owners,
            dirty=frozenset(b for b in range(buckets) if chance.random() < 0.3),
            kept=chance.choice((None, frozenset(b for b in range(buckets) if chance.random() < 0.5))),
            cut=chance.random() < 0.1,
        )

    extra: tuple[Address, ...] = (
        tuple(IPv4Address(chance.getrandbits(32) | 1) for _ in range(chance.randrange(56)))
        + tuple(IPv6Address(chance.getrandbits(128) | 1) for _ in range(2))
        if chance.random() < 0.2
        else ()
    )
    return FilterTable(
        seed=chance.randbytes(16),
        buckets=buckets,
        host=HostId(chance.randint(1, hosts)),
        running=chance.random() < 0.95,
        vips=(*map(ip_address, VIPS), *extra),
        dedicated=(ip_address("192.0.2.1"), ip_address("2001:db8::1")),
        rules=rules,
        rule_buckets=tuple(shares() for _ in rules),
        default=shares(),
        cluster_mac=CLUSTER_MAC,
        own_mac=chance.choice((OWN_MAC, OWN_MAC, None)),
        filter_icmp=chance.random() < 0.5,
        reverse=chance.random() < 0.2,
        transit=chance.random() < 0.3,
        times=FlowTimes(opening_ms=500, idle_ms=4000, closing_ms=1000, gre_ms=2000, ipsec_ms=3000, fragment_ms=300),
    )


def random_packet(chance: random.Random) -> Packet:
    """One packet, sound in itself."""
    target = chance.choice(TARGETS)
    v4 = ip_address(target).version == 4
    source = chance.choice(CLIENTS_V4 if v4 else CLIENTS_V6)
    if chance.random() < 0.15:
        source, target = target, source
    protocol = chance.choice(PROTOCOLS)
    changes: dict[str, Any] = {}
    body = chance.randbytes(chance.choice((0, 4, 8, 40)))
    if protocol == 17 and chance.random() < 0.5:
        body = chance.choice((ike(opens=True), ike(opens=False), bytes(4) + ike(opens=True), b"\xff", body))
    if protocol in (1, 58):
        body = bytes((chance.choice((0, 3, 8, 11, 128, 129, 1, 2, 130, 135, 136, 143)),)) + bytes(7) + body
        if chance.random() < 0.5:
            sent = random_packet(chance).but(source=chance.choice((target, target, source)), target=source)
            if ip_address(sent.source).version == ip_address(sent.target).version:
                return quoting(sent, source=source, target=target)
    if chance.random() < 0.15:
        changes = {
            "fragment": chance.choice((0, 0, 1, 185)),
            "more": chance.random() < 0.6,
            "identification": chance.randrange(4),
        }
    return Packet(
        source=source,
        target=target,
        protocol=protocol,
        source_port=chance.choice(PORTS) if chance.random() < 0.3 else 40_000 + chance.randrange(4),
        target_port=chance.choice(PORTS),
        flags=chance.choice((2, 2, 16, 16, 16, 24, 17, 4, 20, 18, 0, 3)),
        body=body,
        mac=chance.choice(MACS),
        headers=tuple(chance.choice((0, 43, 60)) for _ in range(chance.choice((0, 0, 0, 1, 2, 5, 6, 7)))),
        options=chance.choice((0, 0, 0, 1, 10)),
        **changes,
    )


def related(chance: random.Random, packet: Packet) -> Packet:
    """The next packet of the same connection or datagram, or one that looks like it."""
    match chance.randrange(5):
        case 0:
            return packet.but(fragment=chance.choice((1, 2, 185)), more=chance.random() < 0.5)
        case 1:
            return packet.but(fragment=0, more=True)
        case 2 if packet.protocol in (6, 17, 47, 50) and not packet.fragment:
            sent = packet.but(source=packet.target, target=packet.source, mac=OWN_MAC, more=False, headers=())
            sent = sent.but(source_port=packet.target_port, target_port=packet.source_port)
            return quoting(sent, source=chance.choice((packet.source, packet.source)), target=packet.target)
        case _:
            return packet.but(flags=chance.choice((2, 16, 16, 24, 17, 4)))


class Frames:
    """A stream of frames that belong together more often than chance would have it."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._packets: list[Packet] = []

    def next(self) -> bytes:
        """A frame; one of five is cut off, bent, or not IP at all."""
        chance = self._chance
        if self._packets and chance.random() < 0.5:
            packet = related(chance, chance.choice(self._packets[-20:]))
        else:
            packet = random_packet(chance)
            self._packets.append(packet)
        frame = bytearray(packet.frame())
        if chance.random() < 0.1:
            frame = frame[: chance.randrange(len(frame) + 1)]
        if chance.random() < 0.1 and frame:
            for _ in range(chance.choice((1, 1, 3))):
                frame[chance.randrange(min(len(frame), 80))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.02 and len(frame) > 13:
            frame[12:14] = chance.choice((b"\x08\x06", b"\x81\x00", b"\x88\x6f"))
        if chance.random() < 0.05:
            frame += bytes(chance.randrange(30))
        return bytes(frame)

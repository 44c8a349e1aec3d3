"""Ethernet frames of every kind that the packet filter knows, made from words."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address

from clussvc.nlb.mac import Address

CLUSTER_MAC = bytes.fromhex("02bfc000020a")
OWN_MAC = bytes.fromhex("0200000000a1")
CLIENT_MAC = bytes.fromhex("0200000000c1")

ICMP, TCP, UDP, GRE, ESP, AH, ICMPV6 = 1, 6, 17, 47, 50, 51, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One frame. Addresses are texts; both have the same family."""

    source: str = "198.51.100.7"
    target: str = "192.0.2.10"
    protocol: int = TCP
    source_port: int = 40_000
    target_port: int = 80
    flags: int = SYN
    """Of TCP."""
    body: bytes = b""
    """Behind the transport header; of other protocols than TCP and UDP everything behind IP."""
    mac: bytes = CLUSTER_MAC
    fragment: int = 0
    """Where the fragment begins, in units of eight bytes. A later one has only ``body``."""
    more: bool = False
    identification: int = 1
    headers: tuple[int, ...] = ()
    """Extension headers of IPv6 before the transport header (0, 43, 60, each of eight bytes)."""
    options: int = 0
    """Options of IPv4, in units of four bytes."""

    def frame(self) -> bytes:
        """The frame."""
        source, target = ip_address(self.source), ip_address(self.target)
        transport = self.body if self.fragment else self._transport()
        packet = self._ipv4(source, target, transport) if target.version == 4 else self._ipv6(source, target, transport)
        return self.mac + CLIENT_MAC + packet

    def but(self, **changes: object) -> Packet:
        """Another one with these differences."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def _transport(self) -> bytes:
        if self.protocol == TCP:
            head = struct.pack(">HHIIBBHHH", self.source_port, self.target_port, 1, 1, 5 << 4, self.flags, 1024, 0, 0)
            return head + self.body
        if self.protocol == UDP:
            return struct.pack(">HHHH", self.source_port, self.target_port, 8 + len(self.body), 0) + self.body
        return self.body

    def _ipv4(self, source: Address, target: Address, transport: bytes) -> bytes:
        options = b"\x01" * (4 * self.options)
        total = 20 + len(options) + len(transport)
        fragment = self.fragment | 0x2000 * self.more
        head = struct.pack(
            ">BBHHHBBH", 0x45 + self.options, 0, total, self.identification, fragment, 64, self.protocol, 0
        )
        header = bytearray(head + source.packed + target.packed + options)
        words = sum(struct.unpack(f">{len(header) // 2}H", header))
        words = (words & 0xFFFF) + (words >> 16)
        header[10:12] = struct.pack(">H", 0xFFFF ^ ((words & 0xFFFF) + (words >> 16)))
        return b"\x08\x00" + bytes(header) + transport

    def _ipv6(self, source: Address, target: Address, transport: bytes) -> bytes:
        fragmented = self.fragment or self.more
        kinds = [*self.headers, *([44] if fragmented else []), self.protocol]
        headers = b""
        for at, kind in enumerate(kinds[:-1]):
            if kind == 44:
                headers += struct.pack(">BBHI", kinds[at + 1], 0, self.fragment << 3 | self.more, self.identification)
            else:
                headers += bytes((kinds[at + 1], 0)) + bytes(6)
        length = len(headers) + len(transport)
        head = struct.pack(">IHBB", 6 << 28, length, kinds[0], 64)
        return b"\x86\xdd" + head + source.packed + target.packed + headers + transport


def quoting(packet: Packet, *, source: str = "203.0.113.1", target: str = "192.0.2.10") -> Packet:
    """An ICMP error about that packet, which the cluster sent."""
    inner = packet.frame()[14:]
    if ip_address(target).version == 4:
        return Packet(source=source, target=target, protocol=ICMP, body=b"\x03\x04" + bytes(6) + inner[:28])
    return Packet(source=source, target=target, protocol=ICMPV6, body=b"\x02\x00" + bytes(6) + inner[:60])


def ike(*, opens: bool) -> bytes:
    """The beginning of an IKE message."""
    return b"initiate" + (bytes(8) if opens else b"response") + bytes(12)

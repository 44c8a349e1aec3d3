"""Frames made up to ask the filter about: how a packet with certain addresses would look.

``nlb explain`` asks no model of the filter but the filter itself, which wants to see a frame. Such a frame has no
payload and no checksums, since the filter looks at neither.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from clussvc.nlb.mac import Address

PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "gre": 47, "ipsec": 50}
"""The protocols that can be asked about, by the numbers of IP; ICMP of IPv6 has its own."""
FLAGS = {"": 0x10, "syn": 0x02, "fin": 0x11, "rst": 0x04}
"""Flags of TCP; without any it is a packet from the middle of a connection (ACK)."""
_WITH_PORTS = ("tcp", "udp")
_ICMPV6 = 58


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A packet to ask about."""

    protocol: str
    client: Address
    client_port: int
    server: Address
    server_port: int
    flags: str = ""

    def frame(self, to_mac: bytes, from_mac: bytes = bytes(6)) -> bytes:
        """The frame as it would reach a host."""
        body = self._body()
        if isinstance(self.server, IPv4Address):
            number = PROTOCOLS[self.protocol]
            header = struct.pack(
                "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, number, 0, self.client.packed, self.server.packed
            )
            return to_mac + from_mac + b"\x08\x00" + header + body
        number = _ICMPV6 if self.protocol == "icmp" else PROTOCOLS[self.protocol]
        header = struct.pack("!IHBB16s16s", 6 << 28, len(body), number, 64, self.client.packed, self.server.packed)
        return to_mac + from_mac + b"\x86\xdd" + header + body

    def _body(self) -> bytes:
        match self.protocol:
            case "tcp":
                flags = FLAGS[self.flags]
                return struct.pack("!HHIIBBHHH", self.client_port, self.server_port, 1, 1, 5 << 4, flags, 1024, 0, 0)
            case "udp":
                return struct.pack("!HHHH", self.client_port, self.server_port, 8, 0)
            case "icmp":
                echo_request = 8 if self.server.version == 4 else 128
                return struct.pack("!BBHHH", echo_request, 0, 0, 1, 1)
            case "gre":
                return struct.pack("!HHHH", 0x2001, 0x880B, 0, 1)
        return struct.pack("!II", 1, 1) + bytes(8)


def read_question(protocol: str, client: str, server: str, flags: str) -> Question | str:
    """The packet that these words mean, or what is wrong with them. Addresses may have a port: ``192.0.2.1:80``,
    ``[2001:db8::1]:80``; TCP and UDP need both."""
    protocol, flags = protocol.casefold(), flags.casefold()
    if protocol not in PROTOCOLS:
        return f"{protocol!r} is not a protocol; the protocols are: {', '.join(PROTOCOLS)}."
    if flags not in FLAGS or (flags and protocol != "tcp"):
        return f"{flags!r} is not a flag of {protocol}; TCP has: {', '.join(filter(None, FLAGS))}."
    ends = []
    for word in (client, server):
        end = _end(word, needs_port=protocol in _WITH_PORTS)
        if isinstance(end, str):
            return end
        ends.append(end)
    (client_address, client_port), (server_address, server_port) = ends
    if client_address.version != server_address.version:
        return f"{client_address} and {server_address} are addresses of different families."
    return Question(
        protocol=protocol,
        client=client_address,
        client_port=client_port,
        server=server_address,
        server_port=server_port,
        flags=flags,
    )


def _end(word: str, *, needs_port: bool) -> tuple[Address, int] | str:
    found = re.fullmatch(r"\[([^\]]+)\](?::([0-9]{1,5}))?|([^:]+)(?::([0-9]{1,5}))?|([0-9a-fA-F:.]+)", word.strip())
    text = (found[1] or found[3] or found[5]) if found else word
    port = (found[2] or found[4] or "") if found else ""
    try:
        address = ip_address(text)
    except ValueError:
        return f"{word!r} is not an address with a port; write 192.0.2.1:80 or [2001:db8::1]:80."
    if needs_port and (not port or int(port) > 65_535):
        return f"{word!r} needs a port in 0..65535: {address}:PORT."
    return address, int(port or 0)

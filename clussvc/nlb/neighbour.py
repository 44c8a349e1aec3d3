"""What a host answers when asked for the link address of the cluster: ARP and IPv6 neighbour discovery, as bytes.

Every host hears every question and gives the same answer: *the virtual address is at the cluster's link address*. The
frame itself comes from the host's own link address, so that no switch ever learns the cluster's and stops sending to
all hosts. The kernel is kept from answering by itself (see the type Network Load Balancing), since it would name the
host's own.

Only questions for a virtual address are answered; anything else, and whatever is malformed, is nobody's business here.
A probe for a duplicate (sender 0.0.0.0, or ``::``) is answered too: the address is taken. For a multicast link address
routers may want a static entry, since RFC 1812 forbids them to believe such an answer.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address

from clussvc.nlb.mac import BROADCAST_MAC, Address

ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET = struct.Struct("!6s6sH")
_IPV6 = struct.Struct("!IHBB16s16s")
_ICMPV6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_SOLICITED, _OVERRIDE = 0x40, 0x20
_TARGET_LINK_ADDRESS = 2
_ALL_NODES = IPv6Address("ff02::1")
_HOPS = 255
"""RFC 4861: a packet that was routed has fewer, and is not to be believed."""


def answer(frame: bytes, vips: Collection[Address], cluster_mac: bytes, own_mac: bytes) -> bytes | None:
    """The frame that answers this one; None: it is not a question for a virtual address."""
    if len(frame) < _ETHERNET.size:
        return None
    _, source, ethertype = _ETHERNET.unpack_from(frame)
    if ethertype == ETHERTYPE_ARP:
        return _answer_arp(frame[_ETHERNET.size :], source, vips, cluster_mac, own_mac)
    if ethertype == ETHERTYPE_IPV6:
        return _answer_solicitation(frame[_ETHERNET.size :], source, vips, cluster_mac, own_mac)
    return None


def announcement(vip: Address, cluster_mac: bytes, own_mac: bytes) -> bytes:
    """Tells everybody, unasked, where the address is: a gratuitous ARP request, or an unsolicited advertisement."""
    if isinstance(vip, IPv4Address):
        body = _ARP.pack(1, 0x0800, 6, 4, 1, cluster_mac, vip.packed, bytes(6), vip.packed)
        return _ETHERNET.pack(BROADCAST_MAC, own_mac, ETHERTYPE_ARP) + body
    return _advertisement(vip, _ALL_NODES, b"\x33\x33\x00\x00\x00\x01", cluster_mac, own_mac, _OVERRIDE)


def solicited_node_mac(vip: IPv6Address) -> bytes:
    """Where questions for an IPv6 address are sent to; the adapter must let these in."""
    return b"\x33\x33\xff" + vip.packed[13:]


def _answer_arp(
    body: bytes, source: bytes, vips: Collection[Address], cluster_mac: bytes, own_mac: bytes
) -> bytes | None:
    if len(body) < _ARP.size:
        return None
    kind, protocol, hardware_size, size, operation, asker_mac, asker, _, target = _ARP.unpack_from(body)
    if (kind, protocol, hardware_size, size, operation) != (1, 0x0800, 6, 4, 1):
        return None
    if asker == target or source == own_mac or IPv4Address(target) not in vips:
        # An announcement by another host of the cluster asks for its own address.
        return None
    reply = _ARP.pack(1, 0x0800, 6, 4, 2, cluster_mac, target, asker_mac, asker)
    return _ETHERNET.pack(source, own_mac, ETHERTYPE_ARP) + reply


def _answer_solicitation(
    packet: bytes, source: bytes, vips: Collection[Address], cluster_mac: bytes, own_mac: bytes
) -> bytes | None:
    if len(packet) < _IPV6.size + 24:
        return None
    first, length, following, hops, asker, _ = _IPV6.unpack_from(packet)
    if first >> 28 != 6 or following != _ICMPV6 or hops != _HOPS or not 24 <= length <= len(packet) - _IPV6.size:
        return None
    message = packet[_IPV6.size : _IPV6.size + length]
    if message[0] != _SOLICITATION or message[1] != 0 or source == own_mac:
        return None
    if _checksum(packet[8:24], packet[24:40], message) != 0:
        return None
    target = IPv6Address(message[8:24])
    if target not in vips:
        return None
    if asker == bytes(16):
        # A probe for a duplicate comes from nobody and is answered to everybody.
        return _advertisement(target, _ALL_NODES, b"\x33\x33\x00\x00\x00\x01", cluster_mac, own_mac, _OVERRIDE)
    flags = _SOLICITED | _OVERRIDE
    return _advertisement(target, IPv6Address(asker), source, cluster_mac, own_mac, flags)


def _advertisement(
    target: IPv6Address, to: IPv6Address, to_mac: bytes, cluster_mac: bytes, own_mac: bytes, flags: int
) -> bytes:
    message = struct.pack(
        "!BBHB3x16sBB6s", _ADVERTISEMENT, 0, 0, flags, target.packed, _TARGET_LINK_ADDRESS, 1, cluster_mac
    )
    checksum = _checksum(target.packed, to.packed, message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    header = _IPV6.pack(6 << 28, len(message), _ICMPV6, _HOPS, target.packed, to.packed)
    return _ETHERNET.pack(to_mac, own_mac, ETHERTYPE_IPV6) + header + message


def _checksum(source: bytes, target: bytes, message: bytes) -> int:
    """The Internet checksum over the pseudo header and the message; 0 for a message that carries the right one."""
    data = source + target + struct.pack("!II", len(message), _ICMPV6) + message
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

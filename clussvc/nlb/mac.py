"""The link addresses that belong to a load-balanced cluster, derived from its primary address.

All hosts derive the same address from the same cluster address, so nobody has to hand them out. ``w.x.y.z`` stands for
the octets of an IPv4 address. Of an IPv6 address the four octets are the exclusive-or of its four 32-bit words.

| mode | cluster's link address | source of the frames | IPv4 group joined |
|---|---|---|---|
| unicast | ``02-bf-w-x-y-z`` | ``02-h-w-x-y-z`` of host h, so that no switch learns the former | none |
| multicast | ``03-bf-w-x-y-z`` | the adapter's own | none |
| IGMP multicast | ``01-00-5e-7f-y-z`` | the adapter's own | ``239.255.y.z`` |
"""

from __future__ import annotations

from enum import Enum, unique
from ipaddress import IPv4Address, IPv6Address

from clussvc.model.ids import HostId

Address = IPv4Address | IPv6Address

MAC_BYTES = 6
BROADCAST_MAC = b"\xff" * MAC_BYTES


@unique
class OperationMode(Enum):
    """How the hosts share one link address. All hosts of a cluster use the same mode."""

    UNICAST = "unicast"
    MULTICAST = "multicast"
    IGMP = "igmp"
    """Multicast, and the hosts join a group, so that switches which listen send the frames to the hosts only."""


def address_octets(address: Address) -> bytes:
    """The four octets that enter a link address."""
    if isinstance(address, IPv4Address):
        return address.packed
    words = [int.from_bytes(address.packed[at : at + 4], "big") for at in range(0, 16, 4)]
    return (words[0] ^ words[1] ^ words[2] ^ words[3]).to_bytes(4, "big")


def cluster_mac(mode: OperationMode, address: Address) -> bytes:
    """The link address to which clients of the cluster send."""
    octets = address_octets(address)
    match mode:
        case OperationMode.UNICAST:
            return b"\x02\xbf" + octets
        case OperationMode.MULTICAST:
            return b"\x03\xbf" + octets
        case OperationMode.IGMP:
            return b"\x01\x00\x5e\x7f" + octets[2:]


def masked_source_mac(host: HostId, address: Address) -> bytes:
    """The source of a host's frames in unicast mode, if it is masked."""
    return bytes((0x02, host)) + address_octets(address)


def igmp_group(address: Address) -> IPv4Address:
    """The group that hosts join in IGMP mode; its link address (RFC 1112) is that of the cluster."""
    return IPv4Address(b"\xef\xff" + address_octets(address)[2:])


def heartbeat_mac(mode: OperationMode, address: Address) -> bytes:
    """Where heartbeats are sent to: everybody in unicast mode, else the link address of the cluster."""
    return BROADCAST_MAC if mode is OperationMode.UNICAST else cluster_mac(mode, address)


def mac_text(mac: bytes, separator: str = "-") -> str:
    """As people write it; with ``-`` as the original prints it, with ``:`` as Linux does."""
    return mac.hex(separator)


def parse_mac(text: str) -> bytes | None:
    """The link address that a text means, with ``-`` or ``:`` between its octets; None: it is none."""
    plain = text.strip().replace("-", ":").split(":")
    if len(plain) != MAC_BYTES or not all(len(octet) == 2 for octet in plain):
        return None
    try:
        return bytes.fromhex("".join(plain))
    except ValueError:
        return None

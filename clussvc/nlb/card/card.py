"""Makes an adapter of this machine that of a host: virtual addresses, hardware filter, group, settings of the kernel.

What is made here goes away by itself when the process that made it ends: memberships in the hardware filter and in
groups belong to its sockets, and virtual addresses have a short lifetime that it extends again and again. Then the
machine does not answer for the cluster any more, which is the direction in which a load balancer has to fail: a virtual
address is on no adapter that hears, and frames for the cluster's link address are for nobody.

* Virtual addresses are put on the *loopback* interface. ``arp_ignore`` and ``arp_announce`` of the adapter keep the
  kernel from telling anybody that they are here; who asks is answered by :mod:`clussvc.nlb.card.answering`.
* The adapter's hardware filter is told to let the cluster's link address in.
* ``drop_unicast_in_l2_multicast`` makes the kernel drop what reaches it by a multicast link address without having
  passed the filter, which turns such frames into ordinary ones.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Final

from clussvc.model.errors import ClusterError
from clussvc.nlb.mac import Address
from clussvc.nlb.neighbour import solicited_node_mac
from clussvc.resources.types import rtnetlink
from clussvc.resources.types.rtnetlink import Link

LIFETIME_S: Final = 3
"""How long the kernel keeps a virtual address of a process that runs no more; whole seconds are what it counts in."""
EXTENSION_INTERVAL_S: Final = 0.5

_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_MR_MULTICAST, _MR_UNICAST = 0, 3
_MEMBERSHIP: Final = struct.Struct("=iHH8s")

_SETTINGS_IPV4: Final[Mapping[str, str]] = {"arp_ignore": "1", "arp_announce": "2"}
_SETTINGS_MULTICAST: Final[Mapping[str, str]] = {"drop_unicast_in_l2_multicast": "1"}
_PROC: Final = Path("/proc/sys/net")


def find_link(name: str, address: Address) -> Link:
    """The adapter of that name, or the one with an address in the subnet of the cluster; the narrowest subnet wins.

    Raises ClusterError: ``no-interface``, ``link-unfit``, ``link-down``.
    """
    links = rtnetlink.links()
    if name:
        link = next((link for link in links if link.name == name), None)
        if link is None:
            names = ", ".join(link.name for link in links)
            raise ClusterError("no-interface", f"this node has no network interface {name!r}; it has: {names}")
    else:
        best = _narrowest(address)
        link = next((link for link in links if link.index == best), None)
        if link is None:
            raise ClusterError(
                "no-interface",
                f"no network interface of this node has an address in the subnet of {address}:"
                " name the interface in the property Interface, or give the node an address there",
            )
    if not link.speaks_arp:
        raise ClusterError(
            "link-unfit", f"{link.name} is no Ethernet adapter, which load balancing needs; name another"
        )
    if not link.works:
        raise ClusterError("link-down", f"the network interface {link.name} is down", retryable=True)
    return link


def _narrowest(address: Address) -> int | None:
    if not isinstance(address, IPv4Address):
        return None
    fitting = [
        known
        for known in rtnetlink.addresses()
        if known.prefix < 32 and address in IPv4Network((known.address, known.prefix), strict=False)
    ]
    return max(fitting, key=lambda known: known.prefix).index if fitting else None


def loopback_index() -> int:
    """The number of the loopback interface."""
    return next(link.index for link in rtnetlink.links() if link.flags & rtnetlink.IFF_LOOPBACK)


def settings_for(interface: str, *, multicast: bool) -> dict[str, str]:
    """The settings of the kernel that an adapter needs, by path."""
    wanted = {f"ipv4/conf/{interface}/{name}": value for name, value in _SETTINGS_IPV4.items()}
    if multicast:
        for family in ("ipv4", "ipv6"):
            wanted |= {f"{family}/conf/{interface}/{name}": value for name, value in _SETTINGS_MULTICAST.items()}
    return wanted


def read_settings(names: Iterable[str]) -> dict[str, str]:
    """What these settings are now; those that this kernel does not have are left out."""
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            found[name] = (_PROC / name).read_text().strip()
    return found


def write_settings(settings: Mapping[str, str]) -> None:
    """Set them. Raises OSError for one that exists and cannot be set."""
    for name, value in settings.items():
        with contextlib.suppress(FileNotFoundError):
            (_PROC / name).write_text(value)


def hold_addresses(vips: Sequence[Address]) -> None:
    """Have, or go on having, the virtual addresses for LIFETIME_S. Raises OSError."""
    index = loopback_index()
    for vip in vips:
        rtnetlink.hold_address(index, vip, lifetime_s=LIFETIME_S)


def drop_addresses(vips: Iterable[Address]) -> None:
    """Have them no more. Raises OSError."""
    index = loopback_index()
    for vip in vips:
        rtnetlink.drop_address(index, vip)


class Memberships:
    """Lets the cluster's link address, and questions of IPv6 neighbours, through the filter of the adapter."""

    def __init__(self, link: Link, mac: bytes, vips: Iterable[Address]) -> None:
        """Raises OSError."""
        # A socket for no protocol receives nothing; it only holds the memberships.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._join(link, mac)
            for vip in vips:
                if isinstance(vip, IPv6Address):
                    self._join(link, solicited_node_mac(vip))
        except BaseException:
            self._socket.close()
            raise

    def _join(self, link: Link, mac: bytes) -> None:
        kind = _MR_MULTICAST if mac[0] & 1 else _MR_UNICAST
        self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _MEMBERSHIP.pack(link.index, kind, len(mac), mac))

    def close(self) -> None:
        """Leave; the kernel takes the addresses out of the filter."""
        self._socket.close()


class Group:
    """Membership in the IPv4 group of a cluster in the mode igmp; the kernel reports it, and answers queries."""

    def __init__(self, link: Link, group: IPv4Address) -> None:
        """Raises OSError."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            request = struct.pack("=4s4si", group.packed, bytes(4), link.index)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Leave the group; the kernel tells routers and switches."""
        self._socket.close()


def igmp_setting(interface: str, version: int) -> dict[str, str]:
    """The setting that has the kernel report groups on an adapter in that version."""
    return {f"ipv4/conf/{interface}/force_igmp_version": str(version)}

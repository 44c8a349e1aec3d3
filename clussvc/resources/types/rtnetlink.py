"""Addresses and links of this network namespace, asked of the kernel through rtnetlink.

Only what is needed: list links and addresses, add and delete an IPv4 address, hear of changes. Spoken directly over a
netlink socket, since a failover waits for the first call and the usual library takes a third of a second and several
megabytes to load (docs/decisions/0007).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

IFF_UP: Final = 0x1
IFF_LOOPBACK: Final = 0x8
IFF_RUNNING: Final = 0x40
IFF_NOARP: Final = 0x80

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_REQUEST, _ACK, _DUMP, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_IFLA_ADDRESS, _IFLA_IFNAME = 1, 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_CACHEINFO = 1, 2, 4, 6
_IFA_F_DADFAILED = 0x08
_GROUP_LINK, _GROUP_IPV4_ADDRESS, _GROUP_IPV6_ADDRESS = 0x1, 0x10, 0x100
_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBi")
_LIFETIMES: Final = struct.Struct("=IIII")
"""Preferred and valid lifetime in seconds, and two time stamps that only the kernel sets."""
_ATTRIBUTE: Final = struct.Struct("=HH")
_RECEIVE_BYTES: Final = 1 << 17
_ANSWER_LIMIT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface."""

    index: int
    name: str
    flags: int
    hardware: bytes
    """Its hardware address, six bytes on Ethernet."""

    @property
    def works(self) -> bool:
        """Administratively up, and with a carrier as far as the system can tell."""
        return self.flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING

    @property
    def speaks_arp(self) -> bool:
        """Whether neighbours on it are found by ARP."""
        return not self.flags & (IFF_LOOPBACK | IFF_NOARP) and len(self.hardware) == 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An IPv4 address of an interface."""

    index: int
    address: ipaddress.IPv4Address
    prefix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAddress:
    """An address of either family of an interface."""

    index: int
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    """Without the interface of a link-local one, which is ``index``."""
    prefix: int
    duplicate: bool
    """Another host of the network has this IPv6 address, so the kernel does not let it be used."""


def links() -> list[Link]:
    """All interfaces. Raises OSError."""
    found = []
    for kind, body in _dump(_RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        if kind == _RTM_NEWLINK:
            _, _, index, flags, _ = _LINK.unpack_from(body)
            attributes = _attributes(body[_LINK.size :])
            name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode()
            found.append(Link(index=index, name=name, flags=flags, hardware=attributes.get(_IFLA_ADDRESS, b"")))
    return found


def addresses() -> list[Address]:
    """All IPv4 addresses of all interfaces. Raises OSError."""
    return [
        Address(index=each.index, address=each.address, prefix=each.prefix)
        for each in _addresses(socket.AF_INET)
        if isinstance(each.address, ipaddress.IPv4Address)
    ]


def own_addresses() -> list[OwnAddress]:
    """All addresses of both families. Raises OSError."""
    return _addresses(socket.AF_UNSPEC)


def _addresses(wanted: int) -> list[OwnAddress]:
    found = []
    for kind, body in _dump(_RTM_GETADDR, _ADDRESS.pack(wanted, 0, 0, 0, 0)):
        family, prefix, flags, _, index = _ADDRESS.unpack_from(body)
        if kind == _RTM_NEWADDR and family in (socket.AF_INET, socket.AF_INET6):
            attributes = _attributes(body[_ADDRESS.size :])
            raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
            if raw is not None and len(raw) == (4 if family == socket.AF_INET else 16):
                duplicate = family == socket.AF_INET6 and bool(flags & _IFA_F_DADFAILED)
                address = ipaddress.ip_address(raw)
                found.append(OwnAddress(index=index, address=address, prefix=prefix, duplicate=duplicate))
    return found


def add_address(address: Address, *, lifetime_s: int) -> None:
    """The kernel takes it away again after ``lifetime_s`` unless :func:`extend_address` is called before.

    Raises OSError: FileExistsError when the interface has the address already.
    """
    _request(_RTM_NEWADDR, _REQUEST | _ACK | _CREATE | _EXCL, _address_body(address) + _lifetimes(lifetime_s))


def extend_address(address: Address, *, lifetime_s: int) -> None:
    """Let an address live on for ``lifetime_s`` from now; one that is gone would come back. Raises OSError."""
    _request(_RTM_NEWADDR, _REQUEST | _ACK | _REPLACE, _address_body(address) + _lifetimes(lifetime_s))


def delete_address(address: Address) -> bool:
    """False when the interface has no such address, or there is no such interface. Raises OSError."""
    try:
        _request(_RTM_DELADDR, _REQUEST | _ACK, _address_body(address))
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
            return False
        raise
    return True


def hold_address(index: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address, *, lifetime_s: int) -> None:
    """Let an interface have that address alone, without a subnet, for ``lifetime_s`` from now on; it may have it
    already. Raises OSError."""
    body = _host_body(index, address) + _lifetimes(lifetime_s)
    _request(_RTM_NEWADDR, _REQUEST | _ACK | _CREATE | _REPLACE, body)


def drop_address(index: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """The inverse; nothing happens when the interface does not have it. Raises OSError."""
    try:
        _request(_RTM_DELADDR, _REQUEST | _ACK, _host_body(index, address))
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise


def open_changes() -> socket.socket:
    """A non-blocking socket that becomes readable when a link or an address changes. Raises OSError."""
    changes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        changes.setblocking(False)
        changes.bind((0, _GROUP_LINK | _GROUP_IPV4_ADDRESS | _GROUP_IPV6_ADDRESS))
    except OSError:
        changes.close()
        raise
    return changes


def drain_changes(changes: socket.socket) -> None:
    """Read away what has been told; the caller then looks for itself, so overflows do no harm."""
    while True:
        try:
            changes.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                return


def _address_body(address: Address) -> bytes:
    raw = address.address.packed
    body = _ADDRESS.pack(socket.AF_INET, address.prefix, 0, 0, address.index)
    body += _attribute(_IFA_LOCAL, raw) + _attribute(_IFA_ADDRESS, raw)
    if address.prefix < 31:
        network = ipaddress.IPv4Network((address.address, address.prefix), strict=False)
        body += _attribute(_IFA_BROADCAST, network.broadcast_address.packed)
    return body


def _host_body(index: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    raw = address.packed
    body = _ADDRESS.pack(family, address.max_prefixlen, 0, 0, index)
    return body + _attribute(_IFA_LOCAL, raw) + _attribute(_IFA_ADDRESS, raw)


def _lifetimes(lifetime_s: int) -> bytes:
    return _attribute(_IFA_CACHEINFO, _LIFETIMES.pack(lifetime_s, lifetime_s, 0, 0))


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def _attributes(body: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _request(kind: int, flags: int, body: bytes) -> None:
    for _ in _exchange(kind, flags, body):
        continue


def _dump(kind: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    return _exchange(kind, _REQUEST | _DUMP, body)


def _exchange(kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Ask, and give the messages of the answer until it is complete."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_ANSWER_LIMIT_S)
        kernel.bind((0, 0))
        kernel.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        while True:
            for answer, payload in _messages(kernel.recv(_RECEIVE_BYTES)):
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    (negative,) = struct.unpack_from("=i", payload)
                    if negative:
                        raise OSError(-negative, os.strerror(-negative))
                    return
                yield answer, payload


def _messages(chunk: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(chunk):
        length, kind, _, _, _ = _HEADER.unpack_from(chunk, at)
        if length < _HEADER.size:
            return
        yield kind, chunk[at + _HEADER.size : at + length]
        at += (length + 3) & ~3

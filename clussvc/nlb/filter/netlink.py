"""Questions to the kernel, spoken directly as in the type IP Address: which XDP programs are on an interface, and which
TCP sockets this network namespace has."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_RTM_NEWLINK, _RTM_GETLINK, _REQUEST = 16, 18, 1
_IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_XDP = 18, 1, 43
_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_MODES: Final = {5: "native", 6: "generic", 7: "in the adapter"}
"""Attributes inside IFLA_XDP that hold the number of a program, by mode."""
_ANSWER_LIMIT_S: Final = 5.0

_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_DUMP: Final = 0x300
_ERROR, _DONE = 2, 3
_TCP_LISTEN: Final = 10
_TCP_STATES: Final = (1 << 12) - 2 - (1 << 6) - (1 << 7)
"""All but TIME_WAIT and CLOSE."""
_REQUEST_BODY: Final = struct.Struct("=BBBxI48x")
_SOCKET: Final = struct.Struct(">HH16s16s")
_MAPPED: Final = bytes(10) + b"\xff\xff"

TcpEnds = tuple[bytes, int, bytes, int]
"""Address and port there, address and port here; sixteen bytes each, those of IPv4 in the mapped form."""


def xdp_programs(index: int) -> list[tuple[int, str]]:
    """Numbers and modes of the programs on that interface; none if the interface is gone. Raises OSError."""
    return [
        (struct.unpack("=I", inner)[0], _MODES[which])
        for which, inner in _attributes(_link_attributes(index).get(_IFLA_XDP, b""))
        if which in _MODES and len(inner) == 4
    ]


def link_kind(index: int) -> str:
    """Which kind of virtual interface that is, such as ``veth``; empty for a physical one, or none. Raises OSError."""
    info = dict(_attributes(_link_attributes(index).get(_IFLA_LINKINFO, b"")))
    return info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")


def _link_attributes(index: int) -> dict[int, bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(_ANSWER_LIMIT_S)
        asked.bind((0, 0))
        body = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)
        asked.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _REQUEST, 1, 0) + body)
        answer = asked.recv(1 << 17)
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _RTM_NEWLINK:
        return {}
    return dict(_attributes(answer[_HEADER.size + _LINK.size : length]))


def tracks_connections() -> bool:
    """Whether this network namespace tracks connections, as address translation needs it."""
    try:
        return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text()) > 0
    except (OSError, ValueError):
        return False


def tcp_sockets() -> tuple[set[TcpEnds], set[tuple[bytes, int]]]:
    """The connections of this network namespace (those in TIME_WAIT are over), and where somebody listens: address and
    port, the unspecified address of IPv6 for any. Raises OSError."""
    connections: set[TcpEnds] = set()
    listening: set[tuple[bytes, int]] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for state, here_port, there_port, here, there in _dump_sockets(family):
            if family == socket.AF_INET:
                here, there = _MAPPED + here[:4], _MAPPED + there[:4]
            if state != _TCP_LISTEN:
                connections.add((there, there_port, here, here_port))
            else:
                # An unspecified IPv4 address comes in its mapped form here; both mean any address of the family.
                listening.add((bytes(16) if here == _MAPPED + bytes(4) else here, here_port))
    return connections, listening


def _dump_sockets(family: int) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as asked:
        asked.settimeout(_ANSWER_LIMIT_S)
        asked.bind((0, 0))
        body = _REQUEST_BODY.pack(family, socket.IPPROTO_TCP, 0, _TCP_STATES)
        asked.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, 1, 0) + body)
        while True:
            answer = asked.recv(1 << 17)
            while len(answer) >= _HEADER.size:
                length, kind, *_ = _HEADER.unpack_from(answer)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (number,) = struct.unpack_from("=i", answer, _HEADER.size)
                    raise OSError(-number, "the kernel does not list its sockets")
                here_port, there_port, here, there = _SOCKET.unpack_from(answer, _HEADER.size + 4)
                yield answer[_HEADER.size + 1], here_port, there_port, here, there
                answer = answer[(length + 3) & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, number = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        # The two highest bits say how the value is meant, not which it is.
        yield number & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]

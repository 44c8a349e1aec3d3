"""Which XDP programs are on an interface: one question to rtnetlink, spoken directly as in the type IP Address."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final

_RTM_NEWLINK, _RTM_GETLINK, _REQUEST = 16, 18, 1
_IFLA_XDP: Final = 43
_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_MODES: Final = {5: "native", 6: "generic", 7: "in the adapter"}
"""Attributes inside IFLA_XDP that hold the number of a program, by mode."""
_ANSWER_LIMIT_S: Final = 5.0


def xdp_programs(index: int) -> list[tuple[int, str]]:
    """Numbers and modes of the programs on that interface; none if the interface is gone. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(_ANSWER_LIMIT_S)
        asked.bind((0, 0))
        body = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)
        asked.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _REQUEST, 1, 0) + body)
        answer = asked.recv(1 << 17)
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _RTM_NEWLINK:
        return []
    for number, value in _attributes(answer[_HEADER.size + _LINK.size : length]):
        if number == _IFLA_XDP:
            return [
                (struct.unpack("=I", inner)[0], _MODES[which])
                for which, inner in _attributes(value)
                if which in _MODES and len(inner) == 4
            ]
    return []


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, number = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        # The two highest bits say how the value is meant, not which it is.
        yield number & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]

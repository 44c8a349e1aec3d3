"""Asks ping targets on a network whether they are there: ICMP echo, from the node's own address on it.

A network counts as silent when none of its targets has answered for a while; one answer of one target is enough. With
no right to send ICMP nothing is known, and nothing is said.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

INTERVAL_S: Final = 1.0
"""How often every target is asked."""
SILENCE_S: Final = 3.0
"""After so long without an answer a network counts as silent: three questions."""
ANSWERS_MAX: Final = 64
"""Datagrams that are read from one socket at a time; a raw socket hears all ICMP of the machine."""

_ECHO_REQUEST: Final = 8
_ECHO_REPLY: Final = 0
_ICMP: Final = struct.Struct("!BBHHH")
_TOKEN_BYTES: Final = 16

log = structlog.get_logger()


@dataclass(slots=True)
class _Line:
    """What is known of one network."""

    source: tuple[str, str, tuple[str, ...]]
    socket: socket.socket
    raw: bool
    since_s: float
    """When the newest answer came, or asking began."""
    token: bytes = field(default_factory=lambda: os.urandom(_TOKEN_BYTES))
    next_s: float = 0.0
    number: int = 0


class Pinger:
    """Asks on any number of networks, which are known by a number each; ``step`` does what is due and never waits."""

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}
        self._failed: set[tuple[str, str, tuple[str, ...]]] = set()

    def filenos(self) -> list[int]:
        """What becomes readable when an answer comes."""
        return [line.socket.fileno() for line in self._lines.values()]

    def step(self, wanted: Mapping[int, tuple[str, str, tuple[str, ...]]], now_s: float) -> None:
        """Read answers and ask what is due. ``wanted``: own address, interface (or empty) and targets by network."""
        for number in [number for number, line in self._lines.items() if wanted.get(number) != line.source]:
            self._lines.pop(number).socket.close()
        for number, source in wanted.items():
            if number not in self._lines and source not in self._failed:
                self._open(number, source, now_s)
        for line in self._lines.values():
            if self._answered(line):
                line.since_s = now_s
            if now_s >= line.next_s:
                line.next_s = now_s + INTERVAL_S
                self._ask(line)

    def silent(self, now_s: float) -> dict[int, tuple[str, ...]]:
        """The networks of which no target has answered for SILENCE_S, with their targets."""
        return {number: line.source[2] for number, line in self._lines.items() if now_s - line.since_s >= SILENCE_S}

    def close(self) -> None:
        """Close all sockets."""
        for line in self._lines.values():
            line.socket.close()
        self._lines.clear()

    def _open(self, number: int, source: tuple[str, str, tuple[str, ...]], now_s: float) -> None:
        address, interface, _ = source
        for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
            try:
                opened = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP)
            except OSError as error:
                why = error
                continue
            try:
                if interface:
                    # Else an answer through another network would do as well.
                    with contextlib.suppress(PermissionError):
                        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                opened.bind((address, 0))
                opened.setblocking(False)
            except OSError as error:
                opened.close()
                why = error
                continue
            self._lines[number] = _Line(source=source, socket=opened, raw=kind == socket.SOCK_RAW, since_s=now_s)
            return
        self._failed.add(source)
        log.warning("ping.impossible", address=address, because=why.strerror)

    def _ask(self, line: _Line) -> None:
        line.number = (line.number + 1) & 0xFFFF
        body = _ICMP.pack(_ECHO_REQUEST, 0, 0, 0x636C, line.number) + line.token
        checked = _ICMP.pack(_ECHO_REQUEST, 0, _checksum(body), 0x636C, line.number) + line.token
        for target in line.source[2]:
            # A target that cannot be reached by any route is one that does not answer.
            with contextlib.suppress(OSError):
                line.socket.sendto(checked, (target, 0))

    def _answered(self, line: _Line) -> bool:
        """Read what has come; whether an answer to one of our questions is among it."""
        found = False
        for _ in range(ANSWERS_MAX):
            try:
                data, (sender, _) = line.socket.recvfrom(2_048)
            except OSError:
                return found
            if line.raw:
                data = data[(data[0] & 0x0F) * 4 :] if data else data
            whole = len(data) >= _ICMP.size and data[0] == _ECHO_REPLY
            found = found or (whole and sender in line.source[2] and data[_ICMP.size :].startswith(line.token))
        return found


def _checksum(data: bytes) -> int:
    """The checksum of the Internet (RFC 1071), over an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

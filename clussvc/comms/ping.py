"""Asks ping targets on a network whether they are there: ICMP echo, from the node's own address on it.

A network counts as silent when none of its targets has answered for a while; one answer of one target is enough. With
no right to send ICMP nothing is known, and nothing is said. Targets of another family than the node's own address
cannot be asked from there; if there are no others, nothing is known either.
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
REOPEN_S: Final = 5.0
"""How often it is tried again where nobody could be asked: an IPv6 address cannot be used for a moment after its link
has come up."""
ANSWERS_MAX: Final = 64
"""Datagrams that are read from one socket at a time; a raw socket hears all ICMP of the machine."""

_ICMP: Final = struct.Struct("!BBHHH")
_TOKEN_BYTES: Final = 16
_ICMPV6_FILTER: Final = 1
"""Linux: which types a raw socket is not to hear, a bit for each. Python has no name for it."""

log = structlog.get_logger()

_Source = tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """What differs between the two ways to ask."""

    number: socket.AddressFamily
    protocol: int
    request: int
    reply: int


_FOUR: Final = _Family(number=socket.AF_INET, protocol=socket.IPPROTO_ICMP, request=8, reply=0)
_SIX: Final = _Family(number=socket.AF_INET6, protocol=socket.IPPROTO_ICMPV6, request=128, reply=129)


@dataclass(slots=True)
class _Line:
    """What is known of one network."""

    source: _Source
    family: _Family
    targets: Mapping[bytes, tuple[str | int, ...]]
    """Where to ask, by the bytes of the address."""
    socket: socket.socket
    headed: bool
    """Whether the header of IP comes before what is read."""
    since_s: float
    """When the newest answer came, or asking began."""
    token: bytes = field(default_factory=lambda: os.urandom(_TOKEN_BYTES))
    next_s: float = 0.0
    number: int = 0


class Pinger:
    """Asks on any number of networks, which are known by a number each; ``step`` does what is due and never waits."""

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}
        self._failed: dict[_Source, float] = {}
        """Where nobody could be asked, and when it is tried again."""

    def filenos(self) -> list[int]:
        """What becomes readable when an answer comes."""
        return [line.socket.fileno() for line in self._lines.values()]

    def step(self, wanted: Mapping[int, _Source], now_s: float) -> None:
        """Read answers and ask what is due. ``wanted``: own address, interface (or empty) and targets by network."""
        for number in [number for number, line in self._lines.items() if wanted.get(number) != line.source]:
            self._lines.pop(number).socket.close()
        sources = set(wanted.values())
        self._failed = {source: again_s for source, again_s in self._failed.items() if source in sources}
        for number, source in wanted.items():
            if number not in self._lines and self._failed.get(source, now_s) <= now_s:
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

    def _open(self, number: int, source: _Source, now_s: float) -> None:
        address, interface, targets = source
        family = _SIX if ":" in address else _FOUR
        why = "no target has an address of the same family"
        where = _where(family, interface or address.partition("%")[2], targets)
        for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM) if where else ():
            try:
                opened = socket.socket(family.number, kind | socket.SOCK_CLOEXEC, family.protocol)
            except OSError as error:
                why = error.strerror or str(error)
                continue
            try:
                if interface:
                    # Else an answer through another network would do as well.
                    with contextlib.suppress(PermissionError):
                        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                if family is _SIX and kind == socket.SOCK_RAW:
                    opened.setsockopt(family.protocol, _ICMPV6_FILTER, _all_but(family.reply))
                opened.bind(_numeric(family, address))
                opened.setblocking(False)
            except OSError as error:
                opened.close()
                why = error.strerror or str(error)
                continue
            self._failed.pop(source, None)
            headed = family is _FOUR and kind == socket.SOCK_RAW
            self._lines[number] = _Line(
                source=source, family=family, targets=where, socket=opened, headed=headed, since_s=now_s
            )
            return
        if source not in self._failed:
            log.warning("ping.impossible", address=address, because=why)
        self._failed[source] = now_s + REOPEN_S

    def _ask(self, line: _Line) -> None:
        line.number = (line.number + 1) & 0xFFFF
        body = _ICMP.pack(line.family.request, 0, 0, 0x636C, line.number) + line.token
        # The kernel sums up what it sends by IPv6, since the addresses are part of that sum.
        sum_ = _checksum(body) if line.family is _FOUR else 0
        checked = _ICMP.pack(line.family.request, 0, sum_, 0x636C, line.number) + line.token
        for target in line.targets.values():
            # A target that cannot be reached by any route is one that does not answer.
            with contextlib.suppress(OSError):
                line.socket.sendto(checked, target)

    def _answered(self, line: _Line) -> bool:
        """Read what has come; whether an answer to one of our questions is among it."""
        found = False
        for _ in range(ANSWERS_MAX):
            try:
                data, sender = line.socket.recvfrom(2_048)
            except OSError:
                return found
            if line.headed:
                data = data[(data[0] & 0x0F) * 4 :] if data else data
            whole = len(data) >= _ICMP.size and data[0] == line.family.reply
            known = socket.inet_pton(line.family.number, sender[0].partition("%")[0]) in line.targets
            found = found or (whole and known and data[_ICMP.size :].startswith(line.token))
        return found


def _where(family: _Family, interface: str, targets: tuple[str, ...]) -> dict[bytes, tuple[str | int, ...]]:
    """The targets of that family, as the system wants them; link-local ones are asked through the interface."""
    found = {}
    for target in targets:
        if (":" in target) == (family is _SIX):
            with contextlib.suppress(OSError):
                packed = socket.inet_pton(family.number, target)
                local = family is _SIX and packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
                found[packed] = _numeric(family, f"{target}%{interface}" if local and interface else target)
    return found


def _numeric(family: _Family, address: str) -> tuple[str | int, ...]:
    """Raises OSError."""
    found = socket.getaddrinfo(address, 0, family.number, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)[0][4]
    return tuple(each for each in found if not isinstance(each, bytes))


def _all_but(kind: int) -> bytes:
    """The filter that lets one type through; the words are the machine's own."""
    words = [0xFFFFFFFF] * 8
    words[kind >> 5] &= ~(1 << (kind & 31)) & 0xFFFFFFFF
    return struct.pack("@8I", *words)


def _checksum(data: bytes) -> int:
    """The checksum of the Internet (RFC 1071), over an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

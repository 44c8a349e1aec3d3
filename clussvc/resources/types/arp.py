"""Asking whether somebody has an address, and telling that we have it now: ARP over a packet socket.

The probe is that of RFC 5227 (sender address zero, so that nobody's table is changed) at a shorter pace: the RFC gives
a new host seven seconds, while an address that fails over is wanted back within a fraction of one. A host on a local
network answers within a millisecond; one that does not is heard while the address is announced (RFC 5227, 2.4).
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from typing import Final, Self

PROBES: Final = 3
PROBE_INTERVAL_S: Final = 0.01
"""Between probes, and once more after the last: all in all the check takes 0.03 s. Whoever answers later is noticed by
those who listen while the address is announced."""

ANNOUNCEMENT_DELAYS_S: Final = (0.0, 0.1, 0.5, 1.0, 3.0)
"""When, after the address was added, it is announced. Repeated, since a switch may still be learning or a host busy."""

_ETHERTYPE: Final = 0x0806
_BROADCAST: Final = b"\xff" * 6
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST: Final = 1
_REPLY: Final = 2
_NOBODY: Final = bytes(4)


def _frame(operation: int, hardware: bytes, sender: bytes, target_hardware: bytes, target: bytes) -> bytes:
    body = _ARP.pack(1, 0x0800, 6, 4, operation, hardware, sender, target_hardware, target)
    return _BROADCAST + hardware + struct.pack("!H", _ETHERTYPE) + body


def find_duplicate(interface: str, hardware: bytes, address: ipaddress.IPv4Address) -> str | None:
    """The hardware address of a host that has ``address``, or that is probing for it as well; None: nobody answered.

    Takes PROBES * PROBE_INTERVAL_S. Raises OSError.
    """
    with Listener(interface, hardware, address) as listener:
        for _ in range(PROBES):
            listener.probe()
            other = listener.wait(PROBE_INTERVAL_S, probes_count=True)
            if other is not None:
                return other
    return None


class Listener:
    """Hears on one interface who claims an address. Use it in a ``with`` statement. Raises OSError."""

    def __init__(self, interface: str, hardware: bytes, address: ipaddress.IPv4Address) -> None:
        self._hardware = hardware
        self._address = address.packed
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self.wire = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETHERTYPE))
        try:
            self.wire.bind((interface, _ETHERTYPE))
        except OSError:
            self.wire.close()
            raise
        self._poller = select.poll()
        self._poller.register(self.wire, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def probe(self) -> None:
        """Ask whether somebody has the address, in the name of nobody; a host that has it answers whatever it thinks of
        announcements."""
        self.wire.send(_frame(_REQUEST, self._hardware, _NOBODY, bytes(6), self._address))

    def wait(self, limit_s: float, *, probes_count: bool = False) -> str | None:
        """The hardware address of the next host that claims the address (or, if they count, probes for it); None after
        the time."""
        deadline_s = time.monotonic() + limit_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if self._poller.poll(left_s * 1000):
                other = _claimant(self.wire.recv(2048), self._hardware, self._address, probes_count=probes_count)
                if other is not None:
                    return other.hex(":")
        return None


def _claimant(frame: bytes, hardware: bytes, address: bytes, *, probes_count: bool) -> bytes | None:
    """Who claims the address in that frame, this host apart."""
    if len(frame) < 14 + _ARP.size:
        return None
    kind, protocol, *_, operation, sender_hardware, sender, _, target = _ARP.unpack_from(frame, 14)
    if (kind, protocol) != (1, 0x0800) or sender_hardware == hardware:
        return None
    probing = probes_count and operation == _REQUEST and sender == _NOBODY and target == address
    return bytes(sender_hardware) if sender == address or probing else None


def announce(interface: str, hardware: bytes, address: ipaddress.IPv4Address) -> None:
    """Tell all neighbours, as a request and as a reply, since some heed only one of the two. Raises OSError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as wire:
        wire.bind((interface, 0))
        wire.send(_frame(_REQUEST, hardware, address.packed, bytes(6), address.packed))
        wire.send(_frame(_REPLY, hardware, address.packed, _BROADCAST, address.packed))

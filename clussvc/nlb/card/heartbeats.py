"""Heartbeats on the wire: frames of EtherType 0x886F, sent and received on one adapter by a packet socket.

The kernel hands over frames of that type alone. What they say is for :mod:`clussvc.nlb.heartbeat`.
"""

from __future__ import annotations

import socket
from typing import Final

from clussvc.nlb.heartbeat import ETHERTYPE, PAYLOAD_BYTES_MAX, frame
from clussvc.nlb.mac import MAC_BYTES
from clussvc.resources.types.rtnetlink import Link

HEADER_BYTES: Final = 2 * MAC_BYTES + 2
FRAMES_AT_ONCE: Final = 256
RECEIVE_BUFFER_BYTES: Final = 1 << 20
"""Thirty hosts that all say something at once take 50 kB; a flood is dropped by the kernel beyond this."""


class Segment:
    """One adapter. ``fileno`` becomes readable when frames have come; then call :meth:`receive`."""

    def __init__(self, link: Link) -> None:
        """Raises OSError."""
        self._own_mac = link.hardware
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self._socket.bind((link.name, ETHERTYPE))
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def send(self, destination: bytes, payload: bytes) -> None:
        """Send a payload to a link address, from the adapter's own. Raises OSError: the link is down, or busy."""
        self._socket.send(frame(destination, self._own_mac, payload))

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Source and payload of what has come, without what this host sent; the rest of a flood is left for the next
        call."""
        found = []
        for _ in range(FRAMES_AT_ONCE):
            try:
                raw, where = self._socket.recvfrom(HEADER_BYTES + PAYLOAD_BYTES_MAX + 1)
            except (BlockingIOError, OSError):
                break
            if where[2] != socket.PACKET_OUTGOING and len(raw) > HEADER_BYTES:
                found.append((raw[MAC_BYTES : 2 * MAC_BYTES], raw[HEADER_BYTES:]))
        return found

    def close(self) -> None:
        """Send and hear no more."""
        self._socket.close()

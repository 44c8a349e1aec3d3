"""Answers neighbours that ask for virtual addresses, on a packet socket: ARP and IPv6 neighbour solicitations.

The kernel hands over only frames that may be such a question: a filter of its classic packet language drops the rest
before this process wakes. What to answer is decided in :mod:`clussvc.nlb.neighbour`.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

from clussvc.nlb.mac import Address
from clussvc.nlb.neighbour import announcement, answer
from clussvc.resources.types.rtnetlink import Link

_ETH_P_ALL: Final = 3
_SO_ATTACH_FILTER: Final = 26
_FRAME_BYTES_MAX: Final = 256
"""A question is shorter; of a longer frame the rest is cut off."""
_FRAMES_AT_ONCE: Final = 64

_FILTER: Final = (
    (0x28, 0, 0, 12),  # ldh [12]: the EtherType
    (0x15, 5, 0, 0x0806),  # ARP: accept
    (0x15, 0, 5, 0x86DD),  # not IPv6: drop
    (0x30, 0, 0, 20),  # ldb [20]: the next header
    (0x15, 0, 3, 58),  # not ICMPv6: drop
    (0x30, 0, 0, 54),  # ldb [54]: the type
    (0x15, 0, 1, 135),  # not a neighbour solicitation: drop
    (0x06, 0, 0, _FRAME_BYTES_MAX),
    (0x06, 0, 0, 0),
)
"""Instructions of the classic packet filter: code, jump if true, jump if false, operand."""


class Answerer:
    """One adapter. ``fileno`` becomes readable when somebody asks; then call :meth:`serve`."""

    def __init__(self, link: Link, vips: Sequence[Address], cluster_mac: bytes) -> None:
        """Raises OSError."""
        self._vips = frozenset(vips)
        self._cluster_mac = cluster_mac
        self._own_mac = link.hardware
        self.answered = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _FILTER)
            buffer = ctypes.create_string_buffer(program)
            # The structure holds a pointer, so it is laid out by the machine's own rules.
            packed = struct.pack("@HP", len(_FILTER), ctypes.addressof(buffer))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, packed)
            self._socket.bind((link.name, _ETH_P_ALL))
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def serve(self) -> None:
        """Answer what has been asked; of more than a bounded number the rest is left for the next call."""
        for _ in range(_FRAMES_AT_ONCE):
            try:
                frame, where = self._socket.recvfrom(_FRAME_BYTES_MAX)
            except (BlockingIOError, OSError):
                return
            if where[2] == socket.PACKET_OUTGOING:
                continue
            reply = answer(frame, self._vips, self._cluster_mac, self._own_mac)
            if reply is not None:
                # A link that goes down meanwhile is told elsewhere; the neighbour asks again.
                with contextlib.suppress(OSError):
                    self._socket.send(reply)
                    self.answered += 1

    def announce(self) -> None:
        """Tell everybody where the virtual addresses are."""
        for vip in sorted(self._vips, key=str):
            with contextlib.suppress(OSError):
                self._socket.send(announcement(vip, self._cluster_mac, self._own_mac))

    def close(self) -> None:
        """Answer no more."""
        self._socket.close()

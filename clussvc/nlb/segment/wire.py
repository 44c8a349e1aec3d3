"""Heartbeat frames on a network adapter: a packet socket that hears nothing else, because the kernel sorts out the
rest.

The filter on the socket lets pass what has our EtherType, came from outside (a packet socket also hears what its own
machine sends), is not longer than a heartbeat can be, and has one of the two signatures. So a flood of other traffic
costs the interpreter nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from typing import Final, Self

from clussvc.model.errors import ClusterError
from clussvc.nlb.heartbeat import ETHERTYPE, EXTENDED, MEMBERSHIP, MEMBERSHIP_BYTES, PAYLOAD_BYTES_MAX
from clussvc.nlb.mac import MAC_BYTES, mac_text

HEADER_BYTES: Final = 14
FRAME_BYTES_MAX: Final = HEADER_BYTES + PAYLOAD_BYTES_MAX
RECEIVE_BUFFER_BYTES: Final = 1 << 20
"""The kernel keeps some five hundred frames for a thread that is late: those of 32 hosts for more than a second."""
FRAMES_AT_ONCE_MAX: Final = 64
"""Read in one turn, so that a flood does not keep the thread from sending."""

_ATTACH_FILTER: Final = 26
_GET_MTU: Final = 0x8921
_OUTGOING: Final = 4
_PACKET_TYPE: Final = 0xFFFFF000 + 4
"""SKF_AD_OFF + SKF_AD_PKTTYPE: where a socket filter finds where a frame came from."""

_LOAD_HALF, _LOAD_WORD, _LOAD_LENGTH, _EQUAL, _GREATER, _RETURN = 0x28, 0x20, 0x80, 0x15, 0x25, 0x06


def _program() -> bytes:
    """The filter in classic BPF. Jumps count the instructions to be passed over."""
    wire = [int.from_bytes(signature.to_bytes(4, "little"), "big") for signature in (MEMBERSHIP, EXTENDED)]
    lines = (
        (_LOAD_HALF, 0, 0, 12),
        (_EQUAL, 0, 8, ETHERTYPE),
        (_LOAD_WORD, 0, 0, _PACKET_TYPE),
        (_EQUAL, 6, 0, _OUTGOING),
        (_LOAD_LENGTH, 0, 0, 0),
        (_GREATER, 4, 0, FRAME_BYTES_MAX),
        (_LOAD_WORD, 0, 0, HEADER_BYTES),
        (_EQUAL, 1, 0, wire[0]),
        (_EQUAL, 0, 1, wire[1]),
        (_RETURN, 0, 0, FRAME_BYTES_MAX),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


class SegmentWire:
    """Sends and hears heartbeat frames on one adapter. Use it in a ``with`` statement, or call ``close``.

    Frames for multicast addresses arrive when the adapter has joined these. Raises ClusterError when there is no such
    adapter, when it cannot carry a heartbeat, or when the system does not permit it.
    """

    def __init__(self, interface: str) -> None:
        self.interface = interface
        try:
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0
            )
        except OSError as error:
            raise _failed("open a packet socket", interface, error) from error
        try:
            self._prepare()
        except OSError as error:
            self._socket.close()
            raise _failed("listen", interface, error) from error
        except ClusterError:
            self._socket.close()
            raise

    def _prepare(self) -> None:
        program = ctypes.create_string_buffer(_program())
        length = (len(program) - 1) // 8
        # The filter comes first: what arrives between binding and filtering would pass.
        self._socket.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", length, ctypes.addressof(program))
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        mtu = _mtu(self._socket, self.interface)
        if mtu < MEMBERSHIP_BYTES:
            raise ClusterError(
                "mtu-too-small",
                f"The MTU of {self.interface} is {mtu}; a load-balancing heartbeat needs {MEMBERSHIP_BYTES}. Raise it"
                f" with 'ip link set {self.interface} mtu 1500'.",
            )
        self._socket.bind((self.interface, ETHERTYPE))
        kind = self._socket.getsockname()[3]
        if kind != 1:
            raise ClusterError("not-ethernet", f"{self.interface} is not an Ethernet adapter; heartbeats need one.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hears nothing any more."""
        self._socket.close()

    def fileno(self) -> int:
        """What becomes readable when a frame comes."""
        return self._socket.fileno()

    def send(self, frame: bytes) -> bool:
        """Send a whole frame; False when the adapter does not take it now (it is down, or its queue is full)."""
        try:
            return self._socket.send(frame) == len(frame)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.ENETDOWN, errno.ENOBUFS, errno.ENXIO, errno.ENODEV):
                return False
            raise _failed("send", self.interface, error) from error

    def receive(self) -> list[tuple[bytes, str]]:
        """The payloads that have come, at most FRAMES_AT_ONCE_MAX, each with the link address that it came from."""
        found = []
        for _ in range(FRAMES_AT_ONCE_MAX):
            try:
                frame = self._socket.recv(FRAME_BYTES_MAX + 1)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.ENETDOWN, errno.ENXIO, errno.ENODEV):
                    # Said once when the adapter goes down; the link's state is told elsewhere.
                    break
                raise _failed("receive", self.interface, error) from error
            if len(frame) > HEADER_BYTES:
                found.append((frame[HEADER_BYTES:], mac_text(frame[MAC_BYTES : 2 * MAC_BYTES], ":")))
        return found


def _mtu(opened: socket.socket, interface: str) -> int:
    answer = fcntl.ioctl(opened.fileno(), _GET_MTU, struct.pack("@16sI20x", interface.encode()[:15], 0))
    return int(struct.unpack_from("@16sI", answer)[1])


def _failed(what: str, interface: str, error: OSError) -> ClusterError:
    if error.errno == errno.EPERM:
        why = "the system does not permit it; run as root or give CAP_NET_RAW"
    elif error.errno in (errno.ENODEV, errno.ENXIO):
        why = "there is no such adapter; 'ip link' lists them"
    else:
        why = error.strerror or str(error)
    return ClusterError("segment-failed", f"Cannot {what} on {interface} for load-balancing heartbeats: {why}.")

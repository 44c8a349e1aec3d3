"""Heartbeats over UDP: one socket for each address of this node, one thread that receives.

What arrives is checked (length, key, tag, replay) before anybody else sees it; what does not pass is counted by reason
and dropped. Nothing is decided here. An exception that nobody here expects (a callback that breaks an invariant) ends
the thread with that exception, which is then the business of ``threading.excepthook``.
"""

from __future__ import annotations

import ipaddress
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from clussvc.comms.wire import DATAGRAM_BYTES_MAX, Datagram, Drop, ReplayGuard, decode_heartbeat, encode_heartbeat
from clussvc.model.errors import ClusterError

RECEIVE_BUFFER_BYTES = 1024 * 1024
"""Room for a second of heartbeats of 64 nodes at the fastest profile."""

OnHeartbeat = Callable[[Datagram, int], None]
"""Called on the receiving thread with the datagram and its arrival in CLOCK_BOOTTIME milliseconds."""


class HeartbeatSocket:
    """Sends and receives heartbeats."""

    def __init__(self, *, listen: tuple[tuple[str, int], ...], key: bytes, on_heartbeat: OnHeartbeat) -> None:
        self._listen = listen
        self._key = key
        self._on_heartbeat = on_heartbeat
        self._guard = ReplayGuard()
        self._sockets: list[socket.socket] = []
        self._counts: Counter[str] = Counter()
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)

    def start(self) -> None:
        """Bind and begin to receive.

        Raises ClusterError(``address-unavailable``) that names the address.
        """
        for address, port in self._listen:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            bound = socket.socket(family, socket.SOCK_DGRAM)
            try:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
                bound.bind((address, port))
            except OSError as error:
                bound.close()
                raise ClusterError(
                    "address-unavailable",
                    f"cannot receive heartbeats on {address} port {port}: {error.strerror}; check 'addresses' and"
                    " 'port' in the node file",
                ) from error
            bound.setblocking(False)
            self._sockets.append(bound)
            self._selector.register(bound, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the sockets."""
        self._stopping = True
        self._waker.send(b"x")
        if self._thread.is_alive():
            self._thread.join(5)
        self._selector.close()
        for each in (*self._sockets, self._wake, self._waker):
            each.close()

    def send(self, datagram: Datagram, targets: tuple[tuple[str, int], ...]) -> None:
        """Send one heartbeat to these addresses, each from this node's address on the same network.

        A target that cannot be reached is counted; the others still get theirs.
        """
        data = encode_heartbeat(self._key, datagram)
        for address, port in targets:
            try:
                self._source_for(address).sendto(data, (address, port))
                self._counts["sent"] += 1
            except OSError:
                self._counts["send.failed"] += 1

    def _source_for(self, address: str) -> socket.socket:
        """The socket whose address has the longest beginning in common with the target's: the one on its network.

        Sent from another network's address, a heartbeat would arrive through the wrong interface, or not at all where
        hosts drop such packets.
        """
        wanted = socket.AF_INET6 if ":" in address else socket.AF_INET
        found = [bound for bound in self._sockets if bound.family == wanted]
        if not found:
            raise OSError(f"no address of this node is of the family of {address}")
        if len(found) == 1:
            return found[0]
        target = _as_number(address)
        return min(found, key=lambda bound: (_as_number(bound.getsockname()[0]) ^ target).bit_length())

    def statistics(self) -> Mapping[str, int]:
        """Counters by name; drops by reason."""
        return dict(self._counts)

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select():
                if key.fileobj is not self._wake:
                    assert isinstance(key.fileobj, socket.socket)
                    self._receive(key.fileobj)

    def _receive(self, bound: socket.socket) -> None:
        try:
            # One byte more than allowed shows a datagram that is too long instead of cutting it.
            data = bound.recv(DATAGRAM_BYTES_MAX + 1)
        except BlockingIOError:
            return
        except OSError:
            # An interface that goes down reports itself here; the socket works again when it is back.
            self._counts["receive.failed"] += 1
            return
        received_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        datagram = decode_heartbeat(self._key, data)
        if isinstance(datagram, Drop):
            self._counts[f"dropped.{datagram.name.lower()}"] += 1
        elif not self._guard.fresh(datagram):
            self._counts[f"dropped.{Drop.REPLAYED.name.lower()}"] += 1
        else:
            self._counts["received"] += 1
            try:
                self._on_heartbeat(datagram, received_ms)
            except ClusterError:
                self._counts[f"dropped.{Drop.MALFORMED.name.lower()}"] += 1


def _as_number(address: str) -> int:
    return int(ipaddress.ip_address(address.partition("%")[0]))

"""Heartbeats on the network: the sockets, and the native thread that sends and receives through them.

What arrives is checked (length, key, tag, replay) and counted by outcome in the extension, before anybody else sees it;
the times of sending and of arrival are taken there too, so they are right however busy the interpreter is. Nothing is
decided here.

Every heartbeat goes to every address of every peer on an internal network. Where that has more than two nodes it is
also sent there by multicast, once; the peers say in their own heartbeats where that arrived, and as long as they do,
they get no copies by unicast there. A network without multicast, or one that loses it, is so noticed within a few
heartbeats.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import structlog

from clussvc.membership.heartbeat import Heard, Hearing, Heartbeat
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.states import NodePhase
from clussvc.native import Heartbeats
from clussvc.resources.types import rtnetlink

if TYPE_CHECKING:
    from clussvc.native import HeartbeatTuple

KEY_BYTES = 16
NETWORKS_MAX = 8
"""Addresses of one node that carry heartbeats."""

RECEIVE_BUFFER_BYTES = 1024 * 1024
"""Room for a second of heartbeats of 64 nodes at the fastest profile."""

MULTICAST_PEERS_MIN = 2
"""With one peer on a network, multicast saves nothing."""

IP_MULTICAST_ALL = 49
IPV6_MULTICAST_ALL = 29
"""Linux: whether a socket hears what other sockets have joined, too. Python has no names for them."""

PHASES = tuple(NodePhase)
"""Their places are their numbers on the network."""

log = structlog.get_logger()


def as_heard(entry: HeartbeatTuple) -> Heard:
    """What the extension says of one heartbeat, for the core."""
    (
        received_ms,
        acknowledged_ms,
        sender,
        boot,
        seq,
        incarnation,
        phase,
        attempt,
        index,
        voters_version,
        grants,
        heard,
    ) = entry
    return Heard(
        heartbeat=Heartbeat(
            sender=NodeId(sender),
            boot=boot,
            seq=seq,
            incarnation=incarnation,
            phase=PHASES[phase],
            attempt=attempt,
            index=index,
            voters_version=voters_version,
            grants=grants,
            heard=tuple(
                Hearing(node=NodeId(node), boot=heard_boot, seq=heard_seq, silent_ms=silent_ms)
                for node, heard_boot, heard_seq, silent_ms in heard
            ),
        ),
        received_ms=received_ms,
        acknowledged_ms=acknowledged_ms if acknowledged_ms >= 0 else None,
    )


class HeartbeatNetwork:
    """Owns the sockets and the native thread of one node. ``on_news`` is called, on a thread of this object, when
    something has arrived that the core should look at before its next regular turn."""

    def __init__(
        self,
        *,
        native: Heartbeats,
        cluster_id: str,
        listen: tuple[tuple[str, int], ...],
        on_news: Callable[[], None],
    ) -> None:
        self._native = native
        self._cluster_id = cluster_id
        self._listen = listen[:NETWORKS_MAX]
        self._on_news = on_news
        self._sockets: list[socket.socket] = []
        self._groups: list[socket.socket | None] = []
        self._thread = threading.Thread(target=self._run, name="news", daemon=True)
        self.without_realtime = ""
        """Why the native thread has no real-time priority; empty if it has."""

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self, *, realtime: bool = True) -> None:
        """Bind and begin to send and receive.

        Raises ClusterError(``address-unavailable``) that names the address.
        """
        for address, port in self._listen:
            self._sockets.append(_bound(address, port))
            self._groups.append(_joined(self._cluster_id, address, port))
        listeners = [(bound.fileno(), number, False) for number, bound in enumerate(self._sockets)]
        listeners += [(group.fileno(), number, True) for number, group in enumerate(self._groups) if group is not None]
        self.without_realtime = self._native.start(tuple(listeners), realtime)
        self._thread.start()

    def stop(self) -> None:
        """End the threads and close the sockets."""
        self._native.stop()
        if self._thread.is_alive():
            self._thread.join(5)
        for each in (*self._sockets, *self._groups):
            if each is not None:
                each.close()

    def _run(self) -> None:
        while self._native.wait():
            self._on_news()

    # --- use --------------------------------------------------------------------------------------------------------

    def set_peers(
        self,
        peers: Mapping[NodeId, tuple[tuple[str, int], ...]],
        now_ms: int,
        internal: Collection[int] | None = None,
    ) -> None:
        """Send to these nodes at these addresses from now on, each from this node's address on the same network.

        ``internal`` are the places of the addresses to which heartbeats are sent; None: all of them. Addresses of a
        family that this node does not have are left out.
        """
        self._native.set_peers(tuple(peers), now_ms)
        targets: list[tuple[int, int, int, bool, str, int]] = []
        on_network = [0] * len(self._sockets)
        for node, addresses in peers.items():
            for number, (address, port) in enumerate(addresses[:NETWORKS_MAX]):
                if internal is not None and number not in internal:
                    continue
                source = self._source_for(address)
                if source is not None:
                    on_network[source] += 1
                    targets.append((self._sockets[source].fileno(), node, number, False, address, port))
        for number, (address, port) in enumerate(self._listen):
            group = self._groups[number] if number < len(self._groups) else None
            if group is not None and on_network[number] >= MULTICAST_PEERS_MIN:
                where = multicast_group(self._cluster_id, address)
                # From the unicast socket, so that the source is this node's address on that network.
                targets.insert(0, (self._sockets[number].fileno(), 0, 0, True, where, port))
        self._native.set_targets(tuple(targets))

    def _source_for(self, address: str) -> int | None:
        """The number of the socket whose address has the longest beginning in common with the target's: the one on its
        network.

        Sent from another network's address, a heartbeat would arrive through the wrong interface, or not at all where
        hosts drop such packets.
        """
        version = ":" in address
        found = [number for number, (own, _) in enumerate(self._listen) if (":" in own) == version]
        target = _as_number(address)
        return min(found, key=lambda number: (_as_number(self._listen[number][0]) ^ target).bit_length(), default=None)

    def take(self) -> tuple[Heard, ...]:
        """The heartbeats that have arrived since the last call, oldest first."""
        return tuple([as_heard(entry) for entry in self._native.take()])

    def ages(self, now_ms: int) -> Mapping[int, list[int]]:
        """For each peer, the milliseconds since it was heard at each of this node's addresses; -1: not in this life."""
        return self._native.ages(now_ms)

    def statistics(self) -> Mapping[str, int]:
        """Counters by name; what was dropped is counted by reason."""
        return self._native.statistics()


def multicast_group(cluster_id: str, address: str) -> str:
    """The multicast address of a cluster on the network of ``address``: within the organization's scope (RFC 2365) or
    the site's (RFC 4291), so that clusters rarely meet, and not at all in their keys."""
    digest = hashlib.blake2b(cluster_id.encode(), digest_size=8, person=b"clussvc-mcast").digest()
    if ":" in address:
        scope = f"%{address.partition('%')[2]}" if "%" in address else ""
        return str(ipaddress.IPv6Address(b"\xff\x15" + bytes(6) + digest)) + scope
    return str(ipaddress.IPv4Address(bytes((239, 192 + (digest[0] & 3), digest[1], digest[2]))))


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        bound.bind(socket.getaddrinfo(address, port, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)[0][4])
    except OSError as error:
        bound.close()
        raise ClusterError(
            "address-unavailable",
            f"cannot receive heartbeats on {address} port {port}: {error.strerror}; check 'addresses' and"
            " 'port' in the node file",
        ) from error
    with contextlib.suppress(OSError):
        # Without this, multicast leaves through another interface and nobody acknowledges it: unicast stays in use.
        _send_multicast_from(bound, address)
    bound.setblocking(False)
    return bound


def _send_multicast_from(bound: socket.socket, address: str) -> None:
    if bound.family == socket.AF_INET:
        bound.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        bound.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        bound.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    else:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, _interface_of(address))
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)


def _joined(cluster_id: str, address: str, port: int) -> socket.socket | None:
    """A socket that hears the cluster's multicast on the network of that address; None where that does not work."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    group = multicast_group(cluster_id, address)
    joined = socket.socket(family, socket.SOCK_DGRAM)
    try:
        joined.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # All networks have one multicast address. Without this, what came on one of them would be heard on all, and a
        # network that is lost would go unnoticed.
        if family == socket.AF_INET:
            joined.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        else:
            joined.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
        where = socket.getaddrinfo(group, port, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)[0][4]
        joined.bind(where)
        if family == socket.AF_INET:
            request = socket.inet_aton(group) + socket.inet_aton(address)
            joined.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        else:
            request = socket.inet_pton(family, group.partition("%")[0]) + struct.pack("@I", _interface_of(address))
            joined.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    except OSError as error:
        joined.close()
        log.info("heartbeats.no-multicast", address=address, because=error.strerror, instead="unicast")
        return None
    joined.setblocking(False)
    return joined


def _interface_of(address: str) -> int:
    """The number of the interface that has this IPv6 address. Left to itself the system would take any, the same one
    for all networks, and what came on one of them would be heard on another.

    Raises OSError when no interface has it.
    """
    plain, _, scope = address.partition("%")
    if scope:
        return int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    wanted = ipaddress.ip_address(plain)
    for known in rtnetlink.own_addresses():
        if known.address == wanted:
            return known.index
    raise OSError(errno.EADDRNOTAVAIL, f"no interface has the address {address}")


def _as_number(address: str) -> int:
    return int(ipaddress.ip_address(address.partition("%")[0]))

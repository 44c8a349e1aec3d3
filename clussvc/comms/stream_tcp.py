"""Streams between members: TLS 1.3, both sides with certificates of the cluster's authority.

Each node dials every other one and sends on the connection that it dialled; what arrives on connections that others
dialled is only read. So no agreement is needed about which of two connections is the right one, and after a crash each
side finds its way back by itself. Everything runs on one event loop in one thread; the rest of the service calls
:meth:`StreamTransport.send` from any thread and is called back on the loop's thread.

Somebody without a certificate may do two things, each one frame long and within a few seconds: ask for the authority's
certificate, and ask to join with a token. Clients that have not yet shown who they are, are bounded in time and number,
each in a task of its own; when there are too many, the one that has been there longest goes. So clients that connect
and stay silent, however many, hold up nobody: a member needs a few milliseconds to show its certificate.

A broken invariant (AssertionError, in a callback too) ends the thread with that exception, which is then the business
of ``threading.excepthook``. Any other exception that nobody here expects costs its connection, is counted and logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from clussvc.comms.authority import NodeIdentity, fingerprint, identity_of, only_certificate
from clussvc.comms.wire import (
    FRAME_BYTES_MAX,
    STRANGER_FRAME_BYTES_MAX,
    STRANGERS_MAY_SEND,
    FrameDecoder,
    Kind,
    encode_frame,
)
from clussvc.model.errors import ClusterError

HANDSHAKE_TIMEOUT_S = 5.0
GUESTS_MAX = 64
"""Connections whose client has not yet shown who it is; one more, and the oldest of them is closed."""

STRANGER_TIMEOUT_S = 5.0
JOINS_MAX = 16
"""Requests to join that are being decided; further ones are closed at once."""

JOIN_TIMEOUT_S = 20.0
"""How long a member may take to admit a node, an election in between included."""

DIAL_TIMEOUT_S = 3.0
DIAL_PAUSE_S = (0.05, 0.5)
"""Shortest and longest pause between attempts to reach a peer; doubled each time, with jitter."""

STEADY_S = 5.0
"""A connection that lasted this long ends a series of failures: after it the pause is the shortest again. A peer that
accepts and closes at once (it has evicted us, say) is therefore asked twice a second and not as fast as it can refuse.
Longer than DIAL_TIMEOUT_S, so that an attempt that only waited does not count."""

QUEUE_MESSAGES_MAX = 4_096
QUEUE_BYTES_MAX = 32 * 1024 * 1024
"""What may wait for one peer. More is dropped: the log's protocol repeats whatever is lost."""

STALL_TIMEOUT_S = 5.0
"""How long a peer may accept nothing before its connection is given up."""

EVICTED_WORD = b"E"
"""All that a listening side ever says to a member that was: it is none any more, and need not ask again."""

READ_BYTES = 256 * 1024
WRITE_BYTES = 256 * 1024
"""Handed to the connection at once (or a single longer frame), so that STALL_TIMEOUT_S is about progress, not size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatistics:
    """Counters since the start, by name."""

    counts: Mapping[str, int]
    connected: tuple[int, ...]
    """Peers that can be sent to now."""
    troubles: Mapping[int, str]
    """For the other peers: what became of the last attempt to reach them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCallbacks:
    """What the transport calls, on its own thread; none of these may block."""

    on_message: Callable[[int, Kind, bytes], None]
    on_connected: Callable[[int], None]
    on_disconnected: Callable[[int], None]
    on_join: Callable[[bytes], Awaitable[bytes]]
    is_evicted: Callable[[int], bool] = lambda node: False
    """Whether this node can say for certain that the cluster has evicted that one."""
    on_evicted: Callable[[int], None] = lambda node: None
    """That node says that the cluster has evicted this one."""


class _Peer:
    """One other node: its addresses, what waits for it, and the task that keeps its connection."""

    def __init__(self, node_id: int, addresses: tuple[tuple[str, int], ...]) -> None:
        self.node_id = node_id
        self.addresses = addresses
        self.avoided: frozenset[tuple[str, int]] = frozenset()
        """Addresses on networks where the peer is not heard while it is elsewhere."""
        self.using: tuple[str, int] | None = None
        """Where it is connected now."""
        self.writer: asyncio.StreamWriter | None = None
        self.queue: deque[bytes] = deque()
        self.queued_bytes = 0
        self.connected = False
        self.trouble = "not tried yet"
        self.waiting = False
        """Whether the task sleeps until something is queued."""
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class StreamTransport:
    """Connections to all peers. ``start`` and ``stop`` may be called once each."""

    def __init__(
        self,
        *,
        node_id: int,
        cluster_id: str,
        listen: tuple[tuple[str, int], ...],
        server_tls: ssl.SSLContext,
        client_tls: ssl.SSLContext,
        authority: bytes,
        callbacks: StreamCallbacks,
    ) -> None:
        """``authority`` is the certificate (PEM) that strangers are shown. ``server_tls`` must allow anonymous
        clients (see :func:`~clussvc.comms.authority.server_context`)."""
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._listen = listen
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._authority = authority
        self._call = callbacks
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._peers: dict[int, _Peer] = {}
        self._to_wake: list[_Peer] = []
        """Whose tasks have something to write; whoever puts the first one here wakes the thread."""
        self._counts: Counter[str] = Counter()
        self._guests: dict[asyncio.Task[None], None] = {}
        """Tasks of clients that may be sent away, oldest first."""
        self._joins = 0
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[socket.socket] = []
        self._listening: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)

    # --- from any thread --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen and begin to dial.

        Raises ClusterError(``address-unavailable``) that names the address.
        """
        for address, port in self._listen:
            self._listeners.append(_listen(address, port))
        self._thread.start()
        self._loop.call_soon_threadsafe(self._begin_listening)

    def stop(self) -> None:
        """Close everything and end the thread."""
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(5)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
        for listener in self._listeners:
            listener.close()
        if not self._loop.is_running():
            self._loop.close()

    def set_peers(self, peers: Mapping[int, tuple[tuple[str, int], ...]]) -> None:
        """Who the peers are and where; connections to others are closed."""
        # After stop() the loop is closed and there is nobody to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._set_peers, dict(peers))

    def avoid(self, where: Mapping[int, frozenset[tuple[str, int]]]) -> None:
        """Leave these addresses of peers, and dial them no more as long as there are others.

        TCP by itself takes seconds to notice that a network is gone, and what is in the log waits for that long.
        """
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._avoid, dict(where))

    def send(self, node_id: int, kind: Kind, payload: bytes) -> bool:
        """Queue a message for a peer; False when it cannot be queued (unknown, not connected, or too much waits)."""
        frame = encode_frame(kind, payload)
        with self._lock:
            peer = self._peers.get(node_id)
            if peer is None or not peer.connected:
                self._counts["dropped.not-connected"] += 1
                return False
            full = len(peer.queue) >= QUEUE_MESSAGES_MAX or peer.queued_bytes + len(frame) > QUEUE_BYTES_MAX
            if full:
                self._counts["dropped.queue-full"] += 1
                return False
            peer.queue.append(frame)
            peer.queued_bytes += len(frame)
            wake, peer.waiting = peer.waiting, False
            first = wake and not self._to_wake
            if wake:
                self._to_wake.append(peer)
        if first:
            # To wake another thread is what sending costs most; once is enough for all peers of a moment.
            self._loop.call_soon_threadsafe(self._wake_peers)
        return True

    def statistics(self) -> StreamStatistics:
        """Counters and who is connected."""
        with self._lock:
            connected = tuple(sorted(peer.node_id for peer in self._peers.values() if peer.connected))
            troubles = {peer.node_id: peer.trouble for peer in self._peers.values() if not peer.connected}
            return StreamStatistics(counts=dict(self._counts), connected=connected, troubles=troubles)

    # --- the loop's thread ------------------------------------------------------------------------------------------

    def _wake_peers(self) -> None:
        with self._lock:
            peers, self._to_wake = self._to_wake, []
        for peer in peers:
            peer.wake.set()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        if self._failure is not None:
            self._loop.run_until_complete(self._end_all())
            raise self._failure

    def _begin_listening(self) -> None:
        self._listening = [self._begin(self._accept(listener)) for listener in self._listeners]

    async def _end_all(self) -> None:
        # The listening ones first: a task that is cancelled before it has begun would leave its connection open.
        for tasks in (self._listening, [*self._tasks]):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._guests.pop(task, None)
        if task.cancelled() or (failure := task.exception()) is None:
            return
        if isinstance(failure, AssertionError) or task in self._listening:
            self._failure = failure
            self._loop.stop()
            return
        self._count("unexpected")
        self._loop.call_exception_handler({"message": "a connection ended unexpectedly", "exception": failure})
        for peer in self._peers.values():
            if peer.task is task:
                self._loop.call_later(DIAL_PAUSE_S[1], self._dial_again, peer)

    def _dial_again(self, peer: _Peer) -> None:
        if self._peers.get(peer.node_id) is peer:
            peer.task = self._begin(self._keep_connected(peer))

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _set_peers(self, peers: dict[int, tuple[tuple[str, int], ...]]) -> None:
        for node_id in [n for n, peer in self._peers.items() if peers.get(n) != peer.addresses]:
            with self._lock:
                gone = self._peers.pop(node_id)
            if gone.task is not None:
                gone.task.cancel()
        for node_id, addresses in peers.items():
            if node_id != self._node_id and node_id not in self._peers:
                peer = _Peer(node_id, addresses)
                with self._lock:
                    self._peers[node_id] = peer
                peer.task = self._begin(self._keep_connected(peer))

    def _avoid(self, where: dict[int, frozenset[tuple[str, int]]]) -> None:
        for peer in self._peers.values():
            peer.avoided = where.get(peer.node_id, frozenset())
            elsewhere = [address for address in peer.addresses if address not in peer.avoided]
            if peer.writer is not None and peer.using in peer.avoided and elsewhere:
                self._count("left.network")
                peer.writer.transport.abort()

    # --- dialling ---------------------------------------------------------------------------------------------------

    async def _keep_connected(self, peer: _Peer) -> None:
        failures = 0
        turn = 0
        while True:
            good = [each for each in peer.addresses if each not in peer.avoided] or peer.addresses
            peer.using = address, port = good[turn % len(good)]
            turn += 1
            since_s = self._loop.time()
            try:
                reader, writer = await self._dial(address, port)
            except (OSError, ssl.SSLError, TimeoutError) as error:
                self._note(peer, "dial.failed", f"{address}:{port}: {error or 'no answer'}")
            else:
                since_s = self._loop.time()
                await self._use(peer, reader, writer)
            if self._loop.time() - since_s >= STEADY_S:
                failures = 0
            pause_s = min(DIAL_PAUSE_S[0] * 2**failures, DIAL_PAUSE_S[1])
            failures = min(failures + 1, 8)
            await asyncio.sleep(pause_s * random.uniform(0.7, 1.3))  # noqa: S311 -- jitter, no secret

    async def _dial(self, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                await self._loop.sock_connect(connection, (address, port))
            except BaseException:
                connection.close()
                raise
            return await self._secure(
                connection,
                lambda protocol: self._loop.create_connection(
                    lambda: protocol,
                    sock=connection,
                    ssl=self._client_tls,
                    server_hostname="",
                    ssl_handshake_timeout=DIAL_TIMEOUT_S,
                    ssl_shutdown_timeout=1.0,
                ),
            )

    async def _secure(
        self,
        connection: socket.socket,
        open_: Callable[[asyncio.StreamReaderProtocol], Coroutine[Any, Any, tuple[asyncio.Transport, Any]]],
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Do the TLS handshake on a connection, which belongs to the streams from then on.

        When cancelled, end the connection beneath and wait until the handshake has noticed: asyncio by itself forgets
        to close one that is cancelled in its first moment.
        """
        try:
            _tune(connection)
        except OSError:
            connection.close()
            raise
        reader = asyncio.StreamReader(limit=READ_BYTES, loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        opening = self._loop.create_task(open_(protocol))
        try:
            transport, _ = await asyncio.shield(opening)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            await asyncio.wait({opening})
            if opening.exception() is None:
                opening.result()[0].abort()
            raise
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _use(self, peer: _Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.writer = writer
        try:
            self._check_identity(writer, peer.node_id)
            await self._serve_outgoing(peer, reader, writer)
            self._note(peer, "connection.closed", "it closed the connection")
        except ClusterError as error:
            self._note(peer, "dial.wrong-identity", error.message)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self._note(peer, "connection.lost", f"the connection was lost: {error or 'it took nothing any more'}")
        finally:
            peer.writer = None
            await _close(writer)

    def _note(self, peer: _Peer, what: str, trouble: str) -> None:
        with self._lock:
            self._counts[what] += 1
            peer.trouble = trouble

    def _check_identity(self, writer: asyncio.StreamWriter, expected: int | None) -> int:
        tls = writer.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls else None
        if not certificate:
            raise ClusterError("no-certificate", "the peer showed no certificate", remote=True)
        identity = identity_of(certificate)
        if not isinstance(identity, NodeIdentity) or identity.cluster_id != self._cluster_id:
            raise ClusterError("wrong-identity", "the peer is no node of this cluster", remote=True)
        if expected is not None and identity.node_id != expected:
            raise ClusterError("wrong-identity", f"the peer is node {identity.node_id}, not {expected}", remote=True)
        return identity.node_id

    async def _serve_outgoing(self, peer: _Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._lock:
            peer.queue.clear()
            peer.queued_bytes = 0
            peer.connected = True
        self._count("connected")
        # The other side sends nothing here but that this node was evicted; else the reader only tells when it is gone.
        closed = self._loop.create_task(reader.read(1))
        closed.add_done_callback(lambda _: peer.wake.set())
        try:
            self._call.on_connected(peer.node_id)
            await self._write_queue(peer, writer, closed)
            if closed.result() == EVICTED_WORD:
                self._count("evicted")
                self._call.on_evicted(peer.node_id)
        finally:
            closed.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, ssl.SSLError):
                await closed
            with self._lock:
                peer.connected = False
                peer.queue.clear()
                peer.queued_bytes = 0
            self._call.on_disconnected(peer.node_id)

    async def _write_queue(self, peer: _Peer, writer: asyncio.StreamWriter, closed: asyncio.Task[bytes]) -> None:
        while not closed.done():
            data = self._take(peer)
            if not data:
                await peer.wake.wait()
                continue
            writer.write(data)
            # Nearly always the system has taken everything; a time limit for that would cost more than sending did.
            if writer.transport.get_write_buffer_size():
                async with asyncio.timeout(STALL_TIMEOUT_S):
                    await writer.drain()

    def _take(self, peer: _Peer) -> bytes:
        """The next frames in the queue, up to WRITE_BYTES but at least one; when there is none, ask to be woken."""
        frames: list[bytes] = []
        size = 0
        with self._lock:
            while peer.queue and (not frames or size + len(peer.queue[0]) <= WRITE_BYTES):
                frames.append(peer.queue.popleft())
                size += len(frames[-1])
            peer.queued_bytes -= size
            peer.waiting = not frames
            if not frames:
                peer.wake.clear()
        return b"".join(frames)

    # --- listening --------------------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(listener)
            except OSError:
                # Out of descriptors, say: others may be closed meanwhile.
                self._count("accept.failed")
                await asyncio.sleep(0.1)
                continue
            if len(self._guests) >= GUESTS_MAX:
                oldest = next(iter(self._guests))
                del self._guests[oldest]
                oldest.cancel()
                self._count("refused.too-many-guests")
            self._guests[self._begin(self._welcome(connection))] = None
            # A crowd may be waiting already; each of its tasks must have begun before it can be ended.
            await asyncio.sleep(0)

    async def _welcome(self, connection: socket.socket) -> None:
        try:
            reader, writer = await self._secure(
                connection,
                lambda protocol: self._loop.connect_accepted_socket(
                    lambda: protocol,
                    connection,
                    ssl=self._server_tls,
                    ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                    ssl_shutdown_timeout=1.0,
                ),
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self._count("refused.handshake")
            return
        try:
            tls = writer.get_extra_info("ssl_object")
            if tls is not None and tls.getpeercert(binary_form=True):
                await self._serve_member(reader, writer)
            else:
                await self._serve_stranger(reader, writer)
        except ClusterError as error:
            self._count(f"refused.{error.code}")
        except (OSError, ssl.SSLError, TimeoutError):
            self._count("connection.lost")
        finally:
            await _close(writer)

    async def _serve_member(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_id = self._check_identity(writer, None)
        self._guests.pop(_this_task(), None)
        decoder = FrameDecoder(bytes_max=FRAME_BYTES_MAX)
        while True:
            # Asked again for everything that arrives: a node may be evicted while it is connected.
            if node_id not in self._peers:
                if self._call.is_evicted(node_id):
                    writer.write(EVICTED_WORD)
                raise ClusterError("unknown-member", f"node {node_id} is not a member any more", remote=True)
            data = await reader.read(READ_BYTES)
            if not data:
                return
            for kind, payload in decoder.feed(data):
                if kind in STRANGERS_MAY_SEND:
                    raise ClusterError("member-as-stranger", f"node {node_id} asked as if it were none", remote=True)
                if node_id in self._peers:
                    self._call.on_message(node_id, kind, payload)

    async def _serve_stranger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = FrameDecoder(bytes_max=STRANGER_FRAME_BYTES_MAX)
        async with asyncio.timeout(STRANGER_TIMEOUT_S):
            frames: list[tuple[Kind, bytes]] = []
            while not frames:
                data = await reader.read(READ_BYTES)
                if not data:
                    return
                frames = decoder.feed(data)
        kind, payload = frames[0]
        if kind not in STRANGERS_MAY_SEND:
            raise ClusterError("stranger", "somebody without a certificate sent a member's message", remote=True)
        self._count(f"stranger.{kind.name.lower()}")
        if kind is Kind.AUTHORITY_REQUEST:
            answer = encode_frame(Kind.AUTHORITY_REPLY, self._authority)
        else:
            answer = encode_frame(Kind.JOIN_REPLY, await self._decide_join(payload))
        writer.write(answer)
        async with asyncio.timeout(STALL_TIMEOUT_S):
            await writer.drain()
            # Closing here could overtake the answer; the stranger closes when it has read it.
            while await reader.read(READ_BYTES):
                pass

    async def _decide_join(self, request: bytes) -> bytes:
        if self._joins >= JOINS_MAX:
            raise ClusterError("too-many-joins", f"{JOINS_MAX} requests to join are being decided", remote=True)
        # Not to be sent away by newcomers while the cluster decides; afterwards it may be.
        task = _this_task()
        self._guests.pop(task, None)
        self._joins += 1
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                return await self._call.on_join(request)
        finally:
            self._joins -= 1
            self._guests[task] = None


# --- the new machine's side of joining ----------------------------------------------------------------------------


def ask_to_join(
    contacts: tuple[tuple[str, int], ...],
    *,
    authority_sha256: str,
    check_member: Callable[[NodeIdentity], None],
    request: bytes,
) -> tuple[bytes, bytes]:
    """Ask one member after the other to admit this machine; gives the reply and the authority's certificate (PEM).

    First the authority's certificate is fetched over a connection that is not trusted, and compared with the
    fingerprint from the token. Then the member is dialled again and must prove with a node certificate of that
    authority who it is; only then is the request, with its secret, sent. ``check_member`` is told the identity of
    that member.

    Raises ClusterError(``join-unreachable``, ``join-untrusted``); the contacts that were tried are named.
    """
    failures = []
    for address, port in contacts:
        try:
            authority = _fetch_authority(address, port)
        except (OSError, ssl.SSLError, ClusterError) as error:
            # Something else may listen there by now; nothing has been said to it.
            failures.append(f"{address}:{port} ({error})")
            continue
        if fingerprint(authority) != authority_sha256:
            raise ClusterError(
                "join-untrusted",
                f"{address}:{port} belongs to another cluster than the token; nothing was sent to it",
                remote=True,
            )
        try:
            return _request_join(address, port, authority, check_member, request), authority
        except (OSError, ssl.SSLError) as error:
            failures.append(f"{address}:{port} ({error})")
    raise ClusterError(
        "join-unreachable",
        f"no member of the cluster answered: {', '.join(failures)}; check the network and that the service runs there",
        retryable=True,
    )


def _fetch_authority(address: str, port: int) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # What is fetched here is public, and compared with the token afterwards.
    answer = _ask(address, port, context, Kind.AUTHORITY_REQUEST, b"", Kind.AUTHORITY_REPLY, lambda _: None)
    # Whatever else stands in the answer must not be trusted along with the certificate that will be compared.
    return only_certificate(answer)


def _request_join(
    address: str, port: int, authority: bytes, check_member: Callable[[NodeIdentity], None], request: bytes
) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.decode("ascii"))

    def check(stream: ssl.SSLSocket) -> None:
        identity = identity_of(stream.getpeercert(binary_form=True) or b"")
        if not isinstance(identity, NodeIdentity):
            raise ClusterError("join-untrusted", f"{address}:{port} is not a node; nothing was sent to it", remote=True)
        check_member(identity)

    return _ask(address, port, context, Kind.JOIN_REQUEST, request, Kind.JOIN_REPLY, check)


def _ask(
    address: str,
    port: int,
    context: ssl.SSLContext,
    kind: Kind,
    payload: bytes,
    wanted: Kind,
    check: Callable[[ssl.SSLSocket], None],
) -> bytes:
    with (
        socket.create_connection((address, port), timeout=HANDSHAKE_TIMEOUT_S) as connection,
        context.wrap_socket(connection) as stream,
    ):
        check(stream)
        stream.settimeout(JOIN_TIMEOUT_S + HANDSHAKE_TIMEOUT_S)
        stream.sendall(encode_frame(kind, payload))
        decoder = FrameDecoder(bytes_max=FRAME_BYTES_MAX)
        while data := stream.recv(READ_BYTES):
            for got, answer in decoder.feed(data):
                if got is wanted:
                    return answer
    raise OSError("the connection was closed without an answer")


# --- sockets --------------------------------------------------------------------------------------------------------


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(GUESTS_MAX)
    except OSError as error:
        listener.close()
        raise ClusterError(
            "address-unavailable",
            f"cannot listen on {address} port {port}: {error.strerror}; check 'addresses' and 'port' in the node file",
        ) from error
    listener.setblocking(False)
    return listener


def _tune(connection: socket.socket) -> None:
    """Small messages leave at once; a peer that is dead is noticed within 5 seconds, also when nothing is sent."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3_000)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close without courtesy: a peer that is gone must not be waited for."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
    writer.transport.abort()
    with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError):
        await writer.wait_closed()

"""Serves the administration objects: over a Unix socket on the node, and over mutual TLS from elsewhere.

Pyro5 speaks the protocol; accepting, TLS and identity are ours, because of what Pyro5's own servers do with them: its
TLS handshake runs in the accept loop (one idle client freezes everybody), its TLS settings are global to the process
(so a plain Unix socket and a TLS port cannot be told apart) and its contexts are cached for ever. Here

* each listener has an accept loop that only accepts; everything else happens in the connection's own thread, under a
  time limit, and the number of connections is bounded;
* TLS is wrapped around the socket before Pyro5 sees it, with a context that trusts the cluster's authority alone;
* every connection has a Pyro5 daemon and servants of its own, which know who calls; nothing is shared or looked up;
* the header of each message is examined before its content is read: only JSON is ever decoded, nothing compressed,
  nothing oversized, no one-way calls (they would start threads without bound).

Clients may be ours or any Pyro5 proxy with the JSON serializer.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import Pyro5
import Pyro5.errors
import Pyro5.protocol
import Pyro5.server
import Pyro5.socketutil

from clussvc.admin.objects import make_servants
from clussvc.admin.roles import Caller, caller_by_certificate, caller_by_uid, operators_gid
from clussvc.admin.wire import MESSAGE_BYTES_MAX, SERIALIZER, SERIALIZER_ID
from clussvc.model.errors import ClusterError
from clussvc.ports import ClusterAccess

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 64
"""For each listener; one more is accepted and closed at once."""
HANDSHAKE_S = 5.0
"""For the TLS handshake and again for the first message."""
IDLE_S = 600.0
"""A connection without a message for so long is closed."""
REFUSALS_MAX = 4
"""Messages that are answered, all with a refusal, on a connection whose caller may do nothing."""
STOP_S = 1.0
"""How long :meth:`AdminServer.stop` waits for conversations that are under way."""
BACKLOG = 64
UNIX_PATH_BYTES_MAX = 107
"""The kernel's limit on the path of a Unix socket."""

_HEADER_BYTES = 40
_FORBIDDEN_FLAGS = (
    Pyro5.protocol.FLAGS_COMPRESSED
    | Pyro5.protocol.FLAGS_ONEWAY
    | Pyro5.protocol.FLAGS_BATCH
    | Pyro5.protocol.FLAGS_KEEPSERIALIZED
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Where remote administration listens, and with which identity (PEM files; reread by every new connection)."""

    host: str
    port: int
    """0: any free port; see :attr:`AdminServer.tcp_port`."""
    certificate: Path
    key: Path
    authority: Path


@dataclass(slots=True)
class Counters:
    """What happened at a listener so far."""

    accepted: int = 0
    turned_away: int = 0
    failed_handshakes: int = 0
    bad_messages: int = 0


class AdminServer:
    """Both listeners of one node. Use :meth:`start` and :meth:`stop`, or ``with``."""

    def __init__(self, access: ClusterAccess, unix_path: Path | str, tls: TlsSettings | None = None) -> None:
        self._access = access
        self._unix_path = Path(unix_path)
        self._tls = tls
        self._listeners: list[_Listener] = []

    def start(self) -> None:
        """Listen and serve in threads of its own.

        Raises ClusterError(``admin-listen``) that names the address and what to do.
        """
        # Process-wide settings of the library; this process serves and calls with no others.
        Pyro5.config.SERIALIZER = SERIALIZER
        Pyro5.config.MAX_MESSAGE_SIZE = MESSAGE_BYTES_MAX
        Pyro5.config.ITER_STREAMING = False
        Pyro5.config.DETAILED_TRACEBACK = False
        try:
            self._listeners.append(_Listener("unix", _listen_unix(self._unix_path), self._serve_unix))
            if self._tls is not None:
                # A first context now, so that unreadable or wrong certificates are found at start.
                _server_context(self._tls)
                self._listeners.append(_Listener("tcp", _listen_tcp(self._tls), self._serve_tcp))
        except BaseException:
            self.stop()
            raise
        for listener in self._listeners:
            listener.start()

    def stop(self) -> None:
        """Stop accepting, close every connection, and remove the socket file."""
        for listener in self._listeners:
            listener.stop()
        if any(listener.name == "unix" for listener in self._listeners):
            self._unix_path.unlink(missing_ok=True)
        self._listeners.clear()

    @property
    def tcp_port(self) -> int | None:
        """The port that was bound; None without remote administration."""
        return next((int(one.socket.getsockname()[1]) for one in self._listeners if one.name == "tcp"), None)

    def statistics(self) -> dict[str, int]:
        """Counters of both listeners."""
        return {
            f"admin_{one.name}_{key}": getattr(one.counters, key)
            for one in self._listeners
            for key in ("accepted", "turned_away", "failed_handshakes", "bad_messages")
        }

    def __enter__(self) -> AdminServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _serve_unix(self, plain: socket.socket, counters: Counters) -> None:
        credentials = plain.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, gid = struct.unpack("3i", credentials)
        self._serve(plain, caller_by_uid(uid, gid), counters)

    def _serve_tcp(self, plain: socket.socket, counters: Counters) -> None:
        assert self._tls is not None
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            wrapped = _server_context(self._tls).wrap_socket(plain, server_side=True)
        except (OSError, ValueError) as problem:
            counters.failed_handshakes += 1
            log.info("admin.handshake-failed: %s", problem)
            return
        with contextlib.closing(wrapped):
            caller = caller_by_certificate(wrapped.getpeercert(), self._access.config().cluster)
            self._serve(wrapped, caller, counters)

    def _serve(self, connected: socket.socket, caller: Caller, counters: Counters) -> None:
        """Answer requests until the client goes, sends rubbish, or is idle for too long."""
        daemon = _ConnectionDaemon(caller, connected)
        try:
            for name, servant in make_servants(self._access, caller).items():
                daemon.register(servant, name)
            connection = _Connection(connected)
            # Who may do nothing is told so, and then the place is for others.
            for _ in itertools.count() if caller.role is not None else range(REFUSALS_MAX):
                daemon.answer(connection)
                if caller.role is not None:
                    connected.settimeout(IDLE_S)
        except Pyro5.errors.ConnectionClosedError:
            return
        except (Pyro5.errors.ProtocolError, UnicodeDecodeError) as problem:
            # The second is the library's way to say that an annotation has a name that is not ASCII.
            counters.bad_messages += 1
            log.warning("admin.bad-message: %s: %s", caller.who, problem)
        except (OSError, Pyro5.errors.PyroError) as problem:
            log.info("admin.connection-lost: %s: %s", caller.who, problem)
        finally:
            daemon.close()


class _Listener:
    """An accept loop and the connections that came in through it."""

    def __init__(self, name: str, listening: socket.socket, serve: Callable[[socket.socket, Counters], None]) -> None:
        self.name = name
        self.socket = listening
        self.counters = Counters()
        self._serve = serve
        self._thread = threading.Thread(target=self._accept, name=f"admin-{name}", daemon=True)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._stopping = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            connections = list(self._open.items())
        # Shutting a listening socket down wakes its accept().
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)
        for connection, _ in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        # One that is inside a call (a poll, a change) ends with it; it is a daemon thread and holds nothing.
        until = time.monotonic() + STOP_S
        for _, thread in connections:
            thread.join(timeout=max(0.0, until - time.monotonic()))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError as problem:
                if self._stopping or self.socket.fileno() < 0:
                    return
                # Out of descriptors, or the client was gone again: neither ends the service.
                log.warning("admin.accept-failed: %s", problem)
                threading.Event().wait(0.1)
                continue
            with self._lock:
                if self._stopping or len(self._open) >= CONNECTIONS_MAX:
                    self.counters.turned_away += 1
                    connection.close()
                    continue
                self.counters.accepted += 1
                thread = threading.Thread(target=self._run, args=(connection,), name=f"admin-{self.name}", daemon=True)
                self._open[connection] = thread
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(HANDSHAKE_S)
            self._serve(connection, self.counters)
        except Exception:
            # A defect in one conversation is logged with its place and must not end the thread silently.
            log.exception("admin.connection-defect")
        finally:
            with self._lock:
                self._open.pop(connection, None)
            connection.close()


class _Connection(Pyro5.socketutil.SocketConnection):  # type: ignore[misc]
    """Examines the header of each message before the library reads its content."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self._header = bytearray()

    def next_type(self) -> int:
        """Wait for the next message's header; the kind of message it announces.

        Raises ProtocolError for what is never answered.
        """
        self._header = bytearray(super().recv(_HEADER_BYTES))
        header = Pyro5.protocol.ReceivingMessage(bytes(self._header))
        if header.serializer_id != SERIALIZER_ID and header.type != Pyro5.protocol.MSG_PING:
            raise Pyro5.errors.ProtocolError(f"serializer {header.serializer_id} is not accepted, only {SERIALIZER}")
        if header.flags & _FORBIDDEN_FLAGS:
            raise Pyro5.errors.ProtocolError(f"message flags {header.flags:#x} are not accepted")
        if header.data_size + header.annotations_size > MESSAGE_BYTES_MAX:
            raise Pyro5.errors.ProtocolError(f"a message of {header.data_size} bytes; {MESSAGE_BYTES_MAX} are allowed")
        return int(header.type)

    def recv(self, size: int) -> bytes:
        """What the library reads: the examined header first, then from the wire."""
        if self._header:
            assert size <= len(self._header), "the library reads header and content separately"
            taken = bytes(self._header[:size])
            del self._header[:size]
            return taken
        return bytes(super().recv(size))


class DaemonInterface:
    """The daemon's own object: what proxies need to begin, and nothing else."""

    def __init__(self, daemon: Any) -> None:
        self._daemon = daemon

    def get_metadata(self, objectId: str) -> Any:
        """The methods of an object; proxies ask for it when they connect."""
        servant = self._daemon.objectsById.get(objectId)
        if servant is None:
            raise Pyro5.errors.DaemonError("unknown object")
        return Pyro5.server.DaemonObject(self._daemon).get_metadata(objectId)


Pyro5.server.expose(DaemonInterface)


class _ConnectionDaemon(Pyro5.server.Daemon):  # type: ignore[misc]
    """A Pyro5 daemon for one accepted connection."""

    def __init__(self, caller: Caller, connected: socket.socket) -> None:
        self._caller = caller
        super().__init__(connected_socket=connected, interface=DaemonInterface)

    def answer(self, connection: _Connection) -> None:
        """Read one message and answer it."""
        if connection.next_type() == Pyro5.protocol.MSG_CONNECT:
            # Proxies that made the connection themselves begin with this; ours do not.
            if not self._handshake(connection):
                raise Pyro5.errors.ConnectionClosedError("refused")
        else:
            self.handleRequest(connection)

    def validateHandshake(self, conn: object, data: object) -> str:
        """Refuse who may do nothing; the text reaches the client."""
        if self._caller.role is None:
            raise PermissionError(f"{self._caller.who} may not administer this cluster")
        return "clussvc"

    def _sendExceptionResponse(
        self,
        connection: object,
        seq: int,
        serializer_id: int,
        exc_value: BaseException,
        tbinfo: object,
        flags: int = 0,
        annotations: object = None,
    ) -> None:
        """Tell the client that its request made no sense, without our file names, lines and variables."""
        log.info("admin.request-refused: %s: %s", self._caller.who, exc_value)
        plain = Pyro5.errors.PyroError("the request was not understood: unknown object, method or arguments")
        super()._sendExceptionResponse(connection, seq, SERIALIZER_ID, plain, [], flags, annotations)


def _server_context(tls: TlsSettings) -> ssl.SSLContext:
    """Mutual TLS 1.3 that trusts the cluster's authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=tls.authority)
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as problem:
        raise ClusterError(
            "admin-certificate",
            f"the certificates for remote administration cannot be used ({tls.certificate}, {tls.key},"
            f" {tls.authority}): {problem}; join the node again or restore these files",
        ) from problem
    return context


def _listen_tcp(tls: TlsSettings) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            tls.host, tls.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
    except OSError as problem:
        raise ClusterError(
            "admin-listen",
            f"remote administration cannot listen on {tls.host}:{tls.port}: {problem}; choose another admin_port",
        ) from problem
    return listening


def _listen_unix(path: Path) -> socket.socket:
    """Bind the socket file, with the operators' group if there is one; a leftover of a dead service is replaced."""
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise ClusterError(
            "admin-listen", f"{path} is too long for a Unix socket ({UNIX_PATH_BYTES_MAX} bytes at most)"
        )
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_leftover(path)
        with _umask(0o177):
            listening.bind(str(path))
        group = operators_gid()
        if group is not None and os.geteuid() == 0:
            os.chown(path, -1, group)
            path.chmod(0o660)
        listening.listen(BACKLOG)
    except OSError as problem:
        listening.close()
        raise ClusterError(
            "admin-listen", f"the administration socket {path} cannot be made: {problem}; see its folder"
        ) from problem
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_leftover(path: Path) -> None:
    if not path.is_socket():
        return  # Nothing there, or a file that is not ours to remove; bind() then says so.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(HANDSHAKE_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ClusterError("admin-listen", f"another service already answers at {path}; stop it first")


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)

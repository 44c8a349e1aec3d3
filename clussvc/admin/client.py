"""The client's end of the administration: find a cluster, call its objects, and repeat safely what may be repeated.

Used by the command line and by programs::

    with connect(None) as cluster:                      # this machine
        for group in cluster.call("Group", "status"):
            print(group["name"], group["state"])
        cluster.change("Group", "move", "SQL", "NODE2")

A target is ``None`` or ``.`` (the Unix socket of this machine), ``HOST:PORT``, or the name of a cluster for which there
is a certificate folder: ``$CLUSSVC_CERTS`` or ``~/.config/clussvc/NAME/`` with ``certificate.pem``, ``key.pem``,
``ca.pem`` and ``addresses`` (lines of HOST:PORT), as ``cluster admincert`` writes them.

Loading this module is cheap; Pyro5 and TLS are loaded when the first connection is made.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from clussvc.admin.wire import DEFAULT_SOCKET, MESSAGE_BYTES_MAX, OBJECT_NAMES, SERIALIZER
from clussvc.model.errors import ClusterError
from clussvc.model.reports import Report, Severity, outcome_unknown

CONNECT_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 60.0
"""Longer than the service itself waits for anything (30 s)."""
ATTEMPTS_MAX = 3
"""How often a change is sent whose outcome is unknown; all under one request id."""

REPEAT_WITHIN_S = 10.0
"""A change is not sent again later than this after the first time: the cluster remembers a bounded number of requests
(RECENT_REQUESTS_MAX), and a repetition of one that it has forgotten would take effect a second time."""

UNREACHABLE = ("service-not-running", "cannot-connect")
"""Errors after which an attempt was certainly not made."""
UNDECIDED = ("no-quorum",)
"""Refusals that speak of this attempt alone; what an earlier one under its request id did, the node cannot know."""

CERTIFICATE_FILES = {"certificate": "certificate.pem", "key": "key.pem", "ca": "ca.pem", "addresses": "addresses"}
"""Names of the files of a certificate folder, by the keys of ``Cluster.make_admin_certificate``."""


class CommandRefused(Exception):
    """The cluster said no; the report says why, unchanged."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.message)
        self.report = report


def default_socket() -> str:
    """Where the service of this machine listens: CLUSSVC_SOCKET, or the usual place."""
    return os.environ.get("CLUSSVC_SOCKET") or DEFAULT_SOCKET


def certificate_folder(cluster: str) -> Path:
    """Where the certificate for a cluster is kept: CLUSSVC_CERTS, or a folder of the cluster's name in the home."""
    given = os.environ.get("CLUSSVC_CERTS")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "clussvc" / cluster


def connect(
    target: str | None = None, *, socket_path: str | None = None, call_timeout_s: float = CALL_TIMEOUT_S
) -> ClusterClient:
    """A client of the cluster that the target names; the connection is made and tried.

    A call without an answer for ``call_timeout_s`` counts as a lost connection; less than the usual 60 s is for those
    who would rather ask another node.

    Raises ClusterError: ``service-not-running``, ``access-denied``, ``unknown-cluster``, ``no-certificate``,
    ``cannot-connect``.
    """
    if target in (None, "", "."):
        return ClusterClient([_Unix(socket_path or default_socket())], call_timeout_s)
    assert target is not None
    host, colon, port = target.rpartition(":")
    if colon and port.isdecimal():
        return ClusterClient([_Tls(host.strip("[]"), int(port), _only_folder())], call_timeout_s)
    folder = certificate_folder(target)
    addresses = folder / CERTIFICATE_FILES["addresses"]
    if addresses.is_file():
        lines = [line.strip().rpartition(":") for line in addresses.read_text().splitlines() if line.strip()]
        endpoints = [_Tls(host.strip("[]"), int(port), folder) for host, _, port in lines if port.isdecimal()]
        return ClusterClient(endpoints, call_timeout_s)
    return _local_by_name(target, socket_path or default_socket(), folder, call_timeout_s)


def _local_by_name(name: str, path: str, folder: Path, call_timeout_s: float) -> ClusterClient:
    local = "no cluster service answers on this machine"
    try:
        client = ClusterClient([_Unix(path)], call_timeout_s)
    except ClusterError as problem:
        if problem.code != "service-not-running":
            raise
    else:
        known = str(client.call("Cluster", "version")["cluster"])
        if known.casefold() == name.casefold():
            return client
        client.close()
        local = f"the cluster of this machine is {known!r}"
    raise ClusterError(
        "unknown-cluster",
        f"Cluster {name!r} is not known here: {local}, and there is no certificate folder {folder}"
        f" ('cluster admincert' on a member makes one).",
    )


def _only_folder() -> Path:
    """The certificate folder for a bare HOST:PORT."""
    if os.environ.get("CLUSSVC_CERTS"):
        return certificate_folder("")
    base = certificate_folder("x").parent
    found = sorted(path for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
    if len(found) == 1:
        return found[0]
    how_many = "there is none" if not found else f"there are {len(found)}"
    raise ClusterError(
        "no-certificate",
        f"Which certificate is to be used? {how_many} in {base}; set CLUSSVC_CERTS to the folder that holds"
        " certificate.pem, key.pem and ca.pem, or name the cluster instead of the address.",
    )


class _Unix:
    """The service of this machine."""

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self) -> socket.socket:
        """Connect. Raises ClusterError."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(CONNECT_TIMEOUT_S)
        try:
            connected.connect(self.path)
        except PermissionError as problem:
            connected.close()
            raise ClusterError(
                "access-denied",
                f"You may not use {self.path}; ask to become a member of the group clussvc, or use root.",
            ) from problem
        except OSError as problem:
            connected.close()
            raise ClusterError(
                "service-not-running",
                f"The cluster service of this machine does not answer at {self.path} ({problem.strerror or problem});"
                " start it ('clussvc run', or 'systemctl start clussvc' where that is set up), or name a cluster to ask"
                " another machine.",
                retryable=True,
            ) from problem
        return connected


class _Tls:
    """A node's port for remote administration."""

    def __init__(self, host: str, port: int, folder: Path) -> None:
        self.host = host
        self.port = port
        self.folder = folder

    def open(self) -> socket.socket:
        """Connect, prove who we are, and make sure that a node of the cluster is at the other end."""
        import ssl

        from clussvc.admin.roles import subject_uris

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Nodes are known by the URI in their certificate and may have any address.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cafile=self.folder / CERTIFICATE_FILES["ca"])
            context.load_cert_chain(
                self.folder / CERTIFICATE_FILES["certificate"], self.folder / CERTIFICATE_FILES["key"]
            )
        except (OSError, ssl.SSLError) as problem:
            raise ClusterError(
                "no-certificate",
                f"The certificate in {self.folder} cannot be used ({problem});"
                " 'cluster admincert' on a member makes one.",
            ) from problem
        where = f"{self.host}:{self.port}"
        try:
            plain = socket.create_connection((self.host, self.port), timeout=CONNECT_TIMEOUT_S)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as problem:
            raise ClusterError("cannot-connect", f"{where} does not answer: {problem}.", retryable=True) from problem
        try:
            wrapped = context.wrap_socket(plain)
        except OSError as problem:
            plain.close()
            message = f"{where} did not prove to be a node of the cluster: {problem}."
            raise ClusterError("cannot-connect", message, remote=True) from problem
        uris = subject_uris(wrapped.getpeercert())
        if not any(uri.startswith("clussvc://") and uri.split("/")[3:4] == ["node"] for uri in uris):
            wrapped.close()
            message = f"{where} shows a certificate that is not a node's ({', '.join(uris) or 'no name'})."
            raise ClusterError("cannot-connect", message, remote=True)
        return wrapped


class ClusterClient:
    """Calls the objects of one cluster, through the first of its endpoints that answers. For one thread."""

    def __init__(self, endpoints: list[_Unix] | list[_Tls], call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._endpoints = endpoints
        self._call_timeout_s = call_timeout_s
        self._open: dict[str, tuple[Any, socket.socket]] = {}
        self.notes: list[str] = []
        """Remarks that came with the answers so far, each once: whether they may be old."""
        self._proxy("Cluster")

    def call(self, object_: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Ask something; repeated once when an idle connection turns out to be lost.

        The node answers from what it has applied, which may be behind; with ``fresh=True`` the answer has every change
        that anybody was told of before the question. That takes a place in the log, and quorum.

        Raises CommandRefused with the report, ClusterError(``connection-lost``) or those of :func:`connect`.
        """
        new = object_ not in self._open
        try:
            return self.call_once(object_, method, *args, **kwargs)
        except ClusterError as problem:
            if new or problem.code != "connection-lost":
                raise
            return self.call_once(object_, method, *args, **kwargs)

    def call_once(self, object_: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`call`, sent once at most: only after ``connection-lost`` it may have been done all the same.

        For those who repeat by rules of their own; a change takes its request id first.
        """
        return self._result(self._invoke(object_, method, args, kwargs))

    def change(self, object_: str, method: str, *args: Any, request: str | None = None, **kwargs: Any) -> None:
        """Change something, at most once: a lost connection or an unknown outcome is repeated under one request id.

        Raises as :meth:`call`; the report ``outcome-unknown`` or the error ``connection-lost`` only after ATTEMPTS_MAX
        attempts or REPEAT_WITHIN_S. When one attempt may have had its effect, a later one that reached nobody, or a
        node without quorum, does not turn that into a plain no.
        """
        request = request or uuid.uuid4().hex
        lost = False
        until_s = time.monotonic() + REPEAT_WITHIN_S
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                self.call_once(object_, method, request, *args, **kwargs)
                return
            except CommandRefused as refused:
                undecided = lost and refused.report.code in UNDECIDED
                if refused.report.code != "outcome-unknown" and not undecided:
                    raise
                lost = True
                if attempt == ATTEMPTS_MAX or time.monotonic() >= until_s:
                    report = outcome_unknown(f"at last the answer was: {refused}") if undecided else refused.report
                    raise CommandRefused(report) from refused
            except ClusterError as problem:
                if problem.code not in ("connection-lost", *(UNREACHABLE if lost else ())):
                    raise
                lost = True
                if attempt == ATTEMPTS_MAX or time.monotonic() >= until_s:
                    message = f"It is unknown whether the change took effect: {problem.message}"
                    raise ClusterError("connection-lost", message, retryable=True) from problem
                # The service may be restarting; it gets a moment before it is asked again.
                time.sleep(0.2 * attempt)

    def change_many(self, changes: Iterable[Sequence[Any]], *, request: str | None = None) -> None:
        """Several changes in one step of the log, as ``(object, method, argument, ...)``: all of them, or none.

        A later one may name what an earlier one creates. At most CHANGES_MAX, and 512 KiB together. A mapping at the
        end of a change holds arguments by name. Raises as :meth:`change`; the refusal says which of them cannot be.
        """
        self.change("Cluster", "change_many", [_as_sent(one) for one in changes], request=request)

    def events(self, cursor: int, *, limit: int = 100, wait_ms: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Events after the cursor, and the cursor to go on with."""
        answer = self.call("EventStream", "poll", cursor, limit, wait_ms)
        return answer["events"], answer["cursor"]

    def follow(self, cursor: int, *, wait_ms: int = 20_000) -> Iterator[dict[str, Any]]:
        """Events after the cursor, without end."""
        while True:
            events, cursor = self.events(cursor, wait_ms=wait_ms)
            yield from events

    def close(self) -> None:
        """End all connections."""
        for object_ in list(self._open):
            self._drop(object_)

    def __enter__(self) -> ClusterClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _result(self, answer: Any) -> Any:
        if not isinstance(answer, dict):
            raise ClusterError("bad-answer", "The cluster service gave an answer of an unknown form.", remote=True)
        report = answer.get("report")
        if report is not None:
            raise CommandRefused(
                Report(
                    code=str(report["code"]),
                    status=int(report["status"]),
                    message=str(report["message"]),
                    severity=Severity(report.get("severity", "error")),
                    force_code=report.get("force_code"),
                )
            )
        self.notes.extend(note for note in answer.get("notes", ()) if note not in self.notes)
        return answer["ok"]

    def _invoke(self, object_: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import Pyro5.errors

        proxy = self._proxy(object_)
        try:
            return getattr(proxy, method)(*args, **kwargs)
        except Pyro5.errors.CommunicationError as problem:
            self._drop(object_)
            if "too large" in str(problem):
                message = f"The command is too large ({problem}); at most {MESSAGE_BYTES_MAX} bytes can be sent."
                raise ClusterError("too-large", message) from problem
            message = f"The connection to the cluster service was lost during {object_}.{method} ({problem})."
            raise ClusterError("connection-lost", message, retryable=True) from problem
        except Pyro5.errors.PyroError as problem:
            message = f"The cluster service does not understand {object_}.{method}: {problem}; is it another version?"
            raise ClusterError("bad-request", message, remote=True) from problem
        except KeyboardInterrupt:
            self._drop(object_)
            raise

    def _proxy(self, object_: str) -> Any:
        """The proxy of an object, connected now if it is not yet; an unreachable endpoint goes to the end."""
        assert object_ in OBJECT_NAMES, object_
        if object_ in self._open:
            return self._open[object_][0]
        problems: list[ClusterError] = []
        for _ in range(len(self._endpoints)):
            try:
                connected = self._endpoints[0].open()
            except ClusterError as problem:
                problems.append(problem)
                self._endpoints.append(self._endpoints.pop(0))  # type: ignore[arg-type]
                continue
            return self._wrap(object_, connected)
        if not problems:
            raise ClusterError("no-certificate", "The certificate folder names no addresses of nodes.")
        if len(problems) == 1:
            raise problems[0]
        message = "No node of the cluster answers: " + " ".join(problem.message for problem in problems)
        raise ClusterError("cannot-connect", message, retryable=True)

    def _wrap(self, object_: str, connected: socket.socket) -> Any:
        import Pyro5
        import Pyro5.client
        import Pyro5.errors

        Pyro5.config.SERIALIZER = SERIALIZER
        Pyro5.config.MAX_MESSAGE_SIZE = MESSAGE_BYTES_MAX
        connected.settimeout(self._call_timeout_s)
        try:
            proxy = Pyro5.client.Proxy(object_, connected_socket=connected)
        except Pyro5.errors.PyroError as problem:
            connected.close()
            raise ClusterError(
                "cannot-connect",
                f"The cluster service closed the connection ({problem}): your certificate may be of another cluster,"
                " or too many administrators are connected.",
                remote=True,
            ) from problem
        except BaseException:
            connected.close()
            raise
        self._open[object_] = (proxy, connected)
        return proxy

    def _drop(self, object_: str) -> None:
        entry = self._open.pop(object_, None)
        if entry is not None:
            entry[0]._pyroRelease()
            entry[1].close()


def _as_sent(change: Sequence[Any]) -> list[Any]:
    """One of many changes, in the form in which it travels."""
    object_, method, *arguments = change
    named = dict(arguments.pop()) if arguments and isinstance(arguments[-1], Mapping) else {}
    return [object_, method, arguments, named]

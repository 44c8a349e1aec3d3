"""What the listeners survive, and what they answer to those who speak badly."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import Pyro5
import Pyro5.client
import Pyro5.errors
import Pyro5.protocol
import pytest

from clussvc.admin import server as admin_server
from clussvc.admin.client import ATTEMPTS_MAX, ClusterClient, CommandRefused, connect
from clussvc.admin.server import AdminServer
from clussvc.admin.wire import MESSAGE_BYTES_MAX, SERIALIZER_ID
from clussvc.model.errors import ClusterError
from tests.adapters.admin.conftest import Place
from tests.cli.fake_access import FakeAccess

Remote = Callable[[Path], ClusterClient]
HEADER = "!4sHBBHHII16sHH"


def message(
    payload: bytes,
    *,
    kind: int = Pyro5.protocol.MSG_INVOKE,
    serializer: int = SERIALIZER_ID,
    flags: int = 0,
    size: int | None = None,
) -> bytes:
    """A Pyro message, as right or wrong as asked for."""
    stated = len(payload) if size is None else size
    return struct.pack(HEADER, b"PYRO", 502, kind, serializer, flags, 1, stated, 0, bytes(16), 0, 0x4DC5) + payload


def call(object_: str, method: str, *args: object) -> bytes:
    """The content of a call."""
    return json.dumps({"object": object_, "method": method, "params": args, "kwargs": {}}).encode()


@pytest.fixture
def raw(place: Place) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(place.socket)
        yield connection


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Flags and content of the next message; empty content if the server closed."""
    header = b""
    while len(header) < 40:
        try:
            chunk = connection.recv(40 - len(header))
        except ConnectionResetError:
            chunk = b""  # Closed as well: there was something that the server did not care to read.
        if not chunk:
            return 0, b""
        header += chunk
    fields = struct.unpack(HEADER, header)
    flags, size = fields[4], fields[6]
    content = b""
    while len(content) < size:
        content += connection.recv(size - len(content))
    return flags, content


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    waiting = threading.Event()
    for _ in range(400):
        if condition():
            return
        waiting.wait(0.05)
    pytest.fail("it did not happen within 20 s")


def test_an_idle_tls_client_holds_nobody_up(place: Place, remote: Remote) -> None:
    """Clients that connect and say nothing: the next one is served at once, and the silent ones are still there."""
    assert place.server.tcp_port is not None
    idle = [socket.create_connection(("127.0.0.1", place.server.tcp_port)) for _ in range(8)]
    try:
        client = remote(place.administrator("read-only"))
        assert "DEMO" == client.call("Cluster", "status")["name"]
        for silent in idle:
            silent.setblocking(False)
            with pytest.raises(BlockingIOError):
                silent.recv(1)
    finally:
        for silent in idle:
            silent.close()


def test_a_client_that_stops_in_its_handshake_is_let_go(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread and its place are free again."""
    monkeypatch.setattr(admin_server, "HANDSHAKE_S", 0.3)
    assert place.server.tcp_port is not None
    with socket.create_connection(("127.0.0.1", place.server.tcp_port), timeout=20) as silent:
        assert b"" == silent.recv(1)
    eventually(lambda: 1 == place.server.statistics()["admin_tcp_failed_handshakes"])


def test_plain_text_on_the_tls_port(place: Place) -> None:
    """Nothing is served without TLS."""
    assert place.server.tcp_port is not None
    with socket.create_connection(("127.0.0.1", place.server.tcp_port), timeout=20) as plain:
        plain.sendall(message(call("Cluster", "status")))
        assert b"" == read_answer(plain)[1]


def test_no_certificate_on_the_tls_port(place: Place) -> None:
    """A client without a certificate gets no answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cafile=place.folder / "node-1" / "ca.pem")

    def ask() -> bytes:
        assert place.server.tcp_port is not None
        with (
            socket.create_connection(("127.0.0.1", place.server.tcp_port), timeout=20) as plain,
            context.wrap_socket(plain) as wrapped,
        ):
            wrapped.sendall(message(call("Cluster", "status")))
            answer = wrapped.recv(1)
            if not answer:
                raise ConnectionError("closed without an answer")
            return answer

    # With TLS 1.3 the client learns of it while it writes or when it reads, whichever comes first.
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask()


def test_both_listeners_at_once(place: Place, local: ClusterClient, remote: Remote) -> None:
    """Plain on the Unix socket and TLS on the port, in one process, side by side."""
    far = remote(place.administrator("operator"))

    assert local.call("Node", "status") == far.call("Node", "status")


def test_a_message_that_is_too_large_is_not_read(place: Place, raw: socket.socket) -> None:
    """Its header is enough to end the conversation; the others go on."""
    raw.sendall(message(b"", size=MESSAGE_BYTES_MAX + 1))

    assert (0, b"") == read_answer(raw)
    assert 1 == place.server.statistics()["admin_unix_bad_messages"]
    with connect(socket_path=place.socket) as client:
        assert client.call("Cluster", "status")


def test_a_command_that_is_too_large_is_named(place: Place, local: ClusterClient) -> None:
    """The client says so before it sends, and nothing changes."""
    before = place.access.config()
    with pytest.raises(ClusterError, match="too large") as problem:
        local.change("Group", "create", "x" * MESSAGE_BYTES_MAX)
    assert "too-large" == problem.value.code
    assert before is place.access.config()


@pytest.mark.parametrize("serializer", [1, 2, 4, 9])
def test_only_json_is_decoded(place: Place, raw: socket.socket, serializer: int) -> None:
    """Serpent, marshal, msgpack, unknown: the connection ends unread."""
    raw.sendall(message(b"\x00" * 50, serializer=serializer))

    assert (0, b"") == read_answer(raw)


@pytest.mark.parametrize("flags", [1 << 1, 1 << 2, 1 << 3, 1 << 5])
def test_no_compression_and_no_one_way_calls(place: Place, raw: socket.socket, flags: int) -> None:
    """What could grow without bound is refused."""
    raw.sendall(message(call("Cluster", "status"), flags=flags))

    assert (0, b"") == read_answer(raw)


@pytest.mark.parametrize(
    "rubbish",
    [b"GET / HTTP/1.1\r\n\r\n" * 4, b"\x00" * 64, b"PYRO" + b"\xff" * 60],
)
def test_rubbish_ends_the_connection(place: Place, raw: socket.socket, rubbish: bytes) -> None:
    """And only that connection."""
    raw.sendall(rubbish)

    assert (0, b"") == read_answer(raw)
    with connect(socket_path=place.socket) as client:
        assert client.call("Cluster", "status")


@pytest.mark.parametrize(
    "content",
    [
        call("Cluster", "no_such_method"),
        call("NoSuchObject", "status"),
        call("Cluster", "_wall_ms"),
        call("Cluster", "execute", "x", "y"),
        call("Cluster", "access"),
        call("Group", "__init__"),
        call("Group", "__getattr__", "access"),
        call("Pyro.Daemon", "shutdown"),
        b"not json at all",
        b"[" * 100_000,
        json.dumps({"object": "Cluster"}).encode(),
    ],
)
def test_senseless_requests_get_an_error_without_internals(raw: socket.socket, content: bytes) -> None:
    """Neither names of files nor of modules or variables leave the service."""
    raw.sendall(message(content))

    flags, answer = read_answer(raw)

    assert flags & Pyro5.protocol.FLAGS_EXCEPTION
    text = answer.decode().replace('"_pyroTraceback": []', "")
    assert "not understood" in text
    for internal in (".py", "Traceback", "File ", "line ", "servant", "object has no"):
        assert internal not in text
    raw.sendall(message(call("Cluster", "status")))
    assert b"DEMO" in read_answer(raw)[1]


@pytest.mark.parametrize(
    ("object_", "method", "args"),
    [
        ("Group", "create", ("short",)),
        ("Group", "create", (123456789, "SQL")),
        ("Group", "create", ("a-request-id",)),
        ("Group", "create", ("a-request-id", 5)),
        ("Group", "create", ("a-request-id", "SQL", "NODE1", "more")),
        ("Group", "set_owners", ("a-request-id", "Cluster Group", "NODE1")),
        ("Group", "set_properties", ("a-request-id", "Cluster Group", [{"nam": 1}], [])),
        ("EventStream", "poll", (-1, 10, 0)),
        ("EventStream", "poll", (0, 100_000, 0)),
        ("EventStream", "poll", (0, "ten", 0)),
    ],
)
def test_wrong_arguments_are_reports(
    place: Place, raw: socket.socket, object_: str, method: str, args: tuple[object, ...]
) -> None:
    """Whatever types arrive, the answer is a refusal in words and nothing was proposed."""
    before = place.access.config()
    raw.sendall(message(call(object_, method, *args)))

    flags, answer = read_answer(raw)

    assert 0 == flags & Pyro5.protocol.FLAGS_EXCEPTION
    assert "bad-argument" == json.loads(answer)["report"]["code"]
    assert before is place.access.config()


def test_a_defect_tells_the_client_where_to_look(
    place: Place, local: ClusterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception nobody foresaw goes into the log; its text stays here."""

    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(place.access, "view", broken)
    with pytest.raises(CommandRefused) as refused:
        local.call("Cluster", "status")

    assert "internal-error" == refused.value.report.code
    assert "secret" not in refused.value.report.message


def test_connections_are_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than allowed is closed at once; when one leaves, there is room again."""
    monkeypatch.setattr(admin_server, "CONNECTIONS_MAX", 2)
    first, second = connect(socket_path=place.socket), connect(socket_path=place.socket)
    with pytest.raises(ClusterError, match="closed the connection"):
        connect(socket_path=place.socket)
    first.close()

    def room() -> bool:
        try:
            connect(socket_path=place.socket).close()
        except ClusterError:
            return False
        return True

    eventually(room)
    second.close()
    assert place.server.statistics()["admin_unix_turned_away"] >= 1


def test_any_pyro_proxy_can_call(place: Place) -> None:
    """The usual handshake of a proxy that makes its own connection."""
    Pyro5.config.SERIALIZER = "json"
    with Pyro5.client.Proxy(f"PYRO:Group@./u:{place.socket}") as proxy:
        assert "Cluster Group" == proxy.status()["ok"][0]["name"]
        with pytest.raises(AttributeError):
            proxy.access  # noqa: B018


def test_stop_ends_everything(tmp_path: Path) -> None:
    """Connections are closed and the socket file is gone."""
    path = tmp_path / "a.sock"
    server = AdminServer(FakeAccess(), path)
    server.start()
    client = connect(socket_path=str(path))

    server.stop()

    assert not path.exists()
    with pytest.raises(ClusterError):
        client.call("Cluster", "status")
    client.close()


def test_stop_does_not_wait_for_polls(tmp_path: Path) -> None:
    """A poll that is held open for long ends with its connection, not the other way round."""
    path = tmp_path / "a.sock"
    server = AdminServer(FakeAccess(), path)
    server.start()
    ended: list[str] = []

    def poll() -> None:
        with connect(socket_path=str(path)) as client:
            client.call("EventStream", "newest", 1)
            polling.set()
            try:
                client.events(10**12, wait_ms=25_000)
            except ClusterError as problem:
                ended.append(problem.code)

    polling = threading.Event()
    thread = threading.Thread(target=poll)
    thread.start()
    assert polling.wait(20)
    server.stop()
    thread.join(timeout=20)

    assert ended in (["connection-lost"], ["service-not-running"])


def test_a_leftover_socket_is_replaced(tmp_path: Path) -> None:
    """A service that was killed leaves its file behind."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with AdminServer(FakeAccess(), path), connect(socket_path=str(path)) as client:
        assert client.call("Cluster", "version")


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    """It is somebody's; the message names it."""
    path = tmp_path / "a.sock"
    path.write_text("mine")
    with pytest.raises(ClusterError, match=r"a\.sock"):
        AdminServer(FakeAccess(), path).start()
    assert "mine" == path.read_text()


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    """The kernel's limit is named before it bites."""
    with pytest.raises(ClusterError, match="too long"):
        AdminServer(FakeAccess(), tmp_path / ("x" * 120)).start()


# --- changes that are repeated ---------------------------------------------------------------------------------------


def test_a_repeated_change_is_made_once(place: Place, local: ClusterClient) -> None:
    """The same request id twice: one group, one answer."""
    local.change("Group", "create", "SQL", request="request-0001")
    local.change("Group", "create", "SQL", request="request-0001")

    assert ["Cluster Group", "SQL"] == [group.name for group in place.access.config().groups.values()]


def test_a_repeated_deletion_gets_the_first_answer(local: ClusterClient) -> None:
    """Although the name is gone by then."""
    local.change("Group", "create", "SQL")
    local.change("Group", "delete", "SQL", request="request-0002")
    local.change("Group", "delete", "SQL", request="request-0002")

    with pytest.raises(CommandRefused) as refused:
        local.change("Group", "delete", "SQL")
    assert "group-not-found" == refused.value.report.code


def test_a_repeated_eviction_gets_the_first_answer(place: Place, local: ClusterClient) -> None:
    """The node may be gone when the client asks again."""
    place.access.kill("NODE3")
    local.change("Node", "evict", "NODE3", request="request-0003")
    local.change("Node", "evict", "NODE3", request="request-0003")

    assert ["NODE1", "NODE2"] == [node["name"] for node in local.call("Node", "status")]
    assert ["NODE1", "NODE2"] == local.call("Cluster", "quorum")["voters"]


def test_an_unknown_outcome_is_asked_for_again(place: Place, local: ClusterClient) -> None:
    """Under the same request id, so that the change is not made twice."""
    place.access.unknown_outcomes = 1
    local.change("Group", "create", "SQL")

    assert place.access.config().group_named("SQL") is not None
    assert 1 == len({request for _, request in place.access.executed})


def test_an_outcome_that_stays_unknown_is_reported(
    place: Place, local: ClusterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bounded number of attempts."""
    from clussvc.model import reports

    asked: list[object] = []

    def execute(update: object, *, request: object = None, timeout_ms: int = 0) -> object:
        asked.append(request)
        return reports.outcome_unknown("no majority")

    monkeypatch.setattr(place.access, "execute", execute)
    with pytest.raises(CommandRefused) as refused:
        local.change("Group", "create", "SQL")

    assert "outcome-unknown" == refused.value.report.code
    assert ATTEMPTS_MAX == len(asked)
    assert 1 == len(set(asked))


def test_a_change_is_not_sent_again_when_the_cluster_may_have_forgotten_it(
    place: Place, local: ClusterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer comes after the time within which a repetition is certain to be recognised."""
    from clussvc.model import reports

    monkeypatch.setattr("clussvc.admin.client.REPEAT_WITHIN_S", 0.0)
    asked: list[object] = []

    def execute(update: object, *, request: object = None, timeout_ms: int = 0) -> object:
        asked.append(request)
        return reports.outcome_unknown("no majority")

    monkeypatch.setattr(place.access, "execute", execute)
    with pytest.raises(CommandRefused) as refused:
        local.change("Group", "create", "SQL")

    assert "outcome-unknown" == refused.value.report.code
    assert 1 == len(asked)


def test_what_may_have_been_done_is_not_called_undone(
    place: Place, local: ClusterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt has an unknown outcome, the node has lost its quorum at the next ones."""
    from clussvc.model import reports

    answers = iter([reports.outcome_unknown("no majority"), *[reports.no_quorum("NODE1", "1 of 2 votes")] * 10])
    monkeypatch.setattr(place.access, "execute", lambda *_, **__: next(answers))
    with pytest.raises(CommandRefused) as refused:
        local.change("Group", "create", "SQL")
    assert "outcome-unknown" == refused.value.report.code
    assert "1 of 2 votes" in refused.value.report.message

    with pytest.raises(CommandRefused) as refused:
        local.change("Group", "create", "SQL")
    assert "no-quorum" == refused.value.report.code, "nothing but refusals: certainly nothing was done"


def test_a_service_that_ends_during_a_change_leaves_it_unknown(tmp_path: Path) -> None:
    """Nobody answers any more at the next attempts, which does not mean that nothing was done."""
    path, access = tmp_path / "a.sock", FakeAccess()
    server = AdminServer(access, path)
    server.start()
    asked = threading.Event()
    released = threading.Event()

    def execute(*_: object, **__: object) -> None:
        asked.set()
        released.wait(20)

    access.execute = execute  # type: ignore[method-assign]
    ended: list[ClusterError] = []

    def change() -> None:
        with connect(socket_path=str(path)) as client, pytest.raises(ClusterError) as lost:
            client.change("Group", "create", "SQL")
        ended.append(lost.value)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        assert asked.wait(20)
        server.stop()
    finally:
        thread.join(20)
        released.set()
    assert ["connection-lost"] == [problem.code for problem in ended]
    assert "unknown whether" in ended[0].message


def test_one_attempt_is_one_attempt(place: Place, local: ClusterClient) -> None:
    """For callers with rules of their own."""
    place.access.unknown_outcomes = 1
    with pytest.raises(CommandRefused) as refused:
        local.call_once("Group", "create", "request-0004", "SQL")
    assert "outcome-unknown" == refused.value.report.code
    assert 1 == len(place.access.executed)


def test_without_quorum_nothing_changes_and_answers_say_so(place: Place, local: ClusterClient) -> None:
    """Reads carry a note that they may be old."""
    place.access.quorum = False
    before = place.access.config()

    with pytest.raises(CommandRefused) as refused:
        local.change("Group", "online", "Cluster Group")
    local.call("Group", "status")

    assert "no-quorum" == refused.value.report.code
    assert before is place.access.config()
    assert any("may be old" in note for note in local.notes)


# --- events ----------------------------------------------------------------------------------------------------------


def test_events_resume_at_the_cursor(place: Place, local: ClusterClient) -> None:
    """Across a reconnect nothing is lost and nothing is seen twice."""
    local.change("Group", "create", "A")
    first, cursor = local.events(0, limit=5)
    seen = [event["cursor"] for event in first]
    local.close()
    with connect(socket_path=place.socket) as again:
        again.change("Group", "create", "B")
        while True:
            more, cursor = again.events(cursor, limit=5)
            if not more:
                break
            seen += [event["cursor"] for event in more]

    stored = [entry.cursor for entry in place.access.history(after=0, limit=10_000)]
    assert stored == seen


def test_a_poll_is_answered_when_something_happens(place: Place, local: ClusterClient) -> None:
    """A long poll that is open when a change comes ends with it."""
    cursor = place.access.history(after=0, limit=10_000)[-1].cursor

    def create() -> None:
        with connect(socket_path=place.socket) as other:
            other.change("Group", "create", "LATE")

    timer = threading.Timer(0.2, create)
    timer.start()
    try:
        events, _ = local.events(cursor, wait_ms=30_000)
    finally:
        timer.join()

    assert any("LATE" in event["message"] for event in events)


def test_the_newest_events(local: ClusterClient) -> None:
    """Exactly as many as asked for, the last one last."""
    for number in range(30):
        local.change("Group", "create", f"G{number}")

    answer = local.call("EventStream", "newest", 7)

    assert 7 == len(answer["events"])
    assert "G29" in answer["events"][-1]["message"]
    assert answer["cursor"] == answer["events"][-1]["cursor"]

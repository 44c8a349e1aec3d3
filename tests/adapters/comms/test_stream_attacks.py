"""What attackers, evicted nodes and slow peers can do to the streams: nothing that reaches anybody else."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clussvc.comms import stream_tcp
from clussvc.comms.authority import Authority, client_context, fingerprint, only_certificate
from clussvc.comms.stream_tcp import GUESTS_MAX, ask_to_join
from clussvc.comms.wire import FrameDecoder, Kind, encode_frame
from clussvc.model.errors import ClusterError
from tests.adapters.comms.test_stream_tcp import (
    TIMEOUT_S,
    Member,
    eventually,
    free_port,
    is_closed,
    raw_client,
    stranger_context,
)


@pytest.fixture
def authority() -> Authority:
    return Authority.create(cluster_id="cid", cluster_name="TEST")


@pytest.fixture
def make(tmp_path: Path, authority: Authority) -> Iterator[Callable[[int], Member]]:
    """Starts members; all are stopped at the end."""
    members: list[Member] = []

    def start(node_id: int) -> Member:
        member = Member(tmp_path / f"{node_id}-{len(members)}", authority, node_id)
        members.append(member)
        member.transport.start()
        return member

    yield start
    for member in members:
        member.transport.stop()


def introduce(one: Member, two: Member) -> None:
    one.know(two)
    two.know(one)
    eventually(lambda: one.connected == {two.node_id} and two.connected == {one.node_id})


def count(member: Member, what: str) -> int:
    return member.transport.statistics().counts.get(what, 0)


def test_a_crowd_of_silent_clients_holds_up_nobody(
    make: Callable[[int], Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than there are places, and they would stay for ever: the oldest go and a member gets in."""
    monkeypatch.setattr(stream_tcp, "HANDSHAKE_TIMEOUT_S", 10_000.0)
    one, two = make(1), make(2)
    crowd = [socket.create_connection(("127.0.0.1", one.port), timeout=TIMEOUT_S) for _ in range(GUESTS_MAX + 20)]
    try:
        introduce(one, two)

        assert count(one, "refused.too-many-guests") >= 20
        assert crowd[0].recv(1) == b""
    finally:
        for connection in crowd:
            connection.close()


def test_anonymous_clients_that_finish_the_handshake_hold_up_nobody(
    make: Callable[[int], Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like the crowd above, but each has spoken TLS and then says nothing."""
    monkeypatch.setattr(stream_tcp, "GUESTS_MAX", 4)
    monkeypatch.setattr(stream_tcp, "STRANGER_TIMEOUT_S", 10_000.0)
    one, two = make(1), make(2)
    crowd = [raw_client(one, stranger_context()) for _ in range(6)]
    try:
        introduce(one, two)

        assert is_closed(crowd[0])
    finally:
        for connection in crowd:
            connection.close()


def test_an_evicted_node_is_not_heard_and_does_not_hammer(
    make: Callable[[int], Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its open connection is good for nothing from then on, and it pauses before it dials again."""
    one, two, three = make(1), make(2), make(3)
    introduce(one, two)
    monkeypatch.setattr(stream_tcp, "DIAL_PAUSE_S", (10_000.0, 10_000.0))
    one.know(three)
    three.know(one)
    eventually(lambda: one.connected == {3} and three.connected == {1})
    two.transport.send(1, Kind.RAFT, b"am I still a member?")
    eventually(lambda: count(one, "refused.unknown-member") == 1)
    eventually(lambda: not two.connected)
    for turn in range(200):
        assert three.transport.send(1, Kind.RAFT, b"%d" % turn)
        assert one.heard.get(timeout=TIMEOUT_S) == (3, Kind.RAFT, b"%d" % turn)

    assert count(one, "refused.unknown-member") == 1
    assert "closed" in two.transport.statistics().troubles[1] or "lost" in two.transport.statistics().troubles[1]


def test_an_administrators_certificate_is_no_nodes(
    make: Callable[[int], Member], tmp_path: Path, authority: Authority
) -> None:
    """It is good for the administration, not for the log."""
    one = make(1)
    admin = authority.issue_administrator(name="ann", role="administrator")
    paths = {}
    for name, content in (("certificate", admin.certificate), ("key", admin.key)):
        (tmp_path / name).write_bytes(content)
        paths[name] = str(tmp_path / name)
    with raw_client(one, client_context(**paths, authority=one.tls["authority"])) as stream:
        assert is_closed(stream, encode_frame(Kind.RAFT, b"I administer"))
    assert one.heard.empty()
    assert count(one, "refused.wrong-identity") == 1


def test_a_node_of_another_cluster_with_the_same_authority_is_refused(
    make: Callable[[int], Member], tmp_path: Path, authority: Authority
) -> None:
    """The cluster's identifier counts, whoever signed."""
    one = make(1)
    twin = Member(tmp_path / "twin", Authority(cluster_id="other", pair=authority.pair), 2)
    context = client_context(**twin.tls)
    with raw_client(one, context) as stream:
        assert is_closed(stream, encode_frame(Kind.RAFT, b"hello"))
    assert one.heard.empty()
    assert count(one, "refused.wrong-identity") == 1
    twin.transport.stop()


def test_a_member_may_not_send_more_than_a_frame_allows(make: Callable[[int], Member]) -> None:
    """The length alone ends the connection, before anything of that size is kept."""
    one, two = make(1), make(2)
    introduce(one, two)
    with raw_client(one, client_context(**two.tls)) as stream:
        assert is_closed(stream, b"\xff\xff\xff\xff\x01")
    assert count(one, "refused.malformed-frame") == 1


def test_a_peer_that_takes_nothing_fills_its_queue_and_no_more(
    make: Callable[[int], Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was accepted arrives, in order; the rest was refused and counted."""
    monkeypatch.setattr(stream_tcp, "QUEUE_MESSAGES_MAX", 8)
    monkeypatch.setattr(stream_tcp, "STALL_TIMEOUT_S", 10_000.0)
    one, two = make(1), make(2)
    gate = threading.Event()
    accepted: list[bytes] = []
    two.on_message = lambda *_: gate.wait(TIMEOUT_S)
    introduce(one, two)
    try:
        while count(one, "dropped.queue-full") == 0:
            payload = b"%08d" % len(accepted) + bytes(500_000)
            if one.transport.send(2, Kind.RAFT, payload):
                accepted.append(payload[:8])
            assert len(accepted) < 1_000
    finally:
        gate.set()

    assert [two.heard.get(timeout=TIMEOUT_S)[2][:8] for _ in accepted] == accepted


def test_why_a_peer_cannot_be_reached_is_said(make: Callable[[int], Member]) -> None:
    """With its address."""
    one = make(1)
    port = free_port()
    one.transport.set_peers({2: (("127.0.0.1", port),)})
    eventually(lambda: count(one, "dial.failed") > 0)

    assert str(port) in one.transport.statistics().troubles[2]


def test_a_broken_invariant_ends_the_thread(make: Callable[[int], Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not swallowed: the hook of the process decides what follows."""
    ended: queue.Queue[type[BaseException]] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", lambda args: ended.put(args.exc_type))
    one, two = make(1), make(2)
    introduce(one, two)

    def broken(*_: object) -> None:
        raise AssertionError("an invariant")

    two.on_message = broken
    one.transport.send(2, Kind.RAFT, b"x")

    assert ended.get(timeout=TIMEOUT_S) is AssertionError


def test_an_unexpected_exception_costs_a_connection_only(
    make: Callable[[int], Member], caplog: pytest.LogCaptureFixture
) -> None:
    """On both sides of a connection; it is found again and the next message arrives."""
    one, two = make(1), make(2)
    introduce(one, two)

    def broken(*_: object) -> None:
        two.on_message = lambda *_: None
        raise KeyError("a mistake")

    two.on_message = broken
    one.transport.send(2, Kind.RAFT, b"x")
    eventually(lambda: count(two, "unexpected") == 1)
    eventually(lambda: one.transport.send(2, Kind.RAFT, b"y") and not two.heard.empty())

    assert two.heard.get(timeout=TIMEOUT_S) == (1, Kind.RAFT, b"y")
    assert "a mistake" in caplog.text


def test_an_unexpected_exception_while_connecting_is_survived(make: Callable[[int], Member]) -> None:
    """The one who dials tries again."""
    one, two = make(1), make(2)
    calls: list[int] = []

    def once_broken(node_id: int) -> None:
        calls.append(node_id)
        if len(calls) == 1:
            raise KeyError("a mistake")
        one.connected.add(node_id)

    one.on_connected = once_broken
    introduce(one, two)

    assert calls == [2, 2]


class Impostor:
    """In the middle between a new machine and the cluster: shows a certificate of its own authority, answers the
    question for the authority as it likes, and keeps what it is sent."""

    def __init__(self, folder: Path, authority_reply: bytes, own: Authority) -> None:
        folder.mkdir()
        pair = Member(folder, own, 1)
        pair.transport.stop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.tls["certificate"], pair.tls["key"])
        self._listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self._listener.settimeout(TIMEOUT_S)
        self.port: int = self._listener.getsockname()[1]
        self.caught: list[Kind] = []
        self._reply = authority_reply
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except ssl.SSLError:
                continue  # The client did not trust us.
            except OSError:
                return
            with connection:
                decoder = FrameDecoder()
                while data := connection.recv(100_000):
                    for kind, _ in decoder.feed(data):
                        self.caught.append(kind)
                        connection.sendall(encode_frame(Kind.AUTHORITY_REPLY, self._reply))

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(TIMEOUT_S)


@pytest.mark.parametrize("order", ["expected first", "expected last", "expected alone"])
def test_an_impostor_never_sees_the_secret(tmp_path: Path, authority: Authority, order: str) -> None:
    """The authority's certificate is public, so an impostor can show it, also with its own one beside it."""
    own = Authority.create(cluster_id="cid", cluster_name="TEST")
    good, evil = authority.pair.certificate, own.pair.certificate
    reply = {"expected first": good + evil, "expected last": evil + good, "expected alone": good}[order]
    impostor = Impostor(tmp_path / "impostor", reply, own)
    try:
        with pytest.raises(ClusterError):
            ask_to_join(
                (("127.0.0.1", impostor.port),),
                authority_sha256=fingerprint(good),
                check_member=lambda _: None,
                request=b"the secret",
            )
    finally:
        impostor.stop()

    assert impostor.caught == [Kind.AUTHORITY_REQUEST]


def test_only_one_certificate_is_ever_taken(authority: Authority) -> None:
    """Alone and as it was; comments around it are not kept, a second one is refused."""
    certificate = authority.pair.certificate

    assert only_certificate(b"a comment\n" + certificate) == certificate
    for text in (certificate * 2, b"", b"no certificate"):
        with pytest.raises(ClusterError):
            only_certificate(text)
        with pytest.raises(ClusterError):
            fingerprint(text)

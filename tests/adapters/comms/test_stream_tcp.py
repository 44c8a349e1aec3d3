"""Streams over real TLS sockets on this machine: members talk, everybody else is refused and holds up nobody."""

from __future__ import annotations

import queue
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clussvc.comms.authority import (
    AdminIdentity,
    Authority,
    NodeIdentity,
    client_context,
    fingerprint,
    identity_of,
    new_signing_request,
    server_context,
    signed_by,
)
from clussvc.comms.stream_tcp import StreamCallbacks, StreamTransport, ask_to_join
from clussvc.comms.wire import STRANGER_FRAME_BYTES_MAX, Kind, encode_frame
from clussvc.model.errors import ClusterError

TIMEOUT_S = 15.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.01)


class Member:
    """One end, with what it heard."""

    def __init__(self, folder: Path, authority: Authority, node_id: int, *, port: int | None = None) -> None:
        self.node_id = node_id
        self.port = port or free_port()
        self.heard: queue.Queue[tuple[int, Kind, bytes]] = queue.Queue()
        self.connected: set[int] = set()
        self.on_message: Callable[[int, Kind, bytes], object] = lambda *_: None
        self.on_connected: Callable[[int], None] = self.connected.add
        folder.mkdir(parents=True, exist_ok=True)
        key, request = new_signing_request(f"n{node_id}")
        (folder / "node.key").write_bytes(key)
        (folder / "node.pem").write_bytes(
            authority.sign_node_request(request, node_id=node_id, node_name=f"n{node_id}")
        )
        (folder / "ca.pem").write_bytes(authority.pair.certificate)
        self.tls = {
            "certificate": str(folder / "node.pem"),
            "key": str(folder / "node.key"),
            "authority": str(folder / "ca.pem"),
        }
        self.evicted: set[int] = set()
        self.evicted_by: list[int] = []
        self.transport = StreamTransport(
            node_id=node_id,
            cluster_id=authority.cluster_id,
            listen=(("127.0.0.1", self.port), ("127.0.0.2", self.port)),
            server_tls=server_context(**self.tls, require_client=False),
            client_tls=client_context(**self.tls),
            authority=authority.pair.certificate,
            callbacks=StreamCallbacks(
                on_message=self.hear,
                on_connected=lambda node: self.on_connected(node),
                on_disconnected=self.connected.discard,
                on_join=self.join,
                is_evicted=lambda node: node in self.evicted,
                on_evicted=self.evicted_by.append,
            ),
        )

    def hear(self, node_id: int, kind: Kind, payload: bytes) -> None:
        self.on_message(node_id, kind, payload)
        self.heard.put((node_id, kind, payload))

    async def join(self, request: bytes) -> bytes:
        return b"welcome " + request

    def know(self, *others: Member) -> None:
        self.transport.set_peers({other.node_id: (("127.0.0.1", other.port),) for other in others})


@pytest.fixture
def authority() -> Authority:
    return Authority.create(cluster_id="cid", cluster_name="TEST")


@pytest.fixture
def pair(tmp_path: Path, authority: Authority) -> Iterator[tuple[Member, Member]]:
    one, two = Member(tmp_path / "1", authority, 1), Member(tmp_path / "2", authority, 2)
    for member, other in ((one, two), (two, one)):
        member.transport.start()
        member.know(other)
    eventually(lambda: one.connected == {2} and two.connected == {1})
    yield one, two
    one.transport.stop()
    two.transport.stop()


def test_members_exchange_messages_in_order(pair: tuple[Member, Member]) -> None:
    """Both directions, empty and large."""
    one, two = pair
    for payload in (b"", b"x" * 1_000_000, b"last"):
        assert one.transport.send(2, Kind.RAFT, payload)
    assert two.transport.send(1, Kind.RAFT, b"back")

    assert [two.heard.get(timeout=TIMEOUT_S)[2] for _ in range(3)] == [b"", b"x" * 1_000_000, b"last"]
    assert one.heard.get(timeout=TIMEOUT_S) == (2, Kind.RAFT, b"back")


def test_what_cannot_be_sent_is_said(pair: tuple[Member, Member]) -> None:
    """An unknown peer, and one that is gone."""
    one, two = pair
    assert not one.transport.send(9, Kind.RAFT, b"nobody")
    two.transport.stop()
    eventually(lambda: not one.connected)

    assert not one.transport.send(2, Kind.RAFT, b"gone")


def test_a_peer_that_comes_back_is_found(pair: tuple[Member, Member], tmp_path: Path, authority: Authority) -> None:
    """The same node on the same port after a restart."""
    one, two = pair
    two.transport.stop()
    eventually(lambda: not one.connected)
    again = Member(tmp_path / "2b", authority, 2, port=two.port)
    again.transport.start()
    again.know(one)
    try:
        eventually(lambda: one.connected == {2})
        assert one.transport.send(2, Kind.RAFT, b"hello again")
        assert again.heard.get(timeout=TIMEOUT_S)[2] == b"hello again"
    finally:
        again.transport.stop()


def test_silent_clients_hold_up_nobody(pair: tuple[Member, Member], tmp_path: Path, authority: Authority) -> None:
    """Connections that never speak TLS, while a new member dials."""
    one, _ = pair
    silent = [socket.create_connection(("127.0.0.1", one.port)) for _ in range(20)]
    three = Member(tmp_path / "3", authority, 3)
    three.transport.start()
    one.know(three)
    three.know(one)
    try:
        eventually(lambda: three.connected == {1})
    finally:
        three.transport.stop()
        for connection in silent:
            connection.close()


def raw_client(member: Member, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", member.port), timeout=TIMEOUT_S))


def stranger_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def is_closed(stream: ssl.SSLSocket, after: bytes = b"") -> bool:
    """Whether the other side closes after it has been sent this; it may be faster than the sending."""
    try:
        stream.sendall(after)
        while stream.recv(1_000):
            pass
    except (ConnectionError, ssl.SSLError):
        return True
    return True


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(Kind.RAFT, b"let me in"),
        b"\xff\xff\xff\xff\x01",
        struct.pack(">IB", STRANGER_FRAME_BYTES_MAX + 1, Kind.JOIN_REQUEST),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_stranger_may_not_talk_like_a_member(pair: tuple[Member, Member], data: bytes) -> None:
    """Without a certificate: members' messages, oversized and foreign ones end the connection."""
    one, _ = pair
    with raw_client(one, stranger_context()) as stream:
        assert is_closed(stream, data)
    assert one.heard.empty()


def test_another_clusters_node_is_refused(pair: tuple[Member, Member], tmp_path: Path) -> None:
    """Its certificate comes from another authority."""
    one, _ = pair
    foreign = Member(tmp_path / "f", Authority.create(cluster_id="cid", cluster_name="EVIL"), 2)
    context = stranger_context()
    context.load_cert_chain(foreign.tls["certificate"], foreign.tls["key"])
    foreign.transport.stop()
    with raw_client(one, context) as stream:
        assert is_closed(stream, encode_frame(Kind.RAFT, b"let me in"))
    eventually(lambda: one.transport.statistics().counts.get("refused.handshake") == 1)
    assert one.heard.empty()


def test_a_node_that_answers_for_another_one_is_not_used(
    pair: tuple[Member, Member], tmp_path: Path, authority: Authority
) -> None:
    """At the address of node 2 somebody shows the certificate of node 3."""
    one, two = pair
    one.transport.set_peers({3: (("127.0.0.1", two.port),)})
    eventually(lambda: one.transport.statistics().counts.get("dial.wrong-identity", 0) > 0)

    assert 3 not in one.connected


def test_joining_checks_the_fingerprint_before_the_secret_is_sent(
    pair: tuple[Member, Member], authority: Authority
) -> None:
    """The right authority answers; with another fingerprint nothing is asked."""
    one, _ = pair
    contacts = (("127.0.0.1", free_port()), ("127.0.0.1", one.port))
    seen: list[NodeIdentity] = []
    reply, certificate = ask_to_join(
        contacts,
        authority_sha256=fingerprint(authority.pair.certificate),
        check_member=seen.append,
        request=b"secret",
    )

    assert reply == b"welcome secret"
    assert certificate == authority.pair.certificate
    assert seen == [NodeIdentity(cluster_id="cid", node_id=1)]
    with pytest.raises(ClusterError) as caught:
        ask_to_join(contacts, authority_sha256="00" * 32, check_member=seen.append, request=b"secret")
    assert caught.value.code == "join-untrusted"
    assert one.transport.statistics().counts["stranger.join_request"] == 1


def test_joining_names_the_contacts_that_did_not_answer() -> None:
    """Nobody there."""
    port = free_port()
    with pytest.raises(ClusterError, match=str(port)) as caught:
        ask_to_join((("127.0.0.1", port),), authority_sha256="", check_member=lambda _: None, request=b"")

    assert caught.value.code == "join-unreachable"


def test_an_address_in_use_is_named(tmp_path: Path, authority: Authority) -> None:
    """The way out is in the message."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        member = Member(tmp_path / "x", authority, 1, port=taken.getsockname()[1])
        with pytest.raises(ClusterError, match="port") as caught:
            member.transport.start()
        member.transport.stop()

    assert caught.value.code == "address-unavailable"


def test_certificates_say_who_somebody_is(authority: Authority) -> None:
    """Nodes by number, administrators by role; roles that do not exist are refused."""
    admin = authority.issue_administrator(name="Ann O'Neill/ops", role="operator")
    der = ssl.PEM_cert_to_DER_cert(admin.certificate.decode())

    assert identity_of(der) == AdminIdentity(cluster_id="cid", role="operator", name="Ann O'Neill/ops")
    assert signed_by(admin.certificate, authority.pair.certificate)
    assert not signed_by(admin.certificate, Authority.create(cluster_id="x", cluster_name="x").pair.certificate)
    with pytest.raises(ClusterError, match="read-only"):
        authority.issue_administrator(name="x", role="king")
    with pytest.raises(ClusterError):
        identity_of(b"no certificate")
    with pytest.raises(ClusterError):
        authority.sign_node_request(b"no request", node_id=1, node_name="x")


def test_threads_end_with_the_transport(tmp_path: Path, authority: Authority) -> None:
    """Nothing is left behind."""
    before = threading.active_count()
    member = Member(tmp_path / "m", authority, 1)
    member.transport.start()
    member.transport.stop()

    assert threading.active_count() == before


def test_a_network_on_which_the_peer_is_not_heard_is_left(pair: tuple[Member, Member]) -> None:
    """At once, and for as long as there is another one."""
    one, two = pair
    first, second = ("127.0.0.1", two.port), ("127.0.0.2", two.port)

    def counts(what: str) -> int:
        return one.transport.statistics().counts.get(what, 0)

    one.transport.set_peers({2: (first, second)})
    eventually(lambda: counts("connected") == 2)
    one.transport.avoid({2: frozenset({second})})
    one.transport.avoid({2: frozenset({first})})
    eventually(lambda: counts("left.network") == 1 and counts("connected") == 3 and one.connected == {2})
    one.transport.avoid({2: frozenset({first, second})})
    one.transport.avoid({})
    assert one.transport.send(2, Kind.RAFT, b"through the other one")
    assert two.heard.get(timeout=TIMEOUT_S)[2] == b"through the other one"
    assert counts("left.network") == 1, "there is no better one"


def test_who_was_evicted_is_told(pair: tuple[Member, Member]) -> None:
    """Whoever is only unknown may be so for a moment, and is told nothing."""
    one, two = pair
    one.transport.set_peers({})
    # A connection that is there already is looked at again when something arrives on it.
    two.transport.send(1, Kind.RAFT, b"who am I?")
    eventually(lambda: one.transport.statistics().counts.get("refused.unknown-member", 0) >= 2)
    assert two.evicted_by == []
    one.evicted.add(2)
    eventually(lambda: bool(two.evicted_by))
    assert set(two.evicted_by) == {1}
    assert two.transport.statistics().counts["evicted"] >= 1

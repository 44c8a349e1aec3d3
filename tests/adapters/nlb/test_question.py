"""What a host asks its own server, over real sockets on the loopback interface; no right is needed for that."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from clussvc.nlb.mac import Address
from clussvc.nlb.port_rule import parse_rule
from clussvc.nlb.probe_health import Change
from clussvc.nlb.server.question import STATUS_BYTES_MAX, Question
from clussvc.service.balancer_probes import Probes

HERE = IPv4Address("127.0.0.1")
LIMIT_S = 20.0


class Server:
    """Answers every connection with the same bytes, or never."""

    def __init__(self, says: bytes | None, address: Address = HERE) -> None:
        self.says = says
        self.heard: list[bytes] = []
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self._listening = socket.create_server((str(address), 0), family=family)
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(LIMIT_S)
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    try:
                        chunk = connection.recv(1_000)
                    except OSError:
                        chunk = b""
                    if not chunk:
                        break
                    request += chunk
                self.heard.append(request)
                if self.says is None:
                    connection.recv(1_000)
                else:
                    connection.sendall(self.says)

    def end(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(LIMIT_S)


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as made:
        yield made
        assert not made.get_map(), "a socket was left with the selector"


def answer(selector: selectors.BaseSelector, port: int, path: str, address: Address = HERE) -> str:
    """Ask, and go on until it has ended."""
    ended: list[str] = []
    Question(selector, ended.append).ask(address, port, path)
    give_up_s = time.monotonic() + LIMIT_S
    while not ended:
        assert time.monotonic() < give_up_s, "the question does not end"
        for key, _ in selector.select(1):
            key.data()
    assert len(ended) == 1
    return ended[0]


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ""),
        (b"HTTP/1.0 204\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", ""),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "the status is 404"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "the status is 503"),
        (b"SSH-2.0-OpenSSH\r\n", "its answer is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n", "its answer is not HTTP"),
        (b"x" * (STATUS_BYTES_MAX + 1), "its answer is not HTTP"),
        (b"HTTP/1.1 200", "it hung up before it answered"),
        (b"", "it hung up before it answered"),
    ],
)
def test_answers_over_http(selector: selectors.BaseSelector, says: bytes, expected: str) -> None:
    """A status of 200..399 is an answer; everything else is told for what it is."""
    server = Server(says)
    try:
        assert expected == answer(selector, server.port, "/health?of=all")
        assert server.heard[0].startswith(b"GET /health?of=all HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    finally:
        server.end()


def test_a_connection_is_enough_without_a_path(selector: selectors.BaseSelector) -> None:
    """Over IPv6 too; a port on which nobody listens is refused."""
    addresses: tuple[Address, ...] = (HERE, IPv6Address("::1"))
    for address in addresses:
        server = Server(b"", address)
        assert "" == answer(selector, server.port, "", address)
        server.end()
        assert "the connection is refused" == answer(selector, server.port, "", address)
        assert "the connection is refused" == answer(selector, server.port, "/", address)


def test_another_machine_is_never_asked(selector: selectors.BaseSelector) -> None:
    """A virtual address that this machine does not have may be another host's, whose answer would be the wrong one."""
    assert "cannot be used" in answer(selector, 80, "", ip_address("192.0.2.10"))


def test_a_server_that_hangs_is_given_up(selector: selectors.BaseSelector) -> None:
    """Its kernel accepts the connection, so TCP finds nothing wrong; HTTP waits for the limit and no longer."""
    server = Server(None)
    changes: list[Change] = []
    probes = Probes(selector, changes.append)
    rules = [
        parse_rule(f"All {server.port} TCP Multiple probe=tcp"),
        parse_rule(f"All 80 TCP Multiple probe=http:{server.port}/ interval=100 fall=1"),
    ]
    probes.watch((rule for rule in rules if not isinstance(rule, str)), HERE, 0)
    now_ms = 0
    give_up_s = time.monotonic() + LIMIT_S
    probes.tick(now_ms)
    while len(server.heard) < 1 or not changes:
        assert time.monotonic() < give_up_s, (server.heard, changes)
        for key, _ in selector.select(1):
            key.data()
    assert [Change(title=f"All {server.port}-{server.port} TCP", answering=True, why="")] == changes
    assert "no probe has ended yet" == probes.trouble("All 80-80 TCP")
    assert 100 == probes.deadline_ms
    probes.tick(100)
    assert "no answer within 100 ms" == probes.trouble("All 80-80 TCP")
    probes.close()
    server.end()

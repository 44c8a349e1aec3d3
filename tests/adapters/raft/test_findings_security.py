"""What the stock library does with strangers: its real transport on a real socket of this machine, and ours.

Everything listens on the loopback address only.
"""

from __future__ import annotations

import pickle
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pysyncobj.transport as library_transport
import pytest
from pysyncobj import SyncObj, SyncObjConf

from clussvc.comms.wire import STRANGER_FRAME_BYTES_MAX, STRANGERS_MAY_SEND, FrameDecoder, Kind
from clussvc.global_update.raft import wire
from clussvc.model.errors import ClusterError
from tests.adapters.raft.pair import commands, ours

TURNS_MAX = 5_000
executed: list[str] = []


def execute(what: str) -> None:
    """What a stranger has the node do."""
    executed.append(what)


class Evil:
    """Whoever unpickles this calls :func:`execute`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return execute, (self._what,)


@contextmanager
def listening() -> Iterator[tuple[Any, socket.socket]]:
    """A node of the library with its defaults but for the address, and a stranger's connection to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = SyncObj(
        f"127.0.0.1:{port}",
        ["127.0.0.1:1"],
        SyncObjConf(autoTick=False, bindAddress=f"127.0.0.1:{port}", connectionRetryTime=3600.0),
    )
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as stranger:
            yield node, stranger
    finally:
        node.destroy()


def library_frame(message: object) -> bytes:
    """A message as the library's transport frames it."""
    data = zlib.compress(pickle.dumps(message, protocol=2))
    return struct.pack("i", len(data)) + data


def test_unpickles_before_authentication_stock_library_fails() -> None:
    """The first bytes of a stranger are unpickled, and run."""
    executed.clear()
    with listening() as (node, stranger):
        stranger.sendall(library_frame(Evil("stock")))
        for _ in range(TURNS_MAX):
            node.doTick(0.01)
            if executed:
                break
    assert ["stock"] == executed


def test_unpickles_before_authentication_ours(tmp_path: Path) -> None:
    """Neither the stream nor the log unpickles, not even from a member: what does not fit is counted and dropped."""
    executed.clear()
    evil = pickle.dumps(Evil("ours"), protocol=2)
    with pytest.raises(ClusterError):
        FrameDecoder(bytes_max=STRANGER_FRAME_BYTES_MAX).feed(library_frame(Evil("ours")))
    with ours(tmp_path, 3) as cluster:
        leader = cluster.lead()
        cluster.commit(leader, *commands("x", 3))
        cluster.run(0.5)
        follower = min(cluster.founders - {leader})
        last, term = cluster.log_last(follower), cluster.term(follower)
        frames = [evil, b"\x01" + evil, library_frame(Evil("ours"))]
        for kind in (b"\x00", b"\x02"):
            entry = ((kind + evil, last + 1, term),)
            frames.append(wire.encode(wire.Append(term, last + 1, last, term, entry, cluster.now_s)))
        for frame in frames:
            cluster.inject(leader, follower, frame)
        cluster.run(0.2)
        drops = dict(cluster.node(follower).statistics().drops)
        assert (3, 2) == (drops["unreadable frame"], drops["entry refused"])
        cluster.converge()
    assert [] == executed


def test_buffers_without_end_stock_library_fails() -> None:
    """A stranger that announces a gigabyte is listened to: all that it sends is taken and kept."""
    sent = 0
    piece = bytes(64 * 1024)
    with listening() as (node, stranger):
        stranger.setblocking(False)
        stranger.sendall(struct.pack("i", 2**30))
        for _ in range(TURNS_MAX):
            try:
                sent += stranger.send(piece)
            except BlockingIOError:
                node.doTick(0.0)
            if sent >= 8 * 1024 * 1024:
                break
    assert sent >= 8 * 1024 * 1024, "it should have closed the connection, but it went on to take all"


def test_buffers_without_end_ours() -> None:
    """The five bytes that announce it end the connection."""
    decoder = FrameDecoder(bytes_max=STRANGER_FRAME_BYTES_MAX)
    with pytest.raises(ClusterError) as caught:
        decoder.feed(struct.pack(">IB", 2**30, Kind.JOIN_REQUEST))
    assert "malformed-frame" == caught.value.code


def test_strangers_administer_stock_library_fails() -> None:
    """Whoever connects asks for the status, and gets it; the same door changes members."""
    answer = b""
    with listening() as (node, stranger):
        stranger.setblocking(False)
        stranger.sendall(library_frame(["status"]))
        for _ in range(TURNS_MAX):
            node.doTick(0.01)
            try:
                answer += stranger.recv(65_536)
            except BlockingIOError:
                continue
            if len(answer) >= 4 and len(answer) >= 4 + struct.unpack("i", answer[:4])[0]:
                break
    status = pickle.loads(zlib.decompress(answer[4:]))
    assert "0.3.17" == status["version"]


def test_strangers_administer_ours() -> None:
    """A stranger may ask for the authority's certificate and to join with a token, and nothing else."""
    assert {Kind.AUTHORITY_REQUEST, Kind.JOIN_REQUEST} == STRANGERS_MAY_SEND
    with pytest.raises(ClusterError):
        FrameDecoder().feed(library_frame(["status"]))


def test_listens_everywhere_stock_library_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address to bind to it takes all of them, whatever its own address is."""
    hosts: list[str] = []

    class Server:
        def __init__(self, poller: object, host: str, *words: object, **named: object) -> None:
            hosts.append(host)

        def bind(self) -> None:
            """Nothing is bound: the address is all that is asked here."""

        def unbind(self) -> None:
            """Nothing was bound."""

    monkeypatch.setattr(library_transport, "TcpServer", Server)
    SyncObj("127.0.0.1:4321", ["127.0.0.1:1"], SyncObjConf(autoTick=False)).destroy()
    assert ["0.0.0.0"] == hosts


def test_listens_everywhere_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log opens no socket at all: its frames go over the streams, which listen where the node file says."""
    opened: list[object] = []
    monkeypatch.setattr(socket, "socket", lambda *words, **named: opened.append(words))
    with ours(tmp_path, 3) as cluster:
        cluster.commit(cluster.lead(), b"x")
    assert [] == opened

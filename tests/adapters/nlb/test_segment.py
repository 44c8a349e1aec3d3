"""Heartbeat frames on real adapters: network namespaces on one bridge."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from clussvc.model.errors import ClusterError
from clussvc.nlb.heartbeat import ETHERTYPE, frame
from clussvc.nlb.mac import BROADCAST_MAC
from clussvc.nlb.segment.wire import SegmentWire

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and the ip command"
    ),
]

LIMIT_S = 20.0
CLONE_NEWNET = 0x40000000


def ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread is in that network namespace for a while."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/self/task/{threading.get_native_id()}/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


def wait_until(what: Callable[[], bool], why: str) -> None:
    """Look until it is so."""
    end = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < end, f"waited too long until {why}"
        time.sleep(0.01)


@pytest.fixture
def spaces() -> Iterator[list[str]]:
    """Two namespaces, each with an adapter ``eth0`` on one bridge, which has a namespace too."""
    names = [f"clu-seg{number}-{os.getpid()}" for number in range(3)]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("-n", names[0], "link", "add", "br0", "type", "bridge")
        ip("-n", names[0], "link", "set", "br0", "up")
        for number, name in enumerate(names[1:], 1):
            ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"port{number}", "netns", names[0])
            ip("-n", names[0], "link", "set", f"port{number}", "master", "br0", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        yield names
    finally:
        for name in made:
            ip("netns", "delete", name)


def test_the_socket_hears_heartbeats_only(spaces: list[str]) -> None:
    """What others send with our EtherType but no signature, too long, or by this machine itself, never arrives."""
    with inside(spaces[1]), SegmentWire("eth0") as wire:
        pass
    with inside(spaces[1]):
        wire = SegmentWire("eth0")
    with inside(spaces[2]):
        stranger = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        stranger.bind(("eth0", ETHERTYPE))
    with wire, stranger:
        signature = b"\xbf\x01\xde\xc0"
        source = bytes((2, 9, 9, 9, 9, 9))
        assert wire.send(frame(BROADCAST_MAC, bytes(6), signature + b"own"))
        for payload in (b"something else" * 9, b"", signature[:3]):
            stranger.send(frame(BROADCAST_MAC, source, payload))
        stranger.send(frame(BROADCAST_MAC, source, signature + b"the last"))
        heard: list[tuple[bytes, str]] = []

        def listen() -> bool:
            heard.extend(wire.receive())
            return bool(heard)

        wait_until(listen, "a frame arrives")
        assert [(payload.rstrip(b"\0"), mac) for payload, mac in heard] == [
            (signature + b"the last", "02:09:09:09:09:09")
        ]


def test_what_an_adapter_cannot_do(spaces: list[str]) -> None:
    """Is said with the way out, before anything is sent."""
    with inside(spaces[1]):
        with pytest.raises(ClusterError, match="there is no such adapter; 'ip link' lists them"):
            SegmentWire("eth7")
        ip("-n", spaces[1], "link", "set", "eth0", "mtu", "1400")
        with pytest.raises(ClusterError, match=r"The MTU of eth0 is 1400; a load-balancing heartbeat needs 1496"):
            SegmentWire("eth0")
        with pytest.raises(ClusterError, match="is not an Ethernet adapter"):
            SegmentWire("lo")

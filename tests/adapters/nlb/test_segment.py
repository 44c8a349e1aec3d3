"""Heartbeats on real adapters: three hosts in network namespaces on one bridge, and somebody who does not belong
to them."""

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
from ipaddress import IPv4Address

import pytest

from clussvc.model.errors import ClusterError
from clussvc.model.ids import HostId
from clussvc.nlb.convergence import Convergence
from clussvc.nlb.heartbeat import ETHERTYPE, frame
from clussvc.nlb.mac import BROADCAST_MAC
from clussvc.nlb.messages import Control, Note, ResourcesOnline, Status, Table, View
from clussvc.nlb.parameters import ClusterParameters, HostParameters, InterfaceAddress
from clussvc.nlb.segment.driver import SegmentDriver, now_ms
from clussvc.nlb.segment.wire import SegmentWire

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and the ip command"
    ),
]

KEY = b"a key for the hosts of this test"
CLUSTER = IPv4Address("192.0.2.10")
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


class Filter:
    """What the driver tells the filter."""

    def __init__(self) -> None:
        self.table: Table | None = None
        self.until_ms = 0

    def use(self, table: Table) -> None:
        self.table = table

    def keep_until(self, boot_time_ms: int) -> None:
        self.until_ms = boot_time_ms

    def owned(self, host: int) -> int:
        """Buckets of the only rule that the host takes."""
        table = self.table
        return table.slots[0].owners.count(host) if table is not None and table.active else 0


class Host:
    """One host with its driver, in a namespace of its own."""

    def __init__(self, number: int, namespace: str, key: bytes = KEY) -> None:
        self.number = number
        self.namespace = namespace
        self.filter = Filter()
        self.notes: list[Note] = []
        mac = bytes((2, number, 192, 0, 2, 10))
        machine = Convergence(
            cluster=ClusterParameters(address=InterfaceAddress(address=CLUSTER, prefix=24)),
            host=HostParameters(node=f"n{number}", host=HostId(number)),
            host_code=number,
            boot=time.time_ns() // 1_000_000,
            quorum=True,
        )
        with inside(namespace):
            self.wire = SegmentWire("eth0")
            self.driver = SegmentDriver(
                machine=machine,
                wire=self.wire,
                decider=self.filter,
                key=key,
                cluster=CLUSTER.packed,
                source=mac,
                destination=BROADCAST_MAC,
                host_name=f"node-{number}",
                note=self.notes.append,
            )
            self.driver.start()

    def view(self) -> View:
        """As a query shows it."""
        return self.driver.ask(lambda machine: machine.view(now_ms()))

    def stop(self) -> None:
        """Ends in order."""
        self.driver.stop()
        self.driver.close()
        self.wire.close()
        assert self.driver.failure is None


@pytest.fixture
def spaces() -> Iterator[list[str]]:
    """Four namespaces, each with an adapter ``eth0`` on one bridge, which has a namespace too."""
    names = [f"clu-seg{number}-{os.getpid()}" for number in range(5)]
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


def test_hosts_on_a_bridge(spaces: list[str]) -> None:
    """They converge, do as they are told, notice a silent death and a link that is gone, and believe no forger."""
    hosts = {number: Host(number, spaces[number]) for number in (1, 2, 3)}
    try:
        for host in hosts.values():
            assert host.driver.post(ResourcesOnline(names=frozenset()))
        wait_until(lambda: [host.filter.owned(host.number) for host in hosts.values()] == [20, 20, 20], "all share")
        assert hosts[1].view().state == "converged as DEFAULT"
        assert hosts[2].filter.until_ms > now_ms() - 1_000
        wait_until(lambda: {peer.name for peer in hosts[1].view().peers} == {"node-2", "node-3"}, "names are heard")

        assert hosts[3].driver.command(lambda machine, at_ms: machine.control(Control.STOP, at_ms)) is Status.OK
        wait_until(lambda: [hosts[1].filter.owned(1), hosts[2].filter.owned(2)] == [30, 30], "the others share")
        assert hosts[3].driver.command(lambda machine, at_ms: machine.control(Control.START, at_ms)) is Status.OK
        wait_until(lambda: hosts[3].filter.owned(3) == 20, "it has its share again")

        forger = Host(4, spaces[4], key=b"a key that the others do not have")
        wait_until(
            lambda: any("authentication failed" in name for name in hosts[1].view().counters), "forgeries are seen"
        )
        assert forger.view().peers == ()
        forger.stop()
        assert set(hosts[1].view().members) == {1, 2, 3}

        ip("-n", spaces[0], "link", "set", "port2", "down")
        wait_until(lambda: hosts[2].view().state == "media disconnected", "the link is seen to be gone")
        assert hosts[2].filter.owned(2) == 0
        wait_until(lambda: hosts[1].filter.owned(1) == 30, "its share is taken over")
        ip("-n", spaces[0], "link", "set", "port2", "up")
        wait_until(lambda: hosts[2].filter.owned(2) == 20, "it has come back")
    finally:
        for host in hosts.values():
            host.stop()
    assert all(host.filter.table is not None and not host.filter.table.active for host in hosts.values())


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

"""Heartbeats through real sockets on this machine, by the native thread."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from clussvc.comms.heartbeats import HeartbeatNetwork, multicast_group
from clussvc.membership.heartbeat import Heard
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.native import Heartbeats

KEY = b"k" * 16
TIMEOUT_S = 30.0
N1, N2 = NodeId(1), NodeId(2)

CHILD = """
import sys, time
from clussvc.comms.heartbeats import HeartbeatNetwork
from clussvc.native import Heartbeats

def now_ms():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

port, peer_port, vouched_ms = map(int, sys.argv[1:])
native = Heartbeats(1, 1, b"k" * 16)
network = HeartbeatNetwork(
    native=native, cluster_id="c", listen=(("127.0.0.1", port),), on_news=lambda: None
)
network.start()
network.set_peers({2: (("127.0.0.1", peer_port),)}, now_ms())
native.vouch(until_ms=now_ms() + vouched_ms, interval_ms=20, phase=2, attempt=0, incarnation=1, index=1,
             grants_until_ms=0, voters_version=1, at_once=True, probe=False)
values = [hash(str(number)) for number in range(2_000_000)]
sys.stdin.readline()
begin_ms = now_ms()
while now_ms() - begin_ms < 1_000:
    begin_ms = now_ms()
    # One call into C that gives the interpreter's lock away at no point.
    sorted(values)
    values *= 2
print(begin_ms, now_ms(), flush=True)
sys.stdin.readline()
network.stop()
"""


def now_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


class End:
    """One node with its thread and sockets."""

    def __init__(self, node: int, *addresses: str) -> None:
        self.native = Heartbeats(node, 1, KEY)
        self.listen = tuple((address, free_port(address)) for address in addresses or ("127.0.0.1",))
        self.news = 0
        self.network = HeartbeatNetwork(native=self.native, cluster_id="c", listen=self.listen, on_news=self._news)
        self.heard: list[Heard] = []

    def _news(self) -> None:
        self.news += 1

    def vouch(self, for_ms: int = 60_000, *, interval_ms: int = 20, probe: bool = False) -> None:
        self.native.vouch(
            until_ms=now_ms() + for_ms,
            grants_until_ms=0,
            interval_ms=interval_ms,
            phase=2,
            attempt=0,
            incarnation=1,
            index=1,
            voters_version=1,
            at_once=True,
            probe=probe,
        )

    def hears(self, count: int = 1) -> bool:
        self.heard += self.network.take()
        return len(self.heard) >= count


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    one, two = End(1), End(2)
    for end in (one, two):
        end.network.start()
    one.network.set_peers({N2: two.listen}, now_ms())
    two.network.set_peers({N1: one.listen}, now_ms())
    yield one, two
    for end in (one, two):
        end.network.stop()


def test_heartbeats_come_and_go_by_themselves(ends: tuple[End, End]) -> None:
    """After one word of the core; each is acknowledged with the time of its sending."""
    one, two = ends
    one.vouch()
    two.vouch()
    eventually(lambda: one.hears(5) and two.hears(5), "both hear each other")

    last = one.heard[-1]
    assert last.heartbeat.sender == N2
    assert last.acknowledged_ms is not None
    assert last.acknowledged_ms <= last.received_ms <= now_ms()
    assert one.news >= 1


def test_a_core_that_is_silent_is_vouched_for_no_longer(ends: tuple[End, End]) -> None:
    """The thread goes on until then, and says nothing afterwards, though it runs."""
    one, two = ends
    one.vouch(300)
    end_ms = now_ms() + 300
    eventually(lambda: now_ms() > end_ms and two.hears(), "the word runs out")
    sent = one.native.statistics()["composed"]
    eventually(lambda: now_ms() > end_ms + 200, "time passes")

    assert sent >= 2
    assert one.native.statistics()["composed"] == sent


def test_a_probe_is_answered_though_no_heartbeat_is_due(ends: tuple[End, End]) -> None:
    """At once, by the thread."""
    one, two = ends
    two.vouch(interval_ms=10_000)
    eventually(lambda: one.hears(1), "the first heartbeat, which is sent at once")
    one.vouch(interval_ms=10_000, probe=True)

    eventually(lambda: one.hears(2), "the answer")


def test_what_is_not_authentic_is_dropped_and_counted(ends: tuple[End, End]) -> None:
    """At the socket, by reason."""
    one, _ = ends
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for data in (b"rubbish", bytes(100), bytes(5_000)):
            sender.sendto(data, one.listen[0])
    wanted = ("dropped.too_short", "dropped.foreign", "dropped.too_long")
    eventually(lambda: all(one.network.statistics()[name] == 1 for name in wanted), "three are dropped")

    assert one.network.take() == ()


def test_a_target_that_cannot_be_reached_does_not_stop_the_others(ends: tuple[End, End]) -> None:
    """One address is of a family that this node has no socket for, one is refused by the kernel."""
    one, two = ends
    addresses = {NodeId(3): (("fd00::1", 1),), NodeId(4): (("255.255.255.255", 9),), N2: two.listen}
    one.network.set_peers(addresses, now_ms())
    one.vouch()

    eventually(lambda: two.hears(2), "the others are served")
    assert one.network.statistics()["send.failed"] >= 1


def test_each_network_is_served_from_its_own_address() -> None:
    """A target gets the heartbeat from the address that shares its network, whatever the order of the addresses."""
    node = End(1, "127.0.0.1", "127.1.0.1", "127.2.0.1")
    node.network.start()
    try:
        for network in (1, 0, 2):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
                target.settimeout(TIMEOUT_S)
                target.bind((f"127.{network}.0.9", 0))
                node.network.set_peers({N2: (target.getsockname(),)}, now_ms())
                node.vouch()

                assert target.recvfrom(2_000)[1] == node.listen[network]
    finally:
        node.network.stop()


def test_an_address_in_use_is_named() -> None:
    """The way out is in the message."""
    end = End(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(end.listen[0])
        with pytest.raises(ClusterError, match=str(end.listen[0][1])):
            end.network.start()
        end.network.stop()


def test_clusters_have_multicast_addresses_of_their_own() -> None:
    """In the organization's and the site's scope."""
    assert multicast_group("a", "10.0.0.1") != multicast_group("b", "10.0.0.1")
    assert multicast_group("a", "10.0.0.1").startswith("239.19")
    assert multicast_group("a", "fe80::1%eth0").startswith("ff15::")
    assert multicast_group("a", "fe80::1%eth0").endswith("%eth0")


@pytest.mark.skipif(os.geteuid() != 0, reason="making interfaces needs root")
def test_multicast_of_ipv6_keeps_to_the_interface_of_its_address() -> None:
    """Else what comes on one network would be heard on all, and a network that is lost would go unnoticed."""
    near, far = f"m{os.getpid() % 100_000}", f"m{os.getpid() % 100_000}p"
    end = End(1)
    run_ip("link", "add", near, "type", "veth", "peer", "name", far)
    try:
        for name, address in ((near, "2001:db8:1::7"), (far, "2001:db8:2::7")):
            run_ip("address", "add", f"{address}/64", "dev", name, "nodad")
            run_ip("link", "set", name, "up")
        port = end.listen[0][1]
        listen = (("2001:db8:1::7", port), ("2001:db8:2::7", port))
        network = HeartbeatNetwork(native=end.native, cluster_id="c", listen=listen, on_news=lambda: None)
        network.start(realtime=False)
        try:
            group = socket.inet_pton(socket.AF_INET6, multicast_group("c", listen[0][0])).hex()
            with open("/proc/net/igmp6") as members:
                joined = [line.split()[1] for line in members if line.split()[2] == group]
            assert sorted(joined) == [near, far]
            leaves = [each.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF) for each in network._sockets]
            assert leaves == [socket.if_nametoindex(near), socket.if_nametoindex(far)]
        finally:
            network.stop()
    finally:
        run_ip("link", "del", near)


def run_ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=TIMEOUT_S)


# --- another process --------------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[End]:
    end = End(2)
    end.network.start()
    yield end
    end.network.stop()


def child_of(listener: End, vouched_ms: int) -> subprocess.Popen[str]:
    port = free_port()
    listener.network.set_peers({N1: (("127.0.0.1", port),)}, now_ms())
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(port), str(listener.listen[0][1]), str(vouched_ms)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_busy_interpreter_does_not_delay_heartbeats(listener: End) -> None:
    """For more than a second its lock is held without a break; heartbeats go on all the time."""
    child = child_of(listener, 300_000)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        eventually(lambda: listener.hears(2), "the first heartbeats")
        child.stdin.write("go\n")
        child.stdin.flush()
        begin_ms, end_ms = map(int, child.stdout.readline().split())
        listener.hears()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    arrived = [heard.received_ms for heard in listener.heard if begin_ms < heard.received_ms <= end_ms]

    assert end_ms - begin_ms >= 1_000
    # Fifty a second are sent; one that waited for the interpreter would bring none or one.
    assert len(arrived) >= (end_ms - begin_ms) // 100


def test_a_stopped_process_is_silent(listener: End) -> None:
    """The thread stands still with its process."""
    child = child_of(listener, 300_000)
    try:
        eventually(lambda: listener.hears(2), "the first heartbeats")
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        eventually(lambda: len(listener.heard) == (listener.hears(), len(listener.heard))[1], "what was under way")
        stopped_ms = now_ms()
        eventually(lambda: now_ms() > stopped_ms + 300, "time passes")
        listener.hears()
        late = [heard for heard in listener.heard if heard.received_ms > stopped_ms + 50]

        assert late == []
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            cast(socket.SocketIO, pipe).close()


def test_heartbeats_go_to_internal_networks_alone() -> None:
    """By the places of the peer's addresses; and to all of them as long as nobody has said which are internal."""
    node = End(1, "127.0.0.1", "127.1.0.1")
    node.network.start()
    targets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    try:
        for number, target in enumerate(targets):
            target.settimeout(TIMEOUT_S)
            target.bind((f"127.{number}.0.9", 0))
        addresses = tuple(target.getsockname() for target in targets)
        node.network.set_peers({N2: addresses}, now_ms())
        node.vouch()
        assert all(target.recv(2_000) for target in targets)

        node.network.set_peers({N2: addresses}, now_ms(), internal=(1,))
        sent = node.native.statistics()["composed"]
        eventually(lambda: node.native.statistics()["composed"] >= sent + 3, "some more are sent")
        targets[0].setblocking(False)
        with contextlib.suppress(BlockingIOError):
            # What was under way when the targets changed.
            while targets[0].recv(2_000):
                continue
        sent = node.native.statistics()["composed"]
        eventually(lambda: node.native.statistics()["composed"] >= sent + 3, "and some more")
        with pytest.raises(BlockingIOError):
            targets[0].recv(2_000)
        assert targets[1].recv(2_000)
    finally:
        node.network.stop()
        for target in targets:
            target.close()

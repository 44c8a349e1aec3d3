"""Heartbeats through real sockets on this machine."""

from __future__ import annotations

import queue
import socket
import time

import pytest

from clussvc.comms.heartbeat_udp import HeartbeatSocket
from clussvc.comms.wire import Datagram, encode_heartbeat
from clussvc.model.errors import ClusterError

KEY = b"k" * 16


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_heartbeats_arrive_once_and_only_if_authentic() -> None:
    """A good one, the same again, a forged one, rubbish, one that is too long."""
    port = free_port()
    heard: queue.Queue[tuple[Datagram, int]] = queue.Queue()
    receiver = HeartbeatSocket(
        listen=(("127.0.0.1", port),), key=KEY, on_heartbeat=lambda datagram, at_ms: heard.put((datagram, at_ms))
    )
    receiver.start()
    try:
        good = Datagram(sender=2, boot=1, incarnation=1, seq=1, body=b"b")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for data in (
                encode_heartbeat(KEY, good),
                encode_heartbeat(KEY, good),
                encode_heartbeat(b"x" * 16, good),
                b"rubbish",
                bytes(5_000),
                encode_heartbeat(KEY, Datagram(sender=2, boot=1, incarnation=1, seq=2, body=b"c")),
            ):
                sender.sendto(data, ("127.0.0.1", port))
        first, at_ms = heard.get(timeout=10)
        second, _ = heard.get(timeout=10)

        assert (first, second.body) == (good, b"c")
        assert at_ms <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        counts = receiver.statistics()
        assert counts["received"] == 2
        assert [counts[f"dropped.{why}"] for why in ("replayed", "forged", "too_short", "too_long")] == [1, 1, 1, 1]
    finally:
        receiver.stop()


def test_a_target_that_cannot_be_reached_does_not_stop_the_others() -> None:
    """One address is of a family that this node has no socket for."""
    ports = free_port(), free_port()
    heard: queue.Queue[Datagram] = queue.Queue()
    one = HeartbeatSocket(listen=(("127.0.0.1", ports[0]),), key=KEY, on_heartbeat=lambda *_: None)
    two = HeartbeatSocket(listen=(("127.0.0.1", ports[1]),), key=KEY, on_heartbeat=lambda d, _: heard.put(d))
    one.start()
    two.start()
    try:
        one.send(Datagram(sender=1, boot=1, incarnation=1, seq=1, body=b""), (("fd00::1", 1), ("127.0.0.1", ports[1])))

        assert heard.get(timeout=10).sender == 1
        assert one.statistics()["send.failed"] == 1
    finally:
        one.stop()
        two.stop()


def test_each_network_is_served_from_its_own_address() -> None:
    """A target gets the heartbeat from the address that shares its network, whatever the order of the addresses."""
    port = free_port()
    node = HeartbeatSocket(
        listen=(("127.0.0.1", port), ("127.1.0.1", port), ("127.2.0.1", port)), key=KEY, on_heartbeat=lambda *_: None
    )
    node.start()
    try:
        for network in (1, 0, 2):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
                target.settimeout(10)
                target.bind((f"127.{network}.0.9", 0))
                node.send(Datagram(sender=1, boot=1, incarnation=1, seq=1, body=b""), (target.getsockname(),))

                assert target.recvfrom(2_000)[1] == (f"127.{network}.0.1", port)
    finally:
        node.stop()


def test_an_address_in_use_is_named() -> None:
    """The way out is in the message."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        receiver = HeartbeatSocket(listen=(("127.0.0.1", port),), key=KEY, on_heartbeat=lambda *_: None)
        with pytest.raises(ClusterError, match=str(port)):
            receiver.start()
        receiver.stop()

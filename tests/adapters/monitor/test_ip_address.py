"""IP Address on real interfaces: a monitor in one network namespace, a neighbour in another, a cable between them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clussvc.model.monitoring import DeadmanFired, MonitorDied, NetworkHealed, TakeOffline
from clussvc.model.states import ResourceState
from clussvc.resources.types.arp import ANNOUNCEMENT_DELAYS_S
from tests.adapters.monitor.conftest import COMMAND, Driver, spec, wait_until

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and the ip command"
    ),
]

VIP = "10.77.0.100"


def ip(*words: str) -> str:
    """Run ip(8)."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20).stdout


@dataclass
class Cable:
    """Two namespaces: ``here`` has 10.77.0.1 and the monitor, ``there`` has 10.77.0.2."""

    here: str
    there: str
    driver: Driver

    def has_address(self) -> bool:
        """Whether the cluster's address is on the node."""
        return f"inet {VIP}/24" in ip("-n", self.here, "address", "show", "dev", "eth0")


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    """The cable, with a monitor that runs and holds a lease."""
    here, there = f"clu-a-{os.getpid()}", f"clu-b-{os.getpid()}"
    made = []
    driver = None
    try:
        for name in (here, there):
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", "eth0", "netns", here, "type", "veth", "peer", "name", "eth0", "netns", there)
        for name, address in ((here, "10.77.0.1/24"), (there, "10.77.0.2/24")):
            ip("-n", name, "address", "add", address, "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        wait_until(lambda: "state UP" in ip("-n", here, "link", "show", "eth0"), "the link is up")
        driver = Driver(tmp_path / "run", command=("ip", "netns", "exec", here, *COMMAND))
        driver.start()
        yield Cable(here=here, there=there, driver=driver)
        driver.finish()
        driver = None
    finally:
        if driver is not None:
            driver.host.stop(15_000)
        for name in made:
            ip("netns", "delete", name)


ADDRESS = spec("vip", "IP Address", Address=VIP, SubnetMask="255.255.255.0", looks_alive_interval_ms=0)


def test_address_comes_and_goes_and_neighbours_learn(cable: Cable) -> None:
    """Online adds the address to the right interface, the neighbour's table follows, offline takes it away."""
    ip("-n", cable.there, "neigh", "replace", VIP, "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")
    hardware = ip("-n", cable.here, "-br", "link", "show", "eth0").split()[2]

    report = cable.driver.online(ADDRESS)

    assert ResourceState.ONLINE is report.state, report
    assert cable.has_address()
    assert "secondary" in ip("-n", cable.here, "address", "show", "to", VIP)
    wait_until(lambda: hardware in ip("-n", cable.there, "neigh", "show", VIP), "the neighbour has learnt")

    cable.driver.send(TakeOffline(resource=ADDRESS.resource, epoch=1))
    assert "" == cable.driver.wait_state(ADDRESS, ResourceState.OFFLINE).detail
    assert not cable.has_address()
    assert not list((cable.driver.folder / "state").iterdir())


def test_duplicate_on_the_network_is_refused(cable: Cable) -> None:
    """Another host has the address: online fails with its hardware address, and succeeds when the host gives it up."""
    ip("-n", cable.there, "address", "add", f"{VIP}/24", "dev", "eth0")
    other = ip("-n", cable.there, "-br", "link", "show", "eth0").split()[2]

    failed = cable.driver.online(ADDRESS)

    assert ResourceState.FAILED is failed.state
    assert f"used by another host on eth0 (hardware address {other})" in failed.detail
    assert not cable.has_address()
    ip("-n", cable.there, "address", "delete", f"{VIP}/24", "dev", "eth0")
    assert ResourceState.ONLINE is cable.driver.online(ADDRESS).state


def test_a_host_that_claims_the_address_later_is_noticed(cable: Cable) -> None:
    """It answered none of the first probes. The address is asked for again while it is announced; the first answer is
    defended against, the second one is a failure with the hardware address."""
    assert ResourceState.ONLINE is cable.driver.online(ADDRESS).state
    ip("-n", cable.there, "address", "add", f"{VIP}/24", "dev", "eth0")
    other = ip("-n", cable.there, "-br", "link", "show", "eth0").split()[2]

    failed = cable.driver.wait_state(ADDRESS, ResourceState.FAILED)

    assert f"used by another host on eth0 (hardware address {other})" in failed.detail


def test_address_of_this_host_is_refused(cable: Cable) -> None:
    """An address that the administrator configured is not taken over, and so never taken away."""
    ip("-n", cable.here, "address", "add", f"{VIP}/24", "dev", "eth0")

    assert "configured on eth0" in cable.driver.online(ADDRESS).detail
    assert cable.has_address()


COUNT_ANNOUNCEMENTS = f"""
import socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
wire.bind(("eth0", 0x0806))
vip = socket.inet_aton("{VIP}")
print("listening", flush=True)
while True:
    frame = wire.recv(2048)
    if frame[28:32] == vip and frame[38:42] == vip:
        print("announced", flush=True)
"""


def test_an_address_is_announced_again_when_the_network_has_healed(cable: Cable) -> None:
    """As often as when it came online, which is over by then; a second word while it is at it changes nothing."""
    series = 2 * len(ANNOUNCEMENT_DELAYS_S)
    command = ["ip", "netns", "exec", cable.there, sys.executable, "-c", COUNT_ANNOUNCEMENTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as neighbour:
        try:
            assert neighbour.stdout is not None
            assert neighbour.stdout.readline() == "listening\n"
            assert ResourceState.ONLINE is cable.driver.online(ADDRESS).state
            assert [neighbour.stdout.readline() for _ in range(series)] == ["announced\n"] * series
            cable.driver.send(NetworkHealed())
            cable.driver.send(NetworkHealed())
            assert [neighbour.stdout.readline() for _ in range(series)] == ["announced\n"] * series
            cable.driver.send(TakeOffline(resource=ADDRESS.resource, epoch=1))
            cable.driver.wait_state(ADDRESS, ResourceState.OFFLINE)
        finally:
            neighbour.kill()
        assert neighbour.stdout.read() == ""


def test_link_down_is_a_failure_at_once(cable: Cable) -> None:
    """Without any poll due, a cable that is cut fails the address."""
    assert ResourceState.ONLINE is cable.driver.online(ADDRESS).state
    ip("-n", cable.there, "link", "set", "eth0", "down")
    assert "down or has lost its carrier" in cable.driver.wait_state(ADDRESS, ResourceState.FAILED).detail


def test_removed_address_is_a_failure_at_once(cable: Cable) -> None:
    """Somebody deletes the address behind the cluster's back."""
    assert ResourceState.ONLINE is cable.driver.online(ADDRESS).state
    ip("-n", cable.here, "address", "delete", f"{VIP}/24", "dev", "eth0")
    assert "removed from eth0" in cable.driver.wait_state(ADDRESS, ResourceState.FAILED).detail


def test_wrong_interface_is_named(cable: Cable) -> None:
    """The error lists what there is."""
    wrong = spec("vip", "IP Address", Address=VIP, SubnetMask="24", Network="eth7")
    assert "no network interface 'eth7'; it has: lo, eth0" in cable.driver.online(wrong).detail


def test_deadman_takes_the_address_away(cable: Cable) -> None:
    """The lease ends: the address is gone before the deadman reports."""
    assert ResourceState.ONLINE is cable.driver.online(ADDRESS).state
    cable.driver.starve()
    assert () == cable.driver.wait(DeadmanFired).left
    assert not cable.has_address()


def test_killed_monitor_leaves_a_trail(cable: Cable) -> None:
    """kill -9 of the monitor leaves the address; the next monitor takes it away when told to terminate everything."""
    assert ResourceState.ONLINE is cable.driver.online(ADDRESS).state
    pid = cable.driver.host.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    cable.driver.wait(MonitorDied)
    assert cable.has_address()

    cable.driver.start()

    assert not cable.has_address()
    assert ResourceState.ONLINE is cable.driver.online(ADDRESS, epoch=2).state

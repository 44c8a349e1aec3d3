"""The watcher of interfaces, and the one who asks ping targets, on networks made for the test."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from clussvc.comms.interfaces import InterfaceWatcher
from clussvc.comms.ping import REOPEN_S, SILENCE_S, Pinger
from clussvc.events import InterfacesSeen
from clussvc.membership.connectivity import LinkSeen
from clussvc.model.ids import NodeId

TIMEOUT_S = 10.0
NAME = f"w{os.getpid() % 100_000}"
ADDRESS = "192.0.2.77"
ADDRESS6 = "2001:db8:77::7"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making interfaces needs root")


def eventually(predicate: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not predicate():
        assert time.monotonic() < deadline_s, f"not within {TIMEOUT_S} s: {what}"
        time.sleep(0.01)


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True, timeout=TIMEOUT_S)


class Watched:
    """A watcher, and what it has told."""

    def __init__(self, *addresses: str) -> None:
        self.told: list[InterfacesSeen] = []
        self.ages: dict[int, list[int]] = {}
        self.watcher = InterfaceWatcher(
            addresses=addresses, ages=lambda: dict(self.ages), tell=self.told.append, lost_ms=500
        )

    def last(self) -> InterfacesSeen | None:
        return self.told[-1] if self.told else None

    def link(self) -> LinkSeen | None:
        seen = self.last()
        return seen.links.get(0) if seen else None


@pytest.fixture
def interface() -> Iterator[str]:
    """One end of a cable, with an address of each family; the other end is up as well."""
    ip("link", "add", NAME, "type", "veth", "peer", "name", f"{NAME}p")
    try:
        ip("address", "add", f"{ADDRESS}/25", "dev", NAME)
        ip("address", "add", f"{ADDRESS6}/71", "dev", NAME, "nodad")
        ip("link", "set", NAME, "up")
        ip("link", "set", f"{NAME}p", "up")
        yield NAME
    finally:
        ip("link", "del", NAME, check=False)


@needs_root
@pytest.mark.parametrize(("address", "prefix"), [(ADDRESS, 25), (ADDRESS6, 71)], ids=["IPv4", "IPv6"])
def test_links_and_addresses_are_told_when_they_change(interface: str, address: str, prefix: int) -> None:
    watched = Watched(address)
    watched.watcher.start()
    try:
        eventually(lambda: watched.link() == LinkSeen(prefix=prefix, adapter=interface), "the link works")
        ip("link", "set", f"{interface}p", "down")
        eventually(lambda: (link := watched.link()) and "has no carrier" in link.trouble, "the cable is out")
        ip("link", "set", f"{interface}p", "up")
        eventually(lambda: (link := watched.link()) and not link.trouble, "the cable is in")
        ip("address", "del", f"{address}/{prefix}", "dev", interface)
        eventually(lambda: (link := watched.link()) and "was removed" in link.trouble, "the address is gone")
        link = watched.link()
        assert link is not None
        assert link.prefix == prefix, "its subnet is still known"
        ip("address", "add", f"{address}/{prefix}", "dev", interface)
        eventually(lambda: (link := watched.link()) and not link.trouble, "the address is back")
    finally:
        watched.watcher.stop()


@needs_root
def test_a_link_that_is_switched_off_takes_its_ipv6_addresses_along(interface: str) -> None:
    """The kernel does not give them back; that is told as long as it is so."""
    watched = Watched(ADDRESS6)
    watched.watcher.start()
    try:
        eventually(lambda: watched.link() == LinkSeen(prefix=71, adapter=interface), "the link works")
        ip("link", "set", interface, "down")
        eventually(lambda: (link := watched.link()) and link.trouble, "it is off")
        ip("link", "set", interface, "up")
        eventually(lambda: (link := watched.link()) and "was removed" in link.trouble, "the address is gone")
        ip("address", "add", f"{ADDRESS6}/71", "dev", interface, "nodad")
        eventually(lambda: (link := watched.link()) and not link.trouble, "the address is back")
    finally:
        watched.watcher.stop()


@needs_root
def test_an_address_that_another_host_has_is_a_trouble(interface: str) -> None:
    """The kernel asks the network first, and does not let such an IPv6 address be used."""
    ip("address", "add", "2001:db8:77::8/71", "dev", f"{interface}p", "nodad")
    ip("address", "add", "2001:db8:77::8/71", "dev", interface)
    # Both hosts are this one here, so the interface is named.
    watched = Watched(f"2001:db8:77::8%{interface}")
    watched.watcher.start()
    try:
        expected = f"another host of the network has the address 2001:db8:77::8%{interface}"
        eventually(lambda: (link := watched.link()) and link.trouble == expected, "the other one is noticed")
    finally:
        watched.watcher.stop()


@needs_root
def test_a_link_local_address_is_that_of_its_interface(interface: str) -> None:
    """It may be the same everywhere."""
    for end in (interface, f"{interface}p"):
        ip("address", "add", "fe80::77/64", "dev", end, "nodad")
    watched = Watched(f"fe80::77%{interface}", f"fe80::77%{interface}p", "fe80::77%lo")
    watched.watcher.start()
    try:
        expected = {0: LinkSeen(prefix=64, adapter=interface), 1: LinkSeen(prefix=64, adapter=f"{interface}p")}
        eventually(lambda: (seen := watched.last()) and seen.links == expected, "each is found")
        ip("address", "del", "fe80::77/64", "dev", interface)
        eventually(lambda: (link := watched.link()) and "was removed" in link.trouble, "the address is gone")
        seen = watched.last()
        assert seen is not None and seen.links[1] == expected[1]
    finally:
        watched.watcher.stop()


def test_who_is_heard_where_is_told_when_it_changes() -> None:
    """Addresses of which the kernel says nothing are taken to work."""
    watched = Watched("127.0.0.1", "198.51.100.1", "2001:db8::1")
    watched.ages = {2: [10, 499, -1, -1], 3: [501, 0, 0, 0]}
    watched.watcher.start()
    try:
        expected = frozenset({(NodeId(2), 0), (NodeId(2), 1), (NodeId(3), 1), (NodeId(3), 2)})
        eventually(lambda: (seen := watched.last()) and seen.heard == expected, "ages are looked at")
        assert watched.told == [InterfacesSeen(links={}, heard=expected)]
        watched.watcher.use_timing(600)
        eventually(lambda: (seen := watched.last()) and (NodeId(3), 0) in seen.heard, "the limit is another one")
        assert len(watched.told) == 2, "only changes are told"
    finally:
        watched.watcher.stop()


def test_a_watcher_that_was_never_started_can_be_stopped() -> None:
    Watched("127.0.0.1").watcher.stop()


# --- ping targets -----------------------------------------------------------------------------------------------------


@needs_root
def test_a_target_that_answers_keeps_its_network() -> None:
    """On a clock that the test moves: questions go out once in a second, answers come at once on this machine."""
    pinger = Pinger()
    wanted = {
        0: ("127.0.0.1", "lo", ("127.0.0.2",)),
        1: ("127.0.0.1", "lo", ("127.0.0.3", "192.0.2.200")),
        2: ("::1", "lo", ("0:0::1", "2001:db8::99")),
    }
    try:
        for second in range(8):
            pinger.step(wanted, float(second))
            time.sleep(0.02)
            pinger.step(wanted, second + 0.5)
            assert pinger.silent(second + 0.5) == {}
        assert len(pinger.filenos()) == 3
    finally:
        pinger.close()


@needs_root
@pytest.mark.parametrize(
    ("address", "targets"),
    [(ADDRESS, ("192.0.2.100", "192.0.2.101")), (ADDRESS6, ("2001:db8:77::100", "fe80::100"))],
    ids=["IPv4", "IPv6"],
)
def test_targets_that_do_not_answer_are_named(interface: str, address: str, targets: tuple[str, ...]) -> None:
    pinger = Pinger()
    wanted = {0: (address, interface, targets)}
    try:
        for tenth in range(int(SILENCE_S * 10)):
            pinger.step(wanted, tenth / 10)
            assert pinger.silent(tenth / 10) == {}
        assert pinger.silent(SILENCE_S) == {0: targets}
        pinger.step({}, SILENCE_S)
        assert pinger.silent(SILENCE_S) == {}
        assert pinger.filenos() == []
    finally:
        pinger.close()


@needs_root
def test_the_watcher_says_that_no_target_answers(interface: str) -> None:
    watched = Watched(ADDRESS)
    watched.watcher.ping({0: ("192.0.2.100",)})
    watched.watcher.start()
    try:
        eventually(
            lambda: (link := watched.link()) and link.trouble == "no ping target answers (192.0.2.100)",
            "nobody answers",
        )
        watched.watcher.ping({})
        eventually(lambda: (link := watched.link()) and not link.trouble, "nobody is asked any more")
    finally:
        watched.watcher.stop()


def test_nothing_is_said_where_nobody_can_ask() -> None:
    """An address that this machine does not have."""
    pinger = Pinger()
    for second in range(10):
        pinger.step({0: ("203.0.113.9", "", ("203.0.113.1",))}, float(second))
    assert pinger.silent(10.0) == {}
    pinger.close()


@needs_root
def test_a_target_beyond_a_cable_answers_by_ipv6(interface: str) -> None:
    """A link-local one too, which needs to be told the interface; and only to who asks through that interface."""
    ip("address", "add", "fe80::77/64", "dev", f"{interface}p", "nodad")
    pinger = Pinger()
    wanted = {0: (ADDRESS6, interface, ("fe80::77",)), 1: (ADDRESS6, f"{interface}p", ("2001:db8:77::100",))}
    try:
        for tenth in range(int(SILENCE_S * 10) + 20):
            pinger.step(wanted, tenth / 10)
            time.sleep(0.005)
        assert pinger.silent(SILENCE_S + 2) == {1: ("2001:db8:77::100",)}
    finally:
        pinger.close()


@needs_root
def test_targets_of_the_other_family_are_not_asked(interface: str) -> None:
    """Nothing is known of them from this address, and so nothing is said."""
    pinger = Pinger()
    for second in range(10):
        pinger.step({0: (ADDRESS6, interface, ("192.0.2.100",)), 1: (ADDRESS, interface, ("::1",))}, float(second))
    assert pinger.silent(10.0) == {}
    assert pinger.filenos() == []
    pinger.close()


@needs_root
def test_asking_begins_when_the_address_can_be_used(interface: str) -> None:
    """An IPv6 address cannot be, for a moment after its link has come up."""
    pinger = Pinger()
    late = "2001:db8:77::9"
    wanted = {0: (late, interface, ("2001:db8:77::100",))}
    pinger.step(wanted, 0.0)
    assert pinger.filenos() == []
    ip("address", "add", f"{late}/71", "dev", interface, "nodad")
    pinger.step(wanted, REOPEN_S - 1)
    assert pinger.filenos() == [], "not at every step"
    pinger.step(wanted, REOPEN_S)
    assert len(pinger.filenos()) == 1
    pinger.close()

"""The adapter of a host, on a real kernel: addresses that expire, the hardware filter, groups, neighbours."""

from __future__ import annotations

import os
import select
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from clussvc.model.errors import ClusterError
from clussvc.nlb.card import card
from clussvc.nlb.card.answering import Answerer
from clussvc.nlb.mac import mac_text
from tests.adapters.nlb.cable import HERE_MAC, Cable

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and the ip command"
    ),
]

VIP, VIP6 = IPv4Address("192.0.2.10"), IPv6Address("2001:db8::10")
MAC = bytes.fromhex("02bfc000020a")
GROUP = IPv4Address("239.255.2.10")


@pytest.fixture
def cable() -> Iterator[Cable]:
    with Cable() as made:
        yield made


def wait_until(predicate: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 20
    while not predicate():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def test_virtual_addresses_stay_only_while_they_are_held(cable: Cable) -> None:
    """They are on the loopback interface, may be held again, and go by being dropped or by themselves."""
    vips = (VIP, VIP6)
    cable.here.call(card.hold_addresses, vips)
    cable.here.call(card.hold_addresses, vips)

    shown = cable.ip("address", "show", "dev", "lo")
    assert f"inet {VIP}/32" in shown
    assert f"inet6 {VIP6}/128" in shown
    cable.here.call(card.drop_addresses, (VIP,))
    cable.here.call(card.drop_addresses, (VIP,))
    assert str(VIP) not in cable.ip("address", "show", "dev", "lo")
    wait_until(lambda: str(VIP6) not in cable.ip("address", "show", "dev", "lo"), "nobody holds it, and it stays")


def test_settings_are_read_and_written(cable: Cable) -> None:
    """What was there can be put back; what this kernel does not have is passed over."""
    wanted = card.settings_for("eth0", multicast=True)
    before = cable.here.call(card.read_settings, wanted)
    cable.here.call(card.write_settings, wanted | {"ipv4/conf/eth0/no_such_setting": "1"})

    assert wanted == cable.here.call(card.read_settings, wanted)
    cable.here.call(card.write_settings, before)
    assert before == cable.here.call(card.read_settings, wanted)


def test_the_adapter_is_found_by_name_and_by_address(cable: Cable) -> None:
    """And what cannot be one is refused with its reason."""
    assert "eth0" == cable.here.call(card.find_link, "", VIP).name
    assert HERE_MAC == cable.here.call(card.find_link, "eth0", VIP6).hardware.hex(":")
    for name, address, code in (("eth9", VIP, "no-interface"), ("", IPv4Address("203.0.113.1"), "no-interface"),
                                ("lo", VIP, "link-unfit")):  # fmt: skip
        with pytest.raises(ClusterError) as problem:
            cable.here.call(card.find_link, name, address)
        assert code == problem.value.code
    cable.ip("link", "set", "eth0", "down")
    with pytest.raises(ClusterError) as problem:
        cable.here.call(card.find_link, "eth0", VIP)
    assert "link-down" == problem.value.code


def test_memberships_live_as_long_as_their_sockets(cable: Cable) -> None:
    """The link address of the cluster is in the filter of the adapter, and the group is joined; then neither is."""
    link = cable.here.call(card.find_link, "eth0", VIP)
    memberships = cable.here.call(card.Memberships, link, bytes.fromhex("01005e7f020b"), (VIP6,))
    group = cable.here.call(card.Group, link, GROUP)

    listed = cable.ip("maddress", "show", "dev", "eth0")
    assert "01:00:5e:7f:02:0b" in listed
    assert "33:33:ff:00:00:10" in listed
    assert str(GROUP) in listed
    memberships.close()
    group.close()
    wait_until(lambda: "01:00:5e:7f:02:0b" not in cable.ip("maddress", "show", "dev", "eth0"), "it has not left")
    assert str(GROUP) not in cable.ip("maddress", "show", "dev", "eth0")


def test_neighbours_learn_the_address_of_the_cluster(cable: Cable) -> None:
    """By ARP and by neighbour discovery, while the kernel itself keeps silent about addresses of the loopback."""
    link = cable.here.call(card.find_link, "eth0", VIP)
    cable.here.call(card.write_settings, card.settings_for("eth0", multicast=False))
    cable.here.call(card.hold_addresses, (VIP, VIP6))
    answerer = cable.here.call(Answerer, link, (VIP, VIP6), MAC)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            if select.select([answerer], [], [], 0.05)[0]:
                answerer.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        # What it says of other addresses is left to the kernel.
        own = IPv4Address("192.0.2.1")
        for asked, hardware in ((VIP, mac_text(MAC, ":")), (VIP6, mac_text(MAC, ":")), (own, HERE_MAC)):
            family = socket.AF_INET if asked.version == 4 else socket.AF_INET6
            asking = cable.there.call(socket.socket, family, socket.SOCK_DGRAM)
            asking.sendto(b"x", (str(asked), 9))
            wait_until(
                lambda asked=asked, hardware=hardware: (
                    hardware  # type: ignore[misc]
                    in cable.ip("neigh", "show", str(asked), on=cable.there)
                ),
                f"the neighbour has not learnt {asked}: {cable.ip('neigh', 'show', on=cable.there)}",
            )
            asking.close()
        assert answerer.answered >= 2
    finally:
        stop.set()
        thread.join()
        answerer.close()

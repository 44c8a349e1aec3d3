"""Link addresses, against the published examples."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from clussvc.model.ids import HostId
from clussvc.nlb.mac import (
    BROADCAST_MAC,
    OperationMode,
    cluster_mac,
    heartbeat_mac,
    igmp_group,
    mac_text,
    masked_source_mac,
    parse_mac,
)


@pytest.mark.parametrize(
    ("address", "mode", "mac"),
    [
        ("192.0.2.10", OperationMode.UNICAST, "02-bf-c0-00-02-0a"),
        ("192.0.2.10", OperationMode.MULTICAST, "03-bf-c0-00-02-0a"),
        ("192.0.2.10", OperationMode.IGMP, "01-00-5e-7f-02-0a"),
        ("2001:4898:e8:3018:bd82:dde1:6615:7b0", OperationMode.UNICAST, "02-bf-fb-7e-a2-d1"),
    ],
)
def test_the_cluster_address(address: str, mode: OperationMode, mac: str) -> None:
    """Derived alike on every host; of an IPv6 address the four words are combined."""
    assert mac == mac_text(cluster_mac(mode, ip_address(address)))


def test_the_others() -> None:
    """The masked source of a host, the group, and where heartbeats go."""
    address = IPv4Address("192.0.2.10")

    assert mac_text(masked_source_mac(HostId(32), address), ":") == "02:20:c0:00:02:0a"
    assert igmp_group(address) == IPv4Address("239.255.2.10")
    assert heartbeat_mac(OperationMode.UNICAST, address) == BROADCAST_MAC
    assert heartbeat_mac(OperationMode.IGMP, address) == cluster_mac(OperationMode.IGMP, address)


def test_the_group_maps_to_the_cluster_address() -> None:
    """RFC 1112: 01-00-5e and the low 23 bits of the group."""
    address = IPv4Address("198.51.100.7")
    low = int(igmp_group(address)) & 0x7FFFFF

    assert cluster_mac(OperationMode.IGMP, address) == bytes.fromhex("01005e") + low.to_bytes(3, "big")


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("02-BF-c0-00-02-0a", "02bfc000020a"),
        (" 02:bf:c0:00:02:0a ", "02bfc000020a"),
        ("02-bf-c0-00-02", None),
        ("02-bf-c0-00-02-zz", None),
        ("2-bf-c0-00-02-0a0", None),
    ],
)
def test_reading_a_link_address(text: str, mac: str | None) -> None:
    """With dashes or colons."""
    assert parse_mac(text) == (None if mac is None else bytes.fromhex(mac))

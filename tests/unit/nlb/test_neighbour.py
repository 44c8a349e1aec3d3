"""Answers to questions for the link address: who asks, for what, and what malformed questions lead to."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from clussvc.nlb.neighbour import announcement, answer, solicited_node_mac

VIP = IPv4Address("192.0.2.10")
VIP6 = IPv6Address("2001:db8::10")
VIPS = (VIP, VIP6)
CLUSTER = bytes.fromhex("02bfc000020a")
OWN = bytes.fromhex("525400000001")
ASKER = bytes.fromhex("525400000099")
BROADCAST = b"\xff" * 6


def arp(target: IPv4Address = VIP, sender: str = "192.0.2.99", *, operation: int = 1, source: bytes = ASKER) -> bytes:
    body = struct.pack(
        "!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, source, IPv4Address(sender).packed, bytes(6), target.packed
    )
    return BROADCAST + source + b"\x08\x06" + body


def summed(source: bytes, to: bytes, message: bytes) -> int:
    """The Internet checksum, the slow and plain way."""
    data = source + to + len(message).to_bytes(4, "big") + (58).to_bytes(4, "big") + message
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)


def solicitation(target: IPv6Address = VIP6, sender: str = "2001:db8::99", *, hops: int = 255) -> bytes:
    source = IPv6Address(sender).packed
    to = b"\xff\x02" + bytes(9) + b"\x01\xff" + target.packed[13:]
    message = struct.pack("!BBHI16sBB6s", 135, 0, 0, 0, target.packed, 1, 1, ASKER)
    message = message[:2] + struct.pack("!H", summed(source, to, message)) + message[4:]
    header = struct.pack("!IHBB16s16s", 6 << 28, len(message), 58, hops, source, to)
    return solicited_node_mac(target) + ASKER + b"\x86\xdd" + header + message


def test_an_arp_question_is_answered_from_the_own_address_with_that_of_the_cluster() -> None:
    """The frame is the host's, what it says is the cluster's: so no switch learns the latter."""
    reply = answer(arp(), VIPS, CLUSTER, OWN)

    assert reply is not None
    assert (ASKER, OWN, b"\x08\x06") == (reply[:6], reply[6:12], reply[12:14])
    *_, operation, sender_mac, sender, target_mac, target = struct.unpack("!HHBBH6s4s6s4s", reply[14:])
    assert (2, CLUSTER, VIP.packed) == (operation, sender_mac, sender)
    assert (ASKER, IPv4Address("192.0.2.99").packed) == (target_mac, target)


def test_a_probe_for_a_duplicate_is_answered() -> None:
    """Whoever wants to take the address learns that it is taken."""
    assert answer(arp(sender="0.0.0.0"), VIPS, CLUSTER, OWN) is not None
    assert answer(solicitation(sender="::"), VIPS, CLUSTER, OWN) is not None


def test_what_is_not_a_question_for_a_virtual_address() -> None:
    """Replies, other addresses, announcements, the own frames, packets that were routed."""
    assert answer(arp(operation=2), VIPS, CLUSTER, OWN) is None
    assert answer(arp(IPv4Address("192.0.2.11")), VIPS, CLUSTER, OWN) is None
    assert answer(arp(sender=str(VIP)), VIPS, CLUSTER, OWN) is None
    assert answer(arp(source=OWN), VIPS, CLUSTER, OWN) is None
    assert answer(solicitation(IPv6Address("2001:db8::11")), VIPS, CLUSTER, OWN) is None
    assert answer(solicitation(hops=64), VIPS, CLUSTER, OWN) is None
    assert answer(b"", VIPS, CLUSTER, OWN) is None


def test_a_solicitation_is_answered() -> None:
    """To the asker, solicited, with the link address of the cluster and a right checksum."""
    reply = answer(solicitation(), VIPS, CLUSTER, OWN)

    assert reply is not None
    assert (ASKER, OWN) == (reply[:6], reply[6:12])
    source, to, message = reply[22:38], reply[38:54], reply[54:]
    assert (VIP6.packed, IPv6Address("2001:db8::99").packed) == (source, to)
    assert (136, 0x60, VIP6.packed, b"\x02\x01" + CLUSTER) == (message[0], message[4], message[8:24], message[24:])
    without = message[:2] + b"\0\0" + message[4:]
    assert summed(source, to, without) == int.from_bytes(message[2:4], "big")


def test_a_wrong_checksum_is_not_answered() -> None:
    """A damaged question might be for another address."""
    damaged = bytearray(solicitation())
    damaged[-1] ^= 1

    assert answer(bytes(damaged), VIPS, CLUSTER, OWN) is None


def test_announcements_name_the_cluster() -> None:
    """They are not taken for questions by the other hosts."""
    for vip in VIPS:
        frame = announcement(vip, CLUSTER, OWN)
        assert OWN == frame[6:12]
        assert CLUSTER in frame[14:]
        assert answer(frame, VIPS, CLUSTER, ASKER) is None


@given(st.binary(max_size=120), st.sampled_from([arp(), solicitation()]), st.integers(0, 90))
def test_no_frame_breaks_it(noise: bytes, whole: bytes, cut: int) -> None:
    """Truncated and random frames lead to no answer or to one of the usual length, never to an exception."""
    for frame in (noise, whole[:cut], whole[:cut] + noise, whole[:12] + noise):
        reply = answer(frame, VIPS, CLUSTER, OWN)
        assert reply is None or len(reply) in (42, 86)

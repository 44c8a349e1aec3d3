"""Words that mean a packet, and its frame."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from clussvc.nlb.frames import PROTOCOLS, Question, read_question

MAC = bytes.fromhex("02bfc000020a")


def test_a_tcp_packet() -> None:
    """Addresses, ports and flags stand where they belong."""
    question = read_question("TCP", "198.51.100.7:40001", "192.0.2.10:80", "SYN")

    assert isinstance(question, Question)
    frame = question.frame(MAC)
    assert (MAC, b"\x08\x00", 6) == (frame[:6], frame[12:14], frame[23])
    assert (ip_address("198.51.100.7").packed, ip_address("192.0.2.10").packed) == (frame[26:30], frame[30:34])
    assert (40001, 80, 2) == (int.from_bytes(frame[34:36], "big"), int.from_bytes(frame[36:38], "big"), frame[47])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_in_both_families(protocol: str) -> None:
    """The length of the header fits the frame."""
    for client, server in (("198.51.100.7:1", "192.0.2.10:2"), ("[2001:db8::7]:1", "[2001:db8::10]:2")):
        question = read_question(protocol, client, server, "")
        assert isinstance(question, Question)
        frame = question.frame(MAC)
        if question.server.version == 4:
            assert len(frame) == 14 + int.from_bytes(frame[16:18], "big")
        else:
            assert len(frame) == 14 + 40 + int.from_bytes(frame[18:20], "big")


def test_ports_may_be_missing_where_there_are_none() -> None:
    """Also of an IPv6 address without brackets."""
    assert isinstance(read_question("icmp", "2001:db8::7", "2001:db8::10", ""), Question)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sctp", "192.0.2.1:1", "192.0.2.10:1", ""), "'sctp' is not a protocol"),
        (("tcp", "192.0.2.1", "192.0.2.10:1", ""), "'192.0.2.1' needs a port"),
        (("tcp", "192.0.2.1:99999", "192.0.2.10:1", ""), "needs a port"),
        (("tcp", "nonsense:1", "192.0.2.10:1", ""), "'nonsense:1' is not an address"),
        (("tcp", "192.0.2.1:1", "[2001:db8::10]:1", ""), "different families"),
        (("udp", "192.0.2.1:1", "192.0.2.10:1", "syn"), "'syn' is not a flag of udp"),
    ],
)
def test_mistakes_are_named(words: tuple[str, str, str, str], says: str) -> None:
    """With the word and the way out."""
    problem = read_question(*words)

    assert isinstance(problem, str)
    assert says in problem

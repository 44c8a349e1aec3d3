"""Described frames: what is sent as one line of text, and what becomes of it as another.

A line reads ``SOURCE > TARGET PROTOCOL WORDS``, such as ``198.51.100.7:40000 > 192.0.2.10:80 TCP SYN``. Words are the
flags of TCP, and ``name=value``: ``mac`` (cluster, own, all), ``fragment`` (where it begins, in bytes; ``+`` behind it:
more follow), ``id``, ``headers`` (of IPv6), ``options`` (of IPv4, in words), ``ike`` (opens, goes on), ``icmp`` (type),
``quote`` (a TCP port of the client whose connection the ICMP error quotes), ``cut`` (the frame ends there), ``hex``
(bytes of the frame from an offset on: ``14:65``).
"""

from __future__ import annotations

import re
from typing import Any

from clussvc.nlb.filter_table import DEFAULT_RULE, Decision
from tests.packets.frames import ACK, CLUSTER_MAC, FIN, OWN_MAC, RST, SYN, Packet, ike, quoting

_FLAGS = {"SYN": SYN, "ACK": ACK, "FIN": FIN, "RST": RST}
_PROTOCOLS = {"TCP": 6, "UDP": 17, "GRE": 47, "ESP": 50, "AH": 51, "ICMP": 1, "ICMPv6": 58, "SCTP": 132}
_MACS = {"cluster": CLUSTER_MAC, "own": OWN_MAC, "all": b"\xff" * 6}
_BODIES = {"GRE": bytes(8), "ESP": bytes(16), "AH": bytes(24), "SCTP": bytes(12)}


def _end(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"\[([0-9a-f:]+)\]:(\d+)|([0-9.]+):(\d+)|([0-9a-f:.]+)", text)
    assert found is not None, f"{text} is no end of a connection"
    address = found[1] or found[3] or found[5]
    return address, int(found[2] or found[4] or 0)


def frame_of(line: str) -> bytes:
    """The frame that a line describes."""
    if line.startswith("ethernet "):
        return bytes.fromhex(line.removeprefix("ethernet "))
    ends, _, rest = line.partition(" > ")
    target_text, protocol, *words = rest.split()
    (source, source_port), (target, target_port) = _end(ends), _end(target_text)
    given: dict[str, Any] = {"flags": 0, "body": _BODIES.get(protocol, b"")}
    options = dict(word.split("=", 1) for word in words if "=" in word)
    for word in words:
        if "=" not in word:
            given["flags"] |= _FLAGS[word]
    if "fragment" in options:
        place = options["fragment"]
        given |= {"fragment": int(place.rstrip("+")) // 8, "more": place.endswith("+")}
    if "headers" in options:
        given["headers"] = tuple(map(int, options["headers"].split(",")))
    if "icmp" in options:
        given["body"] = bytes((int(options["icmp"]),)) + bytes(7)
    if "ike" in options:
        marker = bytes(4) if target_port == 4500 else b""
        given["body"] = marker + ike(opens=options["ike"] == "opens")
    packet = Packet(
        source=source,
        target=target,
        protocol=_PROTOCOLS[protocol],
        source_port=source_port,
        target_port=target_port,
        mac=_MACS[options.get("mac", "cluster")],
        identification=int(options.get("id", 1)),
        options=int(options.get("options", 0)),
        **given,
    )
    if "quote" in options:
        client, _, port = options["quote"].partition("/")
        sent = Packet(source=target, target=client, source_port=80, target_port=int(port), flags=ACK)
        packet = quoting(sent, source=source, target=target)
    frame = bytearray(packet.frame())
    if "hex" in options:
        offset, _, data = options["hex"].partition(":")
        frame[int(offset) : int(offset) + len(data) // 2] = bytes.fromhex(data)
    return bytes(frame[: int(options["cut"])] if "cut" in options else frame)


def answer_of(decision: Decision) -> str:
    """A decision in words."""
    words = f"{decision.verdict.value} {decision.reason.value}"
    if decision.rule is not None:
        rule = "default rule" if decision.rule == DEFAULT_RULE else f"rule {decision.rule}"
        words += f"; {rule}, bucket {decision.bucket} of host {decision.owner}"
    return words

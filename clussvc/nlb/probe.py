"""Health probes of port rules: what is asked of the server on a host, as a value and as text, and what makes it valid.

A rule with a probe is drained on a host on which its server does not answer. As text, beside the columns of a rule
(:mod:`clussvc.nlb.port_rule`)::

    probe=tcp                                           a connection to the first port of the rule is accepted
    probe=tcp:8080                                      ... to another port
    probe=http:/health                                  GET /health is answered with a status of 200..399
    probe=http:8080/health interval=500 limit=200 fall=2 rise=1

``interval`` and ``limit`` are milliseconds: between the beginnings of two probes, and for one of them. After ``fall``
failures in a row the server counts as dead, after ``rise`` successes in a row as alive again. When a host goes online,
it takes no clients of the rule before a first success, and the first one is enough.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

INTERVAL_MS_MIN, INTERVAL_MS_MAX = 100, 60_000
"""With the lower bound 32 rules ask 320 times a second, and what closed connections leave in the kernel for a minute
(``TIME-WAIT``) below the number of ports that there are for them."""
INTERVAL_MS_DEFAULT = 1_000
"""With three failures a dead server is noticed within three seconds, and a probe a second costs a server nothing."""
LIMIT_MS_MIN = 10
FALL_DEFAULT = 3
"""One late answer of a busy server must not move its clients to others that are as busy."""
RISE_DEFAULT = 2
"""A server that is starting may answer once and then fail."""
COUNT_MAX = 10
PATH_LENGTH_MAX = 255

OPTIONS: Final = ("probe", "interval", "limit", "fall", "rise")
"""The words of a rule's text that belong to its probe."""


@unique
class ProbeKind(Enum):
    """What counts as an answer."""

    TCP = "tcp"
    """The connection is accepted. The kernel does that for a server that hangs, too."""
    HTTP = "http"
    """The status of the answer to a GET is one of 200..399."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a host asks of its own server, how often, and what it makes of the answers."""

    kind: ProbeKind = ProbeKind.TCP
    port: int = 0
    """Where the server listens; 0: at the first port of the rule."""
    path: str = ""
    """Of HTTP, with its slash; empty for TCP."""
    interval_ms: int = INTERVAL_MS_DEFAULT
    limit_ms: int = INTERVAL_MS_DEFAULT
    """At most the interval, so one probe has ended before the next one begins."""
    fall: int = FALL_DEFAULT
    """1..10 failures in a row."""
    rise: int = RISE_DEFAULT
    """1..10 successes in a row."""

    @property
    def target(self) -> str:
        """``http:8080/health``."""
        port = str(self.port) if self.port else ""
        if self.kind is ProbeKind.HTTP:
            return f"http:{port}{self.path}"
        return f"tcp:{port}" if port else "tcp"

    def text(self) -> str:
        """The canonical text, without what has its default; :func:`parse_probe` understands its words."""
        words = [f"probe={shlex.quote(self.target)}"]
        if self.interval_ms != INTERVAL_MS_DEFAULT:
            words.append(f"interval={self.interval_ms}")
        if self.limit_ms != self.interval_ms:
            words.append(f"limit={self.limit_ms}")
        if self.fall != FALL_DEFAULT:
            words.append(f"fall={self.fall}")
        if self.rise != RISE_DEFAULT:
            words.append(f"rise={self.rise}")
        return " ".join(words)

    def problems(self) -> tuple[str, ...]:
        """All that is wrong with these numbers, as parts of a sentence."""
        found = []
        if not INTERVAL_MS_MIN <= self.interval_ms <= INTERVAL_MS_MAX:
            found.append(
                f"the interval of the probe is {self.interval_ms}; give milliseconds in"
                f" {INTERVAL_MS_MIN}..{INTERVAL_MS_MAX}"
            )
        elif not LIMIT_MS_MIN <= self.limit_ms <= self.interval_ms:
            found.append(
                f"the limit of the probe is {self.limit_ms}; give milliseconds in {LIMIT_MS_MIN}..{self.interval_ms},"
                " which is its interval"
            )
        for name, count in (("fall", self.fall), ("rise", self.rise)):
            if not 1 <= count <= COUNT_MAX:
                found.append(f"{name} is {count}; give a number of probes in 1..{COUNT_MAX}")
        return tuple(found)


def parse_probe(given: Mapping[str, str]) -> Probe | str | None:
    """The probe that words such as ``{"probe": "tcp", "fall": "2"}`` mean, or what is wrong with them; None: no probe.

    The names are small letters. The numbers may still be invalid.
    """
    text = given.get("probe")
    if text is None:
        lonely = next((name for name in OPTIONS if name in given), None)
        return f"{lonely}= says how to probe, and there is no probe=" if lonely is not None else None
    found = re.fullmatch(r"(tcp)(?::([0-9]{1,5}))?|(http):([0-9]{1,5})?(/[!-~]*)", text, re.IGNORECASE)
    path = found[5] if found is not None and found[5] is not None else ""
    port = (found[2] or found[4]) if found is not None else None
    if found is None or len(path) > PATH_LENGTH_MAX or (port is not None and not 1 <= int(port) <= 65_535):
        return (
            f"{text!r} is no probe; give tcp, tcp:PORT, http:/PATH or http:PORT/PATH, the path with at most"
            f" {PATH_LENGTH_MAX} letters of ASCII"
        )
    numbers = {}
    for name in OPTIONS[1:]:
        value = given.get(name)
        if value is not None and not re.fullmatch(r"[0-9]{1,9}", value):
            return f"{name}= is {value!r}, which is not a number"
        if value is not None:
            numbers[name] = int(value)
    interval_ms = numbers.get("interval", INTERVAL_MS_DEFAULT)
    return Probe(
        kind=ProbeKind.HTTP if path else ProbeKind.TCP,
        port=int(port) if port is not None else 0,
        path=path,
        interval_ms=interval_ms,
        limit_ms=numbers.get("limit", interval_ms),
        fall=numbers.get("fall", FALL_DEFAULT),
        rise=numbers.get("rise", RISE_DEFAULT),
    )

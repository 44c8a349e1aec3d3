"""Which timing profile suits a network and a machine, from how late things were while the cluster ran.

Pure; the figures come from the heartbeats themselves (the longest gap between two of each peer, how late this node's
own were sent) and from the core (how late its turns were). They are the worst of a time, not averages: one late
heartbeat is enough to lose a lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clussvc.model.settings import FAST, LAN, WAN, Timing

CANDIDATES = (FAST, LAN, WAN)
"""Fastest first. ``loopback`` is for tests and demonstrations and recommended to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingMeasured:
    """The worst of a time; milliseconds."""

    interval_ms: int
    """How often heartbeats were sent meanwhile."""
    sender_late_ms: int
    """How late this node's own heartbeats were sent at most."""
    core_late_ms: int
    """How late the core took a turn at most."""
    gaps_ms: Mapping[str, int]
    """The longest time between two heartbeats of each peer, by its name."""

    @property
    def jitter_ms(self) -> int:
        """By how much a heartbeat was late at most, on the way or on either end."""
        return max([self.sender_late_ms, *(gap_ms - self.interval_ms for gap_ms in self.gaps_ms.values()), 0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What is said of one profile."""

    profile: str
    fits: bool
    because: str


def advise(measured: TimingMeasured) -> tuple[Advice, ...]:
    """One for each profile that may be recommended, fastest first; the first that fits is recommended."""
    return tuple(_advice(timing, measured) for timing in CANDIDATES)


def _advice(timing: Timing, measured: TimingMeasured) -> Advice:
    # Two heartbeats may be lost, and the third be as late as any was, within a lease.
    jitter_max_ms = timing.lease_ms - 3 * timing.heartbeat_interval_ms
    # A core that is late feeds the monitors late; a quarter of the lease is what their feeding has in reserve.
    core_max_ms = timing.lease_ms // 4
    problems = []
    if measured.jitter_ms > jitter_max_ms:
        problems.append(f"heartbeats were up to {measured.jitter_ms} ms late, and it bears {jitter_max_ms} ms")
    if measured.core_late_ms > core_max_ms:
        problems.append(f"the service was up to {measured.core_late_ms} ms late, and it bears {core_max_ms} ms")
    because = "; ".join(problems) or (
        f"it bears heartbeats that are {jitter_max_ms} ms late ({measured.jitter_ms} ms seen) and a service that is"
        f" {core_max_ms} ms late ({measured.core_late_ms} ms seen)"
    )
    return Advice(profile=timing.profile, fits=not problems, because=because)

"""Timings of the cluster: each with its unit and reason, their relations checked together, three profiles and a half.

The relations matter more than the numbers. A node loses its *lease* ``lease_ms`` after the last heartbeat of its own
that a majority is known to have heard; it then has ``release_budget_ms`` to terminate everything; the others declare it
down only when a majority has heard nothing from it for the sum of both. All of it is measured on each node's own
clock, so clocks need not agree; they must only run at nearly the same rate, and ``drift_ppm`` is what we allow for.
"""

from __future__ import annotations

from dataclasses import dataclass

from clussvc.model.errors import ClusterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Detection and lease timings; all members of a cluster use the same values."""

    profile: str
    heartbeat_interval_ms: int
    """How often a node tells every other one that it lives. Four fit into a lease, so that three may be lost."""
    lease_ms: int
    """How long a heartbeat that a peer is known to have heard lets its sender act."""
    release_budget_ms: int
    """How long terminating everything may take after the lease was lost."""
    raft_heartbeat_ms: int
    """How often the leader of the log tells its followers that it leads."""
    raft_election_ms: int
    """Shortest silence of the leader before another node campaigns; the longest is twice that."""
    drift_ppm: int = 1_000
    """Largest difference in rate between two clocks, in parts per million; quartz is below 100."""

    def silence_ms(self) -> int:
        """The common silence after which a majority may declare a node down (rule R3), drift allowed for."""
        sum_ms = self.lease_ms + self.release_budget_ms
        return sum_ms + 1 + sum_ms * self.drift_ppm // 1_000_000

    def quicker_than(self, other: Timing) -> bool:
        """Whether a lease, or the silence that is waited for, is shorter than by the other timing."""
        return self.lease_ms < other.lease_ms or self.silence_ms() < other.silence_ms()

    def validate(self) -> tuple[str, ...]:
        """All that is wrong with these values, in sentences; empty when they may be used."""
        problems = []
        if not 5 <= self.heartbeat_interval_ms <= 10_000:
            problems.append(f"heartbeat_interval_ms is {self.heartbeat_interval_ms}; it must lie in 5..10000")
        if self.lease_ms < 4 * self.heartbeat_interval_ms:
            problems.append(
                f"lease_ms is {self.lease_ms}; it must be at least four heartbeats ({4 * self.heartbeat_interval_ms}),"
                " or three lost datagrams would stop a healthy node"
            )
        if self.release_budget_ms < 50:
            problems.append(f"release_budget_ms is {self.release_budget_ms}; nothing terminates in less than 50")
        if self.raft_election_ms < 3 * self.raft_heartbeat_ms:
            problems.append(
                f"raft_election_ms is {self.raft_election_ms}; it must be at least three times raft_heartbeat_ms"
                f" ({3 * self.raft_heartbeat_ms})"
            )
        if not 0 <= self.drift_ppm <= 100_000:
            problems.append(f"drift_ppm is {self.drift_ppm}; it must lie in 0..100000")
        return tuple(problems)


LAN = Timing(
    profile="lan",
    heartbeat_interval_ms=100,
    lease_ms=500,
    release_budget_ms=300,
    raft_heartbeat_ms=100,
    raft_election_ms=400,
)
"""One site, ordinary machines: a crash is noticed after 0.8 s."""

FAST = Timing(
    profile="fast",
    heartbeat_interval_ms=20,
    lease_ms=100,
    release_budget_ms=80,
    raft_heartbeat_ms=25,
    raft_election_ms=100,
)
"""A dedicated interconnect and real-time priority."""

WAN = Timing(
    profile="wan",
    heartbeat_interval_ms=1_000,
    lease_ms=6_000,
    release_budget_ms=4_000,
    raft_heartbeat_ms=500,
    raft_election_ms=3_000,
)
"""Two sites."""

LOOPBACK = Timing(
    profile="loopback",
    heartbeat_interval_ms=100,
    lease_ms=800,
    release_budget_ms=400,
    raft_heartbeat_ms=100,
    raft_election_ms=500,
)
"""Tests and demonstrations, many nodes on one busy machine."""

PROFILES = {timing.profile: timing for timing in (LAN, FAST, WAN, LOOPBACK)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskTiming:
    """Timings of a quorum disk. Leases are granted by its owner there, so they have to outlast a change of owner."""

    hold_ms: int
    """How long writing its slot lets the owner act as such, from the moment at which the writing began. A disk that
    does not answer for so long costs the owner its ownership, so it must be longer than the storage's pauses."""
    renew_ms: int
    """How often the owner writes its slot. Five fit into a hold."""
    poll_ms: int
    """How often those who do not hear the owner look at the slots."""
    suspect_ms: int
    """After so long without a grant of the owner a node begins to look; two heartbeats may be lost."""
    lease_ms: int
    """How long a grant of the owner lets a node act."""
    drift_ppm: int


def disk_timing(timing: Timing, hold_ms: int = 0) -> DiskTiming:
    """What a profile means for a quorum disk. ``hold_ms`` 0: 1.4 leases of the profile.

    A node that the owner granted a lease last, just before it crashed, suspects it after two and a half heartbeats and
    sees its slot stand still for a hold. It is the owner then, and by a heartbeat more all others have its grants.
    """
    hold_ms = hold_ms or 7 * timing.lease_ms // 5
    suspect_ms = 5 * timing.heartbeat_interval_ms // 2
    return DiskTiming(
        hold_ms=hold_ms,
        renew_ms=hold_ms // 5,
        poll_ms=timing.heartbeat_interval_ms,
        suspect_ms=suspect_ms,
        lease_ms=hold_ms + suspect_ms + 7 * timing.heartbeat_interval_ms // 2,
        drift_ppm=timing.drift_ppm,
    )


def find_profile(name: str) -> Timing:
    """The profile of that name.

    Raises ClusterError(``unknown-profile``), which lists the names that exist.
    """
    timing = PROFILES.get(name.lower())
    if timing is None:
        raise ClusterError(
            "unknown-profile", f"there is no timing profile {name!r}; choose one of {', '.join(PROFILES)}"
        )
    return timing


RECENT_REQUESTS_MAX = 2_048
"""How many request ids the state remembers, so that a proposal that is sent twice takes effect once."""

FAILOVER_HISTORY_MAX = 256
"""How many failovers of one group are remembered for FailoverThreshold."""

GROUPS_MAX = 2_000
INSTANCES_MAX = 64
"""Instances of one parallel group: one for each node of the largest cluster."""
RESOURCES_MAX = 8_000
JOIN_TOKENS_MAX = 64
FENCE_DEVICES_MAX = 256
QUARANTINE_THRESHOLD_MAX = 100
PROPERTY_BYTES_MAX = 65_536
"""The longest value of one property."""

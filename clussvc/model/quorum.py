"""What decides who may act: the kind of quorum that a cluster has chosen, and its settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, unique

from clussvc.model.settings import PROFILES, Timing, disk_timing

MAX_LOG_KB = 4_096
"""How long the log on a quorum disk grows before it is replaced by an image (MSCS: MaxLogSize, 4096 KB)."""
LOG_KB_RANGE = (512, 1_048_576)
HOLD_MS_RANGE = (100, 20_000)
SECTOR_KB = 4
AREAS_FROM_SECTOR = 512
AREAS = 8
"""The disk has eight areas for images and logs, behind the slots; see quorum.disk_layout."""
DEVICE_LENGTH_MAX = 1_024
NODE_NUMBER_MAX = 127
"""Of nodes that have a slot on a quorum disk. Node numbers are never used again, so this also bounds how many nodes a
cluster with a quorum disk ever has."""


@unique
class QuorumKind(Enum):
    """The three quorums of MSCS 2003."""

    MAJORITY = "majority node set"
    """A majority of the voters; the log is replicated among the nodes."""
    DISK = "quorum disk"
    """Who owns the shared disk; the log is on it."""
    LOCAL = "local quorum"
    """One node, whose log is its own; nobody can join."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """The quorum of a cluster."""

    kind: QuorumKind = QuorumKind.MAJORITY
    device: str = ""
    """Where nodes find the quorum disk: a device, ``iscsi://HOST[:PORT]/TARGET/LUN``, or a file on a share."""
    disk: str = ""
    """The identifier in the disk's superblock, 16 hexadecimal digits, so that no other disk is taken for it."""
    sectors: int = 0
    """How much of the disk is used, in sectors of 4096 bytes."""
    reservations: bool = False
    """Whether the disk had persistent reservations when it was prepared; they are used from then on."""
    base_index: int = 0
    """Who begins the log on the empty disk must have applied so much of the log before it."""
    max_log_kb: int = MAX_LOG_KB
    hold_ms: int = 0
    """How long writing its slot keeps the owner in office; 0: as the timing profile says."""
    generation: int = 0
    """Raised by every change that brings another log; each generation has a log of its own (docs/decisions/0020)."""
    former_hold_ms: int = 0
    """The longest hold of an owner of the disk that was left for this quorum; 0: it was no disk."""
    former_silence_ms: int = 0
    """After so long a silence a node has let go that acts by the timing before, if that was slower and nothing has
    become faster since; every node that was up had said that it acts by that one. 0 otherwise."""

    @property
    def most_log_kb(self) -> int:
        """The longest log that fits with an image as long into one of the eight areas of the disk."""
        return (self.sectors - AREAS_FROM_SECTOR) // AREAS * SECTOR_KB // 2

    @property
    def on_disk(self) -> bool:
        """Whether leases are granted by the owner of a disk, and not by a majority."""
        return self.kind is QuorumKind.DISK

    def timing_of(self, profile: str) -> Timing:
        """The timings by which a cluster with this quorum acts; the profile must exist."""
        timing = PROFILES[profile]
        if self.on_disk:
            return replace(timing, lease_ms=disk_timing(timing, self.hold_ms).lease_ms)
        return timing

    @property
    def replicated(self) -> bool:
        """Whether the log is replicated among the nodes: a local quorum and a majority node set have the same one."""
        return self.kind is not QuorumKind.DISK

    def same_log(self, other: Quorum) -> bool:
        """Whether one becomes the other by a word, since the log is the same."""
        return (self.replicated and other.replicated) or (self.on_disk and other.on_disk and self.disk == other.disk)

    def longest_hold_ms(self, profile: str, *, any_profile: bool) -> int:
        """For how long an owner of the disk may act after it has written its slot last; 0: the quorum is no disk.
        ``any_profile``: a slower one may have been in force before."""
        if not self.on_disk:
            return 0
        profiles = PROFILES if any_profile else (profile,)
        return max(disk_timing(PROFILES[each], self.hold_ms).hold_ms for each in profiles)

    def longest_silence_ms(self) -> int:
        """After so long a silence a node that acts by this quorum has let go, by whatever profile and hold it acts."""
        longest = replace(self, hold_ms=HOLD_MS_RANGE[1])
        return max(longest.timing_of(profile).silence_ms() for profile in PROFILES)


def slowest_silence_ms(quorum: Quorum) -> int:
    """After so long a silence a node has let go by whatever profile it acts, and whatever hold, also if it has not
    read yet that the quorum is this one."""
    former = replace(quorum, kind=QuorumKind.DISK) if quorum.former_hold_ms else quorum
    return max(quorum.former_silence_ms, quorum.longest_silence_ms(), former.longest_silence_ms())

"""The values of the replicated log: its settings, the outcome of a proposal, and what a state machine must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from clussvc.ports import Done, Outcome, OutcomeKind

__all__ = ["Done", "Outcome", "OutcomeKind", "RaftSettings", "StateMachine"]


class StateMachine(Protocol):
    """What the log drives; equal on all nodes.

    ``apply`` is deterministic and never raises: a refusal is a result. An exception ends the process. The same command
    may be applied twice when its first outcome was unknown, so a command carries a request id that the state machine
    remembers.
    """

    @property
    def retired(self) -> bool:
        """Whether it has applied the last command of this log: the cluster has another quorum since. What follows is
        given to it, changes nothing, and has no number."""

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply command number ``index`` (1, 2, 3 … without gaps, equal on all nodes) and return its result."""

    def snapshot(self) -> bytes:
        """The whole state after the newest applied command."""

    def restore(self, index: int, image: bytes) -> None:
        """Become the state that ``snapshot`` returned after command number ``index``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftSettings:
    """Times and bounds of the log. The relations between them are checked by :meth:`validate`."""

    election_timeout_ms: int = 300
    """A follower that hears no leader for this long (up to twice as long, drawn anew each time) asks for an election.

    Must be long against a round trip plus a sync of the disk; a leader's lease is nine tenths of it.
    """

    heartbeat_ms: int = 60
    """How often a leader speaks at least. At most a fourth of the election timeout, so that three may be lost."""

    compaction_entries: int = 5_000
    """Applied entries kept in the journal before a snapshot replaces them."""

    compaction_bytes: int = 64 * 1024 * 1024
    """Size of the journal file beyond which a snapshot is made earlier."""

    command_bytes_max: int = 512 * 1024
    """Longest command; with the library's encoding it must fit a batch."""

    pending_max: int = 4_096
    """Most proposals that may wait on one node, and most forwarded ones it carries as leader."""

    inbox_frames_max: int = 8_192
    """Most received frames that may wait for the next step; more are dropped, as if the network had lost them."""

    inbox_bytes_max: int = 64 * 1024 * 1024
    """Most bytes of received frames that may wait."""

    def validate(self) -> None:
        """Raise ValueError that names the first setting out of place."""
        if self.heartbeat_ms < 1:
            raise ValueError(f"heartbeat_ms is {self.heartbeat_ms}; it must be at least 1")
        if self.election_timeout_ms < 4 * self.heartbeat_ms:
            raise ValueError(f"election_timeout_ms must be at least 4 x heartbeat_ms, {4 * self.heartbeat_ms}")
        if self.compaction_entries < 10:
            raise ValueError(f"compaction_entries is {self.compaction_entries}; it must be at least 10")
        if not 1 <= self.command_bytes_max <= 512 * 1024:
            raise ValueError(f"command_bytes_max is {self.command_bytes_max}; it must be within 1..{512 * 1024}")
        if min(self.pending_max, self.inbox_frames_max, self.inbox_bytes_max, self.compaction_bytes) < 1:
            raise ValueError("pending_max, inbox_frames_max, inbox_bytes_max and compaction_bytes must be at least 1")

    @property
    def election_timeout_s(self) -> float:
        """The shortest election timeout in seconds."""
        return self.election_timeout_ms / 1_000

    @property
    def election_timeout_s_max(self) -> float:
        """The longest election timeout in seconds."""
        return 2 * self.election_timeout_s

    @property
    def heartbeat_s(self) -> float:
        """The heartbeat in seconds."""
        return self.heartbeat_ms / 1_000

"""What the quorum-disk log wants done, and what the nodes say to each other about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique
from typing import Protocol

from clussvc.model.ids import NodeId

# --- the device ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Answered with the sectors."""

    sector: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Answered when the sectors are durable."""

    sector: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """Make this node a registrant with that key."""

    key: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Take the reservation under the own key."""

    key: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preempt:
    """Remove another node's key and its reservation."""

    key: int
    victim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give the reservation back."""

    key: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear:
    """Remove every key and the reservation."""

    key: int


DiskRequest = Read | Write | Register | Reserve | Preempt | Release | Clear


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFailed(Exception):
    """The answer of a device that did not do what it was asked for."""

    code: str
    """As ClusterError has it: ``device-lost``, ``reservation-conflict`` or ``device-unsuitable``."""
    detail: str


# --- between nodes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Leading:
    """The owner tells that it is, and how long its log is."""

    epoch: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Have:
    """Answer to everything the owner says: what the follower has applied."""

    epoch: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Committed entries from ``first_index`` on."""

    epoch: int
    first_index: int
    commands: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A piece of the whole state at ``index``; ``total`` pieces make it whole."""

    epoch: int
    index: int
    number: int
    total: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A command on its way to the owner; ``boot`` and ``request`` name it, so a late answer meets no other one."""

    boot: int
    request: int
    command: bytes


@unique
class Fate(Enum):
    """What became of a command."""

    COMMITTED = "committed"
    NOT_APPLIED = "not applied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a forwarded command."""

    boot: int
    request: int
    fate: Fate
    index: int
    detail: str


LogMessage = Leading | Have | Entries | Image | Forward | Answer


# --- what is to be done ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Perform:
    """Have the device do this; answered by ``answered``. One request at a time is under way."""

    request: DiskRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """To another node; it may be lost."""

    node: NodeId
    message: LogMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """This node owns the disk under that epoch, and acts as the owner until then (its own clock)."""

    epoch: int
    until_ms: int
    before: NodeId | None
    """Who owned it before; None: nobody ever did."""
    before_over_ms: int
    """From then on the one before acted as the owner no more, and granted nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """This node owns the disk no more."""

    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveWay:
    """This node reaches no clients and another one does: it should let go of everything, and then of the disk."""

    to: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerKnown:
    """Who owns the disk, as far as this node has been told; None: it does not know."""

    node: NodeId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """The device does not do what it should; said once until it changes. Empty: it is well again."""

    code: str
    detail: str


DiskAction = Perform | Send | Held | Lost | GiveWay | OwnerKnown | Trouble

Done = Callable[[Fate, str], None]
"""Told once what became of a proposal, with a sentence."""


class StateMachine(Protocol):
    """What the log drives; equal on all nodes. See :class:`clussvc.global_update.raft.values.StateMachine`."""

    @property
    def highest_node(self) -> int:
        """The highest number that any node has or had; 0: nothing is known yet. The owner reads so many slots."""

    @property
    def retired(self) -> bool:
        """Whether it has applied the last command of this log: the cluster has another quorum since."""

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply command number ``index``."""

    def snapshot(self) -> bytes:
        """The whole state after the newest applied command."""

    def restore(self, index: int, image: bytes) -> None:
        """Become the state that ``snapshot`` returned after command number ``index``."""

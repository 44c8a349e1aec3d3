"""What can happen to a node: the inputs of :meth:`clussvc.node.NodeCore.handle`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique

from clussvc.global_update.update import Proposal, Update
from clussvc.membership.connectivity import LinkSeen
from clussvc.membership.heartbeat import Heard
from clussvc.membership.witness_watch import WitnessAnswered
from clussvc.model.config import Config
from clussvc.model.ids import NodeId, RequestId
from clussvc.model.monitoring import MonitorReport
from clussvc.model.records import Record
from clussvc.model.reports import Report
from clussvc.quorum.disk_messages import GiveWay, Held, Lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed; sent at the latest when ``NodeCore.deadline_ms`` comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatsHeard:
    """Authenticated heartbeats of other nodes have arrived since the last event of this kind, oldest first.

    They may have waited for the core; each carries the time of its arrival, which is not later than now.
    """

    heard: tuple[Heard, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """An entry of the log was applied on this node: the configuration after it, and what it meant."""

    index: int
    proposal: Proposal
    config: Config
    refusal: Report | None
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigInstalled:
    """The configuration was taken from a snapshot: many entries at once, without their proposals."""

    index: int
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumNews:
    """Another node says that the quorum has another log by now, and what stands in it; ``index`` is behind everything
    that the log of this node can have."""

    index: int
    config: Config
    beginning: bytes = b""
    """With what this node begins its part of a log that is replicated among the nodes; see actions.ChangeLog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerBehind:
    """A connected node still takes part in a log that this one has left."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadershipChanged:
    """Who leads the log, as far as this node knows. ``leads``: this node does, and a majority heard it lately."""

    leader: NodeId | None
    leads: bool
    members: frozenset[NodeId]
    """Who takes part in the log's own voting."""


@unique
class ProposalFate(Enum):
    """What became of a proposal that did not come back through the log."""

    NOT_APPLIED = "not applied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalFailed:
    """A proposal was certainly not applied, or nobody can say."""

    request: RequestId
    fate: ProposalFate
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OfLog:
    """What one log has told: that of ``generation`` (Quorum.generation). A log that was left may still have something
    to say, which does not count any more."""

    generation: int
    event: LeadershipChanged | ProposalFailed | Held | Lost | GiveWay


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSaid:
    """A report of a resource monitor. ``monitor`` is empty for the default one, else the resource it is for."""

    monitor: str
    report: MonitorReport


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandArrived:
    """An administrator wants a change; answered by a Reply with the same request id."""

    request: RequestId
    update: Update


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceEnded:
    """What a fence device did. ``off``: the node was switched off after the order was given."""

    ticket: int
    off: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfacesSeen:
    """What there is to see of this node's own interfaces has changed."""

    links: Mapping[int, LinkSeen]
    """By the places of the node's addresses; what is missing is unknown and taken to work."""
    heard: frozenset[tuple[NodeId, int]]
    """Whose heartbeats have come to which of these addresses lately."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessSeen:
    """Whether the witness can be reached from this node; empty: it can."""

    trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """The service is to end in order: hand the groups over, then stop."""


Event = (
    Tick
    | HeartbeatsHeard
    | Committed
    | ConfigInstalled
    | LeadershipChanged
    | ProposalFailed
    | QuorumNews
    | PeerBehind
    | OfLog
    | MonitorSaid
    | CommandArrived
    | FenceEnded
    | InterfacesSeen
    | WitnessAnswered
    | WitnessSeen
    | StopRequested
    | Held
    | Lost
    | GiveWay
)

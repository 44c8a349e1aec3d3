"""What a node wants done: the outputs of :meth:`clussvc.node.NodeCore.handle`, performed in order by the assembly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clussvc.global_update.update import Proposal
from clussvc.membership.heartbeat import Heartbeat
from clussvc.model.ids import NodeId, RequestId
from clussvc.model.monitoring import MonitorCommand
from clussvc.model.records import Record
from clussvc.model.reports import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """Where a peer is reached."""

    name: str
    addresses: tuple[str, ...]
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPeers:
    """Who the other nodes are; connections and heartbeats follow."""

    peers: Mapping[NodeId, PeerAddress]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendHeartbeat:
    """Send this to every peer on every network."""

    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    """Hand a proposal to the log. Comes back as Committed or ProposalFailed."""

    proposal: Proposal
    timeout_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddLogMember:
    """Let a node take part in the log; asked for again until LeadershipChanged shows it as a member."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveLogMember:
    """The node takes no part in the log any more."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class StartMonitor:
    """Start a resource monitor; answered by MonitorStarted, or MonitorDied when that fails."""

    monitor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopMonitor:
    """End a monitor that has nothing to do any more."""

    monitor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandMonitor:
    """Send a command to a monitor."""

    monitor: str
    command: MonitorCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The outcome of a command: None when the change was made."""

    request: RequestId
    refusal: Report | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Write a line about this node alone into the log file; it is not replicated."""

    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceSelf:
    """Something of this node may still run although the release budget is over: stop the machine by any means."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopService:
    """Everything is handed over or terminated; end the process."""

    why: str


Action = (
    SetPeers
    | SendHeartbeat
    | Propose
    | AddLogMember
    | RemoveLogMember
    | StartMonitor
    | StopMonitor
    | CommandMonitor
    | Reply
    | Note
    | FenceSelf
    | StopService
)

"""What a node wants done: the outputs of :meth:`clussvc.node.NodeCore.handle`, performed in order by the assembly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clussvc.global_update.update import Proposal
from clussvc.membership.fencing import FenceOrder
from clussvc.membership.witness_watch import AskWitness
from clussvc.model.config import Config
from clussvc.model.ids import NodeId, RequestId
from clussvc.model.monitoring import MonitorCommand
from clussvc.model.quorum import Quorum
from clussvc.model.records import Record
from clussvc.model.reports import Report
from clussvc.model.settings import Timing
from clussvc.model.states import NodePhase
from clussvc.model.witness import Witness
from clussvc.quorum.stand_in import Decision


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
    internal: tuple[int, ...] | None = None
    """The places of the addresses that are on internal networks, in the order in which the log uses them; None: all,
    as long as nothing is known of networks. Heartbeats go nowhere else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PingNetworks:
    """What must answer on which network, by the places of addresses, for the network to work on this node."""

    targets: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouch:
    """The core lives: until ``until_ms`` this may be said of the node in heartbeats to every peer on every network.

    The sender goes on by itself until then, so a core that is late for a moment does not make the node look dead, and
    one that makes no progress for a lease does.
    """

    until_ms: int
    grants_until_ms: int
    """Until then what is said grants leases, since this node owns the quorum disk; 0: it does not."""
    interval_ms: int
    incarnation: int
    phase: NodePhase
    attempt: int
    """Which request for admission of this boot is open; 0: the node does not ask."""
    index: int
    voters_version: int
    at_once: bool
    """Something has changed: the peers are to hear it now."""
    probe: bool
    """The peers are to answer at once: somebody has been silent for so long that the next reports decide."""
    watched: tuple[NodeId, ...]
    """The peers whose silence the core wants to know of at once, from ``watch_ms`` on."""
    watch_ms: int
    """0: every heartbeat is news; negative: no silence is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestQuorum:
    """Whether the log is to look after the quorum disk and to take it if it can; this node hears no owner then."""

    wanted: bool
    client_networks: int
    """How many networks of clients work on this node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveQuorumBack:
    """Let the quorum disk go: this node holds nothing, and grants nothing any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UseQuorum:
    """The settings of the quorum are these from now on; its kind of log is the same."""

    quorum: Quorum


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeLog:
    """Leave the present log for that of another quorum (docs/decisions/0020). Everything that is proposed from now on
    goes to the new one."""

    quorum: Quorum
    index: int
    config: Config
    """The state from which the new log goes on here: that after the last update of the former log, or a later one."""
    beginning: bytes
    """With what this node begins its part of a log that is replicated among the nodes, if another node has sent it;
    empty: ``index`` and ``config`` are the beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TellNews:
    """Tell a node that takes part in a log which was left what the quorum is, and the state of this node."""

    node: NodeId
    index: int
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class UseTiming:
    """The log and the monitors act by this timing from now on."""

    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveWill:
    """Have a last will of this boot ready: that this incarnation is over and holds nothing.

    It is true, and may be sent, only when the process of the service is gone and every monitor has terminated
    everything; the last monitor sends it then (docs/decisions/0012).
    """

    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetLeader:
    """The process of this node, which leads the log as far as is known, is certainly over: nobody need keep to it."""

    node: NodeId


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
class UseDecision:
    """The witness has decided this; the log is to count by it while its stand-in takes part."""

    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchWitness:
    """Look after this witness from time to time, or after none; answered by WitnessSeen when something has changed."""

    witness: Witness | None


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
class FenceNode:
    """Have a fence device switch another node off; answered by FenceEnded with the ticket of the order."""

    order: FenceOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class StopService:
    """Everything is handed over or terminated; end the process."""

    why: str


Action = (
    SetPeers
    | PingNetworks
    | Vouch
    | ContestQuorum
    | GiveQuorumBack
    | UseTiming
    | UseQuorum
    | ChangeLog
    | TellNews
    | LeaveWill
    | ForgetLeader
    | Propose
    | AddLogMember
    | RemoveLogMember
    | AskWitness
    | UseDecision
    | WatchWitness
    | StartMonitor
    | StopMonitor
    | CommandMonitor
    | Reply
    | Note
    | FenceSelf
    | FenceNode
    | StopService
)

"""NodeCore: the roof of the ground floor. What happened goes in, what should happen comes out.

``handle(event, now_ms, wall_ms) -> actions`` is the whole interface. The core knows no clock, thread, socket or file;
the assembly performs its actions in order and brings the results back as events. The same core runs in the service and
in the simulator.

A node passes through these phases (:class:`~clussvc.model.states.NodePhase`); rule R2 is the arrow back:

```
  STARTING --monitors clean--> ASKING --NodeUp read, lease unbroken--> MEMBER --asked to stop--> STOPPING --> STOPPED
                                 ^                                       |
                                 +------ monitors clean -- RELEASING <---+ lease lost, or declared down
```

Invariants:

* resources are started only in MEMBER, only under an assignment to this node read from the log, and only while the
  lease runs; the lease is checked before every event, on the time of that moment;
* a NodeUp counts only if the lease has run without a gap since this node asked for it: between the question and the
  answer nobody can then have declared the node down, so what it reads in the log afterwards is not outdated by a death
  that it has not read yet;
* the node asks only when every monitor has confirmed that nothing of an earlier incarnation is left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from clussvc.actions import (
    Action,
    AddLogMember,
    ChangeLog,
    CommandMonitor,
    ContestQuorum,
    FenceNode,
    FenceSelf,
    ForgetLeader,
    GiveQuorumBack,
    LeaveWill,
    Note,
    PeerAddress,
    PingNetworks,
    Propose,
    RemoveLogMember,
    Reply,
    SetPeers,
    StartMonitor,
    StopMonitor,
    StopService,
    TellNews,
    UseDecision,
    UseQuorum,
    UseTiming,
    Vouch,
    WatchWitness,
)
from clussvc.events import (
    CommandArrived,
    Committed,
    ConfigInstalled,
    Event,
    FenceEnded,
    HeartbeatsHeard,
    InterfacesSeen,
    LeadershipChanged,
    MonitorSaid,
    OfLog,
    PeerBehind,
    ProposalFailed,
    ProposalFate,
    QuorumNews,
    StopRequested,
    Tick,
    WitnessSeen,
)
from clussvc.global_update.update import (
    Batch,
    ConfirmNodeDown,
    FencingFailed,
    FoundCluster,
    NodeDown,
    NodeFenced,
    Proposal,
    ReportInterfaces,
    RequestFailover,
    SetQuorum,
    SetResourceProperties,
    StopNode,
    Update,
)
from clussvc.groups.coordinator import coordinate
from clussvc.groups.failure_log import FailureLog
from clussvc.groups.ownership import Ownership
from clussvc.membership.disk_hold import DiskHold
from clussvc.membership.fencing import Fencing
from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.membership.interface_watch import InterfaceWatch
from clussvc.membership.jury import Jury
from clussvc.membership.mandate import Mandate
from clussvc.membership.regroup import RESTART_GRACE_MS, last_will_heard, why_no_cut
from clussvc.membership.witness_watch import WitnessAnswered, WitnessWatch
from clussvc.model import reports
from clussvc.model.config import Config, Resource
from clussvc.model.ids import NodeId, RequestId, ResourceId
from clussvc.model.monitoring import (
    BringOnline,
    CloseResource,
    CommandRefused,
    DeadmanFired,
    EverythingTerminated,
    LeaseExtended,
    LogLevel,
    MonitorDied,
    MonitorStarted,
    NetworkHealed,
    OpenResource,
    PropertyChanged,
    ResourceLogged,
    ResourceReported,
    TerminateEverything,
)
from clussvc.model.quorum import Quorum
from clussvc.model.records import Record
from clussvc.model.reports import Report, Severity
from clussvc.model.settings import PROFILES, Timing, disk_timing
from clussvc.model.states import NodePhase
from clussvc.model.view import LiveView, PeerView
from clussvc.model.witness import Witness
from clussvc.quorum.disk_messages import GiveWay, Held, Lost
from clussvc.quorum.majority import needed
from clussvc.quorum.stand_in import electorates, is_stand_in
from clussvc.resources.monitors import DEFAULT_MONITOR, MonitorPool, MonitorState
from clussvc.resources.property_changes import PropertyChanges

PROPOSAL_TIMEOUT_MS = 3_000
"""How long the service's own proposals may take before they are made anew; all of them are safe to repeat."""

COMMAND_TIMEOUT_MS = 8_000
"""How long an administrator's change may take before its outcome is called unknown."""

COMMANDS_MAX = 1_000
"""Administrators' changes under way at once on one node."""

MEMBER_CHANGE_PAUSE_MS = 500
"""Pause between attempts to let a node take part in the log; right after its start it may not be connected yet."""

MEMBER_CHANGES_KEPT = 64
"""How many of these pauses are remembered before those that are over are forgotten."""

STAND_IN_PAUSE_MS = 50
"""The same for a member without a machine, which is always there."""

RETRY_PAUSE_MS = 100
"""Pause before a proposal that certainly was not applied is made again, such as during an election."""

REFUSED_REPORT_PAUSE_MS = 1_000
"""Pause after a report of states was refused."""

STOP_TIMEOUT_MS = 60_000
"""How long groups may take to leave a node that stops; then they are terminated."""

TERMINATE_TIMEOUT_MS = 10_000
"""How long terminating what is left may take while the service stops."""

LEFTOVERS_TIMEOUT_MS = RESTART_GRACE_MS
"""How long a new service may take to clean up after an earlier life of it; the others count on this (rule R4)."""

PROBE_AFTER_MS = 4
"""How long after the limit of a silence the peers are asked for their reports; they heard the node last at moments of
their own, a network's delay earlier or later."""

NEWS_PAUSE_MS = 500
"""A node that takes part in a log which was left is told so no more often."""

FAREWELL_TIMEOUT_MS = 3_000
"""How long a stopping node waits for the others to take note; without that they find out by its silence."""


@dataclass(slots=True)
class _Command:
    """An administrator's change under way."""

    proposal: Proposal
    deadline_ms: int
    again_ms: int | None = None
    uncertain: bool = False
    """It may have been made in a log that was left, and this node cannot see whether it was."""


class NodeCore:
    """All decisions of one node."""

    def __init__(
        self,
        *,
        node: NodeId,
        boot: int,
        timing: Timing,
        peers: Mapping[NodeId, PeerAddress],
        index: int,
        config: Config | None,
        now_ms: int,
        quorum: Quorum | None = None,
        found: tuple[RequestId, FoundCluster] | None = None,
        leftovers: Collection[str] = (DEFAULT_MONITOR,),
    ) -> None:
        """``boot`` grows with every start of the process on this machine. ``quorum`` is that of the log that this
        node takes part in; None: a majority. ``found`` is the first update of a new
        cluster, proposed as long as the log is empty; its request id becomes the identifier of the cluster.
        ``leftovers`` names the monitors of an earlier life of the service that may have left something running."""
        self._found = found
        self._node = node
        self._boot = boot
        self._timing = timing
        self._peers = dict(peers)
        self._peers_said = False
        self._config = config
        self._voters = config.voters if config else frozenset()
        self._index = index
        self._quorum = quorum or Quorum()
        self._table = HeartbeatTable(node=node, timing=timing)
        self._mandate = Mandate(
            node, self._quorum, suspect_ms=self._suspect_ms, drift_ppm=timing.drift_ppm, now_ms=now_ms
        )
        self._told_news: dict[NodeId, int] = {}
        """When other nodes were told last that the log has changed."""
        self._contest: tuple[bool, int] = (False, 1)
        self._witness = WitnessWatch(node, now_ms)
        self._watched_witness: Witness | None = None
        self._witness_trouble: str | None = None
        self._table.set_peers(self._peers, now_ms)
        self._network_healed = False
        self._interfaces = InterfaceWatch(node)
        self._internal = config.internal_positions if config else None
        self._ping_targets: Mapping[int, tuple[str, ...]] = {}
        self._now_ms = now_ms
        if config is not None:
            self._know_incarnations(config)
        self._wall_ms = 0
        self._out: list[Action] = []
        if config is not None:
            self._use_networks(config)

        self._phase = NodePhase.STARTING
        self._incarnation = 0
        self._attempt = 0
        self._attempts = 0
        self._note = "the service is starting"
        self._release_deadline_ms: int | None = now_ms + LEFTOVERS_TIMEOUT_MS if leftovers else None

        self._version_held = (0, -1)
        """A version that is said until then though a later one has been read."""
        self._next_vouch_ms = now_ms
        self._vouched: tuple[object, ...] = ()
        self._watching: tuple[object, ...] = ()
        self._next_probe_ms: int | None = None
        self._probed_ms = now_ms
        self._pool = MonitorPool()
        self._pool.want(DEFAULT_MONITOR, now_ms)
        for name in leftovers:
            self._pool.inherit(name, now_ms)
        self._monitored: Mapping[ResourceId, Resource] | None = None
        self._separate: frozenset[str] = frozenset()
        self._failures = FailureLog()
        self._ownership = Ownership(node, self._failures)
        self._report_due = False
        self._mind_monitors()

        self._leader: NodeId | None = None
        self._leads = False
        self._leader_forgotten: tuple[NodeId, int] | None = None
        """The leader that this node has called dead last, and its incarnation."""
        self._log_members: frozenset[NodeId] = frozenset()
        self._planned_for: Config | None = None
        self._plan_again_wall_ms: int | None = None
        self._member_changes: dict[AddLogMember | RemoveLogMember, int] = {}
        self._fencing = Fencing()

        self._counter = 0
        self._outstanding: dict[str, tuple[RequestId, int]] = {}
        self._properties = PropertyChanges()
        self._commands: dict[RequestId, _Command] = {}
        self._stop_wanted = False
        self._stop_deadline_ms: int | None = None
        self._farewell_ms: int | None = None

    # --- the interface ----------------------------------------------------------------------------------------------

    def handle(self, event: Event, *, now_ms: int, wall_ms: int) -> tuple[Action, ...]:
        """Take in one event at this moment and say what to do.

        ``now_ms`` is the node's boot-time clock and must not go back; ``wall_ms`` is for people and histories only.
        """
        assert now_ms >= self._now_ms, (now_ms, self._now_ms)
        paused_ms = now_ms - self._now_ms
        self._now_ms, self._wall_ms = now_ms, wall_ms
        if self._release_deadline_ms is not None and paused_ms > self._timing.release_budget_ms:
            # This process was stopped meanwhile; the monitors' answer may be waiting behind this event. They have
            # deadmen of their own, so nothing is lost by hearing them first.
            hearing_ms = now_ms + self._timing.release_budget_ms
            self._release_deadline_ms = max(self._release_deadline_ms, hearing_ms)
        if self._phase is NodePhase.STOPPED:
            return ()
        if isinstance(event, HeartbeatsHeard):
            # They may have waited for this turn; what each brings is weighed at the moment at which it arrived.
            self._hear(event)
        self._check_lease(now_ms)
        self._check_deadmen()
        self._take(event)
        self._settle_mandate()
        self._mind_monitors()
        self._check_membership()
        self._advance()
        out, self._out = self._out, []
        return tuple(out)

    @property
    def deadline_ms(self) -> int:
        """When the next Tick is due at the latest."""
        earliest_ms = self._next_vouch_ms
        if self._phase in (NodePhase.ASKING, NodePhase.MEMBER, NodePhase.STOPPING):
            until_ms = self._quorum_until_ms()
            if until_ms > self._now_ms:
                # The tick must come when the lease is over, not on its last millisecond.
                short_ms = until_ms - self._lease_is_short_ms
                earliest_ms = min(earliest_ms, short_ms if short_ms > self._now_ms else until_ms + 1)
        # A time that nobody looks at in this phase would be in the past for ever.
        retry_ms = self._ownership.next_ms if self._phase is NodePhase.MEMBER else None
        suspects_ms = None
        if self._hold is not None and not self._hold.owns and not self._contest[0]:
            suspects_ms = self._hold.suspects_at_ms(self._table)
            suspects_ms = suspects_ms if suspects_ms > self._now_ms else None
        times = (
            self._release_deadline_ms,
            retry_ms,
            suspects_ms,
            self._farewell_ms,
            self._stop_deadline_ms,
            self._next_probe_ms,
            self._witness.next_ms,
        )
        for at_ms in times:
            if at_ms is not None and at_ms < earliest_ms:
                earliest_ms = at_ms
        for command in self._commands.values():
            if command.again_ms is not None and command.again_ms < earliest_ms:
                earliest_ms = command.again_ms
        return earliest_ms

    @property
    def config(self) -> Config | None:
        """The newest configuration read from the log."""
        return self._config

    @property
    def index(self) -> int:
        """The log index of the configuration."""
        return self._index

    @property
    def holds_nothing(self) -> bool:
        """Every monitor has confirmed that nothing is left of what ran on this node."""
        return self._pool.clean and not self._pool.may_run

    @property
    def phase(self) -> NodePhase:
        """What the node is to itself."""
        return self._phase

    def view(self, now_ms: int) -> LiveView:
        """What this node knows besides the configuration."""
        until_ms = self._quorum_until_ms(now_ms)
        return LiveView(
            node=self._node,
            phase=self._phase,
            incarnation=self._incarnation,
            holds_quorum=until_ms > now_ms,
            quorum_lease_ms=max(0, until_ms - now_ms),
            votes_held=self._votes_held(now_ms),
            votes_needed=self._votes_needed,
            coordinator=self._leader,
            index=self._index,
            peers={
                peer: PeerView(
                    silent_ms=self._table.silent_ms(peer, now_ms),
                    lease_ms=max(0, self._lease_from_ms(peer) - now_ms),
                )
                for peer in self._peers
            },
            resources=self._ownership.views(now_ms),
            witness_trouble=self._witness_trouble,
            note=self._situation,
        )

    def _lease_from_ms(self, peer: NodeId) -> int:
        by_majority = self._hold is None or self._mandate.by_majority
        return self._table.lease_until_ms(peer) if by_majority else self._table.granted_by_ms(peer)

    # --- events -----------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        match event:
            case Tick() | HeartbeatsHeard():
                pass
            case Committed():
                self._committed(event)
            case ConfigInstalled():
                self._installed(event)
            case QuorumNews():
                self._installed(event)
            case PeerBehind():
                self._peer_behind(event.node)
            case OfLog():
                if event.generation == self._quorum.generation:
                    self._take(event.event)
            case LeadershipChanged():
                self._leader, self._leads = event.leader, event.leads
                self._log_members = event.members
                self._planned_for = None
            case ProposalFailed():
                self._proposal_failed(event)
            case MonitorSaid():
                self._monitor_said(event)
            case CommandArrived():
                self._command_arrived(event)
            case FenceEnded():
                self._fencing.ended(event.ticket, off=event.off, detail=event.detail, now_ms=self._now_ms)
            case InterfacesSeen():
                self._interfaces.seen(dict(event.links), event.heard)
            case WitnessAnswered():
                decision = self._witness.answered(event, self._now_ms)
                if decision is not None:
                    self._out.append(UseDecision(decision=decision))
            case WitnessSeen():
                self._see_witness(event.trouble)
            case StopRequested():
                self._stop_requested()
            case Held() | Lost() | GiveWay():
                self._disk_says(event)
            case _:
                assert_never(event)

    def _committed(self, event: Committed) -> None:
        if event.index > self._index:
            self._index = event.index
            self._follow(event.config)
        self._settle(event.proposal.request, event.refusal)

    def _installed(self, event: ConfigInstalled | QuorumNews) -> None:
        if event.index <= self._index:
            return
        news = isinstance(event, QuorumNews)
        if news and event.config.quorum.generation <= self._quorum.generation:
            return
        self._index = event.index
        generation = self._quorum.generation
        self._follow(event.config, beginning=event.beginning if isinstance(event, QuorumNews) else b"")
        if generation != self._quorum.generation:
            for command in self._commands.values():
                command.uncertain = True
        known = event.config.recent
        for request in [request for request in self._commands if request in known]:
            self._settle(request, known[request])
        under_way = self._failures.request
        if under_way is not None and under_way in known:
            self._failures.settled(under_way, told=known[under_way] is None)
        for request in [request for request in self._properties.requests if request in known]:
            self._properties_settled(request, known[request])
        self._outstanding.clear()

    def _follow(self, config: Config, *, beginning: bytes = b"") -> None:
        said = self._version_said
        before = self._config
        if config.quorum.generation > self._quorum.generation:
            self._change_log(config, beginning)
        self._config, self._voters = config, config.voters
        if config.timing != self._timing:
            if config.timing.quicker_than(self._timing):
                # Leases that were counted by the slower timing run on, and the deadmen by them. This node does not say
                # that it acts by the faster one before they have ended.
                bridge_ms = self._mandate.bridge_until_ms + self._timing.silence_ms() - self._timing.lease_ms
                until_ms = max(self._now_ms + self._timing.silence_ms(), bridge_ms)
                self._version_held = said, max(self._version_held[1], until_ms)
            self._timing = config.timing
            self._table.set_timing(config.timing)
            if self._hold is not None:
                self._hold.suspect_ms = self._suspect_ms
            self._out.append(UseTiming(timing=config.timing))
        if config.quorum != self._quorum and config.quorum.generation == self._quorum.generation:
            self._quorum = config.quorum
            self._out.append(UseQuorum(quorum=config.quorum))
        peers = {
            node.id: PeerAddress(name=node.name, addresses=node.addresses, port=node.port)
            for node in config.nodes.values()
            if node.id != self._node
        }
        if peers != self._peers:
            self._peers, self._peers_said = peers, False
            self._table.set_peers(peers, self._now_ms)
        if before is None or before.nodes is not config.nodes or before.networks is not config.networks:
            self._use_networks(config)
        self._know_incarnations(config)
        if self._phase in (NodePhase.MEMBER, NodePhase.STOPPING):
            self._ownership.follow(config)
            self._report_due = True

    def _change_log(self, config: Config, beginning: bytes) -> None:
        """The quorum has another log: leave the present one, and act by the new quorum (docs/decisions/0020)."""
        acts = self._phase in (NodePhase.MEMBER, NodePhase.STOPPING)
        led, self._quorum = self._leads, config.quorum
        self._mandate.change(
            config.quorum,
            self._table,
            acts=acts,
            former=self._timing,
            suspect_ms=disk_timing(PROFILES[config.timing.profile], config.quorum.hold_ms).suspect_ms,
            now_ms=self._now_ms,
            first=led,
        )
        if self._phase is NodePhase.ASKING:
            # What was asked under the former quorum must not be answered under this one.
            self._attempt = 0
        self._leader, self._leads, self._leader_forgotten = None, False, None
        self._log_members = frozenset()
        self._planned_for = None
        self._contest = (False, 1)
        self._out.append(ChangeLog(quorum=config.quorum, index=self._index, config=config, beginning=beginning))
        self._outstanding.clear()
        self._report_due = True
        for command in self._commands.values():
            # In the log that was left it is not made any more, if it has not been.
            command.again_ms = self._now_ms

    def _peer_behind(self, node: NodeId) -> None:
        """A node has been down, or cut off, while the quorum has changed."""
        config = self._config
        if config is None or config.quorum.generation != self._quorum.generation or node not in config.nodes:
            return
        if self._now_ms >= self._told_news.get(node, self._now_ms):
            self._told_news[node] = self._now_ms + NEWS_PAUSE_MS
            self._out.append(TellNews(node=node, index=self._index, config=config))

    def _use_networks(self, config: Config) -> None:
        """Send heartbeats on the internal networks alone. This only ever ends sending or begins it: a lease is what was
        heard, wherever it was."""
        if config.internal_positions != self._internal:
            self._internal, self._peers_said = config.internal_positions, False
        me = config.nodes.get(self._node)
        targets = {
            network.position: network.ping_targets
            for network in config.all_networks
            if network.client and network.ping_targets and me is not None and network.position < len(me.addresses)
        }
        if targets != self._ping_targets:
            self._ping_targets = targets
            self._out.append(PingNetworks(targets=targets))

    def _know_incarnations(self, config: Config) -> None:
        for node in config.nodes.values():
            if node.id != self._node:
                self._table.know_incarnation(node.id, node.incarnation, self._now_ms)

    def _settle(self, request: RequestId, refusal: Report | None) -> None:
        """A proposal of this node came back through the log."""
        self._failures.settled(request, told=refusal is None)
        self._properties_settled(request, refusal)
        for key, (waiting, _) in list(self._outstanding.items()):
            if waiting == request:
                del self._outstanding[key]
                if key in ("report", "interfaces") and refusal is not None:
                    # Whatever the reason, the same report would be refused again at once.
                    self._outstanding[key] = (RequestId(""), self._now_ms + REFUSED_REPORT_PAUSE_MS)
                self._report_due = self._report_due or key == "report"
        if self._commands.pop(request, None) is not None:
            self._out.append(Reply(request=request, refusal=refusal))

    def _proposal_failed(self, event: ProposalFailed) -> None:
        for key, (waiting, _) in list(self._outstanding.items()):
            if waiting == event.request:
                self._planned_for = None
                # The service's own proposals are made anew from the state of that moment, after a pause.
                self._outstanding[key] = (RequestId(""), self._now_ms + RETRY_PAUSE_MS)
        command = self._commands.get(event.request)
        if command is None:
            return
        if event.fate is ProposalFate.NOT_APPLIED and self._now_ms + RETRY_PAUSE_MS < command.deadline_ms:
            command.again_ms = self._now_ms + RETRY_PAUSE_MS
        elif event.fate is ProposalFate.NOT_APPLIED and command.uncertain:
            del self._commands[event.request]
            self._out.append(Reply(request=event.request, refusal=reports.outcome_unknown(event.detail)))
        elif event.fate is ProposalFate.NOT_APPLIED:
            del self._commands[event.request]
            self._out.append(Reply(request=event.request, refusal=reports.no_quorum(self._name, event.detail)))
        else:
            del self._commands[event.request]
            self._out.append(Reply(request=event.request, refusal=reports.outcome_unknown(event.detail)))

    def _command_arrived(self, event: CommandArrived) -> None:
        why = self._why_not_acting()
        heard = self._confirmed_but_heard(event.update) or self._cut_too_early(event.update)
        if heard is not None:
            self._out.append(Reply(request=event.request, refusal=heard))
        elif why:
            self._out.append(Reply(request=event.request, refusal=reports.no_quorum(self._name, why)))
        elif len(self._commands) >= COMMANDS_MAX:
            refusal = reports.limit_reached("changes under way on this node", COMMANDS_MAX)
            self._out.append(Reply(request=event.request, refusal=refusal))
        else:
            proposal = Proposal(request=event.request, proposer=self._node, at_ms=self._wall_ms, update=event.update)
            self._commands[event.request] = _Command(proposal=proposal, deadline_ms=self._now_ms + COMMAND_TIMEOUT_MS)
            self._out.append(Propose(proposal=proposal, timeout_ms=COMMAND_TIMEOUT_MS))

    def _confirmed_but_heard(self, update: Update) -> Report | None:
        """Nobody can confirm that a node is down while it is heard: its groups would run twice."""
        if not isinstance(update, ConfirmNodeDown) or self._config is None:
            return None
        silent_ms = 0 if update.node == self._node else self._table.silent_ms(update.node, self._now_ms)
        if silent_ms is None or silent_ms > self._timing.lease_ms:
            return None
        return reports.node_is_up(self._config.node_name(update.node), "it cannot be confirmed to be down")

    def _cut_too_early(self, update: Update) -> Report | None:
        """Whether the log must not be changed at this moment, by what this node hears."""
        if not isinstance(update, SetQuorum) or update.quorum is None or self._config is None:
            return None
        why = why_no_cut(
            self._config,
            self._table,
            node=self._node,
            said_version=self._version_said,
            to_majority=update.quorum.replicated,
            now_ms=self._now_ms,
        )
        if not why:
            return None
        return reports.quorum_cannot_become(self._config.quorum.kind.value, update.quorum.kind.value, why)

    def _why_not_acting(self) -> str:
        if self._phase in (NodePhase.MEMBER, NodePhase.STOPPING):
            return ""
        held, wanted = self._votes_held(self._now_ms), self._votes_needed
        if held >= wanted:
            return f"{self._situation}; it is not admitted yet"
        if self._hold is not None:
            return f"{self._situation}; it neither owns the quorum disk nor hears its owner"
        return f"{self._situation}; it has {held} of {wanted} votes needed"

    @property
    def _situation(self) -> str:
        """How the node came into its phase, and what it waits for there."""
        waits = ""
        if self._phase is NodePhase.STARTING:
            unready = [self._which_monitor(monitor.name) for monitor in self._pool if not monitor.ready]
            waits = f"it waits for {', '.join(unready)} to start and to clean up" if unready else ""
        elif self._phase is NodePhase.RELEASING:
            waits = "it waits until everything is terminated"
        elif self._phase is NodePhase.ASKING and self._config is None:
            waits = "it waits for the configuration of the cluster"
        elif self._phase is NodePhase.ASKING:
            lacks = "a majority" if self._hold is None else "the quorum disk or its owner"
            waits = "it waits for the coordinator to admit it" if self._attempt else f"it waits for {lacks}"
        return "; ".join(part for part in (self._note, waits) if part)

    def _stop_requested(self) -> None:
        if self._stop_wanted:
            return
        self._stop_wanted = True
        if self._phase is NodePhase.MEMBER:
            self._stop_deadline_ms = self._now_ms + STOP_TIMEOUT_MS
        elif self._phase is NodePhase.ASKING:
            self._release("the service was asked to stop")
        # Else what is left is being terminated already, under the deadline that it had.

    # --- monitors ---------------------------------------------------------------------------------------------------

    def _mind_monitors(self) -> None:
        """Have a separate monitor ready for each resource that asks for one, before it is needed; end those that nobody
        needs any more, when nothing runs in them.

        A node that is not a member yet learns here of monitors whose predecessors, in an earlier life of the service,
        may have left something; it is not clean before they have started.
        """
        if self._config is None or self._phase is NodePhase.STOPPING:
            return
        if self._config.resources is not self._monitored:
            self._monitored = self._config.resources
            groups = self._config.groups
            self._separate = frozenset(
                each.id
                for each in self._monitored.values()
                if each.separate_monitor and not groups[each.group].parallel
            )
            for name in sorted(self._separate):
                self._pool.want(name, self._now_ms)
        if len(self._pool) == 1:
            return
        idle = [m.name for m in self._pool if m.ready and m.name not in self._separate | {DEFAULT_MONITOR}]
        used = self._ownership.monitors_in_use() if idle else set()
        for name in idle:
            if name not in used:
                self._pool.drop(name)
                self._out.append(StopMonitor(monitor=name))

    def _monitor_said(self, event: MonitorSaid) -> None:
        report = event.report
        match report:
            case MonitorStarted():
                monitor = self._pool.began(event.monitor, self._now_ms)
                self._send_terminate_everything(monitor, "a new monitor cleans up after the one before it")
            case EverythingTerminated():
                self._everything_terminated(event.monitor, report)
            case MonitorDied():
                self._monitor_died(event.monitor, report)
            case DeadmanFired():
                self._deadman_fired(event.monitor)
            case CommandRefused(ending=True) if self._phase in (NodePhase.MEMBER, NodePhase.STOPPING):
                # The word of the deadman itself follows when everything has ended.
                self._deadman_fired(event.monitor)
            case ResourceReported():
                self._ownership.take_report(report, self._now_ms)
                self._report_due = True
            case CommandRefused():
                self._ownership.take_refusal(report, self._now_ms)
                self._report_due = True
            case PropertyChanged():
                self._property_changed(report)
            case ResourceLogged():
                self._log_resource(report)
            case _:
                assert_never(report)

    def _deadman_fired(self, name: str) -> None:
        """A monitor ends everything on its own; it starts nothing before it knows that this node knows."""
        if self._phase in (NodePhase.MEMBER, NodePhase.STOPPING):
            self._release("a resource monitor's deadman ended everything")
            return
        monitor = self._pool.get(name)
        if monitor is not None and monitor.started:
            self._pool.ask(monitor)
            self._send_terminate_everything(monitor, "its deadman has ended everything")

    def _everything_terminated(self, name: str, report: EverythingTerminated) -> None:
        if not self._pool.answered(name, report, self._now_ms):
            return
        monitor = self._pool.get(name)
        assert monitor is not None
        if report.left:
            self._out.append(
                FenceSelf(why=f"these resources could not be terminated: {', '.join(map(str, report.left))}")
            )
            # They are tried again; until then nothing that the monitor ran counts as stopped (rule R1).
            return
        if monitor.died_because and self._phase in (NodePhase.MEMBER, NodePhase.STOPPING):
            self._ownership.monitor_died(name, monitor.died_because, self._now_ms)
            self._report_due = True
        monitor.died_because = ""
        self._ownership.stir()

    def _monitor_died(self, name: str, report: MonitorDied) -> None:
        if self._pool.get(name) is None:
            # It was to end anyway.
            return
        culprit = ""
        if report.culprit and self._config and report.culprit in self._config.resources:
            culprit = f" while {self._config.resources[report.culprit].name!r} was running an entry point"
        why = f"{self._which_monitor(name)} ended: {report.why}{culprit}"
        self._pool.died(name, why, self._now_ms)
        self._say("monitor.died", f"{why[0].upper()}{why[1:]}; another one is started.", 1146, Severity.ERROR)

    def _which_monitor(self, name: str) -> str:
        if name == DEFAULT_MONITOR:
            return "the default monitor"
        resource = self._config.resources.get(ResourceId(name)) if self._config else None
        return f"the separate monitor of resource {(resource.name if resource else name)!r}"

    def _send_terminate_everything(self, monitor: MonitorState, why: str) -> None:
        assert monitor.owes is not None
        self._out.append(
            CommandMonitor(monitor=monitor.name, command=TerminateEverything(ticket=monitor.owes, why=why))
        )

    def _property_changed(self, report: PropertyChanged) -> None:
        if self._config is None or report.resource not in self._config.resources:
            return
        if not self._properties.add(report):
            owner = self._config.resources[report.resource].name
            message = f"Property {report.name} of resource {owner} was not stored: too many changes wait already."
            self._say("property.lost", message, 0, Severity.ERROR)

    def _send_properties(self) -> None:
        """Propose what resources have set themselves, until the log takes or refuses it."""
        assert self._config is not None
        for resource in self._properties.resources():
            key = f"properties {resource}"
            if resource not in self._config.resources:
                self._properties.forget(resource)
            elif key not in self._outstanding:
                wish = self._properties.next(resource)
                because = f"the resource itself set it on {self._name}"
                update = SetResourceProperties(resource=resource, private={wish.name: wish.value}, because=because)
                self._properties.proposed(wish, self._propose(key, update, request=wish.request))

    def _properties_settled(self, request: RequestId, refusal: Report | None) -> None:
        wish = self._properties.settled(request)
        if wish is not None and refusal is not None:
            message = f"What a resource set itself was not stored: {refusal.message}"
            self._say("property.lost", message, 0, Severity.ERROR)

    def _log_resource(self, report: ResourceLogged) -> None:
        resource = self._config.resources.get(report.resource) if self._config else None
        if resource is None:
            return
        severity = {LogLevel.INFORMATION: Severity.INFORMATION, LogLevel.WARNING: Severity.WARNING}.get(
            report.level, Severity.ERROR
        )
        self._out.append(
            Note(
                record=Record(
                    name="resource.log",
                    message=f"{resource.type} <{resource.name}>: {report.text}",
                    kind="resource",
                    object=resource.name,
                    severity=severity,
                    node=self._name,
                )
            )
        )

    # --- lease and phases (rules R2 and R4) -------------------------------------------------------------------------

    def _quorum_until_ms(self, now_ms: int | None = None) -> int:
        at_ms = self._now_ms if now_ms is None else now_ms
        return max(self._mandate.until_ms(self._table, each, at_ms) for each in self._electorates)

    @property
    def _electorates(self) -> tuple[frozenset[NodeId], ...]:
        """A majority of any of these counts; any two such majorities share a voter (docs/decisions/0023)."""
        return self._witness.electorates(self._config, self._voters)

    def _settle_mandate(self) -> None:
        acts = self._phase in (NodePhase.MEMBER, NodePhase.STOPPING)
        if self._mandate.settles(self._table, self._timing, self._now_ms, acts=acts):
            # Without what a majority gave it may have nothing left.
            self._check_lease(self._now_ms)

    def _hear(self, event: HeartbeatsHeard) -> None:
        for heard in event.heard:
            assert heard.received_ms <= self._now_ms, (heard, self._now_ms)
            self._check_lease(heard.received_ms)
            silent_ms = self._table.silent_ms(heard.heartbeat.sender, heard.received_ms)
            lives = self._table.hear(heard) and heard.heartbeat.phase is not NodePhase.STOPPED
            if lives and silent_ms is not None and silent_ms > self._timing.lease_ms:
                self._network_healed = True

    def _check_lease(self, at_ms: int) -> None:
        """Before anything else: did the lease that was known until then still run?"""
        holds = self._quorum_until_ms(at_ms) > at_ms
        if self._phase in (NodePhase.MEMBER, NodePhase.STOPPING) and not holds:
            self._release(self._why_lost)
        elif self._phase is NodePhase.ASKING and not holds:
            # What was asked before the gap must not be answered after it.
            self._attempt = 0

    @property
    def _why_lost(self) -> str:
        if self._hold is None:
            return "quorum was lost: no majority of the voters is known to have heard this node lately"
        if self._hold.gives_way_to is not None:
            other = self._config.node_name(self._hold.gives_way_to) if self._config else "another node"
            return f"it gives the quorum disk to {other}, which reaches clients while this node does not"
        if self._hold.lost_because:
            return f"the quorum disk was lost: {self._hold.lost_because}"
        return "quorum was lost: the owner of the quorum disk is not known to have heard this node lately"

    def _votes_held(self, now_ms: int) -> int:
        if self._hold is not None:
            return int(self._quorum_until_ms(now_ms) > now_ms)
        return self._table.votes_held(self._electorates[-1], now_ms)

    @property
    def _votes_needed(self) -> int:
        return 1 if self._hold is not None else needed(len(self._electorates[-1]))

    def _jury(self) -> Jury:
        jury, left = self._mandate.jury(self._voters), self._electorates[-1]
        return jury if self._hold is not None or left == self._voters else replace(jury, or_of=left)

    @property
    def _hold(self) -> DiskHold | None:
        return self._mandate.hold

    @property
    def _suspect_ms(self) -> int:
        return disk_timing(PROFILES[self._timing.profile], self._quorum.hold_ms).suspect_ms

    def _disk_says(self, event: Held | Lost | GiveWay) -> None:
        if self._hold is None:
            return
        owned = self._hold.owns
        self._hold.take(event, self._table, self._now_ms)
        if isinstance(event, Held) and not owned:
            self._planned_for = None
            self._say("quorum.owned", f"{self._name} owns the quorum disk.", 1560)
        elif isinstance(event, Lost):
            severity = Severity.WARNING if self._phase is NodePhase.MEMBER else Severity.INFORMATION
            self._say("quorum.lost", f"{self._name} owns the quorum disk no more: {event.because}.", 1038, severity)
        # An owner that gives way, or has lost the disk, acts no more from this moment on.
        self._check_lease(self._now_ms)

    def _mind_disk(self) -> None:
        """Want the disk, or let it go; see :mod:`clussvc.membership.disk_hold`."""
        hold = self._hold
        if hold is None:
            return
        # Who was evicted while it was away may own the disk before it reads that; as owner it would let nobody in.
        evicted = hold.owns and self._config is not None and self._node in self._config.evicted
        if (hold.gives_way_to is not None or evicted) and self.holds_nothing:
            self._give_disk_back()
        seeks = self._phase in (NodePhase.ASKING, NodePhase.MEMBER) and not hold.owns
        seeks = seeks and (self._config is None or self._node in self._config.nodes)
        contest = (seeks and self._now_ms >= hold.suspects_at_ms(self._table), self.client_networks_working)
        if contest != self._contest:
            self._contest = contest
            self._out.append(ContestQuorum(wanted=contest[0], client_networks=contest[1]))

    def _mind_witness(self) -> None:
        """Ask the witness when it matters; see :mod:`clussvc.membership.witness_watch`."""
        chosen = self._config is not None and self._config.witness.chosen and self._node in self._config.nodes
        witness = self._config.witness if self._config is not None and chosen else None
        if (witness and (witness.path, witness.token)) != (
            self._watched_witness and (self._watched_witness.path, self._watched_witness.token)
        ):
            self._watched_witness, self._witness_trouble = witness, None
            self._out.append(WatchWitness(witness=witness))
        question = self._witness.ask(
            self._config if witness is not None else None,
            self._table,
            leader=self._node if self._leads else self._leader,
            until_ms=self._quorum_until_ms(),
            now_ms=self._now_ms,
        )
        if question is not None:
            self._out.append(question)

    def _see_witness(self, trouble: str) -> None:
        if trouble == self._witness_trouble or self._watched_witness is None:
            return
        before, self._witness_trouble = self._witness_trouble, trouble
        path = self._watched_witness.path
        if trouble:
            message = f"{self._name} cannot use the witness {path}: {trouble}."
            self._say("witness.lost", message, 1562, Severity.WARNING)
        elif before is not None:
            self._say("witness.reached", f"The witness {path} is reached from {self._name} again.", 1561)

    def _give_disk_back(self) -> None:
        assert self._hold is not None
        self._hold.given_back(self._now_ms)
        self._out.append(GiveQuorumBack())

    @property
    def client_networks_working(self) -> int:
        """How many networks of clients work on this node; before anything is known of networks, one."""
        if self._config is None or self._node not in self._config.nodes:
            return 1
        return self._interfaces.clients_reached(self._config, member=self._phase is NodePhase.MEMBER)

    def _check_deadmen(self) -> None:
        """Has a monitor terminated everything because this core stood still for too long to feed it?

        Its word may be waiting behind this event, and what it ran must not be taken for running until then.
        """
        if self._phase in (NodePhase.MEMBER, NodePhase.STOPPING):
            late = [monitor for monitor in self._pool if monitor.may_run and 0 <= monitor.fed_until_ms <= self._now_ms]
            if late:
                self._release(f"{self._which_monitor(late[0].name)} was not fed in time by its service")

    def _check_membership(self) -> None:
        """What the log says about this node: admitted, or not any more."""
        if self._config is None:
            return
        known = self._config.nodes.get(self._node)
        if known is None:
            if self._phase is NodePhase.MEMBER:
                self._release("this node was evicted")
            return
        if self._phase is NodePhase.ASKING and self._attempt and self._pool.clean:
            if known.up and (known.boot, known.attempt) == (self._boot, self._attempt):
                self._enter_membership(known.incarnation)
            elif not known.up and (known.boot, known.attempt) == (self._boot, self._attempt):
                # Admitted and declared down, in entries of which a snapshot brought nothing but their outcome.
                self._attempt = 0
        elif self._phase is NodePhase.MEMBER and (not known.up or known.incarnation != self._incarnation):
            self._release(f"the others declared this node down ({known.down_because or 'admitted anew'})")

    def _enter_membership(self, incarnation: int) -> None:
        assert self._config is not None
        assert self._pool.clean
        self._phase, self._incarnation, self._attempt = NodePhase.MEMBER, incarnation, 0
        self._note = ""
        self._ownership = Ownership(self._node, self._failures)
        self._ownership.follow(self._config)
        self._interfaces.forget()
        self._report_due = True
        self._out.append(LeaveWill(incarnation=incarnation))
        self._say("node.admitted", f"{self._name} is a member of the cluster as incarnation {incarnation}.", 1062)

    def _release(self, why: str) -> None:
        """End this incarnation: terminate everything, then ask anew (or stop)."""
        self._say("node.releasing", f"{self._name} terminates all its resources: {why}.", 1177, Severity.WARNING)
        self._phase = NodePhase.RELEASING
        self._note = f"it terminated its resources because {why}"
        self._attempt = 0
        self._ownership = Ownership(self._node, self._failures)
        self._outstanding.clear()
        self._stop_deadline_ms = self._farewell_ms = None
        self._release_deadline_ms = self._now_ms + self._timing.release_budget_ms
        for monitor in self._pool:
            if monitor.started:
                self._pool.ask(monitor)
                self._send_terminate_everything(monitor, why)
        for request in list(self._commands):
            # Their outcome may still arrive, but this node can no longer promise to see it.
            del self._commands[request]
            self._out.append(Reply(request=request, refusal=reports.outcome_unknown(why)))

    def _advance_phase(self) -> None:
        if self._release_deadline_ms is not None:
            if self._pool.clean:
                self._release_deadline_ms = None
            elif self._now_ms >= self._release_deadline_ms:
                self._release_deadline_ms = None
                # A monitor that is still starting has nothing yet, however long the machine takes for it.
                if self._pool.may_run:
                    self._out.append(FenceSelf(why=self._unreleased))
        if self._phase in (NodePhase.STARTING, NodePhase.RELEASING) and self._pool.clean:
            if self._stop_wanted:
                self._finish("everything is terminated")
                return
            self._phase = NodePhase.ASKING
            self._note = self._note if self._incarnation else ""
        if self._phase is NodePhase.ASKING and not self._pool.clean:
            # A monitor died, or the log told of one more; only when it has cleaned up can this node say again that it
            # holds nothing.
            self._phase, self._attempt = NodePhase.STARTING, 0
        if self._phase is NodePhase.ASKING and not self._attempt:
            known = self._config.nodes.get(self._node) if self._config else None
            if known is not None and self._quorum_until_ms() > self._now_ms:
                self._attempts += 1
                self._attempt = self._attempts

    @property
    def _unreleased(self) -> str:
        if self._phase is NodePhase.STARTING:
            return f"what an earlier life of the service left was not terminated within {LEFTOVERS_TIMEOUT_MS} ms"
        return "resources were not terminated within the release budget"

    def _advance_stop(self) -> None:
        known = self._config.nodes.get(self._node) if self._config else None
        if self._phase is NodePhase.MEMBER and known is not None:
            self._stop_wanted = self._stop_wanted or known.stopping
            if not self._stop_wanted:
                return
            if self._stop_deadline_ms is None:
                self._stop_deadline_ms = self._now_ms + STOP_TIMEOUT_MS
            if not known.stopping:
                self._propose("stop", StopNode(node=self._node))
            overdue = self._now_ms >= self._stop_deadline_ms
            assert self._config is not None
            gone = known.stopping and not self._config.groups_owned_by(self._node)
            if gone or overdue:
                self._phase, self._stop_deadline_ms = NodePhase.STOPPING, self._now_ms + TERMINATE_TIMEOUT_MS
                self._note = "it is being stopped"
                for monitor in self._pool:
                    if monitor.started:
                        self._pool.ask(monitor)
                        self._send_terminate_everything(monitor, "the service stops")
        if self._phase is NodePhase.STOPPING and self._pool.clean:
            self._say_farewell()
        elif self._phase is NodePhase.STOPPING and self._now_ms >= (self._stop_deadline_ms or 0):
            if self._pool.may_run:
                self._out.append(FenceSelf(why="resources were not terminated while the service stopped"))
            self._finish("not everything could be terminated")

    def _say_farewell(self) -> None:
        assert self._config is not None
        known = self._config.nodes.get(self._node)
        if self._farewell_ms is None:
            self._farewell_ms = self._now_ms + FAREWELL_TIMEOUT_MS
        if known is not None and known.up and self._votes_go_on() and self._now_ms < self._farewell_ms:
            return
        if known is None or not known.up or self._now_ms >= self._farewell_ms:
            self._finish("its groups were handed over")
            return
        self._propose(
            "farewell",
            NodeDown(
                node=self._node,
                incarnation=self._incarnation,
                voters_version=self._config.voters_version,
                because="it handed its groups over",
                stopped=True,
            ),
        )

    def _votes_go_on(self) -> bool:
        """Whether the others would be no majority without this node, and soon will be, since votes are dynamic."""
        config = self._config
        if config is None or not config.dynamic_votes or self._hold is not None:
            return False
        if not any(each.up and not each.stopping for each in config.nodes.values() if each.id != self._node):
            return False
        if config.nodes[self._node].voter and len(config.voters) <= 2:
            return True
        # Who leads the log must not leave it behind without a majority.
        left = electorates(self._log_members | {self._node}, None)
        return self._leads and not any(2 * len(each - {self._node}) > len(each) for each in left)

    def _finish(self, why: str) -> None:
        self._phase = NodePhase.STOPPED
        if self._hold is not None and self._hold.owns and self.holds_nothing:
            self._give_disk_back()
        self._out.append(StopService(why=why))

    # --- what follows from the state of this moment -----------------------------------------------------------------

    def _advance(self) -> None:
        if not self._peers_said:
            self._peers_said = True
            self._out.append(SetPeers(peers=dict(self._peers), internal=self._internal))
        for monitor in self._pool.due_to_start(self._now_ms):
            self._out.append(StartMonitor(monitor=monitor.name))
        for monitor in self._pool:
            if monitor.ask_again_ms is not None and self._now_ms >= monitor.ask_again_ms:
                self._pool.ask(monitor)
                self._send_terminate_everything(monitor, "some resources were left the last time")
        self._expire()
        self._advance_phase()
        self._advance_stop()
        if self._phase is NodePhase.STOPPED:
            return
        self._mind_disk()
        self._mind_witness()
        if self._phase in (NodePhase.MEMBER, NodePhase.STOPPING):
            self._feed_monitors()
        if self._network_healed:
            self._announce_again()
        if self._phase is NodePhase.MEMBER:
            self._step_groups()
            self._send_report()
            self._send_properties()
            self._tell_interfaces()
        self._coordinate()
        self._vouch()

    def _expire(self) -> None:
        for key in [key for key, (_, deadline_ms) in self._outstanding.items() if self._now_ms >= deadline_ms]:
            del self._outstanding[key]
            self._planned_for = None
            self._report_due = self._report_due or key == "report"
        for request, command in list(self._commands.items()):
            if self._now_ms >= command.deadline_ms + RETRY_PAUSE_MS:
                del self._commands[request]
                refusal = reports.outcome_unknown("no answer came in time")
                self._out.append(Reply(request=request, refusal=refusal))
            elif command.again_ms is not None and self._now_ms >= command.again_ms:
                command.again_ms = None
                remaining_ms = max(RETRY_PAUSE_MS, command.deadline_ms - self._now_ms)
                self._out.append(Propose(proposal=command.proposal, timeout_ms=remaining_ms))

    def _feed_monitors(self) -> None:
        """Move the deadman's deadline along with the lease; every small step would be noise.

        A node that stops in order holds its quorum while its monitors terminate what is left. Their deadmen would end
        the stop as if the lease were lost, within the short release budget, so they are fed on.
        """
        until_ms = self._quorum_until_ms()
        step_ms = self._timing.heartbeat_interval_ms // 2
        stopping = self._phase is NodePhase.STOPPING
        for monitor in self._pool:
            if not (monitor.ready or (stopping and monitor.started)):
                continue
            # One that runs out before the next step, or has, is fed by every small step.
            least_ms = max(1, step_ms) if monitor.fed_until_ms > self._now_ms + step_ms else 1
            if until_ms >= monitor.fed_until_ms + least_ms:
                monitor.fed_until_ms = until_ms
                extended = LeaseExtended(until_ms=until_ms, budget_ms=self._timing.release_budget_ms)
                self._out.append(CommandMonitor(monitor=monitor.name, command=extended))

    def _announce_again(self) -> None:
        """What runs here may have been announced while a part of the network could not hear it."""
        self._network_healed = False
        if self._phase is NodePhase.MEMBER:
            for monitor in self._pool:
                if monitor.ready and monitor.opened:
                    self._out.append(CommandMonitor(monitor=monitor.name, command=NetworkHealed()))

    def _step_groups(self) -> None:
        wanted = self._ownership.step(self._now_ms, ready=self._monitor_ready)
        for moved in wanted.moved:
            home = self._pool.get(self._ownership.monitor_of(moved))
            if home is not None and moved in home.opened:
                # The epochs of its new group count from now on; commands under them would be taken for old ones.
                self._open(home, moved)
        opening: dict[str, MonitorState] = {}
        for command in wanted.commands:
            monitor = self._pool.want(self._ownership.monitor_of(command.resource), self._now_ms)
            if isinstance(command, BringOnline):
                self._open(monitor, command.resource)
                opening[monitor.name] = monitor
            monitor.may_run = True
            self._out.append(CommandMonitor(monitor=monitor.name, command=command))
        for monitor in opening.values():
            self._close_unknown(monitor)
        if wanted.commands:
            self._report_due = True
        for failover in wanted.failovers:
            self._propose(
                f"failover {failover.group} {failover.epoch} {failover.resource}",
                RequestFailover(
                    group=failover.group,
                    epoch=failover.epoch,
                    resource=failover.resource,
                    because=failover.because,
                    at_ms=self._wall_ms,
                ),
            )
        for release in wanted.releases:
            self._propose(f"release {release.group} {release.epoch}", release)

    def _monitor_ready(self, resource: ResourceId) -> bool:
        name = self._ownership.monitor_of(resource)
        monitor = self._pool.want(name, self._now_ms)
        if monitor.start_at_ms is not None and monitor.start_at_ms <= self._now_ms:
            for due in self._pool.due_to_start(self._now_ms):
                self._out.append(StartMonitor(monitor=due.name))
        return monitor.ready and monitor.fed_until_ms > self._now_ms

    def _open(self, monitor: MonitorState, resource: ResourceId) -> None:
        spec = self._ownership.spec(resource)
        assert spec is not None
        if monitor.opened.get(resource) != spec:
            monitor.opened[resource] = spec
            monitor.may_run = True
            self._out.append(CommandMonitor(monitor=monitor.name, command=OpenResource(spec=spec)))

    def _close_unknown(self, monitor: MonitorState) -> None:
        for gone in [known for known in monitor.opened if not self._ownership.known(known)]:
            del monitor.opened[gone]
            self._out.append(CommandMonitor(monitor=monitor.name, command=CloseResource(resource=gone)))

    def _send_report(self) -> None:
        if not self._report_due or "report" in self._outstanding:
            return
        self._report_due = False
        report = self._ownership.report(self._incarnation, self._now_ms)
        if report is None:
            return
        request = self._propose("report", report, request=self._failures.request if report.failures else None)
        if report.failures:
            self._failures.proposed(request)

    def _tell_interfaces(self) -> None:
        """Propose what this node sees of its interfaces; see :mod:`clussvc.membership.interface_watch`."""
        assert self._config is not None
        if "interfaces" in self._outstanding or self._node not in self._config.nodes:
            return
        view = self._interfaces.to_tell(self._config, self._heard_lately, self._now_ms)
        if view is not None:
            update = ReportInterfaces(node=self._node, incarnation=self._incarnation, interfaces=view)
            self._propose("interfaces", update)

    def _heard_lately(self) -> set[NodeId]:
        silent_ms = {peer: self._table.silent_ms(peer, self._now_ms) for peer in self._peers}
        return {peer for peer, ms in silent_ms.items() if ms is not None and ms <= self._timing.lease_ms}

    def _vouch(self) -> None:
        """Say that this core lives; at once when there is something new to say, else once in an interval."""
        voters_version = self._version_said
        grants_until_ms = self._hold.grants_until_ms if self._hold is not None else 0
        said = (self._phase, self._attempt, self._incarnation, voters_version, grants_until_ms > 0)
        watched = self._watched()
        probe = self._probe(watched)
        watch_ms = self._timing.lease_ms if watched else -1
        if self._phase is not NodePhase.MEMBER or self._quorum_until_ms() - self._now_ms <= self._lease_is_short_ms:
            # On the way into the cluster, and before a lease runs out, every word counts. A member has its regular
            # turns.
            watch_ms = 0
        watching = (watched, watch_ms)
        changed = said != self._vouched
        if not (changed or probe or watching != self._watching or self._now_ms >= self._next_vouch_ms):
            return
        self._vouched, self._watching = said, watching
        self._next_vouch_ms = self._now_ms + self._timing.heartbeat_interval_ms
        self._out.append(
            Vouch(
                until_ms=self._now_ms + self._timing.lease_ms,
                grants_until_ms=grants_until_ms,
                interval_ms=self._timing.heartbeat_interval_ms,
                incarnation=self._incarnation,
                phase=self._phase,
                attempt=self._attempt,
                index=self._index,
                voters_version=voters_version,
                at_once=changed or probe,
                probe=probe,
                watched=watched,
                watch_ms=watch_ms,
            )
        )

    @property
    def _version_said(self) -> int:
        """Which version of voters and timing this node says it acts by."""
        version, until_ms = self._version_held
        if self._now_ms < until_ms:
            return version
        if self._config is None:
            return 0
        if not self._mandate.settled(self._now_ms):
            return self._config.settling_version - 1
        return self._config.voters_version

    @property
    def _lease_is_short_ms(self) -> int:
        """What is left of a lease when something is late; a healthy one is never so short at a turn of the core."""
        return 5 * self._timing.heartbeat_interval_ms // 2

    def _watched(self) -> tuple[NodeId, ...]:
        """Whose silence this node may have to judge."""
        if not self._leads or self._config is None or self._phase is not NodePhase.MEMBER:
            return ()
        return tuple(node.id for node in self._config.nodes.values() if node.up and node.id != self._node)

    def _probe(self, watched: tuple[NodeId, ...]) -> bool:
        """Whether the peers should report at once, since a node has been silent here for as long as decides.

        The others heard it last a little later than this node, or earlier, so the questions are repeated in steps that
        double, until the regular heartbeats take over.
        """
        self._next_probe_ms = None
        limit_ms = self._timing.silence_ms() + PROBE_AFTER_MS
        due = False
        for node in watched:
            quiet_ms = self._table.quiet_from_ms(node)
            if quiet_ms is None:
                continue
            step_ms = 0
            while (at_ms := quiet_ms + limit_ms + step_ms) <= self._now_ms and step_ms < 1_000:
                due = due or at_ms > self._probed_ms
                step_ms = max(PROBE_AFTER_MS, 2 * step_ms)
            if step_ms <= self._timing.heartbeat_interval_ms and at_ms > self._now_ms:
                self._next_probe_ms = min(self._next_probe_ms or at_ms, at_ms)
        if due:
            self._probed_ms = self._now_ms
        return due

    def _coordinate(self) -> None:
        """The coordinator's turn; see :mod:`clussvc.groups.coordinator`."""
        config = self._config
        if config is None and self._leads and self._found is not None and "found" not in self._outstanding:
            request, update = self._found
            self._propose("found", update, request=request)
        if config is None or self._quorum_until_ms() <= self._now_ms:
            self._fencing.forget()
            return
        fenced = self._fence_others(config)
        if not self._leads:
            self._forget_dead_leader(config)
            return
        if "coordination" in self._outstanding:
            return
        own = (self._boot, self._attempt) if self._phase is NodePhase.ASKING and self._attempt else None
        again = self._plan_again_wall_ms is not None and self._wall_ms >= self._plan_again_wall_ms
        decided = coordinate(
            config,
            self._table,
            node=self._node,
            own_request=own,
            log_members=self._log_members if self._hold is None else frozenset(config.nodes),
            jury=self._jury(),
            said_version=self._version_said if self._phase is NodePhase.MEMBER else 0,
            decision=self._witness.decision,
            now_ms=self._now_ms,
            wall_ms=self._wall_ms,
            plan_due=again or config is not self._planned_for,
            fenced=fenced,
        )
        if decided.planned:
            self._planned_for, self._plan_again_wall_ms = config, decided.next_wall_ms
        if decided.updates:
            self._propose("coordination", Batch(updates=decided.updates))
        if len(self._member_changes) > MEMBER_CHANGES_KEPT:
            self._member_changes = {each: at for each, at in self._member_changes.items() if at > self._now_ms}
        changes: list[AddLogMember | RemoveLogMember] = [AddLogMember(node=each) for each in decided.add_log_members]
        changes += [RemoveLogMember(node=each) for each in decided.remove_log_members]
        for change in changes:
            if self._now_ms >= self._member_changes.get(change, 0):
                pause_ms = STAND_IN_PAUSE_MS if is_stand_in(change.node) else MEMBER_CHANGE_PAUSE_MS
                self._member_changes[change] = self._now_ms + pause_ms
                self._out.append(change)

    def _forget_dead_leader(self, config: Config) -> None:
        """A leader whose last will was heard need not be waited for (docs/decisions/0012)."""
        leader = config.nodes.get(self._leader) if self._leader is not None else None
        if leader is None or self._leader_forgotten == (leader.id, leader.incarnation):
            return
        if last_will_heard(self._table, leader):
            self._leader_forgotten = leader.id, leader.incarnation
            self._out.append(ForgetLeader(node=leader.id))

    def _fence_others(self, config: Config) -> list[NodeFenced | FencingFailed]:
        """Give fence devices their orders; what came of earlier ones. See :mod:`clussvc.membership.fencing`."""
        if not config.fence_devices or not (self._leads or self._phase is NodePhase.MEMBER):
            self._fencing.forget()
            return []
        coordinator = self._node if self._leads else self._leader
        for order in self._fencing.step(
            config, self._table, node=self._node, coordinator=coordinator, jury=self._jury(), now_ms=self._now_ms
        ):
            self._out.append(FenceNode(order=order))
        updates = self._fencing.updates(config, self._table, self._now_ms)
        if updates and not self._leads:
            self._propose("fencing", Batch(updates=tuple(updates)))
        return updates

    # --- small helpers ----------------------------------------------------------------------------------------------

    def _propose(self, key: str, update: Update, *, request: RequestId | None = None) -> RequestId:
        """Propose for the service itself; ``key`` names the purpose, of which one proposal at a time is under way.
        The answer is the id of the one that is."""
        if key in self._outstanding:
            return self._outstanding[key][0]
        self._counter += 1
        request = request or RequestId(f"n{self._node}-{self._boot}-{self._counter}")
        self._outstanding[key] = (request, self._now_ms + PROPOSAL_TIMEOUT_MS)
        proposal = Proposal(request=request, proposer=self._node, at_ms=self._wall_ms, update=update)
        self._out.append(Propose(proposal=proposal, timeout_ms=PROPOSAL_TIMEOUT_MS))
        return request

    @property
    def _name(self) -> str:
        return self._config.node_name(self._node) if self._config else f"node {self._node}"

    def _say(self, name: str, message: str, event_id: int, severity: Severity = Severity.INFORMATION) -> None:
        record = Record(
            name=name,
            message=message,
            kind="node",
            object=self._name,
            event_id=event_id,
            severity=severity,
            node=self._name,
        )
        self._out.append(Note(record=record))

"""The node core alone: one node, hand-made events, the actions they lead to.

What whole clusters promise is told in the simulation; here are the corners that a story seldom reaches.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.actions import (
    Action,
    CommandMonitor,
    FenceSelf,
    ForgetLeader,
    LeaveWill,
    Note,
    PeerAddress,
    PingNetworks,
    Propose,
    Reply,
    SetPeers,
    StartMonitor,
    StopMonitor,
    StopService,
    UseTiming,
    Vouch,
)
from clussvc.events import (
    CommandArrived,
    Committed,
    ConfigInstalled,
    Event,
    HeartbeatsHeard,
    InterfacesSeen,
    LeadershipChanged,
    MonitorSaid,
    ProposalFailed,
    ProposalFate,
    StopRequested,
    Tick,
)
from clussvc.global_update.apply import apply
from clussvc.global_update.update import (
    AssignGroup,
    ConfirmNodeDown,
    CreateResource,
    DeleteResource,
    FoundCluster,
    GroupReleased,
    NodeDown,
    NodeUp,
    OnlineResource,
    PauseNode,
    Proposal,
    ReportInterfaces,
    ReportStates,
    SetClusterProperties,
    SetNetworkProperties,
    SetResourceProperties,
    SetVoter,
    StopNode,
    Update,
)
from clussvc.membership.connectivity import LinkSeen
from clussvc.membership.heartbeat import Heard, Heartbeat
from clussvc.membership.regroup import RESTART_GRACE_MS
from clussvc.model.config import PING_TARGETS, Config, Interface, Node
from clussvc.model.ids import GroupId, NetworkId, NodeId, RequestId, ResourceId
from clussvc.model.monitoring import (
    BringOnline,
    CommandRefused,
    DeadmanFired,
    EverythingTerminated,
    LeaseExtended,
    MonitorDied,
    MonitorStarted,
    NetworkHealed,
    OpenResource,
    PropertyChanged,
    ResourceReported,
    TerminateEverything,
    TerminateResource,
)
from clussvc.model.settings import FAST, LAN
from clussvc.model.states import NodePhase, ResourceState
from clussvc.node import TERMINATE_TIMEOUT_MS, NodeCore

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
GROUP, APP, OWN = GroupId("cluster-group"), ResourceId("app"), ResourceId("own")
WALL_MS = 1_800_000_000_000


PEERS = {n: PeerAddress(name=f"n{n}", addresses=(f"10.0.0.{n}",), port=1) for n in (N2, N3)}


class Bench:
    """One core, its log, and two peers that say what the test wants."""

    def __init__(self) -> None:
        self.now_ms = 1_000
        self.index = 0
        self.requests = 0
        self.seq = 0
        self.actions: list[Action] = []
        self.replies: list[Reply] = []
        self.reporting: list[tuple[RequestId, ReportStates]] = []
        self.config = self.three_nodes()
        self.core = NodeCore(node=N1, boot=5, timing=LAN, peers=PEERS, index=0, config=self.config, now_ms=self.now_ms)

    def three_nodes(self) -> Config:
        found = FoundCluster(
            name="T",
            timing_profile="lan",
            node_name="n1",
            addresses=("10.0.0.1",),
            port=1,
            admin_port=0,
            utc_offset_min=0,
            group=GROUP,
        )
        config = apply(None, self.proposal(found)).config
        others = {
            n: Node(id=n, name=f"n{n}", addresses=(f"10.0.0.{n}",), port=1, voter=True, up=True, joining=False)
            for n in (N2, N3)
        }
        config = replace(config, nodes={**config.nodes, **others}, next_node_id=4)
        app = CreateResource(
            resource=APP, name="app", type="Generic Application", group=GROUP, private={"CommandLine": "x"}
        )
        config = apply(config, self.proposal(app)).config
        return apply(config, self.proposal(OnlineResource(resource=APP))).config

    def proposal(self, update: Update) -> Proposal:
        self.requests += 1
        return Proposal(request=RequestId(f"r{self.requests}"), proposer=N1, at_ms=WALL_MS, update=update)

    def give(self, event: Event) -> list[Action]:
        self.actions = list(self.core.handle(event, now_ms=self.now_ms, wall_ms=WALL_MS + self.now_ms))
        self.replies += [action for action in self.actions if isinstance(action, Reply)]
        self.reporting += reports(self.actions)
        return self.actions

    def commit(self, update: Update, *, request: RequestId | None = None) -> list[Action]:
        """The log brings this entry."""
        proposal = self.proposal(update)
        if request is not None:
            proposal = replace(proposal, request=request)
        applied = apply(self.config, proposal)
        self.config = applied.config
        self.index += 1
        return self.give(
            Committed(
                index=self.index,
                proposal=proposal,
                config=self.config,
                refusal=applied.refusal,
                records=applied.records,
            )
        )

    def monitor(self, report: object, *, name: str = "") -> list[Action]:
        return self.give(MonitorSaid(monitor=name, report=report))  # type: ignore[arg-type]

    def clean(self, *, name: str = "") -> None:
        """The monitor starts and confirms that nothing is left."""
        self.give(Tick())
        self.monitor(MonitorStarted(pid=9), name=name)
        self.confirm(name=name)

    def confirm(self, *, name: str = "") -> list[Action]:
        ticket = next(
            action.command.ticket
            for action in reversed(self.actions)
            if isinstance(action, CommandMonitor) and isinstance(action.command, TerminateEverything)
        )
        return self.monitor(EverythingTerminated(ticket=ticket), name=name)

    def lease(self) -> list[Action]:
        """Both peers acknowledge what was sent last, a millisecond later."""
        while not any(isinstance(action, Vouch) for action in self.actions):
            self.now_ms = self.core.deadline_ms
            self.give(Tick())
        sent_ms = self.now_ms
        self.now_ms += 1
        return self.hear(*(self.heartbeat(peer, sent_ms, self.now_ms) for peer in (N2, N3)))

    def hear(self, *heard: Heard) -> list[Action]:
        """Heartbeats are taken in now."""
        return self.give(HeartbeatsHeard(heard=heard))

    def heartbeat(self, peer: NodeId, acknowledged_ms: int | None, received_ms: int) -> Heard:
        """The next one of that peer."""
        self.seq += 1
        heartbeat = Heartbeat(
            sender=peer,
            boot=1,
            seq=self.seq,
            incarnation=1,
            phase=NodePhase.MEMBER,
            attempt=0,
            index=0,
            voters_version=self.config.voters_version,
            heard=(),
        )
        return Heard(heartbeat=heartbeat, received_ms=received_ms, acknowledged_ms=acknowledged_ms)

    def up(self, *, attempt: int = 1) -> list[Action]:
        known = self.config.nodes[N1]
        return self.commit(NodeUp(node=N1, incarnation=known.incarnation, boot=5, attempt=attempt))

    def member(self) -> None:
        """All the way to membership."""
        self.clean()
        self.lease()
        self.up()
        assert phase(self) is NodePhase.MEMBER

    def owner(self) -> list[Action]:
        """A member that owns the group; the commands that follow."""
        self.member()
        return self.assign()

    def assign(self) -> list[Action]:
        epoch = self.config.groups[GROUP].epoch
        return self.commit(AssignGroup(group=GROUP, epoch=epoch, to=N1, because="test"))

    def settle_reports(self) -> None:
        """The log takes what is reported until there is nothing more to report."""
        while self.reporting:
            request, report = self.reporting.pop(0)
            self.commit(report, request=request)

    def online(self) -> None:
        self.owner()
        epoch = self.config.groups[GROUP].epoch
        self.monitor(ResourceReported(resource=APP, epoch=epoch, state=ResourceState.ONLINE))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def phase(bench: Bench) -> NodePhase:
    """Asked anew each time, so that a test may follow a node through its phases."""
    return bench.core.phase


def commands(actions: list[Action]) -> list[object]:
    return [action.command for action in actions if isinstance(action, CommandMonitor)]


def reports(actions: list[Action]) -> list[tuple[RequestId, ReportStates]]:
    return [
        (action.proposal.request, action.proposal.update)
        for action in actions
        if isinstance(action, Propose) and isinstance(action.proposal.update, ReportStates)
    ]


def proposed(actions: list[Action]) -> list[Update]:
    return [action.proposal.update for action in actions if isinstance(action, Propose)]


def test_a_node_begins_by_cleaning_up(bench: Bench) -> None:
    """The monitor is started first, and asked to terminate everything before anything else."""
    assert StartMonitor(monitor="") in bench.give(Tick())
    assert [type(command) for command in commands(bench.monitor(MonitorStarted(pid=9)))] == [TerminateEverything]
    assert phase(bench) is NodePhase.STARTING
    bench.confirm()
    assert phase(bench) is NodePhase.ASKING


def test_a_node_asks_only_while_its_lease_runs(bench: Bench) -> None:
    """Without a majority there is nobody to ask; with one, the next heartbeat carries the request."""
    bench.clean()
    bench.now_ms += 100
    quiet = [action for action in bench.give(Tick()) if isinstance(action, Vouch)]
    asking = [action for action in bench.lease() if isinstance(action, Vouch)]

    assert [vouch.attempt for vouch in quiet] == [0]
    assert [(vouch.attempt, vouch.at_once) for vouch in asking] == [(1, True)]


def test_a_node_says_what_it_waits_for(bench: Bench) -> None:
    """In each phase, where people look."""
    notes = [bench.core.view(bench.now_ms).note]
    bench.clean()
    notes.append(bench.core.view(bench.now_ms).note)
    bench.lease()
    notes.append(bench.core.view(bench.now_ms).note)

    assert notes == [
        "the service is starting; it waits for the default monitor to start and to clean up",
        "it waits for a majority",
        "it waits for the coordinator to admit it",
    ]


def test_the_death_of_a_monitor_names_it(bench: Bench) -> None:
    """The default one, or the resource that it is for."""
    online_in_its_own_monitor(bench)
    said = [*bench.monitor(MonitorDied(why="signal 9")), *bench.monitor(MonitorDied(why="signal 9"), name=OWN)]

    assert [action.record.message for action in said if isinstance(action, Note)] == [
        "The default monitor ended: signal 9; another one is started.",
        "The separate monitor of resource 'own' ended: signal 9; another one is started.",
    ]


def test_a_node_without_a_majority_sleeps(bench: Bench) -> None:
    """It has nothing to do until its next heartbeat; it must not turn in circles meanwhile."""
    bench.clean()
    bench.now_ms += 1

    assert phase(bench) is NodePhase.ASKING
    bench.give(Tick())
    assert bench.core.deadline_ms >= bench.now_ms + LAN.heartbeat_interval_ms // 2


def test_an_admission_after_a_gap_does_not_count(bench: Bench) -> None:
    """Between the question and the answer the lease ran out: somebody may have declared the node down meanwhile."""
    bench.clean()
    bench.lease()
    bench.now_ms += LAN.lease_ms + 1
    bench.up(attempt=1)
    bench.assign()

    assert phase(bench) is NodePhase.ASKING
    assert BringOnline not in [type(command) for command in commands(bench.actions)]
    bench.lease()
    bench.up(attempt=2)
    assert phase(bench) is NodePhase.MEMBER


def test_an_admission_of_an_earlier_boot_does_not_count(bench: Bench) -> None:
    """Replayed from the log after a restart."""
    bench.clean()
    bench.lease()
    bench.commit(NodeUp(node=N1, incarnation=0, boot=4, attempt=1))

    assert phase(bench) is NodePhase.ASKING


def test_an_assignment_starts_resources_under_its_epoch_and_a_fed_deadman(bench: Bench) -> None:
    """First the lease, then the resource's description, then the command."""
    bench.member()
    fed = commands(bench.actions)
    epoch = bench.config.groups[GROUP].epoch + 1
    started = commands(bench.assign())

    assert any(isinstance(command, LeaseExtended) for command in fed)
    assert [type(command) for command in started] == [OpenResource, BringOnline]
    assert started[1] == BringOnline(resource=APP, epoch=epoch)


def test_a_lost_lease_ends_everything_and_the_incarnation(bench: Bench) -> None:
    """Terminate, confirm, ask anew; a lease that comes back by itself revives nothing."""
    bench.online()
    bench.now_ms += LAN.lease_ms + 1
    assert TerminateEverything in [type(command) for command in commands(bench.give(Tick()))]
    assert phase(bench) is NodePhase.RELEASING
    bench.confirm()
    assert phase(bench) is NodePhase.ASKING
    bench.lease()

    assert phase(bench) is NodePhase.ASKING
    assert not [c for c in commands(bench.actions) if isinstance(c, BringOnline | LeaseExtended)]


def test_a_lease_that_ended_during_a_pause_is_lost_although_heartbeats_wait(bench: Bench) -> None:
    """The process was stopped for a while; the first event it then takes must not renew what has ended."""
    bench.online()
    bench.now_ms += 10 * LAN.lease_ms
    bench.hear(bench.heartbeat(N2, None, bench.now_ms))

    assert phase(bench) is NodePhase.RELEASING


def test_heartbeats_that_waited_for_the_core_count_from_when_they_came(bench: Bench) -> None:
    """The core was late by less than a lease; what arrived meanwhile has kept the lease without a gap."""
    bench.online()
    begin_ms = bench.now_ms
    late_ms = LAN.lease_ms - 60
    bench.now_ms = begin_ms + late_ms
    times = [begin_ms + after_ms for after_ms in (100, 200, 300, late_ms)]
    bench.hear(*(bench.heartbeat(N2, at_ms - 1, at_ms) for at_ms in times))

    assert phase(bench) is NodePhase.MEMBER
    assert bench.core.view(bench.now_ms).quorum_lease_ms == LAN.lease_ms - 1


def test_a_lease_that_had_a_gap_while_heartbeats_waited_is_lost(bench: Bench) -> None:
    """It runs again when the core takes them in, but it had ended in between."""
    bench.online()
    gap_ms = bench.now_ms + LAN.lease_ms + 50
    bench.now_ms = gap_ms + 20
    bench.hear(bench.heartbeat(N2, gap_ms - 10, gap_ms))

    assert phase(bench) is NodePhase.RELEASING


def test_a_node_admitted_on_the_rest_of_a_lease_feeds_its_monitors_and_starts(bench: Bench) -> None:
    """The deadman fired a moment before the lease ended; what is left of it is less than a regular step of feeding."""
    bench.online()
    (fed_ms,) = {monitor.fed_until_ms for monitor in bench.core._pool}
    bench.now_ms = fed_ms - LAN.lease_ms + 30
    bench.hear(bench.heartbeat(N2, bench.now_ms, bench.now_ms))
    bench.now_ms = fed_ms + 1
    bench.monitor(DeadmanFired(lease_ended_ms=fed_ms))
    bench.confirm()
    known = bench.config.nodes[N1]
    bench.commit(NodeUp(node=N1, incarnation=known.incarnation, boot=5, attempt=bench.core._attempt))
    bench.now_ms += 10
    started = bench.assign() if bench.config.groups[GROUP].released else []
    assert phase(bench) is NodePhase.MEMBER
    assert [type(command) for command in commands(started)].count(BringOnline) == 1


def test_a_core_that_did_not_feed_its_monitors_in_time_releases(bench: Bench) -> None:
    """Heartbeats have kept the lease, but the deadmen have fired: nothing is taken for running on old news."""
    bench.online()
    begin_ms = bench.now_ms
    bench.now_ms = begin_ms + LAN.lease_ms + 100
    times = range(begin_ms + 100, bench.now_ms, 100)
    said = bench.hear(*(bench.heartbeat(N2, at_ms - 1, at_ms) for at_ms in times))

    assert not [command for command in commands(said) if isinstance(command, BringOnline)]
    assert phase(bench) is NodePhase.RELEASING
    assert "not fed in time" in bench.core.view(bench.now_ms).note


def test_who_cannot_release_in_time_is_fenced(bench: Bench) -> None:
    """Rule R4: the monitor does not answer within the release budget."""
    bench.online()
    bench.now_ms += LAN.lease_ms + 1
    bench.give(Tick())
    actions: list[Action] = []
    for _ in range(4):
        bench.now_ms += LAN.heartbeat_interval_ms
        actions += bench.give(Tick())

    assert [type(action) for action in actions if isinstance(action, FenceSelf)] == [FenceSelf]


def silent(bench: Bench) -> list[Action]:
    """The lease ends, and no monitor says anything for longer than the release budget."""
    bench.now_ms += LAN.lease_ms + 1
    actions = bench.give(Tick())
    assert phase(bench) is NodePhase.RELEASING
    for _ in range(5):
        bench.now_ms += LAN.heartbeat_interval_ms
        actions += bench.give(Tick())
    return actions


def fences(actions: list[Action]) -> int:
    return sum(isinstance(action, FenceSelf) for action in actions)


def test_a_monitor_that_is_still_starting_is_no_reason_to_fence(bench: Bench) -> None:
    """A separate monitor that was never ready has nothing, and the other one has answered."""
    bench.online()
    bench.commit(CreateResource(resource=OWN, name="own", type="Generic Script", group=GROUP, separate_monitor=True))
    bench.now_ms += LAN.lease_ms + 1
    bench.give(Tick())
    bench.confirm()
    actions: list[Action] = []
    for _ in range(10):
        bench.now_ms += LAN.heartbeat_interval_ms
        actions += bench.give(Tick())

    assert fences(actions) == 0
    assert phase(bench) is NodePhase.RELEASING
    bench.clean(name=OWN)
    assert phase(bench) is NodePhase.ASKING


def test_what_a_dead_monitor_left_is_a_reason_to_fence(bench: Bench) -> None:
    """Its successor has not cleaned up yet when the budget is over."""
    bench.online()
    bench.monitor(MonitorDied(why="signal 9"))

    assert fences(silent(bench)) == 1


def test_a_monitor_that_died_with_nothing_in_it_is_no_reason_to_fence(bench: Bench) -> None:
    """The one before it was cleaned up after, and this one took no command since."""
    bench.member()
    bench.monitor(MonitorDied(why="signal 9"))

    assert fences(silent(bench)) == 0


def test_a_new_service_that_cannot_clean_up_after_its_earlier_life_is_fenced(bench: Bench) -> None:
    """Its monitors do not start; the others count on this before they take its groups over. Nothing is known of others
    in this run: a monitor without leftovers is no reason."""
    began_ms = bench.now_ms
    actions: list[Action] = []
    while bench.now_ms < began_ms + RESTART_GRACE_MS:
        actions += bench.give(Tick())
        bench.now_ms += LAN.heartbeat_interval_ms
    assert fences(actions) == 0
    for _ in range(3):
        actions += bench.give(Tick())
        bench.now_ms += LAN.heartbeat_interval_ms

    assert fences(actions) == 1


def test_a_new_service_with_nothing_to_clean_up_is_not_fenced(bench: Bench) -> None:
    """After a reboot, or an orderly stop; otherwise a broken monitor would reboot the machine for ever."""
    bench.core = NodeCore(
        node=N1, boot=5, timing=LAN, peers=PEERS, index=0, config=bench.config, now_ms=bench.now_ms, leftovers=()
    )
    actions: list[Action] = []
    for _ in range(200):
        bench.now_ms += LAN.heartbeat_interval_ms
        actions += bench.give(Tick())

    assert fences(actions) == 0
    assert phase(bench) is NodePhase.STARTING


def test_a_monitor_of_an_earlier_life_cleans_up_and_ends_if_nobody_needs_it(bench: Bench) -> None:
    """Its resource was deleted meanwhile, or the database was lost."""
    bench.core = NodeCore(
        node=N1, boot=5, timing=LAN, peers=PEERS, index=0, config=bench.config, now_ms=bench.now_ms, leftovers=("gone",)
    )
    bench.clean()
    assert phase(bench) is NodePhase.STARTING
    bench.give(Tick())
    bench.clean(name="gone")

    assert StopMonitor(monitor="gone") in bench.actions
    assert phase(bench) is NodePhase.ASKING


def test_a_service_that_was_stopped_hears_its_monitors_before_it_fences(bench: Bench) -> None:
    """It was frozen while everything was terminated; the answer waits behind the tick that it takes first."""
    bench.online()
    bench.now_ms += LAN.lease_ms + 1
    bench.give(Tick())
    ticket = next(c.ticket for c in commands(bench.actions) if isinstance(c, TerminateEverything))
    bench.now_ms += 60_000
    assert not [action for action in bench.give(Tick()) if isinstance(action, FenceSelf)]
    bench.monitor(EverythingTerminated(ticket=ticket))

    assert phase(bench) is NodePhase.ASKING


def test_a_resource_that_cannot_be_terminated_keeps_the_node_out(bench: Bench) -> None:
    """It says so, tries again, and asks for nothing meanwhile."""
    bench.online()
    bench.now_ms += LAN.lease_ms + 1
    bench.give(Tick())
    ticket = next(c.ticket for c in commands(bench.actions) if isinstance(c, TerminateEverything))
    actions = bench.monitor(EverythingTerminated(ticket=ticket, left=(APP,)))
    assert any(isinstance(action, FenceSelf) for action in actions)
    assert phase(bench) is NodePhase.RELEASING
    bench.now_ms += 1_500
    bench.give(Tick())
    bench.confirm()

    assert phase(bench) is NodePhase.ASKING


def test_a_deadman_that_fired_ends_the_incarnation(bench: Bench) -> None:
    """Whatever the core believed, nothing runs any more."""
    bench.online()
    bench.monitor(DeadmanFired(lease_ended_ms=bench.now_ms))

    assert phase(bench) is NodePhase.RELEASING


def test_a_start_that_meets_the_deadman_ends_the_incarnation_at_once(bench: Bench) -> None:
    """The word of the deadman itself comes when everything has ended; nothing may be started for it until then."""
    bench.online()
    actions = bench.monitor(CommandRefused(resource=APP, epoch=1, why="ended", ending=True))

    assert phase(bench) is NodePhase.RELEASING
    assert [type(command) for command in commands(actions)] == [TerminateEverything]


def test_a_deadman_that_fires_while_nothing_is_owned_is_told_that_it_was_heard(bench: Bench) -> None:
    """The monitor starts nothing before; meanwhile the node does not say that it is clean."""
    bench.online()
    bench.monitor(DeadmanFired(lease_ended_ms=bench.now_ms))
    bench.confirm()
    assert phase(bench) is NodePhase.ASKING

    actions = bench.monitor(DeadmanFired(lease_ended_ms=bench.now_ms))
    assert [type(command) for command in commands(actions)] == [TerminateEverything]
    assert phase(bench) is NodePhase.STARTING
    bench.confirm()
    assert phase(bench) is NodePhase.ASKING


def test_an_admission_that_is_over_in_a_snapshot_already_is_asked_for_anew(bench: Bench) -> None:
    """The node was admitted and declared down in entries that it gets the outcome of only; that attempt is used up."""
    bench.clean()
    bench.lease()
    assert (phase(bench), bench.core._attempt) == (NodePhase.ASKING, 1)
    known = bench.config.nodes[N1]
    lost = replace(known, up=False, incarnation=known.incarnation + 1, boot=5, attempt=1)
    config = replace(bench.config, nodes={**bench.config.nodes, N1: lost})
    bench.give(ConfigInstalled(index=bench.index + 2, config=config))

    assert (phase(bench), bench.core._attempt) == (NodePhase.ASKING, 2)


def test_a_member_that_is_declared_down_releases(bench: Bench) -> None:
    """An administrator confirmed that it is down, but it is not."""
    bench.online()
    bench.commit(NodeDown(node=N1, incarnation=1, voters_version=bench.config.voters_version, because="a mistake"))

    assert phase(bench) is NodePhase.RELEASING


def test_a_monitor_that_dies_is_replaced_and_its_resources_count_as_failed(bench: Bench) -> None:
    """Restart in place after the new monitor has cleaned up."""
    bench.online()
    assert StartMonitor(monitor="") in bench.monitor(MonitorDied(why="signal 9", culprit=APP))
    bench.monitor(MonitorStarted(pid=10))
    actions = bench.confirm()

    assert phase(bench) is NodePhase.MEMBER
    assert [type(c) for c in commands(actions)] == [LeaseExtended, OpenResource, BringOnline]


def test_a_monitor_that_dies_while_asking_withdraws_the_question(bench: Bench) -> None:
    """Until its successor has cleaned up, the node cannot say that it holds nothing."""
    bench.clean()
    bench.lease()
    bench.monitor(MonitorDied(why="signal 9"))
    bench.up(attempt=1)
    assert phase(bench) is NodePhase.STARTING
    bench.monitor(MonitorStarted(pid=10))
    bench.confirm()
    bench.lease()
    bench.up(attempt=2)

    assert phase(bench) is NodePhase.MEMBER


def test_states_are_reported_once_and_again_when_the_report_got_lost(bench: Bench) -> None:
    """One report at a time; a lost one is made anew."""
    bench.owner()
    first = [u for u in proposed(bench.actions) if isinstance(u, ReportStates)]
    assert [line.state for line in first[0].lines] == [ResourceState.ONLINE_PENDING]
    request = next(
        a.proposal.request
        for a in bench.actions
        if isinstance(a, Propose) and isinstance(a.proposal.update, ReportStates)
    )
    epoch = bench.config.groups[GROUP].epoch
    bench.monitor(ResourceReported(resource=APP, epoch=epoch, state=ResourceState.ONLINE))
    assert not proposed(bench.actions)
    bench.give(ProposalFailed(request=request, fate=ProposalFate.NOT_APPLIED, detail="no leader"))
    bench.now_ms += 150
    again = [u for u in proposed(bench.give(Tick())) if isinstance(u, ReportStates)]

    assert [line.state for line in again[0].lines] == [ResourceState.ONLINE]


def test_a_failure_is_told_though_a_restart_mended_it_before_the_report(bench: Bench) -> None:
    """A report is under way while the resource fails and comes back: no state tells of it, the history must."""
    bench.owner()
    waiting, report = reports(bench.actions)[0]
    epoch = bench.config.groups[GROUP].epoch
    bench.monitor(ResourceReported(resource=APP, epoch=epoch, state=ResourceState.ONLINE))
    for count in range(2):
        failed = ResourceReported(resource=APP, epoch=epoch, state=ResourceState.FAILED, detail=f"{count} died")
        bench.monitor(failed)
        bench.monitor(ResourceReported(resource=APP, epoch=epoch, state=ResourceState.OFFLINE))
        bench.monitor(ResourceReported(resource=APP, epoch=epoch, state=ResourceState.ONLINE))
    _, told = reports(bench.commit(report, request=waiting))[0]

    assert [(line.state, line.detail) for line in told.lines] == [(ResourceState.ONLINE, "")]
    assert [(f.resource, f.count, f.detail) for f in told.failures] == [(APP, 2, "1 died")]
    assert "restarted in place" in told.failures[0].because


def test_a_failure_is_told_once_however_often_it_is_proposed(bench: Bench) -> None:
    """The same failures travel under the same request until the log has answered; then they are forgotten."""
    bench.online()
    bench.settle_reports()
    epoch = bench.config.groups[GROUP].epoch
    actions = bench.monitor(ResourceReported(resource=APP, epoch=epoch, state=ResourceState.FAILED, detail="died"))
    first, report = reports(actions)[0]
    bench.give(ProposalFailed(request=first, fate=ProposalFate.UNKNOWN, detail="cut off"))
    for state in (ResourceState.OFFLINE, ResourceState.ONLINE, ResourceState.FAILED):
        bench.monitor(ResourceReported(resource=APP, epoch=epoch, state=state, detail="again"))
    bench.now_ms += 150
    second, repeated = reports(bench.give(Tick()))[0]

    assert (second, [f.detail for f in repeated.failures]) == (first, ["died"])
    assert [f.ago_ms for f in repeated.failures] == [150]
    after = reports(bench.commit(report, request=first))
    assert [(r != first, [f.detail for f in u.failures]) for r, u in after] == [(True, ["again"])]
    assert [u.failures for _, u in reports(bench.commit(after[0][1], request=after[0][0]))] == []


def test_a_failure_that_the_log_refused_is_told_under_the_next_incarnation(bench: Bench) -> None:
    """The report came too late for its incarnation; what failed, failed."""
    bench.online()
    bench.settle_reports()
    epoch = bench.config.groups[GROUP].epoch
    actions = bench.monitor(ResourceReported(resource=APP, epoch=epoch, state=ResourceState.FAILED, detail="died"))
    request, report = reports(actions)[0]
    bench.commit(NodeDown(node=N1, incarnation=1, voters_version=bench.config.voters_version, because="x"))
    bench.confirm()
    bench.commit(report, request=request)
    bench.lease()
    again = reports(bench.up(attempt=2))

    assert phase(bench) is NodePhase.MEMBER
    assert [(r != request, u.incarnation, [f.detail for f in u.failures]) for r, u in again] == [(True, 2, ["died"])]


def settings(actions: list[Action]) -> list[tuple[RequestId, SetResourceProperties]]:
    return [
        (action.proposal.request, action.proposal.update)
        for action in actions
        if isinstance(action, Propose) and isinstance(action.proposal.update, SetResourceProperties)
    ]


def sets(name: str, value: str | int) -> PropertyChanged:
    return PropertyChanged(resource=APP, name=name, value=value)


def test_a_property_that_a_script_set_is_proposed_until_the_log_takes_it(bench: Bench) -> None:
    """Through an election, unchanged and under one id; a newer value follows when that is settled."""
    bench.online()
    request, update = settings(bench.monitor(sets("CommandLine", "one")))[0]
    bench.monitor(sets("COMMANDLINE", "two"))
    bench.monitor(sets("CommandLine", "three"))
    bench.give(ProposalFailed(request=request, fate=ProposalFate.UNKNOWN, detail="no leader"))
    bench.now_ms += 150
    assert settings(bench.give(Tick())) == [(request, update)]
    follows = settings(bench.commit(update, request=request))

    assert [(r != request, u.private) for r, u in follows] == [(True, {"CommandLine": "three"})]
    assert settings(bench.commit(follows[0][1], request=follows[0][0])) == []
    assert bench.config.resources[APP].private["CommandLine"] == "three"


def test_a_property_that_is_refused_is_not_proposed_again(bench: Bench) -> None:
    """It would be refused for ever; the log says so, and what was set after it has its turn."""
    bench.online()
    request, update = settings(bench.monitor(sets("Colour", "red")))[0]
    bench.monitor(sets("CommandLine", "one"))
    actions = bench.commit(update, request=request)

    assert ["property.lost"] == [action.record.name for action in actions if isinstance(action, Note)]
    assert [update.private for _, update in settings(actions)] == [{"CommandLine": "one"}]


def test_a_property_set_while_the_node_is_no_member_is_kept(bench: Bench) -> None:
    """Such as in a terminate after the lease was lost."""
    bench.online()
    bench.now_ms += LAN.lease_ms + 1
    ticket = next(c.ticket for c in commands(bench.give(Tick())) if isinstance(c, TerminateEverything))
    assert settings(bench.monitor(sets("CommandLine", "one"))) == []
    bench.monitor(EverythingTerminated(ticket=ticket))
    bench.lease()

    assert [update.private for _, update in settings(bench.up(attempt=2))] == [{"CommandLine": "one"}]


def online_in_its_own_monitor(bench: Bench) -> None:
    """A second resource, online in a separate monitor."""
    bench.online()
    own = CreateResource(
        resource=OWN, name="own", type="Generic Application", group=GROUP, separate_monitor=True,
        private={"CommandLine": "x"},
    )  # fmt: skip
    bench.commit(own)
    bench.commit(OnlineResource(resource=OWN))
    bench.clean(name=OWN)
    bench.monitor(ResourceReported(resource=OWN, epoch=epoch_of(bench), state=ResourceState.ONLINE), name=OWN)


def epoch_of(bench: Bench) -> int:
    return bench.config.groups[GROUP].epoch


def test_the_monitor_of_a_deleted_resource_ends_when_nothing_of_it_runs(bench: Bench) -> None:
    """Not before it has said that the resource is gone."""
    online_in_its_own_monitor(bench)
    actions = bench.commit(DeleteResource(resource=OWN))
    assert [type(c) for c in commands(actions)] == [TerminateResource]
    assert StopMonitor(monitor=OWN) not in actions
    gone = ResourceReported(resource=OWN, epoch=epoch_of(bench), state=ResourceState.OFFLINE)
    bench.monitor(gone, name=OWN)

    assert [a for a in [*bench.actions, *bench.give(Tick())] if isinstance(a, StopMonitor)] == [
        StopMonitor(monitor=OWN)
    ]


def test_a_monitor_stays_while_its_resource_runs_though_it_is_no_longer_wanted(bench: Bench) -> None:
    """No command switches SeparateMonitor off yet, a restored configuration may: the resource goes on where it is, and
    starts in the other monitor the next time."""
    online_in_its_own_monitor(bench)
    shared = replace(bench.config.resources[OWN], separate_monitor=False)
    bench.config = replace(bench.config, resources={**bench.config.resources, OWN: shared})
    bench.commit(PauseNode(node=N2))
    assert not [a for a in [*bench.actions, *bench.give(Tick())] if isinstance(a, StopMonitor)]
    failed = ResourceReported(
        resource=OWN, epoch=epoch_of(bench), state=ResourceState.FAILED, detail="died", terminated=True
    )
    actions = bench.monitor(failed, name=OWN)
    started = [(a.monitor, type(a.command)) for a in actions if isinstance(a, CommandMonitor)]

    assert ("", BringOnline) in started
    assert StopMonitor(monitor=OWN) in [*actions, *bench.give(Tick())]


def test_the_death_of_a_monitor_that_was_to_end_starts_no_other(bench: Bench) -> None:
    """The news was on its way already."""
    online_in_its_own_monitor(bench)
    bench.commit(DeleteResource(resource=OWN))
    bench.monitor(ResourceReported(resource=OWN, epoch=epoch_of(bench), state=ResourceState.OFFLINE), name=OWN)
    bench.give(Tick())

    assert not [a for a in bench.monitor(MonitorDied(why="x"), name=OWN) if isinstance(a, StartMonitor | Note)]


def test_the_log_tells_a_joining_node_of_separate_monitors(bench: Bench) -> None:
    """They are started and clean up before the node asks; an answer to what it asked before comes too late."""
    bench.clean()
    bench.lease()
    bench.commit(CreateResource(resource=OWN, name="own", type="Generic Script", group=GROUP, separate_monitor=True))
    assert StartMonitor(monitor=OWN) in bench.actions
    bench.up(attempt=1)
    assert phase(bench) is NodePhase.STARTING
    bench.clean(name=OWN)
    bench.lease()
    bench.up(attempt=2)

    assert phase(bench) is NodePhase.MEMBER


def test_a_snapshot_that_brings_an_admission_and_a_monitor_admits_nobody(bench: Bench) -> None:
    """Both arrive in one step, and the monitor has not cleaned up yet."""
    bench.clean()
    bench.lease()
    more = CreateResource(resource=OWN, name="own", type="Generic Script", group=GROUP, separate_monitor=True)
    config = apply(bench.config, bench.proposal(more)).config
    config = apply(config, bench.proposal(NodeUp(node=N1, incarnation=0, boot=5, attempt=1))).config
    bench.give(ConfigInstalled(index=9, config=config))

    assert config.nodes[N1].up
    assert phase(bench) is NodePhase.STARTING


def test_a_member_has_a_separate_monitor_ready_before_it_owns_the_resource(bench: Bench) -> None:
    """A failover does not wait for the start of a process."""
    bench.member()
    bench.commit(CreateResource(resource=OWN, name="own", type="Generic Script", group=GROUP, separate_monitor=True))

    assert bench.config.groups[GROUP].owned is None
    assert StartMonitor(monitor=OWN) in bench.actions


def test_a_command_without_quorum_is_refused_at_once(bench: Bench) -> None:
    """Nothing is proposed."""
    bench.clean()
    actions = bench.give(CommandArrived(request=RequestId("c"), update=OnlineResource(resource=APP)))
    replies = [action for action in actions if isinstance(action, Reply)]

    assert not proposed(actions)
    assert replies[0].refusal is not None
    assert replies[0].refusal.code == "no-quorum"


def test_a_command_waits_out_an_election(bench: Bench) -> None:
    """Certainly not applied: tried again until its time is over; then it is answered through the log."""
    bench.member()
    update = OnlineResource(resource=APP)
    request = RequestId("c")
    bench.give(CommandArrived(request=request, update=update))
    bench.give(ProposalFailed(request=request, fate=ProposalFate.NOT_APPLIED, detail="no leader"))
    bench.now_ms += 120
    assert update in proposed(bench.give(Tick()))

    assert Reply(request=request, refusal=None) in bench.commit(update, request=request)


@pytest.mark.parametrize("lost", ["said", "silent"])
def test_an_unknown_outcome_is_called_unknown(bench: Bench, lost: str) -> None:
    """By the log, or because nobody answers."""
    bench.member()
    request = RequestId("c")
    bench.give(CommandArrived(request=request, update=OnlineResource(resource=APP)))
    if lost == "said":
        bench.give(ProposalFailed(request=request, fate=ProposalFate.UNKNOWN, detail="cut off"))
    for _ in range(120):
        bench.lease()

    assert phase(bench) is NodePhase.MEMBER
    assert [reply.refusal.code for reply in bench.replies if reply.refusal] == ["outcome-unknown"]


def test_the_first_leader_founds_the_cluster() -> None:
    """An empty log, a leader, and what the cluster is to be."""
    found = FoundCluster(
        name="T",
        timing_profile="lan",
        node_name="n1",
        addresses=("10.0.0.1",),
        port=1,
        admin_port=0,
        utc_offset_min=0,
        group=GROUP,
    )
    core = NodeCore(
        node=N1,
        boot=1,
        timing=LAN,
        peers={},
        index=0,
        config=None,
        now_ms=0,
        found=(RequestId("cluster-id"), found),
    )
    actions = core.handle(
        LeadershipChanged(leader=N1, leads=True, members=frozenset((N1,))), now_ms=10, wall_ms=WALL_MS
    )
    proposals = [action.proposal for action in actions if isinstance(action, Propose)]

    assert [(p.request, p.update) for p in proposals] == [("cluster-id", found)]


def test_a_stop_without_membership_ends_at_once_after_terminating(bench: Bench) -> None:
    """There is nobody to hand anything to."""
    bench.clean()
    bench.give(StopRequested())
    actions = bench.confirm()

    assert [type(action) for action in actions if isinstance(action, StopService)] == [StopService]


def stopping(bench: Bench) -> None:
    """A member whose groups have left, and whose monitor is to terminate what is left."""
    bench.online()
    bench.give(StopRequested())
    bench.commit(StopNode(node=N1))
    bench.commit(GroupReleased(group=GROUP, epoch=epoch_of(bench), node=N1, because="test"))
    assert phase(bench) is NodePhase.STOPPING


def test_an_orderly_stop_has_its_own_time_and_feeds_the_deadmen_meanwhile(bench: Bench) -> None:
    """Many leases long the monitor terminates; as long as quorum is held nothing but the stop's time-out counts."""
    stopping(bench)
    ticket = next(c.ticket for c in commands(bench.actions) if isinstance(c, TerminateEverything))
    bench.lease()
    began_ms, fed_ms = bench.now_ms, 0
    while bench.now_ms < began_ms + TERMINATE_TIMEOUT_MS - LAN.lease_ms:
        fed_ms = max([fed_ms, *(c.until_ms for c in commands(bench.lease()) if isinstance(c, LeaseExtended))])
        assert fed_ms > bench.now_ms + LAN.lease_ms // 2
    assert phase(bench) is NodePhase.STOPPING
    bench.monitor(EverythingTerminated(ticket=ticket))

    assert [u.stopped for u in proposed(bench.actions) if isinstance(u, NodeDown)] == [True]


def test_an_orderly_stop_that_loses_quorum_releases_within_the_budget(bench: Bench) -> None:
    """Nobody may be kept waiting longer than R2 promises."""
    stopping(bench)
    bench.now_ms += LAN.lease_ms + 1
    bench.give(Tick())

    assert phase(bench) is NodePhase.RELEASING
    actions: list[Action] = []
    for _ in range(4):
        bench.now_ms += LAN.heartbeat_interval_ms
        actions += bench.give(Tick())
    assert [type(action) for action in actions if isinstance(action, FenceSelf)] == [FenceSelf]


def test_an_orderly_stop_that_cannot_terminate_is_fenced(bench: Bench) -> None:
    """After its own time-out, not before."""
    stopping(bench)
    began_ms = bench.now_ms
    while bench.now_ms < began_ms + TERMINATE_TIMEOUT_MS - LAN.heartbeat_interval_ms:
        bench.lease()
        assert phase(bench) is NodePhase.STOPPING
    bench.now_ms = began_ms + TERMINATE_TIMEOUT_MS

    ends = [action for action in bench.give(Tick()) if isinstance(action, FenceSelf | StopService)]
    assert [type(action) for action in ends] == [FenceSelf, StopService]


def test_nobody_can_confirm_a_node_down_that_is_heard(bench: Bench) -> None:
    """Neither a peer that spoke a moment ago nor the node itself; a silent one may be."""
    bench.member()
    codes = []
    for node in (N1, N2):
        actions = bench.give(CommandArrived(request=RequestId(f"c{node}"), update=ConfirmNodeDown(node=node)))
        codes += [action.refusal.code for action in actions if isinstance(action, Reply) and action.refusal]
    assert codes == ["node-up", "node-up"]
    unheard = ConfirmNodeDown(node=NodeId(9))

    assert unheard in proposed(bench.give(CommandArrived(request=RequestId("c9"), update=unheard)))


def test_voters_may_change_while_the_node_acts(bench: Bench) -> None:
    """One voter fewer: the lease is counted anew over those that are left."""
    bench.member()
    bench.commit(SetVoter(node=N3, voter=False, voters_version=bench.config.voters_version))
    view = bench.core.view(bench.now_ms)

    assert (view.votes_held, view.votes_needed) == (2, 2)
    assert view.holds_quorum


def test_every_admission_has_a_will_of_its_own(bench: Bench) -> None:
    """Written before anything is started under it, and not for an admission that does not count."""
    bench.member()
    assert [action for action in bench.actions if isinstance(action, LeaveWill)] == [LeaveWill(incarnation=1)]
    bench.monitor(DeadmanFired(lease_ended_ms=bench.now_ms))
    bench.confirm()
    bench.lease()
    bench.up(attempt=2)
    assert [action for action in bench.actions if isinstance(action, LeaveWill)] == [LeaveWill(incarnation=2)]


def test_a_leader_is_forgotten_when_its_will_is_heard(bench: Bench) -> None:
    """Once; a will of an earlier incarnation forgets nobody, and nobody but the leader need be forgotten."""

    def forgotten(peer: NodeId, incarnation: int) -> list[Action]:
        heard = bench.heartbeat(peer, None, bench.now_ms)
        last = replace(heard.heartbeat, phase=NodePhase.STOPPED, incarnation=incarnation)
        return [each for each in bench.hear(replace(heard, heartbeat=last)) if isinstance(each, ForgetLeader)]

    bench.member()
    bench.config = replace(
        bench.config,
        nodes={**bench.config.nodes} | {n: replace(bench.config.nodes[n], boot=1, incarnation=1) for n in (N2, N3)},
    )
    bench.index += 1
    bench.give(ConfigInstalled(index=bench.index, config=bench.config))
    bench.give(LeadershipChanged(leader=N2, leads=False, members=frozenset({N1, N2, N3})))
    bench.lease()

    assert forgotten(N3, 1) == []
    assert forgotten(N2, 0) == []
    assert forgotten(N2, 1) == [ForgetLeader(node=N2)]
    assert forgotten(N2, 1) == []


def test_what_runs_is_announced_again_when_a_peer_is_heard_again(bench: Bench) -> None:
    """Once, after a silence that was longer than a lease; nothing is announced where nothing runs."""

    def hears_both(after_ms: int, *peers: NodeId) -> int:
        """One of them may be silent; how often the monitor is told to announce."""
        told = 0
        until_ms = bench.now_ms + after_ms
        while bench.now_ms < until_ms:
            while not any(isinstance(action, Vouch) for action in bench.actions):
                bench.now_ms = bench.core.deadline_ms
                bench.give(Tick())
            sent_ms, bench.now_ms = bench.now_ms, bench.now_ms + 1
            bench.hear(*(bench.heartbeat(peer, sent_ms, bench.now_ms) for peer in peers))
            told += commands(bench.actions).count(NetworkHealed())
        return told

    bench.member()
    assert hears_both(LAN.lease_ms + 200, N2) == 0
    assert hears_both(200, N2, N3) == 0
    bench.assign()
    assert hears_both(LAN.lease_ms - 200, N2) == 0
    assert hears_both(200, N2, N3) == 0
    assert hears_both(LAN.lease_ms + 200, N2) == 0
    assert hears_both(1_000, N2, N3) == 1


def test_a_faster_profile_is_owned_up_to_when_the_former_leases_are_over(bench: Bench) -> None:
    """Until then the former version is said. The log is told at once, and so are the monitors with the next lease."""

    def said() -> int:
        while not any(isinstance(action, Vouch) for action in bench.actions):
            bench.now_ms = bench.core.deadline_ms
            bench.give(Tick())
        return [action.voters_version for action in bench.actions if isinstance(action, Vouch)][-1]

    bench.member()
    before = bench.config.voters_version
    bench.lease()
    changed_ms = bench.now_ms
    bench.commit(SetClusterProperties(common={"TimingProfile": "fast"}, quicker=True))
    assert UseTiming(timing=FAST) in bench.actions
    assert bench.config.voters_version == before + 1
    heard = []
    while bench.now_ms - changed_ms < 2 * LAN.silence_ms():
        version = said()
        heard.append((bench.now_ms - changed_ms < LAN.silence_ms(), version))
        bench.lease()
    assert set(heard) == {(True, before), (False, before + 1)}

    changed_ms = bench.now_ms
    bench.commit(SetClusterProperties(common={"TimingProfile": "lan"}))
    assert said() == before + 2


# --- networks ---------------------------------------------------------------------------------------------------------


def told_interfaces(actions: list[Action]) -> list[ReportInterfaces]:
    return [
        action.proposal.update
        for action in actions
        if isinstance(action, Propose) and isinstance(action.proposal.update, ReportInterfaces)
    ]


def see(bench: Bench, trouble: str = "") -> list[Action]:
    link = LinkSeen(prefix=24, adapter="eth0", trouble=trouble)
    return bench.give(InterfacesSeen(links={0: link}, heard=frozenset({(N2, 0), (N3, 0)})))


def test_a_member_tells_of_its_interfaces() -> None:
    """A link that is down at once, under its incarnation, and once; before it is a member, not at all."""
    bench = Bench()
    assert told_interfaces(see(bench, "the link eth0 is down")) == []
    see(bench)
    bench.member()
    (told,) = told_interfaces(see(bench, "the link eth0 is down"))
    assert (told.node, told.incarnation) == (N1, bench.config.nodes[N1].incarnation)
    assert told.interfaces == (
        Interface(position=0, address="10.0.0.1", prefix=24, adapter="eth0", trouble="the link eth0 is down"),
    )
    assert told_interfaces(bench.give(Tick())) == []
    assert bench.core.client_networks_working == 0


def test_a_node_counts_the_networks_of_its_clients() -> None:
    bench = Bench()
    assert bench.core.client_networks_working == 1
    see(bench, "the link eth0 is down")
    assert bench.core.client_networks_working == 0
    see(bench)
    assert bench.core.client_networks_working == 1


def test_heartbeats_follow_the_roles_of_networks() -> None:
    """They go to internal networks alone, in the order of their priority for the log; nothing else is said anew."""
    bench = Bench()
    bench.member()
    nodes = {
        node.id: replace(node, addresses=(*node.addresses, f"10.0.1.{node.id}")) for node in bench.config.nodes.values()
    }
    bench.config = replace(bench.config, nodes=nodes)
    first, second = NetworkId("network-1"), NetworkId("network-2")
    said = bench.commit(SetNetworkProperties(network=first, common={"Priority": 5}))
    assert [action.internal for action in said if isinstance(action, SetPeers)] == [(1, 0)]
    said = bench.commit(SetNetworkProperties(network=first, common={"Role": 2}))
    assert [action.internal for action in said if isinstance(action, SetPeers)] == [(1,)]
    said = bench.commit(SetNetworkProperties(network=second, common={"Description": "heartbeats"}))
    assert not any(isinstance(action, SetPeers) for action in said)


def test_ping_targets_are_watched_on_networks_of_clients() -> None:
    bench = Bench()
    bench.member()
    first = NetworkId("network-1")
    said = bench.commit(SetNetworkProperties(network=first, private={PING_TARGETS: ("10.0.0.254",)}))
    assert PingNetworks(targets={0: ("10.0.0.254",)}) in said
    said = bench.commit(SetNetworkProperties(network=first, common={"Role": 1}))
    assert PingNetworks(targets={}) in said

"""A whole cluster in one thread: real NodeCores, a virtual clock, and a simulated network, log and monitors.

The log here is the *ordered-log model*: one list of entries, a leader that is some node of a connected majority, and
followers that learn entries after a delay while they can reach the leader. It keeps what consensus promises (one order,
nothing acknowledged is lost) and leaves out how. The real library runs in the tests of ``global_update/raft``.

After every event the checkers look for two nodes on which something of the same group runs at once, and for anything
that runs where it must not.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from clussvc.actions import (
    Action,
    AddLogMember,
    CommandMonitor,
    FenceSelf,
    Note,
    PeerAddress,
    Propose,
    RemoveLogMember,
    Reply,
    SendHeartbeat,
    SetPeers,
    StartMonitor,
    StopMonitor,
    StopService,
)
from clussvc.events import (
    CommandArrived,
    Committed,
    Event,
    HeartbeatHeard,
    LeadershipChanged,
    MonitorSaid,
    ProposalFailed,
    ProposalFate,
    StopRequested,
    Tick,
)
from clussvc.global_update.apply import apply
from clussvc.global_update.update import (
    AddDependency,
    AddJoinToken,
    AdmitNode,
    CreateGroup,
    CreateResource,
    FoundCluster,
    OnlineGroup,
    Proposal,
    Update,
)
from clussvc.model.config import Config
from clussvc.model.ids import GroupId, NodeId, RequestId, ResourceId
from clussvc.model.monitoring import (
    BringOnline,
    CloseResource,
    CommandRefused,
    DeadmanFired,
    EverythingTerminated,
    LeaseExtended,
    MonitorDied,
    MonitorStarted,
    OpenResource,
    ResourceReported,
    TakeOffline,
    TerminateEverything,
    TerminateResource,
)
from clussvc.model.reports import Report
from clussvc.model.settings import LAN, Timing
from clussvc.model.states import NodePhase, ResourceState
from clussvc.node import NodeCore
from clussvc.quorum.majority import is_majority

SECRET_SHA256 = "0" * 64
WALL_START_MS = 1_800_000_000_000


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class SimMonitor:
    """One resource monitor: what runs, under which lease, and how long things take."""

    running: dict[ResourceId, int] = field(default_factory=dict)
    """What runs, with the epoch it was started under."""
    lease_until_ms: int = -1
    busy: dict[ResourceId, int] = field(default_factory=dict)
    """The number of the transition under way."""
    opened: dict[ResourceId, GroupId] = field(default_factory=dict)
    epochs: dict[GroupId, int] = field(default_factory=dict)
    """The newest epoch seen of each group; commands of older ones are refused."""
    hangs: bool = False
    """It answers TerminateEverything no more; it still terminates at the end of its lease."""


@dataclass
class SimNode:
    """One machine."""

    id: NodeId
    address: str
    clock_offset_ms: int
    clock_rate_ppm: int = 0
    boots: int = 0
    core: NodeCore | None = None
    generation: int = 0
    """Raised by every crash; what was under way for an earlier one never arrives."""
    frozen: bool = False
    monitors: dict[str, SimMonitor] = field(default_factory=dict)
    applied: int = 0
    stored: tuple[int, Config] | None = None
    inbox: list[Event] = field(default_factory=list)
    ticks: int = 0
    """How many ticks were scheduled; only the newest one counts."""

    @property
    def running(self) -> dict[ResourceId, int]:
        """All that runs on the machine, in whatever monitor, with its epoch."""
        return {resource: epoch for monitor in self.monitors.values() for resource, epoch in monitor.running.items()}

    @property
    def busy(self) -> set[ResourceId]:
        """Everything with a transition under way."""
        return {resource for monitor in self.monitors.values() for resource in monitor.busy}


class World:
    """The simulated cluster. Everything random comes from ``seed``."""

    def __init__(self, *, nodes: int, seed: int = 0, timing: Timing = LAN) -> None:
        self.random = random.Random(seed)
        self.timing = timing
        self.now_us = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.entries: list[tuple[Proposal, Config, Report | None, tuple[object, ...]]] = []
        self.leader: NodeId | None = None
        self.cut: set[frozenset[NodeId]] = set()
        self.one_way: set[tuple[NodeId, NodeId]] = set()
        self.loss = 0.0
        self.fails: dict[ResourceId, set[NodeId]] = {}
        self.monitor_start_ms = 20
        self.start_ms = (5, 60)
        self.stop_ms = (5, 40)
        self.replies: dict[RequestId, Report | None] = {}
        self.fenced: list[tuple[NodeId, str]] = []
        self.notes: list[str] = []
        self._requests = itertools.count(1)
        self.nodes = {
            NodeId(n): SimNode(
                id=NodeId(n), address=f"10.0.0.{n}", clock_offset_ms=self.random.randrange(1_000, 9_000_000)
            )
            for n in range(1, nodes + 1)
        }
        self._found()
        self._election_at_us: int | None = None

    # --- building ---------------------------------------------------------------------------------------------------

    def _found(self) -> None:
        self._append_directly(
            FoundCluster(
                name="SIM",
                timing_profile=self.timing.profile,
                node_name="n1",
                addresses=("10.0.0.1",),
                port=3343,
                admin_port=0,
                utc_offset_min=0,
                group=GroupId("cluster-group"),
            )
        )
        for node in list(self.nodes.values())[1:]:
            token = f"t{node.id}"
            self._append_directly(
                AddJoinToken(
                    token=token, secret_sha256=SECRET_SHA256, expires_ms=WALL_START_MS + 10**9, at_ms=WALL_START_MS
                )
            )
            self._append_directly(
                AdmitNode(
                    token=token,
                    secret_sha256=SECRET_SHA256,
                    node_name=f"n{node.id}",
                    addresses=(node.address,),
                    port=3343,
                    admin_port=0,
                    at_ms=WALL_START_MS,
                )
            )

    def _append_directly(self, update: Update) -> None:
        proposal = Proposal(
            request=RequestId(f"setup-{len(self.entries)}"), proposer=NodeId(1), at_ms=WALL_START_MS, update=update
        )
        refusal = self._append(proposal)
        assert refusal is None, refusal

    def _append(self, proposal: Proposal) -> Report | None:
        before = self.entries[-1][1] if self.entries else None
        applied = apply(before, proposal)
        self.entries.append((proposal, applied.config, applied.refusal, applied.records))
        return applied.refusal

    @property
    def config(self) -> Config:
        """The newest committed configuration."""
        return self.entries[-1][1]

    # --- time -------------------------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """Milliseconds since the world began."""
        return self.now_us // 1000

    def clock_of(self, node: SimNode) -> int:
        """What the node's own clock shows."""
        return node.clock_offset_ms + self.now_us * (1_000_000 + node.clock_rate_ppm) // 1_000_000_000

    def later(self, delay_ms: float, action: Callable[[], None]) -> None:
        """Do something after a delay."""
        heapq.heappush(self._queue, (self.now_us + int(delay_ms * 1000), next(self._order), action))

    def run_for(self, ms: int) -> None:
        """Let the world go on for a while."""
        end_us = self.now_us + ms * 1000
        while self._queue and self._queue[0][0] <= end_us:
            self.now_us, _, action = heapq.heappop(self._queue)
            action()
            self.check()
        self.now_us = end_us

    def run_until(self, condition: Callable[[], bool], *, limit_ms: int = 60_000) -> None:
        """Let the world go on until something holds; fails after ``limit_ms`` of cluster time."""
        end_us = self.now_us + limit_ms * 1000
        while not condition():
            if not self._queue or self._queue[0][0] > end_us:
                raise AssertionError(f"not reached within {limit_ms} ms; {self.describe()}")
            self.now_us, _, action = heapq.heappop(self._queue)
            action()
            self.check()

    # --- nodes ------------------------------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start these nodes (all if none is named)."""
        for node in self._select(names):
            if node.core is not None:
                continue
            node.boots += 1
            node.applied = node.stored[0] if node.stored else 0
            node.inbox.clear()
            node.frozen = False
            node.core = NodeCore(
                node=node.id,
                boot=node.boots,
                timing=self.timing,
                peers={
                    other.id: PeerAddress(name=f"n{other.id}", addresses=(other.address,), port=3343)
                    for other in self.nodes.values()
                    if other is not node
                },
                index=node.stored[0] if node.stored else 0,
                config=node.stored[1] if node.stored else None,
                now_ms=self.clock_of(node),
            )
            self._give(node, Tick())
            self._tell_leadership(node)
            self._schedule_catch_up(node)
        self._consider_election()

    def crash(self, *names: str) -> None:
        """Power off: everything on the node ends at once."""
        for node in self._select(names):
            node.core = None
            node.generation += 1
            node.monitors = {}
            if self.leader == node.id:
                self._lose_leader()

    def crash_service(self, name: str) -> None:
        """Only the service process dies; the monitor lives on until its deadman."""
        node = self.node(name)
        node.core = None
        node.generation += 1
        if self.leader == node.id:
            self._lose_leader()

    def freeze(self, name: str) -> None:
        """Stop the service process; its monitor goes on."""
        self.node(name).frozen = True
        if self.leader == self.node(name).id:
            self._lose_leader()

    def thaw(self, name: str) -> None:
        """Let the service process go on; it finds a full inbox and a later time."""
        node = self.node(name)
        node.frozen = False
        waiting, node.inbox = node.inbox, []
        for event in waiting:
            self._give(node, event)
        self._tell_leadership(node)
        self._schedule_catch_up(node)

    def node(self, name: str) -> SimNode:
        """The node of that name (n1, n2, ...)."""
        return self.nodes[NodeId(int(name.removeprefix("n")))]

    def _select(self, names: Iterable[str]) -> list[SimNode]:
        chosen = [self.node(name) for name in names]
        return chosen or list(self.nodes.values())

    def _give(self, node: SimNode, event: Event) -> None:
        if node.core is None:
            return
        if node.frozen:
            node.inbox.append(event)
            return
        now_ms = self.clock_of(node)
        actions = node.core.handle(event, now_ms=now_ms, wall_ms=WALL_START_MS + self.now_ms)
        if isinstance(event, Committed):
            node.stored = (event.index, event.config)
        for action in actions:
            self._perform(node, action)
        self._schedule_tick(node)

    def _schedule_tick(self, node: SimNode) -> None:
        core, generation = node.core, node.generation
        if core is None or core.phase is NodePhase.STOPPED:
            return
        node.ticks += 1
        newest = node.ticks

        def tick() -> None:
            # A tick that was scheduled before something else happened has been replaced by a later one.
            if node.generation == generation and node.core is core and node.ticks == newest:
                self._give(node, Tick())

        self.later(max(0, core.deadline_ms - self.clock_of(node)) + 0.001, tick)

    # --- actions ----------------------------------------------------------------------------------------------------

    def _perform(self, node: SimNode, action: Action) -> None:
        match action:
            case SendHeartbeat():
                self._send_heartbeat(node, action)
            case Propose():
                self._propose(node, action)
            case CommandMonitor():
                self._command(node, action)
            case StartMonitor():
                monitor = node.monitors.setdefault(action.monitor, SimMonitor())
                monitor.opened.clear()
                monitor.epochs.clear()
                self._later_for(
                    node, self.monitor_start_ms, MonitorSaid(monitor=action.monitor, report=MonitorStarted(pid=1))
                )
            case Reply():
                self.replies[action.request] = action.refusal
            case FenceSelf():
                self.fenced.append((node.id, action.why))
            case Note():
                self.notes.append(f"{self.now_ms:>7} n{node.id} {action.record.message}")
            case StopService():
                self.crash(f"n{node.id}")
            case StopMonitor():
                stopped = node.monitors.pop(action.monitor)
                assert not stopped.running, "a monitor was stopped that still runs something"
            case SetPeers() | AddLogMember() | RemoveLogMember():
                pass

    def _later_for(self, node: SimNode, delay_ms: float, event: Event) -> None:
        generation = node.generation

        def arrive() -> None:
            if node.generation == generation:
                self._give(node, event)

        self.later(delay_ms, arrive)

    def connected(self, a: NodeId, b: NodeId) -> bool:
        """Whether a message from a reaches b now."""
        return frozenset((a, b)) not in self.cut and (a, b) not in self.one_way

    def _send_heartbeat(self, node: SimNode, action: SendHeartbeat) -> None:
        for other in self.nodes.values():
            if other is node or not self.connected(node.id, other.id) or self.random.random() < self.loss:
                continue
            delay_ms = self.random.uniform(0.1, 2.0)
            generation = other.generation

            def arrive(other: SimNode = other, generation: int = generation) -> None:
                if other.generation == generation and other.core is not None:
                    event = HeartbeatHeard(heartbeat=action.heartbeat, received_ms=self.clock_of(other))
                    self._give(other, event)

            self.later(delay_ms, arrive)

    # --- the log ----------------------------------------------------------------------------------------------------

    def _propose(self, node: SimNode, action: Propose) -> None:
        request = action.proposal.request
        leader = self.nodes.get(self.leader) if self.leader else None
        if leader is None or leader.frozen or not self.connected(node.id, leader.id):
            failed = ProposalFailed(request=request, fate=ProposalFate.NOT_APPLIED, detail="no leader is known")
            self._later_for(node, 1, failed)
            return
        leading = leader

        def commit() -> None:
            if self.leader != leading.id or not self._majority(leading.id):
                failed = ProposalFailed(request=request, fate=ProposalFate.UNKNOWN, detail="the leader changed")
                self._later_for(node, 1, failed)
                return
            self._append(action.proposal)
            for other in self.nodes.values():
                self._schedule_catch_up(other)

        self.later(self.random.uniform(0.5, 3.0), commit)

    def _schedule_catch_up(self, node: SimNode) -> None:
        generation = node.generation

        def catch_up() -> None:
            if node.generation != generation or node.core is None or node.frozen:
                return
            if self.leader is None or not self.connected(node.id, self.leader):
                return
            while node.applied < len(self.entries) and node.core is not None and not node.frozen:
                proposal, config, refusal, records = self.entries[node.applied]
                node.applied += 1
                self._give(
                    node,
                    Committed(
                        index=node.applied,
                        proposal=proposal,
                        config=config,
                        refusal=refusal,
                        records=records,  # type: ignore[arg-type]
                    ),
                )

        self.later(self.random.uniform(0.2, 2.0), catch_up)

    def _majority(self, node: NodeId) -> bool:
        reachable = {
            other.id
            for other in self.nodes.values()
            if other.core is not None and not other.frozen
            if other.id == node or (self.connected(node, other.id) and self.connected(other.id, node))
        }
        return is_majority(reachable, set(self.nodes))

    def _lose_leader(self) -> None:
        self.leader = None
        for node in self.nodes.values():
            self._tell_leadership(node)
        self._consider_election()

    def _consider_election(self) -> None:
        if self.leader is None and self._election_at_us is None:
            delay_ms = self.random.uniform(self.timing.raft_election_ms, 2 * self.timing.raft_election_ms)
            self._election_at_us = self.now_us + int(delay_ms * 1000)
            self.later(delay_ms, self._elect)

    def _elect(self) -> None:
        self._election_at_us = None
        candidates = [
            node.id
            for node in self.nodes.values()
            if node.core is not None and not node.frozen and self._majority(node.id)
        ]
        if self.leader is not None:
            return
        if not candidates:
            self._consider_election()
            return
        self.leader = self.random.choice(candidates)
        for node in self.nodes.values():
            self._tell_leadership(node)
            self._schedule_catch_up(node)

    def _tell_leadership(self, node: SimNode) -> None:
        leader = self.leader if self.leader and self.connected(node.id, self.leader) else None
        event = LeadershipChanged(leader=leader, leads=leader == node.id, members=frozenset(self.nodes))
        self._later_for(node, 0.1, event)

    def network_changed(self) -> None:
        """Elect anew where the leader lost its majority, let others catch up."""
        if self.leader is not None and not self._majority(self.leader):
            self.later(self.timing.raft_election_ms, self._leader_steps_down)
        for node in self.nodes.values():
            self._tell_leadership(node)
            self._schedule_catch_up(node)
        self._consider_election()

    def _leader_steps_down(self) -> None:
        if self.leader is not None and not self._majority(self.leader):
            self._lose_leader()

    # --- the network ------------------------------------------------------------------------------------------------

    def partition(self, *sides: set[str]) -> None:
        """Cut everything between these sides."""
        groups = [{self.node(name).id for name in side} for side in sides]
        self.cut = {frozenset((a, b)) for one, other in itertools.combinations(groups, 2) for a in one for b in other}
        self.network_changed()

    def heal(self) -> None:
        """Mend every link."""
        self.cut.clear()
        self.one_way.clear()
        self.network_changed()

    # --- monitors ---------------------------------------------------------------------------------------------------

    def _command(self, node: SimNode, action: CommandMonitor) -> None:
        monitor, command = node.monitors.get(action.monitor), action.command
        if monitor is None:
            return
        match command:
            case OpenResource():
                monitor.opened[command.spec.resource] = command.spec.group
            case CloseResource():
                monitor.opened.pop(command.resource, None)
            case LeaseExtended():
                monitor.lease_until_ms = command.until_ms
                self._arm_deadman(node, action.monitor, command.until_ms)
            case TerminateEverything():
                self._terminate_everything(node, action.monitor, command)
            case BringOnline() | TakeOffline() | TerminateResource():
                self._change(node, monitor, action.monitor, command)

    def _change(
        self, node: SimNode, monitor: SimMonitor, name: str, command: BringOnline | TakeOffline | TerminateResource
    ) -> None:
        group = monitor.opened.get(command.resource)
        if group is None or command.epoch < monitor.epochs.get(group, 0):
            refused = CommandRefused(resource=command.resource, epoch=command.epoch, why="not open, or an old epoch")
            self._later_for(node, 0.2, MonitorSaid(monitor=name, report=refused))
            return
        monitor.epochs[group] = command.epoch
        if isinstance(command, BringOnline):
            self._bring_online(node, name, command)
        else:
            self._stop_resource(node, name, command)

    def kill_monitor(self, node_name: str, monitor: str = "") -> None:
        """A monitor process dies; what it started runs on until its successor has cleaned up."""
        node = self.node(node_name)
        old = node.monitors.get(monitor)
        if node.core is None or old is None:
            return
        node.monitors[monitor] = SimMonitor(running=old.running, lease_until_ms=old.lease_until_ms)
        self._later_for(node, 0.5, MonitorSaid(monitor=monitor, report=MonitorDied(why="it was killed")))

    def _arm_deadman(self, node: SimNode, name: str, until_ms: int) -> None:
        monitor = node.monitors[name]

        def fire() -> None:
            if node.monitors.get(name) is not monitor or monitor.lease_until_ms != until_ms:
                return
            if monitor.running or monitor.busy:
                self._stop_all(monitor)
                self._later_for(node, 1, MonitorSaid(monitor=name, report=DeadmanFired(lease_ended_ms=until_ms)))

        self.later(max(0, until_ms - self.clock_of(node)) + 1, fire)

    def _stop_all(self, monitor: SimMonitor) -> None:
        monitor.running.clear()
        monitor.busy.clear()

    def _terminate_everything(self, node: SimNode, name: str, command: TerminateEverything) -> None:
        monitor, generation = node.monitors[name], node.generation
        if monitor.hangs:
            return

        def done() -> None:
            if node.monitors.get(name) is not monitor:
                return
            self._stop_all(monitor)
            if node.generation == generation:
                self._give(node, MonitorSaid(monitor=name, report=EverythingTerminated(ticket=command.ticket)))

        self.later(self.random.uniform(1, 50), done)

    def _bring_online(self, node: SimNode, name: str, command: BringOnline) -> None:
        monitor = node.monitors[name]
        number = monitor.busy[command.resource] = next(self._order)
        # From now on something of it may run.
        monitor.running[command.resource] = command.epoch

        def done() -> None:
            if node.monitors.get(name) is not monitor or monitor.busy.get(command.resource) != number:
                return
            del monitor.busy[command.resource]
            failed = node.id in self.fails.get(command.resource, set())
            state = ResourceState.FAILED if failed else ResourceState.ONLINE
            report = ResourceReported(
                resource=command.resource, epoch=command.epoch, state=state, detail="it would not start" * failed
            )
            self._later_for(node, 0.2, MonitorSaid(monitor=name, report=report))

        self.later(self.random.uniform(*self.start_ms), done)

    def _stop_resource(self, node: SimNode, name: str, command: TakeOffline | TerminateResource) -> None:
        monitor = node.monitors[name]
        number = monitor.busy[command.resource] = next(self._order)

        def done() -> None:
            if node.monitors.get(name) is not monitor or monitor.busy.get(command.resource) != number:
                return
            del monitor.busy[command.resource]
            monitor.running.pop(command.resource, None)
            report = ResourceReported(resource=command.resource, epoch=command.epoch, state=ResourceState.OFFLINE)
            self._later_for(node, 0.2, MonitorSaid(monitor=name, report=report))

        self.later(self.random.uniform(*self.stop_ms), done)

    def fail_resource(self, name: str) -> None:
        """The running resource dies by itself."""
        resource = self.resource(name)
        for node in self.nodes.values():
            for name, monitor in node.monitors.items():
                epoch = monitor.running.get(resource)
                if epoch is None or resource in monitor.busy:
                    continue
                report = ResourceReported(
                    resource=resource, epoch=epoch, state=ResourceState.FAILED, detail="its process ended"
                )
                self._later_for(node, 0.2, MonitorSaid(monitor=name, report=report))

    # --- administrators ---------------------------------------------------------------------------------------------

    def command(self, update: Update, *, on: str | None = None) -> RequestId:
        """Give a command on a node (the leader if none is named); its outcome lands in ``replies``."""
        request = RequestId(f"admin-{next(self._requests)}")
        node = self.node(on) if on else self.nodes[self.leader or NodeId(1)]
        self._give(node, CommandArrived(request=request, update=update))
        return request

    def do(self, update: Update, *, on: str | None = None) -> Report | None:
        """Give a command and wait for its outcome."""
        request = self.command(update, on=on)
        self.run_until(lambda: request in self.replies)
        return self.replies[request]

    def stop_service(self, name: str) -> None:
        """Ask a node's service to stop in order."""
        self._give(self.node(name), StopRequested())

    def make_group(self, name: str, resources: dict[str, list[str]], *, on: str | None = None) -> GroupId:
        """A group of Generic Applications with these dependencies, online."""
        group = GroupId(f"g-{name}")
        where = self.node(on).id if on else None
        assert self.do(CreateGroup(group=group, name=name, on=where)) is None
        for resource in resources:
            update = CreateResource(
                resource=ResourceId(f"{name}-{resource}"),
                name=f"{name} {resource}",
                type="Generic Application",
                group=group,
                private={"CommandLine": "true"},
            )
            assert self.do(update) is None
        for resource, providers in resources.items():
            for provider in providers:
                dependency = AddDependency(
                    resource=ResourceId(f"{name}-{resource}"), provider=ResourceId(f"{name}-{provider}")
                )
                assert self.do(dependency) is None
        assert self.do(OnlineGroup(group=group)) is None
        return group

    def resource(self, name: str) -> ResourceId:
        """The identifier of a resource by its name."""
        found = self.config.resource_named(name)
        assert found is not None, name
        return found.id

    # --- looking ----------------------------------------------------------------------------------------------------

    def members(self) -> set[str]:
        """The nodes that are members and alive."""
        return {
            f"n{node.id}"
            for node in self.nodes.values()
            if node.core is not None and node.core.phase is NodePhase.MEMBER
        }

    def settle(self, *, limit_ms: int = 60_000) -> None:
        """Start everything if needed and wait until all living nodes are members."""
        self.run_until(
            lambda: self.members() == {f"n{n.id}" for n in self.nodes.values() if n.core is not None},
            limit_ms=limit_ms,
        )

    def running_on(self, group: GroupId) -> set[str]:
        """The nodes on which anything of the group may run."""
        resources = {r.id for r in self.config.resources_of(group)}
        return {f"n{node.id}" for node in self.nodes.values() if resources & node.running.keys()}

    def online_on(self, group: GroupId) -> str | None:
        """The node on which every wanted resource of the group runs and nothing is under way; None if there is none."""
        wanted = {r.id for r in self.config.resources_of(group) if r.persistent_state}
        for node in self.nodes.values():
            settled = wanted <= node.running.keys() and not wanted & node.busy
            if wanted and settled and all(self.config.resources[r].state is ResourceState.ONLINE for r in wanted):
                return f"n{node.id}"
        return None

    def describe(self) -> str:
        """The world in words, for failures."""
        lines = [f"at {self.now_ms} ms, leader {self.leader}"]
        for node in self.nodes.values():
            phase = node.core.phase.value if node.core else "off"
            lines.append(f"  n{node.id}: {phase}, applied {node.applied}, runs {sorted(node.running)}")
        for group in self.config.groups.values():
            lines.append(
                f"  {group.name}: owner {group.owner} epoch {group.epoch} released {group.released} move {group.move}"
            )
        return "\n".join([*lines, *self.notes[-12:]])

    # --- checkers ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The promises, after every event."""
        owners: dict[GroupId, NodeId] = {}
        for node in self.nodes.values():
            for resource_id in node.running:
                resource = self.config.resources.get(resource_id)
                if resource is None:
                    continue
                other = owners.setdefault(resource.group, node.id)
                if other != node.id:
                    raise Violation(f"group {resource.group} runs on n{other} and n{node.id}; {self.describe()}")
            late_ms = self.clock_of(node) - self.timing.release_budget_ms
            if any(m.running and m.lease_until_ms + 5 < late_ms for m in node.monitors.values()):
                raise Violation(f"n{node.id} runs resources long after its lease ended; {self.describe()}")

"""A whole cluster in one thread: real NodeCores, a virtual clock, and simulated machines, network, disks and monitors.

Everything random comes from one seed, and nothing else comes from outside, so a story can be told again exactly. The
log is the real library behind our guard and journal (``log="raft"``), the ordered-log model (``log="ordered"``), or the
log of a quorum disk, with persistent reservations (``log="disk-reservations"``) or without (``log="disk-leases"``).

After every event the referee looks whether a promise was broken; see :mod:`tests.simulation.referee`.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

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
    MonitorSaid,
    QuorumNews,
    StopRequested,
    Tick,
)
from clussvc.global_update.raft.replicator import RaftSettings
from clussvc.global_update.update import (
    AddDependency,
    AddJoinToken,
    AdmitNode,
    CreateGroup,
    CreateResource,
    FoundCluster,
    OnlineGroup,
    Proposal,
    SetWitness,
    Update,
)
from clussvc.membership.connectivity import LinkSeen
from clussvc.membership.fencing import FenceOrder
from clussvc.membership.witness_watch import AskWitness
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import GroupId, NodeId, RequestId, ResourceId
from clussvc.model.monitoring import LeaseExtended, MonitorDied, MonitorReport, MonitorStarted
from clussvc.model.quorum import Quorum
from clussvc.model.reports import Report
from clussvc.model.settings import LAN, Timing
from clussvc.model.states import NodePhase, ResourceState
from clussvc.node import NodeCore
from tests.simulation.beacon import Beacon
from tests.simulation.disk import Disk
from tests.simulation.disk_quorum_log import simulated_quorum
from tests.simulation.log import LogModel
from tests.simulation.machine import Machine
from tests.simulation.monitors import Behaviour, MonitorEnvironment, SimMonitor
from tests.simulation.network import Network
from tests.simulation.ordered_log import OrderedLog
from tests.simulation.referee import Referee
from tests.simulation.scheduler import WALL_START_MS, MachineClock, Scheduler
from tests.simulation.shared_witness import SharedWitness
from tests.simulation.switching_log import SwitchingLog
from tests.simulation.words import in_words

SECRET_SHA256 = "0" * 64
LOOK_MS = 50
"""How often the referee looks for what time alone can break."""
WATCH_MS = 250
"""How often interfaces are looked at, as in the service."""
WORDS_KEPT = 400
EVERY_MOMENT = (Tick, HeartbeatsHeard, Vouch)
"""What happens all the time is part of the trace, but nobody wants to read it."""


def new_resource(group_name: str, name: str, group: GroupId, *, separate: bool = False) -> CreateResource:
    """The update that makes a simulated resource, with a monitor of its own or without."""
    return CreateResource(
        resource=ResourceId(f"{group_name}-{name}"),
        name=f"{group_name} {name}",
        type="Generic Application",
        group=group,
        separate_monitor=separate,
        private={"CommandLine": "true"},
    )


def _memory_folder() -> str | None:
    """Where files cost least; the default of the system if there is no such place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """How a fence device behaves."""

    works: bool = True
    """It says that it has switched the node off."""
    lies: bool = False
    """It has not."""
    takes_ms: float = 200.0


class World:
    """The simulated cluster. Everything random comes from ``seed``."""

    def __init__(
        self,
        *,
        nodes: int,
        seed: int = 0,
        timing: Timing = LAN,
        log: str = "ordered",
        compaction_entries: int = 200,
        fencing: bool = False,
        restarts: bool = False,
        networks: int = 1,
    ) -> None:
        self.random = random.Random(seed)
        self.scheduler = Scheduler()
        self.quorum = simulated_quorum(log)
        self.timing = self.quorum.timing_of(timing.profile)
        self.fencing = fencing
        """Whether a node that fences itself really goes off (and is switched on again)."""
        self.restarts = restarts
        """Whether something starts a service anew that has ended by itself, as the system's service manager does."""
        self.keep_running = False
        """Whether somebody starts also those services again that were stopped in order."""
        self.cleans_evicted = True
        """Whether somebody removes the data of a machine that was evicted."""
        self.network = Network(
            self.scheduler,
            self.random,
            deliver=self._deliver,
            changed=self._link_changed,
            alive=lambda node: self.nodes[node].alive,
            networks=networks,
            internal=lambda node: self.nodes[node].internal,
        )
        self.behaviour = Behaviour()
        self.monitor_start_ms = 20.0
        self.replies: dict[RequestId, Report | None] = {}
        self.fenced: list[tuple[NodeId, str]] = []
        self.agents: dict[str, Agent] = {}
        """How fence devices behave, by their names; the others work."""
        self._requests = itertools.count(1)
        self._on_reply: dict[RequestId, Callable[[Report | None], None]] = {}
        self._joiners = itertools.count(1)
        self._hash = hashlib.blake2b(digest_size=16)
        self._told: deque[tuple[int, NodeId | None, object]] = deque(maxlen=WORDS_KEPT)
        self.events = 0
        # Only the real logs have files (snapshots); they are removed by :meth:`close`.
        self._folder = (
            tempfile.TemporaryDirectory(prefix="clussvc-simulation-", dir=_memory_folder())
            if log != "ordered"
            else None
        )
        self.nodes: dict[NodeId, Machine] = {}
        for n in range(1, nodes + 1):
            self._add_machine(NodeId(n))
        self.witness = SharedWitness(self)
        self.referee = Referee(self.nodes.values, lambda: self.scheduler.now_us, lambda: self.timing)
        self.referee.witness = self.witness.decisions
        self.log: LogModel
        if log != "ordered":
            settings = RaftSettings(
                heartbeat_ms=timing.raft_heartbeat_ms,
                election_timeout_ms=timing.raft_election_ms,
                compaction_entries=compaction_entries,
            )
            self.log = SwitchingLog(self, self.quorum, settings)
        else:
            self.log = OrderedLog(self)
            self._found_directly(self.log)
        self.scheduler.later(LOOK_MS, self._look)
        if networks > 1:
            self.scheduler.later(WATCH_MS, self._watch_all_interfaces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the files of the story."""
        for machine in self.nodes.values():
            self.log.stop(machine)
        if self._folder is not None:
            self._folder.cleanup()

    # --- building ---------------------------------------------------------------------------------------------------

    def _add_machine(self, node: NodeId) -> Machine:
        machine = self.nodes[node] = Machine(
            id=node,
            addresses=tuple(f"10.{2 * net}.{node // 250}.{node % 250}" for net in range(self.network.networks)),
            clock=MachineClock(self.scheduler, offset_ms=self.random.randrange(1_000, 9_000_000)),
            disk=Disk(
                Path(self._folder.name if self._folder else ".") / f"n{node}",
                self.random,
                lambda: self.scheduler.now_us,
            ),
        )
        return machine

    def _found_directly(self, log: OrderedLog) -> None:
        for number, update in enumerate(self._founding()):
            proposal = Proposal(
                request=RequestId(f"setup-{number}"), proposer=NodeId(1), at_ms=WALL_START_MS, update=update
            )
            refusal = log.append(proposal)
            assert refusal is None, refusal

    def _founding(self) -> Iterable[Update]:
        yield self._found_cluster()
        for machine in list(self.nodes.values())[1:]:
            token = f"t{machine.id}"
            yield self.token(token)
            yield self.admission(token, machine.name, machine.addresses)

    def _found_cluster(self) -> FoundCluster:
        return FoundCluster(
            name="SIM",
            timing_profile=self.timing.profile,
            node_name="n1",
            addresses=self.nodes[NodeId(1)].addresses,
            port=3343,
            admin_port=0,
            utc_offset_min=0,
            group=GroupId("cluster-group"),
            quorum=self.quorum if self.quorum.on_disk else None,
        )

    @staticmethod
    def token(token: str) -> AddJoinToken:
        """The update that makes a token to join with."""
        return AddJoinToken(
            token=token, secret_sha256=SECRET_SHA256, expires_ms=WALL_START_MS + 10**10, at_ms=WALL_START_MS
        )

    @staticmethod
    def admission(token: str, name: str, addresses: tuple[str, ...]) -> AdmitNode:
        """The update that admits a machine as a new node."""
        return AdmitNode(
            token=token,
            secret_sha256=SECRET_SHA256,
            node_name=name,
            addresses=addresses,
            port=3343,
            admin_port=0,
            at_ms=WALL_START_MS,
        )

    def form(self, *, limit_ms: int = 60_000) -> None:
        """Start all machines and have all of them be members with a vote, by the commands an administrator gives."""
        if not isinstance(self.log, OrderedLog):
            self._start(self.nodes[NodeId(1)])
            self.run_until(lambda: "n1" in self.members(), limit_ms=limit_ms)
            for update in list(self._founding())[1:]:
                assert self.do(update, on="n1") is None
        self.start()
        self.settle(limit_ms=limit_ms)
        self.run_until(lambda: self.config.voters == frozenset(self.nodes), limit_ms=limit_ms)

    def choose_witness(self, *, limit_ms: int = 20_000) -> None:
        """Give the cluster a witness, and wait until it may decide, if the votes are an even number."""
        assert self.do(SetWitness(path="/witness", token="0" * 16)) is None
        if len(self.config.voters) % 2 == 0:
            self.run_until(lambda: self.config.witness_open, limit_ms=limit_ms, what="an open witness")

    @property
    def entries(self) -> list[tuple[Proposal, Config | None, Report | None]]:
        """Every entry that was committed, with the configuration after it."""
        return self.log.entries

    @property
    def config(self) -> Config:
        """The newest committed configuration."""
        config = self.log.entries[-1][1]
        assert config is not None
        return config

    @property
    def leader(self) -> NodeId | None:
        """Who leads the log."""
        return self.log.leader()

    # --- time -------------------------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """Milliseconds since the world began."""
        return self.scheduler.now_ms

    @staticmethod
    def clock_of(machine: Machine) -> int:
        """What the machine's own clock shows."""
        return machine.clock.now_ms

    def run_for(self, ms: int) -> None:
        """Let the world go on for a while."""
        end_us = self.scheduler.now_us + ms * 1000
        while self.scheduler.step(until_us=end_us):
            self.events += 1

    def run_until(self, condition: Callable[[], bool], *, limit_ms: int = 60_000, what: str = "it") -> None:
        """Let the world go on until something holds; fails after ``limit_ms`` of cluster time."""
        end_us = self.scheduler.now_us + limit_ms * 1000
        while not condition():
            if not self.scheduler.step(until_us=end_us):
                raise AssertionError(f"{what} was not reached within {limit_ms} ms; {self.describe()}")
            self.events += 1

    def _look(self) -> None:
        for machine in list(self.nodes.values()):
            if machine.unwatched:
                machine.excused_until_us = self.scheduler.now_us + self._noticing_us()
            if self.cleans_evicted and not machine.wiped and self.log.entries and machine.id in self.config.evicted:
                self._wipe(machine)
        self.referee.look()
        self.scheduler.later(LOOK_MS, self._look)

    def _noticing_us(self) -> int:
        """How long monitors that stood still may take to notice and to terminate everything."""
        return (self.timing.release_budget_ms + 50) * 1000

    def _wipe(self, machine: Machine) -> None:
        """An evicted machine removes its data."""
        self.crash(machine.name)
        self.tell(machine.id, "it was evicted, and its data are removed")
        machine.wiped = True
        machine.stored = []
        self.log.erase(machine)

    def join_new_machine(self, run: Callable[..., None]) -> None:
        """A new machine asks to join; ``run`` is who gives the commands for it."""
        name = f"joiner-{next(self._joiners)}"
        addresses = tuple(f"10.{2 * net + 1}.0.{len(self.nodes)}" for net in range(self.network.networks))

        def admission() -> Generator[Update, Report | None, None]:
            if (yield self.token(f"t-{name}")) is None:
                yield self.admission(f"t-{name}", name, addresses)

        def admitted() -> None:
            node = self.config.node_named(name)
            if node is not None and node.id not in self.nodes:
                machine = self._add_machine(node.id)
                machine.addresses = addresses
                self.start(machine.name)

        run(admission(), then=admitted)

    # --- the trace --------------------------------------------------------------------------------------------------

    def tell(self, node: NodeId | None, what: object) -> None:
        """Add something to the trace; it is put into words only when somebody wants to read it."""
        if type(what) not in EVERY_MOMENT:
            self._told.append((self.scheduler.now_us, node, what))
        self._hash.update(b"%d %d %s\n" % (self.scheduler.now_us, node or 0, type(what).__name__.encode()))

    @property
    def trace_hash(self) -> str:
        """A fingerprint of everything that has happened; equal for equal seeds."""
        return self._hash.hexdigest()

    def last_words(self, count: int = 60) -> list[str]:
        """The newest events in words."""
        lines = [
            f"{now_us / 1000:>12.3f} ms  {f'n{node}' if node else '':<4} {text}"
            for now_us, node, what in self._told
            if (text := in_words(what))
        ]
        return lines[-count:]

    # --- services ---------------------------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start the service on these machines (on all that are not wiped if none is named)."""
        for machine in self._select(names):
            if not machine.alive and not machine.wiped and not machine.suspended:
                self._start(machine)

    def _start(self, machine: Machine) -> None:
        machine.boots += 1
        machine.inbox.clear()
        machine.frozen = False
        machine.stalled_until_us = -1
        machine.seen = machine.internal = None
        self.tell(machine.id, f"the service starts, boot {machine.boots}")
        quorum = self._quorum_at_start(machine)
        index, config = machine.stored[-1] if machine.stored else (0, None)
        machine.core = NodeCore(
            node=machine.id,
            boot=machine.boots,
            timing=config.timing if config else quorum.timing_of(self.timing.profile),
            peers=self._peers_of(machine, config),
            index=index,
            config=config,
            now_ms=machine.clock.now_ms,
            quorum=config.quorum if config else quorum,
            leftovers=tuple(machine.monitors),
            found=(RequestId("found"), self._found_cluster())
            if not isinstance(self.log, OrderedLog) and machine.id == 1 and config is None
            else None,
        )
        machine.beacon = self._make_beacon(machine)
        known = self.log.entries[-1][1] if self.log.entries else None
        members = frozenset(known.nodes if known is not None else ()) | {machine.id}
        try:
            self.log.boot(machine, members=members, joining=machine.id != 1)
        except (ClusterError, OSError) as error:
            self.tell(machine.id, f"the log cannot be opened: {error}")
            self.service_died(machine, machine.generation, str(error))
            return
        for other in self.nodes.values():
            if other is not machine and other.alive:
                self.network.connect_soon(machine.id, other.id)
        self._give(machine, Tick())

    def _quorum_at_start(self, machine: Machine) -> Quorum:
        """In whose log the machine takes part; what its database has of another generation does not count."""
        if not isinstance(self.log, SwitchingLog):
            return self.quorum
        quorum = self.log.quorum_of(machine)
        if machine.stored and machine.stored[-1][1].quorum.generation != quorum.generation:
            begins = self.log.begins_with(machine)
            machine.stored = [begins] if begins is not None else []
        return quorum

    def _peers_of(self, machine: Machine, config: Config | None) -> dict[NodeId, PeerAddress]:
        known = [node for node in self.nodes if config is None or node in config.nodes]
        return {
            node: PeerAddress(name=f"n{node}", addresses=self.nodes[node].addresses, port=3343)
            for node in known
            if node != machine.id
        }

    def service_died(self, machine: Machine, generation: int, why: str) -> None:
        """The service process has ended by itself."""
        if machine.generation == generation and machine.alive:
            self.tell(machine.id, f"the service ends: {why}")
            if machine.disk.writes_left is not None and machine.disk.writes_left < 0:
                self.crash(machine.name)
            else:
                self._end_service(machine)
            self.start_later(machine)

    def start_later(self, machine: Machine) -> None:
        """Its service is started again after a while, if somebody does that here."""
        generation = machine.generation

        def again() -> None:
            if machine.generation == generation:
                self.start(machine.name)

        if self.restarts:
            self.scheduler.later(200 + 1_000 * self.random.random(), again)

    def _end_service(self, machine: Machine, *, silently: bool = False, noticed: bool | None = None) -> None:
        assert machine.core is not None
        machine.read = machine.core.config
        machine.core = None
        if machine.beacon is not None:
            machine.beacon.end()
        machine.generation += 1
        machine.frozen = False
        machine.inbox.clear()
        lost = self.random.randrange(4)
        if silently and lost and len(machine.stored) > lost:
            del machine.stored[-lost:]
        self.log.stop(machine)
        self.network.break_streams(machine.id, self.nodes, silently=silently)
        if not silently:
            for monitor in machine.monitors.values():
                when = self.random.random()
                if when < 0.5 if noticed is None else noticed:
                    monitor.end_with_service()
                else:
                    # It gets no time for a while; its deadman may come first.
                    self.scheduler.later(2_000 * (when - 0.5), monitor.end_with_service)

    def crash(self, *names: str) -> None:
        """Power off: everything on the machine ends at once, and what was not synced is lost."""
        for machine in self._select(names):
            self.tell(machine.id, "the power goes off")
            machine.suspended = False
            machine.power += 1
            machine.monitors = {}
            machine.occupied.clear()
            machine.will = None
            if machine.alive:
                self._end_service(machine, silently=True)
            machine.disk.lose_power()

    def crash_service(self, name: str, *, noticed: bool | None = None) -> None:
        """Only the service process dies; its monitors notice at once, or when they get time, as ``noticed`` says or
        chance does."""
        machine = self.node(name)
        if machine.alive and not machine.suspended:
            self.tell(machine.id, "the service is killed")
            self._end_service(machine, noticed=noticed)

    def freeze(self, name: str) -> None:
        """Stop the service process; its monitors go on."""
        machine = self.node(name)
        if machine.awake:
            self.tell(machine.id, "the service is stopped by a signal")
            machine.frozen = True
            self.log.network_changed()

    def thaw(self, name: str) -> None:
        """Let the service process go on; it finds a full inbox and a later time."""
        machine = self.node(name)
        if machine.frozen:
            self.tell(machine.id, "the service goes on")
            machine.frozen = False
            self._goes_on(machine)

    def _goes_on(self, machine: Machine) -> None:
        self.log.thawed(machine)
        if machine.beacon is not None:
            machine.beacon.goes_on()
        self._drain_soon(machine)

    def suspend(self, name: str) -> None:
        """The whole machine stands still; its clocks run on, as those of a virtual machine that is paused."""
        machine = self.node(name)
        if not machine.suspended:
            self.tell(machine.id, "the machine stands still")
            machine.suspended = True
            for monitor in machine.monitors.values():
                monitor.freeze()
            self.log.network_changed()

    def resume(self, name: str) -> None:
        """The machine goes on."""
        machine = self.node(name)
        if not machine.suspended:
            return
        self.tell(machine.id, "the machine goes on")
        machine.suspended = False
        # What ran goes on running until the monitors' timers have fired and done their work; nobody can prevent that.
        machine.excused_until_us = self.scheduler.now_us + self._noticing_us()
        for monitor in machine.monitors.values():
            monitor.thaw()
        if machine.alive and not machine.frozen:
            self._goes_on(machine)

    def stop_processes(self, name: str) -> None:
        """Service and monitors are stopped by signals; what they started runs on."""
        machine = self.node(name)
        self.freeze(name)
        for monitor in machine.monitors.values():
            monitor.freeze()

    def continue_processes(self, name: str) -> None:
        """They go on."""
        for monitor in self.node(name).monitors.values():
            if monitor.frozen:
                monitor.thaw()
        self.thaw(name)

    def node(self, name: str) -> Machine:
        """The machine of that name (n1, n2, ...)."""
        return self.nodes[NodeId(int(name.removeprefix("n")))]

    def _select(self, names: Iterable[str]) -> list[Machine]:
        chosen = [self.node(name) for name in names]
        return chosen or list(self.nodes.values())

    # --- events -----------------------------------------------------------------------------------------------------

    def post(self, machine: Machine, event: Event) -> None:
        """Put an event into the inbox of a service; its core takes it in a moment later."""
        if machine.alive:
            machine.inbox.append(event)
            self._drain_soon(machine)

    def post_later(self, machine: Machine, delay_ms: float, event: Event) -> None:
        """The same after a delay, if the process then still is this one."""
        generation = machine.generation

        def arrive() -> None:
            if machine.generation == generation:
                self.post(machine, event)

        self.scheduler.later(delay_ms, arrive)

    def _drain_soon(self, machine: Machine) -> None:
        if machine.draining or not machine.inbox:
            return
        machine.draining = True
        generation = machine.generation

        def drain() -> None:
            machine.draining = False
            if not machine.awake or machine.generation != generation:
                if machine.awake:
                    self._drain_soon(machine)
                return
            if machine.stalled_until_us > self.scheduler.now_us:
                self._drain_soon(machine)
                return
            while machine.inbox and machine.awake and machine.generation == generation:
                self._handle(machine, machine.inbox.popleft())

        wait_ms = max(0.0, (machine.stalled_until_us - self.scheduler.now_us) / 1000)
        self.scheduler.later(wait_ms + 0.02 + 0.2 * self.random.random(), drain)

    def _give(self, machine: Machine, event: Event) -> None:
        """Have the core handle this now, after what waits already."""
        if not machine.alive:
            return
        if not machine.awake or machine.inbox or machine.stalled_until_us > self.scheduler.now_us:
            machine.inbox.append(event)
            self._drain_soon(machine)
            return
        self._handle(machine, event)

    def _handle(self, machine: Machine, event: Event) -> None:
        core = machine.core
        assert core is not None
        # As in the service: what was heard meanwhile comes before everything.
        heard = machine.beacon.take() if machine.beacon is not None else ()
        if heard:
            self._turn(machine, core, HeartbeatsHeard(heard=heard))
            if isinstance(event, Tick):
                return
        if machine.core is core:
            self._turn(machine, core, event)

    def _turn(self, machine: Machine, core: NodeCore, event: Event) -> None:
        self.tell(machine.id, event)
        before = core.index
        actions = core.handle(event, now_ms=machine.clock.now_ms, wall_ms=machine.clock.wall_ms)
        if isinstance(event, Committed | ConfigInstalled | QuorumNews) and core.index > before:
            machine.stored = [*machine.stored[-5:], (event.index, event.config)]
            if event.config.timing is not self.timing:
                self.timing = event.config.timing
        for action in actions:
            self._perform(machine, action)
            if machine.core is not core:
                return
        self._schedule_tick(machine)

    def _schedule_tick(self, machine: Machine) -> None:
        core, generation = machine.core, machine.generation
        if core is None or core.phase is NodePhase.STOPPED:
            return
        wait_ms = machine.clock.until_ms(core.deadline_ms) + 0.001
        due_us = self.scheduler.now_us + int(wait_ms * 1000)
        if machine.tick_of == generation and machine.tick_us <= due_us:
            # The one that comes earlier looks again.
            return
        machine.tick_us, machine.tick_of = due_us, generation

        def tick() -> None:
            if machine.generation != generation or machine.tick_us != due_us or machine.tick_of != generation:
                return
            machine.tick_of = -1
            if machine.awake and core.deadline_ms > machine.clock.now_ms:
                self._schedule_tick(machine)
            else:
                self._give(machine, Tick())

        self.scheduler.later(wait_ms, tick)

    # --- actions ----------------------------------------------------------------------------------------------------

    def _perform(self, machine: Machine, action: Action) -> None:
        if not isinstance(action, Vouch) and not (
            isinstance(action, CommandMonitor) and isinstance(action.command, LeaseExtended)
        ):
            self.tell(machine.id, action)
        match action:
            case Vouch():
                assert machine.beacon is not None
                machine.beacon.vouch(action)
            case Propose():
                self.referee.proposes(machine, action.proposal)
                self.log.propose(machine, action)
            case LeaveWill():
                assert machine.beacon is not None
                machine.will = action.incarnation, machine.beacon.compose_will(action.incarnation)
            case UseTiming():
                self.log.set_timing(machine, action.timing)
            case UseQuorum():
                pass
            case ChangeLog():
                self._change_log(machine, action)
            case TellNews():
                if isinstance(self.log, SwitchingLog):
                    self.log.tell_news(machine, action)
            case ContestQuorum():
                self.log.contest(machine, action)
            case GiveQuorumBack():
                self.log.give_back(machine)
            case ForgetLeader():
                self.log.forget_leader(machine, action.node)
            case CommandMonitor():
                monitor = machine.monitors.get(action.monitor)
                if monitor is not None:
                    monitor.obey(action.command)
            case StartMonitor():
                self._start_monitor(machine, action.monitor)
            case Reply():
                self.referee.replied(action.request, action.refusal)
                self.replies[action.request] = action.refusal
                then = self._on_reply.pop(action.request, None)
                if then is not None:
                    then(action.refusal)
            case FenceSelf():
                self._fence(machine, action.why)
            case FenceNode():
                self._run_agent(machine, action.order)
            case StopService():
                self._end_service(machine)
                if self.keep_running:
                    self.start_later(machine)
            case StopMonitor():
                stopped = machine.monitors.pop(action.monitor, None)
                machine.occupied.discard(action.monitor)
                assert stopped is None or not stopped.running, "a monitor was stopped that still runs something"
            case AddLogMember() | RemoveLogMember():
                self.log.change_members(machine, action)
            case AskWitness():
                self.witness.ask(machine, action)
            case UseDecision():
                self.log.use_decision(machine, action.decision)
            case WatchWitness():
                pass
            case SetPeers():
                assert machine.beacon is not None
                machine.beacon.set_peers(tuple(action.peers))
                machine.internal = action.internal
            case PingNetworks():
                pass
            case Note():
                pass

    def _change_log(self, machine: Machine, action: ChangeLog) -> None:
        assert isinstance(self.log, SwitchingLog)
        try:
            self.log.change(machine, action)
        except (ClusterError, OSError) as error:
            self.service_died(machine, machine.generation, f"the new log cannot be begun: {error}")

    def _fence(self, machine: Machine, why: str) -> None:
        self.fenced.append((machine.id, why))
        if not self.fencing:
            return
        power = machine.power

        def off() -> None:
            if machine.power == power:
                self.crash(machine.name)
                self.start_later(machine)

        self.scheduler.later(5, off)

    def _run_agent(self, machine: Machine, order: FenceOrder) -> None:
        """A fence agent, which runs on this machine and reaches the device by a way of its own."""
        generation, kind = machine.generation, self.agents.get(order.device.name, Agent())

        def end() -> None:
            victim = self.nodes[order.device.node]
            if kind.works and not kind.lies:
                self.crash(victim.name)
                self.start_later(victim)
            if machine.generation == generation:
                detail = "" if kind.works else "the device does not answer"
                self._give(machine, FenceEnded(ticket=order.ticket, off=kind.works, detail=detail))

        self.scheduler.later(kind.takes_ms, end)

    # --- the network ------------------------------------------------------------------------------------------------

    def _make_beacon(self, machine: Machine) -> Beacon:
        boot = machine.boots

        def send(data: bytes) -> None:
            sent_us = self.scheduler.now_us
            config = machine.core.config if machine.core is not None else None
            for node in config.nodes if config is not None else tuple(self.nodes):
                if node != machine.id and node in self.nodes:
                    for network in range(self.network.networks):
                        if machine.internal is None or network in machine.internal:
                            arrives = partial(arrive, self.nodes[node], sent_us, data, network)
                            self.network.datagram(machine.id, node, arrives, network)

        def arrive(other: Machine, sent_us: int, data: bytes, network: int) -> None:
            if other.alive and other.beacon is not None:
                other.beacon.arrive(data, machine.id, boot, sent_us, network)

        return Beacon(
            node=machine.id,
            boot=boot,
            clock=machine.clock,
            scheduler=self.scheduler,
            awake=lambda: machine.awake,
            send=send,
            news=lambda: self._give(machine, Tick()),
            heard=lambda sender, sent_boot, sent_us: self.referee.heartbeat_received(
                sender, machine.id, sent_boot, sent_us
            ),
        )

    def _deliver(self, sender: NodeId, receiver: NodeId, frame: bytes) -> None:
        if self.nodes[receiver].alive:
            self.log.deliver(sender, receiver, frame)

    def _link_changed(self, node: NodeId, other: NodeId, up: bool) -> None:
        self.log.link_changed(node, other, up)

    def partition(self, *sides: set[str]) -> None:
        """Cut everything between these sides, and mend everything else."""
        groups = [{self.node(name).id for name in side} for side in sides]
        self.network.cut = {
            pair
            for one, other in itertools.combinations(groups, 2)
            for a in one
            for b in other
            for pair in ((a, b), (b, a))
        }
        self.network_changed()

    def cut_one_way(self, sender: str, receiver: str) -> None:
        """Nothing passes in this direction any more."""
        self.network.cut.add((self.node(sender).id, self.node(receiver).id))
        self.network_changed()

    def cut_network(self, network: int, *names: str) -> None:
        """On this network nothing passes from these machines or to them any more; they do not see it."""
        for machine in self._select(names):
            for other in self.nodes:
                if other != machine.id:
                    self.network.cut_on |= {(machine.id, other, network), (other, machine.id, network)}
        self.network_changed()

    def pull_cable(self, network: int, name: str) -> None:
        """The machine sees that its link to this network goes down."""
        self.node(name).links_down.add(network)
        self.cut_network(network, name)
        self._watch_interfaces(self.node(name))

    def _watch_all_interfaces(self) -> None:
        """The watchers of the services look a few times in a second, where there is more than one network."""
        for machine in self.nodes.values():
            self._watch_interfaces(machine)
        self.scheduler.later(WATCH_MS, self._watch_all_interfaces)

    def _watch_interfaces(self, machine: Machine) -> None:
        if not machine.awake or machine.beacon is None:
            return
        links = {
            place: LinkSeen(
                prefix=24, adapter=f"eth{place}", trouble="the link is down" if place in machine.links_down else ""
            )
            for place in range(self.network.networks)
        }
        heard = machine.beacon.heard_on(self.network.networks, self.timing.lease_ms)
        seen = InterfacesSeen(links=links, heard=heard)
        if seen != machine.seen:
            machine.seen = seen
            self._give(machine, seen)

    def heal(self) -> None:
        """Mend every link."""
        self.network.cut.clear()
        self.network.cut_on.clear()
        for machine in self.nodes.values():
            machine.links_down.clear()
        self.network_changed()

    def network_changed(self) -> None:
        """Links were cut or mended."""
        cut = [*sorted(self.network.cut), *sorted(self.network.cut_on)]
        self.tell(None, f"cut are {cut}" if cut else "all links work")
        self.network.links_changed()
        self.log.network_changed()

    # --- monitors ---------------------------------------------------------------------------------------------------

    def _start_monitor(self, machine: Machine, name: str) -> None:
        power, generation = machine.power, machine.generation
        environment = MonitorEnvironment(
            node=machine.id,
            clock=machine.clock,
            scheduler=self.scheduler,
            rng=self.random,
            behaviour=self.behaviour,
            starting=lambda monitor, resource, epoch: self.referee.starts(machine, resource, epoch),
            report=lambda monitor, report: self._monitor_says(machine, generation, monitor, report),
            fence=lambda why: self._fence(machine, why),
            budget_ms=lambda: self.timing.release_budget_ms,
            emptied=lambda monitor: self._monitor_emptied(machine, power, monitor),
        )
        old = machine.monitors.get(name)
        fresh = old.succeed(environment) if old is not None else SimMonitor(name, environment)
        machine.monitors[name] = fresh
        machine.occupied.add(name)

        def ready() -> None:
            if machine.power == power and machine.generation == generation and not fresh.dead:
                self.post(machine, MonitorSaid(monitor=name, report=MonitorStarted(pid=1)))
                fresh.begin()

        self.scheduler.later(self.monitor_start_ms, ready)

    def _monitor_says(self, machine: Machine, generation: int, name: str, report: MonitorReport) -> None:
        """What it says to a service that is gone is lost."""
        if machine.alive and machine.generation == generation:
            self.post(machine, MonitorSaid(monitor=name, report=report))

    def _monitor_emptied(self, machine: Machine, power: int, name: str) -> None:
        """A monitor whose service is gone holds nothing any more; the last one sends the will."""
        if machine.power != power:
            return
        machine.occupied.discard(name)
        if not machine.occupied:
            self.send_will(machine)

    def send_will(self, machine: Machine) -> None:
        """On behalf of a service that is dead."""
        if machine.alive or machine.will is None:
            return
        (incarnation, data), boot, power = machine.will, machine.boots, machine.power
        self.tell(machine.id, f"the last monitor sends the will of incarnation {incarnation}")
        self.referee.will_sent(machine, incarnation)

        def send() -> None:
            for other in self.nodes.values():
                if other is not machine and machine.power == power and not machine.suspended:
                    self.network.datagram(
                        machine.id, other.id, partial(self._will_arrives, other, machine.id, boot, data)
                    )

        for pause_ms in (0, 10, 50):
            self.scheduler.later(pause_ms, send)

    def _will_arrives(self, other: Machine, sender: NodeId, boot: int, data: bytes) -> None:
        if other.alive and other.beacon is not None:
            other.beacon.arrive(data, sender, boot, None)

    def kill_monitor(self, node_name: str, monitor: str = "", *, leaving: bool = True) -> None:
        """A monitor process dies; ``leaving``: what it started runs on until its successor has cleaned up."""
        machine = self.node(node_name)
        old = machine.monitors.get(monitor)
        if old is None or old.dead or machine.suspended:
            return
        self.tell(machine.id, f"the monitor {monitor or '(default)'} is killed")
        old.kill(leaving=leaving and machine.alive)
        self.post_later(machine, 0.5, MonitorSaid(monitor=monitor, report=MonitorDied(why="it was killed")))

    def fail_resource(self, name: str) -> None:
        """The running resource dies by itself."""
        resource = self.resource(name)
        for machine in self.nodes.values():
            for monitor in machine.monitors.values():
                monitor.fail(resource)

    # --- administrators ---------------------------------------------------------------------------------------------

    def new_request(self) -> RequestId:
        """A name for a request that nobody has used."""
        return RequestId(f"admin-{next(self._requests)}")

    def command(
        self,
        update: Update,
        *,
        on: str | None = None,
        request: RequestId | None = None,
        then: Callable[[Report | None], None] | None = None,
    ) -> RequestId:
        """Give a command on a node (the leader if none is named); its outcome lands in ``replies``."""
        request = request or self.new_request()
        if then is not None:
            self._on_reply[request] = then
        machine = self.node(on) if on else self.nodes[self.leader or NodeId(1)]
        self.referee.asked(request)
        self._give(machine, CommandArrived(request=request, update=update))
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
            assert self.do(new_resource(name, resource, group)) is None
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
            machine.name
            for machine in self.nodes.values()
            if machine.core is not None and machine.core.phase is NodePhase.MEMBER
        }

    def settle(self, *, limit_ms: int = 60_000) -> None:
        """Wait until all living nodes are members."""
        self.run_until(
            lambda: self.members() == {machine.name for machine in self.nodes.values() if machine.alive},
            limit_ms=limit_ms,
        )

    def running_on(self, group: GroupId) -> set[str]:
        """The nodes on which anything of the group may run."""
        resources = {r.id for r in self.config.resources_of(group)}
        return {machine.name for machine in self.nodes.values() if resources & machine.running.keys()}

    def online_on(self, group: GroupId) -> str | None:
        """The node on which every wanted resource of the group runs and nothing is under way; None if there is none."""
        wanted = {r.id for r in self.config.resources_of(group) if r.persistent_state}
        for machine in self.nodes.values():
            settled = wanted <= machine.running.keys() and not wanted & machine.busy
            if wanted and settled and all(self.config.resources[r].state is ResourceState.ONLINE for r in wanted):
                return machine.name
        return None

    def describe(self) -> str:
        """The world in words, for failures."""
        lines = [f"at {self.now_ms} ms, leader {self.leader}"]
        for machine in self.nodes.values():
            phase = machine.core.phase.value if machine.core else "off"
            index = machine.core.index if machine.core else 0
            still = " (stands still)" if machine.frozen or machine.suspended else ""
            gone = " (evicted)" if machine.wiped else ""
            lines.append(f"  {machine.name}: {phase}{still}{gone}, applied {index}, runs {sorted(machine.running)}")
        if self.log.entries:
            for group in self.config.groups.values():
                states = [
                    f"{r.id} {r.state.value}{'' if r.persistent_state else ' (not wanted)'}"
                    for r in self.config.resources_of(group.id)
                ]
                lines.append(
                    f"  {group.name}: owner {group.owner} epoch {group.epoch} released {group.released}"
                    f" move {group.move} halted {group.halted}; {', '.join(states)}"
                )
        return "\n".join([*lines, *self.last_words(24)])

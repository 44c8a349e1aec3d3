"""Simulated resource monitors: what runs on a machine, under which epoch and lease, and everything that can go wrong.

A monitor does what ``clussvc/resources/monitor`` does: it refuses old epochs and starts without a lease, has a deadman,
and answers every command. Its resources may fail to start, to stop, or to die; it may hang, be stopped, or be killed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from clussvc.model.ids import GroupId, NodeId, ResourceId
from clussvc.model.monitoring import (
    BringOnline,
    CloseResource,
    CommandRefused,
    DeadmanFired,
    EverythingTerminated,
    LeaseExtended,
    MonitorCommand,
    MonitorReport,
    OpenResource,
    ResourceReported,
    TakeOffline,
    TerminateEverything,
    TerminateResource,
)
from clussvc.model.states import ResourceState
from tests.simulation.scheduler import MachineClock, Scheduler


@dataclass
class Behaviour:
    """How resources behave, everywhere or on some nodes. Times are ranges in milliseconds."""

    start_ms: tuple[float, float] = (5, 60)
    stop_ms: tuple[float, float] = (5, 40)
    terminate_ms: tuple[float, float] = (1, 50)
    fails: dict[ResourceId, set[NodeId]] = field(default_factory=dict)
    """They do not start on these nodes."""
    dead: set[ResourceId] = field(default_factory=set)
    """They start nowhere."""
    stuck: set[ResourceId] = field(default_factory=set)
    """They do not stop when asked; they have to be terminated."""
    unkillable: set[ResourceId] = field(default_factory=set)
    """They cannot even be terminated; only the end of the machine ends them."""

    def starts(self, resource: ResourceId, node: NodeId) -> bool:
        """Whether a start succeeds."""
        return resource not in self.dead and node not in self.fails.get(resource, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorEnvironment:
    """What a monitor finds around it. ``started`` is asked before something begins to run; ``changed`` told after
    something ended; ``report`` brings a report to the service, if that still is the one the monitor belongs to."""

    node: NodeId
    clock: MachineClock
    scheduler: Scheduler
    rng: random.Random
    behaviour: Behaviour
    starting: Callable[[str, ResourceId, int], None]
    report: Callable[[str, MonitorReport], None]
    fence: Callable[[str], None]
    """Ends the machine; the monitor does it when what it runs does not end within the release budget."""
    budget_ms: Callable[[], int]
    emptied: Callable[[str], None]
    """Its service is gone, and it has terminated everything."""


class SimMonitor:
    """One resource monitor and what it runs."""

    def __init__(self, name: str, environment: MonitorEnvironment) -> None:
        self.name = name
        self._environment = environment
        self.running: dict[ResourceId, int] = {}
        """What runs, or may, with the epoch it was started under."""
        self.busy: dict[ResourceId, int] = {}
        """The number of the transition under way."""
        self.lease_until_ms = -1
        self.budget_ms = environment.budget_ms()
        self.opened: dict[ResourceId, GroupId] = {}
        self.epochs: dict[GroupId, int] = {}
        """The newest epoch seen of each group; commands of older ones are refused."""
        self.hangs = False
        """TerminateEverything is not obeyed; the deadman still terminates at the end of the lease."""
        self.frozen = False
        """The process is stopped by a signal; what it started runs on."""
        self.dead = False
        """The process is gone; what it started may run on until its successor has cleaned up."""
        self._waiting: list[MonitorCommand] = []
        self._hung: list[MonitorCommand] = []
        self._ends: list[Callable[[tuple[ResourceId, ...]], None]] = []
        """Ends of everything that are under way or wait for their turn, each with what is done when it is over."""
        self._interrupted = False
        """One was under way when the process was stopped."""
        self._due_ms: list[int] = []
        """By when ends of everything that are under way, or left something, must be over (the last resort)."""
        self._unheard = False
        """The deadman has fired, and the service has not said since that it knows; nothing starts before."""

    def succeed(self, environment: MonitorEnvironment) -> SimMonitor:
        """The monitor that is started in place of this one; it finds what this one left."""
        successor = SimMonitor(self.name, environment)
        successor.running = self.running
        successor.lease_until_ms, successor.budget_ms = self.lease_until_ms, self.budget_ms
        if not self.dead and not self.frozen:
            # The old process is not killed by that; its deadman goes on.
            successor._arm(self.lease_until_ms)
        self.dead = True
        self.busy.clear()
        return successor

    def begin(self) -> None:
        """The process is ready: without being asked it ends what one before it has left."""
        self._end_everything(lambda left: None)

    def online(self) -> set[ResourceId]:
        """What runs with nothing under way."""
        return self.running.keys() - self.busy.keys()

    # --- commands ---------------------------------------------------------------------------------------------------

    def obey(self, command: MonitorCommand) -> None:
        """Take a command; a stopped process reads it when it goes on."""
        if self.dead:
            return
        if self.frozen:
            self._waiting.append(command)
            return
        match command:
            case OpenResource():
                self.opened[command.spec.resource] = command.spec.group
            case CloseResource():
                self.opened.pop(command.resource, None)
            case LeaseExtended():
                self.lease_until_ms = command.until_ms
                self.budget_ms = command.budget_ms
                self._arm(command.until_ms)
            case TerminateEverything():
                self._terminate_everything(command)
            case BringOnline() | TakeOffline() | TerminateResource():
                self._change(command)

    def freeze(self) -> None:
        """The process is stopped."""
        self.frozen = True

    def thaw(self) -> None:
        """The process goes on: first its deadman's timer, then what waited for it."""
        self.frozen = False
        self._use_last_resort()
        if self._interrupted:
            self._interrupted = False
            self._later(self._environment.behaviour.terminate_ms, self._end_is_due)
        if self.lease_until_ms < self._environment.clock.now_ms:
            self._fire(self.lease_until_ms)
        else:
            self._arm(self.lease_until_ms)
        waiting, self._waiting = self._waiting, []
        for command in waiting:
            self.obey(command)

    def recover(self) -> None:
        """It hangs no more, and does what it was told meanwhile."""
        self.hangs = False
        hung, self._hung = self._hung, []
        for command in hung:
            self.obey(command)

    def kill(self, *, leaving: bool) -> None:
        """The process dies. ``leaving``: what it started does not die with it."""
        self.dead = True
        self.busy.clear()
        if not leaving:
            self.running.clear()

    def end_with_service(self) -> None:
        """The connection to the service is gone: terminate everything, as at the end of a lease."""

        def over(left: tuple[ResourceId, ...]) -> None:
            if not left:
                self._environment.emptied(self.name)

        if not self.dead:
            self._must_be_over(max(self.lease_until_ms, self._environment.clock.now_ms))
            self._end_everything(over)

    def _later(self, range_ms: tuple[float, float], action: Callable[[], None]) -> None:
        low, high = range_ms
        self._environment.scheduler.later(low + (high - low) * self._environment.rng.random(), action)

    def _report(self, report: MonitorReport) -> None:
        environment = self._environment

        def arrive() -> None:
            # Written before it died or was stopped, so it arrives in any case.
            environment.report(self.name, report)

        environment.scheduler.later(0.2, arrive)

    # --- the deadman ------------------------------------------------------------------------------------------------

    def _arm(self, until_ms: int) -> None:
        def look() -> None:
            if self.lease_until_ms == until_ms and not self.frozen and not self.dead:
                if self._environment.clock.now_ms <= until_ms:
                    # The clock has slowed down meanwhile.
                    self._arm(until_ms)
                    return
                self._fire(until_ms)

        self._environment.scheduler.later(self._environment.clock.until_ms(until_ms) + 1, look)

    def _fire(self, until_ms: int) -> None:
        if not self.running and not self.busy:
            return

        self._unheard = True
        self._must_be_over(until_ms)
        self._end_everything(lambda left: self._report(DeadmanFired(lease_ended_ms=until_ms, left=left)))

    def _must_be_over(self, lease_ended_ms: int) -> None:
        """What begins now has a release budget from the end of the lease on."""
        if not self.running and not self.busy:
            return
        due_ms = lease_ended_ms + self.budget_ms
        self._due_ms.append(due_ms)
        self._environment.scheduler.later(self._environment.clock.until_ms(due_ms) + 1, self._use_last_resort)

    def _use_last_resort(self) -> None:
        now_ms = self._environment.clock.now_ms
        if not self.dead and not self.frozen and any(due_ms <= now_ms for due_ms in self._due_ms):
            self._due_ms.clear()
            self._environment.fence("a monitor could not terminate everything within the release budget")

    def _end_everything(self, then: Callable[[tuple[ResourceId, ...]], None]) -> None:
        """Terminate everything, which takes a while; nothing is started meanwhile, and one end follows the other."""
        self.busy.clear()
        self._ends.append(then)
        if len(self._ends) == 1:
            self._later(self._environment.behaviour.terminate_ms, self._end_is_due)

    def _end_is_due(self) -> None:
        if self.dead:
            return
        if self.frozen:
            # It is in the middle of it, and goes on when the process does.
            self._interrupted = True
            return
        self._ends.pop(0)(self._clear())
        if self._ends:
            self._later(self._environment.behaviour.terminate_ms, self._end_is_due)

    def _clear(self) -> tuple[ResourceId, ...]:
        """Terminate everything that can be terminated; what is left."""
        self.busy.clear()
        left = tuple(sorted(self._environment.behaviour.unkillable & self.running.keys()))
        for resource in [resource for resource in self.running if resource not in left]:
            del self.running[resource]
        if not left:
            self._due_ms.clear()
        return left

    def _terminate_everything(self, command: TerminateEverything) -> None:
        if self.hangs:
            self._hung.append(command)
            return
        self._unheard = False
        self._end_everything(lambda left: self._report(EverythingTerminated(ticket=command.ticket, left=left)))

    # --- resources --------------------------------------------------------------------------------------------------

    def _change(self, command: BringOnline | TakeOffline | TerminateResource) -> None:
        group = self.opened.get(command.resource)
        if group is None or command.epoch < self.epochs.get(group, 0):
            self._refuse(command, "not open, or an old epoch")
            return
        self.epochs[group] = command.epoch
        if not isinstance(command, BringOnline):
            self._stop(command)
        elif self._unheard:
            self._refuse(command, "everything was terminated, and the service does not know it yet", ending=True)
        elif self._ends:
            self._refuse(command, "everything is being terminated")
        elif self._environment.clock.now_ms > self.lease_until_ms:
            self._refuse(command, "no lease runs on this node")
        else:
            self._start(command)

    def _refuse(
        self, command: BringOnline | TakeOffline | TerminateResource, why: str, *, ending: bool = False
    ) -> None:
        self._report(CommandRefused(resource=command.resource, epoch=command.epoch, why=why, ending=ending))

    def _under_way(self, resource: ResourceId) -> Callable[[], bool]:
        number = self.busy[resource] = self._environment.scheduler.number()
        return lambda: self.busy.get(resource) == number and not self.dead

    def _start(self, command: BringOnline) -> None:
        resource = command.resource
        environment = self._environment
        environment.starting(self.name, resource, command.epoch)
        current = self._under_way(resource)
        # From now on something of it may run.
        self.running[resource] = command.epoch

        def done() -> None:
            if not current():
                return
            del self.busy[resource]
            started = environment.behaviour.starts(resource, environment.node)
            state = ResourceState.ONLINE if started else ResourceState.FAILED
            detail = "" if started else "it would not start"
            self._report(ResourceReported(resource=resource, epoch=command.epoch, state=state, detail=detail))

        self._later(environment.behaviour.start_ms, done)

    def _stop(self, command: TakeOffline | TerminateResource) -> None:
        resource = command.resource
        behaviour = self._environment.behaviour
        asked = isinstance(command, TakeOffline) and resource in behaviour.stuck
        current = self._under_way(resource)

        def done() -> None:
            if not current():
                return
            del self.busy[resource]
            if resource in behaviour.unkillable:
                state, detail = ResourceState.FAILED, "it could not be terminated"
            else:
                state, detail = ResourceState.OFFLINE, ""
                self.running.pop(resource, None)
            self._report(ResourceReported(resource=resource, epoch=command.epoch, state=state, detail=detail))

        # One that does not stop when asked is terminated at the end of its pending time-out.
        self._later((3_000, 3_000) if asked else behaviour.stop_ms, done)

    def fail(self, resource: ResourceId) -> None:
        """A resource that runs dies by itself."""
        epoch = self.running.get(resource)
        if epoch is not None and resource not in self.busy and not self.dead and not self.frozen:
            self._report(
                ResourceReported(resource=resource, epoch=epoch, state=ResourceState.FAILED, detail="its process ended")
            )

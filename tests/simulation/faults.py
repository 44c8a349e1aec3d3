"""Everything bad that a seed can have happen, as steps: what, when, to whom, for how long.

The steps of a story are drawn before it begins, each with its own end, and each does nothing where it does not apply
(a crash of what is off). So steps can be left out of a story without touching the others, which is how a failing story
is made short.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from clussvc.model.ids import GroupId, NodeId
from tests.simulation import administrator as admin
from tests.simulation.disk_quorum_log import simulated_quorum, superblock
from tests.simulation.machine import Machine
from tests.simulation.quorum_changes import KINDS as KINDS_OF_QUORUM
from tests.simulation.quorum_changes import change_quorum
from tests.simulation.shared_disk import SharedDisk
from tests.simulation.switching_log import SwitchingLog
from tests.simulation.world import World

MONITOR_HUNG_MS = 1_500
"""After so long the service takes a monitor that does not answer for hung, and kills it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happens. ``picks`` choose among what there is at that moment, ``for_ms`` is when it ends."""

    at_ms: int
    kind: str
    picks: tuple[float, ...]
    for_ms: int

    def __str__(self) -> str:
        return f"at {self.at_ms} ms {self.kind} for {self.for_ms} ms, picks {', '.join(f'{p:.3f}' for p in self.picks)}"


class Trouble:
    """Performs steps in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.administrator = admin.Administrator(world)
        self._groups = itertools.count(1)
        self._unused_disk = SharedDisk(world, superblock(simulated_quorum("disk-leases")), reservations=False)
        self.over = False

    def perform(self, step: Step) -> None:
        """Begin a step; its end comes by itself."""
        if not self.over:
            self.world.tell(None, f"--- {step.kind} for {step.for_ms} ms")
            known = KINDS | DISK_KINDS | WITNESS_KINDS | QUORUM_KINDS | UNDRAWN
            known[step.kind](self, step)

    def later(self, step: Step, action: Callable[[], None]) -> None:
        """The end of a step; nothing if everything was made good meanwhile."""
        self.world.scheduler.later(step.for_ms, lambda: None if self.over else action())

    # --- picking ----------------------------------------------------------------------------------------------------

    def machine(self, pick: float) -> Machine:
        """One of the machines that were not evicted."""
        machines = [machine for machine in self.world.nodes.values() if not machine.wiped]
        return machines[int(pick * len(machines))]

    def some(self, pick: float) -> list[Machine]:
        """A choice of them, by the bits of a number."""
        machines = [machine for machine in self.world.nodes.values() if not machine.wiped]
        bits = int(pick * 2 ** len(machines))
        return [machine for bit, machine in enumerate(machines) if bits >> bit & 1]

    def group(self, pick: float) -> GroupId | None:
        """One of the groups."""
        groups = [group for group in self.world.config.groups if group != self.world.config.default_group]
        return groups[int(pick * len(groups))] if groups else None

    def resource(self, pick: float) -> str | None:
        """One of the resources, by name."""
        resources = [resource.name for resource in self.world.config.resources.values()]
        return resources[int(pick * len(resources))] if resources else None

    def member(self, pick: float) -> NodeId:
        """One of the nodes in the configuration."""
        nodes = list(self.world.config.nodes)
        return nodes[int(pick * len(nodes))]

    # --- network ----------------------------------------------------------------------------------------------------

    def partition(self, step: Step) -> None:
        """Two sides."""
        one = {machine.name for machine in self.some(step.picks[0])}
        self.world.partition(one, {machine.name for machine in self.world.nodes.values()} - one)
        self.later(step, self.world.heal)

    def isolate(self, step: Step) -> None:
        """One against the rest."""
        name = self.machine(step.picks[0]).name
        self.world.partition({name}, {machine.name for machine in self.world.nodes.values()} - {name})
        self.later(step, self.world.heal)

    def cut_one_way(self, step: Step) -> None:
        """One direction of one link, or of all links of a machine."""
        one, other = self.machine(step.picks[0]), self.machine(step.picks[1])
        others = [other] if step.picks[2] < 0.5 else list(self.world.nodes.values())
        pairs = {(one.id, other.id) if step.picks[2] < 0.75 else (other.id, one.id) for other in others}
        self._cut({(a, b) for a, b in pairs if a != b}, step)

    def cut_links(self, step: Step) -> None:
        """Some links in both directions, so that not everybody who is heard hears everybody."""
        machines = [machine.id for machine in self.world.nodes.values() if not machine.wiped]
        pairs = list(itertools.combinations(machines, 2))
        chosen = random.Random(step.picks[0]).sample(pairs, int(step.picks[1] * len(pairs)))
        self._cut({pair for a, b in chosen for pair in ((a, b), (b, a))}, step)

    def _cut(self, pairs: set[tuple[NodeId, NodeId]], step: Step) -> None:
        self.world.network.cut |= pairs
        self.world.network_changed()

        def mend() -> None:
            self.world.network.cut -= pairs
            self.world.network_changed()

        self.later(step, mend)

    def swizzle(self, step: Step) -> None:
        """Cut the links of some machines one after another, and mend them in another order."""
        rng = random.Random(step.picks[0])
        machines = [machine.id for machine in self.world.nodes.values() if not machine.wiped]
        chosen = rng.sample(machines, max(1, int(step.picks[1] * len(machines))))
        for node in chosen:
            pairs = {pair for other in machines if other != node for pair in ((node, other), (other, node))}
            begin_ms, end_ms = rng.random() * step.for_ms / 2, step.for_ms * (0.5 + rng.random() / 2)

            def cut(pairs: set[tuple[NodeId, NodeId]] = pairs) -> None:
                if not self.over:
                    self.world.network.cut |= pairs
                    self.world.network_changed()

            def mend(pairs: set[tuple[NodeId, NodeId]] = pairs) -> None:
                if not self.over:
                    self.world.network.cut -= pairs
                    self.world.network_changed()

            self.world.scheduler.later(begin_ms, cut)
            self.world.scheduler.later(end_ms, mend)

    def bad_weather(self, step: Step) -> None:
        """Losses, doubles, and datagrams that overtake each other."""
        network = self.world.network
        network.loss = step.picks[0] ** 3 * 0.4
        network.duplication = step.picks[1] ** 2 * 0.3
        network.late = step.picks[2] ** 2 * 0.3
        network.delay_ms = (0.1, 2.0 + 30 * step.picks[3] ** 4)
        self.later(step, self.good_weather)

    def good_weather(self) -> None:
        """As it was."""
        network = self.world.network
        network.loss = network.duplication = network.late = 0.0
        network.delay_ms = (0.1, 2.0)

    # --- machines ---------------------------------------------------------------------------------------------------

    def _start(self, *machines: Machine) -> None:
        for machine in machines:
            if not machine.wiped:
                self.world.start(machine.name)

    def crash(self, step: Step) -> None:
        """Power off, and on again later."""
        machine = self.machine(step.picks[0])
        self.world.crash(machine.name)
        self.later(step, lambda: self._start(machine))

    def crash_some(self, step: Step) -> None:
        """Several at once, or all."""
        chosen = self.some(step.picks[0] if step.picks[1] < 0.6 else 0.999_999)
        for machine in chosen:
            self.world.crash(machine.name)
        for number, machine in enumerate(chosen):

            def again(machine: Machine = machine) -> None:
                if not self.over:
                    self._start(machine)

            self.world.scheduler.later(step.for_ms * (1 + number * step.picks[2]), again)

    def crash_service(self, step: Step) -> None:
        """Only the service; its monitors and what they run are left."""
        machine = self.machine(step.picks[0])
        self.world.crash_service(machine.name)
        self.later(step, lambda: self._start(machine))

    def crash_at_write(self, step: Step) -> None:
        """Power off in the middle of a write."""
        machine = self.machine(step.picks[0])
        machine.disk.writes_left = int(step.picks[1] * 20)
        self.later(step, lambda: self._start(machine))

    def freeze(self, step: Step) -> None:
        """The service stands still."""
        machine = self.machine(step.picks[0])
        self.world.freeze(machine.name)
        self.later(step, lambda: self.world.thaw(machine.name))

    def stall_core(self, step: Step) -> None:
        """One thread of the service gets no time."""
        machine = self.machine(step.picks[0])
        machine.stalled_until_us = self.world.scheduler.now_us + step.for_ms * 1000

    def suspend(self, step: Step) -> None:
        """The whole machine stands still."""
        machine = self.machine(step.picks[0])
        self.world.suspend(machine.name)
        self.later(step, lambda: self.world.resume(machine.name))

    def stop_everything(self, step: Step) -> None:
        """Service and monitors stand still while the resources run on, and there is no watchdog: the excused case."""
        machine = self.machine(step.picks[0])
        if not machine.awake:
            return
        self.world.stop_processes(machine.name)
        self.later(step, lambda: self.world.continue_processes(machine.name))

    def disk_full(self, step: Step) -> None:
        """No write succeeds; the service ends, and is started again and again."""
        machine = self.machine(step.picks[0])
        machine.disk.full = True

        def free() -> None:
            machine.disk.full = False
            self._start(machine)

        self.later(step, free)

    def disk_stalls(self, step: Step) -> None:
        """Syncs take very long."""
        machine = self.machine(step.picks[0])
        machine.disk.stalled_until_us = self.world.scheduler.now_us + step.for_ms * 1000

    def drift(self, step: Step) -> None:
        """A clock runs a little faster or slower, as clocks do."""
        self.machine(step.picks[0]).clock.run_at(int((step.picks[1] - 0.5) * 980))

    def drift_beyond(self, step: Step) -> None:
        """A clock runs faster or slower than anybody reckons with."""
        machine = self.machine(step.picks[0])
        machine.clock.run_at(int((step.picks[1] - 0.5) * 400_000))
        after_us = 5 * self.world.timing.silence_ms() * 1000
        end_us = self.world.scheduler.now_us + step.for_ms * 1000 + after_us
        referee = self.world.referee
        referee.lenient_until_us = max(referee.lenient_until_us, end_us)
        self.later(step, lambda: machine.clock.run_at(0))

    def wall_clock_jumps(self, step: Step) -> None:
        """Somebody sets the clock on the wall, by up to a year."""
        machine = self.machine(step.picks[0])
        machine.clock.wall_offset_ms = int((step.picks[1] - 0.5) * 2 * 365 * 86_400_000)

    # --- the quorum disk --------------------------------------------------------------------------------------------

    def quorum_disk_cut_off(self, step: Step) -> None:
        """A machine, some, or all reach the quorum disk no more."""
        disk = self._quorum_disk()
        chosen = [self.machine(step.picks[0])] if step.picks[1] < 0.6 else self.some(step.picks[0])
        machines = {machine.id for machine in (self.world.nodes.values() if step.picks[1] > 0.9 else chosen)}
        disk.cut_off |= machines
        self.later(step, lambda: disk.cut_off.difference_update(machines))

    def quorum_disk_stalls(self, step: Step) -> None:
        """It answers one machine, or nobody, for a while."""
        disk = self._quorum_disk()
        one = self.machine(step.picks[0])
        until_us = self.world.scheduler.now_us + step.for_ms * 1000
        for machine in [one] if step.picks[1] < 0.6 else self.world.nodes.values():
            disk.stalled_until_us[machine.id] = until_us

    def quorum_disk_fails(self, step: Step) -> None:
        """Some requests fail."""
        disk = self._quorum_disk()
        disk.failing = 0.6 * step.picks[0]

        def work() -> None:
            disk.failing = 0.0

        self.later(step, work)

    def owner_cut_off(self, step: Step) -> None:
        """Whoever owns the quorum disk loses the network, the disk, or the power."""
        leader = self.world.leader
        if leader is None:
            return
        machine = self.world.nodes[leader]
        if step.picks[0] < 0.4:
            others = {other.name for other in self.world.nodes.values()} - {machine.name}
            self.world.partition({machine.name}, others)
            self.later(step, self.world.heal)
        elif step.picks[0] < 0.7:
            disk = self._quorum_disk()
            disk.cut_off.add(leader)
            self.later(step, lambda: disk.cut_off.discard(leader))
        else:
            self.world.crash(machine.name)
            self.later(step, lambda: self._start(machine))

    def _quorum_disk(self) -> SharedDisk:
        """That of this moment; the newest one where there is none now, or one that nobody uses."""
        log = self.world.log
        assert isinstance(log, SwitchingLog)
        return log.disk or next(reversed(log.disks.values()), self._unused_disk)

    # --- changes of the quorum --------------------------------------------------------------------------------------

    def change_quorum(self, step: Step) -> None:
        """An administrator chooses another quorum; in the middle of it somebody may lose the power, or the network."""
        world = self.world
        if not isinstance(world.log, SwitchingLog):
            return
        node = self.member(step.picks[1])
        self.administrator.run(change_quorum(world, KINDS_OF_QUORUM[int(step.picks[0] * len(KINDS_OF_QUORUM))], node))
        # In every second story something happens within the next few milliseconds, most often at once.
        when = step.picks[2]
        if when < 0.5:
            world.scheduler.later(200 * (2 * when) ** 3, lambda: None if self.over else self._hit(step))

    def _hit(self, step: Step) -> None:
        world, pick = self.world, step.picks[3]
        leader = world.nodes.get(world.leader or self.member(step.picks[1]))
        machine = self.machine(step.picks[1]) if pick < 0.3 or leader is None else leader
        if pick < 0.6:
            world.crash(machine.name)
            self.later(step, lambda: self._start(machine))
        elif pick < 0.8:
            others = {other.name for other in world.nodes.values()} - {machine.name}
            world.partition({machine.name}, others)
            self.later(step, world.heal)
        elif pick < 0.9:
            for each in self.some(step.picks[0]):
                world.crash(each.name)
                self.later(step, lambda each=each: self._start(each))  # type: ignore[misc]
        else:
            world.freeze(machine.name)
            self.later(step, lambda: world.thaw(machine.name))

    # --- the witness ------------------------------------------------------------------------------------------------

    def witness_cut_off(self, step: Step) -> None:
        """A machine, some, or all reach the share no more."""
        chosen = [self.machine(step.picks[0])] if step.picks[1] < 0.5 else self.some(step.picks[0])
        machines = {machine.id for machine in (self.world.nodes.values() if step.picks[1] > 0.8 else chosen)}
        self.world.witness.cut_off |= machines
        self.later(step, lambda: self.world.witness.cut_off.difference_update(machines))

    def witness_stalls(self, step: Step) -> None:
        """The share answers one machine, or nobody, for a while."""
        one = self.machine(step.picks[0])
        until_us = self.world.scheduler.now_us + step.for_ms * 1000
        for machine in [one] if step.picks[1] < 0.6 else self.world.nodes.values():
            self.world.witness.stalled_until_us[machine.id] = until_us

    def witness_fails(self, step: Step) -> None:
        """Some requests fail, and may have taken effect all the same."""
        self.world.witness.failing = 0.8 * step.picks[0]
        self.world.witness.slow_ms = 300 * step.picks[1]

        def work() -> None:
            self.world.witness.failing = self.world.witness.slow_ms = 0.0

        self.later(step, work)

    def half_lost(self, step: Step) -> None:
        """Half of the machines is cut off from the other half, or loses its power; with an odd number about half."""
        world = self.world
        machines = [machine for machine in world.nodes.values() if not machine.wiped]
        order = random.Random(step.picks[0]).sample(machines, len(machines))
        half = order[: len(order) // 2]
        if step.picks[1] < 0.6:
            names = {machine.name for machine in half}
            world.partition(names, {machine.name for machine in world.nodes.values()} - names)
            self.later(step, world.heal)
        else:
            world.crash(*(machine.name for machine in half)) if half else None
            self.later(step, lambda: self._start(*half))

    # --- monitors and resources -------------------------------------------------------------------------------------

    def kill_monitor(self, step: Step) -> None:
        """The resource monitor dies; what it ran dies with it, or not."""
        machine = self.machine(step.picks[0])
        for name in sorted(machine.monitors):
            self.world.kill_monitor(machine.name, name, leaving=step.picks[1] < 0.5)

    def freeze_monitor(self, step: Step) -> None:
        """The resource monitor stands still; the service kills it when it has not answered for long."""
        machine = self.machine(step.picks[0])
        if not machine.awake:
            return
        power = machine.power
        monitors = list(machine.monitors.values())
        for monitor in monitors:
            monitor.freeze()

        def over() -> None:
            for monitor in monitors:
                if machine.power != power or monitor.dead or not monitor.frozen or machine.suspended:
                    continue
                if machine.awake and step.for_ms > MONITOR_HUNG_MS:
                    self.world.kill_monitor(machine.name, monitor.name, leaving=False)
                else:
                    monitor.thaw()

        self.world.scheduler.later(min(step.for_ms, MONITOR_HUNG_MS), over)

    def hang_monitor(self, step: Step) -> None:
        """The resource monitor does not answer when told to terminate everything."""
        monitors = list(self.machine(step.picks[0]).monitors.values())
        for monitor in monitors:
            monitor.hangs = True

        def over() -> None:
            for monitor in monitors:
                monitor.recover()

        self.world.scheduler.later(step.for_ms, over)

    def fail_resource(self, step: Step) -> None:
        """A resource dies."""
        name = self.resource(step.picks[0])
        if name is not None:
            self.world.fail_resource(name)

    def resource_will_not(self, step: Step) -> None:
        """A resource will not start on some nodes, will not stop, or cannot be killed."""
        name = self.resource(step.picks[0])
        if name is None:
            return
        resource = self.world.resource(name)
        behaviour = self.world.behaviour
        if step.picks[1] < 0.4:
            behaviour.fails[resource] = {machine.id for machine in self.some(step.picks[2])}

            def recover() -> None:
                behaviour.fails.pop(resource, None)

            self.later(step, recover)
        else:
            chosen = behaviour.dead if step.picks[1] < 0.6 else behaviour.stuck
            chosen = behaviour.unkillable if step.picks[1] > 0.85 else chosen
            chosen.add(resource)
            self.later(step, lambda: chosen.discard(resource))
        if step.picks[2] < 0.5:
            self.world.fail_resource(name)

    # --- administrators ---------------------------------------------------------------------------------------------

    def administer(self, step: Step) -> None:
        """Something that people do on a working day."""
        world = self.world
        group = self.group(step.picks[0])
        node = self.member(step.picks[1])
        what = int(step.picks[2] * 8)
        if group is None or what == 0:
            script = admin.create_group(world, f"made{next(self._groups)}", 1 + int(step.picks[3] * 4))
        elif what == 1:
            script = admin.delete_group(world, group)
        elif what in (2, 3):
            script = admin.move_group(group, node if step.picks[3] < 0.8 else None)
        elif what == 4:
            script = admin.change_group(world, group, list(world.config.nodes))
        elif what == 5:
            script = admin.offline_and_online(group)
        elif what == 6:
            script = admin.pause(node)
            self.later(step, lambda: self.administrator.run(admin.resume([node])))
        else:
            script = admin.stop_node(node)
            # A node that was admitted a moment ago may have no machine yet.
            self.later(step, lambda: self._start(*(machine for machine in [world.nodes.get(node)] if machine)))
        self.administrator.run(script)

    def add_node(self, step: Step) -> None:
        """A new machine joins."""
        del step
        self.world.join_new_machine(self.administrator.run)

    def evict_node(self, step: Step) -> None:
        """A machine is taken out of the cluster for good; another one takes its place later."""
        world = self.world
        machine = self.machine(step.picks[0])
        if len(world.config.nodes) < 3 or not machine.awake:
            return
        world.stop_service(machine.name)

        def evict() -> None:
            self.administrator.run(admin.evict_node(machine.id))

        world.scheduler.later(1_500, lambda: None if self.over else evict())
        self.later(step, lambda: world.join_new_machine(self.administrator.run))

    # --- the end ----------------------------------------------------------------------------------------------------

    def make_good(self) -> None:
        """End every fault, and have everything run that can."""
        self.over = True
        world = self.world
        self.good_weather()
        world.network.slow_ms.clear()
        world.network.cut_streams.clear()
        world.heal()
        behaviour = world.behaviour
        for faulty in (behaviour.fails, behaviour.dead, behaviour.stuck, behaviour.unkillable):
            faulty.clear()
        for disk in world.log.disks.values() if isinstance(world.log, SwitchingLog) else ():
            disk.make_good()
        world.witness.make_good()
        for machine in world.nodes.values():
            machine.disk.full = False
            machine.disk.writes_left = None
            machine.disk.stalled_until_us = min(machine.disk.stalled_until_us, world.scheduler.now_us)
            machine.stalled_until_us = -1
            machine.clock.run_at(0)
            world.resume(machine.name)
            world.continue_processes(machine.name)
            world.thaw(machine.name)
            for monitor in machine.monitors.values():
                monitor.recover()
                if monitor.frozen:
                    monitor.thaw()


KINDS: dict[str, Callable[[Trouble, Step], None]] = {
    "partition": Trouble.partition,
    "isolation": Trouble.isolate,
    "one-way cut": Trouble.cut_one_way,
    "cut links": Trouble.cut_links,
    "swizzled links": Trouble.swizzle,
    "bad weather": Trouble.bad_weather,
    "crash": Trouble.crash,
    "crash of several": Trouble.crash_some,
    "crash of a service": Trouble.crash_service,
    "crash while writing": Trouble.crash_at_write,
    "stopped service": Trouble.freeze,
    "stalled core": Trouble.stall_core,
    "suspended machine": Trouble.suspend,
    "stopped service and monitor": Trouble.stop_everything,
    "full disk": Trouble.disk_full,
    "stalled disk": Trouble.disk_stalls,
    "drift": Trouble.drift,
    "drift beyond the budget": Trouble.drift_beyond,
    "jump of the wall clock": Trouble.wall_clock_jumps,
    "killed monitor": Trouble.kill_monitor,
    "stopped monitor": Trouble.freeze_monitor,
    "hanging monitor": Trouble.hang_monitor,
    "failing resource": Trouble.fail_resource,
    "unwilling resource": Trouble.resource_will_not,
    "administration": Trouble.administer,
    "new node": Trouble.add_node,
    "eviction": Trouble.evict_node,
}

DISK_KINDS: dict[str, Callable[[Trouble, Step], None]] = {
    "quorum disk cut off": Trouble.quorum_disk_cut_off,
    "stalled quorum disk": Trouble.quorum_disk_stalls,
    "failing quorum disk": Trouble.quorum_disk_fails,
    "owner in trouble": Trouble.owner_cut_off,
}
"""What happens besides where there is a quorum disk."""

WITNESS_KINDS: dict[str, Callable[[Trouble, Step], None]] = {
    "witness cut off": Trouble.witness_cut_off,
    "stalled witness": Trouble.witness_stalls,
    "failing witness": Trouble.witness_fails,
    "half lost": Trouble.half_lost,
}
"""What happens besides where there is a witness."""
QUORUM_KINDS: dict[str, Callable[[Trouble, Step], None]] = {"change of the quorum": Trouble.change_quorum}
"""What happens besides where the quorum changes."""

UNDRAWN: dict[str, Callable[[Trouble, Step], None]] = {}
"""Kinds that no seed draws, for stories that are written by hand; :mod:`tests.simulation.mutations` brings them."""

WEIGHTS = {
    "administration": 8,
    "new node": 0.4,
    "eviction": 0.6,
    "drift beyond the budget": 0.3,
    "stopped service and monitor": 0.5,
    "failing resource": 3,
    "partition": 2,
    "isolation": 2,
}
"""How often compared with the others; those that are not named count once."""


def draw(rng: random.Random, *, until_ms: int, rate_per_s: float) -> list[Step]:
    """The steps of a story."""
    kinds = list(KINDS)
    weights = [WEIGHTS.get(kind, 1) for kind in kinds]
    steps = []
    at_ms = 0.0
    while (at_ms := at_ms + rng.expovariate(rate_per_s) * 1000) < until_ms:
        # Most faults are short against the lease or about as long; some last for seconds.
        for_ms = int(20 * (250 ** rng.random()))
        steps.append(
            Step(
                at_ms=int(at_ms),
                kind=rng.choices(kinds, weights)[0],
                picks=tuple(rng.random() for _ in range(4)),
                for_ms=for_ms,
            )
        )
    return steps


def draw_faults_of(kinds: Collection[str], name: str, *, until_ms: int) -> list[Step]:
    """The steps of a story with a quorum disk, or a witness, that others do not have; drawn apart, so that theirs stay
    the same."""
    rng = random.Random(name)
    rate_per_s = rng.choice([0.2, 0.5, 1.0])
    steps = []
    at_ms = 0.0
    while (at_ms := at_ms + rng.expovariate(rate_per_s) * 1000) < until_ms:
        picks = tuple(rng.random() for _ in range(4))
        kind = rng.choice(list(kinds))
        steps.append(Step(at_ms=int(at_ms), kind=kind, picks=picks, for_ms=int(20 * (250 ** rng.random()))))
    return steps


def draw_quorum_changes(seed: int, *, until_ms: int) -> list[Step]:
    """The steps of a story whose quorum changes; drawn apart, like the others."""
    rng = random.Random(f"changes of the quorum of {seed}")
    rate_per_s = rng.choice([0.1, 0.2, 0.4])
    steps = []
    at_ms = 0.0
    while (at_ms := at_ms + rng.expovariate(rate_per_s) * 1000) < until_ms:
        picks = tuple(rng.random() for _ in range(4))
        for_ms = int(20 * (250 ** rng.random()))
        steps.append(Step(at_ms=int(at_ms), kind="change of the quorum", picks=picks, for_ms=for_ms))
    return steps

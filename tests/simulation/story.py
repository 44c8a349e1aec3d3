"""One seed, one story: a cluster of some size, half a minute of trouble, and then it must come back by itself.

The seed draws everything: the size, the log, the timings, the weather, the faults, the administrators. A story ends
well when no rule was broken on the way, and after the faults

1. every node is a member again, and every group whose resources did not fail is online, without anybody's help;
2. after an administrator has asked for the others, they are online as well, and nothing is pending;
3. then nothing happens any more: no new entry in the log, and the same leader.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from clussvc.global_update.update import SetClusterProperties
from clussvc.model.config import Group, Resource
from clussvc.model.ids import GroupId, NodeId
from clussvc.model.settings import FAST, LAN, LOOPBACK, WAN, Timing
from clussvc.model.states import ResourceState
from tests.simulation import administrator as admin
from tests.simulation.faults import (
    DISK_KINDS,
    WITNESS_KINDS,
    Step,
    Trouble,
    draw,
    draw_faults_of,
    draw_quorum_changes,
)
from tests.simulation.referee import Violation
from tests.simulation.world import Agent, World

TROUBLE_MS = 20_000
"""How long faults begin for; with forming before and settling after, a story lasts for more than half a minute."""

STORY_MS_LEAST = 30_000

FENCED_FROM = 1_000_000
"""From this seed on every node has fence devices."""

CHANGES_FROM = 2_000_000
"""From this seed on the quorum changes as well, between all kinds there are."""

SEPARATE_FROM = 100_000
"""From this seed on some resources have monitors of their own, and the timing profile is changed meanwhile."""

PARALLEL_FROM = 10_000_000
"""From this seed on there are parallel groups, which administrators change meanwhile."""

HOLDS_FROM = 20_000_000
"""From this seed on the hold of a quorum disk is changed meanwhile."""

RECOVERY_MS = 40_000
"""After the end of the faults everything that can be online is online within this time (``wan``: times ten)."""

TIE_BREAKERS = {"witness": (True, False), "dynamic": (False, True), "witness-dynamic": (True, True)}
"""Names that stand for the real log with a witness, with dynamic votes, or with both."""

QUIET_MS = 2_000
"""For so long nothing may happen at the end (``wan``: times ten)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What a seed has drawn."""

    seed: int
    nodes: int
    log: str
    timing: Timing
    compaction_entries: int
    steps: tuple[Step, ...]
    groups: tuple[int, ...]
    """How many resources each group has at the beginning."""
    fence_devices: bool = False
    """Whether every node has fence devices, some of which are slow or do not work."""
    separate_monitors: bool = False
    """Whether some resources have a monitor of their own."""
    parallel: tuple[tuple[int, int], ...] = ()
    """The parallel groups: how many resources each has, and its MaxInstances at the beginning."""
    witness: bool = False
    dynamic_votes: bool = False

    def __str__(self) -> str:
        ties = f"{', a witness' if self.witness else ''}{', dynamic votes' if self.dynamic_votes else ''}"
        return f"{self.nodes} nodes, {self.log} log{ties}, profile {self.timing.profile}, {len(self.steps)} steps"


@dataclass(kw_only=True)
class Ending:
    """How a story ended. ``rule`` is empty when it ended well."""

    plot: Plot
    rule: str = ""
    what: str = ""
    words: list[str] = field(default_factory=list)
    trace_hash: str = ""
    cluster_ms: int = 0
    counts: dict[str, int] = field(default_factory=dict)


def draw_plot(seed: int, *, nodes: int | None = None, log: str | None = None) -> Plot:
    """What the seed says; a size or a log may be given instead."""
    rng = random.Random(seed)
    drawn_nodes = rng.choices([1, 2, 3, 4, 5, 6, 7, 8, 9], [4, 12, 64, 8, 9, 1, 1, 0.5, 0.5])[0]
    drawn_log = rng.choices(["raft", "ordered"], [2, 3])[0]
    timing = rng.choices([LAN, LOOPBACK, FAST, WAN], [70, 12, 3, 15])[0]
    if rng.random() < 0.003:
        # Every node talks to every other one, so large clusters are told of in slow time.
        drawn_log, drawn_nodes, timing = "ordered", rng.choice([12, 16, 20]), WAN
    factor = timing.lease_ms / LAN.lease_ms
    steps = draw(rng, until_ms=TROUBLE_MS, rate_per_s=rng.choice([0.5, 1.0, 2.0, 4.0]))
    if factor >= 2:
        steps = [Step(at_ms=int(s.at_ms * 2), kind=s.kind, picks=s.picks, for_ms=int(s.for_ms * factor)) for s in steps]
    witness, dynamic_votes = TIE_BREAKERS.get(log or "", (False, False))
    if log in TIE_BREAKERS:
        drawn_log, drawn_nodes, log = "raft", random.Random(f"size of {seed}").choice([2, 2, 2, 3, 4, 4, 5, 6]), None
    if witness:
        until_ms = max(step.at_ms for step in steps)
        steps = sorted(
            [*steps, *draw_faults_of(WITNESS_KINDS, f"witness faults of {seed}", until_ms=until_ms)], key=_when
        )
    # Ties are broken in stories of their own.
    changes = CHANGES_FROM <= seed < PARALLEL_FROM and (log or "") != "ordered" and not (witness or dynamic_votes)
    if changes:
        nodes = nodes or min(drawn_nodes, 7)
        log = log or random.Random(f"log of {seed}").choice(["raft", "disk-reservations", "disk-leases"])
    last_ms = max((step.at_ms for step in steps), default=0)
    if (log or drawn_log).startswith("disk-") or changes:
        steps = sorted([*steps, *draw_faults_of(DISK_KINDS, f"disk faults of {seed}", until_ms=last_ms)], key=_when)
    if changes:
        steps = sorted([*steps, *draw_quorum_changes(seed, until_ms=last_ms)], key=_when)
    return Plot(
        seed=seed,
        nodes=nodes or drawn_nodes,
        log=log or drawn_log,
        timing=timing,
        compaction_entries=rng.choice([20, 60, 200, 5_000]),
        steps=tuple(steps),
        groups=tuple(rng.randint(1, 4) for _ in range(rng.randint(1, 5))),
        # With the fastest profile a node is fenced in every restart, and again by a slow device when it is back.
        fence_devices=seed >= FENCED_FROM and not (changes and timing is FAST),
        separate_monitors=seed >= SEPARATE_FROM,
        parallel=draw_parallel_groups(seed) if seed >= PARALLEL_FROM else (),
        witness=witness,
        dynamic_votes=dynamic_votes,
    )


def draw_parallel_groups(seed: int) -> tuple[tuple[int, int], ...]:
    """One or two; drawn apart, so that the rest of the story does not depend on them."""
    rng = random.Random(f"parallel groups of {seed}")
    return tuple((rng.randint(1, 3), rng.randint(0, 3)) for _ in range(rng.randint(1, 2)))


def _when(step: Step) -> int:
    return step.at_ms


def tell(plot: Plot) -> Ending:
    """Let it happen."""
    with World(
        nodes=plot.nodes,
        seed=plot.seed,
        timing=plot.timing,
        log=plot.log,
        compaction_entries=plot.compaction_entries,
        fencing=True,
        restarts=True,
    ) as world:
        ending = Ending(plot=plot)
        try:
            _Teller(world, plot).tell()
        except Violation as violation:
            ending.rule, ending.what = violation.rule, violation.what
        except AssertionError as error:
            ending.rule, ending.what = "liveness", str(error)
        except Exception as error:  # noqa: BLE001 (whatever a service raises ends it, which is a finding)
            ending.rule, ending.what = "no exception", repr(error)
        if ending.rule:
            ending.words = [*world.describe().splitlines(), "", *world.last_words(80)]
        ending.trace_hash = world.trace_hash
        ending.cluster_ms = world.now_ms
        ending.counts = dict(world.referee.counts) | {"fenced": len(world.fenced)}
        return ending


class _Teller:
    """The acts of a story."""

    def __init__(self, world: World, plot: Plot) -> None:
        self._world = world
        self._plot = plot
        self._trouble = Trouble(world)
        self._factor = 10 if plot.timing is WAN else 1

    def tell(self) -> None:
        """All acts."""
        world = self._world
        world.form(limit_ms=60_000 * self._factor)
        for machine in world.nodes.values():
            machine.clock.run_at(world.random.randint(-400, 400))
        for number, size in enumerate(self._plot.groups):
            script = admin.create_group(world, f"g{number}", size, separate_monitors=self._plot.separate_monitors)
            self._trouble.administrator.run(script)
        for number, (size, limit) in enumerate(self._plot.parallel):
            self._trouble.administrator.run(admin.create_parallel_group(world, f"p{number}", size, limit))
        if self._plot.fence_devices:
            self._install_devices()
        if self._plot.dynamic_votes:
            assert world.do(SetClusterProperties(common={"DynamicVotes": 1})) is None
        if self._plot.witness:
            world.choose_witness(limit_ms=60_000 * self._factor)
        begin_ms = world.now_ms
        if self._plot.parallel:
            self._change_instances()
        if self._plot.seed >= SEPARATE_FROM:
            self._change_profiles()
        if self._plot.seed >= HOLDS_FROM and self._plot.log.startswith("disk-"):
            self._change_holds()
        for step in self._plot.steps:
            world.run_for(max(0, begin_ms + step.at_ms - world.now_ms))
            self._trouble.perform(step)
        world.run_for(max(0, STORY_MS_LEAST - 6_000 - world.now_ms))
        self._trouble.make_good()
        self._come_back()
        self._with_help()
        self._be_quiet()
        world.run_for(max(0, STORY_MS_LEAST - world.now_ms))

    def _install_devices(self) -> None:
        """One or two for each node, drawn apart, so that the rest of the story does not depend on them."""
        world, rng = self._world, random.Random(f"fence devices of {self._plot.seed}")
        for node in list(world.config.nodes):
            for number in range(rng.choice([1, 1, 2])):
                name = f"pdu{node}-{number}"
                world.agents[name] = Agent(works=rng.random() < 0.7, takes_ms=rng.choice([50.0, 300.0, 3_000.0]))
                self._trouble.administrator.run(admin.create_fence_device(name, node))
        self._trouble.administrator.run(admin.require_fencing(rng.choice([0, 1])))

    def _change_profiles(self) -> None:
        """Faster and slower, at any moment of the trouble; drawn apart, like the devices."""
        rng = random.Random(f"profiles of {self._plot.seed}")
        names = ["lan", "loopback", self._plot.timing.profile, *(["fast"] if self._factor == 1 else ["wan"])]
        for at_ms in sorted(rng.uniform(0, TROUBLE_MS) for _ in range(rng.choice([0, 1, 3]))):
            script = admin.change_profile(rng.choice(names))
            self._world.scheduler.later(at_ms, partial(self._trouble.administrator.run, script))

    def _change_holds(self) -> None:
        """Longer and shorter, at any moment of the trouble; drawn apart, like the devices."""
        rng = random.Random(f"holds of {self._plot.seed}")
        for at_ms in sorted(rng.uniform(0, TROUBLE_MS) for _ in range(rng.choice([1, 3, 6]))):
            script = admin.change_hold(rng.choice([-1, 200, 700, 2_000, 4_000]))
            self._world.scheduler.later(at_ms, partial(self._trouble.administrator.run, script))

    def _change_instances(self) -> None:
        """At any moment of the trouble; drawn apart, like the devices."""
        rng = random.Random(f"instances of {self._plot.seed}")

        def change(number: int) -> None:
            group = GroupId(f"g-p{number % len(self._plot.parallel)}")
            if group in self._world.config.groups and not self._trouble.over:
                self._trouble.administrator.run(admin.change_instances(rng, self._world, group))

        for number in range(rng.choice([2, 6, 12])):
            self._world.scheduler.later(rng.uniform(2_000, TROUBLE_MS), partial(change, number))

    def _come_back(self) -> None:
        world = self._world
        world.keep_running = True
        for machine in world.nodes.values():
            if not machine.wiped and not machine.alive:
                world.start(machine.name)
        self._until(lambda: not self._missing_members(), lambda: f"membership of {self._missing_members()}")
        self._until(lambda: not self._trouble.administrator.under_way, lambda: "an answer to every administrator", 4)
        self._until(lambda: not self._missing_members(), lambda: f"membership of {self._missing_members()}")
        self._until(lambda: not self._restless(), lambda: f"rest without help for {self._restless()}")

    def _until(self, condition: Callable[[], bool], what: Callable[[], str], factor: int = 1) -> None:
        try:
            self._world.run_until(condition, limit_ms=RECOVERY_MS * self._factor * factor)
        except AssertionError as error:
            if isinstance(error, Violation):
                raise
            raise AssertionError(f"{what()} was not reached in time; {error}") from error

    def _missing_members(self) -> list[str]:
        world = self._world
        nodes = world.config.nodes
        wanted = [machine.name for machine in world.nodes.values() if not machine.wiped and machine.id in nodes]
        return [name for name in wanted if name not in world.members()]

    def _restless(self) -> list[GroupId]:
        return [group for group in self._world.config.groups if not self._rests(group)]

    def _rests(self, group_id: GroupId) -> bool:
        """Whether the group is where it belongs, or has failed so often that somebody must look at it."""
        config = self._world.config
        group = config.groups[group_id]
        resources = list(config.resources_of(group_id))
        if group.parallel:
            # Its instances are looked at, each by itself.
            return group.released
        states = {resource.state for resource in resources}
        if any(state.pending for state in states) or group.move is not None:
            return False
        if group.halted or ResourceState.FAILED in states:
            return True
        wanted = [resource for resource in resources if resource.persistent_state]
        if not wanted:
            return True
        taken = {other.owned for other in config.groups.values() if other.instance_of == group.instance_of is not None}
        takers = [
            node
            for node in config.nodes.values()
            if node.up and not node.paused and node.id not in taken and possible(resources, node.id)
        ]
        return self._world.online_on(group_id) is not None or not takers

    def _with_help(self) -> None:
        world, administrator = self._world, self._trouble.administrator
        administrator.run(admin.resume([node.id for node in world.config.nodes.values() if node.paused]))
        # A node that is still paused would refuse.
        self._until(lambda: not administrator.under_way, lambda: "an answer to every administrator")
        administrator.run(admin.online(list(world.config.groups)))
        self._until(lambda: not administrator.under_way, lambda: "an answer to every administrator")
        self._until(lambda: not self._offline(), lambda: f"Online for {self._offline()}")

    def _offline(self) -> list[GroupId]:
        """The groups with resources that are not wholly online, and the parallel groups with too few instances."""
        config = self._world.config
        return [
            group.id
            for group in config.groups.values()
            if (
                self._instances_missing(group)
                if group.parallel
                else any(True for _ in config.resources_of(group.id)) and self._world.online_on(group.id) is None
            )
        ]

    def _instances_missing(self, group: Group) -> bool:
        """Whether it runs on fewer nodes than it may and could: all nodes are up by now."""
        config = self._world.config
        resources = list(config.resources_of(group.id))
        able = [node for node in config.nodes if possible(resources, node)] if resources else []
        places = [self._world.online_on(each.id) for each in config.groups.values() if each.instance_of == group.id]
        online = {place for place in places if place is not None}
        return len(online) != min(group.max_instances or len(able), len(able))

    def _be_quiet(self) -> None:
        """Failback and reports may follow; then nothing does."""
        world = self._world
        quiet_ms = QUIET_MS * self._factor
        for _ in range(20):
            before = (len(world.entries), world.leader)
            world.run_for(quiet_ms)
            if (len(world.entries), world.leader) == before and world.leader is not None:
                return
        raise AssertionError("the log does not come to rest, or its leader changes again and again")


def possible(resources: Iterable[Resource], node: NodeId) -> bool:
    """Whether the node is a possible owner of all of them."""
    return all(resource.possible_owners is None or node in resource.possible_owners for resource in resources)

"""Stories that tempt one weakness each: which faults come, how often, and a few that are written down to the moment.

An ordinary seed has a weakness shown only when several things happen within the same few milliseconds. Here the things
are made to happen; what is left to the seed is who they happen to, and small differences of time. The kinds of faults
below (and those for the real log in :mod:`tests.simulation.log_temptations`) are drawn by no ordinary seed; everything
in them is allowed to happen, so the product as it is survives them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from clussvc.actions import Propose
from clussvc.events import ProposalFailed, ProposalFate
from clussvc.global_update.update import Batch, GroupReleased, NodeDown, NodeUp
from clussvc.model.ids import NodeId
from clussvc.model.settings import LAN
from tests.simulation import administrator as admin
from tests.simulation.faults import Step, Trouble
from tests.simulation.machine import Machine
from tests.simulation.story import TIE_BREAKERS, TROUBLE_MS, Plot, draw_parallel_groups, draw_plot

Draw = Callable[[int], Plot]

FIRST_MS = 3_000
"""By then the groups of a story are online."""

# --- stories ------------------------------------------------------------------------------------------------------


def drawn(*, log: str = "ordered", nodes: int = 3) -> Draw:
    """The ordinary stories, with everything that can happen in them."""
    return lambda seed: draw_plot(seed, nodes=nodes, log=log)


def tempting(
    kinds: Mapping[str, float],
    *,
    log: str = "ordered",
    nodes: int = 3,
    rate_per_s: float = 2.0,
    for_ms: tuple[int, int] = (50, 3_000),
    compaction_entries: int = 5_000,
    throughout: str = "",
) -> Draw:
    """Stories of a few kinds of faults only, each with its weight. ``throughout`` begins with the story."""

    def draw(seed: int) -> Plot:
        rng = random.Random(seed)
        steps = [_step(rng, throughout, 0, (2_000, 4_000))] if throughout else []
        at_ms = 0.0
        while (at_ms := at_ms + rng.expovariate(rate_per_s) * 1000) < TROUBLE_MS:
            kind = rng.choices(list(kinds), list(kinds.values()))[0]
            steps.append(_step(rng, kind, at_ms, for_ms))
        return _plot(seed, steps, log=log, nodes=nodes, compaction_entries=compaction_entries)

    return draw


def again_and_again(
    kind: str,
    *,
    every_ms: int,
    for_ms: tuple[int, int],
    picks: Mapping[int, float] | None = None,
    until_ms: int = TROUBLE_MS,
    log: str = "ordered",
    nodes: int = 3,
    compaction_entries: int = 5_000,
) -> Draw:
    """Stories of one kind of fault, one after another; ``picks`` fixes some of its choices."""

    def draw(seed: int) -> Plot:
        rng = random.Random(seed)
        steps = []
        for at_ms in range(FIRST_MS, until_ms, every_ms):
            steps.append(_step(rng, kind, at_ms + 300 * rng.random(), for_ms, picks or {}))
        return _plot(seed, steps, log=log, nodes=nodes, compaction_entries=compaction_entries)

    return draw


def with_fence_devices(draw: Draw) -> Draw:
    """The same stories, told of nodes that others can switch off."""
    return lambda seed: replace(draw(seed), fence_devices=True)


def with_separate_monitors(draw: Draw) -> Draw:
    """The same stories, with resources that have monitors of their own."""
    return lambda seed: replace(draw(seed), separate_monitors=True)


def with_parallel_groups(draw: Draw) -> Draw:
    """The same stories, with groups that run on several nodes at once."""
    return lambda seed: replace(draw(seed), parallel=draw_parallel_groups(seed))


def _step(
    rng: random.Random,
    kind: str,
    at_ms: float,
    for_ms: tuple[int, int],
    picks: Mapping[int, float] | None = None,
) -> Step:
    shortest_ms, longest_ms = for_ms
    lasts_ms = int(shortest_ms * (longest_ms / shortest_ms) ** rng.random())
    chosen = tuple((picks or {}).get(number, rng.random()) for number in range(4))
    return Step(at_ms=int(at_ms), kind=kind, picks=chosen, for_ms=lasts_ms)


def _plot(seed: int, steps: list[Step], *, log: str, nodes: int, compaction_entries: int) -> Plot:
    witness, dynamic_votes = TIE_BREAKERS.get(log, (False, False))
    return Plot(
        seed=seed,
        nodes=nodes,
        log="raft" if log in TIE_BREAKERS else log,
        witness=witness,
        dynamic_votes=dynamic_votes,
        timing=LAN,
        compaction_entries=compaction_entries,
        steps=tuple(steps),
        groups=(2, 2, 1),
    )


# --- kinds of faults that are written down to the moment ------------------------------------------------------------


class Scene:
    """What several faults need that belong together. Roles are given from the leader on, the others as drawn."""

    def __init__(self, trouble: Trouble, step: Step) -> None:
        self.trouble = trouble
        self.world = trouble.world
        self.network = trouble.world.network
        self.random = random.Random(step.picks[0])
        machines = [machine for machine in self.world.nodes.values() if not machine.wiped]
        self.random.shuffle(machines)
        self.roles = sorted(machines, key=lambda machine: machine.id != self.world.leader)

    def at(self, after_ms: float, action: Callable[[], None]) -> None:
        """Do something so much later; nothing if everything was made good meanwhile."""
        self.world.scheduler.later(after_ms, lambda: None if self.trouble.over else action())

    def cut(self, *pairs: tuple[Machine, Machine]) -> None:
        """Nothing passes in these directions any more."""
        self.network.cut |= _ids(pairs)
        self.world.network_changed()

    def mend(self, *pairs: tuple[Machine, Machine]) -> None:
        """It does again."""
        self.network.cut -= _ids(pairs)
        self.world.network_changed()

    def cut_streams(self, *pairs: tuple[Machine, Machine]) -> None:
        """Streams carry nothing in these directions any more."""
        self.network.cut_streams |= _ids(pairs)
        self.world.network_changed()

    def mend_streams(self, *pairs: tuple[Machine, Machine]) -> None:
        """They do again."""
        self.network.cut_streams -= _ids(pairs)
        self.world.network_changed()

    def all_links(self, machine: Machine) -> tuple[tuple[Machine, Machine], ...]:
        """Both directions of every link of a machine."""
        others = [other for other in self.world.nodes.values() if other is not machine]
        return tuple(pair for other in others for pair in ((machine, other), (other, machine)))

    def restart_service(self, machine: Machine, after_ms: float) -> None:
        """Kill a service, and start it again."""
        self.world.crash_service(machine.name)
        self.at(after_ms, lambda: self.world.start(machine.name))


def _ids(pairs: tuple[tuple[Machine, Machine], ...]) -> set[tuple[NodeId, NodeId]]:
    return {(one.id, other.id) for one, other in pairs}


def _streams_come_back_later(trouble: Trouble, step: Step) -> None:
    """A node is isolated until the others have declared it down; then heartbeats come back before the log does."""
    scene = Scene(trouble, step)
    links = scene.all_links(trouble.machine(step.picks[1]))
    scene.cut_streams(*links)
    scene.cut(*links)
    scene.at(step.for_ms, lambda: scene.mend(*links))
    scene.at(step.for_ms + 500, lambda: scene.mend_streams(*links))


def _admission_is_read_late(trouble: Trouble, step: Step) -> None:
    """A service is started anew and asks, and is admitted; it is isolated before it reads so, and declared down."""
    scene = Scene(trouble, step)
    _, newborn, *_ = scene.roles
    links = scene.all_links(newborn)
    scene.cut_streams(*links)
    scene.restart_service(newborn, 20)
    scene.at(step.for_ms, lambda: scene.cut(*links))
    scene.at(step.for_ms + 1_100, lambda: scene.mend(*links))
    scene.at(step.for_ms + 1_600, lambda: scene.mend_streams(*links))


def _slow_report(trouble: Trouble, step: Step) -> None:
    """What a voter reports to the coordinator is late; first the one, then the other hears nothing of a node."""
    scene = Scene(trouble, step)
    judge, reporter, node = scene.roles[:3]
    late_ms = 250
    scene.network.slow_ms[reporter.id, judge.id] = late_ms
    scene.at(600, lambda: scene.cut((node, reporter)))
    scene.at(600 + late_ms - 50, lambda: scene.cut((node, judge)))
    scene.at(600 + step.for_ms, lambda: scene.mend((node, reporter)))
    scene.at(2_000, lambda: scene.mend((node, judge)))
    scene.at(2_500, scene.network.slow_ms.clear)


def _silences_in_turn(trouble: Trouble, step: Step) -> None:
    """First a voter hears nothing of a node, then the coordinator does. What the voter reported last says that it was
    silent for long, and is not followed by its next report until the coordinator's own silence is as long."""
    scene = Scene(trouble, step)
    judge, reporter, node = scene.roles[:3]
    scene.cut((node, reporter))
    scene.at(650, lambda: scene.cut((node, judge)))
    scene.at(1_050, lambda: scene.mend((node, reporter)))
    scene.at(1_060, lambda: scene.cut((reporter, judge)))
    scene.at(1_480, lambda: scene.mend((reporter, judge)))
    scene.at(step.for_ms, lambda: scene.mend((node, judge)))


def _isolated_with_what_cannot_be_killed(trouble: Trouble, step: Step) -> None:
    """A node is isolated while nothing that runs on it can be terminated."""
    scene = Scene(trouble, step)
    machine = trouble.machine(step.picks[1])
    links = scene.all_links(machine)
    stubborn = set(machine.running) - scene.world.behaviour.unkillable
    scene.world.behaviour.unkillable.update(stubborn)
    scene.cut(*links)
    scene.at(step.for_ms, lambda: scene.mend(*links))
    scene.at(step.for_ms + 500, lambda: scene.world.behaviour.unkillable.difference_update(stubborn))


def _killed_with_what_cannot_be_killed(trouble: Trouble, step: Step) -> None:
    """A service is killed while nothing that runs on its node can be terminated."""
    scene = Scene(trouble, step)
    machine = trouble.machine(step.picks[1])
    stubborn = set(machine.running) - scene.world.behaviour.unkillable
    scene.world.behaviour.unkillable.update(stubborn)
    scene.world.crash_service(machine.name)
    scene.world.start_later(machine)
    scene.at(step.for_ms, lambda: scene.world.behaviour.unkillable.difference_update(stubborn))


def _born_into_silence(trouble: Trouble, step: Step) -> None:
    """The coordinator hears nothing of a node; the other voter did, until its service was started anew."""
    scene = Scene(trouble, step)
    judge, reporter, node = scene.roles[:3]
    scene.cut((node, judge))

    def restart() -> None:
        scene.restart_service(reporter, 20)
        scene.cut((node, reporter))

    scene.at(step.for_ms, restart)
    scene.at(2_500, lambda: scene.mend((node, judge), (node, reporter)))


def _faster_behind_its_back(trouble: Trouble, step: Step) -> None:
    """The cluster becomes faster while a node cannot read the log; then nobody hears it any more."""
    scene = Scene(trouble, step)
    machine = trouble.machine(step.picks[1])
    links = scene.all_links(machine)
    trouble.administrator.run(admin.change_profile("lan"))
    scene.at(1_500, lambda: scene.cut_streams(*links))
    scene.at(1_600, lambda: trouble.administrator.run(admin.change_profile("fast")))
    scene.at(3_500, lambda: scene.cut(*links))
    scene.at(3_500 + step.for_ms, lambda: scene.mend(*links))
    scene.at(3_500 + step.for_ms, lambda: scene.mend_streams(*links))


def _faster_and_then_stopped(trouble: Trouble, step: Step) -> None:
    """The cluster becomes faster; a moment later a service stands still, and its monitors have the former lease."""
    scene = Scene(trouble, step)
    machine = trouble.machine(step.picks[1])
    links = scene.all_links(machine)
    trouble.administrator.run(admin.change_profile("lan"))

    def stop() -> None:
        scene.world.freeze(machine.name)
        scene.cut(*links)

    def go_on() -> None:
        scene.mend(*links)
        scene.world.thaw(machine.name)

    scene.at(1_600, lambda: trouble.administrator.run(admin.change_profile("fast")))
    scene.at(1_600 + 20 + 100 * step.picks[2], stop)
    scene.at(1_800 + step.for_ms, go_on)


def _late_proposals(trouble: Trouble, step: Step) -> None:
    """What a service proposes may be taken for lost, and reach the log long after it was proposed anew."""
    world = trouble.world
    rng = random.Random(step.picks[0])
    in_time = world.log.propose

    def propose(machine: Machine, action: Propose) -> None:
        update = action.proposal.update
        parts = update.updates if isinstance(update, Batch) else (update,)
        if trouble.over or rng.random() < 0.4 or not any(isinstance(each, _WORTH_REPEATING) for each in parts):
            in_time(machine, action)
            return
        lost = ProposalFailed(request=action.proposal.request, fate=ProposalFate.UNKNOWN, detail="the answer was lost")
        world.post_later(machine, 2, lost)
        world.scheduler.later(step.for_ms * (0.3 + 0.7 * rng.random()), lambda: in_time(machine, action))

    world.log.propose = propose  # type: ignore[method-assign]  # the log of this story alone


_WORTH_REPEATING = (NodeUp, NodeDown, GroupReleased)


def _move(trouble: Trouble, step: Step) -> None:
    """An administrator moves a group."""
    group = trouble.group(step.picks[0])
    if group is not None:
        trouble.administrator.run(admin.move_group(group, trouble.member(step.picks[1])))


KINDS: dict[str, Callable[[Trouble, Step], None]] = {
    "streams come back later": _streams_come_back_later,
    "admission is read late": _admission_is_read_late,
    "slow report": _slow_report,
    "born into silence": _born_into_silence,
    "silences in turn": _silences_in_turn,
    "isolated with what cannot be killed": _isolated_with_what_cannot_be_killed,
    "killed with what cannot be killed": _killed_with_what_cannot_be_killed,
    "faster behind its back": _faster_behind_its_back,
    "faster and then stopped": _faster_and_then_stopped,
    "late proposals": _late_proposals,
    "move": _move,
}

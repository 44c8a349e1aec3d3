"""Stories that tempt one weakness each: which faults come, how often, and a few that are written down to the moment.

An ordinary seed has a weakness shown only when several things happen within the same few milliseconds. Here the things
are made to happen; what is left to the seed is who they happen to, and small differences of time. The kinds of faults
below are drawn by no ordinary seed; everything in them is allowed to happen, so the product as it is survives them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from clussvc.actions import Propose
from clussvc.events import ProposalFailed, ProposalFate
from clussvc.global_update.raft import wire
from clussvc.global_update.raft.journal import _Kind, _read_record
from clussvc.global_update.update import Batch, GroupReleased, NodeDown, NodeUp, SetGroupProperties
from clussvc.model.ids import NodeId
from clussvc.model.settings import LAN
from tests.simulation import administrator as admin
from tests.simulation.faults import UNDRAWN, Step, Trouble
from tests.simulation.machine import Machine
from tests.simulation.story import TROUBLE_MS, Plot, draw_plot

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
    return Plot(
        seed=seed,
        nodes=nodes,
        log=log,
        timing=LAN,
        compaction_entries=compaction_entries,
        steps=tuple(steps),
        groups=(2, 2, 1),
    )


# --- kinds of faults that are written down to the moment ------------------------------------------------------------


class _Scene:
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
    scene = _Scene(trouble, step)
    links = scene.all_links(trouble.machine(step.picks[1]))
    scene.cut_streams(*links)
    scene.cut(*links)
    scene.at(step.for_ms, lambda: scene.mend(*links))
    scene.at(step.for_ms + 500, lambda: scene.mend_streams(*links))


def _admission_is_read_late(trouble: Trouble, step: Step) -> None:
    """A service is started anew and asks, and is admitted; it is isolated before it reads so, and declared down."""
    scene = _Scene(trouble, step)
    _, newborn, *_ = scene.roles
    links = scene.all_links(newborn)
    scene.cut_streams(*links)
    scene.restart_service(newborn, 20)
    scene.at(step.for_ms, lambda: scene.cut(*links))
    scene.at(step.for_ms + 1_100, lambda: scene.mend(*links))
    scene.at(step.for_ms + 1_600, lambda: scene.mend_streams(*links))


def _slow_report(trouble: Trouble, step: Step) -> None:
    """What a voter reports to the coordinator is late; first the one, then the other hears nothing of a node."""
    scene = _Scene(trouble, step)
    judge, reporter, node = scene.roles[:3]
    late_ms = 250
    scene.network.slow_ms[reporter.id, judge.id] = late_ms
    scene.at(600, lambda: scene.cut((node, reporter)))
    scene.at(600 + late_ms - 50, lambda: scene.cut((node, judge)))
    scene.at(600 + step.for_ms, lambda: scene.mend((node, reporter)))
    scene.at(2_000, lambda: scene.mend((node, judge)))
    scene.at(2_500, scene.network.slow_ms.clear)


def _born_into_silence(trouble: Trouble, step: Step) -> None:
    """The coordinator hears nothing of a node; the other voter did, until its service was started anew."""
    scene = _Scene(trouble, step)
    judge, reporter, node = scene.roles[:3]
    scene.cut((node, judge))

    def restart() -> None:
        scene.restart_service(reporter, 20)
        scene.cut((node, reporter))

    scene.at(step.for_ms, restart)
    scene.at(2_500, lambda: scene.mend((node, judge), (node, reporter)))


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


# --- the same, for the real log -------------------------------------------------------------------------------------


class _LogScene(_Scene):
    """A scene in which frames of the log are watched, and commands given that fill it."""

    def give(self, machine: Machine, *, count: int, every_ms: float) -> None:
        """Have an administrator change something on this machine again and again; one entry each."""
        group = next(iter(self.world.config.groups))

        def change(number: int) -> None:
            update = SetGroupProperties(group=group, common={"Description": f"change {number}"})
            self.world.command(update, on=machine.name)

        for number in range(count):
            self.at(number * every_ms, partial(change, number))

    def watch(self, seen: Callable[[NodeId, NodeId, wire.Message], None]) -> None:
        """Look at every frame of the log that leaves, after it has left."""
        send = self._send = self.network.send

        def watched(sender: NodeId, receiver: NodeId, frame: bytes) -> None:
            send(sender, receiver, frame)
            if not self.trouble.over:
                seen(sender, receiver, wire.decode(frame))

        self.network.send = watched  # type: ignore[method-assign]  # the network of this story alone

    def stop_watching(self) -> None:
        """Have frames leave unseen again."""
        self.network.send = self._send  # type: ignore[method-assign]


def _leader_works_alone(trouble: Trouble, step: Step) -> None:
    """A leader is isolated and takes changes that it cannot commit; the others go on until their logs are compacted."""
    scene = _LogScene(trouble, step)
    leader, other, *_ = scene.roles
    links = scene.all_links(leader)
    scene.cut(*links)
    scene.give(leader, count=8, every_ms=5)
    scene.at(1_000, lambda: scene.give(other, count=90, every_ms=25))
    scene.at(step.for_ms, lambda: scene.mend(*links))


def _power_fails_after_a_vote(trouble: Trouble, step: Step) -> None:
    """Two candidates cannot hear each other. The voter between them loses its power as soon as one has its vote, and
    that one its links; the other one asks when the voter is back. ``picks[2]`` below 0.5: it had decided to do so
    before, but its disk stands still, and the request waits for the disk."""
    scene = _LogScene(trouble, step)
    voter, one, other = scene.roles[:3]
    candidates = {one.id: one, other.id: other}
    waiting: list[Machine] = []
    elected: list[Machine] = []

    def seen(sender: NodeId, receiver: NodeId, message: wire.Message) -> None:
        candidate = candidates.get(receiver)
        if sender != voter.id or candidate is None or elected:
            return
        if isinstance(message, wire.PreVoteReply) and message.granted and step.picks[2] < 0.5 and not waiting:
            waiting.append(candidate)
            candidate.disk.stalled_until_us = scene.world.scheduler.now_us + 1_500_000
        elif isinstance(message, wire.VoteReply) and candidate not in waiting:
            elected.append(candidate)
            scene.cut((candidate, voter))
            scene.at(3, lambda: part(candidate))

    def part(candidate: Machine) -> None:
        scene.world.crash(voter.name)
        scene.cut(*scene.all_links(candidate))
        scene.give(candidate, count=5, every_ms=5)
        scene.at(60, lambda: scene.world.start(voter.name))

    def end() -> None:
        scene.stop_watching()
        scene.mend(*scene.all_links(one), *scene.all_links(other))

    scene.watch(seen)
    scene.cut((one, other), (other, one))
    scene.world.crash(voter.name)
    scene.at(50, lambda: scene.world.start(voter.name))
    scene.at(step.for_ms, end)


def _power_fails_in_a_cut(trouble: Trouble, step: Step) -> None:
    """One follower is off and the other one was started anew, while changes keep coming; should it cut off entries, its
    power fails in that very write, and the leader loses its links, so that the other two must go on."""
    scene = _LogScene(trouble, step)
    leader, follower, absent = scene.roles[:3]
    links = scene.all_links(leader)
    disk = follower.disk
    write = disk.append

    def append(path: Path, data: bytes) -> None:
        if not trouble.over and _cuts(data) and scene.random.random() < 0.5:
            disk.append = write  # type: ignore[method-assign]
            disk.writes_left = 0
            scene.at(0, lambda: scene.cut(*links))
            scene.at(20, lambda: scene.world.start(absent.name))
        write(path, data)

    def end() -> None:
        disk.append = write  # type: ignore[method-assign]
        scene.mend(*links)
        scene.world.start(absent.name, follower.name)
        trouble.good_weather()

    disk.append = append  # type: ignore[method-assign]  # the disk of this story alone
    scene.world.crash(absent.name)
    scene.network.delay_ms = (5.0, 40.0)
    scene.give(leader, count=80, every_ms=8)
    scene.at(100, lambda: scene.restart_service(follower, 20))
    scene.at(step.for_ms, end)


def _cuts(data: bytes) -> bool:
    """Whether one of these records of a journal cuts entries off."""
    offset = 0
    while (record := _read_record(data, offset)) is not None:
        if record[0] is _Kind.TRUNCATE_FROM:
            return True
        offset = record[3]
    return False


UNDRAWN |= {
    "leader works alone": _leader_works_alone,
    "power fails after a vote": _power_fails_after_a_vote,
    "power fails in a cut": _power_fails_in_a_cut,
    "streams come back later": _streams_come_back_later,
    "admission is read late": _admission_is_read_late,
    "slow report": _slow_report,
    "born into silence": _born_into_silence,
    "late proposals": _late_proposals,
    "move": _move,
}

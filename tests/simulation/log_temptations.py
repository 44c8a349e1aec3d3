"""Faults to the moment for the real log: what it holds, what it has promised, and who must lose the power in between.

As in :mod:`tests.simulation.temptations`, everything here is allowed to happen, and no ordinary seed draws it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from clussvc.global_update.raft import wire
from clussvc.global_update.raft.journal import _Kind, _read_record
from clussvc.global_update.update import SetGroupProperties
from clussvc.model.ids import NodeId
from tests.simulation.faults import Step, Trouble
from tests.simulation.machine import Machine
from tests.simulation.switching_log import log_frame
from tests.simulation.temptations import Scene


class _LogScene(Scene):
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
            if self.trouble.over or self.carry(sender, receiver, frame):
                send(sender, receiver, frame)
            inner = log_frame(frame)
            if inner is not None and not self.trouble.over:
                seen(sender, receiver, wire.decode(inner))

        self.network.send = watched  # type: ignore[method-assign]  # the network of this story alone

    def carry(self, sender: NodeId, receiver: NodeId, frame: bytes) -> bool:
        """Whether a frame may leave now."""
        del sender, receiver, frame
        return True

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


class _AnswerOfAFormerTerm(_LogScene):
    """Among five, an answer stays on its way until the leader that it is for leads again in a later term.

    A leader gets many entries to one follower, whose answers stand still; the others elect another leader, and both
    lose those entries. Then the first one is elected again, and has one more follower when the old answers arrive. It
    and that follower lose their power. The streams stand still here, and do not break; heartbeats pass all the time.
    """

    def __init__(self, trouble: Trouble, step: Step) -> None:
        super().__init__(trouble, step)
        self.leader, self.follower, *self.others = self.roles
        self.still: dict[tuple[NodeId, NodeId], list[bytes]] = {}
        self.leading = self.leader
        self.elections = 0
        self.term = 0
        self.stop(self.leader, *self.others)
        self.stop(self.follower, *self.others)
        self.stand(self.follower, self.leader)
        self.watch(self.seen)
        self.give(self.leader, count=40, every_ms=2)
        self.at(110, lambda: self.stand(self.leader, self.follower))
        self.at(step.for_ms, self.end)

    # --- streams ----------------------------------------------------------------------------------------------------

    def stand(self, sender: Machine, receiver: Machine) -> None:
        """Frames in this direction wait from now on."""
        self.still.setdefault((sender.id, receiver.id), [])

    def stop(self, machine: Machine, *others: Machine) -> None:
        """The same in both directions with each of these."""
        for other in others:
            self.stand(machine, other)
            self.stand(other, machine)

    def flow(self, *machines: Machine) -> None:
        """What waits between these machines arrives, and the rest follows."""
        ids = {machine.id for machine in machines}
        for pair in [pair for pair in self.still if ids.issuperset(pair)]:
            for frame in self.still.pop(pair):
                self._send(*pair, frame)

    def carry(self, sender: NodeId, receiver: NodeId, frame: bytes) -> bool:
        """See _LogScene."""
        waiting = self.still.get((sender, receiver))
        if waiting is None:
            return True
        waiting.append(frame)
        return False

    # --- what happens -----------------------------------------------------------------------------------------------

    def seen(self, sender: NodeId, receiver: NodeId, message: wire.Message) -> None:
        """A new leader shows itself by its first append."""
        del receiver
        if not isinstance(message, wire.Append) or message.term <= self.term:
            return
        self.term, self.elections = message.term, self.elections + 1
        self.leading = self.world.nodes[sender]
        if self.elections == 2:
            self.at(100, lambda: self.flow(self.follower, *self.others))
            self.at(200, lambda: self.flow(self.leader, *self.others))
            self.at(400, self.depose)
        elif self.elections == 3 and self.leading is self.leader:
            self.at(40, self.arrive)

    def depose(self) -> None:
        """The second leader is heard no more, and only the first one can win."""
        self.others.remove(self.leading)
        self.stop(self.leading, self.leader, self.follower, *self.others)
        self.stop(*self.others)
        for other in self.others:
            self.stand(self.follower, other)

    def arrive(self) -> None:
        """One follower gets the newest entry; the old answers arrive; then leader and follower are gone."""
        near, far = self.others
        self.stand(self.leader, far)
        self.give(self.leader, count=1, every_ms=0)
        self.at(5, lambda: self.release(self.follower, self.leader))
        self.at(25, lambda: self.lose(self.leader, near))

    def release(self, sender: Machine, receiver: Machine) -> None:
        """What waits in this direction arrives."""
        for frame in self.still.pop((sender.id, receiver.id), []):
            self._send(sender.id, receiver.id, frame)

    def lose(self, *machines: Machine) -> None:
        """Their power fails; the streams of the rest flow again."""
        self.world.crash(*(machine.name for machine in machines))
        lost = {machine.id for machine in machines}
        for pair in [pair for pair in self.still if not lost.isdisjoint(pair)]:
            del self.still[pair]
        self.flow(*self.world.nodes.values())

    def end(self) -> None:
        """Everything is as it was."""
        self.flow(*self.world.nodes.values())
        self.stop_watching()
        self.world.start(*(machine.name for machine in self.roles))


def _answer_of_a_former_term(trouble: Trouble, step: Step) -> None:
    """See the class."""
    _AnswerOfAFormerTerm(trouble, step)


KINDS: dict[str, Callable[[Trouble, Step], None]] = {
    "leader works alone": _leader_works_alone,
    "power fails after a vote": _power_fails_after_a_vote,
    "power fails in a cut": _power_fails_in_a_cut,
    "answer of a former term": _answer_of_a_former_term,
}

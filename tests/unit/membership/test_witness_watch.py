"""When a node asks the witness, for whom, and what it counts by then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.membership.witness_watch import (
    ASK_AGAIN_MS,
    FIRST_WAIT_MS,
    LEASE_SHARE,
    PATIENT_HEARTBEATS,
    SILENT_HEARTBEATS,
    AskWitness,
    WitnessAnswered,
    WitnessWatch,
)
from clussvc.model.config import Config, Node
from clussvc.model.ids import ClusterId, NodeId
from clussvc.model.settings import LAN
from clussvc.model.witness import Witness
from clussvc.quorum.stand_in import Decision
from tests.unit.membership.station import Station

N1, N2, N3, N4 = (NodeId(number) for number in (1, 2, 3, 4))
BEAT_MS = LAN.heartbeat_interval_ms
SILENT_MS = int(SILENT_HEARTBEATS * BEAT_MS)
WITNESS = Witness(path="/mnt/witness", token="0" * 16, opened=3)


def config_of(*voters: NodeId, opened: int = 3, version: int = 3) -> Config:
    one = Node(id=N1, name="N", addresses=(), port=1, up=True, voter=True, incarnation=1, boot=1)
    nodes = {node: replace(one, id=node, name=f"N{node}") for node in voters}
    witness = replace(WITNESS, opened=opened)
    return Config(cluster=ClusterId("c"), name="C", timing=LAN, voters_version=version, nodes=nodes, witness=witness)


class Story:
    """N1 hears the others, and they hear it, until they fall silent; it may ask from the first moment on."""

    def __init__(self, *others: NodeId, leader: NodeId | None = N1) -> None:
        self.config = config_of(N1, *others)
        self.me = Station(N1, others)
        self.others = {node: Station(node, (N1,)) for node in others}
        self.leader = leader
        self.watch = WitnessWatch(N1, -FIRST_WAIT_MS)
        self.now_ms = 0
        self.hear(*others, for_ms=1_000)

    @property
    def until_ms(self) -> int:
        """Until when N1 holds quorum."""
        sets = self.watch.electorates(self.config, self.config.voters)
        return max(self.me.quorum_until_ms(each, self.now_ms) for each in sets)

    def ask(self) -> AskWitness | None:
        return self.watch.ask(self.config, self.me, leader=self.leader, until_ms=self.until_ms, now_ms=self.now_ms)

    def hear(self, *nodes: NodeId, for_ms: int) -> AskWitness | None:
        """These speak and hear every heartbeat; the first question, if there is one."""
        until_ms = self.now_ms + for_ms
        while self.now_ms < until_ms:
            self.now_ms += BEAT_MS
            mine = self.me.say(self.now_ms)
            for node in nodes:
                self.others[node].listen(mine, self.now_ms)
                self.me.listen(self.others[node].say(self.now_ms), self.now_ms)
            if (question := self.ask()) is not None:
                return question
        return None

    def silence(self, *, limit_ms: int = 2_000) -> tuple[int, AskWitness]:
        """Nobody speaks any more; when N1 asks, looked at each millisecond."""
        began_ms = self.now_ms
        while self.now_ms - began_ms < limit_ms:
            self.now_ms += 1
            if (question := self.ask()) is not None:
                return self.now_ms - began_ms, question
        raise AssertionError("it never asked")


def test_nothing_is_asked_while_everybody_is_heard() -> None:
    assert Story(N2).hear(N2, for_ms=5_000) is None


def test_the_half_with_the_leader_asks_first_and_both_in_time() -> None:
    """Two missing heartbeats here, three there; a good part of the lease is left in both."""
    with_leader, question = Story(N2).silence()
    without, _ = Story(N2, leader=N2).silence()

    assert question == AskWitness(witness=WITNESS, version=3, voters=frozenset({N1, N2}), drop=N2)
    assert with_leader == SILENT_MS
    assert with_leader < without <= PATIENT_HEARTBEATS * BEAT_MS
    assert without < LAN.lease_ms * (1 - LEASE_SHARE)


def test_who_hears_the_other_one_but_is_not_heard_asks_at_the_end_of_its_lease() -> None:
    """A cut in one direction: the other one speaks on, and confirms nothing new."""
    story = Story(N2)
    began_ms = story.now_ms
    question = None
    while question is None and story.now_ms - began_ms < LAN.lease_ms:
        story.now_ms += 1
        if not story.now_ms % BEAT_MS:
            story.me.listen(story.others[N2].say(story.now_ms), story.now_ms)
        question = story.ask()

    assert question is not None
    assert 0 < story.until_ms - story.now_ms <= LAN.lease_ms * LEASE_SHARE


@pytest.mark.parametrize(("heard", "drop"), [((N2,), N4), ((N3,), N4), ((N4,), N3)])
def test_of_four_the_half_drops_the_last_of_the_others(heard: tuple[NodeId, ...], drop: NodeId) -> None:
    story = Story(N2, N3, N4)
    question = story.hear(*heard, for_ms=1_000)

    assert question is not None
    assert question.drop == drop


def test_less_than_half_only_reads_and_more_than_half_needs_nothing() -> None:
    assert Story(N2, N3, N4).hear(N2, N3, for_ms=3_000) is None
    alone = Story(N2, N3, N4)
    passed_ms, question = alone.silence()
    assert question.drop is None
    assert passed_ms >= LAN.lease_ms - BEAT_MS


def test_an_odd_number_a_closed_witness_or_none_is_not_asked() -> None:
    for config in (
        config_of(N1, N2, N3),
        config_of(N1, N2, opened=2),
        config_of(N1, N2, opened=0),
        replace(config_of(N1, N2), witness=Witness()),
    ):
        story = Story(N2)
        story.config = config
        story.now_ms += 300
        assert story.until_ms > story.now_ms
        assert story.ask() is None


def test_a_closed_witness_is_read_without_quorum_since_the_log_may_still_need_it() -> None:
    story = Story(N2)
    story.config = config_of(N1, N2, opened=2)
    _, question = story.silence()

    assert (question.version, question.drop) == (2, None)


def test_a_node_that_was_just_started_waits_for_the_others() -> None:
    story = Story(N2)
    story.watch = WitnessWatch(N1, story.now_ms)
    story.me = Station(N1, (N2,), now_ms=story.now_ms)
    passed_ms, question = story.silence(limit_ms=2 * FIRST_WAIT_MS)

    assert passed_ms == FIRST_WAIT_MS
    assert question.drop == N2


def test_one_question_at_a_time_and_again_after_a_pause() -> None:
    story = Story(N2)
    _, question = story.silence()
    story.now_ms += 10
    assert story.ask() is None
    story.watch.answered(WitnessAnswered(version=3, decision=None, trouble="it hangs"), story.now_ms)
    passed_ms, again = story.silence()
    assert again == question
    assert passed_ms == ASK_AGAIN_MS


def test_a_decision_counts_for_its_version_while_it_is_open() -> None:
    story = Story(N2)
    decision = Decision(version=3, voters=frozenset({N1, N2}), dropped=N2)
    assert story.watch.answered(WitnessAnswered(version=3, decision=decision), story.now_ms) == decision
    assert story.watch.answered(WitnessAnswered(version=3, decision=decision), story.now_ms) is None
    both, left = frozenset({N1, N2}), frozenset({N1})

    assert story.watch.electorates(story.config, both) == (both, left)
    assert story.watch.electorates(config_of(N1, N2, version=4), both) == (both,)
    assert story.watch.electorates(config_of(N1, N2, opened=4, version=4), both) == (both,)
    assert story.watch.electorates(None, both) == (both,)
    story.now_ms += LAN.lease_ms
    assert story.until_ms > story.now_ms
    assert story.ask() is None

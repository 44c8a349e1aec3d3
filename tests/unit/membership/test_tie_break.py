"""The coordinator's next step towards a tie-breaker, in the situations that the loss and return of a node lead to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.global_update.update import CloseWitness, DropVote, OpenWitness, SetVoter
from clussvc.membership.tie_break import VoteStep, next_step
from clussvc.model.config import Config, Node
from clussvc.model.ids import ClusterId, NodeId
from clussvc.model.settings import LAN
from clussvc.model.witness import Witness
from clussvc.quorum.stand_in import Decision, dropped_stand_in, witness_stand_in
from tests.unit.membership.station import Station

N1, N2, N3 = (NodeId(number) for number in (1, 2, 3))
BEAT_MS = LAN.heartbeat_interval_ms
WITNESS = Witness(path="/mnt/witness", token="0" * 16)
W7, W6 = witness_stand_in(7), witness_stand_in(6)
D2, D3 = dropped_stand_in(N2), dropped_stand_in(N3)
BOTH = Decision(version=6, voters=frozenset({N1, N2}), dropped=N2)


def config_of(
    *voters: NodeId,
    others: tuple[NodeId, ...] = (),
    down: tuple[NodeId, ...] = (),
    opened: int = 0,
    witness: bool = True,
    dynamic: bool = False,
) -> Config:
    """Version 7 of the voters."""
    one = Node(id=N1, name="N", addresses=(), port=1, incarnation=1, boot=1)
    nodes = {
        node: replace(one, id=node, name=f"N{node}", voter=node in voters, up=node not in down)
        for node in sorted((*voters, *others))
    }
    return Config(
        cluster=ClusterId("c"),
        name="C",
        timing=LAN,
        voters_version=7,
        nodes=nodes,
        witness=replace(WITNESS, opened=opened) if witness else Witness(),
        dynamic_votes=dynamic,
    )


def step(
    config: Config,
    *log_members: NodeId,
    decision: Decision | None = None,
    heard: tuple[NodeId, ...] | None = None,
    says: int = 7,
) -> VoteStep:
    """What N1 does next; those that are up, or ``heard``, speak and hear everybody."""
    present = tuple(n for n in config.nodes if config.nodes[n].up) if heard is None else (N1, *heard)
    stations = {node: Station(node, tuple(config.nodes)) for node in present}
    for now_ms in range(BEAT_MS, 6 * BEAT_MS, BEAT_MS):
        for speaker in stations.values():
            beat = speaker.say(now_ms, voters_version=says)
            for listener in stations.values():
                if listener is not speaker:
                    listener.listen(beat, now_ms)
    return next_step(
        config, stations[N1], node=N1, log_members=frozenset(log_members), decision=decision, now_ms=5 * BEAT_MS + 1
    )


def test_an_even_number_gets_the_stand_in_and_then_an_open_witness() -> None:
    config = config_of(N1, N2)

    assert step(config, N1, N2) == VoteStep(add_log_members=(W7,))
    assert step(config, N1, N2, W7) == VoteStep(update=OpenWitness(voters_version=7))
    assert step(config_of(N1, N2, opened=7), N1, N2, W7) == VoteStep()


def test_nothing_is_opened_before_every_node_that_is_up_uses_the_present_voters() -> None:
    assert step(config_of(N1, N2), N1, N2, says=6) == VoteStep()
    assert step(config_of(N1, N2), N1, N2, W7, says=6) == VoteStep()


def test_an_odd_number_and_a_cluster_without_a_witness_need_none() -> None:
    assert step(config_of(N1, N2, N3), N1, N2, N3) == VoteStep()
    assert step(config_of(N1, N2, witness=False), N1, N2) == VoteStep()


def test_what_the_witness_has_decided_is_made_so() -> None:
    config = config_of(N1, N2, opened=7)
    decision = replace(BOTH, version=7)

    assert step(config, N1, N2, W7, decision=decision, heard=()) == VoteStep(update=DropVote(node=N2, voters_version=7))
    assert step(config, N1, N2, W7, decision=BOTH) == VoteStep()


def test_the_dropped_node_leaves_the_log_before_the_stand_in_does() -> None:
    """The other way round those that are left could not commit it."""
    config = config_of(N1, others=(N2,), down=(N2,), opened=6)

    assert step(config, N1, N2, W6, decision=BOTH) == VoteStep(remove_log_members=(N2,))
    assert step(config, N1, W6, decision=BOTH) == VoteStep(remove_log_members=(W6,))
    assert step(config, N1) == VoteStep()


def test_a_node_that_comes_back_is_needed_by_nobody_before_it_is_there() -> None:
    back = config_of(N1, others=(N2,))
    give = SetVoter(node=N2, voter=True, voters_version=7)

    assert step(back, N1) == VoteStep(update=give, add_log_members=(D2,))
    assert step(back, N1, D2) == VoteStep(update=give, add_log_members=(N2,))
    assert step(back, N1, N2, D2) == VoteStep(update=give)
    assert step(config_of(N1, N2), N1, N2, D2, says=6) == VoteStep()
    assert step(config_of(N1, N2), N1, N2, D2) == VoteStep(remove_log_members=(D2,))
    # Somebody else who wants to take part is not held up by that.
    assert step(config_of(N1, N2, others=(N3,)), N1, N2, D2).remove_log_members == (D2,)


def test_a_node_that_was_just_lost_does_not_come_back_into_the_log() -> None:
    """It was heard a lease ago, and not since."""
    config = config_of(N1, others=(N2,))
    me, other = Station(N1, (N2,)), Station(N2, (N1,))
    other.listen(me.say(100), 100)
    me.listen(other.say(101, voters_version=7), 101)

    def members(now_ms: int) -> tuple[NodeId, ...]:
        made = next_step(config, me, node=N1, log_members=frozenset({N1}), decision=None, now_ms=now_ms)
        return made.add_log_members

    assert members(101 + 2 * BEAT_MS) == (D2,)
    assert members(101 + 2 * BEAT_MS + 1) == ()


@pytest.mark.parametrize("heard", [(N2,), (N2, N3)])
def test_whoever_wants_a_change_closes_the_witness_first(heard: tuple[NodeId, ...]) -> None:
    evicting = config_of(N1, N2, opened=7)
    gone = replace(evicting.nodes[N2], up=False, evicting=True)
    joining = config_of(N1, N2, others=(N3,), opened=7)
    close = VoteStep(update=CloseWitness(voters_version=7))

    assert step(replace(evicting, nodes={**evicting.nodes, N2: gone}), N1, N2, W7, heard=()) == close
    assert step(joining, N1, N2, W7, heard=heard) == (close if N3 in heard else VoteStep())


def test_dynamic_votes_keep_an_odd_number_and_drop_the_vote_of_the_one_that_is_left_over() -> None:
    down = config_of(N1, N2, N3, down=(N3,), witness=False, dynamic=True)
    assert step(down, N1, N2, N3).update == SetVoter(node=N3, voter=False, voters_version=7)
    two = config_of(N1, N2, others=(N3,), down=(N3,), witness=False, dynamic=True)
    assert step(two, N1, N2, N3) == VoteStep(
        update=SetVoter(node=N2, voter=False, voters_version=7), remove_log_members=(N3,)
    )
    one = config_of(N1, others=(N2, N3), down=(N3,), witness=False, dynamic=True)
    assert step(one, N1, N2) == VoteStep(add_log_members=(D2,))
    assert step(one, N1, N2, D2) == VoteStep()


def test_dynamic_votes_with_a_witness_keep_an_even_number() -> None:
    two = config_of(N1, N2, others=(N3,), down=(N3,), dynamic=True)

    assert step(two, N1, N2) == VoteStep(add_log_members=(W7,))


def test_a_node_that_does_not_know_the_coordinator_comes_back_by_the_word_of_others() -> None:
    """It was away while N1 joined, and speaks to those it knows; the coordinator has heard it in an earlier life."""
    config = config_of(N1, N2, others=(N3,), witness=False)
    me, other = Station(N1, (N2, N3)), Station(N2, (N1, N3))
    earlier, away = Station(N3, (N1, N2)), Station(N3, (N2,), boot=2, now_ms=5_000)
    me.listen(earlier.say(100), 101)

    def members(now_ms: int) -> tuple[NodeId, ...]:
        log_members = frozenset({N1, N2})
        return next_step(config, me, node=N1, log_members=log_members, decision=None, now_ms=now_ms).add_log_members

    other.listen(me.say(5_990), 5_990)
    me.listen(other.say(5_991), 5_991)
    assert members(6_000) == ()
    other.listen(away.say(6_000), 6_000)
    me.listen(other.say(6_001), 6_001)
    assert members(6_002) == (N3,)

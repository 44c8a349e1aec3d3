"""Members of the log without a machine: the guard speaks for them, and nothing is lost by that."""

from __future__ import annotations

import random

import pytest

from clussvc.global_update.raft.replicator import Outcome, OutcomeKind, RaftSettings
from clussvc.model.ids import NodeId
from clussvc.quorum.stand_in import Decision, dropped_stand_in, is_stand_in, witness_stand_in
from tests.adapters.raft.conftest import MakeWorld
from tests.adapters.raft.test_fuzz import storm
from tests.adapters.raft.world import World

W = int(witness_stand_in(5))
SMALL_LOG = RaftSettings(election_timeout_ms=300, heartbeat_ms=60, compaction_entries=25)


def decision(world: World, dropped: int) -> Decision:
    return Decision(version=5, voters=frozenset(map(NodeId, world.founders)), dropped=NodeId(dropped))


def change(world: World, member: int, *, adding: bool) -> Outcome:
    """Have the leader change the members, and wait for the outcome."""
    outcomes: list[Outcome] = []
    leader = world.node(world.lead())
    (leader.add_member if adding else leader.remove_member)(member, outcomes.append)
    world.settle(lambda: bool(outcomes))
    return outcomes[0]


def with_stand_in(make_world: MakeWorld, size: int, stand_in: int, seed: int = 1) -> World:
    world = make_world(size, seed=seed)
    world.lead()
    assert change(world, stand_in, adding=True).kind is OutcomeKind.COMMITTED
    world.settle(lambda: all(stand_in in node.members for _, node in world.up()))
    return world


@pytest.mark.parametrize("leads", [True, False])
def test_of_two_one_goes_on_once_it_knows_the_decision(make_world: MakeWorld, leads: bool) -> None:
    """Before that it commits nothing; whichever of the two is lost."""
    world = with_stand_in(make_world, 2, W)
    leader = world.lead()
    lost = leader if leads else 3 - leader
    left = 3 - lost
    world.commit(left, b"both")
    world.crash(lost)
    world.propose(left, b"in vain", timeout_s=2.0)
    world.run(3.0)
    assert OutcomeKind.COMMITTED not in [world.outcomes[b"in vain"].kind]
    assert world.holder() is None

    world.node(left).use_decision(decision(world, lost))
    world.settle(lambda: world.holder() == left)
    world.commit(left, b"alone", b"and more")
    world.boot(lost)
    world.settle(lambda: world.history(lost) == world.history(left))


def test_the_dropped_one_does_not_go_on_by_itself(make_world: MakeWorld) -> None:
    """The other one is lost, and may know more."""
    world = with_stand_in(make_world, 2, W)
    world.node(2).use_decision(decision(world, 2))
    world.crash(1)
    world.run(5.0)

    assert world.holder() is None


def test_of_four_half_goes_on_and_less_does_not(make_world: MakeWorld) -> None:
    world = with_stand_in(make_world, 4, W)
    world.crash(3)
    world.crash(4)
    for node in (1, 2):
        world.node(node).use_decision(decision(world, 4))
    world.lead()
    world.commit(1, b"half")
    world.crash(1)
    world.run(3.0)
    assert world.holder() is None


def test_a_decision_for_another_version_or_other_members_counts_for_nothing(make_world: MakeWorld) -> None:
    world = with_stand_in(make_world, 2, W)
    world.crash(2)
    for wrong in (
        Decision(version=4, voters=frozenset({NodeId(1), NodeId(2)}), dropped=NodeId(2)),
        Decision(version=5, voters=frozenset({NodeId(1), NodeId(3)}), dropped=NodeId(3)),
    ):
        world.node(1).use_decision(wrong)
        world.run(2.0)
        assert world.holder() is None


def test_the_lost_one_leaves_the_log_and_then_the_stand_in(make_world: MakeWorld) -> None:
    """Afterwards the log has one member, and comes up alone."""
    world = with_stand_in(make_world, 2, W)
    world.crash(2)
    assert change_refused_after_decision(world)
    assert change(world, 2, adding=False).kind is OutcomeKind.COMMITTED
    assert change(world, W, adding=False).kind is OutcomeKind.COMMITTED
    world.commit(1, b"one")
    world.crash(1)
    world.boot(1)
    world.lead()
    assert world.node(1).members == {1}
    assert b"one" in world.history(1)


def change_refused_after_decision(world: World) -> bool:
    """Nobody else comes or goes while the stand-in is there."""
    world.node(1).use_decision(decision(world, 2))
    world.lead()
    refused = change(world, int(dropped_stand_in(NodeId(2))), adding=True)
    return refused.kind is OutcomeKind.REFUSED and "tie-breaker" in refused.detail


def test_a_dropped_vote_is_not_needed(make_world: MakeWorld) -> None:
    """Of two nodes one votes: it goes on without the other one, which stops without it."""
    world = with_stand_in(make_world, 2, int(dropped_stand_in(NodeId(2))))
    world.crash(2)
    world.lead()
    world.commit(1, b"alone")
    world.boot(2)
    world.settle(lambda: world.history(2) == world.history(1))
    world.crash(1)
    world.run(3.0)
    assert world.holder() is None


def test_a_stand_in_survives_a_snapshot_and_a_start(make_world: MakeWorld) -> None:
    world = make_world(2, settings=SMALL_LOG)
    world.lead()
    assert change(world, W, adding=True).kind is OutcomeKind.COMMITTED
    world.commit(1, *(b"%d" % number for number in range(80)))
    world.converge()
    assert world.node(1).statistics().snapshots_written > 0
    for node in (1, 2):
        world.crash(node)
        world.boot(node)
    world.lead()
    assert W in world.node(1).members
    assert not [sent for sent in world.node(1).members if is_stand_in(sent) and sent != W]


@pytest.mark.parametrize("seed", range(6))
def test_nothing_acknowledged_is_lost_in_a_storm(make_world: MakeWorld, seed: int) -> None:
    """Two and four nodes of which some know the decision, others not; the checkers of the world look on."""
    size = 2 if seed % 2 else 4
    world = make_world(size, seed=seed, settings=SMALL_LOG)
    world.lead()
    assert change(world, W, adding=True).kind is OutcomeKind.COMMITTED
    knows = [node for node in sorted(world.founders) if random.Random(seed).random() < 0.7] or [1]
    for node in knows:
        world.node(node).use_decision(decision(world, size))
    storm(world, random.Random(seed), seconds=6.0)
    for node, running in world.up():
        if node in knows:
            running.use_decision(decision(world, size))
    world.converge()
    kinds = [outcome.kind for outcome in world.outcomes.values()]
    assert kinds.count(OutcomeKind.COMMITTED) > 10, "the storm left nothing to lose"

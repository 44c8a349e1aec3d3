"""That majorities meet, for every size from one to nine, with and without a tie-breaker, and over every step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from clussvc.model.ids import NodeId
from clussvc.quorum.stand_in import (
    Decision,
    change_refused,
    dropped_by,
    dropped_stand_in,
    electorates,
    is_stand_in,
    split,
    version_of,
    witness_stand_in,
)

SIZES = range(1, 10)
W = witness_stand_in(7)


def nodes(count: int) -> frozenset[NodeId]:
    return frozenset(NodeId(number) for number in range(1, count + 1))


def majorities(sets: tuple[frozenset[NodeId], ...]) -> list[frozenset[NodeId]]:
    """The smallest ones; every other one holds one of these."""
    return [
        frozenset(chosen)
        for electorate in sets
        for chosen in itertools.combinations(sorted(electorate), len(electorate) // 2 + 1)
    ]


def all_meet(one: tuple[frozenset[NodeId], ...], other: tuple[frozenset[NodeId], ...]) -> bool:
    return all(a & b for a in majorities(one) for b in majorities(other))


def decision(count: int, dropped: int) -> Decision:
    return Decision(version=7, voters=nodes(count), dropped=NodeId(dropped))


def situations(count: int) -> Iterator[tuple[frozenset[NodeId], Decision | None]]:
    """The members of a log of so many nodes, with every tie-breaker there can be."""
    members = nodes(count)
    yield members, None
    if count % 2 == 0:
        yield members | {W}, None
        for dropped in members:
            yield members | {W}, decision(count, dropped)
            yield members | {dropped_stand_in(dropped)}, None


def test_numbers_say_what_they_stand_for() -> None:
    assert (version_of(W), dropped_by(W), is_stand_in(W)) == (7, None, True)
    assert (version_of(dropped_stand_in(NodeId(3))), dropped_by(dropped_stand_in(NodeId(3)))) == (None, 3)
    assert not is_stand_in(NodeId(64))
    assert split({1, 2, W}) == (nodes(2), W)


@pytest.mark.parametrize("count", SIZES)
def test_any_two_majorities_meet_whoever_knows_the_decision(count: int) -> None:
    """A node that has read it beside one that has not; both count for the same members of the log."""
    for members, known in situations(count):
        sets = electorates(members, known)
        assert all_meet(sets, sets)
        assert all_meet(sets, electorates(members, None))


@pytest.mark.parametrize("count", [2, 4, 6, 8])
def test_two_decisions_for_one_version_would_not_do(count: int) -> None:
    """This is what the register is for, and why it is written once."""
    members = nodes(count) | {W}

    assert not all_meet(electorates(members, decision(count, 1)), electorates(members, decision(count, 2)))


@pytest.mark.parametrize("count", SIZES)
def test_majorities_meet_over_every_step_that_is_allowed(count: int) -> None:
    """Every member that may come or go from every situation, the decision known or not before and after."""
    steps = 0
    for members, known in situations(count):
        candidates = [*nodes(count + 1), W, witness_stand_in(8), *map(dropped_stand_in, nodes(count + 1))]
        for member in candidates:
            adding = member not in members
            if change_refused(members, known, member, adding=adding):
                continue
            after = members | {member} if adding else members - {member}
            if not split(after)[0]:
                continue
            steps += 1
            for before_known, after_known in itertools.product((None, known), repeat=2):
                assert all_meet(electorates(members, before_known), electorates(after, after_known)), (members, member)
    assert steps


def test_a_decision_counts_for_its_own_version_and_voters_only() -> None:
    known = decision(4, 4)
    four = nodes(4)

    assert electorates(four | {W}, known) == (four, nodes(3))
    assert electorates(four | {witness_stand_in(8)}, known) == (four,)
    assert electorates(nodes(2) | {W}, known) == (nodes(2),)
    assert electorates(nodes(3) | {W}, known) == (nodes(3),)
    assert electorates(four, known) == (four,)


def test_while_a_tie_breaker_is_in_force_only_its_node_or_itself_may_go() -> None:
    members = nodes(4) | {W}

    assert change_refused(members, decision(4, 4), NodeId(4), adding=False) == ""
    assert change_refused(members, decision(4, 4), NodeId(3), adding=False)
    assert change_refused(members, None, NodeId(4), adding=False)
    assert change_refused(members, decision(4, 4), NodeId(5), adding=True)
    assert change_refused(members, None, W, adding=False) == ""
    assert change_refused(members, None, witness_stand_in(8), adding=True)
    assert change_refused(nodes(3), None, W, adding=True)
    assert change_refused(nodes(4), None, dropped_stand_in(NodeId(9)), adding=True)

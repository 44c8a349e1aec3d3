"""Who of the listed nodes begins, when the cluster goes on by force."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from clussvc.model.ids import NodeId
from clussvc.quorum.forcing import Forcing, Offer

LISTED = (NodeId(1), NodeId(2), NodeId(5))
NUMBERS = st.integers(0, 3)


def offer(node: int, *, generation: int = 4, term: int = 1, index: int = 10) -> Offer:
    return Offer(node=NodeId(node), listed=LISTED, generation=generation, term=term, index=index)


def test_nobody_begins_before_everybody_has_offered() -> None:
    forcing = Forcing(offer(1, index=99))
    assert (forcing.missing, forcing.chosen) == ((2, 5), None)
    forcing.take(offer(2))
    assert (forcing.missing, forcing.chosen) == ((5,), None)
    forcing.take(offer(5))
    assert (forcing.missing, forcing.chosen) == ((), 1)


def test_the_newest_log_wins() -> None:
    """By generation, then by term, then by index; among equals the lowest number."""
    for better, worse in (
        (offer(5, generation=5, term=0, index=1), offer(1)),
        (offer(5, term=2, index=1), offer(1)),
        (offer(5, index=11), offer(1)),
        (offer(2), offer(5)),
    ):
        forcing = Forcing(worse)
        forcing.take(better)
        forcing.take(offer(({1, 2, 5} - {better.node, worse.node}).pop(), generation=0))
        assert forcing.chosen == better.node


@given(st.tuples(*[st.tuples(NUMBERS, NUMBERS, NUMBERS) for _ in LISTED]))
def test_all_agree_in_whatever_order_they_hear(said: tuple[tuple[int, int, int], ...]) -> None:
    offers = [
        offer(node, generation=generation, term=term, index=index)
        for node, (generation, term, index) in zip(LISTED, said, strict=True)
    ]
    chosen_by = set()
    for own, *others in permutations(offers):
        forcing = Forcing(own)
        for other in others:
            forcing.take(other)
        chosen_by.add(forcing.chosen)
    assert len(chosen_by) == 1


def test_a_node_with_another_list_is_no_part_of_it() -> None:
    forcing = Forcing(offer(1))
    forcing.take(offer(2))
    other = replace(offer(5), listed=(NodeId(1), NodeId(5)))
    forcing.take(other)
    assert (forcing.missing, forcing.chosen, forcing.quarrel) == ((5,), None, other)
    forcing.take(offer(5))
    assert (forcing.chosen, forcing.quarrel) == (1, None)
    # One that had offered and was started anew with another list is out again.
    forcing.take(replace(offer(2), listed=(NodeId(2),)))
    assert (forcing.missing, forcing.chosen) == ((2,), None)


def test_strangers_are_not_asked() -> None:
    forcing = Forcing(offer(1))
    forcing.take(replace(offer(3), listed=LISTED))
    forcing.take(offer(1, index=1_000))
    assert forcing.missing == (2, 5)
    assert forcing.own.index == 10

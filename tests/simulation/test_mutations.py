"""The mutations that are caught at once, some of each rule; ``script/soak --mutations`` tries all of them.

Each story is told with the product as it is as well: a mutation whose story fails anyway would prove nothing.
"""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, hunt, named
from tests.simulation.story import tell

LEFT_TO_THE_SOAK = frozenset(
    {
        "lease without end",
        "lease of a minority",
        "no fence",
        "down after the lease",
        "down by one voter",
        "silences at different times",
        "failed means stopped",
        "unknown means refused",
        "votes for anybody",
        "proposed once",
        "unsettled nodes judged by the owner alone",
    }
)
"""They take longest, and others break the same rules."""

TRIED = tuple(mutation.name for mutation in MUTATIONS if mutation.name not in LEFT_TO_THE_SOAK)


@pytest.mark.parametrize("name", TRIED)
def test_a_mutation_is_caught_and_its_story_ends_well_without_it(name: str) -> None:
    caught = hunt(name)

    assert caught.seed, "the referee saw nothing"
    assert tell(named(name).plot(caught.seed)).rule == ""


def test_something_of_every_rule_is_tried() -> None:
    assert {named(name).breaks for name in TRIED} == {mutation.breaks for mutation in MUTATIONS}
    assert {named(name).name for name in LEFT_TO_THE_SOAK} == LEFT_TO_THE_SOAK

"""A few mutations that are caught at once; ``script/soak --mutations`` tries all of them.

Each story is told with the product as it is as well: a mutation whose story fails anyway would prove nothing.
"""

from __future__ import annotations

import pytest

from tests.simulation.mutations import hunt, named
from tests.simulation.story import tell

QUICK = (
    "no deadman",
    "down after the lease",
    "down after a moment",
    "down by one voter",
    "released too early",
    "failed means stopped",
    "asks before it is clean",
)


@pytest.mark.parametrize("name", QUICK)
def test_a_mutation_is_caught_and_its_story_ends_well_without_it(name: str) -> None:
    caught = hunt(name)

    assert caught.seed, "the referee saw nothing"
    assert tell(named(name).plot(caught.seed)).rule == ""

"""Random stories of load-balancing hosts: no promise is broken, and all of them end well."""

from __future__ import annotations

import pytest

from tests.simulation.balancing.story import Ending, draw, tell

SEEDS = range(60)


def expect_well(ending: Ending) -> None:
    """Fail with the story in words unless it ended well."""
    assert not ending.rule, "\n".join([f"seed {ending.plot.seed}: {ending.plot}", *ending.words])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_story_breaks_no_promise_and_ends_well(seed: int) -> None:
    """One taker, connections stay, service goes on, no traffic without quorum, and one map in the end."""
    expect_well(tell(draw(seed)))


def test_a_seed_tells_the_same_story() -> None:
    """Nothing but the seed decides."""
    one, two = tell(draw(7)), tell(draw(7))

    assert one == two
    assert one.frames > 100

"""Random stories of load-balancing hosts: no promise is broken, and all of them end well."""

from __future__ import annotations

import pytest

from tests.simulation.balancing.mutations import MUTATIONS, hunt, named
from tests.simulation.balancing.story import Ending, draw, tell

SEEDS = range(60)
TRIED = tuple(mutation.name for mutation in MUTATIONS if mutation.seeds_max <= 60)
"""Those that are caught at once; ``python -m tests.simulation.balancing --mutations`` tries all."""


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


@pytest.mark.parametrize("name", TRIED)
def test_a_mutation_is_caught_and_its_story_ends_well_without_it(name: str) -> None:
    """Whatever is taken away, the referee notices; the same story of the whole product ends well."""
    caught = hunt(named(name))

    assert caught is not None, "the referee saw nothing"
    expect_well(tell(caught.plot))


def test_the_seeds_draw_every_sort_of_segment() -> None:
    """Small and large maps, with a cluster and without, on good networks and on bad ones."""
    plots = [draw(seed) for seed in SEEDS]

    assert {plot.hosts for plot in plots} == {2, 3, 4, 5}
    assert {plot.buckets for plot in plots} == {60, 960}
    assert {plot.cluster for plot in plots} == {False, True}
    assert {plot.loss for plot in plots} == {0.0, 0.02, 0.1, 0.3}

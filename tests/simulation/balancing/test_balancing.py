"""Random stories of load-balancing hosts: no promise is broken, and all of them end well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.nlb.messages import HostsOnline, NodesUp
from tests.simulation.balancing.mutations import MUTATIONS, hunt, named
from tests.simulation.balancing.story import Ending, Story, draw, tell

SEEDS = range(60)
DEAF_SEEDS = range(10)
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


@pytest.mark.parametrize("seed", DEAF_SEEDS)
def test_a_deaf_host_lets_the_others_serve_all(seed: int) -> None:
    """On any segment: while one host hears nobody, the others have all buckets; when it hears, one map follows."""
    story = Story(replace(draw(seed), cluster=True))
    segment, period_us = story.segment, story.plot.period_ms * 1_000
    everybody = frozenset(story.hosts)
    for host in story.hosts.values():
        segment.tell(segment.add(host, story.cluster_parameters()), NodesUp(hosts=everybody))
    segment.run(30 * period_us)
    for station in segment.stations.values():
        segment.tell(station, HostsOnline(hosts=everybody))
    deaf = story.random.choice(sorted(everybody))
    for other in everybody - {deaf}:
        segment.cut(other, deaf, both_ways=False)
    segment.run(segment.now_us + 20 * period_us)

    for bucket in range(story.plot.buckets):
        takers = [station.host.host for station in segment.takers(80, bucket)]
        assert len(takers) == 1 and takers[0] != deaf, (bucket, takers)
    segment.mend()
    segment.run(segment.now_us + 20 * period_us)
    assert not story.referee.unsettled()
    assert segment.stations[deaf].filtering(segment.now_us) is not None


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

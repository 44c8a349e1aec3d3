"""About a minute of random stories, and that a seed always tells the same one.

``script/soak`` tells ten thousand; ``python -m tests.simulation --seed N`` tells one of them in words.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clussvc.model.settings import WAN
from tests.simulation.faults import DISK_KINDS, KINDS, WITNESS_KINDS, Step
from tests.simulation.shrink import shrink
from tests.simulation.story import FENCED_FROM, PARALLEL_FROM, TIE_BREAKERS, Ending, draw_plot, tell
from tests.simulation.world import World

REPOSITORY = Path(__file__).resolve().parents[2]
SEEDS = range(60)
DISK_SEEDS = range(12)
TIE_BREAKER_SEEDS = range(6)
TIE_BREAKER_LESSONS = (
    # A node that was away did not know the coordinator, which had heard it in an earlier life.
    (1051, "dynamic"),
    # A node that wanted to join waited for one that had come back, and the other way round.
    (1098, "witness-dynamic"),
    (1104, "witness-dynamic"),
)
FENCED_SEEDS = range(FENCED_FROM + 1, FENCED_FROM + 11)
PARALLEL_SEEDS = range(PARALLEL_FROM + 1, PARALLEL_FROM + 13)
LESSONS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if not line.startswith("#")
]


def expect_well(ending: Ending) -> None:
    """Fail with the story in words unless it ended well."""
    assert not ending.rule, "\n".join([f"{ending.rule}: {ending.what}", *ending.words])


@pytest.mark.parametrize("seed", sorted({*SEEDS, *LESSONS, *FENCED_SEEDS, *PARALLEL_SEEDS}))
def test_a_random_story_breaks_no_promise_and_ends_well(seed: int) -> None:
    expect_well(tell(draw_plot(seed)))


@pytest.mark.parametrize("log", ["disk-reservations", "disk-leases"])
@pytest.mark.parametrize("seed", DISK_SEEDS)
def test_a_random_story_with_a_quorum_disk_ends_well(seed: int, log: str) -> None:
    expect_well(tell(draw_plot(seed, log=log)))


@pytest.mark.parametrize(
    ("seed", "log"),
    [*TIE_BREAKER_LESSONS, *((seed, log) for log in sorted(TIE_BREAKERS) for seed in TIE_BREAKER_SEEDS)],
)
def test_a_random_story_with_a_tie_breaker_ends_well(seed: int, log: str) -> None:
    expect_well(tell(draw_plot(seed, log=log)))


def test_sixty_four_nodes_lose_one_and_go_on() -> None:
    """The largest cluster, with the ordered-log model and slow timings: every node talks to every other one."""
    with World(nodes=64, log="ordered", timing=WAN) as world:
        world.start()
        world.run_until(lambda: len(world.members()) == 64)
        group = world.make_group("big", {"a": [], "b": ["a"]}, on="n9")
        world.run_until(lambda: world.online_on(group) is not None)
        owner = world.online_on(group)
        assert owner is not None
        world.crash(owner)
        world.run_until(lambda: world.online_on(group) not in (None, owner))


@pytest.mark.parametrize("nodes", range(1, 10))
def test_every_size_has_the_real_log(nodes: int) -> None:
    plot = draw_plot(100 + nodes, nodes=nodes, log="raft")
    expect_well(tell(replace(plot, steps=plot.steps[:5], groups=(2,))))


def test_the_seeds_draw_every_fault_there_is() -> None:
    drawn = {step.kind for seed in range(300) for step in draw_plot(seed).steps}

    assert drawn == set(KINDS)
    drawn = {step.kind for seed in range(40) for step in draw_plot(seed, log="disk-leases").steps}
    assert drawn >= set(DISK_KINDS)
    drawn = {step.kind for seed in range(40) for step in draw_plot(seed, log="witness").steps}
    assert drawn >= set(WITNESS_KINDS)


def test_a_seed_tells_the_same_story_in_every_process() -> None:
    """Twice, with another hash of texts: nothing may depend on the order of a set."""
    hashes = set()
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "31"],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        hashes.add(told.stdout.splitlines()[-1])

    assert len(hashes) == 1
    assert len(hashes.pop()) == 32


def test_a_failing_story_is_told_in_words_and_made_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a product that never gives up its resources; the one step that matters is found."""
    monkeypatch.setattr("clussvc.node.NodeCore._check_lease", lambda core, at_ms: None)
    monkeypatch.setattr("clussvc.node.NodeCore._check_deadmen", lambda core: None)
    monkeypatch.setattr("tests.simulation.monitors.SimMonitor._fire", lambda monitor, until_ms: None)
    plot = draw_plot(3, nodes=3, log="ordered")
    cut = Step(at_ms=3_000, kind="isolation", picks=(0.5, 0.2, 0.3, 0.4), for_ms=4_000)
    idle = [Step(at_ms=at_ms, kind="drift", picks=(0.1, 0.5, 0.3, 0.4), for_ms=10) for at_ms in (1_000, 2_000, 9_000)]
    ending = tell(replace(plot, steps=(*idle[:2], cut, idle[2]), groups=(2, 2, 2)))

    assert ending.rule in ("R2", "one owner", "R1")
    assert any("isolation" in line for line in ending.words)
    assert [step.kind for step in shrink(ending).plot.steps] == ["isolation"]

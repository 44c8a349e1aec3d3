"""Random weather over a whole cluster: each seed is another storm; all checkers of the world run after every step."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from clussvc.global_update.raft.replicator import Outcome, OutcomeKind, RaftSettings
from tests.adapters.raft.conftest import MakeWorld
from tests.adapters.raft.world import World

SMALL_LOG = RaftSettings(election_timeout_ms=300, heartbeat_ms=60, compaction_entries=25)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_acknowledged_is_lost_in_a_storm(make_world: MakeWorld, seed: int) -> None:
    """Loss, duplication, reordering, cuts, crashes with torn writes, failing disks, and snapshots all the time."""
    world = make_world(5 if seed % 4 == 3 else 3, seed=seed, settings=SMALL_LOG)
    storm(world, random.Random(seed), seconds=10.0)
    world.converge()
    kinds = [outcome.kind for outcome in world.outcomes.values()]
    assert kinds.count(OutcomeKind.COMMITTED) > 25, "the storm left nothing to lose"


def storm(world: World, rng: random.Random, *, seconds: float) -> None:
    """Do damage and propose commands for a while."""
    world.network.fifo = rng.random() < 0.5
    world.network.loss = rng.choice([0.0, 0.02, 0.1])
    world.network.duplication = rng.choice([0.0, 0.02, 0.1])
    world.network.late = rng.choice([0.0, 0.01])
    world.network.delay_s = (0.0005, rng.choice([0.002, 0.02]))
    end, number = world.now_s + seconds, 0
    while world.now_s < end:
        for _ in range(rng.randrange(8)):
            number += 1
            up = [node_id for node_id, _ in world.up()]
            if up:
                world.propose(rng.choice(up), b"command %d" % number, timeout_s=rng.uniform(0.1, 3.0))
        damage(world, rng)
        world.run(rng.uniform(0.0, 0.1))


def damage(world: World, rng: random.Random) -> None:
    """At most one misfortune or repair."""
    nodes = sorted(world.founders)
    up = [node_id for node_id, _ in world.up()]
    dice = rng.random()
    if dice < 0.03 and up:
        world.crash(rng.choice(up))
    elif dice < 0.04:
        for node_id in up:
            world.crash(node_id)
    elif dice < 0.06 and up:
        world.machines[rng.choice(up)].disk.operations_left = rng.randrange(30)
    elif dice < 0.20:
        for node_id in nodes:
            if world.machines[node_id].node is None and rng.random() < 0.7:
                world.boot(node_id)
    elif dice < 0.24:
        world.isolate(rng.choice(nodes))
    elif dice < 0.27:
        a, b = rng.sample(nodes, 2)
        world.network.cut.add((a, b))
    elif dice < 0.34:
        world.heal()


@pytest.mark.parametrize("seed", range(8))
def test_members_change_in_a_storm(make_world: MakeWorld, seed: int) -> None:
    """Nodes join and are removed while links fail and machines crash; each new one has a new number."""
    world = make_world(3, seed=seed, settings=SMALL_LOG)
    rng = random.Random(seed)
    changes: Counter[OutcomeKind] = Counter()
    newest = 3
    for turn in range(40):
        leader = world.holder()
        if leader is not None:
            if len(world.node(leader).members) < 4 and len(world.machines) < 7:
                newest += 1
                world.boot(newest, world.node(leader).members | {newest}, joining=True)
                world.node(leader).add_member(newest, lambda outcome: changes.update([outcome.kind]))
            else:
                remove_one(world, rng, leader, changes)
        for number in range(rng.randrange(12)):
            up = [node_id for node_id, _ in world.up()]
            if up:
                world.propose(rng.choice(up), b"turn %d command %d" % (turn, number), timeout_s=rng.uniform(0.1, 2.0))
        world.run(rng.uniform(0.0, 0.3))
        disturb(world, rng)
        world.run(rng.uniform(0.0, 0.3))
    world.converge()
    assert changes[OutcomeKind.COMMITTED] >= 5
    assert len(world.acknowledged) > 40


def remove_one(world: World, rng: random.Random, leader: int, changes: Counter[OutcomeKind]) -> None:
    """Ask for the removal of a member; the machine is scrapped once that is certain."""
    gone = rng.choice(sorted(world.node(leader).members - {leader}))

    def done(outcome: Outcome) -> None:
        changes[outcome.kind] += 1
        if outcome.kind is OutcomeKind.COMMITTED:
            world.scrap.add(gone)

    world.node(leader).remove_member(gone, done)


def disturb(world: World, rng: random.Random) -> None:
    """Crash or cut one, and repair most of the time."""
    for node_id in sorted(world.scrap & set(world.machines)):
        if world.machines[node_id].node is not None:
            world.crash(node_id)
        del world.machines[node_id]
    up = [node_id for node_id, _ in world.up()]
    dice = rng.random()
    if dice < 0.15 and up:
        world.crash(rng.choice(up))
    elif dice < 0.3 and up:
        world.isolate(rng.choice(up))
    elif dice < 0.7:
        world.heal()
        for node_id, machine in world.machines.items():
            if machine.node is None:
                world.boot(node_id)

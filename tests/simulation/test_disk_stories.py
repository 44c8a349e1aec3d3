"""Stories of clusters with a quorum disk, in both its kinds: who goes on, who lets go, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clussvc.global_update.update import CreateGroup, EvictNode
from clussvc.model.ids import GroupId
from clussvc.model.settings import LAN
from tests.simulation.shared_disk import SharedDisk
from tests.simulation.switching_log import SwitchingLog
from tests.simulation.world import World

KINDS = ("disk-reservations", "disk-leases")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def two(kind: str) -> Iterator[World]:
    with World(nodes=2, seed=5, log=kind) as world:
        world.form()
        yield world


def disk_of(world: World) -> SharedDisk:
    assert isinstance(world.log, SwitchingLog) and world.log.disk is not None
    return world.log.disk


def owner_and_other(world: World) -> tuple[str, str]:
    """Who owns the disk, and one of the others."""
    leader = world.leader
    assert leader is not None
    other = next(machine for machine in world.nodes.values() if machine.id != leader)
    return world.nodes[leader].name, other.name


def create(world: World, name: str, *, on: str) -> None:
    """Something that is acknowledged."""
    assert world.do(CreateGroup(group=GroupId(f"g-{name}"), name=name), on=on) is None


def test_one_of_two_goes_on_alone_within_two_seconds(two: World) -> None:
    """Whoever dies, the owner of the disk or the other one; no rule is broken on the way, and nothing is lost."""
    for victim_owns in (True, False):
        two.settle()
        owner, other = owner_and_other(two)
        victim, left = (owner, other) if victim_owns else (other, owner)
        group = two.make_group(f"web-{victim_owns}", {"a": [], "b": ["a"]}, on=victim)
        two.run_until(lambda group=group, victim=victim: two.online_on(group) == victim)  # type: ignore[misc]
        create(two, f"kept-{victim_owns}", on=victim)
        two.crash(victim)
        crashed_ms = two.now_ms
        two.run_until(lambda group=group, left=left: two.online_on(group) == left)  # type: ignore[misc]
        assert two.now_ms - crashed_ms < 2_000
        assert two.config.group_named(f"kept-{victim_owns}") is not None
        two.start(victim)


def test_of_two_that_are_cut_apart_the_owner_of_the_disk_goes_on(two: World) -> None:
    owner, other = owner_and_other(two)
    group = two.make_group("web", {"a": []}, on=other)
    two.run_until(lambda: two.online_on(group) == other)
    two.partition({owner}, {other})
    two.run_until(lambda: two.online_on(group) == owner)
    assert two.members() == {owner}
    two.run_for(5_000)
    assert two.members() == {owner}
    two.heal()
    two.settle()


def test_the_better_connected_of_two_goes_on(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """MSCS 2003: an owner that reaches no clients gives way to a node that does; it has let go before."""
    owner, other = owner_and_other(two)
    group = two.make_group("web", {"a": []}, on=owner)
    two.run_until(lambda: two.online_on(group) == owner)
    alone = two.node(owner).id
    monkeypatch.setattr(
        "clussvc.node.NodeCore.client_networks_working", property(lambda core: int(core.view(0).node != alone))
    )
    two.run_for(500)
    two.partition({owner}, {other})
    two.run_until(lambda: two.online_on(group) == other)
    assert two.running_on(group) == {other}
    two.heal()
    two.settle()


def test_two_against_two_leaves_the_side_with_the_disk(kind: str) -> None:
    with World(nodes=4, seed=6, log=kind) as world:
        world.form()
        owner, _ = owner_and_other(world)
        rest = [machine.name for machine in world.nodes.values() if machine.name != owner]
        world.partition({owner, rest[0]}, {rest[1], rest[2]})
        world.run_until(lambda: world.members() == {owner, rest[0]})
        create(world, "later", on=rest[0])
        world.heal()
        world.settle()
        world.run_until(lambda: all(machine.config == world.config for machine in world.nodes.values()))


def test_an_owner_without_the_disk_is_followed_by_another(two: World) -> None:
    owner, other = owner_and_other(two)
    disk_of(two).cut_off.add(two.node(owner).id)
    two.run_until(lambda: two.leader == two.node(other).id)
    two.settle()
    create(two, "through the other one", on=owner)


def test_a_disk_that_everybody_loses_stops_everybody(two: World) -> None:
    """Nobody acts without it; when it is there again everybody comes back, and nothing is lost."""
    _, other = owner_and_other(two)
    group = two.make_group("web", {"a": []}, on=other)
    two.run_until(lambda: two.online_on(group) == other)
    create(two, "kept", on=other)
    disk_of(two).cut_off |= set(two.nodes)
    two.run_until(lambda: not two.members())
    two.run_for(3_000)
    assert two.running_on(group) == set()
    disk_of(two).make_good()
    two.settle()
    two.run_until(lambda: two.online_on(group) is not None)
    assert two.config.group_named("kept") is not None


@pytest.mark.parametrize("holds", [0.5, 3.0])
def test_a_disk_that_stands_still(two: World, holds: float) -> None:
    """For less than a hold nobody notices; for longer the owner lets go, and all come back."""
    owner, other = owner_and_other(two)
    until_us = two.scheduler.now_us + int(holds * 1.4 * LAN.lease_ms * 1000)
    disk_of(two).stalled_until_us = dict.fromkeys(two.nodes, until_us)
    short = holds < 1
    for _ in range(40):
        two.run_for(50)
        if short:
            assert two.members() == {owner, other}
    two.settle()
    assert short is all(node.incarnation == 1 for node in two.config.nodes.values())


def test_an_owner_that_stops_in_order_hands_the_disk_over(two: World) -> None:
    """The other node is a member all the time."""
    owner, other = owner_and_other(two)
    group = two.make_group("web", {"a": []}, on=owner)
    two.run_until(lambda: two.online_on(group) == owner)
    two.stop_service(owner)
    two.run_until(lambda: two.leader == two.node(other).id)
    two.run_until(lambda: two.online_on(group) == other)
    assert two.config.nodes[two.node(other).id].incarnation == 1


def test_a_node_that_has_lost_its_database_reads_the_disk(two: World) -> None:
    """It comes alone, with nothing of its own, and has everything."""
    owner, other = owner_and_other(two)
    create(two, "kept", on=other)
    two.crash(owner, other)
    two.node(other).stored = []
    two.start(other)
    two.run_until(lambda: two.members() == {other})
    core = two.node(other).core
    assert core is not None and core.config is not None and core.config.group_named("kept") is not None


def test_a_third_node_joins_and_an_old_one_leaves(two: World) -> None:
    two.join_new_machine(lambda script, then: _run(two, script, then))
    two.run_until(lambda: len(two.members()) == 3)


def _run(world: World, script: object, then: object) -> None:
    """Give the commands of a script one after the other."""
    assert hasattr(script, "send") and callable(then)
    answer = None
    try:
        while True:
            answer = world.do(script.send(answer))
    except StopIteration:
        then()


def test_an_evicted_node_gives_the_disk_back(kind: str) -> None:
    """It was away when it was evicted, and is the first to come back: it owns the disk before it reads in the log that
    it is no node any more. Nobody else could be admitted as long as it stayed the owner."""
    with World(nodes=3, seed=7, log=kind) as world:
        world.cleans_evicted = False
        world.form()
        owner, _ = owner_and_other(world)
        away = next(machine.name for machine in world.nodes.values() if machine.name != owner)
        others = [machine.name for machine in world.nodes.values() if machine.name != away]
        number = world.node(away).id
        world.crash(away)
        world.run_until(lambda: not world.config.nodes[number].up)
        assert world.do(EvictNode(node=number), on=owner) is None
        world.run_until(lambda: number in world.config.evicted)
        create(world, "kept", on=owner)
        world.crash(*others)
        world.start(away)
        world.run_until(lambda: world.leader == number, what="the evicted node owns the disk")
        world.run_until(lambda: world.leader is None, what="it gives the disk back")
        world.start(*others)
        world.run_until(lambda: world.members() == set(others))
        assert world.leader != number
        create(world, "also kept", on=others[0])

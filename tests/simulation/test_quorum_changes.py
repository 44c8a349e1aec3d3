"""Stories of clusters that change their quorum while groups are online."""

from __future__ import annotations

import pytest

from clussvc.global_update.update import CreateGroup, SetQuorum
from clussvc.model.ids import GroupId
from clussvc.model.quorum import Quorum
from tests.simulation.quorum_changes import LEASES, MAJORITY, RESERVATIONS, change
from tests.simulation.switching_log import SwitchingLog
from tests.simulation.world import World


def switching(world: World) -> SwitchingLog:
    assert isinstance(world.log, SwitchingLog)
    return world.log


def create(world: World, name: str, *, on: str) -> None:
    """Something that is acknowledged."""
    assert world.do(CreateGroup(group=GroupId(f"g-{name}"), name=name), on=on) is None


def incarnations(world: World) -> list[int]:
    return [node.incarnation for node in world.config.nodes.values()]


def everywhere(world: World, generation: int) -> bool:
    """Whether every service that runs has read of this quorum."""
    read = [m.core.config for m in world.nodes.values() if m.core is not None]
    return all(config is not None and config.quorum.generation == generation for config in read)


def settled(world: World) -> bool:
    return not any(node.unsettled for node in world.config.nodes.values())


@pytest.mark.parametrize("nodes", [1, 3, 4])
def test_a_log_that_begins_anew_changes_nothing_else(nodes: int) -> None:
    """For a node that has lost its part of the log: the same voters begin another one, and everything stays online."""
    with World(nodes=nodes, seed=nodes, log="raft") as world:
        world.form()
        group = world.make_group("web", {"a": [], "b": ["a"]}, on=f"n{nodes}")
        world.run_until(lambda: world.online_on(group) is not None)
        before = incarnations(world)
        for generation in (1, 2):
            config = world.config
            renewed = SetQuorum(quorum=Quorum(generation=generation), voters_version=config.voters_version, anew=True)
            assert world.do(renewed, on=f"n{nodes}") is None
            world.run_until(lambda generation=generation: everywhere(world, generation))  # type: ignore[misc]
            create(world, f"after-{generation}", on="n1")
            world.run_for(3_000)
            assert incarnations(world) == before
            assert world.config.groups[group].epoch == 1
            assert world.online_on(group) is not None


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_there_and_back_and_on_with_everything_online(nodes: int) -> None:
    """No node loses its incarnation, no group moves, and all nodes agree after each change."""
    with World(nodes=nodes, seed=nodes, log="raft") as world:
        world.form()
        group = world.make_group("web", {"a": [], "b": ["a"]}, on=f"n{nodes}")
        world.run_until(lambda: world.online_on(group) is not None)
        before = incarnations(world)
        changes = (RESERVATIONS, MAJORITY, LEASES, RESERVATIONS, LEASES, MAJORITY)
        for generation, kind in enumerate(changes, 1):
            assert change(world, kind, on=f"n{1 + generation % nodes}") is None
            world.run_until(lambda generation=generation: everywhere(world, generation))  # type: ignore[misc]
            create(world, f"after-{generation}", on=f"n{nodes}")
            world.run_until(lambda: settled(world))
            world.run_for(3_000)
            assert incarnations(world) == before
            assert world.config.groups[group].epoch == 1
            assert world.online_on(group) is not None
            assert world.config.timing == world.config.quorum.timing_of("lan")
        refused = change(world, MAJORITY)
        assert refused is not None and refused.code == "quorum-change-refused"
        world.run_until(lambda: all(machine.config == world.config for machine in world.nodes.values()))
        assert [disk.left for disk in switching(world).disks.values()] == [True] * 4

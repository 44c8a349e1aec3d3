"""Stories of clusters that change their quorum while groups are online."""

from __future__ import annotations

import pytest

from clussvc.global_update.update import CreateGroup, SetQuorum
from clussvc.model.ids import GroupId, NodeId
from clussvc.model.quorum import Quorum, QuorumKind
from tests.simulation.faults import QUORUM_KINDS
from tests.simulation.quorum_changes import LEASES, LOCAL, MAJORITY, RESERVATIONS, change, prepared, run_events
from tests.simulation.story import CHANGES_FROM, draw_plot, tell
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


def test_a_node_alone_changes_between_its_own_log_and_disks() -> None:
    """Local quorum, disk and back, and to a majority by a word; with two nodes a local quorum is refused."""
    with World(nodes=1, seed=1, log="raft") as world:
        world.form()
        group = world.make_group("web", {"a": [], "b": ["a"]}, on="n1")
        world.run_until(lambda: world.online_on(group) is not None)
        before = incarnations(world)
        assert world.do(SetQuorum(kind=QuorumKind.LOCAL), on="n1") is None
        kinds = {RESERVATIONS: QuorumKind.DISK, LEASES: QuorumKind.DISK, LOCAL: QuorumKind.LOCAL}
        for generation, kind in enumerate((RESERVATIONS, LOCAL, LEASES, RESERVATIONS, LOCAL), 1):
            assert change(world, kind, on="n1") is None
            world.run_until(lambda generation=generation: everywhere(world, generation))  # type: ignore[misc]
            create(world, f"after-{generation}", on="n1")
            world.run_for(3_000)
            assert world.config.quorum.kind is kinds[kind]
            assert incarnations(world) == before
            assert world.online_on(group) is not None
        assert world.do(SetQuorum(kind=QuorumKind.MAJORITY), on="n1") is None
    with World(nodes=2, seed=1, log="disk-leases") as world:
        world.form()
        refused = change(world, LOCAL, on="n1")
        assert refused is not None
        assert refused.code == "quorum-change-refused"


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


TRANSITIONS = {
    "majority to disk": (MAJORITY, LEASES),
    "disk to majority": (RESERVATIONS, MAJORITY),
    "disk to disk": (LEASES, RESERVATIONS),
}


def formed(seed: int, before: str, *, nodes: int = 3) -> World:
    """A cluster with that quorum, and a group on the last node."""
    log = {MAJORITY: "raft", RESERVATIONS: "disk-reservations", LEASES: "disk-leases"}[before]
    world = World(nodes=nodes, seed=seed, log=log)
    world.form()
    group = world.make_group("web", {"a": [], "b": ["a"]}, on=f"n{nodes}")
    world.run_until(lambda: world.online_on(group) is not None)
    return world


def come_together(world: World) -> None:
    """All machines run, and agree on one quorum and on everything else."""
    world.keep_running = True
    world.start()
    world.run_until(
        lambda: len({m.core.config.quorum.generation for m in world.nodes.values() if m.core and m.core.config}) == 1
    )
    world.run_until(lambda: world.members() == {machine.name for machine in world.nodes.values()})
    create(world, f"together-{world.now_ms}", on="n1")
    world.run_until(lambda: all(machine.config == world.config for machine in world.nodes.values()))
    world.run_until(lambda: settled(world))
    world.run_until(lambda: world.online_on(GroupId("g-web")) is not None)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("transition", TRANSITIONS)
@pytest.mark.parametrize("victim", ["who is asked", "who leads", "another one", "all"])
def test_a_loss_of_power_at_any_moment_of_a_change_leaves_one_quorum(transition: str, victim: str, seed: int) -> None:
    """Whoever it hits and whenever: those that are left go on, or wait for the others; together again all have the same
    quorum, the one from before or the new one, and everything that was acknowledged."""
    before, after = TRANSITIONS[transition]
    with formed(seed, before) as world:
        create(world, "before", on="n2")
        leader = world.nodes[world.leader or NodeId(1)]
        others = [machine for machine in world.nodes.values() if machine is not leader]
        asked = others[0] if seed % 2 else leader
        request = world.command(prepared(world, after, asked.id), on=asked.name)
        run_events(world, world.random.randrange(1, 60 if seed < 2 else 400))
        hit = {
            "who is asked": [asked],
            "who leads": [leader],
            "another one": [others[1]],
            "all": list(world.nodes.values()),
        }
        for machine in hit[victim]:
            world.crash(machine.name)
        world.run_for(world.random.choice([100, 1_000, 6_000]))
        come_together(world)
        acknowledged = request in world.replies and world.replies[request] is None
        assert not acknowledged or world.config.quorum.generation == 1
        assert world.config.group_named("before") is not None


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_who_was_down_meanwhile_finds_the_quorum_with_the_others(transition: str) -> None:
    before, after = TRANSITIONS[transition]
    with formed(20, before) as world:
        world.crash("n3")
        world.run_until(lambda: not world.config.nodes[NodeId(3)].up)
        assert change(world, after, on=world.nodes[world.leader or NodeId(1)].name) is None
        world.run_until(lambda: everywhere(world, 1))
        for number in range(30):
            create(world, f"later-{number}", on="n2")
        come_together(world)
        assert world.config.quorum.generation == 1


@pytest.mark.parametrize("nodes", [2, 3])
def test_who_was_down_meanwhile_finds_the_next_disk_alone(nodes: int) -> None:
    """In the log on the disk that was left. The others are gone."""
    with formed(21, LEASES, nodes=nodes) as world:
        last = f"n{nodes}"
        world.crash(last)
        world.run_until(lambda: not world.config.nodes[NodeId(nodes)].up)
        assert change(world, RESERVATIONS) is None
        world.run_until(lambda: world.leader is not None and everywhere(world, 1))
        create(world, "on the next one", on="n1")
        world.crash(*(f"n{number}" for number in range(1, nodes)))
        world.start(last)
        world.run_until(lambda: world.members() == {last})
        core = world.node(last).core
        assert core is not None and core.config is not None
        assert core.config.quorum.generation == 1
        assert core.config.group_named("on the next one") is not None
        come_together(world)


def test_of_two_one_dies_when_their_majority_gives_way() -> None:
    """Its majority needed the other one, so it is down by that one's word alone; nobody needs to confirm it."""
    with formed(22, MAJORITY, nodes=2) as world:
        assert change(world, LEASES, on="n1") is None
        world.run_until(lambda: everywhere(world, 1))
        assert not settled(world)
        world.crash("n2")
        world.run_until(lambda: world.online_on(GroupId("g-web")) == "n1", limit_ms=5_000)
        assert not world.config.nodes[NodeId(2)].up
        come_together(world)


def test_a_node_that_the_others_hear_goes_on_by_their_majority() -> None:
    """Cut off from the owner of the new disk before its first grant, it acts by the leases of the others; the owner
    cannot declare it down."""
    with formed(23, MAJORITY, nodes=5) as world:
        owner = world.nodes[world.leader or NodeId(1)]
        victim = next(f"n{n}" for n in (5, 4) if f"n{n}" != owner.name)
        apart = [(world.node(victim).id, owner.id), (owner.id, world.node(victim).id)]
        request = world.command(prepared(world, RESERVATIONS, owner.id), on=owner.name)
        world.run_until(lambda: request in world.replies)
        world.network.cut |= set(apart)
        world.network_changed()
        before = incarnations(world)
        world.run_for(10_000)
        assert incarnations(world) == before
        assert victim in world.members()
        assert world.config.nodes[world.node(victim).id].unsettled
        assert change(world, MAJORITY, on=owner.name) is not None
        world.heal()
        come_together(world)
        assert incarnations(world) == before


def test_a_new_disk_that_nobody_reaches_stops_nothing() -> None:
    """Groups run on by the majority, and nothing can be changed; when the disk is there again the cluster goes on."""
    with formed(24, MAJORITY) as world:
        before = incarnations(world)
        update = prepared(world, LEASES, NodeId(1))
        disk = next(reversed(switching(world).disks.values()))
        disk.cut_off |= set(world.nodes)
        assert world.do(update, on="n1") is None
        world.run_for(20_000)
        assert world.members() == {"n1", "n2", "n3"}
        assert world.online_on(GroupId("g-web")) is not None
        disk.make_good()
        come_together(world)
        assert incarnations(world) == before


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_a_partition_in_the_middle_of_a_change(transition: str) -> None:
    """Of three, the leader is cut off as soon as it has told the log; then all come together."""
    before, after = TRANSITIONS[transition]
    for seed in range(3):
        with formed(30 + seed, before) as world:
            leader = world.nodes[world.leader or NodeId(1)]
            rest = {machine.name for machine in world.nodes.values()} - {leader.name}
            world.command(prepared(world, after, leader.id), on=leader.name)
            run_events(world, world.random.randrange(1, 80))
            world.partition({leader.name}, rest)
            world.run_for(5_000)
            world.heal()
            come_together(world)


def test_a_change_to_a_majority_is_refused_when_it_would_take_the_quorum() -> None:
    """With the names of those that are missing."""
    with formed(40, LEASES) as world:
        owner = world.nodes[world.leader or NodeId(1)]
        rest = [machine.name for machine in world.nodes.values() if machine is not owner]
        world.crash(*rest)
        world.run_for(500)
        refused = change(world, MAJORITY, on=owner.name)
        assert refused is not None and "nothing is heard of" in refused.message
        world.run_until(lambda: sum(node.up for node in world.config.nodes.values()) == 1)
        refused = change(world, MAJORITY, on=owner.name)
        assert refused is not None and all(name in refused.message for name in rest)
        world.start()
        world.settle()
        world.network.cut |= {(world.node(rest[0]).id, world.node(rest[1]).id)}
        world.network_changed()
        world.run_for(1_000)
        refused = change(world, MAJORITY, on=owner.name)
        assert refused is not None and "does not hear" in refused.message


SEEDS = range(CHANGES_FROM + 1, CHANGES_FROM + 13)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_story_with_changes_of_the_quorum_ends_well(seed: int) -> None:
    ending = tell(draw_plot(seed))
    assert not ending.rule, "\n".join([f"{ending.rule}: {ending.what}", *ending.words])


def test_the_seeds_draw_changes_of_the_quorum() -> None:
    drawn = {step.kind for seed in SEEDS for step in draw_plot(seed).steps}
    assert drawn >= set(QUORUM_KINDS)

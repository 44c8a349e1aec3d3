"""Stories of clusters with a file share witness, and with dynamic votes: who goes on, who stops, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clussvc.global_update.update import CreateGroup, SetClusterProperties, SetWitness
from clussvc.model.ids import GroupId, NodeId
from clussvc.model.quorum import QuorumKind
from clussvc.quorum.majority import losses_survived
from tests.simulation.world import World

SEEDS = range(4)


@pytest.fixture(params=SEEDS)
def two(request: pytest.FixtureRequest) -> Iterator[World]:
    """Two nodes and a witness that may break a tie."""
    with World(nodes=2, seed=request.param, log="raft") as world:
        world.form()
        world.choose_witness()
        yield world


@pytest.fixture(params=SEEDS)
def four(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(nodes=4, seed=request.param, log="raft") as world:
        world.form()
        world.choose_witness()
        yield world


def leader_and_others(world: World) -> tuple[str, list[str]]:
    world.run_until(lambda: world.leader is not None)
    leader = world.leader
    assert leader is not None
    return f"n{leader}", [machine.name for machine in world.nodes.values() if machine.id != leader]


def group_on(world: World, name: str, node: str) -> GroupId:
    group = world.make_group(name, {"a": [], "b": ["a"]}, on=node)
    world.run_until(lambda: world.online_on(group) == node)
    return group


def create(world: World, name: str, *, on: str) -> None:
    """Something that is acknowledged."""
    assert world.do(CreateGroup(group=GroupId(f"g-{name}"), name=name), on=on) is None


def be_whole_again(world: World) -> None:
    world.heal()
    world.witness.make_good()
    world.start()
    world.settle()
    world.run_until(lambda: world.config.voters == frozenset(world.nodes) and world.config.witness_open)


@pytest.mark.parametrize("victim_leads", [True, False])
def test_of_two_either_may_die(two: World, victim_leads: bool) -> None:
    """The other one never stops what it runs, takes over the rest, and everything is covered again afterwards."""
    leader, others = leader_and_others(two)
    victim, left = (leader, others[0]) if victim_leads else (others[0], leader)
    lost, kept = group_on(two, "lost", victim), group_on(two, "kept", left)
    epoch = two.config.groups[kept].epoch
    two.crash(victim)
    two.run_until(lambda: two.online_on(lost) == left, limit_ms=4_000)

    assert two.config.groups[kept].epoch == epoch
    assert two.online_on(kept) == left
    create(two, "alone", on=left)
    be_whole_again(two)
    create(two, "again", on=victim)


def test_a_cut_between_two_is_decided_for_one_of_them(two: World) -> None:
    """Both reach the share; exactly one goes on, and the other one has let go before (the referee sees to that)."""
    group = group_on(two, "sql", "n1")
    two.partition({"n1"}, {"n2"})
    two.run_until(lambda: len(two.members()) == 1 and len(two.config.voters) == 1, limit_ms=5_000)
    left = next(iter(two.members()))
    two.run_until(lambda: two.online_on(group) == left, limit_ms=5_000)
    two.run_for(5_000)

    assert two.members() == {left}
    be_whole_again(two)


def test_who_was_dropped_cannot_go_on_when_the_other_one_is_lost_as_well(two: World) -> None:
    """It may lack what was acknowledged meanwhile; only the other one brings the cluster back."""
    leader, (other,) = leader_and_others(two)
    two.crash(other)
    two.run_until(lambda: len(two.config.voters) == 1)
    create(two, "meanwhile", on=leader)
    two.crash(leader)
    two.start(other)
    two.run_for(15_000)
    assert two.members() == set()

    two.start(leader)
    two.settle()
    assert two.config.group_named("meanwhile") is not None


def test_a_lost_witness_costs_nothing_as_long_as_both_are_there(two: World) -> None:
    """Then a node is lost as well: nobody can decide, so nothing runs, until the share is back."""
    group = group_on(two, "sql", "n1")
    epoch = two.config.groups[group].epoch
    two.witness.cut_off |= set(two.nodes)
    two.run_for(5_000)
    assert (two.online_on(group), two.config.groups[group].epoch) == ("n1", epoch)

    two.crash("n2")
    two.run_until(lambda: not two.members(), limit_ms=3_000)
    two.run_for(5_000)
    assert two.running_on(group) == set()
    two.witness.make_good()
    two.run_until(lambda: two.online_on(group) == "n1", limit_ms=10_000)


def test_the_share_is_reached_by_the_other_half_alone(two: World) -> None:
    """The one with the leader cannot reach it, so the other one goes on."""
    leader, (other,) = leader_and_others(two)
    two.witness.cut_off.add(two.node(leader).id)
    two.partition({leader}, {other})
    two.run_until(lambda: two.members() == {other} and len(two.config.voters) == 1, limit_ms=10_000)
    be_whole_again(two)


def test_an_answer_that_comes_late_is_no_wrong_one(two: World) -> None:
    """The share stands still for longer than a lease: everything stops, and goes on when it answers."""
    group = group_on(two, "sql", "n1")
    for node in two.nodes:
        two.witness.stalled_until_us[node] = two.scheduler.now_us + 4_000_000
    two.partition({"n1"}, {"n2"})
    two.run_until(lambda: not two.members(), limit_ms=3_000)
    two.run_until(lambda: len(two.members()) == 1, limit_ms=10_000)
    be_whole_again(two)
    two.run_until(lambda: two.online_on(group) is not None)


def test_a_node_that_starts_alone_waits_for_the_other_one_and_then_goes_on(two: World) -> None:
    """Both were off; one comes back. It asks the witness when the others had the time to appear."""
    for number in range(4):
        # A machine that loses its power may forget the newest entries until it is led again.
        create(two, f"before-{number}", on="n1")
    two.crash("n1", "n2")
    asked = two.witness.asked
    two.start("n1")
    two.run_for(2_500)
    assert two.witness.asked == asked
    two.run_until(lambda: two.members() == {"n1"}, limit_ms=10_000)
    create(two, "alone", on="n1")
    be_whole_again(two)


def test_the_witness_is_asked_only_when_half_is_lost(two: World) -> None:
    asked = two.witness.asked
    for number in range(20):
        create(two, f"busy-{number}", on="n1")
    two.run_for(10_000)

    assert two.witness.asked == asked


def test_two_against_two(four: World) -> None:
    """One half goes on with a majority of the three votes that are left; then a third node is lost, and it stops."""
    leader, others = leader_and_others(four)
    half = {leader, others[0]}
    group = group_on(four, "sql", others[1])
    four.partition(half, set(others[1:]))
    four.run_until(lambda: len(four.config.voters) == 3 and len(four.members()) == 2, limit_ms=5_000)
    left = four.members()
    assert left in (half, set(others[1:]))
    four.run_until(lambda: four.online_on(group) in left, limit_ms=5_000)
    create(four, "by-half", on=min(left))
    four.crash(max(left))
    four.run_until(lambda: not four.members(), limit_ms=5_000)
    be_whole_again(four)
    assert four.config.group_named("by-half") is not None


def test_a_witness_is_removed_and_another_one_chosen(four: World) -> None:
    assert four.do(SetWitness(path="", token="")) is None
    four.run_for(3_000)
    assert not four.config.witness.chosen
    assert four.do(SetWitness(path="/other", token="1" * 16)) is None
    four.run_until(lambda: four.config.witness_open)
    four.partition({"n1", "n2"}, {"n3", "n4"})
    four.run_until(lambda: len(four.config.voters) == 3 and len(four.members()) == 2, limit_ms=5_000)
    be_whole_again(four)


@pytest.mark.parametrize("nodes", range(1, 10))
def test_a_majority_node_set_survives_the_loss_of_any_minority_and_no_more(nodes: int) -> None:
    """From one voter to nine, even numbers among them: half is not enough without a tie-breaker."""
    with World(nodes=nodes, seed=nodes, log="raft") as world:
        world.form()
        assert world.config.quorum.kind is QuorumKind.MAJORITY
        create(world, "first", on="n1")
        order = [f"n{number}" for number in range(nodes, 0, -1)]
        spared = losses_survived(nodes)
        if spared:
            world.crash(*order[:spared])
            world.run_until(lambda: world.members() == set(order[spared:]), limit_ms=20_000)
            create(world, "by-the-rest", on="n1")
        if nodes > 1:
            world.crash(order[spared])
            world.run_until(lambda: not world.members(), limit_ms=20_000)
        world.start()
        world.settle()
        create(world, "last", on="n1")


@pytest.mark.parametrize("nodes", [2, 4, 6])
def test_an_even_number_with_a_witness_survives_the_loss_of_half(nodes: int) -> None:
    with World(nodes=nodes, seed=nodes, log="raft") as world:
        world.form()
        world.choose_witness()
        world.crash(*(f"n{number}" for number in range(nodes, nodes // 2, -1)))
        world.run_until(lambda: len(world.config.voters) == nodes - 1, limit_ms=10_000)
        create(world, "by-half", on="n1")
        be_whole_again(world)


# --- dynamic votes -----------------------------------------------------------------------------------------------


@pytest.fixture(params=range(2))
def five(request: pytest.FixtureRequest) -> Iterator[World]:
    """Five nodes with dynamic votes."""
    with World(nodes=5, seed=request.param, log="raft") as world:
        world.form()
        assert world.do(SetClusterProperties(common={"DynamicVotes": 1})) is None
        yield world


def voting(world: World) -> set[str]:
    return {f"n{node}" for node in world.config.voters}


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_five_shrink_to_the_last_one(five: World, how: str) -> None:
    """One after the other leaves, in order or not, each when the votes have followed the one before it."""
    group = five.make_group("sql", {"a": [], "b": ["a"]})
    create(five, "kept", on="n1")
    up = {machine.name for machine in five.nodes.values()}
    while len(up) > 1:
        # Of the last two the one with the vote goes on if the other is lost; if it stops itself it hands the vote on.
        leaves = min(up) if how == "stop" else max(up - voting(five) or up)
        if how == "stop":
            five.stop_service(leaves)
            five.run_until(lambda leaves=leaves: not five.node(leaves).alive)  # type: ignore[misc]
        else:
            five.crash(leaves)
        up.discard(leaves)
        wanted = len(up) if len(up) % 2 else len(up) - 1
        five.run_until(
            lambda up=up, wanted=wanted: voting(five) <= up and len(voting(five)) == wanted,  # type: ignore[misc]
            what=f"{wanted} votes",
        )
        five.run_for(1_500)
        create(five, f"with-{len(up)}", on=min(up))
    (last,) = up
    five.run_until(lambda: five.online_on(group) == last)
    assert five.members() == {last}

    five.start()
    five.settle()
    five.run_until(lambda: voting(five) == {f"n{number}" for number in range(1, 6)})
    assert {f"with-{count}" for count in range(1, 5)} <= {each.name for each in five.config.groups.values()}


def test_of_the_last_two_the_one_without_a_vote_stops_with_the_other(five: World) -> None:
    """This is what dynamic votes without a witness cannot spare."""
    for leaves in ("n5", "n4", "n3"):
        five.crash(leaves)
        five.run_for(4_000)
    assert voting(five) == {"n1"}
    five.crash("n1")
    five.run_for(5_000)
    assert five.members() == set()
    five.start("n1")
    five.run_until(lambda: five.members() == {"n1", "n2"})


def test_with_a_witness_the_last_two_may_lose_either(five: World) -> None:
    assert five.do(SetWitness(path="/witness", token="0" * 16)) is None
    for leaves in ("n5", "n4", "n3"):
        five.crash(leaves)
        five.run_for(4_000)
    five.run_until(lambda: voting(five) == {"n1", "n2"} and five.config.witness_open)
    five.crash("n1")
    five.run_until(lambda: voting(five) == {"n2"} and five.members() == {"n2"}, limit_ms=5_000)
    create(five, "alone", on="n2")
    five.start()
    five.settle()
    five.run_until(lambda: len(voting(five)) == 5)
    assert five.config.nodes[NodeId(1)].voter

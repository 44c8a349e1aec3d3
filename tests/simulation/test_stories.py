"""The promises as short stories, told with real NodeCores on a virtual clock.

Each story runs with several seeds: the order of messages, the phase of every timer and the time that starting and
stopping takes come from the seed.
"""

from __future__ import annotations

import pytest

from clussvc.global_update.update import (
    ConfirmNodeDown,
    CreateResource,
    DeleteResource,
    EvictNode,
    MoveGroup,
    MoveResource,
    OfflineGroup,
    OnlineGroup,
    OnlineResource,
    PauseNode,
    SetGroupProperties,
    SetNetworkProperties,
    SetPreferredOwners,
    SetResourceProperties,
    StopNode,
)
from clussvc.membership.connectivity import interface_states
from clussvc.model.ids import GroupId, NetworkId, NodeId, ResourceId
from clussvc.model.settings import WAN
from clussvc.model.states import MoveCause, NodePhase, NodeState, ResourceState
from tests.simulation.administrator import create_fence_device, require_fencing
from tests.simulation.world import Agent, World, new_resource

SEEDS = range(12)


@pytest.fixture(params=SEEDS)
def world(request: pytest.FixtureRequest) -> World:
    """Three nodes that have just become members."""
    world = World(nodes=3, seed=request.param)
    world.start()
    world.settle()
    world.run_until(lambda: len(world.config.voters) == 3)
    return world


def sql(world: World, *, on: str = "n1") -> GroupId:
    """A group with a disk, an address, and an application that needs both; online on a node."""
    group = world.make_group("sql", {"disk": [], "ip": [], "app": ["disk", "ip"]}, on=on)
    world.run_until(lambda: world.online_on(group) is not None)
    if world.online_on(group) != on:
        move = MoveGroup(group=group, to=world.node(on).id, cause=MoveCause.ADMIN, because="for the story")
        assert world.do(move) is None
        world.run_until(lambda: world.online_on(group) == on)
    return group


def test_a_cluster_forms_and_brings_a_group_online_in_order(world: World) -> None:
    """The application starts after the disk and the address, which start together."""
    group = sql(world)
    states = [world.config.resources[ResourceId(f"sql-{name}")].state for name in ("disk", "ip", "app")]

    assert states == [ResourceState.ONLINE] * 3
    assert world.running_on(group) == {"n1"}


def test_the_group_of_a_dead_node_comes_back_elsewhere(world: World) -> None:
    """A node loses power; a majority notices after lease and release budget, and another node takes its group."""
    group = sql(world)
    world.crash("n1")
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=5_000)

    assert world.config.nodes[NodeId(1)].state is NodeState.DOWN
    assert "n1" in world.config.groups[group].placed_because


def test_an_isolated_owner_yields_before_the_others_take_over(world: World) -> None:
    """The checkers would see an overlap; the isolated node has released by the time the majority acts."""
    group = sql(world)
    world.partition({"n1"}, {"n2", "n3"})
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=5_000)

    core = world.node("n1").core
    assert core is not None
    assert core.phase in (NodePhase.RELEASING, NodePhase.ASKING)
    world.heal()
    world.settle(limit_ms=10_000)
    assert world.running_on(group) <= {"n2", "n3"}


def test_nothing_runs_without_a_majority(world: World) -> None:
    """Three nodes, each alone: all of them release, and nobody takes anything."""
    group = sql(world)
    world.partition({"n1"}, {"n2"}, {"n3"})
    world.run_for(5_000)
    assert world.running_on(group) == set()

    world.heal()
    world.run_until(lambda: world.online_on(group) is not None, limit_ms=20_000)


def test_a_short_interruption_moves_nothing(world: World) -> None:
    """Less than a lease: nobody notices."""
    group = sql(world)
    epoch = world.config.groups[group].epoch
    world.partition({"n1"}, {"n2", "n3"})
    world.run_for(150)
    world.heal()
    world.run_for(3_000)

    assert world.online_on(group) == "n1"
    assert world.config.groups[group].epoch == epoch


def test_an_interruption_longer_than_the_lease_ends_the_incarnation(world: World) -> None:
    """The node released; it is admitted anew and its group comes back, here or elsewhere, under a higher epoch."""
    group = sql(world)
    before = world.config.groups[group].epoch
    world.partition({"n1"}, {"n2", "n3"})
    world.run_for(700)
    world.heal()
    world.run_until(lambda: world.online_on(group) is not None and world.members() == {"n1", "n2", "n3"})

    assert world.config.groups[group].epoch > before


def test_one_cut_link_of_three_moves_nothing(world: World) -> None:
    """Both ends still hear the third node, so both keep their majority."""
    group = sql(world)
    leader = f"n{world.leader}"
    others = [name for name in ("n1", "n2", "n3") if name != leader]
    world.partition({others[0]}, {others[1]})
    world.run_for(10_000)

    assert world.online_on(group) == "n1"


def test_a_frozen_service_is_ended_by_its_deadman(world: World) -> None:
    """The service is stopped; its monitor terminates at the end of the lease, before the others take over."""
    group = sql(world)
    world.freeze("n1")
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=5_000)
    world.thaw("n1")
    world.settle(limit_ms=10_000)

    assert len(world.running_on(group)) == 1


def test_a_crashed_service_leaves_its_monitor_to_the_deadman(world: World) -> None:
    """Only the service process dies; nothing overlaps, and the service can come back."""
    group = sql(world)
    world.crash_service("n1")
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=5_000)
    world.start("n1")
    world.settle(limit_ms=10_000)


def test_the_monitors_of_a_crashed_service_say_when_they_have_let_go(world: World) -> None:
    """Then nobody waits for the silence of the node; and it can come back."""
    name = next(machine.name for machine in world.nodes.values() if machine.id != world.leader)
    group = sql(world, on=name)
    begin_ms = world.now_ms
    world.crash_service(name, noticed=True)
    world.run_until(lambda: world.online_on(group) not in {name, None}, limit_ms=5_000)

    assert world.now_ms - begin_ms < world.timing.silence_ms()
    assert "monitors have terminated everything" in world.config.nodes[world.node(name).id].down_because
    world.start(name)
    world.settle(limit_ms=10_000)


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_waits_for_a_leader_whose_monitors_have_let_go(seed: int) -> None:
    """The election begins at once, and not when the leader has been silent for long enough."""
    with World(nodes=3, seed=seed, log="raft") as world:
        world.form()
        leader = f"n{world.leader}"
        group = sql(world, on=leader)
        world.run_for(300)
        begin_ms = world.now_ms
        world.crash_service(leader, noticed=True)
        world.run_until(lambda: world.online_on(group) not in {leader, None}, limit_ms=5_000)

        assert world.now_ms - begin_ms < world.timing.raft_election_ms


def test_a_will_waits_for_the_last_monitor(world: World) -> None:
    """One of two monitors is stopped by a signal: what runs in it is not released until it goes on."""
    group = sql(world)
    separate = new_resource("sql", "alone", group, separate=True)
    assert world.do(separate) is None
    assert world.do(OnlineResource(resource=separate.resource)) is None
    world.run_until(lambda: world.online_on(group) == "n1")
    monitor = world.node("n1").monitors[str(separate.resource)]
    monitor.freeze()
    world.crash_service("n1", noticed=True)
    world.run_for(200)
    assert set(world.node("n1").running) == {separate.resource}
    assert "wills" not in world.referee.counts

    monitor.thaw()
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=5_000)
    assert world.referee.counts["wills"] == 1


def test_a_will_that_nobody_hears_costs_only_time(world: World) -> None:
    """The node is cut off and its service dies: the others wait for its silence. The will is not repeated for ever."""
    group = sql(world)
    world.partition({"n1"}, {"n2", "n3"})
    world.crash_service("n1", noticed=True)
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=5_000)
    assert "has heard nothing" in world.config.nodes[NodeId(1)].down_because
    world.heal()
    world.start("n1")
    world.settle(limit_ms=10_000)


def test_the_death_of_the_coordinator_is_like_any_other(world: World) -> None:
    """A new leader knows the silences from the heartbeats themselves."""
    leader = f"n{world.leader}"
    group = sql(world, on=leader)
    world.crash(leader)
    world.run_until(lambda: world.online_on(group) is not None, limit_ms=6_000)

    assert world.online_on(group) != leader


def test_everything_comes_back_after_a_power_cut(world: World) -> None:
    """All nodes die and start again; wanted groups come online, unwanted ones stay offline."""
    group, idle = sql(world), world.make_group("idle", {"app": []})
    world.run_until(lambda: world.online_on(idle) is not None)
    assert world.do(OfflineGroup(group=idle)) is None
    world.crash("n1", "n2", "n3")
    world.run_for(2_000)
    world.start()
    world.run_until(lambda: world.online_on(group) is not None, limit_ms=20_000)
    world.settle()

    assert world.running_on(idle) == set()


def test_a_failing_resource_is_restarted_three_times_then_the_group_fails_over(world: World) -> None:
    """The restart policy of MSCS with its defaults, then the failover with its reason."""
    group = sql(world)
    for _ in range(3):
        epoch = world.config.groups[group].epoch
        world.fail_resource("sql app")
        world.run_until(lambda: world.config.resources[ResourceId("sql-app")].state is not ResourceState.ONLINE)
        world.run_until(lambda: world.online_on(group) == "n1")
        assert world.config.groups[group].epoch == epoch
    world.fail_resource("sql app")
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"})

    assert len(world.config.groups[group].failovers) == 1
    assert "sql app" in world.config.groups[group].placed_because


def test_a_resource_that_starts_nowhere_does_not_wander_for_ever(world: World) -> None:
    """FailoverThreshold ends it: the group stops moving and says why."""
    group = world.make_group("bad", {"app": []})
    assert world.do(SetGroupProperties(group=group, common={"FailoverThreshold": 2})) is None
    world.behaviour.fails[ResourceId("bad-app")] = set(world.nodes)
    assert world.do(SetResourceProperties(resource=ResourceId("bad-app"), common={"RestartThreshold": 1})) is None
    world.fail_resource("bad app")
    world.run_until(lambda: world.config.groups[group].halted, limit_ms=120_000)
    epoch = world.config.groups[group].epoch
    world.run_for(30_000)

    assert world.config.groups[group].epoch == epoch
    assert world.running_on(group) == set()


def test_a_planned_move_stops_before_it_starts(world: World) -> None:
    """The checkers see that nothing overlaps; dependents stop first."""
    group = sql(world)
    move = MoveGroup(group=group, to=NodeId(3), cause=MoveCause.ADMIN, because="maintenance")
    assert world.do(move) is None
    world.run_until(lambda: world.online_on(group) == "n3")

    assert world.config.groups[group].moved_by_hand


def test_a_paused_node_keeps_its_groups_and_gets_none(world: World) -> None:
    """Pause: no group may move there, by hand or by failover."""
    mine, other = sql(world), world.make_group("web", {"app": []}, on="n2")
    world.run_until(lambda: world.online_on(other) is not None)
    assert world.do(PauseNode(node=NodeId(1))) is None
    refusal = world.do(MoveGroup(group=other, to=NodeId(1), cause=MoveCause.ADMIN, because="try"))

    assert refusal is not None
    assert refusal.code == "node-paused"
    owner = world.online_on(other)
    assert owner is not None
    if owner != "n1":
        world.crash(owner)
        world.run_until(lambda: world.online_on(other) not in (None, owner), limit_ms=10_000)
        assert world.online_on(other) != "n1"
    assert world.online_on(mine) == "n1"


def test_a_group_fails_back_when_its_preferred_node_returns(world: World) -> None:
    """AutoFailbackType with a preferred list; without a window it happens at once."""
    group = sql(world)
    assert world.do(SetPreferredOwners(group=group, nodes=(NodeId(1), NodeId(2)))) is None
    assert world.do(SetGroupProperties(group=group, common={"AutoFailbackType": 1})) is None
    world.crash("n1")
    world.run_until(lambda: world.online_on(group) == "n2", limit_ms=5_000)
    world.start("n1")
    world.run_until(lambda: world.online_on(group) == "n1", limit_ms=20_000)


def test_an_orderly_stop_hands_the_groups_over_at_once(world: World) -> None:
    """Nobody waits for a silence when a node says that it stops."""
    group = sql(world)
    assert world.do(StopNode(node=NodeId(1))) is None
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=2_000)
    world.run_until(lambda: world.node("n1").core is None, limit_ms=10_000)

    assert world.config.nodes[NodeId(1)].state is NodeState.DOWN


def test_an_evicted_node_loses_its_vote_and_disappears(world: World) -> None:
    """The vote goes only when every node that is up agrees on the voters; then one more loss is survived no longer."""
    world.crash("n3")
    world.run_until(lambda: world.config.nodes[NodeId(3)].state is NodeState.DOWN)
    assert world.do(EvictNode(node=NodeId(3))) is None
    world.run_until(lambda: NodeId(3) not in world.config.nodes, limit_ms=5_000)
    world.run_for(3_000)

    assert world.config.voters == {NodeId(1), NodeId(2)}
    assert world.members() == {"n1", "n2"}


def test_a_command_without_quorum_changes_nothing(world: World) -> None:
    """The isolated node refuses and says why."""
    group = sql(world)
    world.partition({"n1"}, {"n2", "n3"})
    world.run_for(2_000)
    entries = len([e for e in world.entries if isinstance(e[0].update, OfflineGroup)])
    refusal = world.do(OfflineGroup(group=group), on="n1")

    assert refusal is not None
    assert refusal.code == "no-quorum"
    assert len([e for e in world.entries if isinstance(e[0].update, OfflineGroup)]) == entries


def test_a_deleted_resource_ends_in_the_monitor_in_which_it_runs(world: World) -> None:
    """Deleted while it runs in a monitor of its own; afterwards nothing is left and the group can still move."""
    group = sql(world)
    alone = ResourceId("alone")
    create = CreateResource(
        resource=alone,
        name="alone",
        type="Generic Application",
        group=group,
        separate_monitor=True,
        private={"CommandLine": "true"},
    )
    assert world.do(create) is None
    assert world.do(OnlineResource(resource=alone)) is None
    world.run_until(lambda: world.online_on(group) == "n1")
    assert world.do(DeleteResource(resource=alone)) is None
    world.run_until(lambda: alone not in world.node("n1").running, limit_ms=5_000)
    move = MoveGroup(group=group, to=NodeId(2), cause=MoveCause.ADMIN, because="for the story")
    assert world.do(move) is None
    world.run_until(lambda: world.online_on(group) == "n2", limit_ms=5_000)


def test_a_resource_deleted_while_its_monitor_dies_holds_nobody_up(world: World) -> None:
    """The monitor dies before it has answered for a resource that is in the configuration no more."""
    group = sql(world)
    world.behaviour.stop_ms = (400, 500)
    assert world.do(DeleteResource(resource=ResourceId("sql-app"))) is None
    world.run_for(50)
    world.kill_monitor("n1")
    world.run_until(lambda: world.online_on(group) == "n1", limit_ms=5_000)
    world.run_for(1_000)
    move = MoveGroup(group=group, to=NodeId(2), cause=MoveCause.ADMIN, because="for the story")
    assert world.do(move) is None
    world.run_until(lambda: world.online_on(group) == "n2", limit_ms=5_000)


def test_a_resource_moved_to_a_group_with_a_lower_epoch_can_be_stopped(world: World) -> None:
    """Its monitor knows the higher epoch of the old group; it must not refuse the commands of the new one."""
    group = sql(world)
    for to in (2, 1):
        move = MoveGroup(group=group, to=NodeId(to), cause=MoveCause.ADMIN, because="for the story")
        assert world.do(move) is None
        world.run_until(lambda to=to: world.online_on(group) == f"n{to}")  # type: ignore[misc]
    web = world.make_group("web", {"page": []}, on="n1")
    world.run_until(lambda: world.online_on(web) == "n1")
    assert world.config.groups[web].epoch < world.config.groups[group].epoch
    assert world.do(MoveResource(resource=ResourceId("sql-app"), group=web)) is None
    assert world.do(OfflineGroup(group=web)) is None
    world.run_until(lambda: not world.running_on(web), limit_ms=5_000)


@pytest.mark.parametrize("after_ms", [1, 15, 50, 100, 200])
def test_a_stop_while_the_monitors_start_ends_the_service_quietly(after_ms: int) -> None:
    """Nothing was started yet, so there is no reason to stop the whole machine."""
    world = World(nodes=3)
    world.monitor_start_ms = 900
    world.start()
    world.run_for(after_ms)
    world.stop_service("n1")
    world.run_until(lambda: world.node("n1").core is None, limit_ms=10_000)

    assert world.fenced == []


def test_a_stop_does_not_prolong_the_time_for_releasing(world: World) -> None:
    """The monitor hangs when quorum is lost; asking the service to stop meanwhile must not put off the fence."""
    sql(world)
    node = world.node("n1")
    node.monitors[""].hangs = True
    world.partition({"n1"}, {"n2", "n3"})
    core = node.core
    assert core is not None
    world.run_until(lambda: core.phase is NodePhase.RELEASING)
    lost_ms = world.now_ms
    world.run_for(200)
    world.stop_service("n1")
    world.run_for(150)

    assert [name for name, _ in world.fenced] == [NodeId(1)]
    assert world.now_ms - lost_ms < 400


def test_a_node_that_cannot_release_does_not_spin() -> None:
    """Asked to stop, then quorum lost, then a monitor that never answers: ticks stay as rare as heartbeats."""
    world = World(nodes=3)
    world.start()
    world.settle()
    sql(world)
    node = world.node("n1")
    world.behaviour.stop_ms = (100_000, 100_001)
    world.stop_service("n1")
    world.run_for(1_000)
    node.monitors[""].hangs = True
    world.partition({"n1"}, {"n2", "n3"})
    core = node.core
    assert core is not None
    for _ in range(70):
        world.run_for(1_000)
        assert core.deadline_ms + 1_000 > world.clock_of(node)


def test_a_node_that_is_alone_starts_again_after_its_log_was_compacted() -> None:
    """It leads, commits and applies what follows the snapshot in its first tick."""
    with World(nodes=1, log="raft", compaction_entries=20) as world:
        world.form()
        group = sql(world)
        for number in range(60):
            change = SetGroupProperties(group=group, common={"Description": f"change {number}"})
            assert world.do(change) is None
        world.crash("n1")
        world.start("n1")
        world.run_until(lambda: world.online_on(group) == "n1")

        assert world.config.groups[group].description == "change 59"


def test_a_resource_that_survives_its_termination_is_terminated_again(world: World) -> None:
    """The group is held until it is gone, and goes where it was to go afterwards."""
    group = sql(world)
    app = ResourceId("sql-app")
    world.behaviour.unkillable.add(app)
    move = MoveGroup(group=group, to=NodeId(2), cause=MoveCause.ADMIN, because="for the story")
    assert world.do(move) is None
    world.run_for(3_000)
    assert world.running_on(group) == {"n1"}
    world.behaviour.unkillable.discard(app)

    world.run_until(lambda: world.online_on(group) == "n2", limit_ms=10_000)


def test_nodes_that_joined_elect_a_leader_though_the_log_was_compacted() -> None:
    """Their own admission is in the snapshot only, and the founder does not come back."""
    with World(nodes=3, seed=1, log="raft", compaction_entries=20) as world:
        world.form()
        group = next(iter(world.config.groups))
        for number in range(40):
            assert world.do(SetGroupProperties(group=group, common={"Description": str(number)}), on="n1") is None
        world.run_for(2_000)
        world.crash("n1")

        world.run_until(lambda: world.leader in (NodeId(2), NodeId(3)), limit_ms=10_000)


# --- fencing ----------------------------------------------------------------------------------------------------------


def fenced(world: World, *agents: tuple[str, Agent], required: bool = False) -> None:
    """n1 can be switched off by these, which are tried in this order."""
    for name, agent in agents:
        world.agents[name] = agent
        for update in create_fence_device(name, NodeId(1)):
            assert world.do(update) is None
    for update in require_fencing(int(required)):
        assert world.do(update) is None


def test_a_fenced_node_is_not_waited_for() -> None:
    """Two sites: silence alone would take ten seconds, the device confirms the death after six and a bit."""
    world = World(nodes=3, timing=WAN)
    world.start()
    world.settle(limit_ms=60_000)
    world.run_until(lambda: len(world.config.voters) == 3, limit_ms=60_000)
    fenced(world, ("pdu", Agent()))
    group = sql(world)
    began_ms = world.now_ms
    world.partition({"n1"}, {"n2", "n3"})
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=60_000)

    assert world.now_ms - began_ms < WAN.silence_ms()
    assert "fence device pdu switched it off" in world.config.nodes[NodeId(1)].down_because


def test_a_machine_that_stood_still_cannot_run_beside_the_new_owner(world: World) -> None:
    """Its service and its monitors are stopped while the application goes on: only a device can end that."""
    group = sql(world)
    fenced(world, ("broken", Agent(works=False)), ("pdu", Agent(takes_ms=2_000)), required=True)
    world.stop_processes("n1")
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=20_000)

    assert world.running_on(group) <= {"n2", "n3"}
    assert world.node("n1").power == 1


def test_fencing_that_fails_waits_for_a_word_and_not_for_ever(world: World) -> None:
    """Required, and no device works: the groups stay, it is said why, and an administrator ends the wait."""
    group = sql(world)
    fenced(world, ("broken", Agent(works=False)), required=True)
    world.crash("n1")
    world.run_for(30_000)
    assert world.config.groups[group].owner == 1
    assert world.config.nodes[NodeId(1)].up
    assert "broken: the device does not answer" in world.config.nodes[NodeId(1)].fence_failure

    assert world.do(ConfirmNodeDown(node=NodeId(1)), on="n2") is None
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=5_000)


def test_required_fencing_ends_when_the_node_comes_back(world: World) -> None:
    """Its new service asks, which proves that the former one is over."""
    group = sql(world)
    fenced(world, ("broken", Agent(works=False)), required=True)
    world.crash("n1")
    world.run_for(5_000)
    world.start("n1")
    world.run_until(lambda: world.online_on(group) is not None, limit_ms=20_000)


def test_fencing_that_fails_holds_nobody_up_unless_it_is_required(world: World) -> None:
    """The silence goes on being judged beside it."""
    group = sql(world)
    fenced(world, ("broken", Agent(works=False, takes_ms=60_000)))
    world.crash("n1")
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=3_000)


def test_a_device_that_lies_is_found_out(world: World) -> None:
    """The node cannot let go; the first device says that it is off, but it is heard, so the second one has its turn."""
    group = sql(world)
    fenced(world, ("liar", Agent(lies=True)), ("pdu", Agent()))
    world.behaviour.stop_ms = (100_000, 100_001)
    world.node("n1").monitors[""].hangs = True
    world.partition({"n1"}, {"n2", "n3"})
    world.run_for(world.timing.lease_ms + 100)
    world.heal()
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=20_000)

    assert world.node("n1").power == 1
    assert world.running_on(group) <= {"n2", "n3"}


# --- two networks -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=SEEDS)
def wired_twice(request: pytest.FixtureRequest) -> World:
    """Three members on two networks that have told of their interfaces."""
    world = World(nodes=3, seed=request.param, networks=2)
    world.start()
    world.settle()
    world.run_until(lambda: len(world.config.voters) == 3)
    world.run_until(lambda: all(node.interfaces for node in world.config.nodes.values()))
    return world


def web(world: World, *, on: str) -> GroupId:
    """A group with an address on the first network, online on a node."""
    group = world.make_group("web", {}, on=on)
    address = CreateResource(
        resource=ResourceId("web-ip"),
        name="web ip",
        type="IP Address",
        group=group,
        private={"Address": "10.0.0.99", "SubnetMask": "255.255.255.0"},
    )
    assert world.do(address) is None
    assert world.do(OnlineResource(resource=ResourceId("web-ip"))) is None
    world.run_until(lambda: world.online_on(group) is not None)
    if world.online_on(group) != on:
        move = MoveGroup(group=group, to=world.node(on).id, cause=MoveCause.ADMIN, because="for the story")
        assert world.do(move) is None
        world.run_until(lambda: world.online_on(group) == on)
    return group


def network_states(world: World, place: int) -> tuple[str, ...]:
    network = world.config.all_networks[place]
    return tuple(state.value for state in interface_states(world.config, network).values())


def test_the_loss_of_one_network_of_two_harms_nobody(wired_twice: World) -> None:
    """Neither of a node's link nor of the whole network; leases live on by the other one."""
    world = wired_twice
    group = sql(world)
    epoch, incarnations = world.config.groups[group].epoch, [n.incarnation for n in world.config.nodes.values()]
    world.cut_network(1)
    world.run_until(lambda: set(network_states(world, 1)) == {"Unreachable"}, limit_ms=10_000)
    world.run_for(5_000)
    assert network_states(world, 0) == ("Up", "Up", "Up")
    world.heal()
    world.run_until(lambda: set(network_states(world, 1)) == {"Up"}, limit_ms=10_000)
    world.cut_network(0, "n2")
    world.run_until(lambda: network_states(world, 0) == ("Up", "Failed", "Up"), limit_ms=10_000)
    world.heal()
    world.run_until(lambda: set(network_states(world, 0)) == {"Up"}, limit_ms=10_000)

    assert world.online_on(group) == "n1"
    assert world.config.groups[group].epoch == epoch
    assert [n.incarnation for n in world.config.nodes.values()] == incarnations


@pytest.mark.parametrize("seen", [True, False], ids=["cable", "silence"])
def test_a_group_leaves_a_node_that_has_lost_its_clients(wired_twice: World, seen: bool) -> None:
    """Whether the node sees its link go down, or only nobody hears it there any more; the others stay."""
    world = wired_twice
    group, other = web(world, on="n1"), sql(world)
    if seen:
        world.pull_cable(0, "n1")
    else:
        world.cut_network(0, "n1")
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=10_000)

    assert "n1 has lost Cluster Network 1" in world.config.groups[group].placed_because
    assert len(world.config.groups[group].failovers) == 1
    assert world.online_on(other) == "n1", "it has no clients there"
    assert all(node.up for node in world.config.nodes.values())
    world.heal()
    world.run_until(lambda: set(network_states(world, 0)) == {"Up"}, limit_ms=10_000)


def test_a_network_of_clients_carries_no_heartbeats(wired_twice: World) -> None:
    """Then the loss of the other one is the loss of everything, and the majority goes on."""
    world = wired_twice
    group = sql(world)
    role = SetNetworkProperties(network=NetworkId("network-1"), common={"Role": 2})
    assert world.do(role) is None
    world.run_for(3_000)
    assert network_states(world, 0) == ("Up", "Up", "Up"), "nobody is missed where nobody speaks"
    assert world.online_on(group) == "n1"
    world.cut_network(1, "n1")
    world.run_until(lambda: world.online_on(group) in {"n2", "n3"}, limit_ms=10_000)


# --- parallel groups ------------------------------------------------------------------------------------------------


def farm(world: World) -> GroupId:
    """A parallel group on two of the three nodes, both instances online."""
    group = world.make_group("web", {"disk": [], "site": ["disk"]}, on="n1")
    world.run_until(lambda: world.online_on(group) is not None)
    for update in (
        OfflineGroup(group=group),
        SetPreferredOwners(group=group, nodes=(NodeId(1), NodeId(2))),
    ):
        assert world.do(update) is None
    world.run_until(lambda: is_offline(world, group))
    parallel = SetGroupProperties(group=group, common={"GroupType": "parallel", "MaxInstances": 2}, instances=True)
    assert world.do(parallel) is None
    assert world.do(OnlineGroup(group=group)) is None
    world.run_until(lambda: set(places(world, group)) == {"n1", "n2"})
    return group


def is_offline(world: World, group: GroupId) -> bool:
    """Whether nothing of a group and its instances runs or is thought to run, and none of them is moving."""
    groups = [world.config.groups[group], *world.config.instances_of(group)]
    states = {resource.state for each in groups for resource in world.config.resources_of(each.id)}
    return states == {ResourceState.OFFLINE} and all(each.move is None for each in groups)


def places(world: World, group: GroupId) -> list[str]:
    """Where the instances are online."""
    found = [world.online_on(each.id) for each in world.config.instances_of(group)]
    return [place for place in found if place is not None]


def test_the_spare_node_takes_the_instance_of_a_dead_node(world: World) -> None:
    """The other instance is not disturbed, neither by the death nor by the return."""
    group = farm(world)
    other = GroupId(f"{group}#2")
    epoch = world.config.groups[other].epoch
    world.crash("n1")
    world.run_until(lambda: set(places(world, group)) == {"n3", "n2"}, limit_ms=5_000)
    world.start("n1")
    world.settle()
    world.run_for(3_000)

    assert ["n3", "n2"] == places(world, group)
    assert world.config.groups[other].epoch == epoch


def test_an_isolated_node_lets_its_instance_go(world: World) -> None:
    """The majority runs both; nothing is left on the isolated node, and it is the spare afterwards."""
    group = farm(world)
    world.partition({"n2"}, {"n1", "n3"})
    world.run_until(lambda: set(places(world, group)) == {"n1", "n3"}, limit_ms=5_000)
    assert not world.node("n2").running
    world.heal()
    world.settle()
    assert world.do(MoveGroup(group=group, to=None, cause=MoveCause.ADMIN, because="for the story")) is not None
    move = MoveGroup(group=GroupId(f"{group}#1"), to=NodeId(2), cause=MoveCause.ADMIN, because="for the story")
    assert world.do(move) is None
    world.run_until(lambda: places(world, group) == ["n2", "n3"])


def test_fewer_and_more_instances(world: World) -> None:
    """One ends when one is wanted, each node has one when there is no limit; then it runs on one node again."""
    group = farm(world)
    assert world.do(SetGroupProperties(group=group, common={"MaxInstances": 1}, instances=True)) is None
    world.run_until(lambda: len(world.config.instances_of(group)) == 1)
    assert len([machine for machine in world.nodes.values() if machine.running]) == 1
    assert world.do(SetGroupProperties(group=group, common={"MaxInstances": 0}, instances=True)) is None
    world.run_until(lambda: set(places(world, group)) == {"n1", "n2", "n3"})
    assert world.do(OfflineGroup(group=group)) is None
    for wanted in ("failover", "parallel", "failover"):
        world.run_until(lambda: is_offline(world, group))
        if wanted == "parallel":
            world.run_until(lambda: not world.config.instances_of(group))
        assert world.do(SetGroupProperties(group=group, common={"GroupType": wanted}, instances=True)) is None
    assert world.do(OnlineGroup(group=group)) is None
    world.run_until(lambda: world.online_on(group) is not None)
    assert not world.config.instances_of(group)

"""What each accepted update does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.global_update.apply import apply
from clussvc.global_update.update import (
    AddDependency,
    AddPossibleOwner,
    AssignGroup,
    Batch,
    ConfirmNodeDown,
    CreateGroup,
    DeleteGroup,
    DeleteResource,
    DenyFailover,
    EvictNode,
    FailResource,
    GroupReleased,
    MoveGroup,
    MoveResource,
    NodeDown,
    NodeUp,
    OfflineGroup,
    OfflineResource,
    OnlineGroup,
    OnlineResource,
    PauseNode,
    Proposal,
    RemoveDependency,
    RemoveNode,
    RemovePossibleOwner,
    Rename,
    ReportStates,
    RequestFailover,
    ResourceFailure,
    ResourceStatus,
    ResumeNode,
    SetClusterProperties,
    SetGroupProperties,
    SetNodeProperties,
    SetPreferredOwners,
    SetResourceProperties,
    SetVoter,
    StopNode,
)
from clussvc.membership.regroup import next_eviction
from clussvc.model.ids import GroupId, RequestId, ResourceId
from clussvc.model.settings import FAILOVER_HISTORY_MAX, RECENT_REQUESTS_MAX
from clussvc.model.states import MoveCause, NodeState, ResourceState

from .world import APP, CORE, DISK, FOUND, N1, N2, N3, SITE, SQL, WEB, World, three_nodes

ON, OFF, FAILED = ResourceState.ONLINE, ResourceState.OFFLINE, ResourceState.FAILED


@pytest.fixture
def world() -> World:
    return three_nodes()


def by_hand(to: int | None) -> MoveGroup:
    return MoveGroup(
        group=SQL, to=None if to is None else {1: N1, 2: N2, 3: N3}[to], cause=MoveCause.ADMIN, because="x"
    )


def events(world: World) -> list[tuple[str, int]]:
    return [(record.name, record.event_id) for record in world.records]


def test_founding() -> None:
    """One voter that is not up, the built-in group without an owner, and the request's id as the cluster's."""
    world = World()
    world.send(FOUND, request="unique")
    assert world.config is not None
    assert ("unique", 1, frozenset({N1})) == (world.config.cluster, world.config.voters_version, world.config.voters)
    assert NodeState.JOINING is world.node(N1).state
    assert (True, None, 0) == (world.group(CORE).released, world.group(CORE).owner, world.group(CORE).epoch)
    assert [("cluster.formed", 1061)] == events(world)


def test_a_request_takes_effect_once(world: World) -> None:
    """The same request id gets the same answer, changes nothing and leaves no record, accepted or refused."""
    create = CreateGroup(group=GroupId("new"), name="new")
    world.send(create, request="once")
    once = world.config
    again = world.send(create, request="once")
    assert (None, ()) == (again.refusal, again.records)
    assert again.config is once
    refused = world.send(create, request="other").refusal
    assert refused == world.send(PauseNode(node=N1), request="other").refusal
    assert not world.node(N1).paused


def test_memory_of_requests_is_bounded() -> None:
    """The oldest request is forgotten first."""
    world = World().do(FOUND)
    for number in range(RECENT_REQUESTS_MAX + 5):
        world.send(ResumeNode(node=N1), request=f"r{number}")
    assert world.config is not None
    assert RECENT_REQUESTS_MAX == len(world.config.recent)
    assert "r4" not in world.config.recent
    assert f"r{RECENT_REQUESTS_MAX + 4}" in world.config.recent


def test_batch_keeps_what_is_accepted(world: World) -> None:
    """Each update stands for itself; the answer is the first refusal; records come in order."""
    applied = world.send(
        Batch(updates=(PauseNode(node=N1), ResumeNode(node=N2), DeleteGroup(group=SQL), PauseNode(node=N3)))
    )
    assert applied.refusal is not None
    assert "node-not-paused" == applied.refusal.code
    assert world.node(N1).paused
    assert world.node(N3).paused
    assert ["NODE1", "NODE3"] == [record.object for record in applied.records]


def test_records_are_bounded(world: World) -> None:
    """An entry has a thousand places; the last record counts the rest."""
    pair = (PauseNode(node=N1), ResumeNode(node=N1))
    applied = world.send(Batch(updates=pair * 600))
    assert 1_000 == len(applied.records)
    assert "201" in applied.records[-1].message


def test_online_and_offline_of_a_group(world: World) -> None:
    """Online wants all resources and gives each another try; offline takes the wish back."""
    world.do(OnlineGroup(group=SQL))
    assert world.group(SQL).persistent_state
    assert [(True, 1), (True, 1)] == [
        (world.resource(r).persistent_state, world.resource(r).online_ticket) for r in (DISK, APP)
    ]
    assert not world.resource(SITE).persistent_state
    world.do(OfflineGroup(group=SQL))
    assert not world.group(SQL).persistent_state
    assert not world.resource(APP).persistent_state


def test_online_elsewhere_is_a_move_by_hand(world: World) -> None:
    """With another node the owner has to let go first; with the same node nothing moves."""
    world.do(OnlineGroup(group=SQL, to=N1))
    assert world.group(SQL).move is None
    world.do(OnlineGroup(group=SQL, to=N2))
    move = world.group(SQL).move
    assert move is not None
    assert (N2, MoveCause.ADMIN, True) == (move.to, move.cause, move.bring_online)
    assert world.group(SQL).moved_by_hand


def test_one_resource_brings_its_providers(world: World) -> None:
    """Online goes down to the providers, offline up to the dependents."""
    world.do(OnlineResource(resource=APP))
    assert (True, True) == (world.resource(DISK).persistent_state, world.group(SQL).persistent_state)
    world.do(OfflineResource(resource=DISK))
    assert not world.resource(APP).persistent_state
    assert world.group(SQL).persistent_state


def test_a_move_goes_through_a_release(world: World) -> None:
    """Move, release, assign: the epoch rises, states begin anew, the record says from where to where and why."""
    world.report(APP, ON).do(by_hand(2))
    assert world.group(SQL).owned == N1
    world.do(GroupReleased(group=SQL, epoch=1, node=N1, because="stopped"))
    group = world.group(SQL)
    assert (None, N1, MoveCause.ADMIN) == (group.owned, group.owner, group.released_cause)
    assert group.move is not None
    assert OFF is world.resource(APP).state
    world.assign(SQL, N2)
    group = world.group(SQL)
    assert (N2, 2, None, True) == (group.owned, group.epoch, group.move, group.moved_by_hand)
    assert [("group.moved", 1641)] == events(world)
    assert "NODE1 to NODE2" in world.records[0].message


def test_a_move_to_the_owner_is_nothing(world: World) -> None:
    """Accepted without an effect and without a record."""
    world.do(by_hand(1))
    assert () == world.records
    assert world.group(SQL).move is None


def test_a_group_without_an_owner_remembers_the_wish(world: World) -> None:
    """The planner honours it at the next assignment."""
    world.do(MoveGroup(group=CORE, to=N3, cause=MoveCause.ADMIN, because="x"))
    move = world.group(CORE).move
    assert move is not None
    assert N3 == move.to
    world.do(CreateGroup(group=GroupId("new"), name="new", on=N2))
    first = world.group(GroupId("new")).move
    assert first is not None
    assert (N2, MoveCause.FIRST_PLACEMENT) == (first.to, first.cause)


def test_failover_is_asked_granted_and_counted(world: World) -> None:
    """The move answers the wish and is remembered with its time; the memory is bounded."""
    world.do(RequestFailover(group=SQL, epoch=1, resource=APP, because="dead", at_ms=7))
    wish = world.group(SQL).failover
    assert wish is not None
    assert 7 == wish.at_ms
    world.do(MoveGroup(group=SQL, to=N2, cause=MoveCause.RESOURCE_FAILURE, because="x", epoch=1, at_ms=9))
    assert (None, (9,), False) == (
        world.group(SQL).failover,
        world.group(SQL).failovers,
        world.group(SQL).moved_by_hand,
    )
    world.do(GroupReleased(group=SQL, epoch=1, node=N1, because="x"))
    full = tuple(range(FAILOVER_HISTORY_MAX))
    assert world.config is not None
    world.config = replace(world.config, groups={**world.config.groups, SQL: replace(world.group(SQL), failovers=full)})
    world.do(AssignGroup(group=SQL, epoch=1, to=N2, because="x", at_ms=999, counts_as_failover=True))
    assert (*full[1:], 999) == world.group(SQL).failovers


def test_failover_is_denied_and_the_halt_ends_with_online(world: World) -> None:
    """A halted group is kept offline until somebody brings it, or a resource of it, online."""
    for ending in (OnlineGroup(group=SQL), OnlineResource(resource=DISK)):
        world.do(RequestFailover(group=SQL, epoch=1, resource=APP, because="dead", at_ms=7))
        world.do(DenyFailover(group=SQL, epoch=1, because="too often", halt=True))
        assert (None, True) == (world.group(SQL).failover, world.group(SQL).halted)
        assert [("group.failover_denied", 1254)] == events(world)
        world.do(ending)
        assert not world.group(SQL).halted


def test_a_death_releases_everything(world: World) -> None:
    """Groups of the dead are free, their resources offline, and only a wish for another node survives."""
    world.report(APP, ON).do(by_hand(2))
    world.do(NodeDown(node=N1, incarnation=1, voters_version=3, because="silence"))
    assert (NodeState.DOWN, "silence") == (world.node(N1).state, world.node(N1).down_because)
    assert [None, None] == [world.group(group).owned for group in (SQL, WEB)]
    assert MoveCause.NODE_DOWN is world.group(SQL).released_cause
    move = world.group(SQL).move
    assert move is not None
    assert N2 == move.to
    assert OFF is world.resource(APP).state
    assert [("node.down", 1135)] == events(world)


def test_an_admission_releases_everything(world: World) -> None:
    """The new incarnation holds nothing; its groups may come back in place, also when it is paused."""
    world.do(PauseNode(node=N1)).up(N1)
    assert (2, NodeState.PAUSED) == (world.node(N1).incarnation, world.node(N1).state)
    assert (None, N1) == (world.group(SQL).owned, world.group(SQL).owner)
    world.assign(SQL, N1)
    assert (N1, 2) == (world.group(SQL).owned, world.group(SQL).epoch)
    assert [("group.placed", 0)] == events(world)


def test_a_stop_hands_over_and_says_farewell(world: World) -> None:
    """The groups are to leave; the farewell needs no majority; what is wanted stays wanted."""
    world.do(OnlineGroup(group=SQL), StopNode(node=N1))
    move = world.group(SQL).move
    assert move is not None
    assert (None, MoveCause.NODE_STOPPING) == (move.to, move.cause)
    world.do(StopNode(node=N1))
    assert () == world.records
    world.do(NodeDown(node=N1, incarnation=1, voters_version=0, because="stopped", stopped=True))
    assert MoveCause.NODE_STOPPING is world.group(SQL).released_cause
    assert [("node.stopped", 1063)] == events(world)
    assert world.resource(APP).persistent_state
    world.up(N1)
    assert not world.node(N1).stopping


def test_eviction_leaves_no_trace(world: World) -> None:
    """Lists, wishes and last owners forget the node, and its number is not given again."""
    world.do(
        SetPreferredOwners(group=SQL, nodes=(N2, N1)),
        RemovePossibleOwner(resource=SITE, node=N3),
        by_hand(2),
        ConfirmNodeDown(node=N2),
        ConfirmNodeDown(node=N2),
        SetVoter(node=N2, voter=False, voters_version=3),
        RemoveNode(node=N2),
    )
    assert world.config is not None
    assert (N2,) == world.config.evicted
    assert N2 not in world.config.nodes
    assert (N1,) == world.group(SQL).preferred_owners == world.resource(SITE).possible_owners
    move = world.group(SQL).move
    assert move is not None
    assert move.to is None
    assert 4 == world.config.next_node_id
    assert [("node.evicted", 1011)] == events(world)


def test_a_node_that_comes_back_is_not_evicted_by_an_old_wish(world: World) -> None:
    """The wish was for a node that is down; admission ends it."""
    world.do(ConfirmNodeDown(node=N2), EvictNode(node=N2))
    assert world.config is not None
    node = world.config.nodes[N2]
    assert node.evicting
    world.do(NodeUp(node=N2, incarnation=node.incarnation, boot=node.boot + 1, attempt=1))

    assert not world.config.nodes[N2].evicting


def test_a_vote_that_holds_the_quorum_is_not_taken(world: World) -> None:
    """N2 is down, and N3 is declared down but still speaks: with the votes of N1 and N2 alone there is no majority."""
    world.do(ConfirmNodeDown(node=N3), EvictNode(node=N3), ConfirmNodeDown(node=N2))
    assert world.config is not None
    refused = world.send(SetVoter(node=N3, voter=False, voters_version=world.config.voters_version)).refusal
    assert refused is not None
    assert ("vote-needed", True) == (refused.code, "Start NODE2 first" in refused.message)
    assert next_eviction(world.config) is None
    evict = world.send(EvictNode(node=N2)).refusal
    assert evict is not None
    assert "vote-needed" == evict.code
    world.up(N2)

    assert SetVoter(node=N3, voter=False, voters_version=world.config.voters_version) == next_eviction(world.config)


def test_reports_tell_transitions(world: World) -> None:
    """Resources and their groups; late lines about other owners' groups are ignored."""
    world.do(
        ReportStates(
            node=N1,
            incarnation=1,
            lines=(ResourceStatus(resource=DISK, state=ON), ResourceStatus(resource=APP, state=ON)),
        )
    )
    assert [("resource.online", 0), ("resource.online", 0), ("group.online", 1201)] == events(world)
    world.report(APP, FAILED, "no answer")
    assert [("resource.failed", 1069), ("group.failed", 1202)] == events(world)
    assert "no answer" == world.resource(APP).detail == world.records[0].because
    world.report(APP, OFF).report(DISK, OFF)
    assert [("resource.offline", 0), ("group.offline", 1204)] == events(world)
    world.do(ReportStates(node=N2, incarnation=1, lines=(ResourceStatus(resource=APP, state=ON),)))
    assert OFF is world.resource(APP).state
    assert () == world.records


def test_a_failure_is_told_though_no_state_shows_it(world: World) -> None:
    """A quick restart left the state as it was; the group may even have left, or the resource been deleted."""
    world.report(APP, ON)
    failure = ResourceFailure(resource=APP, detail="no answer", because="1 of 3 restarts used", count=2, ago_ms=4_100)
    lost = ResourceFailure(resource=ResourceId("gone"), detail="x")
    world.do(ReportStates(node=N2, incarnation=1, lines=(), failures=(failure, lost)))

    assert [("resource.failed", 1069)] == events(world)
    assert "Resource APP failed 2 times on NODE2: the last time no answer." == world.records[0].message
    assert "no answer; 1 of 3 restarts used; 4 s before this was told" == world.records[0].because
    assert ON is world.resource(APP).state


def test_what_sets_the_same_value_is_nothing_to_remember(world: World) -> None:
    """A script sets its properties at every start; the first time tells that it did, and nobody else."""
    update = SetResourceProperties(
        resource=APP, private={"CommandLine": "x"}, because="the resource itself set it on NODE1"
    )
    world.do(update)
    assert [("resource.properties", update.because)] == [(each.name, each.because) for each in world.records]
    world.do(update)

    assert () == world.records


def test_possible_owners(world: World) -> None:
    """From all nodes to a list and back; a resource in use drives its group away."""
    world.do(RemovePossibleOwner(resource=APP, node=N1))
    assert ((N2, N3), None) == (world.resource(APP).possible_owners, world.group(SQL).move)
    world.do(AddPossibleOwner(resource=APP, node=N1))
    assert (N1, N2, N3) == world.resource(APP).possible_owners
    world.report(APP, ON).do(RemovePossibleOwner(resource=APP, node=N1))
    move = world.group(SQL).move
    assert move is not None
    assert MoveCause.OWNERS_CHANGED is move.cause


def test_a_resource_moves_with_what_is_tied_to_it(world: World) -> None:
    """The whole component changes its group; states stay, since the owner is the same."""
    world.report(APP, ON).do(MoveResource(resource=DISK, group=WEB))
    assert [WEB, WEB] == [world.resource(each).group for each in (DISK, APP)]
    assert ON is world.resource(APP).state
    world.do(DeleteGroup(group=SQL))


def test_dependencies_come_and_go(world: World) -> None:
    """The inverse restores, and then a delete is allowed."""
    world.do(RemoveDependency(resource=APP, provider=DISK), DeleteResource(resource=DISK))
    assert world.config is not None
    assert DISK not in world.config.resources
    world.do(MoveResource(resource=SITE, group=SQL), AddDependency(resource=SITE, provider=APP))
    assert (APP,) == world.resource(SITE).depends_on


def test_fail_raises_the_ticket(world: World) -> None:
    """The owner sees the change of the number."""
    world.report(APP, ON).do(FailResource(resource=APP))
    assert 1 == world.resource(APP).fail_ticket


def test_properties_are_stored(world: World) -> None:
    """Each kind of object, common and private, with resets."""
    world.do(
        SetGroupProperties(group=SQL, common={"failoverperiod": "0x5", "AutoFailbackType": 1}, private={"Note": "x"}),
        SetResourceProperties(resource=APP, common={"RestartThreshold": 7}, private={"commandline": "true"}),
        SetNodeProperties(node=N1, common={"Description": "first"}),
        SetClusterProperties(common={"UtcOffsetMinutes": 60}),
    )
    assert (5, True, {"Note": "x"}) == (
        world.group(SQL).failover_period_h,
        world.group(SQL).auto_failback,
        world.group(SQL).private,
    )
    assert (7, {"CommandLine": "true"}) == (world.resource(APP).restart_threshold, world.resource(APP).private)
    assert "first" == world.node(N1).description
    assert world.config is not None
    assert 60 == world.config.utc_offset_min
    world.do(SetGroupProperties(group=SQL, common={"FailoverPeriod": None}, private={"note": None}))
    assert (6, {}) == (world.group(SQL).failover_period_h, world.group(SQL).private)


def test_slower_timings_void_counted_silences(world: World) -> None:
    """Whoever counted by the faster profile is refused, so nobody is declared down within a longer lease."""
    world.do(SetClusterProperties(common={"TimingProfile": "wan"}))
    refusal = world.send(NodeDown(node=N1, incarnation=1, voters_version=3, because="silence")).refusal
    assert refusal is not None
    assert "voters-changed" == refusal.code


def test_faster_timings_say_from_which_version_on_nodes_are_judged_by_them(world: World) -> None:
    """Slower ones leave that as it is, since they are judged by later; entries of earlier releases are refused."""

    def change(profile: str, *, quicker: bool = True) -> tuple[str, int, int]:
        world.send(SetClusterProperties(common={"TimingProfile": profile}, quicker=quicker))
        assert world.config is not None
        return world.config.timing.profile, world.config.voters_version, world.config.timing_version

    assert world.config is not None
    version = world.config.voters_version
    assert world.config.timing.profile == "lan"
    assert change("fast", quicker=False) == ("lan", version, 0)
    assert change("fast") == ("fast", version + 1, version + 1)
    assert change("wan", quicker=False) == ("wan", version + 2, version + 1)
    assert change("loopback") == ("loopback", version + 3, version + 3)
    assert change("loopback") == ("loopback", version + 3, version + 3)


def test_names_may_change_their_case(world: World) -> None:
    """Every kind can be renamed; an object does not stand in its own way."""
    world.do(
        Rename(kind="cluster", id="", name="OTHER"),
        Rename(kind="node", id="1", name="node1"),
        Rename(kind="group", id=SQL, name="Database"),
        Rename(kind="resource", id=APP, name="App"),
    )
    assert world.config is not None
    assert ("OTHER", "node1", "Database", "App") == (
        world.config.name,
        world.node(N1).name,
        world.group(SQL).name,
        world.resource(APP).name,
    )


def test_arguments_are_never_changed(world: World) -> None:
    """Applying twice to one configuration gives the same, and the configuration stays what it was."""
    before = world.config
    assert before is not None
    twin = replace(before)
    proposal = Proposal(
        request=RequestId("new"), proposer=N1, at_ms=5, update=NodeUp(node=N1, incarnation=1, boot=5, attempt=1)
    )
    assert apply(before, proposal) == apply(before, proposal)
    assert twin == before
    assert ResourceId("app") in before.resources

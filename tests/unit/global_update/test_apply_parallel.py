"""Parallel groups: how instances follow their pattern, what commands do to them, and what is refused."""

from __future__ import annotations

import pytest

from clussvc.global_update.update import (
    AddDependency,
    AddPossibleOwner,
    AssignGroup,
    CreateGroup,
    CreateResource,
    DeleteGroup,
    DeleteResource,
    FailResource,
    GroupReleased,
    MoveGroup,
    MoveResource,
    NodeDown,
    OfflineGroup,
    OfflineResource,
    OnlineGroup,
    OnlineResource,
    PauseNode,
    RemovePossibleOwner,
    Rename,
    SetGroupProperties,
    SetPreferredOwners,
    SetResourceProperties,
    Update,
)
from clussvc.model.ids import GroupId, NodeId, ResourceId
from clussvc.model.settings import GROUPS_MAX
from clussvc.model.states import MoveCause, ResourceState

from .world import (
    APP,
    CORE,
    N1,
    N2,
    N3,
    SITE,
    SITE_1,
    SITE_2,
    SQL,
    WEB,
    WEB_1,
    WEB_2,
    WEB_3,
    World,
    join,
    parallel_nodes,
    resource,
    three_nodes,
)

MORE = ResourceId("more")


def instances(world: World, group: GroupId = WEB) -> dict[str, NodeId | None]:
    assert world.config is not None
    return {each.name: each.owned for each in world.config.instances_of(group)}


def refusal(world: World, update: Update) -> str:
    """The code of the refusal, after which nothing is changed."""
    before = world.config
    report = world.send(update).refusal
    assert report is not None, update
    assert before is not None and world.config is not None
    assert (before.groups, before.resources) == (world.config.groups, world.config.resources)
    return report.code


def release(world: World, group: GroupId) -> World:
    owned = world.group(group)
    assert owned.owned is not None
    return world.do(GroupReleased(group=group, epoch=owned.epoch, node=owned.owned, because="a test"))


def run(world: World, *copies: ResourceId) -> World:
    for copy in copies:
        world.report(copy, ResourceState.ONLINE)
    return world


def down(world: World, node: NodeId) -> World:
    known = world.node(node)
    assert world.config is not None
    version = world.config.voters_version
    return world.do(NodeDown(node=node, incarnation=known.incarnation, voters_version=version, because="silent"))


def move(group: GroupId, to: NodeId | None) -> MoveGroup:
    return MoveGroup(group=group, to=to, cause=MoveCause.ADMIN, because="a test")


# --- becoming parallel, and ceasing to be ---------------------------------------------------------------------------


def test_instances_come_only_when_the_owner_has_let_go() -> None:
    """A group that is owned becomes parallel in two steps; its owner could still run it until then (rule R1)."""
    world = three_nodes().do(SetGroupProperties(group=WEB, common={"GroupType": "Parallel"}, instances=True))

    assert {} == instances(world)
    assert world.group(WEB).move is not None, "its owner is asked to let it go"

    release(world, WEB)
    assert {"WEB#1": None, "WEB#2": None, "WEB#3": None} == instances(world)
    assert (None, None) == (world.group(WEB).owned, world.group(WEB).move)


def test_a_dead_owner_lets_go_as_well() -> None:
    """What releases any group releases this one."""
    world = three_nodes().do(
        SetGroupProperties(group=WEB, common={"GroupType": "parallel", "MaxInstances": 2}, instances=True)
    )
    down(world, N1)
    assert {"WEB#1": None, "WEB#2": None} == instances(world)


def test_nobody_owns_a_parallel_group_itself() -> None:
    """Neither now nor while instances of a former one are left."""
    world = parallel_nodes()
    assert "stale" == refusal(world, AssignGroup(group=WEB, epoch=world.group(WEB).epoch, to=N3, because="a test"))

    world.do(SetGroupProperties(group=WEB, common={"GroupType": "failover"}, instances=True))
    assert {"WEB#1": N1, "WEB#2": N2} == instances(world), "they have been asked to end"
    assert "stale" == refusal(world, AssignGroup(group=WEB, epoch=world.group(WEB).epoch, to=N3, because="a test"))
    assert "group-in-use" == refusal(
        world, SetGroupProperties(group=WEB, common={"GroupType": "parallel"}, instances=True)
    )

    release(release(world, WEB_1), WEB_2)
    assert {} == instances(world)
    world.assign(WEB, N3)
    assert N3 == world.group(WEB).owned


@pytest.mark.parametrize("wanted", ["running", "wished", "moving"])
def test_the_type_changes_only_while_offline(wanted: str) -> None:
    """Nothing of it may run, be wanted, or be on its way."""
    world = three_nodes()
    if wanted == "running":
        world.report(SITE, ResourceState.ONLINE_PENDING)
    elif wanted == "wished":
        world.do(OnlineGroup(group=WEB))
    else:
        world.do(move(WEB, N2))
    assert "group-in-use" == refusal(
        world, SetGroupProperties(group=WEB, common={"GroupType": "parallel"}, instances=True)
    )


def test_a_parallel_group_that_runs_stays_parallel() -> None:
    """The states of the instances count."""
    world = run(parallel_nodes(), SITE_2)
    assert "group-in-use" == refusal(
        world, SetGroupProperties(group=WEB, common={"GroupType": "failover"}, instances=True)
    )


def test_the_core_group_runs_on_one_node() -> None:
    """The cluster's own group never becomes parallel."""
    assert "core-group" == refusal(
        three_nodes(), SetGroupProperties(group=CORE, common={"GroupType": "parallel"}, instances=True)
    )


@pytest.mark.parametrize("value", ["both", 1, ("parallel", "failover")])
def test_a_group_type_is_one_of_two_words(value: str) -> None:
    assert "bad-property" == refusal(
        three_nodes(), SetGroupProperties(group=WEB, common={"GroupType": value}, instances=True)
    )


@pytest.mark.parametrize("common", [{"GroupType": "parallel"}, {"maxinstances": 2}])
def test_entries_of_earlier_releases_are_refused_as_they_were(common: dict[str, str | int]) -> None:
    """Those releases did not know the properties, so an entry of theirs that names them changed nothing, and does so
    when it is read by this one."""
    assert "bad-property" == refusal(three_nodes(), SetGroupProperties(group=WEB, common=common))


@pytest.mark.parametrize(("value", "fits"), [(0, True), (1, True), (64, True), (65, False), (-1, False)])
def test_range_of_max_instances(value: int, *, fits: bool) -> None:
    """0 to 64."""
    report = three_nodes().send(SetGroupProperties(group=WEB, common={"MaxInstances": value}, instances=True)).refusal
    assert fits == (report is None)


# --- number and shape -----------------------------------------------------------------------------------------------


def test_as_many_instances_as_possible_owners() -> None:
    """A node that joins brings one more, a possible owner that is taken away ends one, MaxInstances bounds both."""
    world = release(
        three_nodes().do(SetGroupProperties(group=WEB, common={"GroupType": "parallel"}, instances=True)), WEB
    )
    world.assign(WEB_1, N1).assign(WEB_2, N2).assign(WEB_3, N3)
    join(world, "NODE4")
    assert ["WEB#1", "WEB#2", "WEB#3", "WEB#4"] == list(instances(world))

    world.do(RemovePossibleOwner(resource=SITE, node=N2))
    assert {"WEB#1": N1, "WEB#2": N2, "WEB#3": N3} == instances(world), "nobody had the fourth; it went first"
    world.do(SetGroupProperties(group=WEB, common={"MaxInstances": 2}, instances=True))
    assert [None, MoveCause.OWNERS_CHANGED, None] == [
        each.move.cause if (each := world.group(group)).move else None for group in (WEB_1, WEB_2, WEB_3)
    ], "the one that may not stay where it is goes"
    release(world, WEB_2)
    assert {"WEB#1": N1, "WEB#3": N3} == instances(world)

    world.do(SetGroupProperties(group=WEB, common={"MaxInstances": 0}, instances=True))
    assert {"WEB#1": N1, "WEB#2": None, "WEB#3": N3} == instances(world), "the free number is used again"


def test_epochs_are_never_given_twice() -> None:
    """An instance that comes again goes on where it was; a monitor would take anything else for an old command."""
    world = parallel_nodes().do(move(WEB_2, N3))
    release(world, WEB_2).assign(WEB_2, N3)
    before = world.group(WEB_2).epoch

    release(world.do(SetGroupProperties(group=WEB, common={"MaxInstances": 1}, instances=True)), WEB_2)
    world.do(SetGroupProperties(group=WEB, common={"MaxInstances": 2}, instances=True)).assign(WEB_2, N2)
    assert before + 1 == world.group(WEB_2).epoch


def test_an_instance_has_what_the_group_has() -> None:
    """Properties, owners, resources and dependencies follow; the wish of future instances is that of the group."""
    world = parallel_nodes().do(OnlineGroup(group=WEB))
    run(world, SITE_1)
    world.do(
        SetGroupProperties(group=WEB, common={"FailoverThreshold": 3}, private={"Colour": "red"}),
        SetPreferredOwners(group=WEB, nodes=(N3, N1)),
        SetResourceProperties(resource=SITE, common={"RestartThreshold": 7}, private={"CommandLine": "sleep 9"}),
        resource(MORE, WEB),
        Rename(kind="group", id=WEB, name="SITES"),
        Rename(kind="resource", id=SITE, name="PAGE"),
    )
    instance, copy = world.group(WEB_1), world.resource(SITE_1)
    assert ("SITES#1", 3, (N3, N1)) == (instance.name, instance.failover_threshold, instance.preferred_owners)
    assert {"Colour": "red"} == instance.private
    assert ("PAGE#1", 7, "sleep 9") == (copy.name, copy.restart_threshold, copy.private["CommandLine"])
    assert ResourceState.ONLINE is copy.state
    assert copy.persistent_state

    new = world.resource(ResourceId("more#1"))
    assert (WEB_1, MORE, False) == (new.group, new.instance_of, new.persistent_state)
    assert "resource-online" == refusal(world, AddDependency(resource=SITE, provider=MORE)), "an instance runs"
    world.do(OfflineGroup(group=WEB)).report(SITE_1, ResourceState.OFFLINE)
    world.do(AddDependency(resource=SITE, provider=MORE))
    assert (ResourceId("more#2"),) == world.resource(SITE_2).depends_on


def test_without_resources_there_are_no_instances() -> None:
    """The last resource takes them along, and then the group can be deleted."""
    world = parallel_nodes().do(DeleteResource(resource=SITE))
    assert {"WEB#1": N1, "WEB#2": N2} == instances(world)
    assert "group-in-use" == refusal(world, DeleteGroup(group=WEB))
    release(release(world, WEB_1), WEB_2)
    assert {} == instances(world)
    world.do(DeleteGroup(group=WEB))


def test_a_full_cluster_has_fewer_instances() -> None:
    """The limit of groups holds for instances too."""
    world = three_nodes()
    assert world.config is not None
    for number in range(GROUPS_MAX - len(world.config.groups) - 2):
        world.send(CreateGroup(group=GroupId(f"f{number}"), name=f"F {number}"))
    release(world.do(SetGroupProperties(group=WEB, common={"GroupType": "parallel"}, instances=True)), WEB)
    assert 2 == len(instances(world))
    assert GROUPS_MAX == len(world.config.groups)


# --- places ---------------------------------------------------------------------------------------------------------


def test_a_node_has_one_instance() -> None:
    """Neither an assignment nor a move nor an order to go online puts a second one there."""
    world = parallel_nodes()
    assert "instance-exists" == refusal(world, move(WEB_1, N2))
    assert "instance-exists" == refusal(world, OnlineGroup(group=WEB_1, to=N2))
    world.do(move(WEB_1, N3))
    assert "instance-exists" == refusal(world, move(WEB_2, N3)), "one is on its way there"
    release(world, WEB_1)
    assert "instance-exists" == refusal(world, AssignGroup(group=WEB_1, epoch=2, to=N2, because="a test"))
    world.assign(WEB_1, N3)


def test_a_dead_node_has_none() -> None:
    """Its instance is released like any group, and can go to the spare node."""
    world = down(run(parallel_nodes().do(OnlineGroup(group=WEB)), SITE_1, SITE_2), N1)
    assert {"WEB#1": None, "WEB#2": N2} == instances(world)
    assert ResourceState.OFFLINE is world.resource(SITE_1).state
    world.assign(WEB_1, N3)
    assert ResourceState.ONLINE is world.resource(SITE_2).state


# --- wishes ---------------------------------------------------------------------------------------------------------


def wanted(world: World) -> list[bool]:
    return [world.resource(each).persistent_state for each in (SITE, SITE_1, SITE_2)]


def test_the_wish_for_all_and_for_one() -> None:
    """Of the group for all instances, of an instance for itself; the same with resources."""
    world = parallel_nodes().do(OnlineGroup(group=WEB))
    assert [True, True, True] == wanted(world)
    world.do(OfflineGroup(group=WEB_1))
    assert [True, False, True] == wanted(world)
    world.do(OnlineResource(resource=SITE))
    assert [True, True, True] == wanted(world)
    world.do(OfflineResource(resource=SITE_2))
    assert [True, True, False] == wanted(world)
    world.do(OfflineGroup(group=WEB))
    assert [False, False, False] == wanted(world)
    world.do(SetResourceProperties(resource=SITE, common={"PersistentState": 1}))
    assert [True, True, True] == wanted(world)
    world.do(OfflineResource(resource=SITE))
    assert [False, False, False] == wanted(world)
    world.do(SetGroupProperties(group=WEB, common={"PersistentState": 1}))
    assert world.group(WEB_2).persistent_state


def test_an_instance_on_a_paused_node_does_not_hinder_the_others() -> None:
    """It is not started there; if no node takes anything, that is the answer."""
    world = parallel_nodes().do(PauseNode(node=N1), OnlineGroup(group=WEB))
    assert [True, False, True] == wanted(world)
    world.do(OfflineGroup(group=WEB), PauseNode(node=N2))
    assert "node-paused" == refusal(world, OnlineGroup(group=WEB))
    assert "node-paused" == refusal(world, OnlineResource(resource=SITE))


def test_what_a_resource_sets_itself_counts_for_all() -> None:
    """The instance has no properties of its own, so they are those of the resource."""
    update = SetResourceProperties(
        resource=SITE_1, private={"CurrentDirectory": "/x"}, because="the resource itself set it"
    )
    world = parallel_nodes().do(update)
    assert ["/x"] * 3 == [world.resource(each).private["CurrentDirectory"] for each in (SITE, SITE_1, SITE_2)]


# --- what is refused ------------------------------------------------------------------------------------------------

COPY = CreateResource(resource=MORE, name="MORE", type="Generic Application", group=WEB_1)


@pytest.mark.parametrize(
    ("update", "code"),
    [
        (move(WEB, N3), "instance-wanted"),
        (OnlineGroup(group=WEB, to=N3), "instance-wanted"),
        (FailResource(resource=SITE), "instance-wanted"),
        (SetGroupProperties(group=WEB_1, common={"FailoverThreshold": 1}), "instance-fixed"),
        (SetPreferredOwners(group=WEB_1, nodes=(N1,)), "instance-fixed"),
        (DeleteGroup(group=WEB_1), "instance-fixed"),
        (Rename(kind="group", id=WEB_1, name="Other"), "instance-fixed"),
        (Rename(kind="resource", id=SITE_1, name="Other"), "instance-fixed"),
        (SetResourceProperties(resource=SITE_1, private={"CommandLine": "true"}), "instance-fixed"),
        (DeleteResource(resource=SITE_1), "instance-fixed"),
        (AddPossibleOwner(resource=SITE_1, node=N1), "instance-fixed"),
        (RemovePossibleOwner(resource=SITE_1, node=N1), "instance-fixed"),
        (COPY, "instance-fixed"),
        (MoveResource(resource=SITE, group=SQL), "parallel-group"),
        (MoveResource(resource=SITE_1, group=SQL), "parallel-group"),
        (MoveResource(resource=APP, group=WEB), "parallel-group"),
        (MoveResource(resource=APP, group=WEB_1), "parallel-group"),
        (CreateGroup(group=GroupId("x"), name="web#7"), "object-exists"),
        (CreateGroup(group=GroupId("web#7"), name="x"), "object-exists"),
        (resource(ResourceId("site#7"), SQL), "object-exists"),
        (Rename(kind="group", id=SQL, name="WEB#64"), "object-exists"),
        (Rename(kind="group", id=WEB, name="x" * 254), "bad-name"),
    ],
)
def test_refused(update: Update, code: str) -> None:
    """Whatever would make an instance differ from its group, or a second thing of its name."""
    assert code == refusal(parallel_nodes(), update)


def test_names_of_instances_must_be_free() -> None:
    """A group whose instances would have the names of others does not become parallel."""
    world = three_nodes().do(CreateGroup(group=GroupId("x"), name="Web#2"))
    assert "object-exists" == refusal(
        world, SetGroupProperties(group=WEB, common={"GroupType": "parallel"}, instances=True)
    )

    world = three_nodes().do(resource(ResourceId("site#64"), SQL))
    assert "object-exists" == refusal(
        world, SetGroupProperties(group=WEB, common={"GroupType": "parallel"}, instances=True)
    )


def test_numbers_beyond_the_last_instance_are_free() -> None:
    """Only names that an instance could have are kept."""
    parallel_nodes().do(
        CreateGroup(group=GroupId("x"), name="WEB#0"),
        CreateGroup(group=GroupId("y"), name="WEB#065"),
        CreateGroup(group=GroupId("z"), name="SQL#1"),
    )

"""Every refusal of every update: what was there before, what is asked, and the code of the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from clussvc.global_update.update import (
    AddDependency,
    AddJoinToken,
    AddPossibleOwner,
    AdmitNode,
    AssignGroup,
    Batch,
    ConfirmNodeDown,
    CreateGroup,
    CreateResource,
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
    RemoveDependency,
    RemoveNode,
    RemovePossibleOwner,
    Rename,
    ReportStates,
    RequestFailover,
    ResumeNode,
    SetClusterProperties,
    SetGroupProperties,
    SetNodeProperties,
    SetPreferredOwners,
    SetResourceProperties,
    SetVoter,
    StopNode,
    Update,
)
from clussvc.model.ids import GroupId, NodeId, ResourceId
from clussvc.model.states import MoveCause, ResourceState

from .world import APP, CORE, DISK, FOUND, N1, N2, N3, SECRET, SITE, SQL, WEB, World, resource, three_nodes

NOBODY, NOWHERE, NOTHING = NodeId(9), GroupId("none"), ResourceId("none")
TOKEN = AddJoinToken(token="t", secret_sha256=SECRET, expires_ms=2_000_000, node_name="NODE4")
ADMIT = AdmitNode(
    token="t",
    secret_sha256=SECRET,
    node_name="NODE4",
    addresses=("192.0.2.4",),
    port=3343,
    admin_port=0,
    at_ms=1_500_000,
)


def nothing(world: World) -> None:
    """The three nodes as they are."""


def n2_down(world: World) -> None:
    world.do(ConfirmNodeDown(node=N2))


def n2_paused(world: World) -> None:
    world.do(PauseNode(node=N2))


def n2_stopping(world: World) -> None:
    world.do(StopNode(node=N2))


def n1_paused(world: World) -> None:
    world.do(PauseNode(node=N1))


def app_not_on_n2(world: World) -> None:
    world.do(RemovePossibleOwner(resource=APP, node=N2))


def only_n1(world: World) -> None:
    world.do(RemovePossibleOwner(resource=APP, node=N2), RemovePossibleOwner(resource=APP, node=N3))


def sql_moving(world: World) -> None:
    world.do(move(N2))


def sql_released(world: World) -> None:
    world.do(move(N2), GroupReleased(group=SQL, epoch=1, node=N1, because="test"))


def app_online(world: World) -> None:
    world.report(APP, ResourceState.ONLINE)


def web_on_n2(world: World) -> None:
    world.do(
        MoveGroup(group=WEB, to=N2, cause=MoveCause.ADMIN, because="test"),
        GroupReleased(group=WEB, epoch=1, node=N1, because="test"),
    ).assign(WEB, N2)


def bare_app(world: World) -> None:
    """A resource that lacks what its type requires."""
    world.do(CreateResource(resource=ResourceId("bare"), name="bare", type="Generic Script", group=SQL))


def n2_without_vote(world: World) -> None:
    world.do(ConfirmNodeDown(node=N2), SetVoter(node=N2, voter=False, voters_version=3))


def one_voter(world: World) -> None:
    world.do(
        SetVoter(node=N2, voter=False, voters_version=3),
        SetVoter(node=N3, voter=False, voters_version=4),
    )


def token(world: World) -> None:
    world.do(TOKEN)


def token_for_all(world: World) -> None:
    world.do(replace(TOKEN, node_name=""))


def n1_down(world: World) -> None:
    world.do(ConfirmNodeDown(node=N1))


def app_not_on_n1(world: World) -> None:
    world.do(RemovePossibleOwner(resource=APP, node=N1))


def sql_moving_anywhere(world: World) -> None:
    world.do(move(None))


def both(first: Callable[[World], None], second: Callable[[World], None]) -> Callable[[World], None]:
    """One after the other."""

    def prepare(world: World) -> None:
        first(world)
        second(world)

    return prepare


def move(to: NodeId | None, cause: MoveCause = MoveCause.ADMIN, epoch: int | None = None) -> MoveGroup:
    return MoveGroup(group=SQL, to=to, cause=cause, because="test", epoch=epoch)


def assign(to: NodeId, epoch: int = 1) -> AssignGroup:
    return AssignGroup(group=SQL, epoch=epoch, to=to, because="test")


REFUSALS: list[tuple[Callable[[World], None], Update, str]] = [
    (nothing, FOUND, "object-exists"),
    (nothing, Batch(updates=(Batch(updates=()),)), "bad-argument"),
    (nothing, Batch(updates=(PauseNode(node=N2),) * 2_001), "bad-argument"),
    # groups
    (nothing, CreateGroup(group=GroupId("x"), name="sql"), "object-exists"),
    (nothing, CreateGroup(group=SQL, name="other"), "object-exists"),
    (nothing, CreateGroup(group=GroupId(""), name="other"), "bad-argument"),
    (nothing, CreateGroup(group=GroupId("x"), name=""), "bad-name"),
    (nothing, CreateGroup(group=GroupId("x"), name="/on"), "bad-name"),
    (nothing, CreateGroup(group=GroupId("x"), name=" x"), "bad-name"),
    (nothing, CreateGroup(group=GroupId("x"), name="x\x07"), "bad-name"),
    (nothing, CreateGroup(group=GroupId("x"), name="x\ud800"), "bad-name"),
    (nothing, CreateGroup(group=GroupId("x"), name="x" * 256), "bad-name"),
    (nothing, CreateGroup(group=GroupId("x"), name="x", on=NOBODY), "node-not-found"),
    (nothing, DeleteGroup(group=NOWHERE), "group-not-found"),
    (nothing, DeleteGroup(group=CORE), "core-group"),
    (nothing, DeleteGroup(group=SQL), "group-not-empty"),
    (nothing, SetGroupProperties(group=NOWHERE), "group-not-found"),
    (nothing, SetGroupProperties(group=SQL, common={"Colour": 1}), "unknown-property"),
    (nothing, SetGroupProperties(group=SQL, common={"Name": "x"}), "read-only-property"),
    (nothing, SetGroupProperties(group=SQL, common={"Description": "x", "FailoverPeriod": 9_999}), "bad-property"),
    (nothing, SetGroupProperties(group=SQL, private={"": 1}), "bad-property"),
    (nothing, SetPreferredOwners(group=NOWHERE, nodes=()), "group-not-found"),
    (nothing, SetPreferredOwners(group=SQL, nodes=(NOBODY,)), "node-not-found"),
    (nothing, SetPreferredOwners(group=SQL, nodes=(N1, N1)), "bad-argument"),
    (nothing, OnlineGroup(group=NOWHERE), "group-not-found"),
    (nothing, OnlineGroup(group=SQL, to=NOBODY), "node-not-found"),
    (n2_down, OnlineGroup(group=SQL, to=N2), "node-down"),
    (n2_paused, OnlineGroup(group=SQL, to=N2), "node-paused"),
    (n1_paused, OnlineGroup(group=SQL), "node-paused"),
    (n1_paused, OnlineGroup(group=SQL, to=N1), "node-paused"),
    (n2_stopping, OnlineGroup(group=SQL, to=N2), "node-stopping"),
    (app_not_on_n2, OnlineGroup(group=SQL, to=N2), "not-possible-owner"),
    (sql_moving, OnlineGroup(group=SQL, to=N3), "group-moving"),
    (bare_app, OnlineGroup(group=SQL), "bad-property"),
    (nothing, OfflineGroup(group=NOWHERE), "group-not-found"),
    # ownership
    (nothing, replace(move(N2), group=NOWHERE), "group-not-found"),
    (nothing, move(NOBODY), "node-not-found"),
    (n2_down, move(N2), "node-down"),
    (n2_paused, move(N2), "node-paused"),
    (n2_stopping, move(N2), "node-stopping"),
    (app_not_on_n2, move(N2), "not-possible-owner"),
    (sql_moving, move(N3), "group-moving"),
    (sql_moving, move(None), "group-moving"),
    (nothing, move(N2, MoveCause.FAILBACK, epoch=0), "stale"),
    (sql_released, move(N3, MoveCause.FAILBACK, epoch=1), "stale"),
    (nothing, assign(N2), "stale"),
    (sql_moving, assign(N2), "stale"),
    (sql_released, assign(N2, epoch=0), "stale"),
    (sql_released, assign(NOBODY), "node-not-found"),
    (nothing, AssignGroup(group=NOWHERE, epoch=0, to=N1, because=""), "group-not-found"),
    (both(sql_released, n2_down), assign(N2), "node-down"),
    (both(sql_released, n2_paused), assign(N2), "node-paused"),
    (both(sql_released, n2_stopping), assign(N2), "node-stopping"),
    (both(app_not_on_n2, sql_moving_anywhere), assign(N2), "stale"),
    (
        both(app_not_on_n2, n1_down),
        assign(N2),
        "not-possible-owner",
    ),
    (nothing, GroupReleased(group=NOWHERE, epoch=1, node=N1, because=""), "group-not-found"),
    (nothing, GroupReleased(group=SQL, epoch=0, node=N1, because=""), "stale"),
    (nothing, GroupReleased(group=SQL, epoch=1, node=N2, because=""), "stale"),
    (sql_released, GroupReleased(group=SQL, epoch=1, node=N1, because=""), "stale"),
    (nothing, RequestFailover(group=NOWHERE, epoch=1, resource=APP, because="", at_ms=1), "group-not-found"),
    (nothing, RequestFailover(group=SQL, epoch=1, resource=NOTHING, because="", at_ms=1), "resource-not-found"),
    (nothing, RequestFailover(group=SQL, epoch=0, resource=APP, because="", at_ms=1), "stale"),
    (nothing, RequestFailover(group=SQL, epoch=1, resource=SITE, because="", at_ms=1), "stale"),
    (sql_moving, RequestFailover(group=SQL, epoch=1, resource=APP, because="", at_ms=1), "stale"),
    (sql_released, RequestFailover(group=SQL, epoch=1, resource=APP, because="", at_ms=1), "stale"),
    (nothing, DenyFailover(group=NOWHERE, epoch=1, because="", halt=True), "group-not-found"),
    (nothing, DenyFailover(group=SQL, epoch=1, because="", halt=True), "stale"),
    # resources
    (nothing, replace(resource(NOTHING, SQL), group=NOWHERE), "group-not-found"),
    (nothing, replace(resource(NOTHING, SQL), resource=ResourceId("")), "bad-argument"),
    (nothing, replace(resource(NOTHING, SQL), resource=APP), "object-exists"),
    (nothing, replace(resource(NOTHING, SQL), name="App"), "object-exists"),
    (nothing, replace(resource(NOTHING, SQL), type="Toaster"), "type-not-found"),
    (nothing, replace(resource(NOTHING, SQL), private={"CommandLine": 7}), "bad-property"),
    (nothing, replace(resource(NOTHING, SQL), private={"Colour": "red"}), "bad-property"),
    (nothing, replace(resource(NOTHING, SQL), common={"RestartAction": 3}), "bad-property"),
    (nothing, replace(resource(NOTHING, SQL), common={"PersistentState": 1}, private={}), "bad-property"),
    (nothing, DeleteResource(resource=NOTHING), "resource-not-found"),
    (nothing, DeleteResource(resource=DISK), "dependents-exist"),
    (nothing, SetResourceProperties(resource=NOTHING), "resource-not-found"),
    (nothing, SetResourceProperties(resource=APP, common={"Type": "x"}), "read-only-property"),
    (nothing, SetResourceProperties(resource=APP, private={"CurrentDirectory": "here"}), "bad-property"),
    (n1_paused, SetResourceProperties(resource=APP, common={"PersistentState": 1}), "node-paused"),
    (nothing, OnlineResource(resource=NOTHING), "resource-not-found"),
    (n1_paused, OnlineResource(resource=APP), "node-paused"),
    (bare_app, OnlineResource(resource=ResourceId("bare")), "bad-property"),
    (
        app_not_on_n1,
        OnlineResource(resource=APP),
        "not-possible-owner",
    ),
    (nothing, OfflineResource(resource=NOTHING), "resource-not-found"),
    (nothing, FailResource(resource=NOTHING), "resource-not-found"),
    (nothing, FailResource(resource=APP), "resource-not-online"),
    # relations
    (nothing, AddDependency(resource=NOTHING, provider=APP), "resource-not-found"),
    (nothing, AddDependency(resource=APP, provider=NOTHING), "resource-not-found"),
    (nothing, AddDependency(resource=APP, provider=SITE), "dependency-other-group"),
    (nothing, AddDependency(resource=APP, provider=DISK), "dependency-exists"),
    (nothing, AddDependency(resource=DISK, provider=APP), "dependency-cycle"),
    (nothing, AddDependency(resource=APP, provider=APP), "dependency-cycle"),
    (
        both(app_online, bare_app),
        AddDependency(resource=APP, provider=ResourceId("bare")),
        "resource-online",
    ),
    (nothing, RemoveDependency(resource=NOTHING, provider=APP), "resource-not-found"),
    (nothing, RemoveDependency(resource=APP, provider=NOTHING), "resource-not-found"),
    (nothing, RemoveDependency(resource=DISK, provider=APP), "dependency-not-found"),
    (nothing, AddPossibleOwner(resource=NOTHING, node=N1), "resource-not-found"),
    (nothing, AddPossibleOwner(resource=APP, node=NOBODY), "node-not-found"),
    (nothing, AddPossibleOwner(resource=APP, node=N1), "object-exists"),
    (only_n1, AddPossibleOwner(resource=APP, node=N1), "object-exists"),
    (nothing, RemovePossibleOwner(resource=NOTHING, node=N1), "resource-not-found"),
    (nothing, RemovePossibleOwner(resource=APP, node=NOBODY), "node-not-found"),
    (only_n1, RemovePossibleOwner(resource=APP, node=N2), "owner-not-found"),
    (only_n1, RemovePossibleOwner(resource=APP, node=N1), "last-owner"),
    (nothing, MoveResource(resource=NOTHING, group=WEB), "resource-not-found"),
    (nothing, MoveResource(resource=APP, group=NOWHERE), "group-not-found"),
    (web_on_n2, MoveResource(resource=APP, group=WEB), "different-owners"),
    (nothing, MoveResource(resource=APP, group=CORE), "different-owners"),
    (sql_moving, MoveResource(resource=APP, group=WEB), "group-moving"),
    (sql_moving, MoveResource(resource=SITE, group=SQL), "group-moving"),
    # observations
    (nothing, ReportStates(node=NOBODY, incarnation=1, lines=()), "node-not-found"),
    (nothing, ReportStates(node=N1, incarnation=0, lines=()), "stale"),
    (n2_down, ReportStates(node=N2, incarnation=1, lines=()), "stale"),
    # nodes
    (nothing, NodeUp(node=NOBODY, incarnation=0, boot=1, attempt=1), "node-not-found"),
    (nothing, NodeUp(node=N1, incarnation=0, boot=9, attempt=9), "stale"),
    (nothing, NodeUp(node=N1, incarnation=1, boot=1, attempt=1), "stale"),
    (nothing, NodeUp(node=N1, incarnation=1, boot=0, attempt=9), "stale"),
    (nothing, NodeDown(node=NOBODY, incarnation=1, voters_version=3, because=""), "node-not-found"),
    (nothing, NodeDown(node=N1, incarnation=0, voters_version=3, because=""), "stale"),
    (nothing, NodeDown(node=N1, incarnation=1, voters_version=2, because=""), "voters-changed"),
    (n2_down, NodeDown(node=N2, incarnation=1, voters_version=3, because=""), "stale"),
    (nothing, ConfirmNodeDown(node=NOBODY), "node-not-found"),
    (nothing, StopNode(node=NOBODY), "node-not-found"),
    (n2_down, StopNode(node=N2), "node-down"),
    (nothing, PauseNode(node=NOBODY), "node-not-found"),
    (nothing, ResumeNode(node=NOBODY), "node-not-found"),
    (nothing, ResumeNode(node=N1), "node-not-paused"),
    (nothing, SetNodeProperties(node=NOBODY), "node-not-found"),
    (nothing, SetNodeProperties(node=N1, common={"NodeName": "x"}), "read-only-property"),
    (nothing, SetNodeProperties(node=N1, private={"x": 2**70}), "bad-property"),
    # members
    (nothing, ADMIT, "token-refused"),
    (token, replace(ADMIT, secret_sha256="b" * 64), "token-refused"),
    (token, replace(ADMIT, at_ms=2_000_000), "token-refused"),
    (token, replace(ADMIT, node_name="NODE5"), "token-refused"),
    (token, replace(ADMIT, addresses=()), "bad-argument"),
    (token, replace(ADMIT, port=0), "bad-argument"),
    (
        token_for_all,
        replace(ADMIT, node_name="node1"),
        "object-exists",
    ),
    (token_for_all, replace(ADMIT, node_name="7"), "bad-name"),
    (token_for_all, replace(ADMIT, node_name="a b"), "bad-name"),
    (token, TOKEN, "object-exists"),
    (nothing, replace(TOKEN, secret_sha256="x"), "bad-argument"),
    (nothing, replace(TOKEN, token=""), "bad-argument"),
    (nothing, replace(TOKEN, expires_ms=5), "bad-argument"),
    (nothing, replace(TOKEN, node_name="NODE2"), "object-exists"),
    (nothing, SetVoter(node=NOBODY, voter=True, voters_version=3), "node-not-found"),
    (nothing, SetVoter(node=N1, voter=False, voters_version=2), "voters-changed"),
    (one_voter, SetVoter(node=N1, voter=False, voters_version=5), "last-node"),
    (nothing, EvictNode(node=NOBODY), "node-not-found"),
    (nothing, EvictNode(node=N2), "node-up"),
    (one_voter, EvictNode(node=N1), "last-node"),
    (nothing, RemoveNode(node=NOBODY), "node-not-found"),
    (nothing, RemoveNode(node=N2), "node-up"),
    (n2_down, RemoveNode(node=N2), "node-votes"),
    (one_voter, RemoveNode(node=N1), "last-node"),
    # the cluster and names
    (nothing, SetClusterProperties(common={"TimingProfile": "fast"}), "bad-property"),
    (nothing, SetClusterProperties(common={"TimingProfile": "warp"}), "bad-property"),
    (nothing, SetClusterProperties(private={"": 1}), "bad-property"),
    (nothing, Rename(kind="toaster", id="", name="x"), "bad-argument"),
    (nothing, Rename(kind="cluster", id="", name=""), "bad-name"),
    (nothing, Rename(kind="node", id="9", name="x"), "node-not-found"),
    (nothing, Rename(kind="node", id="\u0661", name="x"), "node-not-found"),
    (nothing, Rename(kind="node", id="1", name="node2"), "object-exists"),
    (nothing, Rename(kind="group", id="none", name="x"), "group-not-found"),
    (nothing, Rename(kind="group", id=SQL, name="web"), "object-exists"),
    (nothing, Rename(kind="resource", id="none", name="x"), "resource-not-found"),
    (nothing, Rename(kind="resource", id=APP, name="disk"), "object-exists"),
]


@pytest.mark.parametrize(("prepare", "update", "code"), REFUSALS)
def test_refusal(prepare: Callable[[World], None], update: Update, code: str) -> None:
    """The refusal has its code, names a way out, and changes nothing but the memory of requests."""
    world = three_nodes()
    prepare(world)
    before = world.config
    assert before is not None
    applied = world.send(update)
    assert applied.refusal is not None
    assert code == applied.refusal.code, applied.refusal
    assert applied.refusal.message
    assert () == applied.records
    assert before == replace(applied.config, recent=before.recent)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": ""}, "bad-name"),
        ({"node_name": "no blanks"}, "bad-name"),
        ({"timing_profile": "warp"}, "bad-property"),
        ({"utc_offset_min": 900}, "bad-property"),
        ({"group": GroupId("")}, "bad-argument"),
        ({"addresses": ()}, "bad-argument"),
        ({"port": 70_000}, "bad-argument"),
    ],
)
def test_founding_is_refused(change: dict[str, object], code: str) -> None:
    """A cluster that cannot be founded leaves none behind, and the next try may succeed."""
    world = World()
    refusal = world.send(replace(FOUND, **change)).refusal  # type: ignore[arg-type]
    assert refusal is not None
    assert code == refusal.code
    world.do(FOUND)


def test_nothing_happens_without_a_cluster() -> None:
    """Everything but founding is refused before."""
    refusal = World().send(PauseNode(node=N1)).refusal
    assert refusal is not None
    assert "no-cluster" == refusal.code

"""A small cluster for tests of ``apply``: short names, and every change goes through the function under test."""

from __future__ import annotations

from clussvc.global_update.apply import Applied, apply
from clussvc.global_update.update import (
    AddDependency,
    AddJoinToken,
    AdmitNode,
    AssignGroup,
    CreateGroup,
    CreateResource,
    FoundCluster,
    GroupReleased,
    NodeUp,
    Proposal,
    ReportStates,
    ResourceFailure,
    ResourceStatus,
    SetGroupProperties,
    SetVoter,
    Update,
)
from clussvc.model.config import Config, Group, Node, Resource
from clussvc.model.ids import GroupId, NodeId, RequestId, ResourceId
from clussvc.model.records import Record
from clussvc.model.states import ResourceState

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
CORE, SQL, WEB = GroupId("core"), GroupId("sql"), GroupId("web")
WEB_1, WEB_2, WEB_3 = GroupId("web#1"), GroupId("web#2"), GroupId("web#3")
SITE_1, SITE_2 = ResourceId("site#1"), ResourceId("site#2")
DISK, APP, SITE = ResourceId("disk"), ResourceId("app"), ResourceId("site")
SECRET = "a" * 64
FOUND = FoundCluster(
    name="CLUSTER",
    timing_profile="lan",
    node_name="NODE1",
    addresses=("192.0.2.1",),
    port=3343,
    admin_port=0,
    utc_offset_min=0,
    group=CORE,
)


class World:
    """The configuration and the count of proposals."""

    def __init__(self) -> None:
        self.config: Config | None = None
        self.records: tuple[Record, ...] = ()
        self._count = 0

    def send(self, update: Update, *, request: str = "") -> Applied:
        """Apply an update under a fresh request id, or under the given one."""
        self._count += 1
        proposal = Proposal(
            request=RequestId(request or f"request-{self._count}"),
            proposer=N1,
            at_ms=1_000_000 + self._count,
            update=update,
        )
        applied = apply(self.config, proposal)
        self.config, self.records = applied.config, applied.records
        return applied

    def do(self, *updates: Update) -> World:
        """Apply updates that must all be accepted."""
        for update in updates:
            refusal = self.send(update).refusal
            assert refusal is None, (update, refusal)
        return self

    def node(self, node: NodeId) -> Node:
        assert self.config is not None
        return self.config.nodes[node]

    def group(self, group: GroupId) -> Group:
        assert self.config is not None
        return self.config.groups[group]

    def resource(self, resource: ResourceId) -> Resource:
        assert self.config is not None
        return self.config.resources[resource]

    def up(self, node: NodeId) -> World:
        """Admit the node's next incarnation."""
        known = self.node(node)
        return self.do(NodeUp(node=node, incarnation=known.incarnation, boot=known.boot + 1, attempt=1))

    def assign(self, group: GroupId, to: NodeId) -> World:
        return self.do(AssignGroup(group=group, epoch=self.group(group).epoch, to=to, because="a test"))

    def report(self, resource: ResourceId, state: ResourceState, detail: str = "") -> World:
        """The owner of the resource reports a state, and the failure that led to it."""
        owner = self.group(self.resource(resource).group).owner
        assert owner is not None
        failed = state is ResourceState.FAILED
        return self.do(
            ReportStates(
                node=owner,
                incarnation=self.node(owner).incarnation,
                lines=(ResourceStatus(resource=resource, state=state, detail=detail),),
                failures=(ResourceFailure(resource=resource, detail=detail),) if failed else (),
            )
        )


def join(world: World, name: str) -> World:
    """One more member that votes."""
    assert world.config is not None
    node = NodeId(world.config.next_node_id)
    token = f"token-{name}"
    world.do(
        AddJoinToken(token=token, secret_sha256=SECRET, expires_ms=2_000_000),
        AdmitNode(
            token=token,
            secret_sha256=SECRET,
            node_name=name,
            addresses=(f"192.0.2.{node}",),
            port=3343,
            admin_port=0,
            at_ms=1_500_000,
        ),
    )
    return world.up(node).do(SetVoter(node=node, voter=True, voters_version=world.config.voters_version))


def resource(name: ResourceId, group: GroupId) -> CreateResource:
    return CreateResource(
        resource=name,
        name=str(name).upper(),
        type="Generic Application",
        group=group,
        private={"CommandLine": "sleep 1000"},
    )


def three_nodes() -> World:
    """NODE1 to NODE3 up; SQL (APP needs DISK) and WEB (SITE) on NODE1, offline; the core group unowned."""
    world = World().do(FOUND).up(N1)
    join(join(world, "NODE2"), "NODE3")
    world.do(
        CreateGroup(group=SQL, name="SQL"),
        CreateGroup(group=WEB, name="WEB"),
        resource(DISK, SQL),
        resource(APP, SQL),
        AddDependency(resource=APP, provider=DISK),
        resource(SITE, WEB),
    )
    return world.assign(SQL, N1).assign(WEB, N1)


def parallel_nodes() -> World:
    """The same, but WEB is parallel: WEB#1 on NODE1, WEB#2 on NODE2, at most two; NODE3 is spare. All offline."""
    world = three_nodes()
    world.do(SetGroupProperties(group=WEB, common={"GroupType": "Parallel", "MaxInstances": 2}, instances=True))
    world.do(GroupReleased(group=WEB, epoch=world.group(WEB).epoch, node=N1, because="it is to run in instances"))
    return world.assign(WEB_1, N1).assign(WEB_2, N2)

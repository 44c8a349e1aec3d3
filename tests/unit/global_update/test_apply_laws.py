"""Laws that hold whatever is proposed, in whatever order: random updates against the rules R1 to R3.

The updates are drawn over a few identifiers, and preconditions (epochs, incarnations, versions) around the values that
hold, so that many are accepted and many come late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clussvc.global_update.apply import Applied, apply
from clussvc.global_update.instances import with_instances
from clussvc.global_update.update import (
    AddDependency,
    AddJoinToken,
    AddPossibleOwner,
    AdmitNode,
    AssignGroup,
    Batch,
    ClearQuarantine,
    CloseWitness,
    ConfirmNodeDown,
    CreateFenceDevice,
    CreateGroup,
    CreateResource,
    DeleteFenceDevice,
    DeleteGroup,
    DeleteResource,
    DenyFailover,
    DropVote,
    EvictNode,
    FailResource,
    FencingFailed,
    FoundCluster,
    GroupReleased,
    MoveGroup,
    MoveResource,
    NodeDown,
    NodeFenced,
    NodeSettled,
    NodeUp,
    OfflineGroup,
    OfflineResource,
    OnlineGroup,
    OnlineResource,
    OpenWitness,
    PauseNode,
    Proposal,
    RemoveDependency,
    RemoveNode,
    RemovePossibleOwner,
    Rename,
    ReportInterfaces,
    ReportStates,
    RequestFailover,
    ResourceFailure,
    ResourceStatus,
    ResumeNode,
    SetClusterProperties,
    SetFenceDeviceProperties,
    SetGroupProperties,
    SetNetworkPriorities,
    SetNetworkProperties,
    SetNodeProperties,
    SetPreferredOwners,
    SetQuorum,
    SetResourceProperties,
    SetVoter,
    SetWitness,
    StopNode,
    Update,
)
from clussvc.model.config import PING_TARGETS, Config, Interface
from clussvc.model.ids import FenceDeviceId, GroupId, NetworkId, NodeId, RequestId, ResourceId
from clussvc.model.monitoring import PropertyValue
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.records import Record
from clussvc.model.reports import Report
from clussvc.model.settings import FAILOVER_HISTORY_MAX, JOIN_TOKENS_MAX, RECENT_REQUESTS_MAX
from clussvc.model.states import MoveCause, ResourceState
from clussvc.resources.dependency import graph_of, online_waves

from .world import CORE, SECRET, SQL, WEB, parallel_nodes, resource, three_nodes

BASE = three_nodes().do(resource(ResourceId("r4"), SQL), resource(ResourceId("r5"), SQL)).config
PARALLEL = parallel_nodes().config

NODES = st.sampled_from([NodeId(number) for number in range(1, 6)])
INSTANCES = (GroupId("web#1"), GroupId("web#2"), GroupId("web#3"))
GROUPS = st.sampled_from([CORE, SQL, WEB, *INSTANCES, GroupId("g4"), GroupId("")])
RESOURCES = st.sampled_from([ResourceId(name) for name in ("disk", "app", "site", "site#1", "site#2", "r4", "r5")])
DEVICES = st.sampled_from([FenceDeviceId("ipmi"), FenceDeviceId("pdu"), FenceDeviceId("")])
NETWORKS = st.sampled_from([NetworkId("network-1"), NetworkId("network-2")])
SMALL = st.integers(0, 4)
QUORUMS = st.builds(
    Quorum,
    kind=st.sampled_from(QuorumKind),
    device=st.sampled_from(["/dev/sdb", ""]),
    disk=st.sampled_from(["0" * 15 + "1", "0" * 15 + "2"]),
    sectors=st.just(25_600),
    generation=st.integers(0, 3),
)
CAUSES = st.sampled_from(MoveCause)
WORDS = st.sampled_from(["why", "", "NODE4", "x" * 300, "\x00", "/x", "Group 4"])
NAMES = st.sampled_from(["SQL", "new", "New", "App 2", "NODE4", "NODE5", "", " x", "7", "\ud800", "WEB#2", "SITE#1"])
VALUES: st.SearchStrategy[PropertyValue] = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**32 - 1, 2**80, "0x10", "1", "wan", "fast", ("a", "b"), "sleep 1", "Parallel", "failover"]),
)
COMMON_NAMES = [
    *("FailoverThreshold", "failoverperiod", "AutoFailbackType", "PersistentState", "RestartAction"),
    *("Description", "TimingProfile", "UtcOffsetMinutes", "Name", "Colour"),
    *("GroupType", "GroupType", "MaxInstances"),
    *("QuarantineThreshold", "FencingRequired", "DynamicVotes", "Action", "Order", "Role", "Priority"),
]
COMMON = st.dictionaries(st.sampled_from(COMMON_NAMES), st.none() | VALUES, max_size=2)
PRIVATE = st.dictionaries(
    st.sampled_from(["CommandLine", "commandline", "Other", "", PING_TARGETS]), st.none() | VALUES, max_size=2
)
STATUS = st.builds(ResourceStatus, resource=RESOURCES, state=st.sampled_from(ResourceState), detail=WORDS)
INTERFACE = st.builds(
    Interface,
    position=st.integers(0, 1),
    address=st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"]),
    prefix=st.sampled_from([0, 24, 30, 200]),
    trouble=st.sampled_from(["", "", "the link is down"]),
    silent=st.lists(NODES, max_size=3).map(tuple),
)
FAILURE = st.builds(ResourceFailure, resource=RESOURCES, detail=WORDS, count=st.integers(1, 9), ago_ms=SMALL)

LEAVES: st.SearchStrategy[Update] = st.one_of(
    st.builds(CreateGroup, group=GROUPS, name=NAMES, on=st.none() | NODES),
    st.builds(DeleteGroup, group=GROUPS),
    st.builds(SetGroupProperties, group=GROUPS, common=COMMON, private=PRIVATE, instances=st.booleans()),
    st.builds(SetGroupProperties, group=GROUPS, common=COMMON, expected_common=COMMON, expected_private=PRIVATE),
    st.builds(SetPreferredOwners, group=GROUPS, nodes=st.lists(NODES, max_size=3).map(tuple)),
    st.builds(OnlineGroup, group=GROUPS, to=st.none() | NODES),
    st.builds(OfflineGroup, group=GROUPS),
    st.builds(MoveGroup, group=GROUPS, to=st.none() | NODES, cause=CAUSES, because=WORDS, epoch=st.none() | SMALL),
    st.builds(
        CreateResource,
        resource=RESOURCES,
        name=NAMES,
        type=st.sampled_from(["Generic Application", "generic script", "Toaster"]),
        group=GROUPS,
        common=COMMON,
        private=PRIVATE,
    ),
    st.builds(DeleteResource, resource=RESOURCES),
    st.builds(SetResourceProperties, resource=RESOURCES, common=COMMON, private=PRIVATE),
    st.builds(AddDependency, resource=RESOURCES, provider=RESOURCES),
    st.builds(RemoveDependency, resource=RESOURCES, provider=RESOURCES),
    st.builds(AddPossibleOwner, resource=RESOURCES, node=NODES),
    st.builds(RemovePossibleOwner, resource=RESOURCES, node=NODES),
    st.builds(MoveResource, resource=RESOURCES, group=GROUPS),
    st.builds(OnlineResource, resource=RESOURCES),
    st.builds(OfflineResource, resource=RESOURCES),
    st.builds(FailResource, resource=RESOURCES),
    st.builds(
        Rename,
        kind=st.sampled_from(["cluster", "node", "group", "resource", "network", "toaster"]),
        id=st.sampled_from(["", "1", "2", "sql", "app", "network-1", "none", "\u00b2"]),
        name=NAMES,
    ),
    st.builds(PauseNode, node=NODES),
    st.builds(ResumeNode, node=NODES),
    st.builds(StopNode, node=NODES),
    st.builds(ConfirmNodeDown, node=NODES),
    st.builds(ClearQuarantine, node=NODES),
    st.builds(SetQuorum, kind=st.none() | st.sampled_from(QuorumKind), max_log_kb=SMALL),
    st.builds(NodeSettled, node=NODES, incarnation=SMALL, settling_version=st.integers(3, 7)),
    st.builds(CreateFenceDevice, device=DEVICES, name=NAMES, node=NODES, agent=WORDS, common=COMMON, private=PRIVATE),
    st.builds(DeleteFenceDevice, device=DEVICES),
    st.builds(SetFenceDeviceProperties, device=DEVICES, common=COMMON, private=PRIVATE),
    st.builds(NodeFenced, node=NODES, incarnation=SMALL, because=WORDS),
    st.builds(FencingFailed, node=NODES, incarnation=SMALL, because=WORDS),
    st.builds(SetNodeProperties, node=NODES, common=COMMON, private=PRIVATE),
    st.builds(SetNetworkPriorities, networks=st.lists(NETWORKS, max_size=2).map(tuple)),
    st.builds(SetNetworkProperties, network=NETWORKS, common=COMMON, private=PRIVATE),
    st.builds(ReportInterfaces, node=NODES, incarnation=SMALL, interfaces=st.lists(INTERFACE, max_size=2).map(tuple)),
    st.builds(SetClusterProperties, common=COMMON, private=PRIVATE),
    st.builds(AddJoinToken, token=NAMES, secret_sha256=st.just(SECRET), expires_ms=SMALL, at_ms=SMALL, node_name=NAMES),
    st.builds(
        FoundCluster,
        name=NAMES,
        timing_profile=WORDS,
        node_name=NAMES,
        addresses=st.just(("192.0.2.1",)),
        port=SMALL,
        admin_port=SMALL,
        utc_offset_min=SMALL,
        group=GROUPS,
    ),
    st.builds(
        AdmitNode,
        token=NAMES,
        secret_sha256=st.just(SECRET),
        node_name=NAMES,
        addresses=st.just(("192.0.2.9",)),
        port=st.just(3343),
        admin_port=SMALL,
        at_ms=SMALL,
    ),
    st.builds(SetVoter, node=NODES, voter=st.booleans(), voters_version=st.integers(3, 7)),
    st.builds(SetWitness, path=st.sampled_from(["/srv/witness", "/other", "", "x"]), token=st.just("0" * 16)),
    st.builds(OpenWitness, voters_version=st.integers(3, 7)),
    st.builds(CloseWitness, voters_version=st.integers(3, 7)),
    st.builds(DropVote, node=NODES, voters_version=st.integers(3, 7)),
    st.builds(EvictNode, node=NODES),
    st.builds(RemoveNode, node=NODES),
    st.builds(NodeUp, node=NODES, incarnation=SMALL, boot=SMALL, attempt=SMALL),
    st.builds(
        NodeDown,
        node=NODES,
        incarnation=SMALL,
        voters_version=st.integers(3, 7),
        because=WORDS,
        stopped=st.booleans(),
    ),
    st.builds(AssignGroup, group=GROUPS, epoch=SMALL, to=NODES, because=WORDS, counts_as_failover=st.booleans()),
    st.builds(GroupReleased, group=GROUPS, epoch=SMALL, node=NODES, because=WORDS),
    st.builds(RequestFailover, group=GROUPS, epoch=SMALL, resource=RESOURCES, because=WORDS, at_ms=SMALL),
    st.builds(DenyFailover, group=GROUPS, epoch=SMALL, because=WORDS, halt=st.booleans()),
    st.builds(
        ReportStates,
        node=NODES,
        incarnation=SMALL,
        lines=st.lists(STATUS, max_size=3).map(tuple),
        failures=st.lists(FAILURE, max_size=2).map(tuple),
    ),
)
"""One strategy for each update, so that none is forgotten (see test_every_update_is_drawn)."""

REQUESTS = st.integers(0, 10_000)


def fitted(config: Config, update: Update) -> Update:
    """The update with the preconditions that hold now; otherwise nearly all would come too late."""
    match update:
        case NodeUp() if update.node in config.nodes:
            node = config.nodes[update.node]
            return replace(update, incarnation=node.incarnation, boot=node.boot, attempt=node.attempt + 1)
        case NodeDown() if update.node in config.nodes:
            incarnation = config.nodes[update.node].incarnation
            return replace(update, incarnation=incarnation, voters_version=config.voters_version)
        case SetVoter() | OpenWitness() | CloseWitness() | DropVote():
            return replace(update, voters_version=config.voters_version)
        case ReportStates() if update.node in config.nodes:
            return replace(update, incarnation=config.nodes[update.node].incarnation)
        case ReportInterfaces() if update.node in config.nodes:
            node = config.nodes[update.node]
            told = update.interfaces[0] if update.interfaces else Interface(position=0, address="")
            told = replace(told, position=0, address=node.addresses[0])
            return replace(update, incarnation=node.incarnation, interfaces=(told,))
        case AssignGroup() if update.group in config.groups:
            able = [node.id for node in config.nodes.values() if node.up and not node.paused and not node.stopping]
            epoch = config.groups[update.group].epoch
            return replace(update, epoch=epoch, to=update.to if update.to in able else [*able, update.to][0])
        case DenyFailover() if update.group in config.groups:
            return replace(update, epoch=config.groups[update.group].epoch)
        case MoveGroup():
            return replace(update, epoch=None)
        case GroupReleased() if update.group in config.groups:
            group = config.groups[update.group]
            return replace(update, epoch=group.epoch, node=group.owner or update.node)
        case RequestFailover() if update.resource in config.resources:
            home = config.groups[config.resources[update.resource].group]
            return replace(update, group=home.id, epoch=home.epoch)
        case AdmitNode() if config.tokens:
            token = next(iter(config.tokens.values()))
            return replace(update, token=token.id, node_name=token.node_name or update.node_name, at_ms=0)
        case _:
            return update


def test_every_update_is_drawn() -> None:
    """The list above names every update there is."""
    drawn = {name for name in globals() if isinstance(globals()[name], type)}
    wanted = {kind.__name__ for kind in Update.__args__}
    assert wanted <= drawn


def check_configuration(config: Config) -> None:
    """What is true of every configuration that the log can lead to."""
    for group in config.groups.values():
        owner = group.owned
        assert owner is None or config.nodes[owner].up, "only a node that is up owns a group"
        assert group.owner is None or group.owner in config.nodes
        assert len(group.failovers) <= FAILOVER_HISTORY_MAX
        assert all(node in config.nodes for node in group.preferred_owners)
        if group.released:
            assert all(r.state is ResourceState.OFFLINE for r in config.resources_of(group.id)), "nobody runs it"
            assert group.failover is None
        if group.failover is not None:
            assert config.resources[group.failover.resource].group == group.id
    check_instances(config)
    for each in config.resources.values():
        assert each.group in config.groups
        assert all(config.resources[provider].group == each.group for provider in each.depends_on)
        assert all(node in config.nodes for node in each.possible_owners or ())
    online_waves(graph_of(config.resources.values()))
    for kind in (config.nodes, config.groups, config.resources):
        names = [thing.name.casefold() for thing in kind.values()]
        assert len(names) == len(set(names))
    names = [network.name.casefold() for network in config.all_networks]
    assert len(names) == len(set(names))
    assert config.internal_positions, "nodes can hear each other somewhere"
    assert config.voters, "somebody votes"
    assert not set(config.evicted) & set(config.nodes)
    assert all(node < config.next_node_id for node in (*config.nodes, *config.evicted))
    assert len(config.recent) <= RECENT_REQUESTS_MAX
    assert len(config.tokens) <= JOIN_TOKENS_MAX


def check_instances(config: Config) -> None:
    """What is true of parallel groups, and of nothing else."""
    again, told = with_instances(config)
    assert (config.groups, config.resources, ()) == (again.groups, again.resources, told), "all is in step already"
    for group in config.groups.values():
        instances = config.instances_of(group.id)
        owners = [each.owned for each in instances if each.owned is not None]
        assert len(owners) == len(set(owners)), "two instances of a group on one node"
        assert not instances or group.released, "owned itself while it has instances"
        assert len(instances) <= 64
        present = [each for each in instances if each.move is None or each.owned is None]
        if group.parallel and group.max_instances:
            assert len(present) <= group.max_instances
        for instance in instances:
            assert instance.name == f"{group.name}#{instance.instance}"
            assert instance.preferred_owners == group.preferred_owners
            mine = [config.resources[each.instance_of] for each in config.resources_of(instance.id) if each.instance_of]
            assert mine == list(config.resources_of(group.id)), "an instance has the resources of its group"
        if group.instance_of is not None:
            assert group in config.instances_of(group.instance_of)
        if group.parallel and group.released:
            assert group.move is None
            assert all(each.state is ResourceState.OFFLINE for each in config.resources_of(group.id))
    for resource_ in config.resources.values():
        assert (resource_.instance_of is None) == (config.groups[resource_.group].instance_of is None)


def check_step(before: Config, applied: Applied, update: Update) -> None:
    """What is true of every step from one configuration to the next by one plain update."""
    after = applied.config
    assert (before.cluster, before.default_group) == (after.cluster, after.default_group)
    if applied.refusal is not None:
        assert before == replace(after, recent=before.recent)
        assert () == applied.records
    for group in after.groups.values():
        old = before.groups.get(group.id)
        if old is None:
            assert group.released
            continue
        if group.instance_of is None and before.instances_of(group.id):
            # It remembers the epochs of instances that are gone.
            assert old.epoch <= group.epoch
            assert group.released
            continue
        assert old.epoch <= group.epoch <= old.epoch + 1
        if group.epoch > old.epoch:
            assert old.released, "assigned without a release"
            assert isinstance(update, AssignGroup)
        elif old.released:
            assert group.released, "owned again under an old epoch"
    changed_votes = before.voters ^ after.voters
    assert len(changed_votes) <= 1
    assert not changed_votes or after.voters_version == before.voters_version + 1
    if changed_votes and before.witness_open:
        assert isinstance(update, DropVote), "the voters changed under an open witness"
        assert after.voters < before.voters
    if after.witness_open and not before.witness_open:
        assert isinstance(update, OpenWitness)
        assert len(after.voters) % 2 == 0
    assert not after.witness_open or len(after.voters) % 2 == 0
    assert before.timing == after.timing or after.voters_version == before.voters_version + 1
    assert before.next_node_id <= after.next_node_id
    for node in after.nodes.values():
        known = before.nodes.get(node.id)
        assert known is None or known.incarnation <= node.incarnation
    assert all(map(speaks, applied.records))


def speaks(record: Record) -> bool:
    return bool(record.name and record.message and record.kind)


def proposal(request: int, update: Update) -> Proposal:
    return Proposal(request=RequestId(f"law-{request}"), proposer=NodeId(1), at_ms=2, update=update)


Step = tuple[int, bool, Update]
CUTS: st.SearchStrategy[Update] = st.builds(SetQuorum, quorum=QUORUMS, voters_version=st.integers(3, 7))
"""They are the end of a log, and so must not be part of a batch."""
STEPS = st.tuples(REQUESTS, st.sampled_from([True, True, True, False]), LEAVES | CUTS)


def run(
    steps: list[Step], look: Callable[[Config, Applied, Update], None] | None = None, base: Config | None = BASE
) -> Config:
    assert base is not None
    config = base
    for request, fit, drawn in steps:
        update = fitted(config, drawn) if fit else drawn
        applied = apply(config, proposal(request, update))
        if look is not None:
            look(config, applied, update)
        config = applied.config
    return config


LIMITS = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@given(steps=st.lists(STEPS, min_size=15, max_size=60))
@LIMITS
def test_every_step_keeps_the_rules(steps: list[Step]) -> None:
    """Never raises; every configuration and every step is lawful; the same sequence leads to the same end."""

    def look(before: Config, applied: Applied, update: Update) -> None:
        check_step(before, applied, update)
        check_configuration(applied.config)

    assert run(steps, look) == run(steps)


@given(steps=st.lists(STEPS, min_size=15, max_size=60))
@LIMITS
def test_every_step_keeps_the_rules_of_instances(steps: list[Step]) -> None:
    """The same from a cluster with a parallel group; and no epoch is ever given twice, whatever the instances do."""
    given_: dict[GroupId, int] = {}

    def look(before: Config, applied: Applied, update: Update) -> None:
        check_step(before, applied, update)
        check_configuration(applied.config)
        for group in applied.config.groups.values():
            old = before.groups.get(group.id)
            if group.owned is not None and (old is None or old.released):
                assert group.epoch > given_.get(group.id, 0), "an epoch was given a second time"
                given_[group.id] = group.epoch

    run(steps, look, PARALLEL)


@given(steps=st.lists(STEPS, max_size=15), data=st.data())
@LIMITS
def test_repeating_requests_changes_nothing(steps: list[Step], data: st.DataObject) -> None:
    """Any earlier request may come again, whatever it carries: same answer, same configuration, no record."""
    config = run(steps)
    for request, _, _ in steps:
        other = data.draw(LEAVES)
        again = apply(config, proposal(request, other))
        assert again.config is config
        assert () == again.records
        assert config.recent[RequestId(f"law-{request}")] == again.refusal


@given(updates=st.lists(LEAVES, max_size=12))
@LIMITS
def test_a_batch_is_its_updates_in_order(updates: list[Update]) -> None:
    """One entry or many: the same end, the same records, and the first refusal is the answer."""
    assert BASE is not None
    batch = apply(BASE, proposal(0, Batch(updates=tuple(updates))))
    config = BASE
    refusals: list[Report] = []
    records: list[Record] = []
    for number, update in enumerate(updates):
        applied = apply(config, proposal(number, update))
        config = applied.config
        refusals += [applied.refusal] if applied.refusal else []
        records += applied.records
    assert replace(config, recent={}) == replace(batch.config, recent={})
    assert tuple(records) == batch.records
    assert (refusals[0] if refusals else None) == batch.refusal

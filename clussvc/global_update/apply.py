"""The one function that changes the replicated configuration.

Every node applies every entry of the log with it, in the same order, and so all have the same configuration at the same
index. It reads no clock and no file, never raises for a well-typed update, and never changes its arguments. What an
update does is told in the ``apply_*`` modules, one idea each; this module holds what is common to all:

* an update whose request id was applied lately has no second effect and gets the same answer again (rule R1);
* a refused update changes nothing but that memory;
* a batch is applied in order, each update accepted or refused by itself; the answer to the batch is its first refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from clussvc.global_update import (
    apply_cluster,
    apply_fence,
    apply_group,
    apply_member,
    apply_network,
    apply_node,
    apply_ownership,
    apply_quorum,
    apply_relation,
    apply_resource,
    apply_states,
    apply_witness,
)
from clussvc.global_update.instances import with_instances
from clussvc.global_update.outcome import Done, Result
from clussvc.global_update.refusals import batch_too_long, no_cluster, quorum_in_batch, request_in_batch
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
from clussvc.model.config import Config
from clussvc.model.ids import ClusterId, RequestId
from clussvc.model.records import RECORDS_PER_ENTRY_MAX, Record
from clussvc.model.reports import Report, object_exists
from clussvc.model.settings import RECENT_REQUESTS_MAX

BATCH_UPDATES_MAX = 2_000
"""Updates in one batch; a longer one is refused as a whole."""

_NOTHING = Config(cluster=ClusterId(""), name="")
"""What a log starts from. Only FoundCluster is accepted here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What applying a proposal led to.

    ``config`` is the same object as before if nothing at all changed. ``records`` are for the event history, in order.
    """

    config: Config
    refusal: Report | None
    records: tuple[Record, ...] = ()


def founded(config: Config | None) -> bool:
    """Whether there is a cluster: some FoundCluster was accepted."""
    return config is not None and config.cluster != ""


def apply(config: Config | None, proposal: Proposal) -> Applied:
    """Apply one entry of the log. ``config`` None: nothing was applied yet, and only FoundCluster is accepted.

    If even that is refused, the answer holds a configuration without a cluster (see :func:`founded`), which remembers
    the request.
    """
    before = config if config is not None else _NOTHING
    if proposal.request in before.recent:
        return Applied(config=before, refusal=before.recent[proposal.request])
    after, refusal, records = _apply_all(before, proposal)
    return Applied(
        config=replace(after, recent=_remember(before, proposal.request, refusal)),
        refusal=refusal,
        records=_bounded(records),
    )


def _apply_all(config: Config, proposal: Proposal) -> tuple[Config, Report | None, list[Record]]:
    update = proposal.update
    if not isinstance(update, Batch):
        updates: tuple[Update, ...] = (update,)
    elif len(update.updates) > BATCH_UPDATES_MAX:
        return config, batch_too_long(len(update.updates), BATCH_UPDATES_MAX), []
    else:
        updates = update.updates
    refusal: Report | None = None
    records: list[Record] = []
    for each in updates:
        if len(updates) > 1 and isinstance(each, SetQuorum) and each.quorum is not None:
            # What came behind it would have been decided by the quorum that is left.
            result: Result = quorum_in_batch()
        else:
            result = _apply_one(config, each, proposal)
        if isinstance(result, Done):
            config = result.config
            records += result.records
        elif refusal is None:
            refusal = result
    return config, refusal, records


def _remember(config: Config, request: RequestId, refusal: Report | None) -> dict[RequestId, Report | None]:
    recent = dict(config.recent)
    while len(recent) >= RECENT_REQUESTS_MAX:
        del recent[next(iter(recent))]
    recent[request] = refusal
    return recent


def _bounded(records: list[Record]) -> tuple[Record, ...]:
    """At most as many records as an entry has places; the last one counts those that found none."""
    if len(records) <= RECORDS_PER_ENTRY_MAX:
        return tuple(records)
    kept = records[: RECORDS_PER_ENTRY_MAX - 1]
    count = len(records) - len(kept)
    return (
        *kept,
        Record(
            name="cluster.more",
            message=f"{count} more things happened in the same step.",
            kind="cluster",
            object="",
            because=f"a step has at most {RECORDS_PER_ENTRY_MAX} records",
        ),
    )


def _apply_one(config: Config, update: Update, proposal: Proposal) -> Result:
    """One update that is not a batch."""
    if isinstance(update, Batch):
        return request_in_batch()
    if isinstance(update, FoundCluster):
        if founded(config):
            return object_exists("cluster", config.name)
        return apply_cluster.found_cluster(proposal.request, update)
    if not founded(config):
        return no_cluster()
    result = _dispatch(config, update, proposal.at_ms)
    if not isinstance(result, Done):
        return result
    after = result.config
    if _may_change_instances(config, after, update):
        after, told = with_instances(after, config)
        result = Done(config=after, records=(*result.records, *told))
    if after.nodes is not config.nodes or after.networks is not config.networks:
        result = replace(result, records=(*result.records, *apply_network.told(config, after)))
    return result


def _may_change_instances(before: Config, after: Config, update: Update) -> bool:
    """Whether parallel groups have to be looked at. States, which are reported all the time, change nothing of them."""
    if isinstance(update, ReportStates):
        return False
    return (
        after.groups is not before.groups or after.resources is not before.resources or after.nodes is not before.nodes
    )


def _dispatch(config: Config, update: Update, at_ms: int) -> Result:
    match update:
        case CreateGroup():
            return apply_group.create_group(config, update)
        case DeleteGroup():
            return apply_group.delete_group(config, update)
        case SetGroupProperties():
            return apply_group.set_group_properties(config, update)
        case SetPreferredOwners():
            return apply_group.set_preferred_owners(config, update)
        case OnlineGroup():
            return apply_group.online_group(config, update)
        case OfflineGroup():
            return apply_group.offline_group(config, update)
        case MoveGroup():
            return apply_ownership.move_group(config, update, at_ms)
        case AssignGroup():
            return apply_ownership.assign_group(config, update, at_ms)
        case GroupReleased():
            return apply_ownership.group_released(config, update)
        case RequestFailover():
            return apply_ownership.request_failover(config, update, at_ms)
        case DenyFailover():
            return apply_ownership.deny_failover(config, update)
        case CreateResource():
            return apply_resource.create_resource(config, update)
        case DeleteResource():
            return apply_resource.delete_resource(config, update)
        case SetResourceProperties():
            return apply_resource.set_resource_properties(config, update)
        case OnlineResource():
            return apply_resource.online_resource(config, update)
        case OfflineResource():
            return apply_resource.offline_resource(config, update)
        case FailResource():
            return apply_resource.fail_resource(config, update)
        case AddDependency():
            return apply_relation.add_dependency(config, update)
        case RemoveDependency():
            return apply_relation.remove_dependency(config, update)
        case AddPossibleOwner():
            return apply_relation.add_possible_owner(config, update)
        case RemovePossibleOwner():
            return apply_relation.remove_possible_owner(config, update)
        case MoveResource():
            return apply_relation.move_resource(config, update)
        case ReportStates():
            return apply_states.report_states(config, update)
        case NodeUp():
            return apply_node.node_up(config, update, at_ms)
        case NodeDown():
            return apply_node.node_down(config, update, at_ms)
        case NodeFenced():
            return apply_node.node_fenced(config, update, at_ms)
        case NodeSettled():
            return apply_node.node_settled(config, update)
        case FencingFailed():
            return apply_node.fencing_failed(config, update)
        case ConfirmNodeDown():
            return apply_node.confirm_node_down(config, update, at_ms)
        case ClearQuarantine():
            return apply_node.clear_quarantine(config, update)
        case CreateFenceDevice():
            return apply_fence.create_fence_device(config, update)
        case DeleteFenceDevice():
            return apply_fence.delete_fence_device(config, update)
        case SetFenceDeviceProperties():
            return apply_fence.set_fence_device_properties(config, update)
        case StopNode():
            return apply_node.stop_node(config, update)
        case PauseNode():
            return apply_node.pause_node(config, update)
        case ResumeNode():
            return apply_node.resume_node(config, update)
        case SetNodeProperties():
            return apply_node.set_node_properties(config, update)
        case AdmitNode():
            return apply_member.admit_node(config, update)
        case SetVoter():
            return apply_member.set_voter(config, update)
        case EvictNode():
            return apply_member.evict_node(config, update)
        case RemoveNode():
            return apply_member.remove_node(config, update)
        case SetNetworkProperties():
            return apply_network.set_network_properties(config, update)
        case SetNetworkPriorities():
            return apply_network.set_network_priorities(config, update)
        case ReportInterfaces():
            return apply_network.report_interfaces(config, update)
        case Rename():
            return apply_cluster.rename(config, update)
        case SetClusterProperties():
            return apply_cluster.set_cluster_properties(config, update)
        case SetQuorum():
            return apply_quorum.set_quorum(config, update)
        case SetWitness():
            return apply_witness.set_witness(config, update)
        case OpenWitness():
            return apply_witness.open_witness(config, update)
        case CloseWitness():
            return apply_witness.close_witness(config, update)
        case DropVote():
            return apply_witness.drop_vote(config, update)
        case AddJoinToken():
            return apply_cluster.add_join_token(config, update, update.at_ms or at_ms)
        case FoundCluster() | Batch():
            raise AssertionError("founding and batches are handled before")
        case _:
            assert_never(update)

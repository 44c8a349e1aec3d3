"""Every change of the replicated configuration, as a typed value.

An update names what it wants and the *preconditions* under which it was decided (an epoch, an incarnation, the version
of the set of voters). :func:`~clussvc.global_update.apply.apply` refuses it when they no longer hold, so of two
coordinators that race only one wins (rule R1). Updates carry identifiers, never names, and every time in them was read
by the proposer, so that applying is the same on all nodes.

A :class:`Proposal` wraps an update with its request id, so that a proposal sent twice takes effect once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clussvc.model.config import Interface
from clussvc.model.ids import FenceDeviceId, GroupId, NetworkId, NodeId, RequestId, ResourceId
from clussvc.model.monitoring import PropertyValue
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.states import MoveCause, ResourceState

# --- what administrators ask for -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateGroup:
    """A new empty group. The coordinator gives it an owner; ``on`` is preferred if it may own groups now."""

    group: GroupId
    name: str
    on: NodeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteGroup:
    """Refused while the group holds resources."""

    group: GroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class SetGroupProperties:
    """Change common properties (by the names of ``model.properties``) and private ones; None removes or resets.

    With ``expected_common`` or ``expected_private`` it is a compare-and-set: refused as a whole unless each property
    named there has that value when its turn comes in the log. None expects the default, or that there is none.
    """

    group: GroupId
    common: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    private: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    expected_common: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    expected_private: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    instances: bool = False
    """GroupType and MaxInstances may be set. Entries of earlier releases lack this, and those releases refused them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPreferredOwners:
    """The ordered list; empty clears it."""

    group: GroupId
    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineGroup:
    """Want all resources of the group online, on ``to`` if given."""

    group: GroupId
    to: NodeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineGroup:
    """Want all resources of the group offline."""

    group: GroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveGroup:
    """Change the owner. ``epoch`` None: whatever it is (an administrator); otherwise a precondition (the coordinator).

    ``to`` None asks the coordinator for the best possible node at the moment of release.
    """

    group: GroupId
    to: NodeId | None
    cause: MoveCause
    because: str
    epoch: int | None = None
    at_ms: int = 0
    """Wall clock; counted as a failover when the cause is RESOURCE_FAILURE or NETWORK_FAILURE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateResource:
    """A new resource, offline."""

    resource: ResourceId
    name: str
    type: str
    group: GroupId
    separate_monitor: bool = False
    common: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    private: Mapping[str, PropertyValue | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteResource:
    """Refused while others depend on it; the owner terminates it if it runs."""

    resource: ResourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResourceProperties:
    """Change common and private properties; None removes or resets. Private ones take effect at the next online."""

    resource: ResourceId
    common: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    private: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    because: str = ""
    """Who set them and why; empty: an administrator asked for it."""
    expected_private: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    """Refused as a whole unless each property named here has that value, or with None is not set, when the turn of
    the update comes in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddDependency:
    """``resource`` needs ``provider`` online first. Same group, no circles."""

    resource: ResourceId
    provider: ResourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDependency:
    """The inverse of AddDependency."""

    resource: ResourceId
    provider: ResourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class AddPossibleOwner:
    """Allow the resource on one more node."""

    resource: ResourceId
    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovePossibleOwner:
    """Forbid the resource on a node."""

    resource: ResourceId
    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveResource:
    """Put a resource, with everything that is tied to it by dependencies, into another group of the same owner."""

    resource: ResourceId
    group: GroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineResource:
    """Want the resource and its providers online."""

    resource: ResourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineResource:
    """Want the resource and its dependents offline."""

    resource: ResourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class FailResource:
    """Treat the online resource as failed, to try its restart policy."""

    resource: ResourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNetworkProperties:
    """Change common and private properties; None removes or resets. Refused if nodes could not hear each other then."""

    network: NetworkId
    common: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    private: Mapping[str, PropertyValue | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNetworkPriorities:
    """The order of the internal networks, all of which must be named."""

    networks: tuple[NetworkId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename:
    """Give an object another name. ``kind`` is cluster, node, group, resource or network; ``id`` empty for the
    cluster."""

    kind: str
    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseNode:
    """The node keeps its groups and receives none."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeNode:
    """End of a pause."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class StopNode:
    """Hand the node's groups over, then stop its service."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmNodeDown:
    """An administrator has made sure that the node does not run (power off); nobody waits any longer."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearQuarantine:
    """The node may be admitted again, and its earlier losses are forgotten."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateFenceDevice:
    """A new way to switch a node off."""

    device: FenceDeviceId
    name: str
    node: NodeId
    agent: str
    common: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    private: Mapping[str, PropertyValue | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteFenceDevice:
    """The node can no longer be switched off by it."""

    device: FenceDeviceId


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFenceDeviceProperties:
    """Change common properties and the agent's parameters; None removes or resets."""

    device: FenceDeviceId
    common: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    private: Mapping[str, PropertyValue | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNodeProperties:
    """Change common and private properties of a node."""

    node: NodeId
    common: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    private: Mapping[str, PropertyValue | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetClusterProperties:
    """Change common and private properties of the cluster."""

    common: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    private: Mapping[str, PropertyValue | None] = field(default_factory=dict)
    quicker: bool = False
    """A faster timing profile may be set. Entries of earlier releases lack this, and those releases refused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuorum:
    """Choose another quorum, or change the settings of this one. What is not given stays as it is."""

    kind: QuorumKind | None = None
    max_log_kb: int = 0
    hold_ms: int = 0
    """How long writing its slot keeps the owner of a quorum disk in office; -1: as the timing profile says."""
    quorum: Quorum | None = None
    """A quorum with another log, whole and of the next generation; this update is then the last one of the present log
    (docs/decisions/0020). It must not be part of a batch."""
    voters_version: int = 0
    """With ``quorum``: every node that is up has said that it acts by this version of the voters."""
    anew: bool = False
    """With ``quorum``: it may be the present one, whose log begins anew, as a node has lost its part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWitness:
    """Choose a file share witness, whose folder was prepared; an empty path: none."""

    path: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddJoinToken:
    """Permit one node to join until ``expires_ms`` (wall clock)."""

    token: str
    secret_sha256: str
    expires_ms: int
    node_name: str = ""
    at_ms: int = 0


# --- what the service itself proposes --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCluster:
    """The first update of every log: the cluster and its first node, which is a voter."""

    name: str
    timing_profile: str
    node_name: str
    addresses: tuple[str, ...]
    port: int
    admin_port: int
    utc_offset_min: int
    group: GroupId
    """Identifier of the built-in 'Cluster Group'."""
    quorum: Quorum | None = None
    """None: a majority node set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitNode:
    """Use a join token: the node becomes a member, not yet up and not yet a voter. Its number is next_node_id."""

    token: str
    secret_sha256: str
    node_name: str
    addresses: tuple[str, ...]
    port: int
    admin_port: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVoter:
    """Count, or no longer count, a node among the voters. One at a time (``voters_version`` is the precondition).

    The proposer has seen every node that is up report this version of the voters, so any majority of the old set
    meets any majority of the new one, on every node that may act.
    """

    node: NodeId
    voter: bool
    voters_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWitness:
    """From now on the witness may drop the vote of one of these voters, once."""

    voters_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseWitness:
    """It may no more, and what it has decided counts no more; the voters stay as they are."""

    voters_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropVote:
    """The witness has dropped the vote of this node for this version of the voters; make it so in the log."""

    node: NodeId
    voters_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictNode:
    """Have a node that is down evicted: the coordinator takes its vote, then removes it."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNode:
    """Remove a node that is to be evicted, is down, and has no vote any more."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUp:
    """Admit a node's new incarnation. Everything that the old one held is released by this (rule R2)."""

    node: NodeId
    incarnation: int
    """The one before this admission: a precondition."""
    boot: int
    attempt: int
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDown:
    """Declare a node down: a majority of the voters has heard nothing from it for long enough (rule R3).

    ``stopped`` says instead that the node itself reported that it has released everything and ends.
    """

    node: NodeId
    incarnation: int
    voters_version: int
    because: str
    stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettled:
    """The node has said that it acts by the quorum disk alone, and that no lease of a majority runs any more."""

    node: NodeId
    incarnation: int
    settling_version: int
    """Of which change this is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFenced:
    """A fence device has switched the node off since this incarnation was seen up; nobody waits for its silence."""

    node: NodeId
    incarnation: int
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FencingFailed:
    """No fence device of the node could switch it off; for the history and for those who ask."""

    node: NodeId
    incarnation: int
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignGroup:
    """Make ``to`` the owner under ``epoch`` + 1; accepted only when the group is released (rule R1)."""

    group: GroupId
    epoch: int
    to: NodeId
    because: str
    at_ms: int = 0
    counts_as_failover: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReleased:
    """The owner's word that nothing of the group runs under ``epoch`` any more and nothing will be started."""

    group: GroupId
    epoch: int
    node: NodeId
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFailover:
    """The owner's restart policy for a resource is exhausted; the coordinator decides what follows."""

    group: GroupId
    epoch: int
    resource: ResourceId
    because: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DenyFailover:
    """The group stays where it is. ``halt``: it failed over too often and is kept offline altogether."""

    group: GroupId
    epoch: int
    because: str
    halt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceStatus:
    """One line of a ReportStates."""

    resource: ResourceId
    state: ResourceState
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceFailure:
    """Failures of one resource that have not been told yet; a restart may have mended them meanwhile."""

    resource: ResourceId
    detail: str
    """What failed, in the newest of them."""
    because: str = ""
    """What the restart policy made of it."""
    count: int = 1
    ago_ms: int = 0
    """How long before the proposal the newest of them happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStates:
    """The owner's observations, in batches. Lines about groups that the node no longer owns are ignored.

    ``failures`` are for the history alone, and are told even if the group has left the node since.
    """

    node: NodeId
    incarnation: int
    lines: tuple[ResourceStatus, ...]
    failures: tuple[ResourceFailure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInterfaces:
    """A node's own view of all its addresses, told when it has changed."""

    node: NodeId
    incarnation: int
    interfaces: tuple[Interface, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Several updates in one entry, applied in order; each is accepted or refused by itself."""

    updates: tuple[Update, ...]


Update = (
    CreateGroup
    | DeleteGroup
    | SetGroupProperties
    | SetPreferredOwners
    | OnlineGroup
    | OfflineGroup
    | MoveGroup
    | CreateResource
    | DeleteResource
    | SetResourceProperties
    | AddDependency
    | RemoveDependency
    | AddPossibleOwner
    | RemovePossibleOwner
    | MoveResource
    | OnlineResource
    | OfflineResource
    | FailResource
    | Rename
    | PauseNode
    | ResumeNode
    | StopNode
    | ConfirmNodeDown
    | ClearQuarantine
    | SetQuorum
    | SetWitness
    | OpenWitness
    | CloseWitness
    | DropVote
    | CreateFenceDevice
    | DeleteFenceDevice
    | SetFenceDeviceProperties
    | SetNetworkProperties
    | SetNetworkPriorities
    | SetNodeProperties
    | SetClusterProperties
    | AddJoinToken
    | FoundCluster
    | AdmitNode
    | SetVoter
    | EvictNode
    | RemoveNode
    | NodeUp
    | NodeDown
    | NodeFenced
    | NodeSettled
    | FencingFailed
    | AssignGroup
    | GroupReleased
    | RequestFailover
    | DenyFailover
    | ReportStates
    | ReportInterfaces
    | Batch
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An update on its way through the log."""

    request: RequestId
    proposer: NodeId
    at_ms: int
    """Wall clock of the proposer when it proposed, milliseconds since 1970; for the event history."""
    update: Update

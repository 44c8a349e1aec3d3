"""The replicated configuration: what every node knows equally at an equal index of the log.

One immutable value, changed only by :func:`clussvc.global_update.apply.apply`. It holds what administrators set, the
membership, and the ownership of groups with its epochs. Observations that need no agreement (who hears whom, restart
counters) are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from clussvc.model.ids import ClusterId, FenceDeviceId, GroupId, NetworkId, NodeId, RequestId, ResourceId
from clussvc.model.index import index_of
from clussvc.model.monitoring import PropertyValue
from clussvc.model.quorum import Quorum
from clussvc.model.reports import Report
from clussvc.model.settings import LAN, Timing
from clussvc.model.states import MoveCause, NodeState, ResourceState
from clussvc.model.witness import Witness

FAILOVER_TYPE = "failover"
"""GroupType of a group that runs on one node."""
PARALLEL_TYPE = "parallel"
"""GroupType of a group that runs in instances, on several nodes at once."""
INSTANCE_SIGN = "#"
"""Between the name (or the identifier) of a thing of a parallel group and the number of the instance."""

PING_TARGETS = "PingTargets"
"""The private property of a network that names what a node should be able to reach there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What a node tells of its own address on one network; what follows is in ``membership.connectivity``."""

    position: int
    """The network, as the place of the address in the node's list."""
    address: str
    prefix: int = 0
    """How many bits of the address name the subnet; 0: unknown."""
    adapter: str = ""
    """The system's name of the interface that has the address; empty: unknown."""
    trouble: str = ""
    """Why it does not work, as far as the node itself can tell: link, address and ping targets. Empty: it works."""
    silent: tuple[NodeId, ...] = ()
    """The nodes that are up but whose heartbeats have not come here for a while, in the order of their numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Something that connects nodes: all addresses at one place of the nodes' lists."""

    id: NetworkId
    name: str
    position: int
    """The place in ``Node.addresses``, from 0 on."""
    description: str = ""
    role: int = 3
    """0: not used. 1: internal, for heartbeats and the log. 2: for clients. 3: both."""
    priority: int = 0
    """Internal networks with a smaller number are used first for the log; equal ones in the order of addresses."""
    address: str = ""
    """The subnet; empty: no node has told yet."""
    prefix: int = 0
    private: Mapping[str, PropertyValue] = field(default_factory=dict)

    @property
    def internal(self) -> bool:
        """Whether nodes talk to each other here."""
        return self.role in (1, 3)

    @property
    def client(self) -> bool:
        """Whether clients reach the cluster here."""
        return self.role in (2, 3)

    @property
    def mask(self) -> str:
        """The mask of an IPv4 subnet in dots, else the number of its bits; empty while it is unknown."""
        if not self.prefix:
            return ""
        if ":" in self.address:
            return str(self.prefix)
        bits = 0xFFFFFFFF << (32 - self.prefix) & 0xFFFFFFFF
        return ".".join(str(bits >> shift & 0xFF) for shift in (24, 16, 8, 0))

    @property
    def ping_targets(self) -> tuple[str, ...]:
        """The addresses of which at least one must answer for the network to work on a node; none: the link decides."""
        value = next((each for name, each in self.private.items() if name.casefold() == PING_TARGETS.casefold()), ())
        return value if isinstance(value, tuple) else (value,) if isinstance(value, str) and value else ()


def default_network(position: int) -> Network:
    """The network of that place while nothing else has been said of it."""
    return Network(
        id=NetworkId(f"network-{position + 1}"),
        name=f"Cluster Network {position + 1}",
        position=position,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A member of the cluster, up or not."""

    id: NodeId
    name: str
    addresses: tuple[str, ...]
    """Host addresses, one for each network that carries heartbeats, best first."""
    port: int
    """UDP port of heartbeats and TCP port of streams alike."""
    admin_port: int = 0
    """TCP port of remote administration; 0: none."""
    voter: bool = False
    up: bool = False
    joining: bool = True
    """True until the node was admitted for the first time."""
    paused: bool = False
    incarnation: int = 0
    """Raised by every admission (rule R2)."""
    boot: int = 0
    """The boot counter of the admitted process."""
    attempt: int = 0
    """Which request for admission of that boot was granted."""
    stopping: bool = False
    """The node was asked to stop; it hands its groups over and receives none."""
    down_because: str = ""
    evicting: bool = False
    """An administrator evicts the node: it loses its vote when every node that is up agrees on the present voters, and
    is removed then."""
    description: str = ""
    private: Mapping[str, PropertyValue] = field(default_factory=dict)
    losses: tuple[int, ...] = ()
    """When the node was lost without having been stopped, wall clock in ms; as long as it counts for quarantine."""
    quarantined_until_ms: int = 0
    """Not admitted before that moment (wall clock), after too many losses; 0: not in quarantine."""
    fence_failure: str = ""
    """Why the last attempt to fence this incarnation failed; empty once it is over."""
    interfaces: tuple[Interface, ...] = ()
    """What this incarnation told last of its addresses, in their order; empty: nothing yet, all of them work."""
    unsettled: bool = False
    """This incarnation was up when a majority gave way to a quorum disk, and may act by the majority's leases still
    (docs/decisions/0020)."""

    @property
    def state(self) -> NodeState:
        """The state that administrators see."""
        if self.up:
            return NodeState.PAUSED if self.paused else NodeState.UP
        return NodeState.JOINING if self.joining else NodeState.DOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A change of ownership that has been decided and is waiting for the owner to let go."""

    to: NodeId | None
    """None: the coordinator chooses when the group is released."""
    cause: MoveCause
    because: str
    bring_online: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverRequest:
    """The owner's word that its restart policy is exhausted and the group should go elsewhere."""

    resource: ResourceId
    because: str
    at_ms: int
    """Wall clock of the owner, milliseconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A unit of failover: resources that always run together on one node.

    A *parallel* group is never owned itself. It is the pattern of its instances, which are groups with owners and
    epochs of their own (docs/decisions/0019); what is set on it is copied to them.
    """

    id: GroupId
    name: str
    group_type: str = FAILOVER_TYPE
    max_instances: int = 0
    """How many instances a parallel group has at most; 0: one on every possible owner."""
    instance_of: GroupId | None = None
    """The parallel group of which this is an instance; None: it is none."""
    instance: int = 0
    """The number of the instance among those of its group, from 1 on."""
    description: str = ""
    persistent_state: bool = False
    failover_threshold: int = 10
    failover_period_h: int = 6
    auto_failback: bool = False
    failback_window_start_h: int = -1
    failback_window_end_h: int = -1
    anti_affinity: tuple[str, ...] = ()
    preferred_owners: tuple[NodeId, ...] = ()
    private: Mapping[str, PropertyValue] = field(default_factory=dict)
    owner: NodeId | None = None
    """Who owns the group under ``epoch``, or owned it last when ``released``."""
    epoch: int = 0
    released: bool = True
    """True when the owner let go, was declared down, or was admitted anew; only then can the group be assigned."""
    released_because: str = ""
    released_cause: MoveCause = MoveCause.FIRST_PLACEMENT
    move: Move | None = None
    failover: FailoverRequest | None = None
    failovers: tuple[int, ...] = ()
    """When the group failed over, wall clock in ms; the oldest are dropped after FAILOVER_HISTORY_MAX."""
    halted: bool = False
    """Failed over too often: everything is kept offline until somebody brings the group or a resource online."""
    placed_because: str = ""
    moved_by_hand: bool = False
    """The last move was an administrator's; failback leaves the group where it was put."""
    homecoming: bool = False
    """A node that the group prefers to its owner came up, or ended its pause, since the group was placed. This is what
    triggers failback (MSCS: when a node joins); without it a group that failed on its best node would go back there at
    once."""

    @property
    def owned(self) -> NodeId | None:
        """The node that may run the group now."""
        return None if self.released else self.owner

    @property
    def parallel(self) -> bool:
        """Whether it runs in instances and is owned by nobody itself."""
        return self.group_type == PARALLEL_TYPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Something that can be online on one node: an address, a process, a script."""

    id: ResourceId
    name: str
    type: str
    group: GroupId
    instance_of: ResourceId | None = None
    """The resource of a parallel group of which this is the copy in one instance; None: it is none."""
    description: str = ""
    separate_monitor: bool = False
    persistent_state: bool = False
    looks_alive_poll_interval_ms: int | None = None
    """None: as the type says. 0: event driven."""
    is_alive_poll_interval_ms: int | None = None
    restart_action: int = 2
    """0: do not restart. 1: restart, never affect the group. 2: restart, then fail the group over."""
    restart_threshold: int = 3
    restart_period_ms: int = 900_000
    retry_period_on_failure_ms: int | None = None
    """None: never."""
    pending_timeout_ms: int = 180_000
    depends_on: tuple[ResourceId, ...] = ()
    possible_owners: tuple[NodeId, ...] | None = None
    """None: every node."""
    private: Mapping[str, PropertyValue] = field(default_factory=dict)
    state: ResourceState = ResourceState.OFFLINE
    """As the owner last reported under the group's epoch."""
    detail: str = ""
    online_ticket: int = 0
    """Raised whenever an administrator brings the resource online; the owner then forgets earlier failures."""
    fail_ticket: int = 0
    """Raised by the command /fail; the owner then treats the resource as failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceDevice:
    """Something that can switch a node off: an agent of the fence-agents collection with its parameters."""

    id: FenceDeviceId
    name: str
    node: NodeId
    """The node that it switches off."""
    agent: str
    """The name of the program (``fence_ipmilan``), or its whole path."""
    action: str = "reboot"
    """``off``: the node stays off. ``reboot``: it is switched on again once it is known to be off."""
    order: int = 100
    """Devices of a node are tried one after the other, the smallest number first; equal ones as they were created."""
    timeout_ms: int = 20_000
    """How long one run of the agent may take."""
    verify: bool = True
    """Nothing is believed before the agent's action ``status`` says that the node is off."""
    description: str = ""
    private: Mapping[str, PropertyValue] = field(default_factory=dict)
    """The agent's parameters, by the names of its metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A permission to join once. Only a hash of its secret is known to the cluster."""

    id: str
    secret_sha256: str
    expires_ms: int
    """Wall clock, milliseconds since 1970."""
    node_name: str = ""
    """The node it is meant for; empty: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole replicated state. Never changed in place."""

    cluster: ClusterId
    name: str
    timing: Timing = LAN
    """As the profile and the quorum want it; see Quorum.timing_of."""
    quorum: Quorum = field(default_factory=Quorum)
    witness: Witness = field(default_factory=Witness)
    dynamic_votes: bool = False
    """Nodes that are down, or stop, lose their vote, and get it back when they are up."""
    description: str = ""
    private: Mapping[str, PropertyValue] = field(default_factory=dict)
    utc_offset_min: int = 0
    """Offset of the cluster's local time, for failback windows."""
    default_group: GroupId | None = None
    next_node_id: int = 1
    voters_version: int = 0
    timing_version: int = 0
    """A node that is heard with this version of the voters, or a later one, acts by ``timing``, or by a faster one that
    came before it; one that was heard last with an earlier version may still act by any slower timing."""
    """Raised by every change of the voters or of the timings; proposals that count votes and silences carry it."""
    settling_version: int = 0
    """A node that has said this version of the voters, or a later one, acts by the quorum disk alone."""
    nodes: Mapping[NodeId, Node] = field(default_factory=dict)
    groups: Mapping[GroupId, Group] = field(default_factory=dict)
    resources: Mapping[ResourceId, Resource] = field(default_factory=dict)
    tokens: Mapping[str, JoinToken] = field(default_factory=dict)
    fence_devices: Mapping[FenceDeviceId, FenceDevice] = field(default_factory=dict)
    networks: Mapping[NetworkId, Network] = field(default_factory=dict)
    """The networks of which more is known than the default; :attr:`all_networks` has the others as well."""
    fencing_required: bool = False
    """A silent node that has fence devices counts as down only when it was fenced, or an administrator confirmed it."""
    quarantine_threshold: int = 0
    """After so many losses within the period a node is kept out; 0: never."""
    quarantine_period_s: int = 3_600
    quarantine_duration_s: int = 7_200
    evicted: tuple[NodeId, ...] = ()
    recent: Mapping[RequestId, Report | None] = field(default_factory=dict)
    """Request ids applied lately with their refusal, oldest first (rule R1: proposed twice, effective once)."""

    # --- questions; each is a plain look-up or a short scan -------------------------------------------------------

    @property
    def voters(self) -> frozenset[NodeId]:
        """Whose leases and silences count."""
        return frozenset(node.id for node in self.nodes.values() if node.voter)

    @property
    def witness_open(self) -> bool:
        """Whether the witness may decide for the present version of the voters, or has."""
        return self.witness.chosen and self.witness.opened == self.voters_version

    @property
    def all_networks(self) -> tuple[Network, ...]:
        """Every network on which any node has an address, in the order of the addresses."""
        count = max((len(node.addresses) for node in self.nodes.values()), default=0)
        stored = {network.position: network for network in self.networks.values()}
        return tuple(stored.get(position) or default_network(position) for position in range(count))

    @property
    def internal_positions(self) -> tuple[int, ...]:
        """The places of the internal networks, the one that is used first before the others."""
        internal = [network for network in self.all_networks if network.internal]
        return tuple(each.position for each in sorted(internal, key=lambda each: (each.priority, each.position)))

    def network_named(self, name: str) -> Network | None:
        """The network of that name, whatever the case of its letters, or with that identifier."""
        wanted = name.casefold()
        for network in self.all_networks:
            if network.name.casefold() == wanted:
                return network
        return next((network for network in self.all_networks if network.id == name), None)

    def node_named(self, name: str) -> Node | None:
        """The node of that name, whatever the case of its letters; a node number is understood as well."""
        wanted = name.casefold()
        for node in self.nodes.values():
            if node.name.casefold() == wanted:
                return node
        return self.nodes.get(NodeId(int(name))) if name.isdecimal() else None

    def group_named(self, name: str) -> Group | None:
        """The group of that name, whatever the case of its letters, or with that identifier."""
        found = index_of(self.groups).ids.get(name.casefold())
        return self.groups.get(GroupId(name) if found is None else found)

    def resource_named(self, name: str) -> Resource | None:
        """The resource of that name, whatever the case of its letters, or with that identifier."""
        found = index_of(self.resources).ids.get(name.casefold())
        return self.resources.get(ResourceId(name) if found is None else found)

    def quarantined(self, node: Node, at_ms: int) -> bool:
        """Whether the node is kept out at that moment (wall clock). When no other node is up a flapping one is better
        than none, so then nobody is kept out."""
        if node.quarantined_until_ms <= at_ms:
            return False
        return any(other.up for other in self.nodes.values() if other.id != node.id)

    def fence_device_named(self, name: str) -> FenceDevice | None:
        """The fence device of that name, whatever the case of its letters, or with that identifier."""
        wanted = name.casefold()
        for device in self.fence_devices.values():
            if device.name.casefold() == wanted:
                return device
        return self.fence_devices.get(FenceDeviceId(name))

    def fence_devices_of(self, node: NodeId) -> list[FenceDevice]:
        """The devices that can switch a node off, in the order in which they are tried."""
        return sorted((each for each in self.fence_devices.values() if each.node == node), key=lambda each: each.order)

    def resources_of(self, group: GroupId) -> Iterator[Resource]:
        """The resources of one group, in order of creation."""
        return (self.resources[each] for each in index_of(self.resources).members.get(group, ()))

    def instances_of(self, group: GroupId) -> list[Group]:
        """The instances of a parallel group, by number."""
        found = (self.groups[each] for each in index_of(self.groups).members.get(group, ()))
        return sorted(found, key=lambda each: each.instance)

    @property
    def parallel_groups(self) -> list[Group]:
        """The groups that run in instances, in order of creation."""
        return [self.groups[each] for each in index_of(self.groups).parallel]

    def resources_by_group(self) -> dict[GroupId, list[Resource]]:
        """All resources, by group; one pass, for callers that look at every group."""
        found: dict[GroupId, list[Resource]] = {group: [] for group in self.groups}
        for resource in self.resources.values():
            found[resource.group].append(resource)
        return found

    def groups_owned_by(self, node: NodeId) -> list[Group]:
        """The groups that the node owns under their present epoch."""
        return [group for group in self.groups.values() if not group.released and group.owner == node]

    def node_name(self, node: NodeId | None) -> str:
        """The name of a node for people, also of one that is gone."""
        if node is None:
            return "(none)"
        known = self.nodes.get(node)
        return known.name if known else f"node {node}"


def failback_window_open(group: Group, local_hour: int) -> bool:
    """Whether the group may fail back in that hour (0-23) of cluster time.

    No window means always; [start, end) otherwise, and a start after the end spans midnight (MSCS: failback policy).
    """
    start, end = group.failback_window_start_h, group.failback_window_end_h
    if start < 0 or end < 0 or start == end:
        return True
    if start < end:
        return start <= local_hour < end
    return local_hour >= start or local_hour < end

"""The states an administrator sees, with the numbers that MSCS gives them.

The value of each member is the word that the command line prints; ``number`` is the published enumeration value
(ClusterGroupStateOnline is 0, and so on), which scripts written for the original expect.
"""

from __future__ import annotations

from enum import Enum, unique


@unique
class NodeState(Enum):
    """What a node is to the others. PAUSED is an Up node that accepts no groups."""

    UP = "Up"
    DOWN = "Down"
    PAUSED = "Paused"
    JOINING = "Joining"
    UNKNOWN = "Unknown"

    @property
    def number(self) -> int:
        """The CLUSTER_NODE_STATE value."""
        return {"Up": 0, "Down": 1, "Paused": 2, "Joining": 3}.get(self.value, -1)


@unique
class ResourceState(Enum):
    """What a resource does on the node that owns its group; OFFLINE for all others."""

    INITIALIZING = "Initializing"
    ONLINE = "Online"
    OFFLINE = "Offline"
    FAILED = "Failed"
    ONLINE_PENDING = "Online Pending"
    OFFLINE_PENDING = "Offline Pending"
    UNKNOWN = "Unknown"

    @property
    def number(self) -> int:
        """The CLUSTER_RESOURCE_STATE value."""
        return {
            "Initializing": 1,
            "Online": 2,
            "Offline": 3,
            "Failed": 4,
            "Online Pending": 129,
            "Offline Pending": 130,
        }.get(self.value, -1)

    @property
    def pending(self) -> bool:
        """True while a transition is under way."""
        return self in (ResourceState.ONLINE_PENDING, ResourceState.OFFLINE_PENDING, ResourceState.INITIALIZING)


@unique
class GroupState(Enum):
    """Derived from the states of a group's resources; see :func:`clussvc.resources.aggregate.group_state`."""

    ONLINE = "Online"
    OFFLINE = "Offline"
    FAILED = "Failed"
    PARTIAL_ONLINE = "Partially Online"
    PENDING = "Pending"
    UNKNOWN = "Unknown"

    @property
    def number(self) -> int:
        """The CLUSTER_GROUP_STATE value."""
        return {"Online": 0, "Offline": 1, "Failed": 2, "Partially Online": 3, "Pending": 4}.get(self.value, -1)


@unique
class NetworkState(Enum):
    """Derived from what nodes tell of their interfaces; see :mod:`clussvc.membership.connectivity`."""

    UP = "Up"
    PARTITIONED = "Partitioned"
    DOWN = "Down"
    UNAVAILABLE = "Unavailable"

    @property
    def number(self) -> int:
        """The CLUSTER_NETWORK_STATE value."""
        return {"Unavailable": 0, "Down": 1, "Partitioned": 2}.get(self.value, 3)


@unique
class InterfaceState(Enum):
    """What the address of one node on one network is worth."""

    UP = "Up"
    UNREACHABLE = "Unreachable"
    FAILED = "Failed"
    UNAVAILABLE = "Unavailable"

    @property
    def number(self) -> int:
        """The CLUSTER_NETINTERFACE_STATE value."""
        return {"Unavailable": 0, "Failed": 1, "Unreachable": 2}.get(self.value, 3)


@unique
class StateChangeReason(Enum):
    """Why a resource is told to change; handed to types that ask for it (RESOURCE_STATE_CHANGE_REASON)."""

    UNKNOWN = "Unknown"
    MOVE = "Move"
    FAILOVER = "Failover"
    FAILED_MOVE = "FailedMove"
    SHUTDOWN = "Shutdown"
    RUNDOWN = "Rundown"

    @property
    def number(self) -> int:
        """The published enumeration value."""
        return list(StateChangeReason).index(self)


@unique
class MoveCause(Enum):
    """Why a group changes its owner; decides how the target is chosen and what is counted."""

    ADMIN = "moved by an administrator"
    RESOURCE_FAILURE = "a resource failed"
    NODE_DOWN = "its node went down"
    NODE_STOPPING = "its node is being stopped"
    FAILBACK = "failback"
    FIRST_PLACEMENT = "first placement"
    OWNERS_CHANGED = "its possible owners changed"
    NETWORK_FAILURE = "a client network failed"


@unique
class NodePhase(Enum):
    """What a node is to itself (MSCS: the phases of the Node Manager)."""

    STARTING = "starting"
    """The service runs; leftovers of an earlier life are being terminated."""
    ASKING = "asking"
    """Nothing runs here; the node asks to be admitted as a new incarnation (rule R2)."""
    MEMBER = "member"
    """Admitted, and the lease has run without a gap since the node asked."""
    RELEASING = "releasing"
    """The lease was lost, or the node is stopping: everything is being terminated."""
    STOPPING = "stopping"
    """An orderly stop: groups are handed over before the service ends."""
    STOPPED = "stopped"
    """The process has ended, and nothing of this incarnation runs. Only a last will says so to others."""

"""What the convergence machine is told, and what it wants done: plain values, as of the core of the cluster service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, unique

from clussvc.model.ids import HostId
from clussvc.model.reports import Severity
from clussvc.nlb.bucket_map import BucketMap
from clussvc.nlb.heartbeat import HostName, MapPart, MembershipHeartbeat, Refused, TeamWord
from clussvc.nlb.misconfiguration import Misconfiguration
from clussvc.nlb.parameters import ClusterParameters, HostParameters
from clussvc.nlb.port_rule import PortRule

# --- what it is told ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatHeard:
    """An authenticated membership heartbeat of this cluster arrived. ``source`` names the link address it came from."""

    heartbeat: MembershipHeartbeat
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapsHeard:
    """An authenticated part of a host's maps arrived."""

    part: MapPart


@dataclass(frozen=True, slots=True, kw_only=True)
class NameHeard:
    """A host said its name."""

    name: HostName


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatRefused:
    """A frame arrived that is not to be believed."""

    reason: Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed; due at the machine's deadline, harmless at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesUp:
    """Which hosts' nodes are up by the cluster's log. A host that is missing is dead: it has let go of everything, and
    the others take its share at once. None: nothing is known, and only heartbeats count."""

    hosts: frozenset[HostId] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsOnline:
    """Which hosts are to share the clients, by the cluster's log: their resource is online and nobody has stopped them.
    None: nothing is known, and a host that hears nobody takes itself for the only one."""

    hosts: frozenset[HostId] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientsHeard:
    """Frames for the virtual addresses have arrived since the last look; see :attr:`Convergence.is_in_doubt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumChanged:
    """Whether this node may act. Without quorum a host takes no traffic; with it, it joins again."""

    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChanged:
    """Whether the balanced adapter has a carrier."""

    up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcesOnline:
    """The names of the cluster's resources that are online on this node; rules that are bound to others are drained."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbesAnswered:
    """The titles of the rules whose probe says that they are served on this host; others with a probe are drained."""

    titles: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionsReported:
    """What the filter knows of connections, when it decided by the table of that number."""

    number: int
    total: int
    buckets: tuple[int, ...]
    """For each slot of the table, the bitmap of buckets with an open connection here."""
    packets: int = 0
    """Accepted so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParametersChanged:
    """Other parameters are to be used from now on."""

    cluster: ClusterParameters
    host: HostParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamChanged:
    """The bi-directional affinity team of this adapter, as its members on this host are now."""

    team: TeamWord


Event = (
    HeartbeatHeard
    | MapsHeard
    | NameHeard
    | HeartbeatRefused
    | Tick
    | NodesUp
    | HostsOnline
    | ClientsHeard
    | QuorumChanged
    | LinkChanged
    | ResourcesOnline
    | ProbesAnswered
    | ConnectionsReported
    | ParametersChanged
    | TeamChanged
)


@unique
class Control(Enum):
    """What an administrator asks of a host."""

    START = "start"
    STOP = "stop"
    DRAINSTOP = "drainstop"
    SUSPEND = "suspend"
    RESUME = "resume"


@unique
class RuleControl(Enum):
    """What an administrator asks of rules on a host."""

    ENABLE = "enable"
    DISABLE = "disable"
    DRAIN = "drain"


class Status(IntEnum):
    """The published status codes of controls and queries."""

    OK = 1000
    ALREADY = 1001
    DRAIN_STOP = 1002
    """Done; a draining was interrupted by it."""
    BAD_PARAMS = 1003
    NOT_FOUND = 1004
    STOPPED = 1005
    CONVERGING = 1006
    CONVERGED = 1007
    DEFAULT = 1008
    DRAINING = 1009
    SUSPENDED = 1013
    MEDIA_DISCONNECTED = 1014


# --- what it wants done ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SendHeartbeat:
    """To be sent at once. After it has been sent, and only then, the filter may take traffic until ``valid_until_ms``.

    That is the deadman of the filter: others count this host as dead when they have not heard it for the detection
    time, and a filter that outlives its agent must have stopped by then.
    """

    heartbeat: MembershipHeartbeat
    valid_until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMaps:
    """The bitmaps behind the heartbeat's map words; to be sent after it."""

    part: MapPart


@unique
class Passing(Enum):
    """What this host does with the packets of a rule."""

    ENABLED = "enabled"
    DRAINING = "draining"
    """Only what belongs to connections that it has."""
    DISABLED = "disabled"
    """Nothing at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotTable:
    """How this host decides packets of one rule."""

    owners: BucketMap
    """Who takes new connections of each bucket, as far as this host knows. This host takes exactly those where it
    stands itself: not yet those that a former owner has not let go."""
    dirty: int = 0
    """Own buckets of which another host still has connections: what belongs to no connection of this host, and begins
    none, is to be dropped in silence."""
    kept: int = 0
    """Buckets of others of which this host may still have connections, as a bitmap."""
    passing: Passing = Passing.ENABLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All that the filter decides by. ``number`` grows with each."""

    number: int
    generation: int
    """Of the adopted maps; 0: none."""
    active: bool
    """False: this host takes no traffic for virtual addresses at all, whatever the slots say."""
    host: HostId
    rules: tuple[PortRule, ...]
    slots: tuple[SlotTable, ...]
    """One for each rule, and one for the default rule, which is the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UseTable:
    """The filter has to decide by this from now on: all of it at once."""

    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An event for the log. ``event_id`` is the published number, 0 if there is none."""

    event_id: int
    name: str
    """The stable dotted word for programs."""
    message: str
    severity: Severity = Severity.INFORMATION


Action = SendHeartbeat | SendMaps | UseTable | Note


# --- what it shows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLine:
    """One step of convergence. ``at_ms`` is the clock of the machine."""

    at_ms: int
    state: str
    """converging, stable, converged, or left."""
    generation: int
    hosts: tuple[HostId, ...]
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """What a host knows of another one."""

    host: HostId
    name: str
    dip: str
    source: str
    state: str
    silent_ms: int
    draining: bool
    member: bool
    """Of the map that this host has adopted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The answer to a query."""

    host: HostId
    status: Status
    state: str
    """stopped, suspended, converging, draining, converged, converged as DEFAULT, media disconnected."""
    because: str
    """What the state waits for, or is due to; empty if there is nothing to say."""
    members: tuple[HostId, ...]
    """With whom this host has converged or is converging; itself included."""
    default_host: int
    convergences: int
    """How often the host has entered the converging state since it joined."""
    generation: int
    peers: tuple[PeerView, ...]
    findings: tuple[Misconfiguration, ...]
    history: tuple[HistoryLine, ...]
    counters: Mapping[str, int]
    rules: tuple[PortRule, ...]
    weights: tuple[int, ...]
    passing: tuple[Passing, ...]
    maps: tuple[BucketMap, ...]
    """The adopted maps, for each rule and the default rule; empty if there are none."""
    hindrances: tuple[str, ...]
    """Who has kept all from converging for long, in sentences: hosts that do not hear each other."""

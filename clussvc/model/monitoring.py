"""What the service and a resource monitor say to each other.

A resource monitor is a process of its own that executes and detects; it decides nothing (MSCS: "makes no policy
decision"). Commands go down, reports come up. Every command that makes or ends something carries the *ownership epoch*
of the group, and the monitor refuses commands of an epoch older than the newest it has seen for that group (rule R1).

The monitor has a deadman (rule R4): ``LeaseExtended`` moves a deadline on the boot-time clock of this machine
(CLOCK_BOOTTIME, in milliseconds, the same for all processes of one machine and running on through suspend). When the
deadline passes, the monitor terminates everything on its own and reports it when somebody listens again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique

from clussvc.model.ids import GroupId, ResourceId
from clussvc.model.states import ResourceState, StateChangeReason

PropertyValue = int | str | tuple[str, ...]
"""A property: a DWORD or ULONG (int), a string, or a multi-string."""


@unique
class LogLevel(Enum):
    """The four levels of the LogEvent callback."""

    INFORMATION = "information"
    WARNING = "warning"
    ERROR = "error"
    SEVERE = "severe"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSpec:
    """All that a monitor must know of one resource. Times are in milliseconds."""

    resource: ResourceId
    name: str
    type: str
    group: GroupId
    group_name: str
    private: Mapping[str, PropertyValue] = field(default_factory=dict)
    """The private properties, defaults of the type filled in."""
    looks_alive_interval_ms: int = 5_000
    """0: the type reports failures by events alone and LooksAlive is not polled."""
    is_alive_interval_ms: int = 60_000
    pending_timeout_ms: int = 180_000
    """The longest silence in a pending state; a changed checkpoint restarts it."""
    network_name: str = ""
    """The Network Name that the resource's process is to see as its computer name; empty: none."""
    node_name: str = ""
    """The node on which the monitor runs."""
    instance: int = 0
    """The number of the instance of a parallel group that the resource belongs to; 0: its group is none."""
    base_name: str = ""
    """The resource's name without the number of the instance; empty: the name."""


# --- commands: service to monitor ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenResource:
    """Load the resource, or take over changed properties of one that is loaded. Starts nothing."""

    spec: ResourceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseResource:
    """Forget the resource; it is terminated first if it runs."""

    resource: ResourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class BringOnline:
    """Start the resource under ``epoch``; answered by ONLINE_PENDING reports and ONLINE or FAILED."""

    resource: ResourceId
    epoch: int
    reason: StateChangeReason = StateChangeReason.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOffline:
    """Stop the resource gracefully; Terminate follows by itself when that fails. Answered by OFFLINE."""

    resource: ResourceId
    epoch: int
    reason: StateChangeReason = StateChangeReason.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminateResource:
    """Stop the resource at once, aborting whatever is under way. Answered by OFFLINE."""

    resource: ResourceId
    epoch: int
    reason: StateChangeReason = StateChangeReason.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseExtended:
    """Feed the deadman: everything may run until ``until_ms`` (CLOCK_BOOTTIME)."""

    until_ms: int
    budget_ms: int = 0
    """How long ending everything may take after that, by the present timings; 0: as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminateEverything:
    """Terminate every resource, and what an earlier monitor left behind. Answered by EverythingTerminated.

    ``ticket`` is returned in the answer, so that an old answer is never taken for a new one.
    """

    ticket: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkHealed:
    """A node that could not be heard is heard again: hosts on its side of the network may know old whereabouts of what
    is online here, so it is announced once more. Not answered."""


MonitorCommand = (
    OpenResource
    | CloseResource
    | BringOnline
    | TakeOffline
    | TerminateResource
    | LeaseExtended
    | TerminateEverything
    | NetworkHealed
)


# --- reports: monitor to service ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorStarted:
    """A monitor process is ready for commands; it knows no resource yet."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceReported:
    """A resource's state changed, or a pending resource made progress.

    ``detail`` is a sentence for people (what failed, with the text of the type). A FAILED report while the resource was
    online says that it failed by itself; after BringOnline it says that the start failed. A failed resource has not
    been terminated yet, unless ``terminated`` says so.
    """

    resource: ResourceId
    epoch: int
    state: ResourceState
    detail: str = ""
    terminated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRefused:
    """A command carried an epoch older than the newest seen, named a resource that is not open, or came too late.

    ``ending``: the monitor has ended everything on its own, or is about to, and DeadmanFired follows.
    """

    resource: ResourceId
    epoch: int
    why: str
    ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EverythingTerminated:
    """The answer to TerminateEverything; ``left`` names resources that could not be stopped (normally empty)."""

    ticket: int
    left: tuple[ResourceId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadmanFired:
    """The lease ran out without being extended; the monitor has terminated everything on its own.

    It starts nothing until it is told to terminate everything once more: what was commanded before may rely on what
    runs no longer, and only by that word does the monitor know that its service has heard of it.
    """

    lease_ended_ms: int
    left: tuple[ResourceId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyChanged:
    """A script added, set or (``value`` None) removed a private property."""

    resource: ResourceId
    name: str
    value: PropertyValue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLogged:
    """Text for the cluster log, written by a resource type or script."""

    resource: ResourceId
    level: LogLevel
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorDied:
    """The monitor process ended without being asked to; all its resources count as failed.

    ``culprit`` names the resource whose entry point was running, where that is known.
    """

    why: str
    culprit: ResourceId | None = None


MonitorReport = (
    MonitorStarted
    | ResourceReported
    | CommandRefused
    | EverythingTerminated
    | DeadmanFired
    | PropertyChanged
    | ResourceLogged
    | MonitorDied
)

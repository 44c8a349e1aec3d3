"""One resource in the monitor's books: where it stands, what runs for it, what is waiting. No behaviour of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from clussvc.model.monitoring import BringOnline, ResourceSpec
from clussvc.model.states import ResourceState
from clussvc.resources.monitor.handle import ResourceHandle
from clussvc.resources.monitor.workers import Call


class DrivenType(Protocol):
    """An instance of a resource type; the interface is described at ``clussvc.resources.types.base.ResourceType``."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    def online(self) -> None: ...

    def offline(self) -> None: ...

    def terminate(self) -> None: ...

    def looks_alive(self) -> bool: ...

    def is_alive(self) -> bool: ...


@runtime_checkable
class Announcing(Protocol):
    """A type whose resources are announced on the network has this besides."""

    def network_healed(self) -> None:
        """Announce it again; see NetworkHealed. Returns at once."""


class Catalogue(Protocol):
    """Finds resource types by name."""

    def create(self, name: str, resource: Any) -> DrivenType:
        """An instance for ``resource``; raises ClusterError when there is no such type here."""

    def clean(self, name: str, record: Mapping[str, Any]) -> None:
        """Undo what a dead process had written down."""


@dataclass(slots=True)
class Ending:
    """A termination that is under way, and what is to be reported when it is done."""

    call: Call
    report: ResourceState | None
    """OFFLINE, FAILED, or None: nothing (a late return is being cleaned up)."""
    detail: str
    swept: bool = False
    """The entry point hung, so its processes are being killed without it."""


@dataclass(slots=True)
class Slot:
    """See the module's docstring. Changed by the monitor's main loop alone, except where noted."""

    spec: ResourceSpec
    handle: ResourceHandle
    state: ResourceState = ResourceState.OFFLINE
    epoch: int = 0
    driven: DrivenType | None = None
    """Set by the worker that opens the resource."""
    call: Call | None = None
    """The one entry point other than terminate that runs."""
    hung: int = 0
    """Calls that took too long and have not returned: hang mode while there are any."""
    ending: Ending | None = None
    queued: BringOnline | None = None
    """Waits for the present call to return."""
    want_open: bool = False
    want_close: bool = False
    want_is_alive: bool = False

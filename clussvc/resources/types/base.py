"""The programming interface of resource types.

A *type* is a class with entry points; the monitor makes one instance for each resource and calls it from worker
threads, never two entry points of one resource at a time, with one exception: ``terminate`` may come at any moment and
from another thread, also while ``online`` or ``offline`` still run. Each call has a time limit. A type decides nothing;
it does what it is told and says what it sees.

Types are found by name: the built-in ones here, others through the entry point group ``clussvc.resource_types`` of
installed packages (see the page on writing resources).
"""

from __future__ import annotations

import contextlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from clussvc.model.errors import ClusterError
from clussvc.model.ids import ResourceId
from clussvc.model.monitoring import PropertyValue
from clussvc.model.states import StateChangeReason
from clussvc.resources.type_info import ResourceTypeInfo


class Process(Protocol):
    """A process that belongs to a resource."""

    pid: int

    @property
    def ended(self) -> int | None:
        """None while it runs; else its exit status, or minus the number of the signal that ended it."""

    def wait(self, limit_ms: int) -> int | None:
        """Wait for its end; None when the limit passed first."""

    def describe_end(self) -> str:
        """How it ended, in words."""


class Finished(Protocol):
    """What a command did that was run to its end."""

    @property
    def status(self) -> int:
        """Exit status, or minus the number of the signal that ended it."""

    @property
    def output(self) -> str:
        """What it wrote, standard output and error together; the end of it when there was much."""


class Properties(Protocol):
    """Private properties by name, whatever the case of its letters."""

    def __getitem__(self, name: str) -> PropertyValue: ...

    def __contains__(self, name: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def __setitem__(self, name: str, value: PropertyValue) -> None:
        """Change the property in the configuration of the cluster."""

    def __delitem__(self, name: str) -> None:
        """Remove the property from the configuration of the cluster."""

    def get(self, name: str, default: PropertyValue | None = None) -> PropertyValue | None:
        """The value, or ``default`` when there is none."""


class Resource(Protocol):
    """What a type can know and do about its resource. All methods may be called from any thread."""

    @property
    def id(self) -> ResourceId:
        """The identifier; never changes."""

    @property
    def name(self) -> str:
        """The name that people gave it."""

    @property
    def group_name(self) -> str:
        """The name of its group."""

    @property
    def node_name(self) -> str:
        """The name of the node on which it runs."""

    @property
    def instance(self) -> int:
        """The number of its instance of a parallel group, from 1 on; 0: its group runs on one node."""

    @property
    def base_name(self) -> str:
        """The name that its resource has in the parallel group, without the number; else the name."""

    @property
    def run_folder(self) -> Path:
        """A folder of its monitor, for files that need not outlive it; beside it are those of other monitors."""

    @property
    def reason(self) -> StateChangeReason:
        """Why the present or latest online, offline or terminate was asked for."""

    @property
    def pending_timeout_ms(self) -> int:
        """The longest silence while pending."""

    @property
    def properties(self) -> Properties:
        """The private properties, as they were when the resource was last told to come online."""

    def log_information(self, text: str) -> None:
        """Write to the cluster log."""

    def log_warning(self, text: str) -> None:
        """Write to the cluster log."""

    def log_error(self, text: str) -> None:
        """Write to the cluster log."""

    def report_progress(self, checkpoint: int) -> None:
        """While pending: a checkpoint that differs from the last one restarts the pending timeout."""

    def failed(self, why: str) -> None:
        """Report that the resource, online or coming online, has failed."""

    def start_process(
        self,
        words: Sequence[str],
        *,
        folder: str = "/",
        environment: Mapping[str, str] | None = None,
        essential: bool = True,
    ) -> Process:
        """Start a program of the resource in a session of its own.

        When an ``essential`` process ends while the resource is online or pending, the resource has failed at that
        moment. Output goes to a bounded file in the monitor's run folder. Raises ClusterError: ``program-not-found``,
        ``folder-not-found``, ``start-failed``, or ``not-permitted`` when the resource may not start anything.
        """

    def run(self, words: Sequence[str], *, limit_ms: int = 30_000, folder: str = "/") -> Finished:
        """Run a command to its end; it may leave processes behind, which then belong to the resource.

        Raises what ``start_process`` raises, and ClusterError(``command-stuck``) when the limit passed; the command has
        been killed then.
        """

    def stop_processes(self, grace_ms: int) -> None:
        """Ask all processes of the resource to end (SIGTERM), and kill what is left of them after ``grace_ms``."""

    def watch_fd(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever ``fd`` becomes readable, until ``unwatch_fd`` or the end of the resource."""

    def unwatch_fd(self, fd: int) -> None:
        """Watch ``fd`` no more; afterwards it may be closed. A handler that runs just now is not waited for."""

    def remember(self, record: Mapping[str, Any]) -> None:
        """Write down what is about to be made in the system, so that ``clean`` can undo it after a crash.

        Raises ClusterError(``not-permitted``) when the resource may not make anything (any more).
        """

    def forget(self) -> None:
        """What was written down has been undone."""


class ResourceType(ABC):
    """One resource of a type. Entry points raise to fail; ClusterError is shown by its message alone."""

    info: ClassVar[ResourceTypeInfo]
    """Name, properties and intervals. Built-in types take it from :mod:`clussvc.resources.type_info`."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource

    def open(self) -> None:  # noqa: B027 -- optional, unlike the others
        """Get ready; check what can be checked. Must start nothing, since the group may run elsewhere."""

    def close(self) -> None:  # noqa: B027 -- optional, unlike the others
        """Give back what ``open`` took."""

    @abstractmethod
    def online(self) -> None:
        """Start, and return when it serves. ``is_alive`` is asked right afterwards."""

    @abstractmethod
    def offline(self) -> None:
        """Stop gracefully. Whatever processes are left are killed afterwards."""

    def terminate(self) -> None:  # noqa: B027 -- optional, unlike the others
        """Stop at once; whatever processes are left are killed. Also called when ``online`` failed halfway."""

    @abstractmethod
    def looks_alive(self) -> bool:
        """A quick look; False leads to ``is_alive`` at once."""

    @abstractmethod
    def is_alive(self) -> bool:
        """A thorough look; False means that the resource has failed."""

    @classmethod  # noqa: B027 -- optional
    def clean(cls, record: Mapping[str, Any]) -> None:
        """Undo what ``remember`` wrote down, by a process that is dead now. Must bear that it was never made."""

    def resource_control(self, code: str, argument: str) -> str:
        """Answer a control of the type's own."""
        raise ClusterError(
            "control-unknown", f"the type {self.info.name} of {self.resource.name!r} knows no control {code!r}"
        )


ENTRY_POINT_GROUP: Final = "clussvc.resource_types"

_BUILTIN: Final[Mapping[str, tuple[str, str]]] = {
    "generic application": ("clussvc.resources.types.generic_application", "GenericApplication"),
    "generic script": ("clussvc.resources.types.generic_script", "GenericScript"),
    "generic service": ("clussvc.resources.types.generic_service", "GenericService"),
    "network load balancing": ("clussvc.resources.types.load_balancing", "NetworkLoadBalancing"),
    "ip address": ("clussvc.resources.types.ip_address", "IPAddress"),
}
"""Imported when first used, or by :meth:`TypeCatalogue.preload`."""


class TypeCatalogue:
    """Finds types by name and makes their instances; what the monitor is given."""

    def find(self, name: str) -> type[ResourceType]:
        """The class of that type. Raises ClusterError: ``type-not-installed``, ``type-broken``."""
        folded = name.casefold()
        try:
            if folded in _BUILTIN:
                module, attribute = _BUILTIN[folded]
                return _checked(name, getattr(importlib.import_module(module), attribute))
            for point in entry_points(group=ENTRY_POINT_GROUP):
                if point.name.casefold() == folded:
                    return _checked(name, point.load())
        except ClusterError:
            raise
        except Exception as error:
            raise ClusterError(
                "type-broken", f"the resource type {name!r} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        raise ClusterError(
            "type-not-installed",
            f"the resource type {name!r} is not installed on this node; install the package that brings it",
        )

    def preload(self) -> None:
        """Import the built-in types ahead; a failover would otherwise wait for it. Errors are left to ``find``."""
        for module, _ in _BUILTIN.values():
            with contextlib.suppress(Exception):
                importlib.import_module(module)

    def create(self, name: str, resource: Resource) -> ResourceType:
        """An instance for ``resource``. Raises what ``find`` raises, and what the constructor does."""
        return self.find(name)(resource)

    def clean(self, name: str, record: Mapping[str, Any]) -> None:
        """Let the type undo what a dead process wrote down."""
        self.find(name).clean(record)


def _checked(name: str, found: object) -> type[ResourceType]:
    if not (isinstance(found, type) and issubclass(found, ResourceType)):
        raise ClusterError("type-broken", f"the resource type {name!r} is not a subclass of ResourceType")
    return found


def text_property(resource: Resource, name: str) -> str:
    """A property as a text, empty when it is not set."""
    return str(resource.properties.get(name) or "").strip()

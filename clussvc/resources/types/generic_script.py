"""Generic Script: a Python file of functions drives the resource.

The file may define ``open, online, offline, terminate, looks_alive, is_alive, close``; each receives the resource. Only
``looks_alive`` and ``is_alive`` must exist. The file is executed anew whenever the resource is opened, which happens
before every online, so its globals do not outlive a run. For online, offline and the like, True, 0 and None mean
success, as both conventions of MSCS scripts are understood; anything else is a failure, shown with its value. An
exception is a failure of that call, and its text with the line of the script is logged.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, ClassVar, Final

from clussvc.model.errors import ClusterError
from clussvc.model.monitoring import PropertyValue
from clussvc.resources.type_info import BUILTIN_TYPES, ResourceTypeInfo
from clussvc.resources.types.base import Properties, Resource, ResourceType, text_property

SCRIPT_BYTES_MAX: Final = 1 << 20

_FUNCTIONS: Final = ("open", "online", "offline", "terminate", "looks_alive", "is_alive", "close")


class ScriptResource:
    """The resource as a script sees it: the interface of types, and private properties as attributes.

    ``resource.Port`` reads a property and ``resource.Port = 80`` sets it for the whole cluster, provided that it
    exists; ``add_property`` makes it. Methods are spelled in lower case, so they and properties do not meet.
    """

    _resource: Resource

    def __init__(self, resource: Resource) -> None:
        object.__setattr__(self, "_resource", resource)

    @property
    def properties(self) -> Properties:
        """All private properties by name."""
        return self._resource.properties

    def property_exists(self, name: str) -> bool:
        """Whether the resource has that private property."""
        return name in self._resource.properties

    def add_property(self, name: str, value: PropertyValue = "") -> None:
        """Make a private property unless it exists."""
        if name not in self._resource.properties:
            self._resource.properties[name] = value

    def remove_property(self, name: str) -> None:
        """Remove a private property if it exists."""
        if name in self._resource.properties:
            del self._resource.properties[name]

    def __getattr__(self, name: str) -> Any:
        if name in self._resource.properties:
            return self._resource.properties[name]
        if not name.startswith("_") and hasattr(self._resource, name):
            return getattr(self._resource, name)
        raise AttributeError(f"the resource {self._resource.name!r} has no private property {name!r}")

    def __setattr__(self, name: str, value: PropertyValue) -> None:
        if name not in self._resource.properties:
            raise AttributeError(
                f"the resource {self._resource.name!r} has no private property {name!r}; add_property makes it"
            )
        self._resource.properties[name] = value

    def __dir__(self) -> Iterator[str]:
        yield from super().__dir__()
        yield from self._resource.properties


class GenericScript(ResourceType):
    """Private properties: ScriptFilepath, and whatever the script adds."""

    info: ClassVar[ResourceTypeInfo] = BUILTIN_TYPES["Generic Script"]

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource)
        self._functions: dict[str, Callable[[ScriptResource], object]] = {}
        self._view = ScriptResource(resource)
        self._path = ""

    def open(self) -> None:
        """Load the script and call its ``open``."""
        self._path = text_property(self.resource, "ScriptFilepath")
        if not self._path:
            return  # Created but not configured yet; online will say what is missing.
        self._functions = self._load()
        self._succeed("open")

    def close(self) -> None:
        """Call the script's ``close`` and forget the script."""
        try:
            self._succeed("close")
        finally:
            self._functions = {}

    def online(self) -> None:
        """Call the script's ``online``."""
        if not self._path:
            raise ClusterError(
                "bad-property", "ScriptFilepath is not set: set it with /priv ScriptFilepath=/path/to/script.py"
            )
        self._succeed("online")

    def offline(self) -> None:
        """Call the script's ``offline``."""
        self._succeed("offline")

    def terminate(self) -> None:
        """Call the script's ``terminate``; a script that could not be loaded has none."""
        self._succeed("terminate")

    def looks_alive(self) -> bool:
        """Call the script's ``looks_alive``."""
        return self._alive("looks_alive")

    def is_alive(self) -> bool:
        """Call the script's ``is_alive``."""
        return self._alive("is_alive")

    def _load(self) -> dict[str, Callable[[ScriptResource], object]]:
        code = self._compile()
        names: dict[str, Any] = {"__name__": "clussvc_script", "__file__": self._path}
        try:
            exec(code, names)  # noqa: S102 -- the administrator configured this program, like any other
        except Exception as error:
            raise ClusterError(
                "script-failed", f"the script failed while it was loaded: {self._explain(error)}"
            ) from error
        functions = {name: names[name] for name in _FUNCTIONS if callable(names.get(name))}
        missing = [name for name in ("looks_alive", "is_alive") if name not in functions]
        if missing:
            raise ClusterError(
                "script-incomplete", f"the script {self._path} does not define {' and '.join(missing)}, which it must"
            )
        return functions

    def _compile(self) -> CodeType:
        try:
            with open(self._path, "rb") as script:
                text = script.read(SCRIPT_BYTES_MAX + 1)
        except OSError as error:
            raise ClusterError(
                "script-unreadable",
                f"the script {self._path} cannot be read on this node: {error.strerror};"
                " it must be at the same path on every possible owner",
            ) from error
        if len(text) > SCRIPT_BYTES_MAX:
            raise ClusterError("script-too-long", f"the script {self._path} is longer than {SCRIPT_BYTES_MAX} bytes")
        try:
            return compile(text, self._path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise ClusterError(
                "script-syntax", f"the script {self._path} is not valid Python: {getattr(error, 'msg', error)}{line}"
            ) from error

    def _succeed(self, name: str) -> None:
        result = self._call(name)
        if result is None or result is True or (result == 0 and result is not False):
            return
        raise ClusterError("script-said-no", f"{name} of the script returned {result!r}; success is True, 0 or None")

    def _alive(self, name: str) -> bool:
        # A truth value is asked for here: 0 means no, unlike in the calls that follow the other convention.
        return bool(self._call(name))

    def _call(self, name: str) -> object:
        function = self._functions.get(name)
        if function is None:
            return None
        try:
            return function(self._view)
        except Exception as error:
            raise ClusterError("script-failed", f"{name} of the script failed: {self._explain(error)}") from error

    def _explain(self, error: Exception) -> str:
        """The error with the line of the script in which it arose."""
        text = str(error) if isinstance(error, ClusterError) else f"{type(error).__name__}: {error}"
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self._path]
        return f"{text} ({self._path}, line {lines[-1]})" if lines else text

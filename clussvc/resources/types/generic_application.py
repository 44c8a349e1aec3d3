"""Generic Application: a program that is to run; its end is a failure, noticed in the same moment.

Alive means that the process exists, as with MSCS: the program is not asked anything. Offline asks it to end (SIGTERM to
all its processes) and kills what is left after a grace period.
"""

from __future__ import annotations

import shlex
from typing import ClassVar, Final

from clussvc.model.errors import ClusterError
from clussvc.resources.type_info import BUILTIN_TYPES, ResourceTypeInfo
from clussvc.resources.types.base import Process, Resource, ResourceType, text_property

STOP_GRACE_MS_MAX: Final = 10_000
"""How long a program may take to end by itself, unless its pending timeout is shorter."""


class GenericApplication(ResourceType):
    """Private properties: CommandLine, CurrentDirectory."""

    info: ClassVar[ResourceTypeInfo] = BUILTIN_TYPES["Generic Application"]

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource)
        self._process: Process | None = None

    def open(self) -> None:
        """A command line that cannot be read is reported early; a missing one only when it is needed."""
        if text_property(self.resource, "CommandLine"):
            self._words()

    def online(self) -> None:
        """Start the program."""
        self._process = self.resource.start_process(
            self._words(), folder=text_property(self.resource, "CurrentDirectory") or "/"
        )

    def offline(self) -> None:
        """Ask, wait, kill."""
        self.resource.stop_processes(min(self.resource.pending_timeout_ms, STOP_GRACE_MS_MAX))

    def looks_alive(self) -> bool:
        """Whether the process exists."""
        return self._process is not None and self._process.ended is None

    def is_alive(self) -> bool:
        """Whether the process exists."""
        if self._process is not None and self._process.ended is not None:
            self.resource.log_error(self._process.describe_end())
        return self.looks_alive()

    def _words(self) -> list[str]:
        line = text_property(self.resource, "CommandLine")
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ClusterError("bad-property", f"CommandLine {line!r} cannot be split into words: {error}") from error
        if not words:
            raise ClusterError("bad-property", 'CommandLine is not set: set it with /priv CommandLine="program …"')
        return words

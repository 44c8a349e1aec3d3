"""Generic Service: a service that the system knows how to start, as a systemd unit or an init script.

Where systemd runs the machine (the folder /run/systemd/system exists), systemctl is asked; elsewhere the init script
is called, whose exit statuses follow the Linux Standard Base (``status``: 0 running, 3 not running). The service must
not be started at boot by the system itself, or it would run on every node.

Processes that an init script starts belong to the resource and are killed with it. Those of systemd belong to
systemd, so there ``terminate`` has it kill the unit.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from clussvc.model.errors import ClusterError
from clussvc.resources.type_info import BUILTIN_TYPES, ResourceTypeInfo
from clussvc.resources.types.base import Finished, ResourceType, text_property

SYSTEMD_FOLDER: Final = Path("/run/systemd/system")
ASK_LIMIT_MS: Final = 10_000
"""How long a question about the state may take."""
NOT_RUNNING: Final = 3
"""LSB: the exit status of ``status`` for a service that is not running."""


class GenericService(ResourceType):
    """Private properties: ServiceName, StartupParameters, InitScriptFolder."""

    info: ClassVar[ResourceTypeInfo] = BUILTIN_TYPES["Generic Service"]

    def online(self) -> None:
        """Start the service and wait until the system says that it runs."""
        if SYSTEMD_FOLDER.is_dir():
            # Written down first: systemd would keep the unit running after the death of this monitor.
            self.resource.remember({"unit": self._service()})
            self._must(["systemctl", "start", "--", self._service()], "starting")
        else:
            words = [self._script(), "start", *shlex.split(text_property(self.resource, "StartupParameters"))]
            self._must(words, "starting")

    def offline(self) -> None:
        """Stop the service."""
        if SYSTEMD_FOLDER.is_dir():
            self._must(["systemctl", "stop", "--", self._service()], "stopping")
            self.resource.forget()
        else:
            self._must([self._script(), "stop"], "stopping")

    def terminate(self) -> None:
        """Have systemd kill the unit. What an init script started is killed by the monitor."""
        if SYSTEMD_FOLDER.is_dir():
            unit = self._service()
            self.resource.run(["systemctl", "kill", "--signal=SIGKILL", "--", unit], limit_ms=ASK_LIMIT_MS)
            self._must(["systemctl", "stop", "--", unit], "stopping")
            self.resource.forget()

    def looks_alive(self) -> bool:
        """Ask the system."""
        return self._running()

    def is_alive(self) -> bool:
        """Ask the system."""
        return self._running()

    @classmethod
    def clean(cls, record: Mapping[str, Any]) -> None:
        """Stop the unit that a dead monitor left running."""
        unit = record.get("unit")
        if isinstance(unit, str) and SYSTEMD_FOLDER.is_dir():
            subprocess.run(["systemctl", "stop", "--", unit], timeout=ASK_LIMIT_MS / 1000, check=True)

    def _running(self) -> bool:
        if SYSTEMD_FOLDER.is_dir():
            return self._ask(["systemctl", "is-active", "--quiet", "--", self._service()]).status == 0
        answer = self._ask([self._script(), "status"])
        if answer.status not in (0, NOT_RUNNING):
            self.resource.log_warning(f"status of the service ended with {answer.status}: {answer.output}")
        return answer.status == 0

    def _service(self) -> str:
        name = text_property(self.resource, "ServiceName")
        if not name:
            raise ClusterError("bad-property", "ServiceName is not set: set it with /priv ServiceName=NAME")
        return name

    def _script(self) -> str:
        folder = text_property(self.resource, "InitScriptFolder")
        path = Path(folder) / self._service()
        if not os.access(path, os.X_OK):
            raise ClusterError(
                "service-not-found",
                f"this machine is not run by systemd and has no init script {path}: install the service on this node,"
                " or remove the node from the possible owners",
            )
        return str(path)

    def _ask(self, words: Sequence[str]) -> Finished:
        return self.resource.run(words, limit_ms=ASK_LIMIT_MS)

    def _must(self, words: Sequence[str], doing: str) -> None:
        answer = self.resource.run(words, limit_ms=self.resource.pending_timeout_ms)
        if answer.status != 0:
            raise ClusterError(
                "service-failed",
                f"{doing} the service {self._service()} ended with status {answer.status}: {answer.output or '-'}",
            )

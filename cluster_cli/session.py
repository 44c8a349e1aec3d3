"""What every command works with: the connection, made when first needed, and how to wait for an outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Any

from clussvc.admin.client import ClusterClient, connect
from clussvc.model.errors import ClusterError
from clussvc.model.reports import Report

STATUS_PENDING = 997
"""The wait ended and the operation goes on (ERROR_IO_PENDING)."""
STATUS_RESOURCE_FAILED = 5038

CHANGES_AT_ONCE = 500
"""As many as the service takes in one request."""

POLL_INTERVAL_S = 0.1
FAILURE_CONFIRMED_S = 1.5
"""How long a failure must stand before a wait believes it: a restart, or a failover, may be about to follow."""


class Failed(Exception):
    """A command ended without success for a reason that the command line found itself."""

    def __init__(self, status: int, message: str, code: str = "failed") -> None:
        super().__init__(message)
        self.report = Report(code=code, status=status, message=message)


@unique
class Progress(Enum):
    """How far an operation is."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class Session:
    """One run of the program."""

    target: str | None = None
    socket_path: str | None = None
    json: bool = False
    say: Callable[[str], None] = print
    """Shows a progress line; nothing is said when the output is for programs."""
    _client: ClusterClient | None = field(default=None)
    _remarks: list[str] = field(default_factory=list)

    @property
    def client(self) -> ClusterClient:
        """The connection."""
        if self._client is None:
            self._client = connect(self.target, socket_path=self.socket_path)
        return self._client

    def call(self, object_: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Ask the cluster."""
        return self.client.call(object_, method, *args, **kwargs)

    def change(self, object_: str, method: str, *args: Any, **kwargs: Any) -> None:
        """Change the cluster."""
        self.client.change(object_, method, *args, **kwargs)

    def change_many(self, changes: Sequence[Sequence[Any]]) -> None:
        """Change the cluster in as few steps as these fit into."""
        for start in range(0, len(changes), CHANGES_AT_ONCE):
            self.client.change_many(changes[start : start + CHANGES_AT_ONCE])

    def progress(self, line: str) -> None:
        """Say what is being done."""
        if not self.json:
            self.say(line)

    def remark(self, sentence: str) -> None:
        """Add what a table has no column for; programs find it in the data."""
        if not self.json:
            self._remarks.append(sentence)

    @property
    def notes(self) -> list[str]:
        """Remarks: those that came with the answers, and those of the command. They go beside the screen."""
        return [*(self._client.notes if self._client else ()), *self._remarks]

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def wait(self, look: Callable[[], Progress], limit_s: float | None) -> Progress:
        """Look until it is done, has failed for good, or the time is over (PENDING); None: as long as it takes."""
        start = time.monotonic()
        failed_since: float | None = None
        while True:
            progress = look()
            now = time.monotonic()
            if progress is Progress.DONE:
                return progress
            if progress is Progress.FAILED:
                failed_since = now if failed_since is None else failed_since
                if now - failed_since >= FAILURE_CONFIRMED_S:
                    return progress
            else:
                failed_since = None
            if limit_s is not None and now - start >= limit_s:
                return Progress.FAILED if progress is Progress.FAILED else Progress.PENDING
            time.sleep(POLL_INTERVAL_S)


def wait_limit(argument: str | None, *, given: bool, default_s: float | None) -> float | None:
    """The limit that ``/wait[:s]`` means; ``default_s`` when the option is not there."""
    if not given:
        return default_s
    if not argument:
        return None
    if not argument.isdecimal() or int(argument) > 86_400:
        raise Failed(87, f"/wait:{argument} is not a number of seconds (0 to 86400).", "bad-argument")
    return float(argument)


STATUS_BY_ERROR = {
    "service-not-running": 1753,
    "cannot-connect": 1753,
    "connection-lost": 1726,
    "access-denied": 5,
    "no-certificate": 5,
    "unknown-cluster": 1753,
    "too-large": 87,
    "bad-request": 1783,
}
"""Win32 statuses for what goes wrong on the way: no endpoint, call failed, access denied, bad stub data."""


def report_of_error(error: ClusterError) -> Report:
    """An error of the connection as a report."""
    return Report(code=error.code, status=STATUS_BY_ERROR.get(error.code, 1), message=error.message)

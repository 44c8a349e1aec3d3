"""A real monitor process behind a real host, fed by hand."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from clussvc.model.ids import GroupId, ResourceId
from clussvc.model.monitoring import (
    BringOnline,
    EverythingTerminated,
    LeaseExtended,
    MonitorCommand,
    MonitorReport,
    MonitorStarted,
    OpenResource,
    PropertyValue,
    ResourceReported,
    ResourceSpec,
    TerminateEverything,
)
from clussvc.model.states import ResourceState
from clussvc.resources.monitor.host import MonitorHost
from clussvc.resources.monitor.kernel import boottime_ms

WAIT_S = 20.0
"""Longer than anything here takes on a busy machine; a test that waits so long has failed."""

R = TypeVar("R", bound=MonitorReport)
COMMAND = (sys.executable, "-m", "clussvc.service.monitor_main")


def spec(name: str, type_name: str, *, group: str = "g", **changes: object) -> ResourceSpec:
    """A resource with short intervals; words that are not fields of ResourceSpec are private properties."""
    private: dict[str, PropertyValue] = {}
    fields: dict[str, int] = {"looks_alive_interval_ms": 100, "is_alive_interval_ms": 200, "pending_timeout_ms": 10_000}
    for key, value in changes.items():
        if key in fields:
            assert isinstance(value, int)
            fields[key] = value
        else:
            assert isinstance(value, int | str | tuple)
            private[key] = value
    return ResourceSpec(
        resource=ResourceId(name),
        name=name,
        type=type_name,
        group=GroupId(group),
        group_name=group,
        private=private,
        looks_alive_interval_ms=fields["looks_alive_interval_ms"],
        is_alive_interval_ms=fields["is_alive_interval_ms"],
        pending_timeout_ms=fields["pending_timeout_ms"],
    )


class Driver:
    """Sends commands as the service would, and waits for reports in order."""

    def __init__(self, folder: Path, *, hang_ms: int = 5_000, command: tuple[str, ...] = COMMAND) -> None:
        self.folder = folder
        self.seen: list[MonitorReport] = []
        self._reports: queue.SimpleQueue[MonitorReport] = queue.SimpleQueue()
        self.host = MonitorHost(command, folder, self._reports.put, hang_ms=hang_ms)
        self._feeding = threading.Event()
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._over = threading.Event()

    def start(self, *, lease: bool = True) -> Driver:
        """Start the monitor, clean up after an earlier one, and feed its deadman from now on."""
        self.host.start()
        self.wait(MonitorStarted)
        self.send(TerminateEverything(ticket=1, why="start"))
        self.wait(EverythingTerminated)
        if lease:
            self.feed()
        return self

    def feed(self) -> None:
        """Extend the lease again and again, starting at once."""
        self.host.send(LeaseExtended(until_ms=boottime_ms() + 10_000))
        self._feeding.set()
        if not self._feeder.is_alive():
            self._feeder.start()

    def starve(self) -> None:
        """Extend the lease no more; it ends now."""
        self._feeding.clear()
        self.host.send(LeaseExtended(until_ms=boottime_ms() + 50))

    def _feed(self) -> None:
        while not self._over.wait(1.0):
            if self._feeding.is_set():
                self.host.send(LeaseExtended(until_ms=boottime_ms() + 10_000))

    def send(self, command: MonitorCommand) -> None:
        """Send one command."""
        self.host.send(command)

    def online(self, resource: ResourceSpec, epoch: int = 1) -> ResourceReported:
        """Open the resource, bring it online, and give the final report of that."""
        self.send(OpenResource(spec=resource))
        self.send(BringOnline(resource=resource.resource, epoch=epoch))
        return self.wait_state(resource, ResourceState.ONLINE, ResourceState.FAILED)

    def wait(self, kind: type[R], when: Callable[[R], bool] = lambda report: True) -> R:
        """The next report of that kind for which ``when`` holds; those before it are passed over."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            try:
                report = self._reports.get(timeout=max(deadline_s - time.monotonic(), 0))
            except queue.Empty:
                raise AssertionError(f"no {kind.__name__} came; the last reports: {self.seen[-8:]}") from None
            self.seen.append(report)
            if isinstance(report, kind) and when(report):
                return report

    def wait_state(self, resource: ResourceSpec, *states: ResourceState) -> ResourceReported:
        """The next report that the resource is in one of the states."""
        return self.wait(
            ResourceReported, lambda report: report.resource == resource.resource and report.state in states
        )

    def finish(self) -> None:
        """End the monitor; everything it ran must be gone."""
        self._over.set()
        self.host.stop(15_000)
        assert not marked(self.folder), "processes were left behind"


def marked(folder: Path) -> list[int]:
    """The living processes that belong to a monitor of that run folder, itself included."""
    wanted = os.fsencode(f"CLUSSVC_RUN={folder}")
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0") and alive(int(name)):
                    found.append(int(name))
            except OSError:
                continue
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] not in ("Z", "X")


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Look until it holds."""
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline_s, f"it never happened: {what}"
        time.sleep(0.01)


def read_pid(path: Path) -> int:
    """The number that a process wrote into a file, once it has."""
    wait_until(lambda: path.exists() and path.read_text().strip(), f"{path} is written")
    return int(path.read_text())


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """A monitor that runs and holds a lease."""
    made = Driver(tmp_path / "run").start()
    yield made
    made.finish()

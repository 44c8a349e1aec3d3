"""Ending a monitor's process: nobody waits for it, and its successor does not meet it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from clussvc.model.errors import ClusterError
from clussvc.model.monitoring import LeaseExtended, MonitorCommand, MonitorDied
from clussvc.service.monitor_hosts import MonitorHosts

WAIT_S = 20.0


class SlowHost:
    """A process that ends when the test lets it; ``said`` is what happened to it, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.may_end = threading.Event()
        self.started = threading.Semaphore(0)
        self.refuses = False
        self.pid: int | None = None

    def start(self) -> None:
        if self.refuses:
            raise ClusterError("monitor-start-failed", "no memory")
        assert self.pid is None, "two processes on one folder"
        self.pid = 7
        self.said.append("start")
        self.started.release()

    def send(self, command: MonitorCommand) -> None:
        self.said.append(type(command).__name__)

    def stop(self, timeout_ms: int) -> bool:
        ended = self.pid is None or self.may_end.wait(timeout_ms / 1000)
        if self.pid is not None:
            self.said.append("ended" if ended else "killed")
        self.pid = None
        return ended


@pytest.fixture
def host() -> SlowHost:
    return SlowHost()


@pytest.fixture
def deaths() -> list[MonitorDied]:
    return []


@pytest.fixture
def hosts(host: SlowHost, deaths: list[MonitorDied]) -> Iterator[MonitorHosts]:
    made = MonitorHosts(lambda name: host, lambda name, died: deaths.append(died), stop_ms=int(WAIT_S * 1000))
    yield made
    host.may_end.set()
    made.close()


def test_ending_a_monitor_waits_for_nobody(hosts: MonitorHosts, host: SlowHost) -> None:
    """The process still runs when the call has returned; commands that come late do no harm."""
    hosts.start("r")
    hosts.stop("r")
    assert hosts.pid("r") == 7
    hosts.send("r", LeaseExtended(until_ms=1))
    hosts.send("unknown", LeaseExtended(until_ms=1))
    host.may_end.set()
    hosts.close()

    assert [word for word in host.said if word != "LeaseExtended"] == ["start", "ended"]


def test_a_start_waits_for_the_end_of_the_one_before(hosts: MonitorHosts, host: SlowHost) -> None:
    """They would share a folder, and each would kill what the other started."""
    hosts.start("r")
    hosts.stop("r")
    hosts.start("r")
    assert host.said == ["start"]
    host.may_end.set()
    assert host.started.acquire(timeout=WAIT_S)
    assert host.started.acquire(timeout=WAIT_S)

    assert host.said == ["start", "ended", "start"]


def test_a_start_of_one_that_runs_begins_once_more(hosts: MonitorHosts, host: SlowHost) -> None:
    """Whoever asks for a start expects a monitor that knows nothing yet."""
    host.may_end.set()
    hosts.start("r")
    hosts.start("r")
    assert host.started.acquire(timeout=WAIT_S)
    assert host.started.acquire(timeout=WAIT_S)

    assert host.said == ["start", "ended", "start"]


def test_a_start_that_was_taken_back_does_not_happen(hosts: MonitorHosts, host: SlowHost) -> None:
    """Wanted, not wanted, wanted, not wanted."""
    hosts.start("r")
    hosts.stop("r")
    hosts.start("r")
    hosts.stop("r")
    host.may_end.set()
    hosts.close()

    assert host.said == ["start", "ended"]


def test_a_monitor_that_cannot_be_started_counts_as_dead(
    hosts: MonitorHosts, host: SlowHost, deaths: list[MonitorDied]
) -> None:
    """So that it is tried again."""
    host.refuses = True
    hosts.start("r")

    assert deaths == [MonitorDied(why="no memory")]

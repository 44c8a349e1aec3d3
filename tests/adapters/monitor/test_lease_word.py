"""The lease goes on in memory: the deadman believes what was written in time, and nothing else."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clussvc.model.monitoring import DeadmanFired, LeaseExtended, MonitorReport
from clussvc.resources.monitor.deadman import Deadman
from clussvc.resources.monitor.kernel import boottime_ms
from clussvc.resources.monitor.lease_word import LeaseWord, make_lease_memory
from tests.adapters.monitor.conftest import Driver, wait_until


class Watched:
    """A deadman, its word, and when it fired."""

    def __init__(self) -> None:
        self.fired: list[int] = []
        self._released = threading.Event()
        descriptor = make_lease_memory()
        self.word = LeaseWord(descriptor)
        self.deadman = Deadman(self._fire, LeaseWord(descriptor))
        os.close(descriptor)
        self.deadman.start()

    def _fire(self, ended_ms: int) -> None:
        self.fired.append(ended_ms)


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    # Its thread lives as long as this process: the lease is ended, and nothing follows.
    made.word.write(0, 0)
    made.deadman.extend(boottime_ms())
    wait_until(lambda: not made.deadman.lease_runs(), "the deadman is out of work")


def test_what_is_written_is_read() -> None:
    """Both numbers, through another mapping of the same memory."""
    descriptor = make_lease_memory()
    writer, reader = LeaseWord(descriptor), LeaseWord(descriptor)
    os.close(descriptor)

    assert (0, 0) == reader.read()
    writer.write(65_535, 1 << 47)
    assert (65_535, 1 << 47) == reader.read()
    writer.write(65_536, 5)
    assert (0, 5) == reader.read()
    assert reader.budget_ms == 0
    writer.budget_ms = 300
    assert (reader.budget_ms, reader.read()) == (300, (0, 5))


def test_a_lease_goes_on_without_a_word_through_the_connection(watched: Watched) -> None:
    """Written before the former end, again and again; then it ends."""
    watched.word.write(1, boottime_ms() + 500)
    watched.deadman.extend(boottime_ms() + 500)
    for _ in range(20):
        time.sleep(0.1)
        watched.word.write(1, boottime_ms() + 500)
        assert watched.deadman.lease_runs()
    assert [] == watched.fired

    _, until_ms = watched.word.read()
    wait_until(lambda: watched.fired, "it fires when nothing more is written")
    assert [until_ms] == watched.fired
    assert not watched.deadman.lease_runs()


def test_a_gap_is_noticed_however_late_the_deadman_looks(watched: Watched) -> None:
    """The service says that the lease had ended before it went on."""
    until_ms = boottime_ms() + 50
    watched.word.write(1, until_ms)
    watched.deadman.extend(until_ms)
    watched.word.write(2, boottime_ms() + 60_000)

    wait_until(lambda: watched.fired, "it fires")
    assert [until_ms] == watched.fired


def test_after_a_gap_the_next_lease_counts(watched: Watched) -> None:
    """The command that follows a gap makes it known, and the word is believed again."""
    watched.word.write(1, boottime_ms() + 20)
    watched.deadman.extend(boottime_ms() + 20)
    wait_until(lambda: watched.fired, "it fires")
    watched.word.write(2, boottime_ms() + 300)
    watched.deadman.extend(boottime_ms() + 300)
    watched.word.write(2, boottime_ms() + 60_000)
    begun_ms = boottime_ms()
    wait_until(lambda: boottime_ms() > begun_ms + 600, "the end that was sent has passed")

    assert 1 == len(watched.fired)
    assert watched.deadman.lease_runs()


def turns_of_main_loop(pid: int) -> int:
    """How often the main thread of a process has slept."""
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")))


def test_feeding_does_not_wake_the_monitor(tmp_path: Path) -> None:
    """Two hundred extensions of the lease, and the main loop sleeps on; without the next ones it ends."""
    driver = Driver(tmp_path / "run").start(lease=False)
    try:
        driver.host.send(LeaseExtended(until_ms=boottime_ms() + 2_000))
        assert driver.host.pid is not None
        before = turns_of_main_loop(driver.host.pid)
        for _ in range(200):
            driver.host.send(LeaseExtended(until_ms=boottime_ms() + 2_000))
            time.sleep(0.02)
        # It has pings to answer and a house to keep, a few times a second.
        assert turns_of_main_loop(driver.host.pid) - before < 100
        assert [] == [report for report in driver.seen if isinstance(report, DeadmanFired)]
        fired: MonitorReport = driver.wait(DeadmanFired)
        assert isinstance(fired, DeadmanFired)
    finally:
        driver.finish()

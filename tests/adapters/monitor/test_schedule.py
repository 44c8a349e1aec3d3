"""Polls come due on APScheduler: both kinds, spread, until they are forgotten, whatever the clock does."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from clussvc.model.ids import ResourceId
from clussvc.resources.monitor.schedule import PollKind, PollSchedule
from tests.adapters.monitor.conftest import wait_until


class Polls:
    """Counts what was due."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[ResourceId, PollKind]] = Counter()
        self._lock = threading.Lock()
        self.schedule = PollSchedule(self._due)
        self.schedule.start()

    def _due(self, resource: ResourceId, kind: PollKind) -> None:
        with self._lock:
            self.seen[resource, kind] += 1


def test_polls_come_and_stop() -> None:
    """Each kind at its interval; 0 means never; a forgotten resource is not polled."""
    polls = Polls()
    try:
        one, two = ResourceId("one"), ResourceId("two")
        polls.schedule.watch(one, 20, 40)
        polls.schedule.watch(two, 0, 20)
        wait_until(lambda: polls.seen[one, PollKind.IS_ALIVE] >= 3 and polls.seen[two, PollKind.IS_ALIVE] >= 3, "polls")
        assert 0 == polls.seen[two, PollKind.LOOKS_ALIVE]
        polls.schedule.forget(one)
        polls.schedule.forget(one)
        # One that was on its way when it was forgotten may still arrive.
        wait_until(lambda: polls.seen[two, PollKind.IS_ALIVE] >= 6, "the other goes on")
        settled = polls.seen[one, PollKind.LOOKS_ALIVE]
        wait_until(lambda: polls.seen[two, PollKind.IS_ALIVE] >= 12, "the other goes on")
        assert settled == polls.seen[one, PollKind.LOOKS_ALIVE]
    finally:
        polls.schedule.stop()


def test_clock_that_is_set_plans_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that was planned for tomorrow's clock comes due after the next check."""
    polls = Polls()
    try:
        one = ResourceId("one")
        polls.schedule.watch(one, 0, 3_600_000)
        polls.schedule._intervals[one, PollKind.IS_ALIVE] = 20  # What remains when the clock is set back by an hour.
        polls.schedule.check_clock()
        assert 0 == polls.seen[one, PollKind.IS_ALIVE]
        real = time.time
        monkeypatch.setattr("clussvc.resources.monitor.schedule.time.time", lambda: real() + 3600)
        polls.schedule.check_clock()
        monkeypatch.undo()
        wait_until(lambda: polls.seen[one, PollKind.IS_ALIVE] >= 2, "it is planned anew")
    finally:
        polls.schedule.stop()

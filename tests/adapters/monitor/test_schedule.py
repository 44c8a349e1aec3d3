"""Polls come due on APScheduler: both kinds, spread, until they are forgotten, whatever the clock does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from clussvc.model.ids import ResourceId
from clussvc.resources.monitor.schedule import BEATS_MAX, Poll, PollKind, PollSchedule
from tests.adapters.monitor.conftest import wait_until


class Polls:
    """Counts what was due."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[ResourceId, PollKind]] = Counter()
        self.beats: list[int] = []
        self._lock = threading.Lock()
        self.schedule = PollSchedule(self._due)
        self.schedule.start()

    def _due(self, polls: Sequence[Poll]) -> None:
        with self._lock:
            self.seen.update(polls)
            self.beats.append(len(polls))


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
        polls.schedule.watch(one, 0, 20)
        wait_until(lambda: polls.seen[one, PollKind.IS_ALIVE] >= 2, "it is polled")
        (job,) = polls.schedule._scheduler.get_jobs()
        job.modify(next_run_time=datetime.now(UTC) + timedelta(hours=1))  # As when the clock is set back by an hour.
        polls.seen.clear()
        polls.schedule.check_clock()
        assert 0 == polls.seen[one, PollKind.IS_ALIVE]
        real = time.time
        monkeypatch.setattr("clussvc.resources.monitor.schedule.time.time", lambda: real() + 3600)
        polls.schedule.check_clock()
        monkeypatch.undo()
        wait_until(lambda: polls.seen[one, PollKind.IS_ALIVE] >= 2, "it is planned anew")
    finally:
        polls.schedule.stop()


def test_polls_of_many_come_in_few_beats() -> None:
    """Five hundred resources of one interval wake the monitor a few times in it, and none of them is left out."""
    polls = Polls()
    try:
        resources = [ResourceId(f"r{number}") for number in range(500)]
        for resource in resources:
            polls.schedule.watch(resource, 5_000, 0)
        assert 1 == len(polls.schedule._scheduler.get_jobs())
        (round_,) = polls.schedule._rounds.values()
        for _ in range(BEATS_MAX):
            polls.schedule._beat(round_)

        assert {(resource, PollKind.LOOKS_ALIVE) for resource in resources} == set(polls.seen)
        assert {1, 2} >= set(polls.seen.values()), "the scheduler itself may have added a beat meanwhile"
        assert max(polls.beats) < 3 * len(resources) / BEATS_MAX, "they are spread"
        for resource in resources:
            polls.schedule.forget(resource)
        assert [] == polls.schedule._scheduler.get_jobs()
    finally:
        polls.schedule.stop()

"""When LooksAlive and IsAlive are due, kept by APScheduler.

A due poll is only put into the monitor's inbox; the scheduler's thread never runs one itself, so no poll delays
another. The resources of one interval share a job, their *round*: it comes due every BEAT_MS or more and has the polls
of one part of them put into the inbox together, since waking the monitor costs more than a poll does. The part of a
resource comes from a hash of its identifier, so that polls are spread over the interval. Beats that could not run on
time are run once, not once for each miss.

APScheduler plans by the wall clock. When somebody sets the clock, ``check_clock`` notices and plans everything anew,
since otherwise a clock set back by an hour would stop the polls for an hour.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, unique
from functools import partial
from typing import Any, Final, TypeAlias

from apscheduler.executors.debug import DebugExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from clussvc.model.ids import ResourceId

BEAT_MS: Final = 200
"""The polls of at least that time are due together; a shorter interval has one beat."""
BEATS_MAX: Final = 25
"""Beats in an interval; more would not make the polls of hundreds of resources more even."""

CLOCK_STEP_S: Final = 0.5
"""A wall clock that gains or loses this much against the monotonic one between two checks has been set."""


@unique
class PollKind(Enum):
    """Which poll is due."""

    LOOKS_ALIVE = "looks_alive"
    IS_ALIVE = "is_alive"


Poll: TypeAlias = tuple[ResourceId, PollKind]


@dataclass(slots=True)
class _Round:
    """The polls of one interval: in each beat those of one part are due."""

    interval_ms: int
    parts: list[dict[Poll, None]]
    next: int = 0

    @classmethod
    def of(cls, interval_ms: int) -> _Round:
        return cls(interval_ms=interval_ms, parts=[{} for _ in range(max(1, min(interval_ms // BEAT_MS, BEATS_MAX)))])

    def part_of(self, poll: Poll) -> dict[Poll, None]:
        resource, kind = poll
        return self.parts[zlib.crc32(f"{kind.value}/{resource}".encode()) % len(self.parts)]

    @property
    def empty(self) -> bool:
        return not any(self.parts)


class PollSchedule:
    """Calls ``due(polls)`` in the scheduler's thread; it must return at once. Other methods: from one thread."""

    def __init__(self, due: Callable[[Sequence[Poll]], None]) -> None:
        self._due = due
        self._intervals: dict[Poll, int] = {}
        self._rounds: dict[int, _Round] = {}
        self._lock = threading.Lock()
        self._offset_s = time.time() - time.monotonic()
        # Each run of each job would be a line otherwise.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler: Any = BackgroundScheduler(
            jobstores={"default": MemoryJobStore()},
            # Runs a job in the scheduler's own thread: ours only put a value into a queue.
            executors={"default": DebugExecutor()},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            jobstore_retry_interval=10,
            timezone=UTC,
            daemon=True,
        )

    def start(self) -> None:
        """Begin to keep time."""
        self._scheduler.start(paused=False)

    def stop(self) -> None:
        """Nothing is due any more."""
        self._scheduler.shutdown(wait=False)

    def every(self, interval_ms: int, name: str, work: Callable[[], None]) -> None:
        """Run housekeeping at an interval, in the scheduler's thread; ``work`` must return at once."""
        self._add_job(name, interval_ms / 1000, work)

    def watch(self, resource: ResourceId, looks_alive_ms: int, is_alive_ms: int) -> None:
        """Poll a resource that came online; an interval of 0 means not to."""
        self.forget(resource)
        for kind, interval_ms in ((PollKind.LOOKS_ALIVE, looks_alive_ms), (PollKind.IS_ALIVE, is_alive_ms)):
            if interval_ms > 0:
                self._intervals[resource, kind] = interval_ms
                with self._lock:
                    known = self._rounds.get(interval_ms)
                    round_ = self._rounds.setdefault(interval_ms, known or _Round.of(interval_ms))
                    round_.part_of((resource, kind))[resource, kind] = None
                if known is None:
                    self._plan(round_)

    def forget(self, resource: ResourceId) -> None:
        """Poll it no more."""
        for kind in PollKind:
            interval_ms = self._intervals.pop((resource, kind), None)
            if interval_ms is not None:
                with self._lock:
                    round_ = self._rounds[interval_ms]
                    round_.part_of((resource, kind)).pop((resource, kind), None)
                    if not round_.empty:
                        continue
                    del self._rounds[interval_ms]
                self._scheduler.remove_job(_job_id(round_))

    def check_clock(self) -> None:
        """Call every second or so; see the module's docstring."""
        offset_s = time.time() - time.monotonic()
        if abs(offset_s - self._offset_s) > CLOCK_STEP_S:
            for round_ in list(self._rounds.values()):
                self._plan(round_)
        self._offset_s = offset_s

    def _plan(self, round_: _Round) -> None:
        self._add_job(_job_id(round_), round_.interval_ms / len(round_.parts) / 1000, partial(self._beat, round_))

    def _beat(self, round_: _Round) -> None:
        with self._lock:
            polls = tuple(round_.parts[round_.next])
            round_.next = (round_.next + 1) % len(round_.parts)
        if polls:
            self._due(polls)

    def _add_job(self, name: str, interval_s: float, work: Callable[[], None]) -> None:
        first = datetime.now(UTC) + timedelta(seconds=interval_s)
        self._scheduler.add_job(
            work,
            trigger=IntervalTrigger(seconds=interval_s, start_date=first, timezone=UTC, jitter=None),
            id=name,
            name=name,
            next_run_time=first,
            replace_existing=True,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )


def _job_id(round_: _Round) -> str:
    return f"polls every {round_.interval_ms} ms"

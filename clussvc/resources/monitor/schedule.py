"""When LooksAlive and IsAlive are due, kept by APScheduler.

A due poll is only put into the monitor's inbox; the scheduler's thread never runs one itself, so no poll delays
another. First polls are spread over the interval by a hash of the resource's identifier, or equal intervals would all
fall together; polls that could not run on time are run once, not once for each miss.

APScheduler plans by the wall clock. When somebody sets the clock, ``check_clock`` notices and plans everything anew,
since otherwise a clock set back by an hour would stop the polls for an hour.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum, unique
from typing import Any, Final

from apscheduler.executors.debug import DebugExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from clussvc.model.ids import ResourceId

CLOCK_STEP_S: Final = 0.5
"""A wall clock that gains or loses this much against the monotonic one between two checks has been set."""


@unique
class PollKind(Enum):
    """Which poll is due."""

    LOOKS_ALIVE = "looks_alive"
    IS_ALIVE = "is_alive"


class PollSchedule:
    """Calls ``due(resource, kind)`` in the scheduler's thread; it must return at once."""

    def __init__(self, due: Callable[[ResourceId, PollKind], None]) -> None:
        self._due = due
        self._intervals: dict[tuple[ResourceId, PollKind], int] = {}
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
        self._scheduler.add_job(
            work,
            trigger=IntervalTrigger(seconds=interval_ms / 1000, timezone=UTC, jitter=None),
            id=name,
            name=name,
            replace_existing=True,
        )

    def watch(self, resource: ResourceId, looks_alive_ms: int, is_alive_ms: int) -> None:
        """Poll a resource that came online; an interval of 0 means not to."""
        self.forget(resource)
        for kind, interval_ms in ((PollKind.LOOKS_ALIVE, looks_alive_ms), (PollKind.IS_ALIVE, is_alive_ms)):
            if interval_ms > 0:
                self._intervals[resource, kind] = interval_ms
                self._plan(resource, kind)

    def forget(self, resource: ResourceId) -> None:
        """Poll it no more."""
        for kind in PollKind:
            if self._intervals.pop((resource, kind), None) is not None:
                try:
                    self._scheduler.remove_job(_job_id(resource, kind))
                except JobLookupError:
                    continue

    def check_clock(self) -> None:
        """Call every second or so; see the module's docstring."""
        offset_s = time.time() - time.monotonic()
        if abs(offset_s - self._offset_s) > CLOCK_STEP_S:
            for resource, kind in list(self._intervals):
                self._plan(resource, kind)
        self._offset_s = offset_s

    def _plan(self, resource: ResourceId, kind: PollKind) -> None:
        interval_ms = self._intervals[resource, kind]
        share = (zlib.crc32(_job_id(resource, kind).encode()) % 1000 + 1) / 1000
        first = datetime.now(UTC) + timedelta(milliseconds=interval_ms * share)
        self._scheduler.add_job(
            self._due,
            trigger=IntervalTrigger(seconds=interval_ms / 1000, start_date=first, timezone=UTC, jitter=None),
            args=(resource, kind),
            id=_job_id(resource, kind),
            name=_job_id(resource, kind),
            next_run_time=first,
            replace_existing=True,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )


def _job_id(resource: ResourceId, kind: PollKind) -> str:
    return f"{kind.value}/{resource}"

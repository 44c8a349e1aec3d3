"""Virtual time: what is to happen, in order, and how far each machine's own clocks have come."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

WALL_START_MS = 1_800_000_000_000


class Scheduler:
    """One queue of everything that will happen; the only source of time. All times inside are microseconds."""

    def __init__(self) -> None:
        self.now_us = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    @property
    def now_ms(self) -> int:
        """Milliseconds since the world began."""
        return self.now_us // 1000

    def later(self, delay_ms: float, action: Callable[[], None]) -> None:
        """Do something after a delay; what is due at the same time happens in the order in which it was asked for."""
        heapq.heappush(self._queue, (self.now_us + int(delay_ms * 1000), next(self._order), action))

    def number(self) -> int:
        """A number that was not given out before."""
        return next(self._order)

    def step(self, *, until_us: int) -> bool:
        """Let the next thing happen; False if there is none before that time, which then is the present."""
        if not self._queue or self._queue[0][0] > until_us:
            self.now_us = until_us
            return False
        self.now_us, _, action = heapq.heappop(self._queue)
        action()
        return True


class MachineClock:
    """The clocks of one machine: one that runs on at its own rate, and one on the wall that people may set."""

    def __init__(self, scheduler: Scheduler, *, offset_ms: int) -> None:
        self._scheduler = scheduler
        self._since_us = scheduler.now_us
        self._shown_us = offset_ms * 1000
        self.rate_ppm = 0
        self.wall_offset_ms = 0
        self._asked_us, self._answer_us = -1, 0

    def run_at(self, rate_ppm: int) -> None:
        """From now on gain (or lose) that many microseconds in each second; the clock does not jump."""
        self._shown_us, self._since_us = self.now_us, self._scheduler.now_us
        self._asked_us = -1
        self.rate_ppm = rate_ppm

    @property
    def world_us(self) -> int:
        """The true time."""
        return self._scheduler.now_us

    @property
    def now_us(self) -> int:
        """What the boot-time clock shows."""
        world_us = self._scheduler.now_us
        if world_us != self._asked_us:
            passed_us = world_us - self._since_us
            self._asked_us = world_us
            self._answer_us = self._shown_us + passed_us + passed_us * self.rate_ppm // 1_000_000
        return self._answer_us

    @property
    def now_ms(self) -> int:
        """The same in milliseconds."""
        return self.now_us // 1000

    @property
    def wall_ms(self) -> int:
        """What the clock on the wall shows, in milliseconds since 1970."""
        return WALL_START_MS + self._scheduler.now_ms + self.wall_offset_ms

    def until_ms(self, shown_ms: int) -> float:
        """How long it takes, in the world's milliseconds, until the boot-time clock has passed a time."""
        left_us = shown_ms * 1000 - self.now_us
        return max(0.0, left_us * 1_000_000 / (1_000_000 + self.rate_ppm) / 1000)

"""The deadman and the gate: nothing is started without a lease, and everything ends when the lease does (rule R4).

The *gate* numbers the terms in which things may be started. Whoever is about to start something shows the number it
was permitted under; closing the gate raises the number first, under the same lock that starting takes, so whatever is
ended afterwards cannot be joined by a late starter.

The *deadman* is a thread of its own with a timer of its own on CLOCK_BOOTTIME. It shares no queue with the work it
ends, so workers may hang as they like, and it reads from memory how the lease goes on (``lease_word``). Invariants: a
lease that ended fires exactly once, also when a newer one has arrived meanwhile; between the end of the lease and the
end of the termination nothing is permitted.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterator

from clussvc.resources.monitor.kernel import arm_boottime_timer, boottime_ms, make_boottime_timer
from clussvc.resources.monitor.lease_word import LeaseWord


class StartGate:
    """Terms in which things may be started; see the module's docstring."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._term = 1
        self._closed = 0

    def permit(self) -> int | None:
        """The number to show when starting; None while the gate is closed."""
        with self.lock:
            return None if self._closed else self._term

    def valid(self, permit: int | None) -> bool:
        """Whether something may be started under that permit. The caller holds ``lock``."""
        return permit is not None and not self._closed and permit == self._term

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """While this lasts nothing is permitted, and every earlier permit is void for good."""
        with self.lock:
            self._closed += 1
            self._term += 1
        try:
            yield
        finally:
            with self.lock:
                self._closed -= 1


class Deadman:
    """Calls ``fire(lease_ended_ms)`` in its own thread when the lease runs out. Made disarmed: no lease, no start."""

    def __init__(self, fire: Callable[[int], None], word: LeaseWord | None = None) -> None:
        """``word`` is where the service writes how the lease goes on; without it only ``extend`` does."""
        self._fire = fire
        self._word = word
        self._gaps = 0
        self._lock = threading.Lock()
        self._until_ms: int | None = None
        self._next_ms: int | None = None
        self._firing = False
        self._timer = make_boottime_timer()
        self._thread = threading.Thread(target=self._watch, name="deadman", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def extend(self, until_ms: int) -> None:
        """The lease now runs until ``until_ms`` (CLOCK_BOOTTIME); a shorter one than before is believed as well.

        A lease that has ended is not revived: it fires first, and the new one counts from then on.
        """
        with self._lock:
            overdue = self._until_ms is not None and boottime_ms() >= self._until_ms and not self._went_on()
            if self._word is not None:
                self._gaps, _ = self._word.read()
            if self._firing or overdue:
                self._next_ms = until_ms
                return
            self._until_ms = until_ms
            arm_boottime_timer(self._timer, until_ms)

    def lease_runs(self) -> bool:
        """Whether a lease was given and has not ended."""
        with self._lock:
            if self._firing or self._until_ms is None:
                return False
            return boottime_ms() < self._until_ms or self._went_on()

    def lease_until_ms(self) -> int | None:
        """When the present lease ends (CLOCK_BOOTTIME), as far as it is known; None if none runs."""
        with self._lock:
            if self._until_ms is None:
                return None
            until_ms = self._until_ms
            if self._word is not None:
                gaps, word_ms = self._word.read()
                until_ms = max(until_ms, word_ms) if gaps == self._gaps else until_ms
            return until_ms

    def _went_on(self) -> bool:
        """Whether the lease that ends now has been extended in time; then that is taken over. Under the lock."""
        if self._word is None or self._until_ms is None:
            return False
        gaps, until_ms = self._word.read()
        if gaps != self._gaps or until_ms <= boottime_ms():
            return False
        self._until_ms = until_ms
        arm_boottime_timer(self._timer, until_ms)
        return True

    def _watch(self) -> None:
        _raise_priority()
        poller = select.poll()
        poller.register(self._timer, select.POLLIN)
        while True:
            poller.poll()
            with contextlib.suppress(BlockingIOError):
                os.read(self._timer, 8)
            with self._lock:
                ended_ms = self._until_ms
                if ended_ms is None or boottime_ms() < ended_ms or self._went_on():
                    continue  # Extended in the meantime, by a command or in the word.
                self._firing = True
                self._until_ms = None
            try:
                self._fire(ended_ms)
            finally:
                self._rearm()

    def _rearm(self) -> None:
        with self._lock:
            self._firing = False
            self._until_ms, self._next_ms = self._next_ms, None
            if self._until_ms is not None:
                arm_boottime_timer(self._timer, self._until_ms)


def _raise_priority() -> None:
    """Real-time scheduling where the system allows it, else a better nice value, else nothing."""
    # What this thread starts (other threads among them) must not inherit the privilege.
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -15)

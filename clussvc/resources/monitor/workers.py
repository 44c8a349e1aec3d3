"""Worker threads for the entry points of resources: one call occupies one thread, so a hung call delays nobody.

Threads are made when they are needed and end after a while without work. Calls that stop something run at once; those
that start something or look at it take turns (:mod:`clussvc.resources.monitor.turns`), so that many at once do not
hinder each other. A call that is no longer wanted is *aborted*:
an exception is raised in its thread before its next step of Python code, so it can do nothing more even if the system
call it sits in returns much later. Calls that are under way are written to a small shared file, from which the service
reads after a crash whose entry point was running.
"""

from __future__ import annotations

import mmap
import queue
import threading
from collections.abc import Callable
from enum import Enum, unique
from pathlib import Path
from typing import Final, TypeAlias

from clussvc.model.ids import ResourceId
from clussvc.resources.monitor.kernel import monotonic_ms, raise_in_thread
from clussvc.resources.monitor.processes import children_of_thread
from clussvc.resources.monitor.turns import Turns

IDLE_S: Final = 30.0
"""After this long without work a thread ends."""
STARTS_AT_ONCE: Final = 16
"""Young calls that start or stop a resource, at the same time; the node file may say otherwise."""
STARTS_YOUNG_MS: Final = 200
POLLS_AT_ONCE: Final = 2
"""Few: most polls take less than waking another thread."""
POLLS_YOUNG_MS: Final = 20


@unique
class CallKind(Enum):
    """Which entry point a call runs; the value is how it is named to people."""

    OPEN = "open"
    ONLINE = "online"
    OFFLINE = "offline"
    POLL = "looks_alive or is_alive"
    EVENT = "event handler"
    TERMINATE = "terminate"
    CLOSE = "close"
    INTERNAL = "internal work"


class CallAborted(BaseException):
    """Raised inside a call that is no longer wanted. Not an Exception, so that entry points do not swallow it."""


Outcome: TypeAlias = object
"""What the call returned, or the exception that it raised."""


class Done:
    """Something that happens once and can be waited for. An Event that costs nothing as long as nobody waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """It has happened; once only."""
        self._lock.release()

    def is_set(self) -> bool:
        """Whether it has happened."""
        return not self._lock.locked() or self.wait(0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has happened; False when it took too long."""
        if not self._lock.acquire(timeout=timeout_s):
            return False
        self._lock.release()
        return True


class Call:
    """One call of an entry point."""

    def __init__(self, kind: CallKind, resource: ResourceId | None, work: Callable[[], object], limit_ms: int) -> None:
        self.kind = kind
        self.resource = resource
        self.work = work
        self.limit_ms = limit_ms
        self.aborted = False
        self.begun = False
        """Something of it may have run. One that was aborted before that never will."""
        self.since_ms: int | None = None
        """From when its limit counts: it has a thread since then, or has told of progress. None: it waits its turn."""
        self.overrun = False
        self.finished = Done()
        self.native_id = 0
        self.adopt: Callable[[set[int]], None] | None = None
        """Told, before the outcome is, which processes the call forked by itself and left running."""
        self._before: set[int] = set()
        self._lock = threading.Lock()
        self._ident: int | None = None

    def abort(self) -> None:
        """The result is not wanted any more, and no further step is to be taken."""
        with self._lock:
            if not self.aborted:
                self.aborted = True
                if self._ident is not None:
                    raise_in_thread(self._ident, CallAborted)

    def run(self) -> Outcome:
        """Called once, by its worker thread."""
        with self._lock:
            if self.aborted:
                return CallAborted()
            self.begun = True
            self._ident = threading.get_ident()
            self.native_id = threading.get_native_id()
            self._before = children_of_thread(self.native_id)
        try:
            return self.work()
        except CallAborted as aborted:
            return aborted
        except Exception as error:  # noqa: BLE001 -- whatever an entry point raises is the outcome of its call
            return error
        except SystemExit as error:
            return RuntimeError(f"it asked the monitor to exit ({error})")
        finally:
            with self._lock:
                self._ident = None

    def forked(self) -> set[int]:
        """What its thread forked by itself since the call began. Meaningful until ``finished``."""
        return children_of_thread(self.native_id) - self._before if self.native_id else set()

    def hand_over(self) -> None:
        """Tell whom it leaves running."""
        if self.adopt is not None and self.native_id:
            self.adopt(self.forked())


class CallPool:
    """Runs calls; ``done(call, outcome)`` is called in the worker's thread, at least once for each call."""

    def __init__(
        self, done: Callable[[Call, Outcome], None], board: CallBoard, starts_at_once: int = STARTS_AT_ONCE
    ) -> None:
        self._done = done
        self._board = board
        self._polls: Turns[Call] = Turns(POLLS_AT_ONCE, POLLS_YOUNG_MS)
        self._starts: Turns[Call] = Turns(starts_at_once, STARTS_YOUNG_MS)
        self._queue: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._local = threading.local()

    def submit_in_turn(self, call: Call) -> Call:
        """Run ``call`` when its turn has come."""
        with self._lock:
            self._turns_of(call).wait(call)
        self.look()
        return call

    def withdraw(self, call: Call) -> bool:
        """Take back a call that still waits for its turn; False when it runs already."""
        with self._lock:
            return self._turns_of(call).withdraw(call)

    def look(self) -> None:
        """Begin the calls whose turn has come; for the main loop at ``look_ms``."""
        for turns in (self._starts, self._polls):
            while True:
                with self._lock:
                    call = turns.next(monotonic_ms())
                if call is None:
                    break
                self.submit(call)

    @property
    def look_ms(self) -> int | None:
        """When to look although no call returns."""
        with self._lock:
            times = [at_ms for turns in (self._starts, self._polls) if (at_ms := turns.look_ms) is not None]
        return min(times, default=None)

    def _turns_of(self, call: Call) -> Turns[Call]:
        return self._polls if call.kind is CallKind.POLL else self._starts

    def submit(self, call: Call) -> Call:
        """Run ``call`` at once, in an idle thread or a new one."""
        call.since_ms = monotonic_ms()
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
                fresh = False
            else:
                fresh = True
        if fresh:
            threading.Thread(target=self._work, args=(call,), name="worker", daemon=True).start()
        else:
            self._queue.put(call)
        return call

    def current(self) -> Call | None:
        """The call that the calling thread runs."""
        return getattr(self._local, "call", None)

    def _work(self, first: Call) -> None:
        call: Call | None = first
        while call is not None:
            self._serve(call)
            call = self._next(call)

    def _serve(self, call: Call) -> None:
        """Run a call and tell its outcome, though an abort may strike at any step on the way out."""
        outcome: Outcome = CallAborted()
        try:
            self._local.call = call
            slot = self._board.write(call)
            try:
                outcome = call.run()
            finally:
                self._board.erase(slot)
        except CallAborted:
            pass
        while True:
            try:
                self._local.call = None
                call.hand_over()
                self._done(call, outcome)
                call.finished.set()
            except CallAborted:
                continue
            return

    def _next(self, last: Call) -> Call | None:
        with self._lock:
            turns = self._turns_of(last)
            turns.over(last)
            call = turns.next(monotonic_ms())
            if call is not None:
                call.since_ms = monotonic_ms()
                return call
            self._idle += 1
        try:
            return self._queue.get(timeout=IDLE_S)
        except queue.Empty:
            with self._lock:
                if self._idle > 0:
                    self._idle -= 1
                    return None
            # Somebody has counted on this thread just now.
            return self._queue.get()


class CallBoard:
    """A shared file with the resources whose entry points run now; see the module's docstring."""

    SLOTS: Final = 32
    SLOT_BYTES: Final = 128

    def __init__(self, path: Path) -> None:
        size = self.SLOTS * self.SLOT_BYTES
        with open(path, "wb+") as board:
            board.truncate(size)
            self._map = mmap.mmap(board.fileno(), size)
        self._free = list(range(self.SLOTS))
        self._lock = threading.Lock()

    def write(self, call: Call) -> int | None:
        """Put a call on the board; None when it is full or the call is of no resource."""
        if call.resource is None:
            return None
        text = call.resource.encode()[: self.SLOT_BYTES]
        with self._lock:
            if not self._free:
                return None
            slot = self._free.pop()
            start = slot * self.SLOT_BYTES
            self._map[start : start + self.SLOT_BYTES] = text.ljust(self.SLOT_BYTES, b"\0")
            return slot

    def erase(self, slot: int | None) -> None:
        """Take a call off the board."""
        if slot is not None:
            with self._lock:
                self._map[slot * self.SLOT_BYTES] = 0
                self._free.append(slot)

    @classmethod
    def read(cls, path: Path) -> tuple[ResourceId, ...]:
        """Who was on the board of a monitor that has died."""
        try:
            content = path.read_bytes()
        except OSError:
            return ()
        slots = (content[at : at + cls.SLOT_BYTES] for at in range(0, len(content), cls.SLOT_BYTES))
        found = {slot.rstrip(b"\0").decode(errors="replace") for slot in slots if slot[:1] != b"\0"}
        return tuple(ResourceId(name) for name in sorted(found))

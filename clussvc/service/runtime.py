"""The loop: one thread owns the core, adapters feed its bounded inbox, its actions are performed in order.

Nothing here decides. Each adapter turns the world into events and actions into the world; this module knows which
action belongs to which adapter.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from clussvc.actions import Action, Reply, StopService
from clussvc.events import CommandArrived, Committed, ConfigInstalled, Event, HeartbeatsHeard, StopRequested, Tick
from clussvc.global_update.update import Update
from clussvc.membership.heartbeat import Heard
from clussvc.model import reports
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId, RequestId
from clussvc.model.records import RECORDS_PER_ENTRY_MAX, HistoryEntry
from clussvc.model.reports import Report
from clussvc.model.view import LiveView
from clussvc.node import NodeCore
from clussvc.ports import ConfigStore

BROKEN_INVARIANT = 70
"""Exit code of a service that ended itself (EX_SOFTWARE of sysexits)."""

INBOX_MAX = 20_000
"""Events waiting for the core. More means that the core has stopped working, and the process ends (its peers recover).
Heartbeats are not among them: the extension keeps them in a queue of its own."""

EVENTS_PER_TURN_MAX = 64

SAVE_GAP_S = 0.2
"""Pause between two saves. One in such a time is enough for a copy of the log; with a save for each entry, every report
of states would have whole rows written of the same resources again and again."""

SAVE_ATTEMPTS_MAX = 60
SAVE_PAUSE_S = 1.0
"""A database that cannot be written for a minute ends the service; its folder also holds the log."""

ENTRIES_WAITING_MAX = 100_000
"""Records that wait to be written; beyond it the oldest are dropped from the history (never from the log)."""

log = structlog.get_logger()


class SystemClock:
    """The real clocks."""

    def now_ms(self) -> int:
        """CLOCK_BOOTTIME: runs on through suspend, equal for all processes of this machine."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000


class Inbox:
    """A bounded queue with one reader."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._ready = threading.Condition()
        self._nudged = False

    def put(self, event: Event) -> None:
        """Add an event; may be called from any thread, never blocks."""
        with self._ready:
            assert len(self._events) < INBOX_MAX, "the inbox overflowed: the core does not keep up"
            self._events.append(event)
            self._ready.notify()

    def nudge(self) -> None:
        """Have the core take a turn now, though there is no event; may be called from any thread, never blocks."""
        with self._ready:
            self._nudged = True
            self._ready.notify()

    def take(self, *, timeout_s: float) -> list[Event]:
        """The waiting events, at most EVENTS_PER_TURN_MAX; empty after the time-out and after a nudge."""
        with self._ready:
            if not self._events and not self._nudged:
                self._ready.wait(timeout_s)
            self._nudged = False
            count = min(len(self._events), EVENTS_PER_TURN_MAX)
            return [self._events.popleft() for _ in range(count)]


class HistoryWriter:
    """Writes configurations and records to the store, in its own thread and in batches.

    The store is not the truth (the log is), so the core does not wait for it; what is not written at a crash is written
    again when the log is replayed.
    """

    def __init__(self, store: ConfigStore, fail: Callable[[str], None]) -> None:
        self._store = store
        self._fail = fail
        self._changed = threading.Condition()
        self._pending: tuple[int, Config] | None = None
        self._entries: deque[HistoryEntry] = deque(maxlen=ENTRIES_WAITING_MAX)
        self._closing = False
        self._last_cursor = store.last_cursor()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def add(self, index: int, config: Config, entries: list[HistoryEntry]) -> None:
        """Have this written soon."""
        with self._changed:
            self._pending = (index, config)
            self._entries.extend(entries)
            self._changed.notify_all()

    def wait(self, *, after: int, wait_ms: int) -> None:
        """Wait until something newer than ``after`` was written, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._last_cursor > after or self._closing, wait_ms / 1000)

    def close(self) -> None:
        """Write what is left and end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._closing)
                if self._pending is None:
                    return
                (index, config), entries = self._pending, list(self._entries)
                self._pending = None
                self._entries.clear()
            try:
                self._save(index, config, entries)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the node must not go on without its store
                self._fail(f"the configuration database cannot be written: {error}")
                return
            with self._changed:
                if entries:
                    self._last_cursor = max(self._last_cursor, entries[-1].cursor)
                self._changed.notify_all()
                # What comes first is written at once, what follows closely is gathered.
                self._changed.wait_for(lambda: self._closing, SAVE_GAP_S)

    def _save(self, index: int, config: Config, entries: list[HistoryEntry]) -> None:
        """Write; what may pass (a busy file, a full disk) is tried again, since the log has everything anyway."""
        for attempt in range(1, SAVE_ATTEMPTS_MAX + 1):
            try:
                self._store.save(index, config, entries)
                return
            except ClusterError as error:
                if not error.retryable or attempt == SAVE_ATTEMPTS_MAX:
                    raise
                log.warning("database.retry", because=error.message, attempt=attempt)
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, SAVE_PAUSE_S)


class Runtime:
    """Owns the core and its thread; implements ports.ClusterAccess together with the assembly."""

    def __init__(
        self,
        *,
        core: NodeCore,
        inbox: Inbox,
        clock: SystemClock,
        store: ConfigStore,
        log_record: Callable[[HistoryEntry], None],
        take_heartbeats: Callable[[], tuple[Heard, ...]],
    ) -> None:
        self._core = core
        self._take_heartbeats = take_heartbeats
        self._inbox = inbox
        self._clock = clock
        self._store = store
        self._writer = HistoryWriter(store, self.die)
        self._log_record = log_record
        self._perform: dict[type[Action], Callable[[Any], None]] = {}
        self._stopped = threading.Event()
        self._view: LiveView = core.view(clock.now_ms())
        self._applied = threading.Condition()
        self._replies: dict[RequestId, _Waiting] = {}
        self._replies_lock = threading.Lock()
        self.stopped_because = ""
        self._late_max_ms = 0
        """How late a turn began at most, after the core's deadline, since somebody asked."""

    def performs(self, performers: Mapping[type[Action], Callable[[Any], None]]) -> None:
        """Say which adapter performs which action; every action must have exactly one."""
        self._perform = dict(performers) | {Reply: self._reply, StopService: self._stop}

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the core says stop. Must be called from the thread that is to own the core."""
        events: list[Event] = [Tick()]
        while not self._stopped.is_set():
            for event in events:
                if not self._stopped.is_set():
                    # What was heard meanwhile decides whether the lease still runs, so it comes before everything.
                    heard = self._take_heartbeats()
                    if heard:
                        self._turn(HeartbeatsHeard(heard=heard))
                    if not (heard and isinstance(event, Tick)):
                        self._turn(event)
            due_ms = self._core.deadline_ms
            wait_ms = due_ms - self._clock.now_ms()
            events = self._inbox.take(timeout_s=max(0, wait_ms) / 1000) or [Tick()]
            self._late_max_ms = max(self._late_max_ms, self._clock.now_ms() - due_ms)
        self._writer.close()

    def _turn(self, event: Event) -> None:
        index = self._core.index
        actions = self._core.handle(event, now_ms=self._clock.now_ms(), wall_ms=self._clock.wall_ms())
        if isinstance(event, Committed | ConfigInstalled) and event.index > index:
            self._remember(event)
        self._view = self._core.view(self._clock.now_ms())
        for action in actions:
            self._perform[type(action)](action)

    def _remember(self, event: Committed | ConfigInstalled) -> None:
        entries: list[HistoryEntry] = []
        if isinstance(event, Committed):
            entries = [
                HistoryEntry(
                    cursor=event.index * RECORDS_PER_ENTRY_MAX + position,
                    at_ms=event.proposal.at_ms,
                    record=record,
                )
                for position, record in enumerate(event.records[:RECORDS_PER_ENTRY_MAX])
            ]
            for entry in entries:
                self._log_record(entry)
        self._writer.add(event.index, event.config, entries)
        with self._applied:
            self._applied.notify_all()

    def _stop(self, action: StopService) -> None:
        self.stopped_because = action.why
        self._stopped.set()

    def die(self, why: str) -> None:
        """End the process at once: its state cannot be trusted any more. Its monitors terminate its resources."""
        log.critical("service.dies", because=why)
        os._exit(BROKEN_INVARIANT)

    # --- what administration sees -----------------------------------------------------------------------------------

    def config(self) -> Config:
        """The configuration at the newest index applied here."""
        config = self._core.config
        if config is None:
            raise ClusterError(
                "no-configuration", "this node has not received the cluster's configuration yet", retryable=True
            )
        return config

    def view(self) -> LiveView:
        """What this node knows besides."""
        return self._view

    def execute(self, update: Update, *, request: RequestId | None = None, timeout_ms: int = 10_000) -> Report | None:
        """See ports.ClusterAccess."""
        request = request or RequestId(os.urandom(12).hex())
        waiting = _Waiting()
        with self._replies_lock:
            if request in self._replies:
                return reports.outcome_unknown("the same request is already under way")
            self._replies[request] = waiting
        try:
            self._inbox.put(CommandArrived(request=request, update=update))
            if not waiting.done.wait(timeout_ms / 1000):
                return reports.outcome_unknown("no answer came in time")
            return waiting.refusal
        finally:
            with self._replies_lock:
                self._replies.pop(request, None)

    def _reply(self, reply: Reply) -> None:
        with self._replies_lock:
            waiting = self._replies.get(reply.request)
        if waiting is not None:
            waiting.refusal = reply.refusal
            waiting.done.set()

    def history(self, *, after: int, limit: int, wait_ms: int = 0) -> list[HistoryEntry]:
        """See ports.ClusterAccess."""
        found = self._store.history(after=after, limit=limit)
        if not found and wait_ms > 0:
            self._writer.wait(after=after, wait_ms=wait_ms)
            found = self._store.history(after=after, limit=limit)
        return found

    def wait_for_index(self, index: int, timeout_ms: int) -> bool:
        """See ports.ClusterAccess."""
        with self._applied:
            return self._applied.wait_for(lambda: self._core.index >= index, timeout_ms / 1000)

    def node_id(self) -> NodeId:
        """Who this is."""
        return self._view.node

    def stop_service(self) -> None:
        """Begin an orderly stop."""
        self._inbox.put(StopRequested())


class _Waiting:
    """A caller that waits for the outcome of its change."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.refusal: Report | None = None

"""The far end: drives resource types as the service commands, and notices failures. It makes no policy decision.

One thread, the *main loop*, owns the books and never blocks; entry points run in worker threads (``workers``), polls
are timed by ``schedule``, the deadman and its end of everything run in a thread of their own. All of them only put
notes into the inbox of the main loop.

=============  =====================================================================================
in state       what happens
=============  =====================================================================================
Offline        BringOnline: close the old instance, make and open a new one, online, is_alive -> Online
Online Pend.   silent for pending_timeout -> terminated, then Failed; own failure -> Failed at once
Online         looks_alive false -> is_alive; is_alive false, a dead process, failed() -> Failed
any            TakeOffline: offline, then whatever is left is killed -> Offline; trouble -> terminate
any            TerminateResource: pending call aborted, terminate, processes killed, records undone -> Offline
any            the lease ends, or the service is gone: everything is terminated; if an online
               hangs then, this process ends, since only that stops it for certain
=============  =====================================================================================

Invariants: nothing starts without a lease, nor under an epoch older than the newest seen for the group, nor between an
end of everything for the lease and the word that the service knows of it; one entry point of a resource runs at a time
(terminate apart); a call that took too long puts its resource into *hang mode*, in which requests are refused until the
call returns, and what the call did meanwhile is then undone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import selectors
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from clussvc.model.errors import ClusterError
from clussvc.model.ids import GroupId, ResourceId
from clussvc.model.monitoring import (
    BringOnline,
    CloseResource,
    CommandRefused,
    DeadmanFired,
    EverythingTerminated,
    LeaseExtended,
    LogLevel,
    MonitorCommand,
    MonitorReport,
    MonitorStarted,
    NetworkHealed,
    OpenResource,
    PropertyChanged,
    PropertyValue,
    ResourceLogged,
    ResourceReported,
    ResourceSpec,
    TakeOffline,
    TerminateEverything,
    TerminateResource,
)
from clussvc.model.states import ResourceState
from clussvc.resources.monitor.deadman import Deadman, StartGate
from clussvc.resources.monitor.handle import HandleSink, ResourceHandle, plain_text
from clussvc.resources.monitor.kernel import become_subreaper, boottime_ms, monotonic_ms
from clussvc.resources.monitor.last_resort import LastResort
from clussvc.resources.monitor.lease_word import LeaseWord
from clussvc.resources.monitor.processes import (
    RESOURCE_MARKER,
    OrphanReaper,
    Spawner,
    everything_of,
    kill_all,
    marker_of,
)
from clussvc.resources.monitor.protocol import HUNG_STATUS, FrameReader, Ping, Pong, command_codec, report_codec
from clussvc.resources.monitor.records import RecordBook
from clussvc.resources.monitor.schedule import Poll, PollKind, PollSchedule
from clussvc.resources.monitor.slot import Announcing, Catalogue, DrivenType, Ending, Slot
from clussvc.resources.monitor.workers import (
    STARTS_AT_ONCE,
    Call,
    CallAborted,
    CallBoard,
    CallKind,
    CallPool,
    Outcome,
)

POLL_LIMIT_MS_MAX: Final = 30_000
"""How long looks_alive, is_alive, open, close and event handlers may take, unless the pending timeout is shorter."""
TERMINATE_LIMIT_MS: Final = 5_000
KILL_LIMIT_MS: Final = 2_000
"""How long killing a tree may take before its remains are reported."""
LATE_RETURN_MS: Final = 500
"""How long a termination waits for an aborted call to return, to undo what its last step may have made."""
LAST_RETURN_MS: Final = 100
"""The same when everything is terminated, where a node has no more than its release budget."""
OUTBOX_MAX: Final = 20_000
"""Reports that wait for a service that does not read; beyond it the service counts as gone."""
OUTBOX_LOGS_MAX: Final = 1_000
"""Log lines are dropped when so many reports wait."""
GROUPS_SEEN_MAX: Final = 10_000
HOUSEKEEPING_MS: Final = 2_000
LOOP_MS_MAX: Final = 60_000
NEVER_MS: Final = 1 << 62
CHECK_LIMITS_MS: Final = 50
"""How often the limits of calls are looked at while calls begin."""

_ABORTABLE: Final = frozenset({CallKind.OPEN, CallKind.ONLINE, CallKind.OFFLINE, CallKind.POLL})
_AT_ONCE: Final = frozenset({CallKind.TERMINATE, CallKind.EVENT})
"""Calls that never wait for a turn: they end something, or were called by something that ended."""


@dataclass(slots=True)
class _Watch:
    """A descriptor that the main loop watches for a resource."""

    resource: ResourceId
    fd: int
    handler: Callable[[], None]


class Monitor(HandleSink):
    """A resource monitor on one connection to its service. ``run`` returns when all is over."""

    def __init__(
        self,
        connection: socket.socket,
        run_folder: Path,
        catalogue: Catalogue,
        *,
        lease_word: LeaseWord | None = None,
        starts_at_once: int = STARTS_AT_ONCE,
        last_resort: LastResort | None = None,
    ) -> None:
        """``starts_at_once`` bounds the entry points that begin together (:mod:`clussvc.resources.monitor.turns`);
        ``last_resort`` is told of every end that must be over in time."""
        self._connection = connection
        self._connection.setblocking(False)
        self._run_folder = run_folder
        self._catalogue = catalogue
        self._gate = StartGate()
        self._records = RecordBook(run_folder)
        self._pool = CallPool(self._returned, CallBoard(run_folder / "calls"), starts_at_once)
        self._spawner = Spawner(self._gate.lock)
        self._deadman = Deadman(self._lease_ended, lease_word)
        self._last_resort = last_resort
        self._schedule = PollSchedule(self._polls_due)
        self._reaper = OrphanReaper()
        self._slots: dict[ResourceId, Slot] = {}
        self._epochs: dict[GroupId, int] = {}
        self._watches: dict[int, _Watch] = {}
        self._busy: dict[int, tuple[Slot, Call]] = {}
        """The calls whose outcome is not in the books yet, those that wait for their turn among them."""
        self._checked_ms = 0
        self._limit_ms = NEVER_MS
        """When the first of them will have taken too long, as of the last check."""
        self._unchecked = False
        """Calls were made since then."""
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._rung = False
        self._selector = selectors.DefaultSelector()
        self._frames = FrameReader()
        self._commands = command_codec()
        self._reports = report_codec()
        self._outbox: deque[bytes] = deque()
        self._ending_all = threading.Lock()
        self._endings = 0
        """How many ends of everything are under way or not yet entered in the books; guarded by the gate's lock."""
        self._unheard = False
        """Everything was ended for the lease, and the service has not confirmed that it knows; see DeadmanFired."""
        self._over = False
        self._service_gone = False
        self.service_died = False
        """The service let go of the connection altogether, which one that lives and wants this monitor to end does not:
        it still reads."""

    # --- the main loop --------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until the service is gone and everything has been terminated. 0: nothing was left running."""
        become_subreaper()
        self._spawner.start()
        if self._last_resort is not None:
            self._last_resort.start(then=lambda: self._post(self._leave_if_alone))
        self._deadman.start()
        self._schedule.start()
        self._schedule.every(HOUSEKEEPING_MS, "housekeeping", lambda: self._post(self._keep_house))
        self._selector.register(self._wake, selectors.EVENT_READ, self._drain_wake)
        self._selector.register(self._connection, selectors.EVENT_READ, self._on_connection)
        self._left: tuple[ResourceId, ...] = ()
        self._report(MonitorStarted(pid=os.getpid()))
        # What one before this left runs without a lease, and a service that stands still cannot ask for its end.
        threading.Thread(
            target=self._end_everything, args=("left by an earlier monitor", lambda _: None), name="first", daemon=True
        ).start()
        while not self._over:
            for key, _ in self._selector.select(self._timeout_s()):
                key.data()
            self._work_off_inbox()
            self._check_limits()
        self._schedule.stop()
        return 3 if self._left else 0

    def end_after_crash(self) -> None:
        """The main loop broke, which is a mistake in this program: end what runs, though nobody can be told."""
        self._over = True
        self._end_everything("the resource monitor broke", lambda _: None)

    def _post(self, note: Callable[[], None]) -> None:
        """Have the main loop run ``note``. May be called from any thread."""
        self._inbox.put(note)
        # One call of the bell is enough for all that comes before it is heard.
        if not self._rung:
            self._rung = True
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self._wake, 1)

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        # Whoever rings from now on is heard by the next look; what was put before is taken by this one.
        self._rung = False

    def _work_off_inbox(self) -> None:
        for _ in range(self._inbox.qsize()):
            try:
                note = self._inbox.get_nowait()
            except queue.Empty:
                return
            note()

    def _timeout_s(self) -> float:
        if not self._inbox.empty():
            return 0
        at_ms = self._limit_ms
        if self._busy:
            # What began since the last check may be due earlier than what was known then.
            at_ms = min(at_ms, self._checked_ms + CHECK_LIMITS_MS) if self._unchecked else at_ms
            if (look_ms := self._pool.look_ms) is not None:
                at_ms = min(at_ms, look_ms)
        return min(max(at_ms - monotonic_ms(), 0), LOOP_MS_MAX) / 1000

    # --- the connection -------------------------------------------------------------------------------------------

    def _on_connection(self) -> None:
        self._flush()
        try:
            chunk = self._connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._lose_service("the service closed the connection or died")
            return
        try:
            for body in self._frames.feed(chunk):
                message = self._commands.decode(body)
                if isinstance(message, Ping):
                    self._send(self._reports.encode(Pong(number=message.number)))
                else:
                    self._obey(message)
        except ClusterError as error:
            self._lose_service(error.message)

    def _report(self, report: MonitorReport) -> None:
        if isinstance(report, ResourceLogged) and len(self._outbox) >= OUTBOX_LOGS_MAX:
            return
        self._send(self._reports.encode(report))

    def _send(self, frame: bytes) -> None:
        if self._service_gone:
            return
        if len(self._outbox) >= OUTBOX_MAX:
            self._lose_service("the service does not read its reports")
            return
        self._outbox.append(frame)
        self._flush()

    def _flush(self) -> None:
        while self._outbox:
            try:
                sent = self._connection.send(self._outbox[0])
            except BlockingIOError:
                break
            except OSError:
                # Reading will tell that the service is gone; what it left unread before is still worth obeying.
                self._outbox.clear()
                break
            if sent < len(self._outbox[0]):
                self._outbox[0] = self._outbox[0][sent:]
                break
            self._outbox.popleft()
        if not self._service_gone:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
            if self._selector.get_key(self._connection).events != events:
                self._selector.modify(self._connection, events, self._on_connection)

    def _lose_service(self, why: str) -> None:
        """Nobody commands any more: end everything and leave."""
        if self._service_gone:
            return
        self._service_gone = True
        self.service_died = _hung_up(self._connection)
        self._outbox.clear()
        self._selector.unregister(self._connection)
        self._connection.close()

        def leave(left: tuple[ResourceId, ...]) -> None:
            self._left = left
            # While something is left the last resort is still to come.
            self._over = not left or self._last_resort is None

        ends_ms = self._deadman.lease_until_ms() or boottime_ms()
        threading.Thread(
            target=self._end_in_time, args=(ends_ms, f"the service is gone ({why})", leave), name="last", daemon=True
        ).start()

    # --- commands -------------------------------------------------------------------------------------------------

    def _obey(self, command: MonitorCommand) -> None:
        match command:
            case LeaseExtended(until_ms=until_ms):
                self._deadman.extend(until_ms)
            case OpenResource(spec=spec):
                self._open(spec)
            case CloseResource(resource=resource):
                self._close(resource)
            case BringOnline() | TakeOffline() | TerminateResource():
                self._change(command)
            case TerminateEverything(ticket=ticket, why=why):
                self._terminate_everything(ticket, why)
            case NetworkHealed():
                self._announce_again()
            case _:
                assert_never(command)

    def _open(self, spec: ResourceSpec) -> None:
        slot = self._slots.get(spec.resource)
        if slot is None:
            handle = ResourceHandle(
                spec,
                run_folder=self._run_folder,
                sink=self,
                gate=self._gate,
                spawner=self._spawner,
                pool=self._pool,
                records=self._records,
            )
            slot = self._slots[spec.resource] = Slot(spec=spec, handle=handle)
        slot.spec = spec
        slot.want_close = False
        if slot.state is ResourceState.ONLINE:
            self._schedule.watch(spec.resource, spec.looks_alive_interval_ms, spec.is_alive_interval_ms)
        elif slot.state is ResourceState.OFFLINE:
            slot.want_open = True
            self._advance(slot)

    def _close(self, resource: ResourceId) -> None:
        slot = self._slots.get(resource)
        if slot is None:
            return
        slot.want_close, slot.want_open, slot.queued = True, False, None
        if slot.state is not ResourceState.OFFLINE and slot.ending is None:
            self._terminate(slot, ResourceState.OFFLINE, "the resource was closed")
        self._advance(slot)

    def _change(self, command: BringOnline | TakeOffline | TerminateResource) -> None:
        slot = self._slots.get(command.resource)
        if slot is None or slot.want_close:
            self._refuse(command, "the resource is not open in this monitor")
            return
        newest = self._epochs.get(slot.spec.group, 0)
        if command.epoch < newest:
            self._refuse(command, f"epoch {command.epoch} is older than epoch {newest}, which this monitor has seen")
            return
        if len(self._epochs) >= GROUPS_SEEN_MAX and slot.spec.group not in self._epochs:
            used = {other.spec.group for other in self._slots.values()}
            self._epochs = {group: epoch for group, epoch in self._epochs.items() if group in used}
        self._epochs[slot.spec.group] = command.epoch
        match command:
            case BringOnline():
                self._bring_online(slot, command)
            case TakeOffline():
                self._take_offline(slot, command)
            case TerminateResource():
                slot.epoch, slot.queued = command.epoch, None
                slot.handle.reason = command.reason
                self._terminate(slot, ResourceState.OFFLINE, "")
            case _:
                assert_never(command)

    def _announce_again(self) -> None:
        for slot in self._slots.values():
            driven: object = slot.driven
            if slot.state is ResourceState.ONLINE and slot.ending is None and isinstance(driven, Announcing):
                self._call(slot, CallKind.EVENT, driven.network_healed, self._short_limit_ms(slot))

    def _refuse(
        self, command: BringOnline | TakeOffline | TerminateResource, why: str, *, ending: bool = False
    ) -> None:
        self._report(CommandRefused(resource=command.resource, epoch=command.epoch, why=why, ending=ending))

    def _bring_online(self, slot: Slot, command: BringOnline) -> None:
        if not self._deadman.lease_runs():
            self._refuse(command, "no lease runs on this node, and without one nothing may be started")
            return
        permit = self._gate.permit()
        if self._unheard:
            why = "everything was terminated on this node, and the cluster service does not know it yet"
            self._refuse(command, why, ending=True)
            return
        if permit is None or self._endings:
            self._refuse(command, "everything is being terminated on this node")
            return
        slot.epoch = command.epoch
        if slot.state in (ResourceState.ONLINE, ResourceState.ONLINE_PENDING):
            self._tell(slot)
        elif slot.hung:
            self._refuse_hung(slot)
        elif (slot.call is not None and not self._spare_opening(slot)) or slot.ending is not None:
            slot.queued = command
        elif slot.state is ResourceState.FAILED:
            # What failed may still have processes; they would meet the new ones.
            slot.queued = command
            self._terminate(slot, None, "")
        else:
            self._start_online(slot, command, permit)

    def _spare_opening(self, slot: Slot) -> bool:
        """Online opens anew anyway, so an open that still waits for its turn need not take place."""
        call = slot.call
        if call is None or call.kind is not CallKind.OPEN or not self._pool.withdraw(call):
            return False
        call.finished.set()
        del self._busy[id(call)]
        slot.call = slot.handle.call = None
        return True

    def _refuse_hung(self, slot: Slot) -> None:
        slot.queued = None
        slot.state = ResourceState.FAILED
        self._tell(
            slot,
            "the request was refused because an earlier call of the resource has not returned (event 1233);"
            " it is accepted again when the call returns",
        )

    def _start_online(self, slot: Slot, command: BringOnline, permit: int) -> None:
        slot.state = ResourceState.ONLINE_PENDING
        slot.want_open = False
        slot.handle.begin(slot.spec, permit, command.reason)
        self._tell(slot)
        self._call(slot, CallKind.ONLINE, lambda: self._do_online(slot), slot.spec.pending_timeout_ms)

    def _take_offline(self, slot: Slot, command: TakeOffline) -> None:
        slot.epoch, slot.queued = command.epoch, None
        slot.handle.reason = command.reason
        if slot.ending is not None:
            slot.ending.report = ResourceState.OFFLINE
        elif slot.state is ResourceState.OFFLINE_PENDING or (
            slot.state is ResourceState.OFFLINE and (slot.call is None or slot.call.kind is CallKind.OPEN)
        ):
            self._tell(slot)
        elif slot.state is ResourceState.ONLINE and not slot.hung:
            self._schedule.forget(slot.spec.resource)
            slot.state = ResourceState.OFFLINE_PENDING
            self._tell(slot)
            self._advance(slot)
        else:
            self._terminate(slot, ResourceState.OFFLINE, "terminated, since it was not online")

    # --- calls of entry points ------------------------------------------------------------------------------------

    def _call(self, slot: Slot, kind: CallKind, work: Callable[[], object], limit_ms: int) -> Call:
        call = Call(kind, slot.spec.resource, work, limit_ms)
        self._busy[id(call)] = (slot, call)
        self._unchecked = True
        if kind in _AT_ONCE:
            return self._pool.submit(call)
        assert slot.call is None, f"{slot.call} of {slot.spec.resource} still runs"
        slot.call = slot.handle.call = call
        call.adopt = slot.handle.adopt
        return self._pool.submit_in_turn(call)

    def _short_limit_ms(self, slot: Slot) -> int:
        return min(slot.spec.pending_timeout_ms, POLL_LIMIT_MS_MAX)

    def _returned(self, call: Call, outcome: Outcome) -> None:
        self._post(lambda: self._finish(call, outcome))

    def _finish(self, call: Call, outcome: Outcome) -> None:
        slot, known = self._busy.pop(id(call), (None, None))
        if slot is None or known is not call:
            return
        if call.overrun:
            slot.hung -= 1
        if slot.call is call:
            slot.call = slot.handle.call = None
        if call.kind is CallKind.TERMINATE:
            self._terminated(slot, call, outcome)
        elif call.kind is CallKind.EVENT:
            if isinstance(outcome, Exception):
                self._log(slot, LogLevel.ERROR, f"an event handler failed: {_words(outcome)}")
        elif call.aborted or call.overrun:
            # Whatever its last step made is undone; a termination that runs has waited for it already, or starts anew.
            if call.begun and call.kind is not CallKind.OPEN and slot.state is not ResourceState.ONLINE:
                self._terminate(slot, None, "")
        else:
            self._finished[call.kind](self, slot, outcome)
        self._advance(slot)

    def _opened(self, slot: Slot, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self._log(slot, LogLevel.ERROR, f"open failed: {_words(outcome)}")

    def _came_online(self, slot: Slot, outcome: Outcome) -> None:
        if slot.state is not ResourceState.ONLINE_PENDING:
            return  # It failed by an event in the meantime, and that was reported.
        if isinstance(outcome, Exception):
            slot.handle.end()
            slot.state = ResourceState.FAILED
            self._tell(slot, f"online failed: {_words(outcome)}")
        else:
            slot.state = ResourceState.ONLINE
            spec = slot.spec
            self._schedule.watch(spec.resource, spec.looks_alive_interval_ms, spec.is_alive_interval_ms)
            self._tell(slot)

    def _went_offline(self, slot: Slot, outcome: Outcome) -> None:
        if slot.state is not ResourceState.OFFLINE_PENDING:
            return
        if isinstance(outcome, Exception):
            self._terminate(slot, ResourceState.OFFLINE, f"offline failed, so it was terminated: {_words(outcome)}")
        else:
            slot.state = ResourceState.OFFLINE
            self._tell(slot)

    def _polled(self, slot: Slot, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self._fail(slot, _words(outcome))
        elif outcome is not True:
            self._fail(slot, "is_alive says no")

    def _closed(self, slot: Slot, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self._log(slot, LogLevel.WARNING, f"close failed: {_words(outcome)}")
        if slot.want_close and self._slots.get(slot.spec.resource) is slot:
            self._schedule.forget(slot.spec.resource)
            del self._slots[slot.spec.resource]

    _finished: Final = {
        CallKind.OPEN: _opened,
        CallKind.ONLINE: _came_online,
        CallKind.OFFLINE: _went_offline,
        CallKind.POLL: _polled,
        CallKind.CLOSE: _closed,
    }

    def _advance(self, slot: Slot) -> None:
        """Start what waits for the present call and termination to be over, the most urgent first."""
        if slot.call is not None or slot.ending is not None:
            if slot.hung and slot.queued is not None:
                self._refuse_hung(slot)
            return
        if slot.want_close:
            self._call(slot, CallKind.CLOSE, lambda: self._do_close(slot), self._short_limit_ms(slot))
        elif slot.state is ResourceState.OFFLINE_PENDING:
            self._call(slot, CallKind.OFFLINE, lambda: self._do_offline(slot), slot.spec.pending_timeout_ms)
        elif slot.queued is not None:
            command, slot.queued = slot.queued, None
            self._bring_online(slot, command)
        elif slot.want_open and slot.state is ResourceState.OFFLINE:
            slot.want_open = False
            slot.handle.renew(slot.spec)
            self._call(slot, CallKind.OPEN, lambda: self._do_open(slot), self._short_limit_ms(slot))
        elif slot.want_is_alive and slot.state is ResourceState.ONLINE:
            self._poll(slot.spec.resource, PollKind.IS_ALIVE)

    # --- what workers do ------------------------------------------------------------------------------------------

    def _do_open(self, slot: Slot) -> DrivenType:
        if slot.driven is not None:
            self._do_close(slot)
        driven = self._catalogue.create(slot.spec.type, slot.handle)
        slot.driven = driven
        driven.open()
        return driven

    def _do_close(self, slot: Slot) -> None:
        driven, slot.driven = slot.driven, None
        if driven is not None:
            driven.close()

    def _do_online(self, slot: Slot) -> None:
        driven = self._do_open(slot)
        driven.online()
        if not driven.is_alive():
            raise ClusterError("not-alive", "online succeeded, but is_alive says no right afterwards")

    def _do_offline(self, slot: Slot) -> None:
        if slot.driven is not None:
            slot.driven.offline()
        slot.handle.end()
        left = slot.handle.kill_processes(KILL_LIMIT_MS)
        if left:
            raise ClusterError("not-stopped", f"processes {left} cannot be killed")
        self._undo_record(slot)

    def _do_poll(self, slot: Slot, kind: PollKind) -> bool:
        driven = slot.driven
        assert driven is not None, f"{slot.spec.resource} is polled and was never opened"
        if kind is PollKind.LOOKS_ALIVE:
            try:
                if driven.looks_alive():
                    return True
            except Exception as error:  # noqa: BLE001 -- is_alive decides whether that was serious
                slot.handle.log_warning(f"looks_alive failed: {_words(error)}")
        return bool(driven.is_alive())

    def _do_terminate(self, slot: Slot, aborted: Call | None) -> None:
        """Raises when something is left; the text says what."""
        self._ask_to_terminate(slot)
        self._sweep(slot)
        if _returns_late(aborted, LATE_RETURN_MS):
            self._ask_to_terminate(slot)
            self._sweep(slot)

    def _do_last(self, slot: Slot, aborted: Call | None) -> None:
        """As _do_terminate, when the processes of all resources are killed together."""
        self._ask_to_terminate(slot)
        self._undo_record(slot)
        if _returns_late(aborted, LAST_RETURN_MS):
            self._ask_to_terminate(slot)
            self._undo_record(slot)

    def _ask_to_terminate(self, slot: Slot) -> None:
        driven = slot.driven
        if driven is not None:
            try:
                driven.terminate()
            except Exception as error:  # noqa: BLE001 -- the kill below does not depend on it
                slot.handle.log_error(f"terminate failed: {_words(error)}")

    def _sweep(self, slot: Slot) -> None:
        """Kill the processes of a resource and undo its record without asking its entry points."""
        left = slot.handle.kill_processes(KILL_LIMIT_MS)
        self._undo_record(slot)
        if left:
            raise ClusterError("not-stopped", f"processes {left} cannot be killed")

    def _undo_record(self, slot: Slot) -> None:
        record = self._records.read(slot.spec.resource)
        if record is not None:
            self._catalogue.clean(record.type, record.made)
            self._records.erase(record.resource)

    # --- ending one resource --------------------------------------------------------------------------------------

    def _terminate(self, slot: Slot, report: ResourceState | None, detail: str) -> None:
        """Stop the resource at once; ``report`` is the state to tell afterwards, None to tell nothing."""
        self._schedule.forget(slot.spec.resource)
        slot.handle.end()
        aborted = slot.call if slot.call is not None and slot.call.kind in _ABORTABLE else None
        if aborted is not None:
            aborted.abort()
        if slot.ending is not None:
            slot.ending.report, slot.ending.detail = report or slot.ending.report, detail or slot.ending.detail
            return
        call = self._call(slot, CallKind.TERMINATE, lambda: self._do_terminate(slot, aborted), TERMINATE_LIMIT_MS)
        slot.ending = Ending(call=call, report=report, detail=detail)

    def _terminated(self, slot: Slot, call: Call, outcome: Outcome) -> None:
        ending = slot.ending
        if ending is None or ending.call is not call:
            return  # A hung terminate that came back late; its resource was swept without it.
        slot.ending = None
        if isinstance(outcome, Exception):
            slot.state = ResourceState.FAILED
            self._tell(slot, f"it could not be terminated: {_words(outcome)}")
        elif ending.report is not None:
            slot.state = ending.report
            self._tell(slot, ending.detail, terminated=ending.report is ResourceState.FAILED)
        elif slot.state is ResourceState.FAILED:
            slot.state = ResourceState.OFFLINE

    def _fail(self, slot: Slot, why: str) -> None:
        """It failed by itself. Deciding what comes next is the service's business."""
        if slot.ending is not None or self._endings:
            return  # It is being ended, which is why.
        if slot.state is ResourceState.ONLINE_PENDING:
            if slot.call is not None:
                slot.call.abort()
        elif slot.state is not ResourceState.ONLINE:
            return
        self._schedule.forget(slot.spec.resource)
        slot.handle.end()
        slot.state = ResourceState.FAILED
        self._tell(slot, why)

    def _check_limits(self) -> None:
        """Look at every call that is under way, but not at every turn of the loop."""
        now_ms = monotonic_ms()
        if (look_ms := self._pool.look_ms) is not None and now_ms >= look_ms:
            self._pool.look()
        if now_ms < self._limit_ms and not (self._unchecked and now_ms >= self._checked_ms + CHECK_LIMITS_MS):
            return
        self._checked_ms, self._limit_ms, self._unchecked = now_ms, NEVER_MS, False
        for slot, call in list(self._busy.values()):
            if call.overrun:
                continue
            if call.since_ms is None:
                self._unchecked = True
            elif now_ms >= call.since_ms + call.limit_ms:
                self._overrun(slot, call)
            else:
                self._limit_ms = min(self._limit_ms, call.since_ms + call.limit_ms)

    def _overrun(self, slot: Slot, call: Call) -> None:
        call.overrun = True
        slot.hung += 1
        text = f"{call.kind.value} did not return within its limit of {call.limit_ms} ms (event 1232)"
        self._log(slot, LogLevel.ERROR, text)
        if call.kind is CallKind.TERMINATE and slot.ending is not None and slot.ending.call is call:
            sweep = self._call(slot, CallKind.TERMINATE, lambda: self._sweep(slot), TERMINATE_LIMIT_MS)
            slot.ending.call, slot.ending.detail = sweep, slot.ending.detail or text
        elif call.kind is CallKind.ONLINE and slot.state is ResourceState.ONLINE_PENDING:
            self._terminate(slot, ResourceState.FAILED, text)
        elif (call.kind is CallKind.OFFLINE and slot.state is ResourceState.OFFLINE_PENDING) or (
            call.kind is CallKind.POLL and slot.state is ResourceState.OFFLINE_PENDING
        ):
            self._terminate(slot, ResourceState.OFFLINE, f"{text}, so it was terminated")
        elif call.kind in (CallKind.POLL, CallKind.EVENT):
            call.abort()
            self._fail(slot, text)
        elif call.kind is CallKind.OPEN:
            call.abort()
        if slot.queued is not None:
            self._refuse_hung(slot)

    # --- ending everything ----------------------------------------------------------------------------------------

    def _terminate_everything(self, ticket: int, why: str) -> None:
        def answer(left: tuple[ResourceId, ...]) -> None:
            self._report(EverythingTerminated(ticket=ticket, left=left))

        self._unheard = False
        threading.Thread(target=self._end_everything, args=(why, answer), name="ender", daemon=True).start()

    def _lease_ended(self, ended_ms: int) -> None:
        def answer(left: tuple[ResourceId, ...]) -> None:
            self._report(DeadmanFired(lease_ended_ms=ended_ms, left=left))

        self._unheard = True
        self._end_in_time(ended_ms, "the lease of this node ended", answer)

    def _leave_if_alone(self) -> None:
        """The last resort was used, and this process still lives: without a service there is nothing more to do."""
        self._over = self._over or self._service_gone

    def _end_in_time(self, lease_ended_ms: int, why: str, then: Callable[[tuple[ResourceId, ...]], None]) -> None:
        """End everything, which others rely on a release budget after the end of the lease."""
        if self._last_resort is None:
            self._end_everything(why, then)
            return
        number = self._last_resort.begin(lease_ended_ms, why)
        left = self._end_everything(why, then)
        self._last_resort.over(number, clean=not left)

    def _end_everything(self, why: str, then: Callable[[tuple[ResourceId, ...]], None]) -> tuple[ResourceId, ...]:
        """Runs in a thread of its own; hung workers are not waited for. ``then`` runs in the main loop.

        Returns what could not be terminated.
        """
        with self._gate.lock:
            self._endings += 1
        with self._ending_all, self._gate.closed():
            slots = list(self._slots.values())
            calls = [call for slot in slots if (call := slot.call) is not None and call.kind in _ABORTABLE]
            for call in calls:
                call.abort()
            everything = everything_of(str(self._run_folder))
            kill_all(everything, KILL_LIMIT_MS)
            recorded = {record.resource for record in self._records.all()}
            active = [
                slot
                for slot in slots
                if slot.state is not ResourceState.OFFLINE or slot.call is not None or slot.spec.resource in recorded
            ]
            deadline_ms = monotonic_ms() + TERMINATE_LIMIT_MS
            for call in [self._pool.submit(self._last_call(slot)) for slot in active]:
                call.finished.wait(max(deadline_ms - monotonic_ms(), 0) / 1000)
            left = self._undo_all_records()
            for pid in kill_all(everything, KILL_LIMIT_MS):
                left.add(ResourceId(marker_of(pid, RESOURCE_MARKER) or f"process {pid}"))
            for slot in slots:
                slot.handle.reap_ended()
            self._leave_if_hung(calls)
        self._post(lambda: self._ended_everything(why, tuple(sorted(left)), then))
        return tuple(sorted(left))

    def _leave_if_hung(self, calls: list[Call]) -> None:
        """Nobody can vouch for what an online that has not returned will do; only the end of this process settles it.

        So no answer is given in that case: the service is told of the death, starts the next monitor, and has that one
        make sure that nothing is left.
        """
        hung = [
            call.resource
            for call in calls
            if call.kind is CallKind.ONLINE and call.begun and not call.finished.is_set()
        ]
        if hung:
            print(f"everything was terminated, but online of {', '.join(map(str, hung))} hangs", file=sys.stderr)
            sys.stderr.flush()
            os._exit(HUNG_STATUS)

    def _last_call(self, slot: Slot) -> Call:
        aborted = slot.call
        return Call(CallKind.TERMINATE, slot.spec.resource, lambda: self._do_last(slot, aborted), TERMINATE_LIMIT_MS)

    def _undo_all_records(self) -> set[ResourceId]:
        """Also those of an earlier monitor. Who could not be undone is returned."""
        left = set()
        for record in self._records.all():
            try:
                self._catalogue.clean(record.type, record.made)
                self._records.erase(record.resource)
            except Exception as error:  # noqa: BLE001 -- the others must be undone all the same
                left.add(record.resource)
                self.logged(record.resource, LogLevel.SEVERE, f"what it made cannot be undone: {_words(error)}")
        return left

    def _ended_everything(
        self, why: str, left: tuple[ResourceId, ...], then: Callable[[tuple[ResourceId, ...]], None]
    ) -> None:
        with self._gate.lock:
            self._endings -= 1
        for slot in self._slots.values():
            slot.queued = None
            if slot.state is not ResourceState.OFFLINE:
                self._schedule.forget(slot.spec.resource)
                slot.handle.end()
                slot.state = ResourceState.FAILED if slot.spec.resource in left else ResourceState.OFFLINE
                self._tell(slot, f"terminated: {why}")
            if slot.ending is not None:
                slot.ending.report = None
        then(left)

    # --- polls and events -----------------------------------------------------------------------------------------

    def _polls_due(self, polls: Sequence[Poll]) -> None:
        def note() -> None:
            for resource, kind in polls:
                self._poll(resource, kind)

        self._post(note)

    def _poll(self, resource: ResourceId, kind: PollKind) -> None:
        slot = self._slots.get(resource)
        if slot is None or slot.state is not ResourceState.ONLINE or slot.ending is not None or slot.want_close:
            return
        if slot.call is not None:
            slot.want_is_alive = slot.want_is_alive or kind is PollKind.IS_ALIVE
            return
        if kind is PollKind.IS_ALIVE:
            slot.want_is_alive = False
        self._call(slot, CallKind.POLL, lambda: self._do_poll(slot, kind), self._short_limit_ms(slot))

    def _set_watch(self, resource: ResourceId, fd: int, handler: Callable[[], None] | None) -> None:
        if self._watches.pop(fd, None) is not None:
            with contextlib.suppress(KeyError, OSError, ValueError):
                self._selector.unregister(fd)
        if handler is not None:
            watch = self._watches[fd] = _Watch(resource, fd, handler)
            self._listen(watch)

    def _listen(self, watch: _Watch) -> None:
        try:
            self._selector.register(watch.fd, selectors.EVENT_READ, lambda: self._readable(watch))
        except (OSError, ValueError, KeyError):
            self._watches.pop(watch.fd, None)  # It was closed in the meantime.

    def _readable(self, watch: _Watch) -> None:
        if self._watches.get(watch.fd) is not watch:
            return
        # Not listened to until its handler has run, or it would ring on and on.
        self._selector.unregister(watch.fd)
        slot = self._slots.get(watch.resource)
        if slot is None:
            self._watches.pop(watch.fd, None)
            return

        def handle() -> None:
            try:
                watch.handler()
            finally:
                self._post(again)

        def again() -> None:
            if self._watches.get(watch.fd) is watch:
                self._listen(watch)

        self._call(slot, CallKind.EVENT, handle, self._short_limit_ms(slot))

    def _keep_house(self) -> None:
        self._schedule.check_clock()
        handles = [slot.handle for slot in self._slots.values()]

        def work() -> None:
            self._reaper.sweep(lambda: {pid for handle in handles for pid in handle.tracked()})
            for handle in handles:
                handle.cut_log()

        self._pool.submit(Call(CallKind.INTERNAL, None, work, HOUSEKEEPING_MS))

    # --- what handles tell (any thread) ---------------------------------------------------------------------------

    def logged(self, resource: ResourceId, level: LogLevel, text: str) -> None:
        """See HandleSink."""
        self._post(lambda: self._report(ResourceLogged(resource=resource, level=level, text=text)))

    def progressed(self, resource: ResourceId, checkpoint: int) -> None:
        """See HandleSink."""
        call = self._pool.current()

        def note() -> None:
            slot = self._slots.get(resource)
            if slot is None or not slot.state.pending or slot.call is None or slot.call.overrun:
                return
            if call is not None and call is not slot.call:
                return  # An aborted call of an earlier request.
            slot.call.since_ms = monotonic_ms()
            self._tell(slot, f"checkpoint {checkpoint}")

        self._post(note)

    def failed(self, resource: ResourceId, run: int, why: str) -> None:
        """See HandleSink."""

        def note() -> None:
            slot = self._slots.get(resource)
            if slot is not None and slot.handle.run_number == run:
                self._fail(slot, why)

        self._post(note)

    def property_changed(self, resource: ResourceId, name: str, value: PropertyValue | None) -> None:
        """See HandleSink."""
        self._post(lambda: self._report(PropertyChanged(resource=resource, name=name, value=value)))

    def watch(self, resource: ResourceId, fd: int, handler: Callable[[], None] | None) -> None:
        """See HandleSink."""
        if self._over:
            return  # Nobody listens any more.
        done = threading.Event()

        def note() -> None:
            self._set_watch(resource, fd, handler)
            done.set()

        self._post(note)
        if handler is None:
            # The caller is about to close the descriptor, whose number may be given out again at once.
            done.wait(1.0)

    # --- telling --------------------------------------------------------------------------------------------------

    def _tell(self, slot: Slot, detail: str = "", *, terminated: bool = False) -> None:
        self._report(
            ResourceReported(
                resource=slot.spec.resource,
                epoch=slot.epoch,
                state=slot.state,
                detail=detail,
                terminated=terminated,
            )
        )

    def _log(self, slot: Slot, level: LogLevel, text: str) -> None:
        self._report(ResourceLogged(resource=slot.spec.resource, level=level, text=text))


def _hung_up(connection: socket.socket) -> bool:
    poller = select.poll()
    poller.register(connection, 0)
    return any(events & select.POLLHUP for _, events in poller.poll(0))


def _returns_late(aborted: Call | None, limit_ms: int) -> bool:
    """Whether an aborted call was still running and returned now; its last step may have made something."""
    if aborted is None or not aborted.begun or aborted.finished.is_set():
        return False
    return aborted.finished.wait(limit_ms / 1000)


def _words(error: object) -> str:
    """An exception for people; ClusterErrors speak for themselves."""
    if isinstance(error, ClusterError):
        return plain_text(error.message)
    if isinstance(error, CallAborted):
        return "it was aborted"
    return plain_text(f"{type(error).__name__}: {error}")

"""The thread that drives the convergence machine of one adapter: frames and events in, actions out, in their order.

The thread alone touches the machine. Everybody else posts events, or asks questions that are answered in the thread.
What the machine wants of the filter goes to a :class:`Decider`; a table is in force when ``use`` has returned, and only
then is the heartbeat sent that says so. The deadman is extended only after a heartbeat has really been sent.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Protocol, TypeVar

import structlog

from clussvc.model.errors import ClusterError
from clussvc.nlb.convergence import Convergence
from clussvc.nlb.heartbeat import (
    EXTENDED,
    HostName,
    MapPart,
    MembershipHeartbeat,
    Refused,
    decode,
    decode_extended,
    encode,
    encode_maps,
    encode_name,
    frame,
    valid_key,
)
from clussvc.nlb.messages import (
    Action,
    Event,
    HeartbeatHeard,
    HeartbeatRefused,
    LinkChanged,
    MapsHeard,
    NameHeard,
    Note,
    SendHeartbeat,
    SendMaps,
    Table,
    Tick,
    UseTable,
)
from clussvc.nlb.segment.wire import SegmentWire
from clussvc.resources.types import rtnetlink

INBOX_MAX: Final = 256
"""Events and questions that wait for the thread."""
WAIT_S_MAX: Final = 1.0
"""The thread looks at the link at least so often."""
NAME_INTERVAL_MS: Final = 10_000
"""How often a host says its name: as often as the original at most does."""
PRIORITY: Final = 2
"""Real-time priority of the thread, where the system permits it: heartbeats must leave on time."""

_Answer = TypeVar("_Answer")

log = structlog.get_logger()


class Decider(Protocol):
    """The filter, as the driver needs it. Both are called in the driver's thread and must not wait for anybody."""

    def use(self, table: Table) -> None:
        """Decide by this table; when it returns, no packet is decided by an older one. Raises ClusterError."""

    def keep_until(self, boot_time_ms: int) -> None:
        """Take traffic until that moment of CLOCK_BOOTTIME, and none later unless it is extended."""


def now_ms() -> int:
    """The clock of machines and filters: CLOCK_BOOTTIME, so that a host that was suspended knows how long."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class SegmentDriver:
    """One load-balanced adapter. ``start`` it once, and ``stop`` it: it then says farewell, and takes nothing any more.

    ``key`` authenticates heartbeats (16..64 bytes, equal on all hosts). ``source`` and ``destination`` are the link
    addresses of its frames. ``note`` is called in the thread with every event for the log.
    """

    def __init__(
        self,
        *,
        machine: Convergence,
        wire: SegmentWire,
        decider: Decider,
        key: bytes,
        cluster: bytes,
        source: bytes,
        destination: bytes,
        host_name: str = "",
        note: Callable[[Note], None] = lambda note: None,
    ) -> None:
        assert valid_key(key), f"a key of {len(key)} bytes"
        self._machine = machine
        self._wire = wire
        self._decider = decider
        self._key = key
        self._cluster = cluster
        self._source = source
        self._destination = destination
        self._host_name = host_name[:255]
        self._note = note
        self._inbox: queue.Queue[Event | Callable[[], None]] = queue.Queue(maxsize=INBOX_MAX)
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._link_up: bool | None = None
        self._name_due_ms = 0
        self._last_seq = 0
        self.failure: BaseException | None = None
        """What ended the thread, if it was not asked to end."""
        self.sends_failed = 0

    # --- for other threads ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to hear and to send."""
        self._thread = threading.Thread(target=self._run, name=f"nlb {self._wire.interface}", daemon=True)
        self._thread.start()

    def post(self, event: Event) -> bool:
        """Tell the machine; False when too much is waiting already, or the thread has ended."""
        return self._put(event)

    def ask(self, question: Callable[[Convergence], _Answer], *, limit_s: float = 2.0) -> _Answer:
        """The answer that the machine gives in the thread. Raises ClusterError when it does not come in time."""
        answer: Future[_Answer] = Future()

        def think() -> None:
            try:
                answer.set_result(question(self._machine))
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                answer.set_exception(error)

        if not self._put(think):
            raise ClusterError("nlb-busy", f"The balancing of {self._wire.interface} does not answer.", retryable=True)
        try:
            return answer.result(timeout=limit_s)
        except TimeoutError as error:
            raise ClusterError(
                "nlb-busy", f"The balancing of {self._wire.interface} does not answer.", retryable=True
            ) from error

    def command(
        self, what: Callable[[Convergence, int], tuple[_Answer, tuple[Action, ...]]], *, limit_s: float = 2.0
    ) -> _Answer:
        """Like ``ask``, for what changes the machine: ``what`` returns an answer and what is to be done."""

        def act(machine: Convergence) -> _Answer:
            answer, actions = what(machine, now_ms())
            self._perform(actions)
            return answer

        return self.ask(act, limit_s=limit_s)

    def stop(self, *, limit_s: float = 2.0) -> None:
        """Let the host leave in order, and end the thread."""

        def leave() -> None:
            self._perform(self._machine.end(now_ms()))
            self._stopping = True

        if not self._put(leave):
            self._stopping = True
        self._wake()
        if self._thread is not None:
            self._thread.join(timeout=limit_s)

    def close(self) -> None:
        """Give back what the system lent. The wire is closed by its owner."""
        self._wake_in.close()
        self._wake_out.close()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _put(self, what: Event | Callable[[], None]) -> bool:
        if not self.alive:
            return False
        try:
            self._inbox.put_nowait(what)
        except queue.Full:
            return False
        self._wake()
        return True

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_in.send(b"\0")

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        try:
            with rtnetlink.open_changes() as changes:
                self._loop(changes)
        except BaseException as error:  # noqa: BLE001
            # Whoever owns the driver sees that the thread is gone and why; the filter stops by its deadman.
            self.failure = error
            log.error("nlb.driver_failed", interface=self._wire.interface, error=str(error))

    def _loop(self, changes: socket.socket) -> None:
        poller = select.poll()
        for readable in (self._wire.fileno(), self._wake_out.fileno(), changes.fileno()):
            poller.register(readable, select.POLLIN)
        self._look_at_link()
        self._tell(Tick())
        # When it is to stop, the machine still has a few farewells to say.
        while not self._stopping or self._machine.deadline_ms is not None:
            due_ms = self._machine.deadline_ms
            wait_ms = int(WAIT_S_MAX * 1_000) if due_ms is None else due_ms - now_ms()
            ready = {number for number, _ in poller.poll(min(max(wait_ms, 0), int(WAIT_S_MAX * 1_000)))}
            if self._wake_out.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake_out.recv(4_096)
            if changes.fileno() in ready:
                rtnetlink.drain_changes(changes)
                self._look_at_link()
            if self._wire.fileno() in ready:
                for payload, source in self._wire.receive():
                    self._hear(payload, source)
            self._empty_inbox()
            due_ms = self._machine.deadline_ms
            if due_ms is not None and due_ms <= now_ms():
                self._tell(Tick())
            if not ready:
                self._look_at_link()
        self._empty_inbox()

    def _empty_inbox(self) -> None:
        for _ in range(INBOX_MAX):
            try:
                what = self._inbox.get_nowait()
            except queue.Empty:
                return
            if callable(what):
                what()
            else:
                self._tell(what)

    def _look_at_link(self) -> None:
        """A link that is gone counts as down."""
        up = any(link.name == self._wire.interface and link.works for link in rtnetlink.links())
        if up != self._link_up:
            self._link_up = up
            self._tell(LinkChanged(up=up))

    def _hear(self, payload: bytes, source: str) -> None:
        said: MembershipHeartbeat | MapPart | HostName | Refused
        if payload[:4] == EXTENDED.to_bytes(4, "little"):
            said = decode_extended(payload, self._key, self._cluster)
        else:
            said = decode(payload, self._key, self._cluster)
        match said:
            case MembershipHeartbeat():
                self._tell(HeartbeatHeard(heartbeat=said, source=source))
            case MapPart():
                self._tell(MapsHeard(part=said))
            case HostName():
                self._tell(NameHeard(name=said))
            case Refused():
                self._tell(HeartbeatRefused(reason=said))

    def _tell(self, event: Event) -> None:
        self._perform(self._machine.handle(event, now_ms()))

    def _perform(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case UseTable(table=table):
                    self._decider.use(table)
                case SendHeartbeat(heartbeat=heartbeat, valid_until_ms=valid_until_ms):
                    if self._send(encode(heartbeat, self._key)):
                        self._decider.keep_until(valid_until_ms)
                    self._say_name(heartbeat)
                case SendMaps(part=part):
                    for payload in encode_maps(part, self._key):
                        self._send(payload)
                case Note():
                    self._note(action)

    def _send(self, payload: bytes) -> bool:
        sent = self._wire.send(frame(self._destination, self._source, payload))
        if not sent:
            self.sends_failed += 1
        return sent

    def _say_name(self, beat: MembershipHeartbeat) -> None:
        """With a heartbeat, from time to time, for tools that list hosts."""
        moment_ms = now_ms()
        if not self._host_name or moment_ms < self._name_due_ms:
            return
        self._name_due_ms = moment_ms + NAME_INTERVAL_MS
        said = HostName(
            host=beat.host,
            cluster=self._cluster,
            dip=beat.dip,
            name=self._host_name,
            boot=beat.boot,
            seq=beat.seq,
        )
        self._send(encode_name(said, self._key))

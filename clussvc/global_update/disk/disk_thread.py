"""A thread that drives one node of the quorum-disk log on the real clock.

It sleeps until another node or the core has something for the log, or a deadline comes, and performs what the log wants
then. All that others want passes through one bounded queue of calls.

To wake a thread costs as much as a quick disk takes to write, so the two calls on the way of every entry do not wait
for this one: a proposal, and the answer of the device, are made at once by the thread that has them, if the log has
nothing to do at that moment (the *turn* is free and no call waits). So callbacks run on this thread, on that of the
device, or on that of a proposer, but never two at a time; they must be short and never wait for the log itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import assert_never

import structlog

from clussvc.global_update.disk import wire
from clussvc.global_update.disk.device_worker import DeviceWorker, superblock_of
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum
from clussvc.model.settings import DiskTiming
from clussvc.ports import Done, Outcome, OutcomeKind, QuorumDevice
from clussvc.quorum.disk_log import QuorumDiskLog, Role
from clussvc.quorum.disk_messages import (
    DiskAction,
    DiskFailed,
    Fate,
    GiveWay,
    Held,
    Lost,
    OwnerKnown,
    Perform,
    Send,
    StateMachine,
    Trouble,
)

CALLS_MAX = 16_384
INBOX_BYTES_MAX = 64 * 1024 * 1024
GIVE_BACK_TIMEOUT_S = 2.0
"""How long a node that stops waits for the disk to take note that it is free; else the others wait for its hold."""
STOP_TIMEOUT_S = 10.0

log = structlog.get_logger()

_KINDS = {
    Fate.COMMITTED: OutcomeKind.COMMITTED,
    Fate.NOT_APPLIED: OutcomeKind.REFUSED,
    Fate.UNKNOWN: OutcomeKind.UNKNOWN,
}


def reservation_key(cluster_id: str, node: int, boot: int) -> int:
    """The key of this boot of a node: no other node, boot or cluster has it (but for a chance of one in 16 million)."""
    return int(cluster_id[:6], 16) << 40 | (node & 0xFF) << 32 | boot & 0xFFFFFFFF


class DiskLogThread:
    """A running member of the log. Every method may be called from any thread."""

    def __init__(
        self,
        *,
        node_id: int,
        cluster_id: str,
        boot: int,
        quorum: Quorum,
        timing: DiskTiming,
        open_device: Callable[[], QuorumDevice],
        state_machine: StateMachine,
        index: int,
        send: Callable[[int, bytes], None],
        tell: Callable[[Held | Lost | GiveWay], None],
        on_leader_changed: Callable[[int | None, bool], None],
        on_fatal: Callable[[Exception], None],
        reset_log: bool = False,
    ) -> None:
        """``index``: what ``state_machine`` holds already."""
        self._node = node_id
        self._send_frame = send
        self._tell = tell
        self._on_leader_changed = on_leader_changed
        self._on_fatal = on_fatal
        self._log = QuorumDiskLog(
            node=NodeId(node_id),
            boot=boot,
            key=reservation_key(cluster_id, node_id, boot) if quorum.reservations else 0,
            superblock=superblock_of(quorum, cluster_id),
            timing=timing,
            state=state_machine,
            index=index,
            log_bytes_max=quorum.max_log_kb * 1024,
            rng=random.Random(),  # noqa: S311 (pauses between contests, no secret)
            now_ms=_now_ms(),
            reset_log=reset_log,
        )
        self._worker = DeviceWorker(quorum, cluster_id, open_device, self._answered, repair=reset_log)
        self._turn = threading.Lock()
        """Whoever has it lets the log act; taken before ``_wake`` by those who wait for it."""
        self._sleeps_until_ms = 0
        self._wake = threading.Condition()
        self._calls: deque[Callable[[int], None]] = deque()
        self._inbox_bytes = 0
        self._frames_dropped = 0
        self._stopping = False
        self._giving_back = False
        self._free = threading.Event()
        self._free.set()
        self._told: tuple[int | None, bool] = (None, False)
        self.trouble = ""
        """What the disk does not do, in a sentence; empty while it is well."""
        self._thread = threading.Thread(target=self._run, name=f"quorum-log-{node_id}", daemon=True)

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to take part."""
        self._worker.start()
        self._thread.start()

    def stop(self) -> None:
        """End the threads; waiting proposals are answered. Not from a callback."""
        if self._giving_back:
            self._free.wait(GIVE_BACK_TIMEOUT_S)
        with self._turn, self._wake:
            # With the turn: nobody is in the middle of anything.
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                raise TimeoutError(f"the thread {self._thread.name} did not end within {STOP_TIMEOUT_S:.0f} s")
        self._worker.stop()

    # --- what others want -------------------------------------------------------------------------------------------

    def receive(self, sender: int, frame: bytes) -> None:
        """Take a frame from an authenticated node; dropped when too many wait, or when it cannot be read."""
        try:
            message = wire.decode(frame)
        except ClusterError as error:
            log.warning("quorum.malformed", node=sender, because=error.message)
            return
        size = len(frame)
        with self._wake:
            if self._inbox_bytes + size > INBOX_BYTES_MAX:
                self._frames_dropped += 1
                return
            self._inbox_bytes += size

        def receive(now_ms: int) -> None:
            with self._wake:
                self._inbox_bytes -= size
            self._log.received(NodeId(sender), message, now_ms=now_ms)

        self._enqueue(receive)

    def peer_connected(self, node_id: int) -> None:
        """The network below can reach a node now."""
        self._enqueue(lambda now_ms: self._log.peer_connected(NodeId(node_id), now_ms=now_ms), most=2 * CALLS_MAX)

    def peer_disconnected(self, node_id: int) -> None:
        """The network below has lost a node."""
        self._enqueue(lambda now_ms: self._log.peer_disconnected(NodeId(node_id), now_ms=now_ms), most=2 * CALLS_MAX)

    def contest(self, *, wanted: bool, client_networks: int) -> None:
        """See :meth:`QuorumDiskLog.contest`."""
        self._enqueue(
            lambda now_ms: self._log.contest(wanted=wanted, client_networks=client_networks, now_ms=now_ms),
            most=2 * CALLS_MAX,
        )

    def give_back(self) -> None:
        """See :meth:`QuorumDiskLog.give_back`."""
        self._giving_back = True
        self._enqueue(lambda now_ms: self._log.give_back(now_ms=now_ms), most=2 * CALLS_MAX)

    def set_log_size(self, log_kb_max: int) -> None:
        """See :meth:`QuorumDiskLog.set_log_bytes`."""
        self._enqueue(lambda now_ms: self._log.set_log_bytes(log_kb_max * 1024, now_ms=now_ms), most=2 * CALLS_MAX)

    def set_timing(self, timing: DiskTiming) -> None:
        """See :meth:`QuorumDiskLog.set_timing`."""
        self._enqueue(lambda now_ms: self._log.set_timing(timing, now_ms=now_ms), most=2 * CALLS_MAX)

    def propose(self, command: bytes, timeout_s: float, done: Done) -> None:
        """Have a command appended; ``done`` may run before this returns."""

        def tell(fate: Fate, detail: str) -> None:
            done(Outcome(kind=_KINDS[fate], detail=detail))

        def propose(now_ms: int) -> None:
            self._log.propose(command, timeout_ms=int(timeout_s * 1000), done=tell, now_ms=now_ms)

        if not self._enqueue(propose, at_once=True):
            tell(Fate.NOT_APPLIED, "this node's log has too much to do, or has stopped")

    @property
    def leader(self) -> int | None:
        """Who owns the disk, as of the last turn."""
        return self._told[0]

    @property
    def applied_index(self) -> int:
        """The last entry applied, as of the last turn."""
        return self._log.index

    # --- the thread -------------------------------------------------------------------------------------------------

    def _enqueue(self, call: Callable[[int], None], *, most: int = CALLS_MAX, at_once: bool = False) -> bool:
        """Have the log do this, after all that was enqueued before; ``at_once``: on this thread, if it can be now."""
        with self._wake:
            if self._stopping or len(self._calls) >= most:
                return False
            if not (at_once and not self._calls and self._turn.acquire(blocking=False)):
                self._calls.append(call)
                self._wake.notify()
                return True
        try:
            self._act((call,))
        except Exception as error:  # noqa: BLE001 (as in _run)
            self._failed(error)
        finally:
            self._turn.release()
        return True

    def _answered(self, answer: bytes | DiskFailed) -> None:
        self._enqueue(
            lambda now_ms: self._log.answered(answer, now_ms=now_ms),
            most=2 * CALLS_MAX,
            at_once=True,
        )

    def _run(self) -> None:
        try:
            self._drive()
        except Exception as error:  # noqa: BLE001 (acknowledged entries are lost, or a callback of ours failed)
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._on_fatal(error)

    def _drive(self) -> None:
        while True:
            with self._wake:
                if not self._stopping and not self._calls:
                    self._wake.wait(max(0, self._sleeps_until_ms - _now_ms()) / 1000)
            with self._turn:
                with self._wake:
                    if self._stopping:
                        return
                    calls, self._calls = self._calls, deque()
                self._act(calls)

    def _act(self, calls: Iterable[Callable[[int], None]]) -> None:
        """Whoever calls this has the turn."""
        for call in calls:
            call(_now_ms())
            self._perform(self._log.take())
        self._log.tick(now_ms=_now_ms())
        self._perform(self._log.take())
        if self._log.role is Role.FOLLOWING:
            self._free.set()
        else:
            self._free.clear()
        deadline_ms = self._log.deadline_ms
        with self._wake:
            if deadline_ms < self._sleeps_until_ms and threading.current_thread() is not self._thread:
                self._wake.notify()
            self._sleeps_until_ms = deadline_ms

    def _perform(self, actions: list[DiskAction]) -> None:
        for action in actions:
            match action:
                case Perform():
                    self._worker.ask(action.request)
                case Send():
                    self._send_frame(action.node, wire.encode(action.message))
                case Held() | Lost() | GiveWay():
                    self._tell(action)
                case OwnerKnown():
                    self._tell_leader(action.node)
                case Trouble():
                    self._say_trouble(action)
                case _:
                    assert_never(action)

    def _tell_leader(self, leader: int | None) -> None:
        now = (leader, leader == self._node)
        if now != self._told:
            self._told = now
            self._on_leader_changed(*now)

    def _say_trouble(self, trouble: Trouble) -> None:
        self.trouble = trouble.detail
        if trouble.detail:
            log.warning("quorum.trouble", code=trouble.code, because=trouble.detail)
        else:
            log.info("quorum.well")


def _now_ms() -> int:
    """Milliseconds since boot. Time asleep counts: a hold must not outlive a suspended machine's night."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

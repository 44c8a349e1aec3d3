"""A thread that drives one node of the replicated log on the real clock.

It sleeps until a frame, a proposal or the next deadline, then does one step. All that others want of the node passes
through one bounded queue of calls, and every callback runs on this thread, so callbacks must be short and never wait
for the log itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from clussvc.global_update.raft.raft_node import RaftNode, RaftStatistics
from clussvc.global_update.raft.storage import Storage
from clussvc.global_update.raft.values import Done, Outcome, OutcomeKind, RaftSettings, StateMachine
from clussvc.global_update.raft.wire import is_reply
from clussvc.quorum.stand_in import Decision

CALLS_MAX = 16_384
STOP_TIMEOUT_S = 30.0

LeaderChanged = Callable[[int | None, bool], None]
"""Leader, and whether this node leads with a lease."""


class RaftThread:
    """A running member of the log. Every method may be called from any thread."""

    def __init__(
        self,
        *,
        node_id: int,
        cluster_id: str,
        members: frozenset[int],
        folder: Path,
        first_boot: bool,
        state_machine: StateMachine,
        settings: RaftSettings,
        send: Callable[[int, bytes], None],
        on_fatal: Callable[[Exception], None],
        on_leader_changed: LeaderChanged | None = None,
        joining: bool = False,
        begun: bool = False,
        storage: Storage | None = None,
    ) -> None:
        """As :class:`RaftNode`. The state is restored here, on the caller's thread, so that errors surface at once."""
        self._node = RaftNode(
            node_id=node_id,
            cluster_id=cluster_id,
            members=members,
            folder=folder,
            first_boot=first_boot,
            state_machine=state_machine,
            settings=settings,
            send=send,
            now_s=_now_s,
            rng=random.Random(),  # noqa: S311 (election timing and request names, no secret)
            on_fatal=on_fatal,
            joining=joining,
            begun=begun,
            storage=storage,
        )
        self._settings = settings
        self._on_leader_changed = on_leader_changed
        self._told: tuple[int | None, bool] = (None, False)
        self._wake = threading.Condition()
        self._frames: deque[tuple[int, bytes]] = deque()
        self._frame_bytes = 0
        self._frames_dropped = 0
        self._patient = False
        """Replies may wait for the next step; waking a thread costs more than reading one."""
        self._unheard = False
        """Frames have come that may not."""
        self._calls: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._view = _View(self._node)
        self._thread = threading.Thread(target=self._run, name=f"raft-{node_id}", daemon=True)

    def start(self) -> None:
        """Begin to take part."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and release the files; waiting proposals are answered. Not from a callback."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                raise TimeoutError(f"the thread {self._thread.name} did not end within {STOP_TIMEOUT_S:.0f} s")
        self._node.close()
        self._view = _View(self._node)
        for call in self._calls:
            call()
        self._calls.clear()

    def receive(self, sender: int, frame: bytes) -> None:
        """Take a frame from an authenticated node; dropped when too many wait."""
        settings = self._settings
        with self._wake:
            if (
                len(self._frames) < settings.inbox_frames_max
                and self._frame_bytes + len(frame) <= settings.inbox_bytes_max
            ):
                self._frames.append((sender, frame))
                self._frame_bytes += len(frame)
                if not (self._patient and is_reply(frame)):
                    self._unheard = True
                    self._wake.notify()
            else:
                self._frames_dropped += 1

    def peer_connected(self, node_id: int) -> None:
        """The network below can reach a node now."""
        self._enqueue(partial(self._node.peer_connected, node_id), most=2 * CALLS_MAX)

    def peer_disconnected(self, node_id: int) -> None:
        """The network below has lost a node."""
        self._enqueue(partial(self._node.peer_disconnected, node_id), most=2 * CALLS_MAX)

    def set_timing(self, *, heartbeat_ms: int, election_timeout_ms: int) -> None:
        """See :meth:`RaftNode.set_timing`."""
        call = partial(self._node.set_timing, heartbeat_ms=heartbeat_ms, election_timeout_ms=election_timeout_ms)
        self._enqueue(call, most=2 * CALLS_MAX)

    def forget_leader(self, node_id: int) -> None:
        """See :meth:`RaftNode.forget_leader`."""
        self._enqueue(partial(self._node.forget_leader, node_id), most=2 * CALLS_MAX)

    def use_decision(self, decision: Decision) -> None:
        """See :meth:`RaftNode.use_decision`."""
        self._enqueue(partial(self._node.use_decision, decision), most=2 * CALLS_MAX)

    def propose(self, command: bytes, timeout_s: float, done: Done) -> None:
        """See :meth:`RaftNode.propose`; ``done`` runs on the thread of the log."""
        self._ask(partial(self._node.propose, command, timeout_s, done), done)

    def add_member(self, node_id: int, done: Done) -> None:
        """See :meth:`RaftNode.add_member`."""
        self._ask(partial(self._node.add_member, node_id, done), done)

    def remove_member(self, node_id: int, done: Done) -> None:
        """See :meth:`RaftNode.remove_member`."""
        self._ask(partial(self._node.remove_member, node_id, done), done)

    @property
    def members(self) -> frozenset[int]:
        """The nodes that count, as of the last step."""
        return self._view.members

    @property
    def leader(self) -> int | None:
        """Who leads, as of the last step."""
        return self._view.statistics.leader

    @property
    def is_leader_with_lease(self) -> bool:
        """Whether this node leads for certain, at this moment."""
        return _now_s() < self._view.lease_until_s

    @property
    def applied_index(self) -> int:
        """Number of commands applied, as of the last step."""
        return self._view.statistics.applied_index

    def statistics(self) -> RaftStatistics:
        """Counters, as of the last step."""
        return self._view.statistics

    def _ask(self, call: Callable[[], None], done: Done) -> None:
        if not self._enqueue(call):
            done(Outcome(kind=OutcomeKind.REFUSED, detail="this node's log has too much to do, or has stopped"))

    def _enqueue(self, call: Callable[[], None], *, most: int = CALLS_MAX) -> bool:
        with self._wake:
            if self._stopping or len(self._calls) >= most:
                return False
            self._calls.append(call)
            self._wake.notify()
            return True

    def _run(self) -> None:
        try:
            self._drive()
        except Exception as error:  # noqa: BLE001 (a callback of ours failed: nothing is known any more)
            self._node.fail(error)
            self._view = _View(self._node)
            with self._wake:
                self._stopping = True
                left, self._calls = self._calls, deque()
            for call in left:
                call()

    def _drive(self) -> None:
        while True:
            with self._wake:
                if not self._stopping and not self._unheard and not self._calls:
                    self._wake.wait(max(0.0, self._next_step_s() - _now_s()))
                if self._stopping:
                    return
                self._unheard = False
                frames, self._frames, self._frame_bytes = self._frames, deque(), 0
                dropped, self._frames_dropped = self._frames_dropped, 0
                calls, self._calls = self._calls, deque()
            self._node.count_dropped_frames(dropped)
            for call in calls:
                call()
            for sender, frame in frames:
                self._node.receive(sender, frame)
            self._node.step()
            self._view = _View(self._node)
            self._tell()

    def _next_step_s(self) -> float:
        """When the next step is due if nobody wakes the thread; decides whether replies do."""
        now_s, wake_s, replies_s = _now_s(), self._node.next_wake_s(), self._node.replies_due_s()
        self._patient = replies_s is not None
        if replies_s is None:
            return now_s if self._frames else wake_s
        return min(wake_s, replies_s) if replies_s > now_s else wake_s

    def _tell(self) -> None:
        now = (self._node.leader, self._node.is_leader_with_lease)
        if now != self._told:
            self._told = now
            if self._on_leader_changed is not None:
                self._on_leader_changed(*now)


def _now_s() -> float:
    """Seconds since boot. Time asleep counts: a lease must not outlive a suspended machine's night."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _View:
    """What other threads may read: made after a step, never changed."""

    __slots__ = ("lease_until_s", "members", "statistics")

    def __init__(self, node: RaftNode) -> None:
        self.members = node.members
        self.statistics = node.statistics()
        self.lease_until_s = node.lease_until_s if node.is_leader_with_lease else float("-inf")

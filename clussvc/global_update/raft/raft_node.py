"""One node of the replicated log, driven by hand: no thread, no clock, no socket of its own.

A step is: messages in, guard's timer, proposals to the leader, one tick of the library, sync, messages out. Whoever
drives it (a thread, a simulator) decides when. What the library cannot be trusted with is done here, beside the guard:

* one replicated method whose body never raises; anything unexpected ends the process;
* an own table of pending proposals with deadlines, own forwarding to the leader, and unknown outcomes called unknown;
* membership computed from snapshot and journal at start, changed by one node at a time, and only by a settled leader;
* snapshots with a checksum; a state that cannot be restored ends the process.

Every error of the disk and every broken invariant ends in :meth:`RaftNode._die`: the node falls silent, reports once to
``on_fatal`` and answers all waiting proposals with *unknown*.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from clussvc.global_update.raft import wire
from clussvc.global_update.raft.entries import NO_OPERATION, Entry, command_text
from clussvc.global_update.raft.guard import BATCH_BYTES, LEASE_SHARE, Guard, RaftFatal
from clussvc.global_update.raft.journal import Journal, JournalIdentity, reconcile
from clussvc.global_update.raft.library import (
    FAIL_REASON,
    RaftPeer,
    Surroundings,
    SyncObj,
    SyncObjConf,
    install,
    replicated,
    surrounded_by,
)
from clussvc.global_update.raft.snapshot_file import Snapshot, decode_snapshot, encode_snapshot
from clussvc.global_update.raft.storage import DiskStorage, Storage
from clussvc.global_update.raft.values import Done, Outcome, OutcomeKind, RaftSettings, StateMachine
from clussvc.model.errors import ClusterError
from clussvc.quorum.stand_in import Decision, change_refused, is_stand_in

FIRST_ENTRIES = ((NO_OPERATION, 2, 1), (NO_OPERATION, 3, 1))
"""Before everything that a log of a later generation holds; equal on all nodes. A node that joins begins with entry 1,
so it is behind all of it and gets the snapshot first, without which commands mean nothing."""
JOURNAL_NAME = "raft.journal"
SNAPSHOT_NAME = "raft.snapshot"
FRAMES_PER_STEP_MAX = 512
MEMBERSHIP_TIMEOUT_S = 10.0

LEASE_LEFT_S = 0.15
"""So much of its lease a leader must have left when it reads replies, or a short delay would cost it the lead."""
BUSY_STEP_S = 0.05
"""The longest pause between two steps while something is under way."""
_NEVER_S = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftStatistics:
    """A snapshot of one node's counters."""

    term: int
    leader: int | None
    is_leader: bool
    applied_index: int
    commit_index: int
    log_first: int
    log_last: int
    journal_bytes: int
    pending: int
    inbox_frames: int
    elections_started: int
    snapshots_written: int
    snapshots_installed: int
    drops: tuple[tuple[str, int], ...]


def beginning(*, cluster_id: str, members: frozenset[int], index: int, image: bytes) -> Snapshot:
    """With what every voter begins the log of a later generation: the state after the last command of the one before.
    ``members``: the voters of that moment."""
    previous, last = FIRST_ENTRIES
    return Snapshot(
        cluster_id=cluster_id,
        previous=previous,
        last=last,
        members=tuple(sorted(members)),
        applied=index,
        image=image,
    )


def begin(folder: Path, storage: Storage, snapshot: Snapshot, *, node_id: int) -> tuple[frozenset[int], bool]:
    """Make it durable that this node begins the log in the empty ``folder`` with a snapshot, and say which members the
    log has for it and whether it begins so. One that is no member of it begins with nothing, as a node that joins."""
    members = frozenset(snapshot.members)
    if node_id not in members:
        return members | {node_id}, False
    storage.replace(folder / SNAPSHOT_NAME, encode_snapshot(snapshot))
    return members, True


class _Library(SyncObj):  # type: ignore[misc]  # The library has no types.
    """The library's node with the one replicated method."""

    def __init__(self, owner: RaftNode, *args: Any, **kwargs: Any) -> None:
        self._owner = owner
        super().__init__(*args, **kwargs)

    @replicated  # type: ignore[untyped-decorator]
    def put(self, text: str) -> bytes:
        """Apply one command."""
        return self._owner._apply(text)


@dataclass(slots=True)
class _Pending:
    """A proposal of this node that waits for its outcome."""

    request: int
    command: bytes
    deadline_s: float
    done: Done
    sent_to: int | None = None
    sent_s: float = 0.0
    uncertain: bool = False
    """An earlier attempt may have been applied, or may be yet."""
    result: tuple[int, bytes] | None = None
    """Committed on the leader with this index and result; waits until this node has applied it too."""


class RaftNode:
    """A member of the log. Not thread-safe: one thread owns it."""

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
        now_s: Callable[[], float],
        rng: random.Random,
        on_fatal: Callable[[Exception], None],
        joining: bool = False,
        begun: bool = False,
        storage: Storage | None = None,
    ) -> None:
        """Open or create the journal in ``folder`` and restore the state of the snapshot beside it.

        ``begun``: this node has never taken part in this log, and begins with the snapshot (:func:`beginning`).

        ``members`` and ``joining`` count at the first boot only, and are remembered: the founding members (the same on
        each of them), or for a node that joins a running cluster all its members and itself, with ``joining`` set.
        ``send`` must not block and may drop; ``now_s`` is monotonic. Raises ClusterError when the files are missing,
        damaged or foreign, and when another release of the library is installed.
        """
        settings.validate()
        install()
        if node_id not in members:
            raise ValueError(f"node {node_id} is not among the members {sorted(members)}")
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._state_machine = state_machine
        self._settings = settings
        self._now_s = now_s
        self._on_fatal = on_fatal
        self._storage = storage if storage is not None else DiskStorage()
        self._snapshot_path = folder / SNAPSHOT_NAME
        self._dead: Exception | None = None
        self._closed = False
        self._applied = 0
        self._boot = rng.getrandbits(62)
        self._requests = 0
        self._pending: dict[int, _Pending] = {}
        self._fallback_from_s = float("inf")
        """From when on a leader steps down by times that were changed."""
        self._deadlines: list[tuple[float, int]] = []
        self._unsent: deque[_Pending] = deque()
        self._unapplied: list[_Pending] = []
        self._routed_to: int | None = None
        self._retry_s = 0.0
        self._foreign: dict[tuple[int, int, int], float] = {}
        self._foreign_sweep_s = 0.0
        self._change_in_flight: Callable[[Outcome], None] | None = None
        self._change_deadline_s = 0.0
        self._replaying = False
        self._change_submitted = False
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._inbox_bytes = 0
        self._drops_inbox = 0
        self._snapshots_written = 0
        self._snapshots_installed = 0
        folder.mkdir(parents=True, exist_ok=True)
        identity = JournalIdentity(
            cluster_id=cluster_id, node_id=node_id, members=tuple(sorted(members)), joining=joining
        )
        snapshot = self._stored_snapshot()
        if snapshot is not None and first_boot and not begun and self._storage.read(folder / JOURNAL_NAME) is None:
            raise ClusterError(
                "folder-not-empty",
                f"{self._snapshot_path} exists without a journal; a new node needs an empty folder {folder}.",
            )
        self._journal = Journal(folder / JOURNAL_NAME, identity, self._storage, create=first_boot)
        try:
            reconcile(self._journal, snapshot, self._snapshot_path)
            self._base = frozenset(self._journal.identity.members if snapshot is None else snapshot.members)
            self._guard = Guard(
                node_id=node_id,
                settings=settings,
                journal=self._journal,
                now_s=now_s,
                rng=rng,
                send=send,
                read_snapshot=self._snapshot_to_send,
                decode_snapshot=self._received_snapshot,
                on_forward=self._on_forward,
                joining=self._journal.identity.joining,
            )
            self._surroundings = Surroundings(now_s=now_s, rng=rng, journal=self._journal)
            with surrounded_by(self._surroundings):
                self._raft = self._start_library(folder, snapshot)
        except BaseException:
            self._journal.close()
            raise

    def _start_library(self, folder: Path, snapshot: Snapshot | None) -> Any:
        settings = self._settings
        configuration = self._library_settings = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=False,
            appendEntriesBatchSizeBytes=BATCH_BYTES,
            commandsQueueSize=2 * settings.pending_max,
            commandsWaitLeader=False,
            **_library_times(settings),
            dynamicMembershipChange=True,
            # Compaction is asked for by :meth:`_compact_if_due`, never by the library's own counting.
            logCompactionMinEntries=2**40,
            logCompactionMinTime=_NEVER_S,
            logCompactionBatchSize=65_536,
            logCompactionSplit=False,
            useFork=False,
            journalFile=str(folder / JOURNAL_NAME),
            fullDumpFile=str(self._snapshot_path),
            serializer=self._write_snapshot,
            deserializer=self._load_snapshot,
            onStateChanged=self._guard.state_changed,
            bindAddress=None,
            password=None,
        )
        others = [self._guard.peer(node) for node in sorted(self._members_now() - {self._node_id})]
        raft = _Library(
            self,
            self._guard.peer(self._node_id),
            others,
            configuration,
            nodeClass=self._node_for,
            transport=self._guard,
        )
        self._guard.attach(raft)
        if self._members_now() == {self._node_id}:
            # Alone there is nobody to wait for: the library's own message asks for an election at the next tick. It
            # accepts it from its leader only, and there is none yet.
            self._guard._onMessageReceived(None, {"type": "timeout_now", "term": raft.raftCurrentTerm})
        # The first tick restores the snapshot; nothing may be received before.
        self._replaying = True
        try:
            raft.doTick(0)
        except RaftFatal as error:
            raise ClusterError("log-unusable", f"The replicated log in {folder} cannot be used: {error}") from error
        finally:
            self._replaying = False
        # A node that is alone leads, commits and applies what follows the snapshot in the same tick.
        if self._dead is None and snapshot is not None and raft.raftLastApplied < snapshot.index:
            self._dead = ClusterError("log-unusable", f"The library did not accept the snapshot {self._snapshot_path}.")
        if self._dead is not None:
            failure = self._dead
            raise (
                failure if isinstance(failure, ClusterError) else ClusterError("log-unusable", str(failure))
            ) from failure
        return raft

    # Driving.

    def receive(self, sender: int, frame: bytes) -> None:
        """Take a frame from an authenticated node for the next step. Beyond the bounds it is dropped."""
        if self._dead is not None or self._closed:
            return
        settings = self._settings
        if len(self._inbox) >= settings.inbox_frames_max or self._inbox_bytes + len(frame) > settings.inbox_bytes_max:
            self._drops_inbox += 1
            return
        self._inbox.append((sender, frame))
        self._inbox_bytes += len(frame)

    def count_dropped_frames(self, count: int) -> None:
        """Count frames for which whoever drives this node had no room, among those for which there is none here."""
        self._drops_inbox += count

    def step(self) -> None:
        """Do all that is due now."""
        if self._dead is not None or self._closed:
            return
        try:
            with surrounded_by(self._surroundings):
                self._step()
        except Exception as error:  # noqa: BLE001 (whatever it is, this node may not go on)
            self._die(error)

    def _step(self) -> None:
        for _ in range(min(len(self._inbox), FRAMES_PER_STEP_MAX)):
            sender, frame = self._inbox.popleft()
            self._inbox_bytes -= len(frame)
            try:
                message = wire.decode(frame)
            except wire.FrameError:
                self._guard.drops["unreadable frame"] += 1
                continue
            self._guard.receive(sender, message)
            self._raise_if_dead()
        self._guard.timer()
        self._expire()
        self._route()
        self._compact_if_due()
        # Entries that are applied in this tick have changed the membership when they were appended; applying them again
        # would bring back a change that a later entry has undone. Only a change asked for right now may take effect.
        # A leader that asks for one has none unapplied in its log.
        self._replaying = not (self._change_submitted and self._guard.is_leader)
        try:
            self._journal.raise_floor(int(self._raft.raftLastApplied))
            self._raft.doTick(0)
        finally:
            self._replaying = self._change_submitted = False
        self._raise_if_dead()
        self._check_members()
        self._guard.flush()
        self._settle()

    def next_wake_s(self) -> float:
        """The latest time of the next step, if nothing is received or proposed before."""
        now = self._now_s()
        if self._dead is not None or self._closed:
            return now + 1.0
        alone = self.members == {self._node_id} and self._raft.raftCommitIndex < self._journal.last_index
        if self._inbox or alone or self._guard.owes_a_step:
            return now
        wake = self._guard.next_wake_s()
        if self._deadlines:
            wake = min(wake, self._deadlines[0][0])
        # With work under way the library is asked again soon; without, only messages and the guard's times matter.
        idle = not (self._pending or self._foreign or self._change_in_flight) and self._guard.idle
        return (
            wake if idle and self._raft.raftLastApplied >= self._raft.raftCommitIndex else min(wake, now + BUSY_STEP_S)
        )

    def replies_due_s(self) -> float | None:
        """None: whatever a peer says may matter at once. Otherwise this node leads and nobody waits for anything, so
        replies only extend its lease, and are early enough at that time: with the next heartbeat if the lease is long
        enough for that (then infinity), or soon after this node has spoken last."""
        if self._dead is not None or self._closed or not self._guard.is_leader or not self._guard.idle:
            return None
        waits = self._pending or self._foreign or self._change_in_flight or self._inbox
        if waits or self._raft.raftLastApplied < self._journal.last_index:
            return None
        settings = self._settings
        if LEASE_SHARE * settings.election_timeout_s - 2 * settings.heartbeat_s >= LEASE_LEFT_S:
            return float("inf")
        return self._guard.appended_s + settings.heartbeat_s / 4

    def peer_connected(self, node_id: int) -> None:
        """The network below can reach a node now."""
        if self._dead is None and not self._closed:
            with surrounded_by(self._surroundings):
                self._guard.peer_connected(node_id)

    def peer_disconnected(self, node_id: int) -> None:
        """The network below has lost a node. Forwarded proposals that wait for it are sent again, to whoever leads."""
        if self._dead is not None or self._closed:
            return
        with surrounded_by(self._surroundings):
            self._guard.peer_disconnected(node_id)
        for pending in self._pending.values():
            if pending.sent_to == node_id and node_id != self._node_id:
                self._unsend(pending)

    def set_timing(self, *, heartbeat_ms: int, election_timeout_ms: int) -> None:
        """Speak and be patient by other times from now on. Raises ValueError as RaftSettings does.

        While the nodes differ, a patient one may keep to a leader that others have given up, or ask in vain; both end
        when all have read of the change.
        """
        former = self._settings
        fresh = replace(former, heartbeat_ms=heartbeat_ms, election_timeout_ms=election_timeout_ms)
        fresh.validate()
        self._settings = fresh
        self._guard.set_settings(fresh)
        self._set_library_times(fresh)
        # A leader has had no answer for as long as it did not speak; by shorter times it would step down for that.
        self._library_settings.leaderFallbackTimeout = max(former.election_timeout_s_max, fresh.election_timeout_s_max)
        self._fallback_from_s = self._now_s() + former.election_timeout_s_max

    def _set_library_times(self, settings: RaftSettings) -> None:
        """The library reads these anew whenever it needs them."""
        for name, value in _library_times(settings).items():
            setattr(self._library_settings, name, value)

    def forget_leader(self, node_id: int) -> None:
        """The process of that node is certainly over; if it led, an election need not wait for its silence."""
        if self._dead is None and not self._closed:
            with surrounded_by(self._surroundings):
                self._guard.forget_leader(node_id)

    def use_decision(self, decision: Decision) -> None:
        """The witness has decided this (docs/decisions/0023)."""
        if self._dead is None and not self._closed:
            self._guard.use_decision(decision)

    def fail(self, error: Exception) -> None:
        """End for good, because whoever drives this node cannot go on; as after an error of its own."""
        if self._dead is None and not self._closed:
            self._die(error)

    def close(self) -> None:
        """Release the files. Waiting proposals end as unknown, or refused when they never left."""
        if self._closed:
            return
        self._closed = True
        if self._dead is None:
            with surrounded_by(self._surroundings):
                self._raft.destroy()
        self._journal.close()
        self._fail_all("the node was stopped")

    # Proposing.

    def propose(self, command: bytes, timeout_s: float, done: Done) -> None:
        """Have a command applied on all nodes; ``done`` is called once, during a later step or at once for a refusal.

        Without a leader the proposal waits; it is refused when it could not be sent within ``timeout_s`` seconds. An
        attempt whose answer is lost is repeated, so the state machine must recognise requests that it has applied.
        """
        refusal = self._refusal(command)
        if refusal is not None:
            _call(done, Outcome(kind=OutcomeKind.REFUSED, detail=refusal))
            return
        self._requests += 1
        pending = _Pending(self._requests, command, self._now_s() + timeout_s, done)
        self._pending[pending.request] = pending
        self._unsent.append(pending)
        heapq.heappush(self._deadlines, (pending.deadline_s, pending.request))

    def _refusal(self, command: bytes) -> str | None:
        if self._dead is not None or self._closed:
            return "this node's log has stopped"
        if len(command) > self._settings.command_bytes_max:
            return f"the command has {len(command)} bytes; at most {self._settings.command_bytes_max} are allowed"
        if len(self._pending) >= self._settings.pending_max:
            return f"{len(self._pending)} proposals are waiting already; try again later"
        return None

    def _route(self) -> None:
        """Send what waits to the leader, and again what got no answer."""
        if not self._pending:
            return
        leader = self._guard.leader()
        if leader is None:
            return
        now, patience = self._now_s(), self._settings.election_timeout_s_max
        if leader != self._routed_to or now >= self._retry_s:
            self._routed_to, self._retry_s = leader, now + patience / 2
            for pending in self._pending.values():
                away = pending.result is None and pending.sent_to not in (None, self._node_id)
                if away and (pending.sent_to != leader or now - pending.sent_s > patience):
                    self._unsend(pending)
        for _ in range(len(self._unsent)):
            pending = self._unsent.popleft()
            if pending.request not in self._pending or pending.sent_to is not None or pending.result is not None:
                continue
            pending.sent_to, pending.sent_s = leader, now
            if leader == self._node_id:
                self._put(pending.command, partial(self._local_done, pending.request))
            else:
                self._guard.say(leader, wire.Forward(self._boot, pending.request, pending.command))

    def _unsend(self, pending: _Pending, *, certain: bool = False) -> None:
        """Have a proposal sent again; unless it is ``certain`` that the attempt was in vain, its outcome stays open."""
        if pending.sent_to is not None:
            pending.uncertain = pending.uncertain or not certain
            pending.sent_to = None
            self._unsent.append(pending)

    def _put(self, command: bytes, callback: Callable[[bytes | None, int], None]) -> None:
        self._raft.put(command_text(command), callback=partial(self._guarded, callback))

    def _guarded(self, callback: Callable[[bytes | None, int], None], result: bytes | None, reason: int) -> None:
        """The library applies a command again when a callback raises, so none may."""
        try:
            callback(result, reason)
        except Exception as error:  # noqa: BLE001 (remembered; the step ends with it)
            self._remember(error)

    def _local_done(self, request: int, result: bytes | None, reason: int) -> None:
        pending = self._pending.get(request)
        if pending is None:
            return
        if reason == FAIL_REASON.SUCCESS:
            assert result is not None
            self._finish(pending, Outcome(kind=OutcomeKind.COMMITTED, result=result))
        else:
            self._unsend(pending, certain=reason in _NOT_APPLIED)

    # Forwarding.

    def _on_forward(self, sender: int, message: wire.Forward | wire.ForwardReply) -> None:
        match message:
            case wire.Forward():
                self._carry(sender, message)
            case wire.ForwardReply():
                self._forward_answered(sender, message)

    def _carry(self, sender: int, message: wire.Forward) -> None:
        """Propose for another node, as leader."""
        key = (sender, message.boot, message.request)
        if key in self._foreign:
            return
        if not self._guard.is_leader or len(message.command) > self._settings.command_bytes_max:
            self._answer(key, "not-leader")
        elif len(self._foreign) >= self._settings.pending_max:
            self._answer(key, "busy")
        else:
            self._foreign[key] = self._now_s()
            self._put(message.command, partial(self._foreign_done, key))

    def _foreign_done(self, key: tuple[int, int, int], result: bytes | None, reason: int) -> None:
        if self._foreign.pop(key, None) is None:
            return
        if reason == FAIL_REASON.SUCCESS:
            assert result is not None
            self._answer(key, "committed", self._applied, result)
        elif reason in _NOT_APPLIED:
            self._answer(key, "lost")

    def _answer(self, key: tuple[int, int, int], status: str, index: int = 0, result: bytes = b"") -> None:
        sender, boot, request = key
        self._guard.say(sender, wire.ForwardReply(boot, request, status, index, result))

    def _forward_answered(self, sender: int, message: wire.ForwardReply) -> None:
        pending = self._pending.get(message.request)
        if message.boot != self._boot or pending is None or pending.result is not None:
            self._guard.drops["late answer to a forwarded command"] += 1
        elif message.status == "committed":
            pending.result = (message.index, message.result)
            self._unapplied.append(pending)
        elif pending.sent_to != sender:
            self._guard.drops["answer of a former leader"] += 1
        elif message.status == "busy" and not pending.uncertain:
            self._finish(
                pending, Outcome(kind=OutcomeKind.REFUSED, detail=f"node {sender}, the leader, has too much to do")
            )
        elif message.status == "lost":
            self._unsend(pending, certain=True)
        # A node that does not lead is asked again when the attempt times out, or another one when a leader is heard.

    # Outcomes.

    def _finish(self, pending: _Pending, outcome: Outcome) -> None:
        self._pending.pop(pending.request, None)
        self._call_done(pending.done, outcome)

    def _call_done(self, done: Done, outcome: Outcome) -> None:
        failure = _call(done, outcome)
        if failure is not None:
            self._remember(failure)

    def _settle(self) -> None:
        """Hand out the results of forwarded commands that this node has applied by now."""
        if not self._unapplied:
            return
        waiting, self._unapplied = self._unapplied, []
        for pending in waiting:
            assert pending.result is not None
            if pending.request not in self._pending:
                continue
            if pending.result[0] <= self._applied:
                self._finish(pending, Outcome(kind=OutcomeKind.COMMITTED, result=pending.result[1]))
            else:
                self._unapplied.append(pending)
        self._raise_if_dead()

    def _expire(self) -> None:
        now = self._now_s()
        if now >= self._fallback_from_s:
            self._fallback_from_s = float("inf")
            self._set_library_times(self._settings)
        while self._deadlines and self._deadlines[0][0] <= now:
            _, request = heapq.heappop(self._deadlines)
            pending = self._pending.get(request)
            if pending is not None:
                self._finish(pending, self._verdict(pending, "no answer in time"))
        if self._change_in_flight is not None and now >= self._change_deadline_s:
            self._end_change(Outcome(kind=OutcomeKind.UNKNOWN, detail="the change was not confirmed in time"))
        if now >= self._foreign_sweep_s:
            self._foreign_sweep_s = now + 1.0
            for key in [key for key, since in self._foreign.items() if now - since > 30.0]:
                del self._foreign[key]
        if len(self._deadlines) > 2 * len(self._pending) + 64:
            self._deadlines = [(pending.deadline_s, pending.request) for pending in self._pending.values()]
            heapq.heapify(self._deadlines)

    @staticmethod
    def _verdict(pending: _Pending, why: str) -> Outcome:
        if pending.result is not None:
            return Outcome(
                kind=OutcomeKind.COMMITTED, result=pending.result[1], detail="committed; this node lags behind"
            )
        if pending.uncertain or pending.sent_to is not None:
            return Outcome(kind=OutcomeKind.UNKNOWN, detail=why)
        return Outcome(kind=OutcomeKind.REFUSED, detail=f"{why}: no leader is known")

    def _fail_all(self, why: str) -> None:
        for pending in list(self._pending.values()):
            del self._pending[pending.request]
            _call(pending.done, self._verdict(pending, why))
        if self._change_in_flight is not None:
            done, self._change_in_flight = self._change_in_flight, None
            _call(done, Outcome(kind=OutcomeKind.UNKNOWN, detail=why))

    # Membership.

    def add_member(self, node_id: int, done: Done) -> None:
        """Let a node count; on the leader only. From then on it is needed for majorities, so it must be reachable."""
        self._change(node_id, done, adding=True)

    def remove_member(self, node_id: int, done: Done) -> None:
        """Let a node count no longer; on the leader only, which cannot remove itself. Stop it afterwards."""
        self._change(node_id, done, adding=False)

    def _change(self, node_id: int, done: Done, *, adding: bool) -> None:
        refusal = self._change_refusal(node_id, adding=adding)
        if refusal is not None:
            _call(done, Outcome(kind=OutcomeKind.REFUSED, detail=refusal))
            return
        self._change_in_flight = done
        self._change_deadline_s = self._now_s() + MEMBERSHIP_TIMEOUT_S
        self._change_submitted = True
        act = self._raft.addNodeToCluster if adding else self._raft.removeNodeFromCluster
        with surrounded_by(self._surroundings):
            act(self._guard.peer(node_id), partial(self._guarded, partial(self._change_done, done)))

    def _change_refusal(self, node_id: int, *, adding: bool) -> str | None:
        if self._dead is not None or self._closed:
            return "this node's log has stopped"
        if not self.is_leader_with_lease:
            leader = self.leader
            other = f"; ask node {leader}" if leader not in (None, self._node_id) else ""
            return f"node {self._node_id} is not a settled leader{other}"
        if self._change_in_flight is not None or any(
            change.index > self._raft.raftLastApplied for change in self._journal.changes
        ):
            return "another change of the members is under way"
        if node_id == self._node_id:
            return "the leader cannot add or remove itself; stop it first, then ask the next leader"
        if adding and node_id in self.members:
            return f"node {node_id} is a member already"
        if not adding and node_id not in self.members:
            return f"node {node_id} is not a member"
        refused = change_refused(self.members, self._guard.decision, node_id, adding=adding)
        if refused:
            return refused
        if adding and not is_stand_in(node_id) and not self._guard.reachable(node_id):
            return f"node {node_id} is not connected, and a member that cannot answer would hold up the cluster"
        return None

    def _change_done(self, asked_by: Done, result: bytes | None, reason: int) -> None:
        del result
        if self._change_in_flight is not asked_by:
            return
        if reason == FAIL_REASON.SUCCESS:
            self._end_change(Outcome(kind=OutcomeKind.COMMITTED))
        elif reason in _NOT_APPLIED:
            self._end_change(
                Outcome(kind=OutcomeKind.REFUSED, detail="this node led no longer when the change was due")
            )
        else:
            self._end_change(Outcome(kind=OutcomeKind.UNKNOWN, detail="the leader changed meanwhile"))

    def _end_change(self, outcome: Outcome) -> None:
        done, self._change_in_flight = self._change_in_flight, None
        if done is not None:
            self._call_done(done, outcome)

    def _members_at(self, index: int) -> frozenset[int]:
        if not self._journal.changes:
            return self._base
        members = set(self._base)
        for change in self._journal.changes:
            if change.index > index:
                break
            if change.adding:
                members.add(change.node_id)
            else:
                members.discard(change.node_id)
        return frozenset(members)

    def _members_now(self) -> frozenset[int]:
        return self._members_at(2**63)

    def _node_for(self, text: str) -> RaftPeer:
        """The library's factory of nodes, called when it reads a membership entry.

        While it replays entries that are in force already it gets this node itself, which it never adds or removes.
        """
        return self._guard.peer(self._node_id if self._replaying else int(text))

    def _check_members(self) -> None:
        mine, theirs = self._members_now() - {self._node_id}, self._guard.all_others
        if mine != theirs:
            raise RaftFatal(f"the library counts {sorted(theirs)} as other members, the log says {sorted(mine)}")

    # State, snapshots and the end.

    def _apply(self, text: str) -> bytes:
        """The body of the one replicated method, called by the library in log order."""
        self._raise_if_dead()
        retired = self._state_machine.retired
        try:
            result = self._state_machine.apply(self._applied + 1, text.encode("latin-1"))
        except BaseException as error:
            # The library would try the same command again and again. The exception leaves its loop, and the node ends.
            self._remember(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            raise RaftFatal(f"command {self._applied + 1} could not be applied: {error!r}") from error
        # What follows the last command has no number; the log of the next quorum goes on with the next one.
        self._applied += 0 if retired else 1
        return result

    def _compact_if_due(self) -> None:
        settled = self._raft.raftLastApplied - self._journal.first_index
        if settled >= self._settings.compaction_entries or (
            settled >= 10 and self._journal.size_bytes > self._settings.compaction_bytes
        ):
            self._raft.forceLogCompaction()

    def _write_snapshot(self, path: str, data: tuple[Entry, Entry, Iterable[RaftPeer]]) -> None:
        """The library's serializer; it renames the file afterwards. It swallows what is raised, so it is remembered."""
        last, previous, _ = data
        try:
            snapshot = Snapshot(
                cluster_id=self._cluster_id,
                previous=previous,
                last=last,
                members=tuple(sorted(self._members_at(last[1]))),
                applied=self._applied,
                image=self._state_machine.snapshot(),
            )
            self._storage.write_synced(Path(path), encode_snapshot(snapshot))
        except Exception as error:
            self._remember(error)
            raise
        # The library trims the journal in its next tick, up to exactly these entries. Until then older changes are
        # counted on top of newer members, which is harmless: for each node the last change decides.
        self._base = frozenset(snapshot.members)
        # The entry that admitted this node may be trimmed before anybody looks for it.
        self._guard.log_replaced(self._base)
        self._snapshots_written += 1

    def _load_snapshot(self, path: str) -> tuple[Entry, Entry, list[RaftPeer]]:
        """The library's deserializer, at start and when a snapshot was received; failures are remembered, as above."""
        try:
            self._storage.sync_file(Path(path))
            self._storage.sync_folder(Path(path).parent)
            snapshot = self._stored_snapshot()
            assert snapshot is not None, f"{path} has vanished"
            self._state_machine.restore(snapshot.applied, snapshot.image)
        except Exception as error:
            self._remember(error)
            raise
        self._applied = snapshot.applied
        if not self._guard.installing:
            members = self._members_now()
        else:
            members = self._base = frozenset(snapshot.members)
            self._snapshots_installed += 1
            # Whether these are part of the snapshot cannot be told any more.
            for pending in self._pending.values():
                if pending.sent_to == self._node_id:
                    self._unsend(pending)
            self._foreign.clear()
        self._guard.log_replaced(frozenset(snapshot.members))
        return snapshot.last, snapshot.previous, [self._guard.peer(node) for node in sorted(members)]

    def _stored_snapshot(self) -> Snapshot | None:
        data = self._storage.read(self._snapshot_path)
        return None if data is None else decode_snapshot(data, cluster_id=self._cluster_id, source=self._snapshot_path)

    def _snapshot_to_send(self) -> tuple[Snapshot, bytes] | None:
        data = self._storage.read(self._snapshot_path)
        if data is None:
            return None
        return decode_snapshot(data, cluster_id=self._cluster_id, source=self._snapshot_path), data

    def _received_snapshot(self, blob: bytes, sender: int) -> Snapshot:
        return decode_snapshot(blob, cluster_id=self._cluster_id, source=f"received from node {sender}")

    def _remember(self, error: Exception) -> None:
        """Note a failure inside library code that would swallow it; the step raises it afterwards."""
        if self._dead is None:
            self._dead = error

    def _raise_if_dead(self) -> None:
        if self._dead is not None:
            raise self._dead

    def _die(self, error: Exception) -> None:
        cause = self._dead if self._dead is not None else error
        self._dead = cause
        self._inbox.clear()
        self._inbox_bytes = 0
        self._journal.close()
        self._fail_all(f"this node's log has failed: {cause}")
        self._on_fatal(cause)

    # What others may know.

    @property
    def node_id(self) -> int:
        """This node."""
        return self._node_id

    @property
    def failure(self) -> Exception | None:
        """Why this node has stopped for good; None while it works."""
        return self._dead

    @property
    def members(self) -> frozenset[int]:
        """The nodes that count, by the newest entry of the log, committed or not."""
        return self._members_now()

    @property
    def leader(self) -> int | None:
        """Who leads, as far as this node has heard; it may be mistaken."""
        return self._guard.leader() if self._dead is None else None

    @property
    def is_leader_with_lease(self) -> bool:
        """Whether this node certainly is the only leader now, and has applied all that was committed before it led."""
        if self._dead is not None or self._closed or not self._guard.is_leader:
            return False
        settled = self._journal.term_at(self._raft.raftLastApplied) == self._raft.raftCurrentTerm
        return settled and self._guard.lease_until_s() > self._now_s()

    @property
    def lease_until_s(self) -> float:
        """Until when, on this node's clock, no other node can have been elected; minus infinity without leadership."""
        return self._guard.lease_until_s()

    @property
    def applied_index(self) -> int:
        """Number of commands applied."""
        return self._applied

    def statistics(self) -> RaftStatistics:
        """Counters of this node."""
        drops = dict(self._guard.drops)
        if self._drops_inbox:
            drops["inbox full"] = self._drops_inbox
        return RaftStatistics(
            term=self._raft.raftCurrentTerm,
            leader=self.leader,
            is_leader=self._guard.is_leader,
            applied_index=self._applied,
            commit_index=self._raft.raftCommitIndex,
            log_first=self._journal.first_index,
            log_last=self._journal.last_index,
            journal_bytes=self._journal.size_bytes,
            pending=len(self._pending),
            inbox_frames=len(self._inbox),
            elections_started=self._guard.elections_started,
            snapshots_written=self._snapshots_written,
            snapshots_installed=self._snapshots_installed,
            drops=tuple(sorted(drops.items())),
        )


_NOT_APPLIED = frozenset(
    {
        FAIL_REASON.QUEUE_FULL,
        FAIL_REASON.MISSING_LEADER,
        FAIL_REASON.DISCARDED,
        FAIL_REASON.NOT_LEADER,
        FAIL_REASON.REQUEST_DENIED,
    }
)


def _library_times(settings: RaftSettings) -> dict[str, float]:
    """The times of the library, by the names of its options."""
    least = settings.election_timeout_s
    return {
        "appendEntriesPeriod": settings.heartbeat_s,
        "raftMinTimeout": least,
        "raftMaxTimeout": 1.05 * least,
        "connectionTimeout": settings.election_timeout_s_max,
        "leaderFallbackTimeout": settings.election_timeout_s_max,
    }


def _call(done: Done, outcome: Outcome) -> Exception | None:
    """Call back; an exception comes back as a value, since it must not run through the library."""
    try:
        done(outcome)
    except Exception as error:  # noqa: BLE001
        return error
    return None

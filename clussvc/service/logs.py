"""The logs of a node: the one in which it takes part, and for a moment the one that it has just left.

Each generation of the quorum has a log of its own (docs/decisions/0020). When the core says ChangeLog, the beginning of
the new log is made durable and opened by a thread of its own, since that waits for disks; what the core wants of the
log meanwhile is kept or refused. The log that was left goes on for a moment, so that others read of it what they lack.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from clussvc import codec
from clussvc.actions import AddLogMember, ChangeLog, ContestQuorum, RemoveLogMember, TellNews, UseDecision
from clussvc.comms.wire import Kind
from clussvc.events import PeerBehind, QuorumNews
from clussvc.global_update.raft.replicator import decode_snapshot
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum
from clussvc.model.settings import Timing
from clussvc.ports import Done, Outcome, OutcomeKind
from clussvc.quorum.news import PIECE_BYTES, NewsPiece, NewsReader, Notice, pieces
from clussvc.service.engines import Engine

LINGERS_S = 2.0
"""How long a log that was left goes on. Its disk is given free in that time, too."""
NOTICE_PAUSE_S = 0.2
"""A node that is heard in another log is answered no more often."""
WORD_BYTES_MAX = 2 * PIECE_BYTES
OPENING = "the log of the new quorum is being opened"

_GENERATION: Final = struct.Struct("<I")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMakers:
    """What the assembly does for the logs."""

    begin: Callable[[ChangeLog], Engine]
    """Make the beginning of the new log durable, and open it. Raises ClusterError or OSError."""
    discard: Callable[[int], None]
    """Remove the files of a log that was left."""
    snapshot: Callable[[int], bytes | None]
    """The newest snapshot of the log of this generation, which is replicated among the nodes."""


class Logs:
    """See the module. Every method may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        quorum: Quorum,
        *,
        cluster_id: str,
        makers: LogMakers,
        send: Callable[[int, Kind, bytes], None],
        tell: Callable[[PeerBehind | QuorumNews], None],
        die: Callable[[str], None],
    ) -> None:
        self._engine: Engine | None = engine
        self._quorum = quorum
        self._cluster_id = cluster_id
        self._makers = makers
        self._send = send
        self._tell = tell
        self._die = die
        self._lock = threading.RLock()
        self._former: tuple[int, Engine] | None = None
        self._connected: set[int] = set()
        self._reader = NewsReader()
        self._answered_s: dict[int, float] = {}
        self._contest: ContestQuorum | None = None
        self._timing: Timing | None = None
        self._changes: list[ChangeLog] = []
        self._changing: threading.Thread | None = None
        self._stopping = threading.Event()

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to take part."""
        assert self._engine is not None
        self._engine.start()

    def stop(self) -> None:
        """End everything."""
        self._stopping.set()
        with self._lock:
            changing = self._changing
        if changing is not None:
            changing.join()
        with self._lock:
            former, engine = self._former, self._engine
            self._former = self._engine = None
        for each in (former[1] if former else None, engine):
            if each is not None:
                each.stop()

    def change(self, action: ChangeLog) -> None:
        """Leave the present log for another one; returns at once."""
        with self._lock:
            self._changes.append(action)
            if len(self._changes) == 1:
                self._leave(action)

    def _leave(self, action: ChangeLog) -> None:
        if self._former is not None:
            # Two changes in a moment: nobody needs what was before both.
            self._end_soon(*self._former)
        self._former = (self._quorum.generation, self._engine) if self._engine is not None else None
        self._engine, self._quorum = None, action.quorum
        self._contest, self._timing = None, None
        self._changing = threading.Thread(target=self._begin, args=(action,), name="log-change", daemon=True)
        self._changing.start()

    def _begin(self, action: ChangeLog) -> None:
        try:
            engine = self._makers.begin(action)
        except Exception as error:  # noqa: BLE001 (whatever it is, a node without a log must not go on)
            self._die(f"the log of the new quorum cannot be begun: {error}")
            return
        with self._lock:
            engine.start()
            for node in self._connected:
                engine.peer_connected(node)
            if self._timing is not None:
                engine.use_timing(self._timing)
            if self._contest is not None:
                engine.contest(wanted=self._contest.wanted, client_networks=self._contest.client_networks)
            engine.use_quorum(self._quorum)
            self._engine = engine
            former, self._changing = self._former, None
            connected = list(self._connected)
            del self._changes[0]
        log.info("log.changed", generation=action.quorum.generation, quorum=action.quorum.kind.value)
        for node in connected:
            self._notice(node)
        if former is not None:
            threading.Thread(target=self._end_later, args=former, name="log-end", daemon=True).start()
        with self._lock:
            if self._changes and not self._stopping.is_set():
                self._leave(self._changes[0])

    def _end_later(self, generation: int, engine: Engine) -> None:
        self._stopping.wait(LINGERS_S)
        with self._lock:
            if self._former != (generation, engine):
                return
            self._former = None
        self._end(generation, engine)

    def _end_soon(self, generation: int, engine: Engine) -> None:
        self._former = None
        threading.Thread(target=self._end, args=(generation, engine), name="log-end", daemon=True).start()

    def _end(self, generation: int, engine: Engine) -> None:
        try:
            engine.stop()
        except TimeoutError as error:
            # A device that hangs keeps its thread; nobody waits for it.
            log.warning("log.end", because=str(error))
        self._makers.discard(generation)

    # --- between nodes ----------------------------------------------------------------------------------------------

    def send_frame(self, generation: int, kind: Kind, node: int, frame: bytes) -> None:
        """A frame of a log leaves this node; the first logs have their frames under their own kinds."""
        if generation:
            self._send(node, Kind.LATER_LOG, _GENERATION.pack(generation) + frame)
        else:
            self._send(node, kind, frame)

    def receive(self, sender: int, kind: Kind, payload: bytes) -> None:
        """Something has come from an authenticated node."""
        if kind in (Kind.RAFT, Kind.DISK_LOG):
            self._frame(sender, 0, payload, kind)
        elif kind is Kind.LATER_LOG and len(payload) > _GENERATION.size:
            self._frame(sender, _GENERATION.unpack_from(payload)[0], payload[_GENERATION.size :], None)
        elif kind is Kind.QUORUM:
            try:
                word = codec.decode_one_of(Notice | NewsPiece, payload, WORD_BYTES_MAX)
                self._hear(sender, word)
            except ClusterError as error:
                log.warning("quorum.malformed", node=sender, because=error.message)

    def _frame(self, sender: int, generation: int, frame: bytes, kind: Kind | None) -> None:
        with self._lock:
            own, engine = self._quorum.generation, self._engine
            if generation != own:
                engine = self._former[1] if self._former is not None and self._former[0] == generation else None
        if engine is not None and kind in (None, engine.kind):
            engine.receive(sender, frame)
        if generation != own:
            self._meet(sender, generation)

    def _meet(self, node: int, generation: int) -> None:
        """A node takes part in another log."""
        now_s = time.monotonic()
        with self._lock:
            if now_s < self._answered_s.get(node, 0.0):
                return
            self._answered_s[node] = now_s + NOTICE_PAUSE_S
            own = self._quorum.generation
        if generation < own:
            self._tell(PeerBehind(node=NodeId(node)))
        else:
            self._notice(node)

    def _notice(self, node: int) -> None:
        self._say(node, Notice(generation=self._quorum.generation))

    def _say(self, node: int, word: Notice | NewsPiece) -> None:
        self._send(node, Kind.QUORUM, codec.encode_value(word, max_bytes=WORD_BYTES_MAX))

    def _hear(self, sender: int, word: Notice | NewsPiece) -> None:
        own = self._quorum.generation
        if isinstance(word, Notice):
            if word.generation != own:
                self._meet(sender, word.generation)
            return
        with self._lock:
            whole = self._reader.take(NodeId(sender), word)
        if whole is None or word.generation <= own:
            return
        image, index, beginning = whole, word.index, b""
        if word.snapshot:
            snapshot = decode_snapshot(whole, cluster_id=self._cluster_id, source=f"from node {sender}")
            image, index, beginning = snapshot.image, snapshot.applied, whole
        self._tell(QuorumNews(index=index, config=codec.decode_config(image), beginning=beginning))

    def tell_news(self, action: TellNews) -> None:
        """Perform the action."""
        quorum = action.config.quorum
        index, data = action.index, b""
        if quorum.replicated:
            data = self._makers.snapshot(quorum.generation) or b""
            if not data:
                # It is being made at this moment, and the other node will ask again.
                return
        else:
            data = codec.encode_config(action.config)
        for piece in pieces(generation=quorum.generation, index=index, snapshot=quorum.replicated, data=data):
            self._say(action.node, piece)

    def peer_connected(self, node: int) -> None:
        """A node can be reached."""
        with self._lock:
            self._connected.add(node)
            self._answered_s.pop(node, None)
            for engine in self._engines():
                engine.peer_connected(node)
        if self._quorum.generation:
            self._notice(node)

    def peer_disconnected(self, node: int) -> None:
        """A node cannot be reached any more."""
        with self._lock:
            self._connected.discard(node)
            self._reader.forget(NodeId(node))
            for engine in self._engines():
                engine.peer_disconnected(node)

    def _engines(self) -> list[Engine]:
        both = [self._engine, self._former[1] if self._former is not None else None]
        return [engine for engine in both if engine is not None]

    # --- what the core wants ----------------------------------------------------------------------------------------

    def propose(self, command: bytes, timeout_s: float, done: Done) -> None:
        """See Engine."""
        with self._lock:
            engine = self._engine
        if engine is None:
            done(Outcome(kind=OutcomeKind.REFUSED, detail=OPENING))
        else:
            engine.propose(command, timeout_s, done)

    def use_timing(self, timing: Timing) -> None:
        """See Engine."""
        with self._lock:
            self._timing = timing
            if self._engine is not None:
                self._engine.use_timing(timing)

    def use_quorum(self, quorum: Quorum) -> None:
        """See actions.UseQuorum."""
        with self._lock:
            self._quorum = quorum
            if self._engine is not None:
                self._engine.use_quorum(quorum)

    def contest(self, action: ContestQuorum) -> None:
        """Perform the action."""
        with self._lock:
            self._contest = action
            if self._engine is not None:
                self._engine.contest(wanted=action.wanted, client_networks=action.client_networks)

    def give_back(self) -> None:
        """See actions.GiveQuorumBack."""
        with self._lock:
            if self._engine is not None:
                self._engine.give_back()

    def forget_leader(self, node: int) -> None:
        """See actions.ForgetLeader."""
        with self._lock:
            if self._engine is not None:
                self._engine.forget_leader(node)

    def use_decision(self, action: UseDecision) -> None:
        """Perform the action; a log that begins later begins without a witness."""
        with self._lock:
            if self._engine is not None:
                self._engine.use_decision(action.decision)

    def change_members(self, action: AddLogMember | RemoveLogMember, done: Done) -> None:
        """Perform the action."""
        with self._lock:
            engine = self._engine
        if engine is None:
            done(Outcome(kind=OutcomeKind.REFUSED, detail=OPENING))
        else:
            engine.change_members(action, done)

    @property
    def quorum(self) -> Quorum:
        """In whose log this node takes part."""
        return self._quorum

    @property
    def applied_index(self) -> int:
        """Entries applied; 0 while the log is being opened."""
        engine = self._engine
        return engine.applied_index if engine is not None else 0

    @property
    def trouble(self) -> str:
        """What keeps the log from its work, in a sentence; empty if nothing does."""
        engine = self._engine
        return engine.trouble if engine is not None else OPENING

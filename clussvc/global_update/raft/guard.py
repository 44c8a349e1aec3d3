"""The guard: the library's transport object, and what makes the library's protocol right.

The library speaks only to this object, and this object speaks only to other guards. On the way in, messages are
rewritten until the library can only do the right thing with them; on the way out they wait until the journal is synced.

What it guards against (each has a test of the same name):

===  ======================================================================  =========================================
S1   a snapshot chunk moves the commit index over unmatched entries          chunks stay here; commit only what matched
S3   an append truncates entries that match                                  held entries are trimmed from the append
S9   replies carry no term                                                   ours do; another term is dropped
S10  a late answer completes another command                                 own forwarding, named by boot and request
S11  votes are counted, voters are not                                       one vote per voter, members only
S12  a lagging peer is flooded while a snapshot is written                   own transfer with a window
–    no pre-vote, no stickiness, no lease                                    own election timer, pre-vote, echoed stamps
===  ======================================================================  =========================================

The library campaigns only while it believes some peer connected; so "connected" is what the guard grants: to all
reachable members while leading or after a won pre-vote, to nobody otherwise.

A member of the log may be a *stand-in*, which has no machine (:mod:`clussvc.quorum.stand_in`). The guard of who leads
or campaigns speaks for it, to its own library only: it votes once a majority of an electorate has voted, and has
matched what a majority of an electorate has matched, this node included as far as its journal is synced.

Invariant: no byte leaves the node before everything it could promise is on stable storage (:meth:`Guard.flush`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pysyncobj.transport import Transport

from clussvc.global_update.raft import wire
from clussvc.global_update.raft.entries import Entry, entry_problem
from clussvc.global_update.raft.journal import Journal
from clussvc.global_update.raft.library import RaftPeer
from clussvc.global_update.raft.snapshot_file import SNAPSHOT_BYTES_MAX, Snapshot
from clussvc.global_update.raft.values import RaftSettings
from clussvc.model.errors import ClusterError
from clussvc.quorum.stand_in import Decision, electorates, is_stand_in

LEASE_SHARE = 0.9
"""Part of the shortest election timeout that a leader may rely on; the rest covers differing clock rates."""

HASTE_FIRST = 0.03
HASTE_STEP = 0.1
"""Parts of the shortest election timeout: how long the first waits of those that know that their leader is gone, so
that the others know it too, and each next one after it."""

CHUNK_BYTES = 512 * 1024
CHUNKS_IN_FLIGHT = 4
CHUNKS_MAX = SNAPSHOT_BYTES_MAX // CHUNK_BYTES + 1
"""Pieces of the longest snapshot; a transfer that announces more is not begun."""

TRANSFER_IDLE_S_MAX = 30.0
MERGED_BYTES_MAX = 1024 * 1024
BATCH_BYTES = 1280 * 1024
"""Longer than any encoded command (two bytes a character at worst), so the library never splits one entry."""

_FOLLOWER, _CANDIDATE, _LEADER = 0, 1, 2


class RaftFatal(Exception):
    """A broken invariant or a failed disk: the node must end. Carries the sentence for the operator."""


@dataclass(slots=True)
class _Transfer:
    """A snapshot on its way to one peer."""

    number: int
    index: int
    index_term: int
    chunks: list[bytes]
    progress_s: float
    next_new: int = 0
    in_flight: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Incoming:
    """A snapshot on its way from the leader."""

    sender: int
    transfer: int
    term: int
    total: int
    pieces: dict[int, bytes] = field(default_factory=dict)
    size: int = 0


@dataclass(slots=True)
class _ReplyContext:
    """How the library's answer to the append in hand is to be worded."""

    echo: float
    verified: int | None = None
    hint: int | None = None


class Guard(Transport):  # type: ignore[misc]  # The library has no types.
    """Between one library node and the network. Single-threaded, driven by :class:`RaftNode`."""

    def __init__(
        self,
        *,
        node_id: int,
        settings: RaftSettings,
        journal: Journal,
        now_s: Callable[[], float],
        rng: random.Random,
        send: Callable[[int, bytes], None],
        read_snapshot: Callable[[], tuple[Snapshot, bytes] | None],
        decode_snapshot: Callable[[bytes, int], Snapshot],
        on_forward: Callable[[int, wire.Forward | wire.ForwardReply], None],
        joining: bool,
    ) -> None:
        super().__init__(None, None, [])
        self._node_id = node_id
        self._settings = settings
        self._journal = journal
        self._now_s = now_s
        self._rng = rng
        self._send_frame = send
        self._read_snapshot = read_snapshot
        self._decode_snapshot = decode_snapshot
        self._on_forward = on_forward
        self._joining = joining
        self._raft: Any = None
        self._peers: dict[int, RaftPeer] = {}
        self._reachable: set[int] = set()
        self._opened: set[int] = set()
        self._reopen: set[int] = set()
        self._outbox: list[tuple[int, wire.Message]] = []
        self._role = _FOLLOWER
        self._leader: int | None = None
        self._leader_term = 0
        # A node that has just started cannot know whom it answered a moment before it went down; it therefore behaves
        # as if it had heard a leader now, or a lease counted on it could be broken.
        self._heard_s = now_s()
        self._deadline_s = 0.0
        self._round = 0
        self._supporters: set[int] = set()
        self._campaigning = False
        self._voters: tuple[int, set[int]] = (0, set())
        self._echoes: dict[int, float] = {}
        self._appended_s = 0.0
        self._speaks_itself_until_s = float("-inf")
        """Until then the guard says that the leader lives, when it is time by settings that were changed."""
        self._stepped_s = 0.0
        self._reply: _ReplyContext | None = None
        self._decision: Decision | None = None
        self._matched: dict[int, int] = {}
        """Up to which entry each follower has confirmed this leader's log."""
        self._answered: tuple[int, float] = (0, float("-inf"))
        """Up to which entry the stand-in has confirmed it, and when it has spoken last."""
        self._stood_in_term = 0
        """In which term the stand-in has voted for this node."""
        self._transfers: dict[int, _Transfer] = {}
        self._transfer_count = 0
        self._incoming: _Incoming | None = None
        self._installing = False
        self.drops: Counter[str] = Counter()
        self.elections_started = 0
        self.last_refusal = ""
        self._arm(now_s())

    # What the node asks.

    def attach(self, raft: Any) -> None:
        """Meet the library node; before this no message may arrive."""
        self._raft = raft

    @property
    def installing(self) -> bool:
        """Whether the library is loading a received snapshot at this moment."""
        return self._installing

    @property
    def is_leader(self) -> bool:
        """Whether the library believes that this node leads; see :meth:`lease_until_s` for more than belief."""
        return self._role == _LEADER

    @property
    def other_members(self) -> set[int]:
        """The other nodes that count."""
        return {other for other in self.all_others if not is_stand_in(other)}

    @property
    def all_others(self) -> set[int]:
        """The other members of the log, stand-ins included."""
        return {int(node.id) for node in self._raft.otherNodes}

    def use_decision(self, decision: Decision) -> None:
        """The witness has decided this; it counts while the log has the stand-in of that version."""
        self._decision = decision

    @property
    def decision(self) -> Decision | None:
        """What the witness has decided, as far as this node knows."""
        return self._decision

    def leader(self) -> int | None:
        """Who leads, as far as this node has heard lately."""
        if self._role == _LEADER:
            return self._node_id
        fresh = self._now_s() - self._heard_s <= self._settings.election_timeout_s_max
        return self._leader if fresh and self._leader_term == self._term else None

    def lease_until_s(self) -> float:
        """Until when no other node can have been elected: a majority heard this leader less than a lease ago.

        The majority's clocks started when they received what this node had sent at the echoed time or later, and none
        of them votes for another within the shortest election timeout (Raft dissertation, sections 4.2.3 and 6.4.1).
        """
        if self._role != _LEADER:
            return float("-inf")
        best = float("-inf")
        for electorate in self._electorates():
            echoes = [self._echoes.get(peer, float("-inf")) for peer in electorate - {self._node_id}]
            if self._node_id in electorate:
                echoes.append(float("inf"))
            best = max(best, sorted(echoes, reverse=True)[len(electorate) // 2])
        return best + LEASE_SHARE * self._settings.election_timeout_s

    def has_support(self) -> bool:
        """Whether a majority has answered this leader within the shortest election timeout."""
        return self.lease_until_s() > self._now_s()

    def peer(self, node_id: int) -> RaftPeer:
        """The library's object for a node."""
        return self._peers.setdefault(node_id, RaftPeer(node_id))

    def reachable(self, node_id: int) -> bool:
        """Whether the network below has a connection to that node."""
        return node_id in self._reachable

    @property
    def appended_s(self) -> float:
        """When this leader has spoken to a follower last."""
        return self._appended_s

    @property
    def idle(self) -> bool:
        """Whether no snapshot is on its way and no election under way."""
        return not self._transfers and self._incoming is None and not self._campaigning

    def next_wake_s(self) -> float:
        """When the guard or the library has something to do even if nothing happens."""
        if self._role == _LEADER:
            due = self._appended_s + self._settings.heartbeat_s
            # Without a reachable member nothing is sent, and what is overdue must not become a busy loop.
            return due if due > self._stepped_s else self._stepped_s + self._settings.heartbeat_s / 4
        if self._campaigning or not self.all_others:
            return self._now_s() + 0.01
        return self._deadline_s

    # The library's transport interface.

    def send(self, node: Any, message: Mapping[str, Any]) -> bool:
        """Queue what the library wants to say."""
        peer = int(node.id)
        if is_stand_in(peer):
            return True
        match message["type"]:
            case "append_entries":
                self._send_append(peer, message)
            case "next_node_idx":
                self._send_reply(peer, message)
            case "request_vote":
                self._outbox.append(
                    (peer, wire.VoteRequest(message["term"], message["last_log_term"], message["last_log_index"]))
                )
            case "response_vote":
                self._close_all()
                self._arm(self._now_s())
                self._outbox.append((peer, wire.VoteReply(message["term"])))
            case other:
                self.drops[f"sent {other}"] += 1
        return True

    def addNode(self, node: Any) -> None:
        """A node has become a member."""
        if self._role == _LEADER:
            self._open(int(node.id))

    def dropNode(self, node: Any) -> None:
        """A node is no longer a member."""
        self._close(int(node.id))
        self._transfers.pop(int(node.id), None)
        self._echoes.pop(int(node.id), None)

    def state_changed(self, old: int, new: int) -> None:
        """The library's role has changed; called before a new leader's first append."""
        self._role = new
        self._echoes.clear()
        self._matched.clear()
        self._answered = (0, float("-inf"))
        self._transfers.clear()
        for stand_in in sorted(self._stand_ins):
            self._close(stand_in)
        if new == _LEADER:
            self._leader, self._leader_term = self._node_id, self._term
            self._campaigning = False
            for peer in sorted(self.other_members & self._reachable):
                self._open(peer)
        elif old == _LEADER:
            self._leader = None
            self._close_all()
            self._arm(self._now_s())

    # What the node drives.

    def peer_connected(self, node_id: int) -> None:
        """The network below can reach a node."""
        self._reachable.add(node_id)
        if (self._role == _LEADER or self._campaigning) and node_id in self.other_members:
            self._open(node_id)

    def peer_disconnected(self, node_id: int) -> None:
        """The network below has lost a node."""
        self._reachable.discard(node_id)
        self._close(node_id)
        self._transfers.pop(node_id, None)
        if node_id == self._leader and self._role != _LEADER:
            # Probably its process is gone, and nobody has to wait longer than the others keep to it.
            self._hasten(self._heard_s + self._settings.election_timeout_s)

    def set_settings(self, settings: RaftSettings) -> None:
        """Other times from now on; an election that is due by the former ones comes when it was due."""
        # The library has planned its next message by the former times.
        self._speaks_itself_until_s = self._now_s() + self._settings.heartbeat_s
        self._settings = settings

    def forget_leader(self, node_id: int) -> None:
        """The process of that node is certainly over. If it led, nobody has to keep to it: its lease died with it."""
        if node_id == self._leader and self._role != _LEADER:
            self._heard_s = float("-inf")
            self._hasten(self._now_s())

    def receive(self, sender: int, message: wire.Message) -> None:
        """One message from an authenticated node, in front of the library."""
        match message:
            case wire.Append() | wire.Alive() | wire.Chunk():
                self._receive_from_leader(sender, message)
            case wire.Reply() | wire.ChunkReply():
                self._receive_answer(sender, message)
            case wire.PreVote():
                self._receive_pre_vote(sender, message)
            case wire.PreVoteReply():
                self._receive_pre_vote_reply(sender, message)
            case wire.VoteRequest():
                self._receive_vote_request(sender, message)
            case wire.VoteReply():
                self._receive_vote(sender, message)
            case wire.Newer():
                self._adopt_term(sender, message.term)
            case wire.Forward() | wire.ForwardReply():
                self._on_forward(sender, message)

    def timer(self) -> None:
        """Ask for an election when no leader is heard; move snapshot transfers on."""
        now = self._stepped_s = self._now_s()
        for peer in list(self._transfers):
            self._drive_transfer(peer, now)
        if self._incoming is not None and self._incoming.term < self._term:
            self._incoming = None
        if self._role == _LEADER and self._appended_s + self._settings.heartbeat_s <= now < self._speaks_itself_until_s:
            self._appended_s = now
            self._outbox += [(peer, wire.Alive(self._term, now)) for peer in sorted(self.other_members)]
        if self._role == _LEADER or now < self._deadline_s:
            return
        self._arm(now)
        others = self.other_members
        if not self.all_others or self._must_wait_for_the_log():
            return
        self._round += 1
        self._supporters = {self._node_id}
        ask = wire.PreVote(self._round, self._term + 1, self._journal.last_term, self._journal.last_index)
        self._outbox += [(peer, ask) for peer in sorted(others)]
        if self._stand_ins and self._are_enough(self._supporters):
            self._campaign()

    def flush(self) -> None:
        """Make the journal durable, then let everything leave. Raises OSError when the disk fails."""
        self._journal.sync()
        if self._stand_ins:
            self._speak_for_stand_ins(self._journal.last_index)
            self._journal.sync()
        outgoing, self._outbox = _merged(self._outbox), []
        for peer, message in outgoing:
            self._send_frame(peer, wire.encode(message))
        for peer in sorted(self._reopen):
            if peer in self.other_members and peer in self._reachable and self._role == _LEADER:
                self._open(peer)
        self._reopen.clear()
        if self._role == _CANDIDATE and self._campaigning:
            # The vote requests have left; another try needs another pre-vote.
            self._close_all()

    def say(self, peer: int, message: wire.Message) -> None:
        """Queue a message of our own."""
        self._outbox.append((peer, message))

    # Sending.

    def _send_append(self, peer: int, message: Mapping[str, Any]) -> None:
        now = self._now_s()
        self._appended_s = now
        if "serialized" in message:
            # The library would push the whole snapshot now, or spin while there is none. Break its loop by closing the
            # peer until the next flush, and send the snapshot in our own time.
            self._begin_transfer(peer)
            self._close(peer)
            self._reopen.add(peer)
            self._outbox.append((peer, wire.Alive(message["term"], now)))
            return
        if "transmission" in message:
            raise RaftFatal("an entry longer than a batch entered the log")
        entries = tuple((command, index, term) for command, index, term in message["entries"])
        self._outbox.append(
            (
                peer,
                wire.Append(
                    message["term"],
                    message["commit_index"],
                    message["prevLogIdx"],
                    message["prevLogTerm"],
                    entries,
                    now,
                ),
            )
        )

    def _send_reply(self, peer: int, message: Mapping[str, Any]) -> None:
        context = self._reply
        assert context is not None, "the library answered an append that nobody sent"
        next_index, success, reset = message["next_node_idx"], message["success"], message["reset"]
        if success and context.verified is not None:
            next_index = context.verified + 1
        elif reset and context.hint is not None:
            next_index = context.hint
        self._outbox.append((peer, wire.Reply(self._term, next_index, reset, success, context.echo)))

    def _begin_transfer(self, peer: int) -> None:
        if peer in self._transfers:
            return
        found = self._read_snapshot()
        if found is None:
            return
        snapshot, blob = found
        self._transfer_count += 1
        chunks = [blob[start : start + CHUNK_BYTES] for start in range(0, len(blob), CHUNK_BYTES)]
        transfer = _Transfer(self._transfer_count, snapshot.index, snapshot.last[2], chunks, self._now_s())
        self._transfers[peer] = transfer
        self._drive_transfer(peer, self._now_s())

    def _drive_transfer(self, peer: int, now: float) -> None:
        transfer = self._transfers[peer]
        if now - transfer.progress_s > TRANSFER_IDLE_S_MAX:
            del self._transfers[peer]
            self.drops["snapshot transfer abandoned"] += 1
            return
        patience = self._settings.election_timeout_s_max
        if (
            transfer.next_new == len(transfer.chunks)
            and not transfer.in_flight
            and now - transfer.progress_s > patience
        ):
            # All pieces arrived, but no word of the whole: the answer was lost, or the peer has started anew. The
            # library asks for another transfer, whose first piece tells.
            del self._transfers[peer]
            return
        late = [number for number, sent in transfer.in_flight.items() if now - sent > patience]
        while len(transfer.in_flight) < CHUNKS_IN_FLIGHT and transfer.next_new < len(transfer.chunks):
            transfer.in_flight[transfer.next_new] = now
            late.append(transfer.next_new)
            transfer.next_new += 1
        for number in late:
            transfer.in_flight[number] = now
            self._outbox.append(
                (
                    peer,
                    wire.Chunk(
                        self._term,
                        transfer.number,
                        transfer.index,
                        transfer.index_term,
                        number,
                        len(transfer.chunks),
                        transfer.chunks[number],
                        now,
                    ),
                )
            )

    # Receiving from a leader.

    def _receive_from_leader(self, sender: int, message: wire.Append | wire.Alive | wire.Chunk) -> None:
        if message.term < self._term:
            self.drops["message of an older term"] += 1
            self._outbox.append((sender, wire.Newer(self._term)))
            return
        if self._role == _LEADER and message.term == self._term:
            raise RaftFatal(f"node {sender} also leads in term {message.term}")
        entries: list[Entry] = []
        if isinstance(message, wire.Append):
            entries = wire.plain_entries(message)
            for command, index, _ in entries:
                problem = entry_problem(command, command_bytes_max=self._settings.command_bytes_max)
                if problem is not None:
                    self.drops["entry refused"] += 1
                    self.last_refusal = f"node {sender} sent entry {index}, which must not enter the log: {problem}"
                    return
        self._heard_s = self._now_s()
        self._leader, self._leader_term = sender, message.term
        self._close_all()
        self._arm(self._heard_s)
        self._reply = _ReplyContext(message.stamp)
        try:
            match message:
                case wire.Append():
                    self._deliver_append(sender, message, entries)
                case wire.Alive():
                    self._deliver_alive(sender, message.term)
                    self._outbox.append((sender, wire.Reply(self._term, 1, False, False, message.stamp)))
                case wire.Chunk():
                    self._deliver_alive(sender, message.term)
                    self._collect(sender, message)
        finally:
            self._reply = None

    def _deliver_append(self, sender: int, message: wire.Append, entries: list[Entry]) -> None:
        prev, prev_term = message.prev_index, message.prev_term
        if prev is None or prev_term is None:
            self._deliver_alive(sender, message.term)
            self._outbox.append(
                (sender, wire.Reply(self._term, self._journal.last_index + 1, True, False, message.stamp))
            )
            return
        assert self._reply is not None
        verified = prev + len(entries)
        first = self._journal.first_index
        if prev < first:
            # All up to our first entry is committed and part of our snapshot.
            entries = entries[first - prev :] if verified > first else []
            prev, prev_term = first, self._term_held(first)
            if verified > first and message.entries[first - (message.prev_index or 0) - 1][2] != prev_term:
                raise RaftFatal(f"node {sender} disagrees about the committed entry {first}")
        elif self._journal.term_at(prev) != prev_term:
            self._deny(sender, message, prev, prev_term)
            return
        held = 0
        for _, index, term in entries:
            mine = self._journal.term_at(index)
            if mine != term:
                if mine is not None and index <= self._committed:
                    raise RaftFatal(f"node {sender} disagrees about the committed entry {index}")
                break
            held += 1
        if held == len(entries):
            prev, entries = self._journal.last_index, []
        else:
            prev, entries = prev + held, entries[held:]
        self._reply.verified = verified
        commit = min(message.commit, verified)
        self._deliver(sender, _append(message.term, commit, prev, self._term_held(prev), entries))

    def _deny(self, sender: int, message: wire.Append, prev: int, prev_term: int) -> None:
        """The entry before the append is missing or another one: say where to go on, change nothing."""
        assert self._reply is not None
        if self._journal.term_at(prev) is None:
            self._reply.hint = self._journal.last_index + 1
        elif prev <= self._committed:
            raise RaftFatal(f"node {sender} disagrees about the committed entry {prev}")
        else:
            self._reply.hint = max(
                self._journal.first_of_term(prev), self._committed + 1, self._journal.first_index + 1
            )
        self._deliver(sender, _append(message.term, 0, prev, prev_term, []))

    def _deliver_alive(self, sender: int, term: int) -> None:
        """Tell the library of term and leader, and of nothing else: without entries it neither cuts nor commits."""
        self._deliver(
            sender, {"type": "append_entries", "term": term, "commit_index": 0, "entries": [], "serialized": None}
        )

    def _collect(self, sender: int, message: wire.Chunk) -> None:
        if message.index <= self._committed or self._journal.term_at(message.index) == message.index_term:
            # We have all of it: to load it would turn the state back.
            self._outbox.append((sender, wire.Reply(self._term, message.index + 1, True, True, message.stamp)))
            return
        if not message.sequence < message.total <= CHUNKS_MAX:
            self.drops["chunk out of range"] += 1
            return
        incoming = self._incoming
        if incoming is None or (incoming.sender, incoming.transfer, incoming.term) != (
            sender,
            message.transfer,
            message.term,
        ):
            if (
                incoming is not None
                and incoming.sender == sender
                and incoming.term == message.term
                and incoming.transfer > message.transfer
            ):
                self.drops["chunk of an old transfer"] += 1
                return
            incoming = self._incoming = _Incoming(sender, message.transfer, message.term, message.total)
        if incoming.total != message.total:
            self.drops["chunk out of range"] += 1
            return
        if message.sequence not in incoming.pieces:
            incoming.pieces[message.sequence] = message.data
            incoming.size += len(message.data)
        if incoming.size > SNAPSHOT_BYTES_MAX + CHUNK_BYTES:
            self.drops["snapshot too large"] += 1
            self._incoming = None
            return
        self._outbox.append((sender, wire.ChunkReply(self._term, message.transfer, message.sequence, message.stamp)))
        if len(incoming.pieces) == incoming.total:
            self._incoming = None
            self._install(sender, message, b"".join(incoming.pieces[number] for number in range(incoming.total)))

    def _install(self, sender: int, message: wire.Chunk, blob: bytes) -> None:
        try:
            snapshot = self._decode_snapshot(blob, sender)
        except ClusterError as error:
            self.drops[f"snapshot refused: {error.code}"] += 1
            return
        if snapshot.index != message.index or snapshot.last[2] != message.index_term:
            self.drops["snapshot refused: not the announced one"] += 1
            return
        bytes_max = self._settings.command_bytes_max
        if any(entry_problem(entry[0], command_bytes_max=bytes_max) for entry in (snapshot.previous, snapshot.last)):
            self.drops["snapshot refused: an entry that must not enter the log"] += 1
            return
        self._installing = self._journal.clear_allowed = True
        try:
            self._deliver(
                sender,
                {"type": "append_entries", "term": message.term, "commit_index": 0, "serialized": (blob, True, True)},
            )
        finally:
            self._installing = self._journal.clear_allowed = False
        if self._raft.raftLastApplied != snapshot.index:
            raise RaftFatal(f"the snapshot of node {sender} up to entry {snapshot.index} could not be installed")
        self._journal.raise_floor(snapshot.index)

    # Receiving answers, as leader.

    def _receive_answer(self, sender: int, message: wire.Reply | wire.ChunkReply) -> None:
        if message.term > self._term:
            self._adopt_term(sender, message.term)
            return
        if message.term < self._term or self._role != _LEADER or sender not in self.other_members:
            self.drops["reply of another term, or nobody's"] += 1
            return
        if message.echo <= self._now_s():
            self._echoes[sender] = max(self._echoes.get(sender, float("-inf")), message.echo)
        transfer = self._transfers.get(sender)
        if isinstance(message, wire.ChunkReply):
            if transfer is not None and transfer.number == message.transfer:
                if transfer.in_flight.pop(message.sequence, None) is not None:
                    transfer.progress_s = self._now_s()
                self._drive_transfer(sender, self._now_s())
            success, reset, next_index = False, False, 1
        else:
            success, reset = message.success, message.reset
            next_index = max(1, min(message.next_index, self._journal.last_index + 1))
            if success:
                self._matched[sender] = max(self._matched.get(sender, 0), next_index - 1)
            if success and transfer is not None and next_index > transfer.index:
                del self._transfers[sender]
        self._deliver(
            sender, {"type": "next_node_idx", "next_node_idx": next_index, "reset": reset, "success": success}
        )

    # Elections.

    def _receive_pre_vote(self, sender: int, message: wire.PreVote) -> None:
        log_is_fresh = (message.last_term, message.last_index) >= (self._journal.last_term, self._journal.last_index)
        granted = message.term > self._term and log_is_fresh and not self._is_loyal()
        self._outbox.append((sender, wire.PreVoteReply(message.round, self._term, granted)))

    def _receive_pre_vote_reply(self, sender: int, message: wire.PreVoteReply) -> None:
        if message.term > self._term:
            self._adopt_term(sender, message.term)
            return
        if not message.granted:
            return
        others = self.other_members
        if message.round != self._round or self._role == _LEADER or not self._supporters or sender not in others:
            self.drops["pre-vote of another round, or nobody's"] += 1
            return
        self._supporters.add(sender)
        if self._are_enough(self._supporters):
            self._campaign()

    def _campaign(self) -> None:
        self._supporters = set()
        self._campaigning = True
        self.elections_started += 1
        for peer in sorted(self.other_members & self._reachable | self._stand_ins):
            self._open(peer)
        # The library's own timer need not have run out. It takes this word from whom it holds for the leader only.
        for leader in (None, self._leader):
            known = self.peer(leader) if leader is not None else None
            self._onMessageReceived(known, {"type": "timeout_now", "term": self._term})

    def _receive_vote_request(self, sender: int, message: wire.VoteRequest) -> None:
        if message.term < self._term:
            self.drops["message of an older term"] += 1
            self._outbox.append((sender, wire.Newer(self._term)))
        elif self._is_loyal():
            self.drops["vote asked while a leader is heard"] += 1
        else:
            self._deliver(
                sender,
                {
                    "type": "request_vote",
                    "term": message.term,
                    "last_log_term": message.last_term,
                    "last_log_index": message.last_index,
                },
            )

    def _receive_vote(self, sender: int, message: wire.VoteReply) -> None:
        if self._role != _CANDIDATE or message.term != self._term or sender not in self.other_members:
            self.drops["vote of another term, or nobody's"] += 1
            return
        if self._voters[0] != message.term:
            self._voters = (message.term, set())
        if sender in self._voters[1]:
            self.drops["second vote of one voter"] += 1
            return
        self._voters[1].add(sender)
        self._deliver(sender, {"type": "response_vote", "term": message.term})

    def _adopt_term(self, sender: int, term: int) -> None:
        """Step down to a newer term by a vote request that can never be granted."""
        if term > self._term:
            self._deliver(sender, {"type": "request_vote", "term": term, "last_log_term": -1, "last_log_index": -1})
            self._close_all()
        else:
            self.drops["term that is known already"] += 1

    # Stand-ins.

    @property
    def _stand_ins(self) -> set[int]:
        return {other for other in self.all_others if is_stand_in(other)}

    def _electorates(self) -> tuple[frozenset[int], ...]:
        return electorates(self.all_others | {self._node_id}, self._decision)

    def _are_enough(self, voters: set[int]) -> bool:
        return any(2 * len(voters & electorate) > len(electorate) for electorate in self._electorates())

    def _speak_for_stand_ins(self, synced: int) -> None:
        """Vote, and confirm entries, for the members without a machine. What this node has done itself is synced (its
        journal up to that entry), and what others have done was before they said so."""
        if self._role == _CANDIDATE and self._stood_in_term != self._term:
            voters = {self._node_id} | (self._voters[1] if self._voters[0] == self._term else set())
            if self._are_enough(voters):
                self._stood_in_term = self._term
                for stand_in in sorted(self._stand_ins):
                    self._deliver(stand_in, {"type": "response_vote", "term": self._term})
        if self._role != _LEADER:
            return
        now = self._now_s()
        index = self._matched_by_a_majority(synced)
        told, spoken_s = self._answered
        if index <= told and not (now - spoken_s >= self._settings.heartbeat_s / 2 and self.has_support()):
            return
        self._answered = max(index, told), now
        for stand_in in sorted(self._stand_ins):
            message = {"type": "next_node_idx", "next_node_idx": index + 1, "reset": False, "success": True}
            self._deliver(stand_in, message)

    def _matched_by_a_majority(self, synced: int) -> int:
        best = 0
        for electorate in self._electorates():
            held = [synced if node == self._node_id else self._matched.get(node, 0) for node in electorate]
            best = max(best, sorted(held, reverse=True)[len(electorate) // 2])
        return best

    @property
    def owes_a_step(self) -> bool:
        """Whether the library can commit what it could not when it was asked last."""
        return self._role == _LEADER and min(self._answered[0], self._journal.last_index) > self._committed

    def _is_loyal(self) -> bool:
        """Whether this node keeps to a leader that lives: then it neither votes nor encourages anyone."""
        if self._role == _LEADER:
            return self.has_support()
        return self._now_s() - self._heard_s < self._settings.election_timeout_s and not self._is_alone()

    def _is_alone(self) -> bool:
        return not self.other_members

    def _must_wait_for_the_log(self) -> bool:
        """A node that was added to a running cluster knows its members by hearsay until the log has named itself."""
        if self._joining and any(change.adding and change.node_id == self._node_id for change in self._journal.changes):
            self._joining = False
        return self._joining

    def log_replaced(self, members: frozenset[int]) -> None:
        """A snapshot with these members is in force."""
        if self._node_id in members:
            self._joining = False

    # Small helpers.

    @property
    def _term(self) -> int:
        return int(self._raft.raftCurrentTerm)

    @property
    def _committed(self) -> int:
        return int(max(self._raft.raftCommitIndex, self._raft.raftLastApplied))

    def _term_held(self, index: int) -> int:
        term = self._journal.term_at(index)
        assert term is not None, f"entry {index} is not in the journal"
        return term

    def _deliver(self, sender: int, message: dict[str, Any]) -> None:
        self._journal.raise_floor(self._committed)
        self._onMessageReceived(self.peer(sender), message)

    def _arm(self, now: float) -> None:
        least = self._settings.election_timeout_s
        self._deadline_s = now + self._rng.uniform(least, 2 * least)

    def _hasten(self, from_s: float) -> None:
        """Ask for an election soon after that moment, each node at its turn: all know of it at nearly the same time,
        and two that ask together may get in each other's way."""
        turn = sum(1 for other in self.other_members - {self._leader} if other < self._node_id)
        pause = min(HASTE_FIRST + turn * HASTE_STEP, 1.0)
        self._deadline_s = min(self._deadline_s, max(from_s, self._now_s()) + pause * self._settings.election_timeout_s)

    def _open(self, peer: int) -> None:
        if is_stand_in(peer) and not self._campaigning:
            # A leader has nothing to send to it.
            return
        if peer not in self._opened:
            self._opened.add(peer)
            self._onNodeConnected(self.peer(peer))

    def _close(self, peer: int) -> None:
        if peer in self._opened:
            self._opened.discard(peer)
            self._onNodeDisconnected(self.peer(peer))

    def _close_all(self) -> None:
        self._campaigning = False
        self._supporters = set()
        for peer in sorted(self._opened):
            self._close(peer)


def _append(term: int, commit: int, prev: int, prev_term: int, entries: list[Entry]) -> dict[str, Any]:
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": commit,
        "prevLogIdx": prev,
        "prevLogTerm": prev_term,
        "entries": entries,
    }


def _merged(outbox: list[tuple[int, wire.Message]]) -> list[tuple[int, wire.Message]]:
    """Join appends to one peer that follow each other: the library sends one for each command."""
    merged: list[tuple[int, wire.Message | _Joint]] = []
    open_joint: dict[int, _Joint] = {}
    for peer, message in outbox:
        joint = open_joint.get(peer)
        if not isinstance(message, wire.Append):
            open_joint.pop(peer, None)
            merged.append((peer, message))
        elif joint is None or not joint.take(message):
            open_joint[peer] = joint = _Joint(message)
            merged.append((peer, joint))
    return [(peer, message.append() if isinstance(message, _Joint) else message) for peer, message in merged]


class _Joint:
    """Several appends becoming one."""

    def __init__(self, first: wire.Append) -> None:
        self._first = self._newest = first
        self._entries = list(first.entries)
        self._size = sum(len(command) + 16 for command, _, _ in first.entries)

    def take(self, later: wire.Append) -> bool:
        """Join what follows directly, within bounds."""
        if later.term != self._first.term or self._first.prev_index is None or later.prev_index is None:
            return False
        last_term = self._entries[-1][2] if self._entries else self._first.prev_term
        if (self._first.prev_index + len(self._entries), last_term) != (later.prev_index, later.prev_term):
            return False
        size = self._size + sum(len(command) + 16 for command, _, _ in later.entries)
        if later.entries and (size > MERGED_BYTES_MAX or len(self._entries) + len(later.entries) > wire.ENTRIES_MAX):
            return False
        self._entries += later.entries
        self._size, self._newest = size, later
        return True

    def append(self) -> wire.Append:
        """The one message."""
        first, newest = self._first, self._newest
        return wire.Append(
            first.term, newest.commit, first.prev_index, first.prev_term, tuple(self._entries), newest.stamp
        )

"""Heartbeats, silences and leases (rules R2 and R3): the arithmetic on which safety rests.

The heartbeats themselves are sent, received and given their times by the compiled extension (``clussvc/native``), which
keeps on time while the interpreter is busy; here is what they mean.

**Lease.** Every heartbeat says, for each peer, the last sequence number heard from it. So a node knows which of its
own heartbeats a peer has heard, and its lease from that peer runs for ``lease_ms`` from the moment it *sent* that
heartbeat, on its own clock. Nothing that happened on the way can make the lease longer than the peer believes.

**Silence.** A peer's heartbeat also says for how long each other node has been silent *there*. The receiver turns this
into an interval on its own clock during which the peer certainly heard nothing: it begins at the latest at the arrival
minus the reported silence, and it lasts at least until the receiver sent the newest of its own heartbeats that this
report acknowledges, since the report was written after that one had arrived. Reports made at different times can
so be compared: a node may be declared down when a majority of the voters has been silent *at the same time* for lease
plus release budget. (Two silences of that length that do not overlap prove nothing: the node may have held its
majority through the one and then through the other.)

Why this is safe: let M be such a majority and [s, e] the common silence. Every lease that a member of M gave the node
ends before s + lease, because the heartbeat it acknowledges was sent before s. The node's own majority meets M in a
voter, so by s + lease it knows that it does not hold quorum, and by s + lease + budget <= e everything is terminated. A
lost lease ends the incarnation, so nothing that arrives later revives it. Only the rates of the clocks enter.

What the receiver's clock cannot see: a node that was restarted may have given leases in its earlier life, and a node
that was forgotten and is met again may still hold one. So a silence never begins before this life of the reporter, nor
before the reporter began to keep account of that node.

Where the quorum is a disk, only its owner gives leases, with heartbeats that say so; and it alone judges silences. See
:mod:`clussvc.membership.jury`. Both accounts are kept at all times, so that none begins empty when the quorum changes;
which of them counts is said by :mod:`clussvc.membership.mandate`.

Nor does it begin before the judging node has read in the log that the present incarnation was admitted. An older one
says nothing of the leases that the new incarnation was given after it: a node that was silent, came back and was
admitted could be declared down for its former absence, while it acts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from clussvc.model.ids import NodeId
from clussvc.model.settings import Timing
from clussvc.model.states import NodePhase


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """What a node heard of another one."""

    node: NodeId
    boot: int
    seq: int
    """The newest sequence number heard of that boot; 0: none."""
    silent_ms: int
    """Since then, or since the reporting node began to keep account of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One datagram to all peers, authenticated by the extension."""

    sender: NodeId
    boot: int
    seq: int
    incarnation: int
    phase: NodePhase
    attempt: int
    """Which request for admission of this boot is open; 0: the node does not ask."""
    index: int
    """The log index that the sender has applied."""
    voters_version: int
    heard: tuple[Hearing, ...]
    grants: bool = False
    """The sender owned the quorum disk when it said so; where the quorum is a disk, nobody else gives leases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A heartbeat of a peer and what belongs to its arrival, in milliseconds of this node's boot-time clock."""

    heartbeat: Heartbeat
    received_ms: int
    acknowledged_ms: int | None
    """When the newest heartbeat of this node that the peer had heard was sent; None if none is known."""


@dataclass(slots=True)
class _Peer:
    """What this node knows of one other node. ``quiet_from_ms`` is when its present silence began."""

    quiet_from_ms: int
    ever_heard: bool = False
    boot: int = 0
    boot_from_ms: int = 0
    """When the first heartbeat of this boot arrived."""
    seq: int = 0
    lease_until_ms: int = -1
    granted_until_ms: int = -1
    """Until when the lease runs that it granted as owner of a quorum disk."""
    last: Heartbeat | None = None
    silences: dict[NodeId, tuple[int, int]] | None = None
    """For each third node: from when to when this peer certainly heard nothing of it, on our clock."""


class HeartbeatTable:
    """All that one node knows from heartbeats. Times are this node's boot-time clock in milliseconds."""

    def __init__(self, *, node: NodeId, timing: Timing) -> None:
        self._node = node
        self._last_grant_ms = -1
        self._timing = timing
        self._peers: dict[NodeId, _Peer] = {}
        self._admitted: dict[NodeId, tuple[int, int]] = {}
        """The incarnation of each node, and when this node read of it in the log."""
        self._leases = 0
        """Raised whenever a lease was extended or a peer forgotten; what was counted before does not hold any more."""
        self._counted_at = -1
        self._majority_until_ms: dict[frozenset[NodeId], int] = {}
        """For each set that was asked for since; there are two at most, as long as the voters stay the same."""

    def set_timing(self, timing: Timing) -> None:
        """Use other timings from now on; leases already counted keep their end."""
        self._timing = timing

    def set_peers(self, peers: Collection[NodeId], now_ms: int) -> None:
        """Keep account of exactly these from now on; nothing is believed of the time before."""
        for node in [node for node in self._peers if node not in peers]:
            del self._peers[node]
            self._leases += 1
        for node in [node for node in self._admitted if node not in peers]:
            del self._admitted[node]
        for node in peers:
            if node not in self._peers:
                self._peers[node] = _Peer(quiet_from_ms=now_ms)

    def know_incarnation(self, node: NodeId, incarnation: int, now_ms: int) -> None:
        """The log says so now; silences from before count no more for a new incarnation."""
        if self._admitted.get(node, (-1, 0))[0] != incarnation:
            self._admitted[node] = incarnation, now_ms

    # --- hearing ----------------------------------------------------------------------------------------------------

    def hear(self, heard: Heard) -> bool:
        """Take in a heartbeat; False when it is a stranger's, or older than one already heard, and was ignored."""
        heartbeat = heard.heartbeat
        peer = self._peers.get(heartbeat.sender)
        if peer is None or (heartbeat.boot, heartbeat.seq) <= (peer.boot, peer.seq):
            return False
        if heartbeat.phase is NodePhase.STOPPED:
            # The last will of a boot is no sign of life: it ends no silence, and it gives no lease.
            peer.boot, peer.seq, peer.last = heartbeat.boot, heartbeat.seq, heartbeat
            return True
        if heartbeat.boot != peer.boot:
            peer.boot_from_ms = heard.received_ms
        peer.boot, peer.seq = heartbeat.boot, heartbeat.seq
        peer.ever_heard = True
        peer.quiet_from_ms = max(peer.quiet_from_ms, heard.received_ms)
        peer.last = heartbeat
        self._take_lease(peer, heard)
        self._take_silences(peer, heard)
        return True

    def _take_lease(self, peer: _Peer, heard: Heard) -> None:
        """Extends the lease from that peer, and what it grants."""
        if heard.heartbeat.grants:
            self._last_grant_ms = max(self._last_grant_ms, heard.received_ms)
        if heard.acknowledged_ms is None:
            return
        until_ms = heard.acknowledged_ms + self._timing.lease_ms
        peer.lease_until_ms = max(peer.lease_until_ms, until_ms)
        self._leases += 1
        if heard.heartbeat.grants:
            peer.granted_until_ms = max(peer.granted_until_ms, until_ms)

    def _take_silences(self, peer: _Peer, heard: Heard) -> None:
        if heard.acknowledged_ms is None:
            # Without an acknowledgement nobody can say when the report was written; it may be arbitrarily old.
            peer.silences = None
            return
        peer.silences = {
            hearing.node: (heard.received_ms - hearing.silent_ms, heard.acknowledged_ms)
            for hearing in heard.heartbeat.heard
        }

    # --- answers ----------------------------------------------------------------------------------------------------

    def last(self, node: NodeId) -> Heartbeat | None:
        """The newest heartbeat of a peer."""
        peer = self._peers.get(node)
        return peer.last if peer else None

    def silent_ms(self, node: NodeId, now_ms: int) -> int | None:
        """For how long a peer has been silent here; None if it was never heard in this life."""
        peer = self._peers.get(node)
        return now_ms - peer.quiet_from_ms if peer and peer.ever_heard else None

    def quiet_from_ms(self, node: NodeId) -> int | None:
        """When the present silence of a peer began here; None if it was never heard in this life."""
        peer = self._peers.get(node)
        return peer.quiet_from_ms if peer and peer.ever_heard else None

    def boot_heard_ms(self, node: NodeId, now_ms: int) -> int | None:
        """For how long the present boot of a peer has been heard here; None if it was never heard in this life."""
        peer = self._peers.get(node)
        return now_ms - peer.boot_from_ms if peer and peer.ever_heard else None

    def lease_until_ms(self, node: NodeId) -> int:
        """When the lease from a peer ends (or ended); -1 if there never was one."""
        peer = self._peers.get(node)
        return peer.lease_until_ms if peer else -1

    def quorum_until_ms(self, voters: frozenset[NodeId], now_ms: int) -> int:
        """Until when this node holds quorum if it hears nothing more; not after ``now_ms``: it does not hold it.

        A node alone in its majority (one voter, itself) holds it for one lease at a time, so that its deadman works.
        """
        if not voters:
            return -1
        votes = len(voters) // 2 + 1
        if self._node in voters:
            votes -= 1
        if votes == 0:
            return now_ms + self._timing.lease_ms
        if self._counted_at != self._leases:
            self._counted_at = self._leases
            self._majority_until_ms.clear()
        until_ms = self._majority_until_ms.get(voters)
        if until_ms is None:
            ends = sorted((self.lease_until_ms(voter) for voter in voters if voter != self._node), reverse=True)
            until_ms = self._majority_until_ms[voters] = ends[votes - 1] if len(ends) >= votes else -1
        return until_ms

    def granted_by_ms(self, node: NodeId) -> int:
        """When the lease ends (or ended) that a peer granted as owner of a quorum disk; -1 if there never was one."""
        peer = self._peers.get(node)
        return peer.granted_until_ms if peer else -1

    def granted_until_ms(self) -> int:
        """Until when any lease runs that the owner of a quorum disk granted; -1 if there is none."""
        return max((peer.granted_until_ms for peer in self._peers.values()), default=-1)

    @property
    def last_grant_ms(self) -> int:
        """When an owner of the quorum disk was heard last; -1: never."""
        return self._last_grant_ms

    def forget_grants(self) -> None:
        """No lease that was granted counts any more."""
        for peer in self._peers.values():
            peer.granted_until_ms = -1

    def votes_held(self, voters: frozenset[NodeId], now_ms: int) -> int:
        """How many voters' leases run now, this node's own vote included."""
        return sum(1 for voter in voters if voter == self._node or self.lease_until_ms(voter) > now_ms)

    def common_silence_ms(
        self,
        node: NodeId,
        voters: frozenset[NodeId],
        now_ms: int,
        *,
        newborn_grace_ms: int,
        blocking: bool = False,
    ) -> int:
        """For how long some majority of the voters has heard nothing of ``node`` at the same time; 0 if none has.
        ``blocking``: so many of them that the rest is no majority, which is enough to end its leases.

        Only silence since its present incarnation was read of counts.
        ``newborn_grace_ms`` is added for a node that was never heard here in this life: right after a start of the
        whole cluster the others deserve the time to appear.
        """
        needed = len(voters) // 2 + 1
        needed = len(voters) - needed + 1 if blocking else needed
        since_ms = self._admitted.get(node, (0, 0))[1]
        intervals = [
            (max(start, since_ms), end)
            for start, end in self._silence_intervals(node, voters, now_ms, newborn_grace_ms)
            if end > since_ms
        ]
        best = 0
        for start, _ in intervals:
            ends = sorted((end for begin, end in intervals if begin <= start), reverse=True)
            if len(ends) >= needed:
                best = max(best, ends[needed - 1] - start)
        return best

    def _silence_intervals(
        self, node: NodeId, voters: frozenset[NodeId], now_ms: int, newborn_grace_ms: int
    ) -> Iterable[tuple[int, int]]:
        for voter in voters:
            if voter == node:
                continue
            if voter == self._node:
                peer = self._peers.get(node)
                if peer is not None:
                    yield peer.quiet_from_ms + (0 if peer.ever_heard else newborn_grace_ms), now_ms
                continue
            reporter = self._peers.get(voter)
            if reporter and reporter.silences and node in reporter.silences:
                start, end = reporter.silences[node]
                if end > start:
                    yield start, end

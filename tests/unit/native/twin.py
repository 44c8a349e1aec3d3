"""The heartbeats of the extension once more, in Python: slow, plain, and the measure of the C code."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clussvc.native import siphash128

if TYPE_CHECKING:
    from clussvc.native import HeartbeatTuple

HEADER = struct.Struct("<4sBBHQQQ")
CONTENT = struct.Struct("<BBIQIB")
HEARING = struct.Struct("<HIIIB")
TAG_BYTES = 16
NODES_MAX = 64
DATAGRAM_BYTES_MAX = HEADER.size + CONTENT.size + NODES_MAX * HEARING.size + TAG_BYTES
SENT_MAX = 256
STOPPED = 5


def signed(key: bytes, data: bytes) -> bytes:
    """With its tag."""
    return data + siphash128(key, data)


@dataclass
class Peer:
    """What is known of one other node."""

    known: bool = True
    ever_heard: bool = False
    boot: int = 0
    seq: int = 0
    quiet_from_ms: int = 0
    networks: int = 0


@dataclass
class Twin:
    """The same as Heartbeats without its thread, without what is news."""

    node: int
    boot: int
    key: bytes
    peers: dict[int, Peer] = field(default_factory=dict)
    seq: int = 0
    sent: dict[int, int] = field(default_factory=dict)
    vouched: tuple[int, int, int, int, int, int, int] | None = None
    """until_ms, grants_until_ms, phase, attempt, incarnation, index, voters_version"""
    probe: bool = False
    taken: list[HeartbeatTuple] = field(default_factory=list)

    def set_peers(self, nodes: tuple[int, ...], now_ms: int) -> None:
        """See Heartbeats."""
        for node, peer in self.peers.items():
            peer.known = peer.known and node in nodes
        for node in nodes:
            peer = self.peers.setdefault(node, Peer(known=False))
            if not peer.known:
                peer.known, peer.ever_heard, peer.quiet_from_ms, peer.networks = True, False, now_ms, 0

    def compose(self, now_ms: int) -> bytes:
        """See Heartbeats."""
        if self.vouched is None or now_ms >= self.vouched[0]:
            return b""
        _, grants_until_ms, phase, attempt, incarnation, index, voters_version = self.vouched
        flags = int(self.probe) | (2 if now_ms < grants_until_ms else 0)
        self.seq += 1
        self.sent[self.seq] = now_ms
        self.sent.pop(self.seq - SENT_MAX, None)
        known = {node: peer for node, peer in self.peers.items() if peer.known}
        data = HEADER.pack(b"CLHB", 2, 0, self.node, self.boot, incarnation, self.seq)
        data += CONTENT.pack(phase, flags, attempt, index, voters_version, len(known))
        for node, peer in known.items():
            boot, seq = (peer.boot, peer.seq) if peer.ever_heard else (0, 0)
            silent_ms = min(max(now_ms - peer.quiet_from_ms, 0), 2**32 - 1)
            data += HEARING.pack(node, boot & 0xFFFFFFFF, seq & 0xFFFFFFFF, silent_ms, peer.networks)
        self.probe = False
        return signed(self.key, data)

    def compose_will(self, incarnation: int) -> bytes:
        """See Heartbeats."""
        data = HEADER.pack(b"CLHB", 2, 0, self.node, self.boot, incarnation, 2**64 - 1)
        return signed(self.key, data + CONTENT.pack(STOPPED, 0, 0, 0, 0, 0))

    def receive(self, data: bytes, now_ms: int, network: int, multicast: bool) -> tuple[str, bool]:
        """The outcome, and whether an answer is wanted."""
        if len(data) > DATAGRAM_BYTES_MAX:
            return "dropped.too_long", False
        if len(data) < HEADER.size + CONTENT.size + TAG_BYTES:
            return "dropped.too_short", False
        magic, version, key_number, sender, boot, incarnation, seq = HEADER.unpack_from(data)
        if magic != b"CLHB" or version != 2:
            return "dropped.foreign", False
        if key_number:
            return "dropped.wrong_key_number", False
        body = data[:-TAG_BYTES]
        if signed(self.key, body) != data:
            return "dropped.forged", False
        phase, flags, attempt, index, voters_version, count = CONTENT.unpack_from(body, HEADER.size)
        rest = body[HEADER.size + CONTENT.size :]
        if phase > 5 or count > NODES_MAX or len(rest) != count * HEARING.size:
            return "dropped.malformed", False
        peer = self.peers.get(sender)
        if peer is None or not peer.known:
            return "dropped.stranger", False
        came_by = 1 << network if multicast else 0
        if (boot, seq) == (peer.boot, peer.seq):
            peer.networks |= came_by
            return "duplicate", False
        if (boot, seq) < (peer.boot, peer.seq):
            return "dropped.replayed", False
        hearings = list(HEARING.iter_unpack(rest))
        acknowledged_ms = -1
        for node, heard_boot, heard_seq, _, _ in hearings:
            if (node, heard_boot) == (self.node, self.boot & 0xFFFFFFFF) and heard_seq:
                acknowledged_ms = self.sent.get(heard_seq, -1)
                break
        peer.boot, peer.seq = boot, seq
        if phase != STOPPED:
            peer.ever_heard, peer.networks = True, came_by
            peer.quiet_from_ms = max(peer.quiet_from_ms, now_ms)
        heard = tuple(
            (node, heard_boot, heard_seq, silent_ms) for node, heard_boot, heard_seq, silent_ms, _ in hearings
        )
        self.taken.append(
            (
                now_ms,
                acknowledged_ms,
                sender,
                boot,
                seq,
                incarnation,
                phase,
                attempt,
                index,
                voters_version,
                bool(flags & 2),
                heard,
            )
        )
        return "received", bool(flags & 1)

    def take(self) -> list[HeartbeatTuple]:
        """See Heartbeats."""
        taken, self.taken = self.taken, []
        return taken

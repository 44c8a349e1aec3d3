"""One end of the exchange of heartbeats: the extension that composes and reads them, and the table that understands
them."""

from __future__ import annotations

from collections.abc import Collection

from clussvc.comms.heartbeats import PHASES, as_heard
from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.model.ids import NodeId
from clussvc.model.settings import LAN
from clussvc.model.states import NodePhase
from clussvc.native import Heartbeats

KEY = b"k" * 16


class Station(HeartbeatTable):
    """A table with its beacon."""

    def __init__(self, node: NodeId, peers: Collection[NodeId], *, boot: int = 1, now_ms: int = 0) -> None:
        super().__init__(node=node, timing=LAN)
        self.native = Heartbeats(node, boot, KEY)
        self.account(peers, now_ms)

    def account(self, peers: Collection[NodeId], now_ms: int) -> None:
        """Keep account of these from now on."""
        others = tuple(sorted(peer for peer in peers if peer != self._node))
        self.native.set_peers(others, now_ms)
        self.set_peers(others, now_ms)

    def say(
        self,
        now_ms: int,
        *,
        phase: NodePhase = NodePhase.MEMBER,
        attempt: int = 0,
        voters_version: int = 1,
        grants: bool = False,
    ) -> bytes:
        """The next heartbeat, sent now."""
        self.native.vouch(
            until_ms=now_ms + 1,
            grants_until_ms=now_ms + 1 if grants else 0,
            interval_ms=100,
            phase=PHASES.index(phase),
            attempt=attempt,
            incarnation=1,
            index=1,
            voters_version=voters_version,
            at_once=False,
            probe=False,
        )
        return self.native.compose(now_ms)

    def listen(self, data: bytes, received_ms: int) -> bool:
        """A heartbeat arrives; whether it was news to the table."""
        self.native.receive(data, received_ms)
        fresh = [self.hear(as_heard(entry)) for entry in self.native.take()]
        return any(fresh)

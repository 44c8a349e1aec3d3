"""What a node knows of the quorum disk besides its log: whether it owns it, and whether it should want to.

Pure. The log itself (:mod:`clussvc.quorum.disk_log`) finds out who may own the disk; here is what that means for the
node: as long as its hold runs it acts, grants leases with its heartbeats and judges silences; others act by its grants.
"""

from __future__ import annotations

from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.membership.jury import Jury
from clussvc.model.ids import NodeId
from clussvc.quorum.disk_messages import GiveWay, Held, Lost


class DiskHold:
    """The part of one node; times are its own clock."""

    def __init__(self, node: NodeId, suspect_ms: int, now_ms: int, *, first: bool = False) -> None:
        """``first``: the disk has no owner yet, and this node need not wait for one."""
        self._node = node
        self.suspect_ms = suspect_ms
        """After so long without a grant the node looks after the disk."""
        self._held: Held | None = None
        self._gives_way_to: NodeId | None = None
        self._quiet_from_ms = now_ms - suspect_ms if first else now_ms
        """When the node began to listen, or was owner last."""
        self.lost_because = ""

    # --- what happens -----------------------------------------------------------------------------------------------

    def take(self, event: Held | Lost | GiveWay, table: HeartbeatTable, now_ms: int) -> None:
        """What the log says of the disk."""
        match event:
            case Held():
                if self._held is None or self._held.epoch != event.epoch:
                    # An owner acts by its hold alone: who follows it in office counts on that.
                    table.forget_grants()
                    self._gives_way_to = None
                self._held, self.lost_because = event, ""
            case Lost():
                self._gone(now_ms)
                self.lost_because = event.because
            case GiveWay():
                if self._held is not None:
                    self._gives_way_to = event.to

    def given_back(self, now_ms: int) -> None:
        """This node has asked its log to let the disk go."""
        self._gone(now_ms)

    def _gone(self, now_ms: int) -> None:
        self._held = self._gives_way_to = None
        self._quiet_from_ms = now_ms

    # --- what follows -----------------------------------------------------------------------------------------------

    @property
    def owns(self) -> bool:
        """Whether this node owns the disk, even if it is about to give it back."""
        return self._held is not None

    @property
    def held_until_ms(self) -> int:
        """Until when this node acts by its own hold; -1: it has none."""
        return self._held.until_ms if self._held is not None else -1

    @property
    def gives_way_to(self) -> NodeId | None:
        """Who is to have the disk, as soon as nothing runs here any more."""
        return self._gives_way_to

    @property
    def grants_until_ms(self) -> int:
        """Until when heartbeats of this node grant leases; 0: they do not."""
        return self._held.until_ms if self._held is not None and self._gives_way_to is None else 0

    def until_ms(self, table: HeartbeatTable) -> int:
        """Until when this node may act if it hears nothing more; -1: it may not."""
        if self._gives_way_to is not None:
            return -1
        return self._held.until_ms if self._held is not None else table.granted_until_ms()

    def jury(self, left_over_ms: int | None = None) -> Jury:
        """Who judges a silence: the owner alone. ``left_over_ms``: see Jury."""
        if self._held is None:
            return Jury(voters=frozenset(), over_ms=0)
        return Jury(
            voters=frozenset({self._node}),
            former=self._held.before,
            over_ms=self._held.before_over_ms,
            left_over_ms=left_over_ms,
        )

    def suspects_at_ms(self, table: HeartbeatTable) -> int:
        """When this node begins to want the disk, if it hears no grant until then."""
        return max(self._quiet_from_ms, table.last_grant_ms) + self.suspect_ms

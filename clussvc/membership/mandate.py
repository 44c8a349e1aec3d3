"""By what a node may act, and how that changes with the quorum (docs/decisions/0020).

Pure. A *majority* lets a node act by the leases of the voters; a *quorum disk* by the grants of its owner, or by the
node's own hold on the disk. When the quorum changes, the node has what it needs of the new one only a moment later, and
nobody must lose its groups for that. So a node that acts when it reads of the change goes on:

* **from a majority to a disk**: by the majority's leases as well, until it has had a first grant of the disk's owner,
  or owns the disk. From then on it acts by the disk alone and never goes back; it says so (``says_so_ms``) when what
  its monitors were told by a majority's lease has run out. Until the log says that it is *settled* the owner declares
  it down only if the former voters agree (:mod:`clussvc.membership.regroup`);
* **away from a disk**: by what it had at that moment, which nobody extends (the *bridge*). For a node that is granted
  leases that is its last one. For the owner it is a lease after its hold: as much as it could have granted itself.

Who does not act at that moment has nothing to keep, and begins with the new quorum alone.
"""

from __future__ import annotations

from clussvc.membership.disk_hold import DiskHold
from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.membership.jury import Jury
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum
from clussvc.model.settings import Timing


class Mandate:
    """Of one node; times are its own clock."""

    def __init__(self, node: NodeId, quorum: Quorum, *, suspect_ms: int, drift_ppm: int, now_ms: int) -> None:
        """Of a node that begins its life: it may have missed the last change by a moment."""
        self._node = node
        self._by_majority = False
        """A majority's leases count beside the disk, since this node had no grant yet."""
        self._bridge_until_ms = -1
        self.says_so_ms = -1
        """From when on the node may say that it acts by the disk alone."""
        self._begin(quorum, suspect_ms, drift_ppm, now_ms, first=False)

    def _begin(self, quorum: Quorum, suspect_ms: int, drift_ppm: int, now_ms: int, *, first: bool) -> None:
        self.hold = DiskHold(self._node, suspect_ms, now_ms, first=first) if quorum.on_disk else None
        hold_ms = quorum.former_hold_ms
        self._left_over_ms = now_ms + hold_ms + 1 + hold_ms * drift_ppm // 1_000_000 if hold_ms else None

    # --- what happens -----------------------------------------------------------------------------------------------

    def change(
        self,
        quorum: Quorum,
        table: HeartbeatTable,
        *,
        acts: bool,
        former: Timing,
        suspect_ms: int,
        now_ms: int,
        first: bool,
    ) -> None:
        """The quorum has another log from now on. ``acts``: this node runs resources, or may; ``former``: the timing by
        which it acted; ``first``: it need not wait for others before it wants the new disk."""
        bridge_ms = -1
        if acts and self.hold is not None:
            held_ms = min(self.hold.held_until_ms, now_ms + quorum.former_hold_ms)
            granted_ms = table.granted_until_ms()
            bridge_ms = max(self._bridge_until_ms, held_ms + former.lease_ms if self.hold.owns else granted_ms)
        self._by_majority = acts and self.hold is None and quorum.on_disk
        self._bridge_until_ms = bridge_ms
        self.says_so_ms = -1
        self._begin(quorum, suspect_ms, former.drift_ppm, now_ms, first=first)

    def settles(self, table: HeartbeatTable, timing: Timing, now_ms: int, *, acts: bool) -> bool:
        """Whether the node acts by the disk alone from this moment on."""
        if not self._by_majority:
            return False
        assert self.hold is not None
        if acts and not self.hold.owns and table.granted_until_ms() <= now_ms:
            return False
        self._by_majority = False
        # What monitors were told by a majority's lease is over a lease from now, and their work a budget later.
        self.says_so_ms = now_ms + timing.silence_ms()
        return True

    # --- what follows -----------------------------------------------------------------------------------------------

    @property
    def by_majority(self) -> bool:
        """Whether a majority's leases count beside the quorum disk."""
        return self._by_majority

    @property
    def bridge_until_ms(self) -> int:
        """Until when the node acts by what it had of the quorum before; -1: it had nothing."""
        return self._bridge_until_ms

    def settled(self, now_ms: int) -> bool:
        """Whether the node may say that it acts by the present quorum alone."""
        return not self._by_majority and now_ms >= self.says_so_ms

    def until_ms(self, table: HeartbeatTable, voters: frozenset[NodeId], now_ms: int) -> int:
        """Until when the node may act if it hears nothing more; not after ``now_ms``: it may not."""
        if self.hold is None:
            return max(table.quorum_until_ms(voters, now_ms), self._bridge_until_ms)
        if self.hold.gives_way_to is not None:
            return -1
        until_ms = max(self.hold.until_ms(table), self._bridge_until_ms)
        return max(until_ms, table.quorum_until_ms(voters, now_ms)) if self._by_majority else until_ms

    def jury(self, voters: frozenset[NodeId]) -> Jury:
        """Who judges silences."""
        if self.hold is None:
            return Jury(voters=voters, left_over_ms=self._left_over_ms)
        return self.hold.jury(self._left_over_ms)

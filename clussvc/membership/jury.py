"""Whose silence counts against a node (rule R3), and from when on.

Where a majority decides, the jury are the voters: see :mod:`clussvc.membership.heartbeat`. Where the quorum is a disk,
its owner decides alone, since nobody but an owner grants leases. Why that is safe: a lease that node n holds was
granted by the present owner, or by one before it. The present one's ends a lease after n fell silent here, since what n
sent last was heard before. One of an earlier owner's ends a lease after that owner's hold was over (`over_ms`; those
before it were over earlier still). The former owner itself acted by its hold, and dropped the leases that it had been
granted before that. So by the later of both, with the release budget added, n has let go.

A quorum disk that was left for another quorum gave its last lease at the latest a hold after the judging node has read
of the change (`left_over_ms`): whoever owned it then stopped granting when it read of it, or could not renew its hold
any more, since the log on that disk is at its end (docs/decisions/0020).
"""

from __future__ import annotations

from dataclasses import dataclass

from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.model.ids import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Jury:
    """Who judges now."""

    voters: frozenset[NodeId]
    """A majority of these must have heard nothing; nobody is judged by an empty set."""
    or_of: frozenset[NodeId] = frozenset()
    """Or a majority of these: the voters without the one whose vote the witness has dropped."""
    former: NodeId | None = None
    """Who owned the quorum disk before."""
    over_ms: int | None = None
    """From when on the former owner held it no more, on this node's clock; None: the quorum is no disk."""
    left_over_ms: int | None = None
    """From when on nobody held the disk any more that was left for the present quorum; None: none was left."""

    def silence_ms(self, table: HeartbeatTable, node: NodeId, now_ms: int, *, newborn_grace_ms: int) -> int:
        """For how long the jury has heard nothing of a node; see HeartbeatTable.common_silence_ms."""
        silence_ms = table.common_silence_ms(node, self.voters, now_ms, newborn_grace_ms=newborn_grace_ms)
        if self.or_of:
            other_ms = table.common_silence_ms(node, self.or_of, now_ms, newborn_grace_ms=newborn_grace_ms)
            silence_ms = max(silence_ms, other_ms)
        return silence_ms

    def not_before_ms(self, node: NodeId, *, silence_ms: int, lease_ms: int) -> int:
        """When a node that is silent can have let go at the earliest. ``silence_ms``: lease and release budget."""
        let_go_ms = 0 if self.left_over_ms is None else self.left_over_ms + silence_ms
        if self.over_ms is None:
            return let_go_ms
        return max(let_go_ms, self.over_ms + (silence_ms - lease_ms if node == self.former else silence_ms))

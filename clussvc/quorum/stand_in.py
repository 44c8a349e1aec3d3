"""Stand-ins: votes of the log without a machine, and what a witness has decided (docs/decisions/0023).

An even number of voters has no majority when half of them is lost. A *tie-breaker* then takes the vote of one of them,
so that an odd number remains: a witness outside the cluster may do so once for each version of the voters (its
*decision*), or the log itself may have done so beforehand (dynamic votes).

The library that keeps the log counts its members, and knows nothing of that. So the log has one more member while a
tie-breaker is in force, a *stand-in*, for which the guard of whoever leads or campaigns answers: yes, as soon as a
majority of an *electorate* has said yes. The number of a stand-in says what it stands for, and the log therefore says
from which entry on, and until which, a tie-breaker is in force:

* the stand-in of the witness, for one version of the voters. With an even number of other members, and once the witness
  has dropped the vote of d, the electorates are all members and all but d; before that, all members;
* the stand-in of a dropped vote: with an even number of other members the only electorate is all but that one.

With an odd number of other members a stand-in changes nothing: the electorate is all of them.

Any two majorities of such electorates share a node, also of those before and after one step of ``may_change``. That is
all that safety needs; see the decision for the arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from clussvc.model.ids import NodeId

WITNESS_FROM = 100_000_000
"""Numbers from here on are stand-ins of the witness; the rest is the version of the voters. Nodes have small ones."""
DROPPED_FROM = 200_000_000
"""Numbers from here on are stand-ins of a dropped vote; the rest is the number of the node."""
NUMBER_END = 300_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a witness has decided, once and for all, for one version of the voters."""

    version: int
    voters: frozenset[NodeId]
    """All of that version; an even number."""
    dropped: NodeId
    """Whose vote does not count any more."""

    @property
    def left(self) -> frozenset[NodeId]:
        """The voters without the one that lost its vote."""
        return self.voters - {self.dropped}


def witness_stand_in(version: int) -> NodeId:
    """The stand-in of the witness for a version of the voters."""
    assert 0 < version < DROPPED_FROM - WITNESS_FROM, version
    return NodeId(WITNESS_FROM + version)


def dropped_stand_in(node: NodeId) -> NodeId:
    """The stand-in that says that the vote of a node is dropped."""
    return NodeId(DROPPED_FROM + node)


def is_stand_in(member: int) -> bool:
    """Whether that is no node."""
    return member >= WITNESS_FROM


def version_of(stand_in: int) -> int | None:
    """For which version the witness is asked; None for the stand-in of a dropped vote."""
    return stand_in - WITNESS_FROM if WITNESS_FROM <= stand_in < DROPPED_FROM else None


def dropped_by(stand_in: int) -> NodeId | None:
    """Whose vote is dropped; None for the stand-in of the witness."""
    return NodeId(stand_in - DROPPED_FROM) if stand_in >= DROPPED_FROM else None


def split(members: Iterable[int]) -> tuple[frozenset[NodeId], NodeId | None]:
    """The nodes among the members of the log, and the stand-in if there is one."""
    nodes, stand_in = set(), None
    for member in members:
        if is_stand_in(member):
            stand_in = NodeId(member)
        else:
            nodes.add(NodeId(member))
    return frozenset(nodes), stand_in


def electorates(members: Collection[int], decision: Decision | None) -> tuple[frozenset[NodeId], ...]:
    """Of which sets a majority decides. ``decision`` is one that the witness has made, for whatever version."""
    nodes, stand_in = split(members)
    if stand_in is None or len(nodes) % 2:
        return (nodes,)
    dropped = dropped_by(stand_in)
    if dropped is not None:
        return (nodes - {dropped},) if dropped in nodes else (nodes,)
    if decision is not None and decision.version == version_of(stand_in) and decision.voters == nodes:
        return nodes, decision.left
    return (nodes,)


def change_refused(members: Collection[int], decision: Decision | None, member: int, *, adding: bool) -> str:
    """Why the log must not take in this member, or let it go, now; empty if it may.

    While there is a stand-in, nothing changes but that it goes, or that the node goes whose vote was dropped. A node
    may also come when its vote was dropped beforehand: then nobody needs it before it is there.
    """
    nodes, stand_in = split(members)
    if not is_stand_in(member):
        if stand_in is None:
            return ""
        dropped = dropped_by(stand_in)
        if dropped is None and len(electorates(members, decision)) > 1:
            assert decision is not None
            dropped = decision.dropped
        if dropped == member and (not adding or (dropped_by(stand_in) is not None and len(nodes) % 2)):
            return ""
        return "a tie-breaker is in force, which has to go first"
    if not adding:
        return ""
    if stand_in is not None:
        return "another tie-breaker is in force"
    dropped = dropped_by(member)
    if dropped is None:
        return "an odd number of members needs no tie-breaker" if len(nodes) % 2 else ""
    if (dropped in nodes) == len(nodes) % 2:
        return f"with node {dropped} the members would be an odd number, which needs no tie-breaker"
    return ""

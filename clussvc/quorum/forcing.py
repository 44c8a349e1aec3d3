"""Going on without a majority by force: which of the listed nodes has the newest state.

An administrator lists nodes and starts each of them with the same list; all others must stay stopped. Each listed node
*offers* what it has: the generation of its quorum, the term and index of its log's last entry. When everybody on the
list has offered, the newest offer wins, and that node (the *chosen* one) begins the log of a new generation with its
state; the others follow it as any node follows that has missed a change of the quorum.

Nobody decides before all have offered: an entry that was acknowledged may be on a single one of the listed nodes. What
is on none of them is lost; that is the price of force (docs/decisions/0018).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clussvc.model.ids import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one node has. Of two offers the one with the later generation is newer, then by term, then by index, as in
    Raft; among equals it is the lower number of the node."""

    node: NodeId
    listed: tuple[NodeId, ...]
    """The list that it was started with, in order."""
    generation: int
    term: int
    """0 for a log that knows no terms."""
    index: int

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """Offers in order, the newest last."""
        return self.generation, self.term, self.index, -self.node


class Forcing:
    """One node's part. Not thread-safe."""

    def __init__(self, own: Offer) -> None:
        assert own.node in own.listed
        self.own = own
        self._offers = {own.node: own}
        self.quarrel: Offer | None = None
        """The last offer of a listed node that was started with another list."""

    def take(self, offer: Offer) -> None:
        """What another node says; ``offer.node`` is authenticated. Who is not listed is not asked."""
        if offer.node not in self.own.listed or offer.node == self.own.node:
            return
        if offer.listed != self.own.listed:
            self._offers.pop(offer.node, None)
            self.quarrel = offer
            return
        self._offers[offer.node] = offer
        if self.quarrel is not None and self.quarrel.node == offer.node:
            self.quarrel = None

    @property
    def missing(self) -> tuple[NodeId, ...]:
        """The listed nodes that have not offered yet."""
        return tuple(node for node in self.own.listed if node not in self._offers)

    @property
    def chosen(self) -> NodeId | None:
        """Who begins; None while somebody is missing."""
        return None if self.missing else newest(self._offers.values()).node


def newest(offers: Iterable[Offer]) -> Offer:
    """The offer that wins."""
    return max(offers, key=lambda offer: offer.rank)

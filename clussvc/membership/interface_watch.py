"""When a node tells of its interfaces: at once if one has failed by itself, else when a change has lasted.

What is seen may flap: a heartbeat comes late, a link trains, a peer reads of a new role a moment later. Each word costs
an entry of the log and may be an event, so a change is told only when the view has differed from what the log says for
a while. A link that goes down is no such matter: groups may have to move, so it is told at once; that it is up again
can wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from clussvc.membership.connectivity import LinkSeen, clients_reached, own_view, worse
from clussvc.model.config import Config, Interface
from clussvc.model.ids import NodeId

SETTLE_MS = 1_000
"""For so long a change has lasted before it is told, or for three heartbeats where that is more."""

LOOK_MS = 100
"""How often the view is compared, unless something new was seen."""


class InterfaceWatch:
    """What one node sees of its own interfaces."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._links: dict[int, LinkSeen] = {}
        self._heard: Collection[tuple[NodeId, int]] = frozenset()
        self._watched = False
        """False as long as nobody looks; then nothing is told."""
        self._since_ms: int | None = None
        """From when on the view has differed from what was told."""
        self._next_ms = 0

    def seen(self, links: dict[int, LinkSeen], heard: Collection[tuple[NodeId, int]]) -> None:
        """What the machine says of the links, and who was heard where lately."""
        self._links, self._heard, self._watched = links, heard, True
        self._next_ms = 0

    def to_tell(
        self, config: Config, lately: Callable[[], Collection[NodeId]], now_ms: int
    ) -> tuple[Interface, ...] | None:
        """The view that is to be told now, if any. ``lately``: who was heard at all."""
        if not self._watched or now_ms < self._next_ms:
            return None
        self._next_ms = now_ms + LOOK_MS
        told = config.nodes[self._node].interfaces
        view = own_view(config, self._node, links=self._links, heard=self._heard, lately=lately())
        if view == told:
            self._since_ms = None
            return None
        if self._since_ms is None:
            self._since_ms = now_ms
        settle_ms = max(SETTLE_MS, 3 * config.timing.heartbeat_interval_ms)
        return view if worse(told, view) or now_ms - self._since_ms >= settle_ms else None

    def forget(self) -> None:
        """A new incarnation has told nothing yet."""
        self._since_ms = None

    def clients_reached(self, config: Config, *, member: bool) -> int:
        """On how many client networks this node works. What the log says of the others counts for a member alone."""
        if not member:
            me = config.nodes.get(self._node)
            config = replace(config, nodes={self._node: replace(me, interfaces=())} if me else {})
        return clients_reached(config, self._node, self._links)

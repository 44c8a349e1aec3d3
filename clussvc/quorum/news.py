"""What nodes say to each other that take part in logs of different generations (docs/decisions/0020).

Frames of a log carry its generation, and reach that log only. When a node connects it says in which one it takes part
(:class:`Notice`); so does whoever hears from a later one. A node that hears of an earlier one sends :class:`NewsPiece`
after piece what it needs to follow: the state of a node that acts by a quorum disk, or a snapshot of the log that is
replicated among the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from clussvc.model.ids import NodeId

PIECE_BYTES = 1024 * 1024
PIECES_MAX = 257
"""An image of the configuration is at most 256 MiB long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """In the log of which generation the sender takes part."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewsPiece:
    """A part of what a node needs that takes part in an earlier log; ``total`` parts make it whole."""

    generation: int
    index: int
    """What it has of the log; with a snapshot, what is in that."""
    snapshot: bool
    """It is a snapshot of the log that is replicated among the nodes; else the configuration."""
    number: int
    total: int
    data: bytes


def pieces(*, generation: int, index: int, snapshot: bool, data: bytes) -> list[NewsPiece]:
    """The news in parts that fit into frames."""
    total = max(1, -(-len(data) // PIECE_BYTES))
    assert total <= PIECES_MAX, f"news of {len(data)} bytes"
    return [
        NewsPiece(
            generation=generation,
            index=index,
            snapshot=snapshot,
            number=number,
            total=total,
            data=data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES],
        )
        for number in range(total)
    ]


@dataclass(slots=True)
class NewsReader:
    """Puts parts together. From each sender one text is under way; whatever does not follow drops it."""

    _parts: dict[NodeId, list[NewsPiece]] = field(default_factory=dict)

    def take(self, sender: NodeId, piece: NewsPiece) -> bytes | None:
        """The whole, if this was the last part of it."""
        if not 0 <= piece.number < piece.total <= PIECES_MAX:
            self._parts.pop(sender, None)
            return None
        parts = self._parts.setdefault(sender, []) if piece.number else []
        if piece.number != len(parts) or any(
            (part.generation, part.index, part.total, part.snapshot)
            != (piece.generation, piece.index, piece.total, piece.snapshot)
            for part in parts[:1]
        ):
            self._parts.pop(sender, None)
            return None
        parts.append(piece)
        if len(parts) < piece.total:
            self._parts[sender] = parts
            return None
        self._parts.pop(sender, None)
        return b"".join(part.data for part in parts)

    def forget(self, sender: NodeId) -> None:
        """The connection to a node is gone."""
        self._parts.pop(sender, None)

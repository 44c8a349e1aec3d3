"""One story for two clusters: the library as it is shipped, and the library between our guard and journal.

A *story* is a function of a cluster; it does damage and returns what a user would have seen. It runs on both kinds,
and a test beside it says what the stock library does with it and what ours does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clussvc.global_update.raft import wire
from clussvc.global_update.raft.replicator import OutcomeKind, RaftSettings
from tests.adapters.raft.stock import StockCluster, commands, stock_library
from tests.adapters.raft.world import World

__all__ = ["Cluster", "Ours", "StockCluster", "acknowledged", "commands", "message_kind", "ours", "stock"]


class Ours(World):
    """Our world with the words of the stories."""

    def __init__(self, folder: Path, size: int, *, seed: int, settings: RaftSettings) -> None:
        self.ended: dict[int, Exception] = {}
        self.may_end = False
        self.on_apply: Callable[[int, bytes], None] = lambda node_id, command: None
        super().__init__(folder, size, seed=seed, settings=settings)

    def _fatal(self, node_id: int, error: Exception) -> None:
        if self.may_end:
            self.ended[node_id] = error
            self.machines[node_id].crash_expected = True
        else:
            super()._fatal(node_id, error)

    def applied(self, node_id: int, index: int, command: bytes) -> None:
        super().applied(node_id, index, command)
        self.on_apply(node_id, command)

    def claims(self, node_id: int) -> bool:
        """Whether a node believes that it leads."""
        return self.node(node_id).statistics().is_leader

    def term(self, node_id: int) -> int:
        """A node's term."""
        return self.node(node_id).statistics().term

    def log_last(self, node_id: int) -> int:
        """The index of the last entry that a node holds."""
        return self.node(node_id).statistics().log_last

    def log_first(self, node_id: int) -> int:
        """The index of the first entry that a node holds."""
        return self.node(node_id).statistics().log_first

    def members(self, node_id: int) -> frozenset[int]:
        """Who counts, by a node's reckoning."""
        return self.node(node_id).members

    def cut(self, a: int, b: int) -> None:
        """Cut one link."""
        self.network.cut |= {(a, b), (b, a)}

    def reset(self, a: int, b: int) -> None:
        """Break one connection; what is under way is gone, and it is made again at once."""
        self.frames = [frame for frame in self.frames if {frame[2], frame[3]} != {a, b}]
        for end, other in ((a, b), (b, a)):
            self.node(end).peer_disconnected(other)
            self.node(end).peer_connected(other)

    def compact(self, node_id: int) -> None:
        """Have a node write its snapshot at its next step, however short its log is."""
        # Only the number of entries asks for it otherwise, and the stories want a moment.
        self.node(node_id)._raft.forceLogCompaction()

    def tick(self, node_id: int) -> None:
        """One step of a node."""
        self.node(node_id).step()


Cluster = Ours | StockCluster


@contextmanager
def ours(folder: Path, size: int, *, seed: int = 1, compaction_entries: int = 1_000) -> Iterator[Ours]:
    """A cluster between guard and journal."""
    settings = RaftSettings(election_timeout_ms=300, heartbeat_ms=60, compaction_entries=compaction_entries)
    cluster = Ours(folder / "ours", size, seed=seed, settings=settings)
    try:
        yield cluster
    finally:
        cluster.close()


@contextmanager
def stock(
    folder: Path, size: int, *, seed: int = 1, compaction_entries: int = 1_000, **options: Any
) -> Iterator[StockCluster]:
    """A cluster of the library as it is shipped."""
    with stock_library(
        folder / "stock", size, seed=seed, logCompactionMinEntries=compaction_entries, **options
    ) as cluster:
        yield cluster


def acknowledged(cluster: Cluster, wanted: list[bytes]) -> list[bytes]:
    """Those of the commands that a user was told are safe."""
    return [
        command
        for command in wanted
        if command in cluster.outcomes and cluster.outcomes[command].kind is OutcomeKind.COMMITTED
    ]


def message_kind(frame: bytes | Mapping[str, Any]) -> str:
    """What a message is, by the library's word for it, in both clusters."""
    if isinstance(frame, Mapping):
        return str(frame["type"])
    match wire.decode(frame):
        case wire.Append() | wire.Alive() | wire.Chunk():
            return "append_entries"
        case wire.Reply() | wire.ChunkReply():
            return "next_node_idx"
        case wire.VoteRequest():
            return "request_vote"
        case wire.VoteReply():
            return "response_vote"
        case wire.Forward():
            return "apply_command"
        case wire.ForwardReply():
            return "apply_command_response"
        case other:
            return type(other).__name__

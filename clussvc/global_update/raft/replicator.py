"""The replicated log of a Majority Node Set, made of PySyncObj behind a guard, a journal and snapshots of our own.

This module is the door: :class:`RaftThread` for the service, :class:`RaftNode` for tests and simulations, and the
values they take and give. The library is used unmodified and pinned; ``guard`` says what it is guarded against.

Acknowledged means: on stable storage of a majority, in one order everywhere.
"""

from __future__ import annotations

from clussvc.global_update.raft.raft_node import SNAPSHOT_NAME, RaftNode, RaftStatistics, begin, beginning
from clussvc.global_update.raft.raft_thread import RaftThread
from clussvc.global_update.raft.snapshot_file import Snapshot, decode_snapshot, encode_snapshot
from clussvc.global_update.raft.storage import DiskStorage, Storage
from clussvc.global_update.raft.values import Done, Outcome, OutcomeKind, RaftSettings, StateMachine

__all__ = [
    "SNAPSHOT_NAME",
    "DiskStorage",
    "Done",
    "Outcome",
    "OutcomeKind",
    "RaftNode",
    "RaftSettings",
    "RaftStatistics",
    "RaftThread",
    "Snapshot",
    "StateMachine",
    "Storage",
    "begin",
    "beginning",
    "decode_snapshot",
    "encode_snapshot",
]

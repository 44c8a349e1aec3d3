"""What a node's part of the replicated log holds, read without taking part in it; and another log begun like that.

All entries count, whether they were known to be committed or not: who reads the log like this wants to lose nothing of
it (docs/decisions/0018), or to show what there is.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from clussvc.global_update.raft.entries import command_of
from clussvc.global_update.raft.journal import Journal, JournalIdentity, reconcile
from clussvc.global_update.raft.raft_node import JOURNAL_NAME, SNAPSHOT_NAME, begin
from clussvc.global_update.raft.snapshot_file import Snapshot, decode_snapshot
from clussvc.global_update.raft.storage import DiskStorage, Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLog:
    """The state of the snapshot and what follows it."""

    term: int
    """Of the last entry."""
    index: int
    """Of the last entry; the library counts no-operations and changes of its members as well."""
    applied: int
    """Commands that the image contains; 0 without one."""
    image: bytes
    commands: tuple[bytes, ...]
    """Those that follow, in order."""


def read_stored_log(folder: Path, *, cluster_id: str, node_id: int, storage: Storage | None = None) -> StoredLog:
    """Read it. A write at the end that was torn by a crash is cut off, as at any start.

    Raises ClusterError as RaftNode does for files that are missing, damaged or another node's.
    """
    storage = storage if storage is not None else DiskStorage()
    path = folder / SNAPSHOT_NAME
    data = storage.read(path)
    snapshot = None if data is None else decode_snapshot(data, cluster_id=cluster_id, source=path)
    identity = JournalIdentity(cluster_id=cluster_id, node_id=node_id, members=(node_id,), joining=False)
    journal = Journal(folder / JOURNAL_NAME, identity, storage, create=False)
    try:
        reconcile(journal, snapshot, path)
        entries = journal[0 : len(journal)]
        assert isinstance(entries, list)
        after = snapshot.index if snapshot is not None else 0
        found = [command_of(entry) for entry in entries if entry[1] > after]
        return StoredLog(
            term=journal.last_term,
            index=journal.last_index,
            applied=snapshot.applied if snapshot is not None else 0,
            image=snapshot.image if snapshot is not None else b"",
            commands=tuple(command for command in found if command is not None),
        )
    finally:
        journal.close()


def begin_offline(folder: Path, snapshot: Snapshot, *, node_id: int, storage: Storage | None = None) -> None:
    """Make the beginning of a log of a later generation durable in a folder of its own, in place of what is there; the
    node is one of its members, and takes part in it when it is started next."""
    storage = storage if storage is not None else DiskStorage()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    members, begun = begin(folder, storage, snapshot, node_id=node_id)
    assert begun, f"node {node_id} is none of the members {sorted(members)}"
    identity = JournalIdentity(
        cluster_id=snapshot.cluster_id, node_id=node_id, members=tuple(sorted(members)), joining=False
    )
    journal = Journal(folder / JOURNAL_NAME, identity, storage, create=True)
    try:
        reconcile(journal, snapshot, folder / SNAPSHOT_NAME)
    finally:
        journal.close()
    storage.sync_folder(folder.parent)

"""The journal: term, vote and entries of one node's log, in one append-only file.

A record is ``marker, length, CRC32C, durable offset, type, payload``. The *durable offset* says how much of the file
was already on stable storage when the record was made. That is what tells an interrupted write from rot: a bad record
at the end of the file is a torn write and is cut off, since nobody was promised anything; but when a later valid record
says that the bad place had been durable, promises were lost with it and the journal refuses to open.

Records are collected in memory; :meth:`Journal.sync` writes and syncs them, and the guard calls it before any message
leaves the node (group commit). Dropping the head of the log writes a new file and renames it, so a crash leaves the
old or the new file, never a mixture.

Invariants, each an end of the process when broken: indexes have no gaps, terms never go back, nothing at or below the
known commit index is cut off, and the log is emptied only while a snapshot is installed.

Residual risk, as with other write-ahead logs: when the last synced records themselves are lost (a disk that lied about
its cache) and nothing valid follows, that looks like a torn write.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import overload

import msgspec

from clussvc.global_update.raft.entries import Entry, MembershipChange, membership_change
from clussvc.global_update.raft.snapshot_file import JOIN_ANEW, OTHER_FOLDER, Snapshot
from clussvc.global_update.raft.storage import Storage
from clussvc.model.errors import ClusterError
from clussvc.native import crc32c

RECORD_BYTES_MAX = 8 * 1024 * 1024
_MARKER = b"\xf5JR\n"
_FRAME = struct.Struct("<4sIIQB")
_COVERED = struct.Struct("<IQB")
_ENTRY = struct.Struct("<QQ")
_INDEX = struct.Struct("<Q")
_FORMAT = 1


class _Kind(IntEnum):
    IDENTITY = 1
    TERM = 2
    ENTRY = 3
    TRUNCATE_FROM = 4
    CLEAR = 5


class JournalIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Whose journal this is, and with which members the node began.

    ``joining`` marks a node that was added to a running cluster: its first members are hearsay until the log or a
    snapshot has told it otherwise.
    """

    cluster_id: str
    node_id: int
    members: tuple[int, ...]
    joining: bool
    format: int = _FORMAT


class _TermRecord(msgspec.Struct, frozen=True, array_like=True):
    term: int
    voted_for: str | None


class Journal:
    """The library's journal interface (camel-case methods) and ours. Not thread-safe; one thread owns it."""

    def __init__(self, path: Path, identity: JournalIdentity, storage: Storage, *, create: bool) -> None:
        """Open the journal, or create it when ``create`` is set and there is none.

        Raises ClusterError ``journal-missing``, ``journal-damaged`` or ``journal-foreign``.
        """
        self._path = path
        self._storage = storage
        self._entries: list[Entry] = []
        self._changes: list[MembershipChange] = []
        self._term = 0
        self._voted_for: str | None = None
        self._floor = 0
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._failed = False
        self._closed = False
        self.clear_allowed = False
        data = storage.read(path)
        if data is None:
            if not create:
                raise ClusterError(
                    "journal-missing", f"The journal {path} is missing, and with it this node's votes. {_WAY_OUT}"
                )
            self.identity = identity
            data = self._identity_record(0)
            storage.replace(path, data)
        self._durable = self._load(data, identity)
        self._size = self._durable
        self._file = storage.append_to(path, self._durable)

    # The library's interface.

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry."""
        if self._entries:
            _, last, last_term = self._entries[-1]
            assert idx == last + 1, f"journal {self._path}: entry {idx} after {last}"
            assert term >= last_term, f"journal {self._path}: term {term} after {last_term} at entry {idx}"
        self._append(_Kind.ENTRY, _ENTRY.pack(idx, term) + command)
        self._take((command, idx, term))

    def clear(self) -> None:
        """Drop all entries; allowed only while a snapshot is installed."""
        assert self.clear_allowed, f"journal {self._path}: cleared outside the installation of a snapshot"
        self._append(_Kind.CLEAR, b"")
        self._entries.clear()
        self._changes.clear()

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Cut the entries from a position (not an index) to the end."""
        if entryFrom >= len(self._entries):
            return
        self._truncate_from(self._entries[entryFrom][1])

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Drop the entries before a position (not an index), atomically."""
        assert 0 <= entryTo <= max(0, len(self._entries) - 2), (
            f"journal {self._path}: trim at {entryTo} leaves no entries"
        )
        if entryTo:
            self.rewrite(self._entries[entryTo:])

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """The commit index is not stored (the leader tells it anew); it only moves the fuse."""
        self.raise_floor(raftCommitIndex)

    def getRaftCommitIndex(self) -> int:
        """Always 1: what is committed is learned from the leader, never remembered beyond the log."""
        return 1

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Record term and vote; durable with the next sync, which precedes every message."""
        assert term >= self._term, f"journal {self._path}: term goes back from {self._term} to {term}"
        if (term, votedForNodeId) != (self._term, self._voted_for):
            assert not (term == self._term and self._voted_for), f"journal {self._path}: second vote in term {term}"
            self._append(_Kind.TERM, msgspec.msgpack.encode(_TermRecord(term, votedForNodeId)))
            self._term, self._voted_for = term, votedForNodeId

    def getCurrentTerm(self) -> int:
        """The newest term seen."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """Whom this node voted for in the current term."""
        return self._voted_for

    def onOneSecondTimer(self) -> None:
        """Nothing to do: all is synced before it is promised."""

    def _destroy(self) -> None:
        self.close()

    # Our interface.

    @property
    def first_index(self) -> int:
        """Index of the oldest entry; 0 when empty."""
        return self._entries[0][1] if self._entries else 0

    @property
    def last_index(self) -> int:
        """Index of the newest entry; 0 when empty."""
        return self._entries[-1][1] if self._entries else 0

    @property
    def last_term(self) -> int:
        """Term of the newest entry; 0 when empty."""
        return self._entries[-1][2] if self._entries else 0

    @property
    def size_bytes(self) -> int:
        """Size of the file once everything is written."""
        return self._size + self._unwritten_bytes

    @property
    def changes(self) -> Sequence[MembershipChange]:
        """The membership entries in the log, oldest first."""
        return self._changes

    def term_at(self, index: int) -> int | None:
        """Term of the entry at an index; None when the journal does not hold it."""
        position = index - self.first_index
        return self._entries[position][2] if self._entries and 0 <= position < len(self._entries) else None

    def first_of_term(self, index: int) -> int:
        """Index of the first held entry with the same term as the held entry at ``index``."""
        term = self.term_at(index)
        assert term is not None
        return self.first_index + bisect_left(self._entries, term, key=lambda entry: entry[2])

    def raise_floor(self, index: int) -> None:
        """Nothing at or below ``index`` may be cut off any more."""
        self._floor = max(self._floor, index)

    def sync(self) -> bool:
        """Write what was collected and wait until it is durable; False when nothing was. OSError is final."""
        assert not self._failed, f"journal {self._path}: used after a failed write"
        if not self._unwritten:
            return False
        data = b"".join(self._unwritten)
        self._failed = True
        self._file.write(data)
        self._file.sync()
        self._failed = False
        self._size += len(data)
        self._durable = self._size
        self._unwritten.clear()
        self._unwritten_bytes = 0
        return True

    def rewrite(self, entries: Sequence[Entry]) -> None:
        """Replace the file by one that holds identity, term, vote and these entries; atomic and durable."""
        kept = list(entries)
        records = [self._identity_record(0)]
        size = len(records[0])
        self._failed = True
        for kind, payload in self._content(kept):
            records.append(_record(kind, payload, 0))
            size += len(records[-1])
        data = b"".join(records)
        self._storage.replace(self._path, data)
        self._file.close()
        self._file = self._storage.append_to(self._path, size)
        self._failed = False
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self._size = self._durable = size
        self._entries, self._changes = [], []
        for entry in kept:
            self._take(entry)

    def close(self) -> None:
        """Release the file. What was not synced was promised to nobody."""
        if not self._closed:
            self._closed = True
            self._file.close()

    # Records.

    def _content(self, entries: Sequence[Entry]) -> list[tuple[_Kind, bytes]]:
        content = [(_Kind.TERM, msgspec.msgpack.encode(_TermRecord(self._term, self._voted_for)))]
        content += [(_Kind.ENTRY, _ENTRY.pack(index, term) + command) for command, index, term in entries]
        return content

    def _append(self, kind: _Kind, payload: bytes) -> None:
        assert not self._failed, f"journal {self._path}: used after a failed write"
        assert not self._closed, f"journal {self._path}: used after it was closed"
        record = _record(kind, payload, self._durable)
        self._unwritten.append(record)
        self._unwritten_bytes += len(record)

    def _take(self, entry: Entry) -> None:
        self._entries.append(entry)
        change = membership_change(entry)
        if change is not None:
            self._changes.append(change)

    def _truncate_from(self, index: int) -> None:
        assert index > self._floor, f"journal {self._path}: cut at {index}, but {self._floor} is committed"
        self._append(_Kind.TRUNCATE_FROM, _INDEX.pack(index))
        self._drop_from(index)

    def _drop_from(self, index: int) -> None:
        del self._entries[max(0, index - self.first_index) :]
        while self._changes and self._changes[-1].index >= index:
            self._changes.pop()

    def _identity_record(self, durable: int) -> bytes:
        return _record(_Kind.IDENTITY, msgspec.msgpack.encode(self.identity), durable)

    # Opening.

    def _load(self, data: bytes, expected: JournalIdentity) -> int:
        offset = newest = 0
        while (record := _read_record(data, offset)) is not None:
            kind, payload, durable, end = record
            if not newest <= durable <= offset:
                # A whole record is missing before it, or it is a copy of an older one.
                raise self._damaged(f"the record at byte {offset} is not where it was written")
            newest = durable
            try:
                self._replay(kind, payload, expected, first=offset == 0)
            except (struct.error, msgspec.MsgspecError, ValueError) as error:
                raise self._damaged(f"the record at byte {offset} makes no sense ({error})") from error
            offset = end
        if offset == 0:
            raise self._damaged("it does not begin with an identity")
        self._refuse_lost_promises(data, offset)
        return offset

    def _replay(self, kind: _Kind, payload: bytes, expected: JournalIdentity, *, first: bool) -> None:
        if first != (kind is _Kind.IDENTITY):
            raise ValueError("identity missing or in the wrong place")
        match kind:
            case _Kind.IDENTITY:
                self._check_identity(payload, expected)
            case _Kind.TERM:
                record = msgspec.msgpack.decode(payload, type=_TermRecord)
                if record.term < self._term:
                    raise ValueError(f"term {record.term} after {self._term}")
                self._term, self._voted_for = record.term, record.voted_for
            case _Kind.ENTRY:
                index, term = _ENTRY.unpack_from(payload)
                if self._entries and (index != self.last_index + 1 or term < self.last_term):
                    raise ValueError(f"entry {index} of term {term} after {self.last_index} of term {self.last_term}")
                self._take((payload[_ENTRY.size :], index, term))
            case _Kind.TRUNCATE_FROM:
                self._drop_from(_INDEX.unpack(payload)[0])
            case _Kind.CLEAR:
                self._entries, self._changes = [], []

    def _check_identity(self, payload: bytes, expected: JournalIdentity) -> None:
        found = msgspec.msgpack.decode(payload, type=JournalIdentity)
        if found.format != _FORMAT:
            raise ClusterError(
                "journal-foreign", f"The journal {self._path} has format {found.format}; this version reads {_FORMAT}."
            )
        if (found.cluster_id, found.node_id) != (expected.cluster_id, expected.node_id):
            raise ClusterError(
                "journal-foreign",
                f"The journal {self._path} belongs to node {found.node_id} of cluster {found.cluster_id}, not to node "
                f"{expected.node_id} of cluster {expected.cluster_id}. {OTHER_FOLDER}",
            )
        self.identity = found

    def _refuse_lost_promises(self, data: bytes, cut: int) -> None:
        """Decide whether what follows the last good record is a torn write (cut it) or rot (refuse)."""
        place = cut + 1
        while (place := data.find(_MARKER, place)) >= 0:
            record = _read_record(data, place)
            # A head is enough, whether its record is whole or not: those of a torn write all say that nothing beyond
            # its beginning was durable, and half a head says less than a whole one.
            if _durable_by_head(data, place) > cut:
                raise self._damaged(f"the record at byte {cut} is unreadable, and it had been written safely before")
            place = place + 1 if record is None else record[3]

    def _damaged(self, why: str) -> ClusterError:
        return ClusterError("journal-damaged", f"The journal {self._path} is damaged: {why}. {_WAY_OUT}")


_WAY_OUT = f"A node without its journal must not vote under its old identity: {JOIN_ANEW}"


def reconcile(journal: Journal, snapshot: Snapshot | None, snapshot_path: Path) -> None:
    """Make journal and snapshot belong together before the library sees them.

    A crash can fall between the rename of a snapshot and the trim of the journal, or into the installation of a
    received one; both are completed here. Raises ClusterError ``snapshot-missing`` or ``journal-snapshot-mismatch``
    when the two cannot come from one history.
    """
    if snapshot is None:
        if journal.first_index > 1:
            raise ClusterError(
                "snapshot-missing",
                f"The journal beside {snapshot_path} begins at entry {journal.first_index}, but the snapshot it needs "
                f"is missing. {_WAY_OUT}",
            )
        return
    if journal.first_index > snapshot.previous[1]:
        raise ClusterError(
            "journal-snapshot-mismatch",
            f"The journal begins at entry {journal.first_index}, after the end {snapshot.index} of the snapshot "
            f"{snapshot_path}. {_WAY_OUT}",
        )
    position = snapshot.previous[1] - journal.first_index
    if len(journal) and journal[position : position + 2] == [snapshot.previous, snapshot.last]:
        if position:
            journal.rewrite(journal[position:])
        return
    # The snapshot was installed from the leader and the process died before the journal followed: its entries are
    # committed, whatever the journal holds is not known to be. Term and vote stay.
    if journal.getCurrentTerm() < snapshot.last[2]:
        journal.setCurrentTerm(snapshot.last[2], None)
    journal.rewrite([snapshot.previous, snapshot.last])


def _record(kind: _Kind, payload: bytes, durable: int) -> bytes:
    assert len(payload) <= RECORD_BYTES_MAX, f"a record of {len(payload)} bytes is too long"
    covered = _COVERED.pack(len(payload), durable, kind)
    return _FRAME.pack(_MARKER, len(payload), crc32c(payload, crc32c(covered)), durable, kind) + payload


def _read_record(data: bytes, offset: int) -> tuple[_Kind, bytes, int, int] | None:
    """Kind, payload, durable offset and end of the valid record at ``offset``; None when there is none."""
    if offset + _FRAME.size > len(data):
        return None
    marker, length, checksum, durable, kind = _FRAME.unpack_from(data, offset)
    end = offset + _FRAME.size + length
    if marker != _MARKER or length > RECORD_BYTES_MAX or end > len(data):
        return None
    payload = data[offset + _FRAME.size : end]
    if crc32c(payload, crc32c(_COVERED.pack(length, durable, kind))) != checksum or kind not in _KINDS:
        return None
    return _Kind(kind), payload, durable, end


def _durable_by_head(data: bytes, offset: int) -> int:
    """The durable offset in the head of a record, which need not be whole; 0 when there is no such head."""
    if offset + _FRAME.size > len(data):
        return 0
    _, _, _, durable, kind = _FRAME.unpack_from(data, offset)
    return int(durable) if kind in _KINDS else 0


_KINDS = frozenset(_Kind)

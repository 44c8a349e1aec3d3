"""The journal: what a crash leaves is cut, what rot leaves is refused, and promises survive both."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc.global_update.raft.entries import (
    NO_OPERATION,
    Entry,
    command_entry_bytes,
    entry_problem,
    membership_change,
    membership_entry_bytes,
)
from clussvc.global_update.raft.journal import Journal, JournalIdentity, reconcile
from clussvc.global_update.raft.snapshot_file import Snapshot, decode_snapshot, encode_snapshot
from clussvc.global_update.raft.storage import DiskStorage
from clussvc.model.errors import ClusterError
from tests.adapters.raft.world import VirtualDisk

IDENTITY = JournalIdentity(cluster_id="c", node_id=1, members=(1, 2, 3), joining=False)


def entry(index: int, term: int = 1) -> Entry:
    """A command entry that says its index."""
    return command_entry_bytes(b"%d" % index), index, term


def open_journal(folder: Path, *, create: bool = False, identity: JournalIdentity = IDENTITY) -> Journal:
    """The journal of a folder on the real disk."""
    return Journal(folder / "journal", identity, DiskStorage(), create=create)


def written(folder: Path, count: int, *, batches: int = 1) -> Path:
    """A closed journal with term 3, a vote, and entries 1..count, synced in batches."""
    journal = open_journal(folder, create=True)
    journal.setCurrentTerm(3, "2")
    for batch in range(batches):
        for index in range(1 + batch * count // batches, 1 + (batch + 1) * count // batches):
            journal.add(*entry(index))
        journal.sync()
    journal.close()
    return folder / "journal"


def indexes(journal: Journal) -> list[int]:
    """The indexes held, after closing."""
    journal.close()
    return [index for _, index, _ in journal[:]]


def held_or_refused(folder: Path) -> list[int] | None:
    """The indexes held, or None when the journal is refused as damaged."""
    try:
        return indexes(open_journal(folder))
    except ClusterError as error:
        if error.code != "journal-damaged":
            raise
        return None


def test_what_was_synced_is_there_again(tmp_path: Path) -> None:
    """Term, vote, entries and cuts survive a reopening; what was not synced does not."""
    journal = open_journal(tmp_path, create=True)
    journal.setCurrentTerm(4, "3")
    for index in range(1, 11):
        journal.add(*entry(index))
    journal.deleteEntriesFrom(7)
    journal.sync()
    journal.add(*entry(8))
    journal.close()

    again = open_journal(tmp_path)
    assert (4, "3") == (again.getCurrentTerm(), again.getVotedForNodeId())
    assert [1, 2, 3, 4, 5, 6, 7] == indexes(again)


@pytest.mark.parametrize("cut", [1, 5, 20, 33])
def test_torn_tail_is_cut(tmp_path: Path, cut: int) -> None:
    """A write that was interrupted loses its last record, and appending goes on."""
    path = written(tmp_path, 10)
    path.write_bytes(path.read_bytes()[:-cut])

    journal = open_journal(tmp_path)
    assert 9 == journal.last_index
    journal.add(*entry(10, 2))
    journal.sync()
    journal.close()
    assert list(range(1, 11)) == indexes(open_journal(tmp_path))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rot_before_the_last_batch_is_refused(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Any changed byte that later records know to have been durable stops the node, with the file named."""
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("rot")
    path = written(folder, 20, batches=4)
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data) * 3 // 4 - 60)
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)

    with pytest.raises(ClusterError) as caught:
        open_journal(folder)
    assert "journal-damaged" == caught.value.code
    assert str(path) in caught.value.message


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), garbage=st.integers(1, 60))
def test_random_bytes_never_become_entries(tmp_path_factory: pytest.TempPathFactory, seed: int, garbage: int) -> None:
    """Overwriting any place ends in a refusal or in a prefix of what was written."""
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("garbage")
    path = written(folder, 20, batches=4)
    data = path.read_bytes()
    place = rng.randrange(len(data))
    path.write_bytes((data[:place] + rng.randbytes(garbage) + data[place + garbage :])[: len(data)])
    held = held_or_refused(folder)
    assert held is None or held == list(range(1, len(held) + 1))
    assert held is None or len(held) >= 15, "only the last batch may look torn"


@pytest.mark.parametrize("content", [b"", b"\0" * 400, b"PYSYNCOBJ" + b"\0" * 100])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty or foreign file is damage, not a new beginning, even at a first boot."""
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(ClusterError, match="journal-damaged"):
        open_journal(tmp_path, create=True)


def test_missing_and_foreign_journals_are_refused(tmp_path: Path) -> None:
    """A node that lost its votes, or opened another node's, must not vote."""
    with pytest.raises(ClusterError, match="journal-missing"):
        open_journal(tmp_path)
    written(tmp_path, 3)
    for other in (
        JournalIdentity(cluster_id="other", node_id=1, members=(1,), joining=False),
        JournalIdentity(cluster_id="c", node_id=2, members=(1, 2, 3), joining=False),
    ):
        with pytest.raises(ClusterError, match="journal-foreign"):
            open_journal(tmp_path, identity=other)


@pytest.mark.parametrize("operations", range(6))
def test_s4_power_failure_inside_a_trim_loses_nothing(tmp_path: Path, operations: int) -> None:
    """Wherever the power goes off, the journal is the old or the new one."""
    disk = VirtualDisk(random.Random(operations))
    journal = Journal(tmp_path / "journal", IDENTITY, disk, create=True)
    journal.setCurrentTerm(2, "1")
    for index in range(1, 101):
        journal.add(*entry(index))
    journal.sync()
    disk.operations_left = operations
    try:
        journal.deleteEntriesTo(50)
    except OSError:
        with pytest.raises(AssertionError):
            journal.add(*entry(101))
    journal.close()
    disk.lose_power(tmp_path)

    again = Journal(tmp_path / "journal", IDENTITY, disk, create=False)
    assert (2, "1") == (again.getCurrentTerm(), again.getVotedForNodeId())
    assert indexes(again) in (list(range(1, 101)), list(range(51, 101)))


def test_a_failed_write_is_final(tmp_path: Path) -> None:
    """After a failed sync nothing may be promised any more."""
    disk = VirtualDisk(random.Random(1))
    journal = Journal(tmp_path / "journal", IDENTITY, disk, create=True)
    journal.add(*entry(1))
    disk.operations_left = 1
    with pytest.raises(OSError, match="power"):
        journal.sync()
    disk.operations_left = None
    with pytest.raises(AssertionError):
        journal.sync()


def test_what_a_killed_process_had_written_is_synced_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between write and sync: the next process finds the entries, would confirm them, and the power goes off."""
    killed = open_journal(tmp_path, create=True)
    killed.add(*entry(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda descriptor: None)
        killed.sync()
    killed.close()

    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    assert [1] == indexes(open_journal(tmp_path))
    assert str(tmp_path / "journal") in synced


def test_fuses(tmp_path: Path) -> None:
    """Gaps, older terms, second votes, cuts below the commit index and stray clearing end the process."""
    journal = open_journal(tmp_path, create=True)
    journal.setCurrentTerm(5, "1")
    for index in range(1, 6):
        journal.add(*entry(index, 2))
    journal.setRaftCommitIndex(3)
    broken_rules: list[Callable[[], None]] = [
        lambda: journal.add(*entry(7, 2)),
        lambda: journal.add(*entry(6, 1)),
        lambda: journal.setCurrentTerm(4, None),
        lambda: journal.setCurrentTerm(5, "2"),
        lambda: journal.deleteEntriesFrom(2),
        journal.clear,
    ]
    for broken in broken_rules:
        with pytest.raises(AssertionError):
            broken()
    journal.deleteEntriesFrom(3)
    assert [1, 2, 3] == indexes(journal)


def snapshot_at(index: int, term: int = 1) -> Snapshot:
    """A snapshot that ends at an index."""
    return Snapshot(
        cluster_id="c",
        previous=entry(index - 1, term),
        last=entry(index, term),
        members=(1, 2, 3),
        applied=index,
        image=b"x",
    )


def test_s2_journal_and_snapshot_are_made_to_fit(tmp_path: Path) -> None:
    """A crash before the trim keeps what follows the snapshot; a crash inside an installation completes it."""
    written(tmp_path, 20)
    journal = open_journal(tmp_path)
    reconcile(journal, snapshot_at(10), tmp_path / "snapshot")
    assert list(range(9, 21)) == indexes(journal)
    journal = open_journal(tmp_path)
    assert 9 == journal.first_index
    reconcile(journal, snapshot_at(50), tmp_path / "snapshot")
    assert (3, "2") == (journal.getCurrentTerm(), journal.getVotedForNodeId())
    assert [49, 50] == indexes(journal)


def test_journal_and_snapshot_of_different_histories_are_refused(tmp_path: Path) -> None:
    """Neither a journal without its snapshot nor one that begins after it can be used."""
    written(tmp_path, 20)
    journal = open_journal(tmp_path)
    reconcile(journal, snapshot_at(10), tmp_path / "snapshot")
    with pytest.raises(ClusterError, match="snapshot-missing"):
        reconcile(journal, None, tmp_path / "snapshot")
    with pytest.raises(ClusterError, match="journal-snapshot-mismatch"):
        reconcile(journal, snapshot_at(5), tmp_path / "snapshot")
    journal.close()


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_damaged_snapshot_is_refused(place: int, bit: int) -> None:
    """Every single changed bit is noticed."""
    data = bytearray(encode_snapshot(snapshot_at(10)))
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(ClusterError, match="snapshot-damaged"):
        decode_snapshot(bytes(data), cluster_id="c", source="file")


def test_a_foreign_snapshot_is_refused() -> None:
    """Another cluster's state is not ours."""
    with pytest.raises(ClusterError, match="snapshot-foreign"):
        decode_snapshot(encode_snapshot(snapshot_at(10)), cluster_id="d", source="file")


@given(command=st.binary(max_size=300))
def test_our_own_entries_pass(command: bytes) -> None:
    """What this node would write is accepted."""
    assert entry_problem(command_entry_bytes(command), command_bytes_max=300) is None


@given(node_id=st.integers(1, 10**9 - 1), adding=st.booleans())
def test_membership_entries_are_read_without_unpickling(node_id: int, adding: bool) -> None:
    """A change reads back as it was written, and passes."""
    command = membership_entry_bytes(adding=adding, node_id=node_id)
    change = membership_change((command, 7, 1))
    assert change is not None
    assert (7, adding, node_id) == (change.index, change.adding, change.node_id)
    assert entry_problem(command, command_bytes_max=300) is None


@pytest.mark.parametrize(
    "command",
    [
        b"",
        NO_OPERATION + b"x",
        b"\x00cos\nsystem\n(S'true'\ntR.",
        b"\x02cos\nsystem\n(S'true'\ntR.",
        b"\x03\x80\x02K\x01.",
        command_entry_bytes(b"abc") + b".",
        command_entry_bytes(b"abc").replace(b"K\x00", b"K\x01"),
        command_entry_bytes(b"a" * 400),
        membership_entry_bytes(adding=True, node_id=4).replace(b"unicode", b"getattr"),
    ],
)
def test_foreign_entries_are_refused(command: bytes) -> None:
    """Nothing that the library would unpickle differently from ours gets in."""
    assert entry_problem(command, command_bytes_max=300) is not None

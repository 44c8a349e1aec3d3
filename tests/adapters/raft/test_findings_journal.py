"""What the stock library's journal and dump lose (S4 to S7), and that ours do not, or refuse and say what to do."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pysyncobj.journal as library_journal
import pytest
from pysyncobj.journal import FileJournal

from clussvc.global_update.raft.entries import Entry
from clussvc.global_update.raft.journal import Journal, JournalIdentity
from clussvc.global_update.raft.raft_node import JOURNAL_NAME, SNAPSHOT_NAME
from clussvc.global_update.raft.storage import DiskStorage
from clussvc.model.errors import ClusterError
from tests.adapters.raft.pair import Cluster, StockCluster, acknowledged, commands, ours, stock
from tests.adapters.raft.stock import DUMP_NAME, keep_open_files
from tests.adapters.raft.stock import JOURNAL_NAME as STOCK_JOURNAL_NAME
from tests.adapters.raft.world import VirtualDisk

IDENTITY = JournalIdentity(cluster_id="c", node_id=1, members=(1, 2, 3), joining=False)
COUNT = 100


class KilledError(Exception):
    """The process ends here."""


@pytest.fixture(autouse=True)
def _files_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library's journals leave files to the garbage collector."""
    with ExitStack() as opened:
        keep_open_files(opened, monkeypatch)
        yield


def entries(first: int, last: int) -> list[Entry]:
    """Entries that say their index."""
    return [(b"\x00command %d" % index, index, 1) for index in range(first, last + 1)]


def stock_journal(folder: Path) -> FileJournal:
    """The library's journal of a folder."""
    return FileJournal(str(folder / "journal"))


def our_journal(folder: Path, *, create: bool = False) -> Journal:
    """Our journal of a folder."""
    return Journal(folder / "journal", IDENTITY, DiskStorage(), create=create)


def filled(journal: FileJournal | Journal) -> None:
    """Write a hundred entries, term and vote, in batches, and close as a process that ends."""
    journal.setCurrentTerm(1, "2")
    for batch in range(0, COUNT, 10):
        for command, index, term in entries(batch + 1, batch + 10):
            journal.add(command, index, term)
        if isinstance(journal, Journal):
            journal.sync()
    journal._destroy()


def held(journal: FileJournal | Journal) -> list[Entry]:
    """What a reopened journal holds."""
    found = [(bytes(command), index, term) for command, index, term in journal[0 : len(journal)]]
    journal._destroy()
    return found


# --- S4 --------------------------------------------------------------------------------------------------------------


def test_s4_stock_library_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed while it trims its journal has lost nearly all of what it kept."""
    filled(stock_journal(tmp_path))
    journal = stock_journal(tmp_path)
    add = journal.add
    added: list[int] = []

    def add_until_killed(command: bytes, index: int, term: int) -> None:
        if len(added) == 10:
            raise KilledError
        added.append(index)
        add(command, index, term)

    monkeypatch.setattr(journal, "add", add_until_killed)
    with pytest.raises(KilledError):
        journal.deleteEntriesTo(20)
    journal._destroy()

    assert entries(21, 30) == held(stock_journal(tmp_path)), "entries 31 to 100 had been promised"


@pytest.mark.parametrize("operations", range(6))
def test_s4_ours(tmp_path: Path, operations: int) -> None:
    """Wherever it ends, and even when the power goes off, the journal is the old or the new one."""
    disk = VirtualDisk(random.Random(operations))
    journal = Journal(tmp_path / "journal", IDENTITY, disk, create=True)
    for command, index, term in entries(1, COUNT):
        journal.add(command, index, term)
    journal.sync()
    disk.operations_left = operations
    try:
        journal.deleteEntriesTo(20)
    except OSError:
        assert operations < 5
    journal.close()
    disk.lose_power(tmp_path)

    again = Journal(tmp_path / "journal", IDENTITY, disk, create=False)
    assert held(again) in (entries(1, COUNT), entries(21, COUNT))


# --- S5 --------------------------------------------------------------------------------------------------------------


class Syncs:
    """Counts what reaches stable storage: the calls that ask the kernel for it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._counted(getattr(os, name)))
        syncs = self

        class Map(mmap.mmap):
            def flush(self, *words: int) -> None:
                syncs.count += 1
                super().flush(*words)

        patch.setattr(library_journal, "mmap", SimpleNamespace(mmap=Map))

    def _counted(self, call: Callable[[int], None]) -> Callable[[int], None]:
        def counted(descriptor: int) -> None:
            self.count += 1
            call(descriptor)

        return counted


def the_power_fails_everywhere(cluster: Cluster, syncs: Syncs, safe: Path) -> list[bytes]:
    """What was acknowledged and is lost when all machines lose their power at once."""
    leader = cluster.lead()
    if isinstance(cluster, StockCluster):
        # Let all up to here be safe, as if the kernel had just written back everything.
        shutil.copytree(cluster.folder(leader).parent, safe)
    before = syncs.count
    wanted = commands("x", 20)
    cluster.commit(leader, *wanted)
    synced = syncs.count - before
    for node_id in sorted(cluster.founders):
        cluster.crash(node_id)
    if isinstance(cluster, StockCluster) and not synced:
        shutil.rmtree(cluster.folder(leader).parent)
        shutil.copytree(safe, cluster.folder(leader).parent)
    for node_id in sorted(cluster.founders):
        cluster.boot(node_id)
    found = cluster.history(cluster.lead())
    return [command for command in acknowledged(cluster, wanted) if command not in found]


def test_s5_stock_library_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is synced before it is acknowledged, so all of it may be lost."""
    syncs = Syncs(monkeypatch)
    with stock(tmp_path, 3) as cluster:
        assert commands("x", 20) == the_power_fails_everywhere(cluster, syncs, tmp_path / "safe")


def test_s5_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disks of this world forget whatever was not synced, and nothing acknowledged is among it."""
    with ours(tmp_path, 3) as cluster:
        assert [] == the_power_fails_everywhere(cluster, Syncs(monkeypatch), tmp_path / "safe")
        assert all(machine.disk.syncs > 0 for machine in cluster.machines.values())


# --- S6 --------------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def place_of(path: Path, index: int) -> int:
    """Where the payload of an entry is."""
    return path.read_bytes().index(b"command %d" % index)


def rot_in_a_command(path: Path) -> None:
    """One bit of a command."""
    flip(path, place_of(path, 50))


def rot_in_an_index(path: Path) -> None:
    """One bit of the index before a command: in both files it is 17 bytes before, with the type byte in between."""
    flip(path, place_of(path, 50) - 17)


def rot_in_the_head(path: Path) -> None:
    """The first byte of the file."""
    flip(path, 0)


def rot_in_a_length(path: Path) -> None:
    """A length becomes an immense one: the four bytes where each file has it."""
    data = bytearray(path.read_bytes())
    place = place_of(path, 50)
    marker = data.rfind(b"\xf5JR\n", 0, place)
    at = marker + 4 if marker >= 0 else place - 21
    data[at : at + 4] = struct.pack("<I", 2**31)
    path.write_bytes(data)


def empty(path: Path) -> None:
    """No byte is left."""
    path.write_bytes(b"")


def gone(path: Path) -> None:
    """No file is left."""
    path.unlink()


DAMAGES = [rot_in_a_command, rot_in_an_index, rot_in_the_head, rot_in_a_length, gone]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_s6_stock_library_fails(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """It opens in silence: with other commands or indexes, with half of them, or with nothing at all."""
    filled(stock_journal(tmp_path))
    damage(tmp_path / "journal")

    found = held(stock_journal(tmp_path))
    assert (found == entries(1, COUNT)) == (damage is rot_in_the_head), "only a foreign head does no harm by itself"


def test_s6_stock_library_fails_on_an_empty_file(tmp_path: Path) -> None:
    """It ends with an error of the memory map that names no file and no way out."""
    filled(stock_journal(tmp_path))
    empty(tmp_path / "journal")
    with pytest.raises(ValueError, match="empty file") as caught:
        stock_journal(tmp_path)
    assert "journal" not in str(caught.value)


def test_s6_stock_library_fails_on_a_lost_vote(tmp_path: Path) -> None:
    """A damaged file of term and vote is passed over, and the node may vote again."""
    filled(stock_journal(tmp_path))
    assert (1, "2") == term_and_vote(stock_journal(tmp_path))
    flip(tmp_path / "journal.meta", 0)
    assert (0, None) == term_and_vote(stock_journal(tmp_path))


def term_and_vote(journal: FileJournal | Journal) -> tuple[int, str | None]:
    """What a journal says of both."""
    found = journal.getCurrentTerm(), journal.getVotedForNodeId()
    journal._destroy()
    return found


def rot_in_the_vote(path: Path) -> None:
    """Ours keeps term and vote in the first records of the same file."""
    data = path.read_bytes()
    flip(path, data.index(b"\xf5JR\n", 4) + 22)


@pytest.mark.parametrize("damage", [*DAMAGES, empty, rot_in_the_vote], ids=lambda damage: damage.__name__)
def test_s6_ours(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Each is refused, by the file's name and with what to do."""
    filled(our_journal(tmp_path, create=True))
    assert entries(1, COUNT) == held(our_journal(tmp_path))
    damage(tmp_path / "journal")

    with pytest.raises(ClusterError) as caught:
        our_journal(tmp_path)
    assert ("journal-missing" if damage is gone else "journal-damaged") == caught.value.code
    assert str(tmp_path / "journal") in caught.value.message
    assert "evict the node from the cluster" in caught.value.message


# --- S7 --------------------------------------------------------------------------------------------------------------


def all_are_killed_after_a_compaction(cluster: Cluster) -> int:
    """How many of a hundred acknowledged commands are left on the best node, five seconds later."""
    leader = cluster.lead()
    wanted = commands("x", COUNT)
    cluster.commit(leader, *wanted)
    cluster.settle(lambda: all(cluster.log_first(node_id) > 50 for node_id in cluster.founders))
    assert wanted == acknowledged(cluster, wanted)
    for node_id in sorted(cluster.founders):
        cluster.crash(node_id)
    for node_id in sorted(cluster.founders):
        cluster.boot(node_id)
    cluster.run(5.0)
    return max(len(set(wanted) & set(cluster.history(node_id))) for node_id in cluster.founders)


def test_s7_stock_library_fails(tmp_path: Path) -> None:
    """With a journal and no dump, which it accepts, the compaction threw away what no file has."""
    with stock(tmp_path, 3, compaction_entries=25, fullDumpFile=None) as cluster:
        assert all_are_killed_after_a_compaction(cluster) < COUNT


def test_s7_ours(tmp_path: Path) -> None:
    """There is no such setting; all of it is there again."""
    with ours(tmp_path, 3, compaction_entries=25) as cluster:
        assert COUNT == all_are_killed_after_a_compaction(cluster)


def test_s7_a_damaged_dump_stock_library_fails(tmp_path: Path) -> None:
    """A dump that cannot be loaded is a line in the log: the node starts with an empty state, and leads."""
    with stock(tmp_path, 3, compaction_entries=25) as cluster:
        leader = cluster.lead()
        cluster.commit(leader, *commands("x", COUNT))
        cluster.settle(lambda: all(cluster.log_first(node_id) > 50 for node_id in cluster.founders))
        for node_id in sorted(cluster.founders):
            cluster.crash(node_id)
        (cluster.folder(leader) / DUMP_NAME).write_bytes(b"rot")
        assert (cluster.folder(leader) / STOCK_JOURNAL_NAME).exists()
        for node_id in sorted(cluster.founders):
            cluster.boot(node_id)
        assert cluster.run_until(lambda: cluster.claims(leader), 60.0)
        assert len(cluster.history(leader)) < COUNT


def test_s7_a_damaged_dump_ours(tmp_path: Path) -> None:
    """The node does not start, and says what to do; the two others go on with all of it."""
    with ours(tmp_path, 3, compaction_entries=25) as cluster:
        leader = cluster.lead()
        cluster.commit(leader, *commands("x", COUNT))
        cluster.settle(lambda: all(cluster.log_first(node_id) > 50 for node_id in cluster.founders))
        for node_id in sorted(cluster.founders):
            cluster.crash(node_id)
        (cluster.machines[leader].folder / SNAPSHOT_NAME).write_bytes(b"rot")
        assert (cluster.machines[leader].folder / JOURNAL_NAME).exists()
        for node_id in sorted(cluster.founders - {leader}):
            cluster.boot(node_id)
        with pytest.raises(ClusterError, match="evict the node from the cluster") as caught:
            cluster.boot(leader)
        assert "snapshot-damaged" == caught.value.code
        assert commands("x", COUNT) == cluster.history(cluster.lead())

"""Whatever happens to a journal or a snapshot: what opens has lost nothing in silence, the rest says what to do."""

from __future__ import annotations

import random
import struct
import tempfile
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc.global_update.raft.entries import Entry, command_entry_bytes
from clussvc.global_update.raft.journal import Journal, JournalIdentity
from clussvc.global_update.raft.snapshot_file import Snapshot, decode_snapshot, encode_snapshot
from clussvc.global_update.raft.storage import DiskStorage
from clussvc.model.errors import ClusterError
from clussvc.native import crc32c

IDENTITY = JournalIdentity(cluster_id="c", node_id=1, members=(1, 2, 3), joining=False)
MARKER = b"\xf5JR\n"
BATCHES = 6


def entry(index: int, term: int) -> Entry:
    """An entry that says its index and term."""
    return command_entry_bytes(b"%d of %d" % (index, term)), index, term


class Written:
    """A journal with several terms, votes, a cut and entries written again, and what it held after each sync."""

    def __init__(self, path: Path) -> None:
        self.states: list[tuple[int, str | None, list[Entry]]] = []
        journal = Journal(path, IDENTITY, DiskStorage(), create=True)
        last = 0
        for term in range(1, BATCHES + 1):
            journal.setCurrentTerm(term, str(1 + term % 3))
            if term % 3 == 0:
                journal.deleteEntriesFrom(last - 2)
                last -= 2
            for _ in range(4):
                last += 1
                journal.add(*entry(last, term))
            journal.sync()
            self.states.append((journal.getCurrentTerm(), journal.getVotedForNodeId(), journal[:]))
        journal.close()
        self.data = path.read_bytes()
        self.records = [at for at in range(len(self.data)) if self.data.startswith(MARKER, at)] + [len(self.data)]

    def record(self, number: int) -> bytes:
        """A whole record."""
        return self.data[self.records[number] : self.records[number + 1]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp("written") / "journal")


def outcome(data: bytes) -> tuple[int, str | None, list[Entry]] | ClusterError:
    """What a journal of these bytes holds, or how it is refused."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "journal"
        path.write_bytes(data)
        try:
            journal = Journal(path, IDENTITY, DiskStorage(), create=False)
        except ClusterError as error:
            return error
        found = journal.getCurrentTerm(), journal.getVotedForNodeId(), journal[:]
        journal.close()
        return found


def is_honest(written: Written, data: bytes) -> bool:
    """Whether it was refused with the way out, or holds all but the newest batch at most, and nothing else."""
    found = outcome(data)
    if isinstance(found, ClusterError):
        assert found.code == "journal-damaged"
        return "/journal is damaged" in found.message and "evict the node from the cluster" in found.message
    term, _, entries = found
    before_term, _, before = written.states[-2]
    newest = written.states[-1][2]
    kept_all_but_the_last_batch = term >= before_term and is_prefix(common(before, newest), entries)
    return kept_all_but_the_last_batch and (is_prefix(entries, newest) or is_prefix(entries, before))


def is_prefix(short: list[Entry], long: list[Entry]) -> bool:
    """Whether one list begins the other."""
    return long[: len(short)] == short


def common(one: list[Entry], other: list[Entry]) -> list[Entry]:
    """The beginning that both have."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return one[:same]


@settings(max_examples=400, deadline=None)
@given(place=st.integers(0, 10**6), change=st.integers(1, 255))
def test_a_changed_byte(written: Written, place: int, change: int) -> None:
    """Anywhere."""
    data = bytearray(written.data)
    data[place % len(data)] ^= change
    assert is_honest(written, bytes(data))


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10**6), extra=st.binary(min_size=1, max_size=80))
def test_inserted_bytes(written: Written, place: int, extra: bytes) -> None:
    """Anywhere."""
    place %= len(written.data) + 1
    assert is_honest(written, written.data[:place] + extra + written.data[place:])


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10**6), count=st.integers(1, 400))
def test_removed_bytes(written: Written, place: int, count: int) -> None:
    """Anywhere but at the end, where it cannot be told from a write that was interrupted."""
    place %= len(written.data) - 450
    if place + count < written.records[-6]:
        assert is_honest(written, written.data[:place] + written.data[place + count :])


@settings(max_examples=200, deadline=None)
@given(number=st.integers(0, 10**6), copies=st.integers(1, 3), target=st.integers(0, 10**6))
def test_a_record_that_stands_twice(written: Written, number: int, copies: int, target: int) -> None:
    """A valid record, copied to any other place before the newest batch, and behind the end."""
    number %= len(written.records) - 1
    record = written.record(number)
    places = [at for at in written.records if at <= written.records[-6]]
    place = places[target % len(places)]
    assert is_honest(written, written.data[:place] + record * copies + written.data[place:])
    if number < len(written.records) - 7:
        assert isinstance(outcome(written.data + record * copies), ClusterError)


def test_a_record_that_is_missing(written: Written) -> None:
    """Each one before the newest batch: a vote that vanished without a trace could be given twice."""
    for number in range(len(written.records) - 7):
        found = outcome(written.data[: written.records[number]] + written.data[written.records[number + 1] :])
        assert isinstance(found, ClusterError), f"record {number}"
        assert "journal-damaged" == found.code


@settings(max_examples=100, deadline=None)
@given(length=st.integers(0, 10**6))
def test_a_cut_keeps_a_beginning(written: Written, length: int) -> None:
    """What is left is what was once written; how much is gone cannot be known, as with every write-ahead log."""
    found = outcome(written.data[: length % len(written.data)])
    if isinstance(found, ClusterError):
        assert "journal-damaged" == found.code
    else:
        assert any(is_prefix(found[2], state[2]) for state in written.states)


@settings(max_examples=300, deadline=None)
@given(kind=st.integers(0, 7), payload=st.binary(max_size=60))
def test_a_valid_record_with_an_odd_payload(written: Written, kind: int, payload: bytes) -> None:
    """Its checksum fits, so it is not rot; it is read, or refused with the way out."""
    covered = struct.pack("<IQB", len(payload), len(written.data), kind)
    checksum = crc32c(payload, crc32c(covered))
    record = struct.pack("<4sIIQB", MARKER, len(payload), checksum, len(written.data), kind) + payload
    found = outcome(written.data + record)
    if isinstance(found, ClusterError):
        assert found.code in ("journal-damaged", "journal-foreign")


def test_a_lying_length_of_a_record_reserves_no_memory(written: Written) -> None:
    """Every length field claims 4 GB: refused within 1 MB."""
    data = bytearray(written.data)
    for at in written.records[1:-1]:
        data[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        assert isinstance(outcome(bytes(data)), ClusterError)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# --- snapshots -------------------------------------------------------------------------------------------------------

SNAPSHOT = Snapshot(
    cluster_id="c", previous=entry(9, 1), last=entry(10, 1), members=(1, 2, 3), applied=8, image=b"image" * 20
)
GOOD = encode_snapshot(SNAPSHOT)
HEAD_BYTES = 20


def refusal(data: bytes) -> ClusterError | None:
    """How a snapshot of these bytes is refused."""
    try:
        decode_snapshot(data, cluster_id="c", source="the-file")
    except ClusterError as error:
        found = error
    else:
        return None
    assert "the-file" in found.message
    assert "evict the node" in found.message or "data folder" in found.message
    return found


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_snapshot_file_is_refused(seed: int) -> None:
    """Changed, cut, lengthened or with bytes put in: always."""
    rng = random.Random(seed)
    place = rng.randrange(len(GOOD))
    changed = bytearray(GOOD)
    changed[place] ^= rng.randrange(1, 256)
    extra = rng.randbytes(rng.randrange(1, 40))
    for data in (bytes(changed), GOOD[:place], GOOD + extra, GOOD[:place] + extra + GOOD[place:], extra):
        error = refusal(data)
        assert error is not None
        assert "snapshot-damaged" == error.code


def sealed(body: bytes) -> bytes:
    """A body with a head that fits."""
    return struct.pack("<8sIQ", b"CLSNAP\x00\x01", crc32c(body), len(body)) + body


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=20)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(field=st.sampled_from([*SNAPSHOT.__struct_fields__, "another"]), value=anything, whole=st.booleans())
def test_a_sealed_snapshot_with_an_odd_body(field: str, value: object, whole: bool) -> None:
    """Any field of any type: it is read or refused, and nothing else is raised."""
    fields = msgspec.msgpack.decode(GOOD[HEAD_BYTES:])
    fields[field] = value
    refusal(sealed(msgspec.msgpack.encode(value if whole else fields)))


@pytest.mark.parametrize(
    "body",
    [
        GOOD[HEAD_BYTES:].replace(b"cluster_id\xa1c", b"cluster_id\xa1\xff"),
        b"\x91" * 200_000,
        b"\xdf\xff\xff\xff\xff",
        b"\x86\xaacluster_id\xdb\xff\xff\xff\xff" + bytes(1000),
    ],
    ids=["text that is none", "nesting", "lying map", "lying text"],
)
def test_bodies_that_msgpack_refuses_in_its_own_way(body: bytes) -> None:
    """Within 1 MB beyond the bytes themselves."""
    data = sealed(body)
    tracemalloc.start()
    try:
        error = refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert error is not None
    assert "snapshot-damaged" == error.code

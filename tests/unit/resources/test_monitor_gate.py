"""The gate, the call pool and the record book: small parts that everything rests on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from clussvc.model.ids import ResourceId
from clussvc.resources.monitor.deadman import StartGate
from clussvc.resources.monitor.records import Record, RecordBook
from clussvc.resources.monitor.workers import Call, CallAborted, CallBoard, CallKind, CallPool, Outcome

RES = ResourceId("a/strange name")


def test_permits_end_with_their_term() -> None:
    """A permit from before a closing is void for good; during it there are none, also when closings overlap."""
    gate = StartGate()
    before = gate.permit()
    with gate.closed():
        assert gate.permit() is None
        with gate.closed():
            pass
        assert gate.permit() is None
    after = gate.permit()
    with gate.lock:
        assert not gate.valid(before) and gate.valid(after) and not gate.valid(None)


class Pool:
    """A pool that collects outcomes."""

    def __init__(self, folder: Path) -> None:
        self.board = folder / "calls"
        self.outcomes: dict[Call, Outcome] = {}
        self.pool = CallPool(self.outcomes.__setitem__, CallBoard(self.board))

    def run(self, work: object, kind: CallKind = CallKind.ONLINE) -> Call:
        assert callable(work)
        return self.pool.submit(Call(kind, RES, work, 1000))


def test_outcomes_are_values_or_exceptions(tmp_path: Path) -> None:
    """What the work returns or raises is its outcome, and the thread lives on for the next call."""
    pool = Pool(tmp_path)
    for _ in range(3):
        good, bad = pool.run(lambda: 5), pool.run(lambda: 1 // 0)
        assert good.finished.wait(20) and bad.finished.wait(20)
        assert 5 == pool.outcomes[good]
        assert isinstance(pool.outcomes[bad], ZeroDivisionError)


def test_aborted_call_takes_no_further_step(tmp_path: Path) -> None:
    """An endless loop ends, and its outcome says that it was aborted; the board names it until then."""
    pool = Pool(tmp_path)
    running = threading.Event()

    def loop() -> None:
        while True:
            running.set()
            time.sleep(0.001)

    call = pool.run(loop)
    assert running.wait(20)
    assert (RES,) == CallBoard.read(pool.board)

    call.abort()

    assert call.finished.wait(20)
    assert isinstance(pool.outcomes[call], CallAborted)
    assert () == CallBoard.read(pool.board)


def test_hung_call_delays_nobody(tmp_path: Path) -> None:
    """Calls submitted behind a hung one run."""
    pool = Pool(tmp_path)
    release = threading.Event()
    hung = pool.run(release.wait)
    assert pool.run(lambda: None).finished.wait(20)
    assert not hung.finished.is_set()
    release.set()
    assert hung.finished.wait(20)


def test_abort_races_with_the_end(tmp_path: Path) -> None:
    """Whenever the abort strikes, the outcome is told and the pool goes on."""
    pool = Pool(tmp_path)
    for number in range(300):
        call = pool.run(lambda: sum(range(50)))
        if number % 2:
            time.sleep(0.0002)
        call.abort()
        assert call.finished.wait(20)
        assert call in pool.outcomes
    assert pool.run(lambda: 7).finished.wait(20)


def test_records_survive_and_damage_is_passed_over(tmp_path: Path) -> None:
    """A new book reads what an old one wrote; a file that is not a record is ignored."""
    record = Record(resource=RES, type="IP Address", made={"address": "10.0.0.9", "prefix": 24})
    RecordBook(tmp_path).write(record)
    (tmp_path / "state" / "broken.json").write_text("{")

    book = RecordBook(tmp_path)

    assert [record] == list(book.all())
    assert record == book.read(RES)
    book.erase(RES)
    book.erase(RES)
    assert [] == list(book.all())

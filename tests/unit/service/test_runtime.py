"""The loop's parts: the bounded inbox, and the writer behind the core's back."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from clussvc.events import Tick
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import ClusterId
from clussvc.model.records import HistoryEntry, Record
from clussvc.service import runtime
from clussvc.service.runtime import INBOX_MAX, HistoryWriter, Inbox

CONFIG = Config(cluster=ClusterId("c"), name="T")


def entry(cursor: int) -> HistoryEntry:
    return HistoryEntry(cursor=cursor, at_ms=0, record=Record(name="x", message="x", kind="node", object="x"))


class SlowStore:
    """A store that fails as often as it is told to."""

    def __init__(self, *failures: ClusterError) -> None:
        self.failures = list(failures)
        self.saved: list[tuple[int, list[int]]] = []

    def load(self) -> tuple[int, Config] | None:
        return None

    def save(self, index: int, config: Config, entries: Sequence[HistoryEntry]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.saved.append((index, [one.cursor for one in entries]))

    def history(self, *, after: int, limit: int) -> list[HistoryEntry]:
        return []

    def last_cursor(self) -> int:
        return 0

    def close(self) -> None:
        pass


def test_the_inbox_gives_events_in_order_and_in_portions() -> None:
    """Nothing is lost, nothing overtakes."""
    inbox = Inbox()
    events = [Tick() for _ in range(100)]
    for event in events:
        inbox.put(event)

    assert [*inbox.take(timeout_s=0), *inbox.take(timeout_s=0)] == events
    assert inbox.take(timeout_s=0) == []


def test_a_full_inbox_is_the_end() -> None:
    """A core that does not keep up with anything has stopped working."""
    inbox = Inbox()
    for _ in range(INBOX_MAX):
        inbox.put(Tick())
    with pytest.raises(AssertionError, match="inbox"):
        inbox.put(Tick())


def test_a_nudge_wakes_the_core_without_an_event() -> None:
    """Heartbeats are taken from the extension, which says that there are some."""
    inbox = Inbox()
    inbox.nudge()

    assert inbox.take(timeout_s=60) == []


def test_the_writer_merges_what_waits_and_writes_the_rest_at_the_end() -> None:
    """One transaction for everything that came meanwhile."""
    store = SlowStore()
    writer = HistoryWriter(store, lambda why: pytest.fail(why))
    for index in range(1, 50):
        writer.add(index, CONFIG, [entry(index)])
    writer.close()

    assert store.saved[-1][0] == 49
    assert [cursor for _, cursors in store.saved for cursor in cursors] == list(range(1, 50))


def test_what_follows_closely_is_written_together() -> None:
    """Two hundred entries of the log within a moment do not make two hundred transactions."""
    store = SlowStore()
    writer = HistoryWriter(store, lambda why: pytest.fail(why))
    writer.add(1, CONFIG, [entry(1)])
    writer.wait(after=0, wait_ms=10_000)
    begun_s = time.monotonic()
    for index in range(2, 202):
        writer.add(index, CONFIG, [entry(index)])
        time.sleep(0.001)
    took_s = time.monotonic() - begun_s
    writer.close()

    assert store.saved[0] == (1, [1]), "the first one does not wait"
    assert [cursor for _, cursors in store.saved for cursor in cursors] == list(range(1, 202))
    assert len(store.saved) <= 3 + took_s / runtime.SAVE_GAP_S


def test_a_busy_database_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is waited for; the order is kept."""
    monkeypatch.setattr(runtime, "SAVE_PAUSE_S", 0.01)
    busy = ClusterError("database-unusable", "busy", retryable=True)
    store = SlowStore(busy, busy)
    writer = HistoryWriter(store, lambda why: pytest.fail(why))
    writer.add(1, CONFIG, [entry(1)])
    writer.wait(after=0, wait_ms=10_000)
    writer.close()

    assert store.saved == [(1, [1])]


def test_a_damaged_database_ends_the_service() -> None:
    """It must not go on as if it kept its history."""
    ended = threading.Event()
    store = SlowStore(ClusterError("database-damaged", "damaged"))
    writer = HistoryWriter(store, lambda why: ended.set())
    writer.add(1, CONFIG, [])

    assert ended.wait(10)
    writer.close()

"""What every ConfigStore does, run on the one in memory and on the real one."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc import codec
from clussvc.configdb.store import SqliteConfigStore
from clussvc.model.config import Config
from clussvc.ports import ConfigStore
from tests.adapters.configdb.fake import MemoryConfigStore
from tests.adapters.configdb.values import configs, entries_at, entry, numbered


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConfigStore]:
    made: ConfigStore = MemoryConfigStore() if request.param == "memory" else SqliteConfigStore(tmp_path / "config.db")
    yield made
    made.close()


def test_an_empty_store_holds_nothing(store: ConfigStore) -> None:
    assert store.load() is None
    assert store.history(after=0, limit=10) == []
    assert store.last_cursor() == 0


def test_what_was_saved_is_loaded(store: ConfigStore) -> None:
    store.save(7, numbered(7), entries_at(7))
    assert store.load() == (7, numbered(7))


def test_the_newest_counts_and_older_ones_are_ignored(store: ConfigStore) -> None:
    store.save(8, numbered(8), [entry(8_000)])
    store.save(9, numbered(9), [entry(9_000)])
    store.save(8, numbered(8), [entry(8_001)])
    assert store.load() == (9, numbered(9))
    assert store.history(after=0, limit=10) == [entry(8_000), entry(9_000)]


def test_the_same_index_twice_is_harmless(store: ConfigStore) -> None:
    for _ in range(2):
        store.save(9, numbered(9), [entry(9_000), entry(9_001)])
    assert store.load() == (9, numbered(9))
    assert store.history(after=0, limit=10) == [entry(9_000), entry(9_001)]


def test_saving_without_events_keeps_the_history(store: ConfigStore) -> None:
    store.save(1, numbered(1), [entry(1_000)])
    store.save(500, numbered(500), [])
    assert store.history(after=0, limit=10) == [entry(1_000)]
    assert store.last_cursor() == 1_000


def test_history_is_read_in_pages_from_a_cursor(store: ConfigStore) -> None:
    written = [entry(index * 1_000 + place) for index in range(1, 30) for place in range(3)]
    for index in range(1, 30):
        store.save(index, numbered(1), [each for each in written if each.cursor // 1_000 == index])
    read = []
    after = 0
    while page := store.history(after=after, limit=10):
        assert len(page) <= 10
        read += page
        after = page[-1].cursor
    assert read == written
    assert store.last_cursor() == written[-1].cursor


@pytest.mark.parametrize(("after", "limit", "count"), [(-(2**70), 5, 5), (2**70, 5, 0), (0, 0, 1), (0, 10**9, 1_000)])
def test_bounds_of_history_are_kept(store: ConfigStore, after: int, limit: int, count: int) -> None:
    store.save(1, numbered(1), [entry(1_000 + place) for place in range(1_000)])
    store.save(2, numbered(2), [entry(2_000 + place) for place in range(10)])
    assert len(store.history(after=after, limit=limit)) == count


def test_events_are_read_while_configurations_are_saved(store: ConfigStore) -> None:
    """A reader sees a beginning of the history, without gaps and in order, at any moment."""
    seen: list[list[int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append([each.cursor for each in store.history(after=0, limit=1_000)])

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for index in range(1, 61):
        store.save(index, numbered(index), [entry(index * 1_000 + place) for place in range(3)])
    done.set()
    for reader in readers:
        reader.join(30)
        assert not reader.is_alive()
    written = [index * 1_000 + place for index in range(1, 61) for place in range(3)]
    assert seen
    for cursors in seen:
        assert cursors == written[: len(cursors)]
        assert len(cursors) % 3 == 0, "a part of a save was visible"


@given(st.lists(configs(), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_any_sequence_of_configurations_is_kept_exactly(sequence: list[Config]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.db"
        store = SqliteConfigStore(path)
        for index, config in enumerate(sequence):
            store.save(index, config, [])
        kept = store.load()
        store.close()
        again = SqliteConfigStore(path)
        loaded = again.load()
        again.close()
    for found in (kept, loaded):
        assert found is not None
        index, config = found
        assert index == len(sequence) - 1
        assert config == sequence[-1]
        assert codec.encode_config(config) == codec.encode_config(sequence[-1]), "the order of a mapping was lost"


@given(configs())
@settings(max_examples=12, deadline=None)
def test_a_change_of_order_alone_is_kept(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteConfigStore(Path(folder) / "config.db")
        store.save(1, config, [])
        turned = replace(
            config,
            groups=dict(reversed(list(config.groups.items()))),
            recent=dict(reversed(list(config.recent.items()))),
        )
        store.save(2, turned, [])
        loaded = store.load()
        store.close()
    assert loaded is not None
    assert list(loaded[1].groups) == list(turned.groups)
    assert list(loaded[1].recent) == list(turned.recent)

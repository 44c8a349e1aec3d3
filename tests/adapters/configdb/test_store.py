"""What is particular to the SQLite store: crashes, damage, old and new tables, what is written and what is not."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, Table, create_engine, event, inspect

from clussvc import codec
from clussvc.configdb import tables
from clussvc.configdb.migrations import runner
from clussvc.configdb.store import SqliteConfigStore
from clussvc.model.config import Config, FailoverRequest, FenceDevice, Group, JoinToken, Move, Network, Node, Resource
from clussvc.model.errors import ClusterError
from clussvc.model.ids import GroupId, RequestId, ResourceId
from clussvc.model.quorum import Quorum
from clussvc.model.records import Record
from clussvc.model.reports import Report
from clussvc.model.settings import Timing
from clussvc.model.states import ResourceState
from tests.adapters.configdb.values import entries_at, entry, numbered


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # Characters that have a meaning in URLs and in settings.
    folder = tmp_path / "data 100%20?#"
    folder.mkdir()
    return folder / "config.db"


@contextmanager
def opened(path: Path, **given: Any) -> Iterator[SqliteConfigStore]:
    store = SqliteConfigStore(path, **given)
    try:
        yield store
    finally:
        store.close()


def filled(path: Path, index: int = 30) -> Config:
    """A database that was in use for a while, all of it in its main file."""
    with opened(path) as store:
        for each in range(1, index + 1):
            store.save(each, numbered(each), [entry(each * 1_000 + place) for place in range(5)])
    assert not path.with_name(path.name + "-wal").exists()
    return numbered(index)


def refused(path: Path) -> ClusterError:
    """Opening or loading fails, with an error that names the file."""
    with pytest.raises(ClusterError) as caught, opened(path) as store:
        store.load()
    assert str(path) in caught.value.message
    return caught.value


# --- the layout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "table", "elsewhere"),
    [
        (
            Config,
            tables.cluster,
            {
                "timing",
                "nodes",
                "groups",
                "resources",
                "tokens",
                "fence_devices",
                "networks",
                "recent",
                "quorum",
                "witness",
            },
        ),
        (Timing, tables.cluster, set()),
        (Node, tables.nodes, set()),
        (Group, tables.groups, {"preferred_owners", "move", "failover"}),
        (Resource, tables.resources, {"depends_on", "possible_owners"}),
        (JoinToken, tables.tokens, set()),
        (FenceDevice, tables.fence_devices, set()),
        (Network, tables.networks, set()),
        (Report, tables.requests, set()),
        (Record, tables.events, set()),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_every_field_has_a_column(cls: type[Any], table: Table, elsewhere: set[str]) -> None:
    """A field that is added to the model needs a column and a migration."""
    assert {each.name for each in fields(cls)} - set(table.c.keys()) == elsewhere


def test_the_parts_of_the_quorum_have_columns() -> None:
    assert {f"quorum_{each.name}" for each in fields(Quorum)} <= set(tables.cluster.c.keys())


def test_the_parts_of_a_group_have_columns() -> None:
    assert {f"move_{each.name}" for each in fields(Move)} <= set(tables.groups.c.keys())
    assert {f"failover_{each.name}" for each in fields(FailoverRequest)} <= set(tables.groups.c.keys())


def engine_on(path: Path) -> Engine:
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(path))


def test_the_migrations_make_the_tables_of_the_code(path: Path) -> None:
    with opened(path):
        pass
    engine = engine_on(path)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        found = inspect(connection)
        assert set(found.get_table_names()) == {*tables.metadata.tables, "alembic_version"}
        # The comparison above does not look at keys.
        for table in tables.metadata.tables.values():
            key = [each.name for each in table.primary_key]
            assert found.get_pk_constraint(table.name)["constrained_columns"] == key, table.name
            targets = {each.target_fullname for each in table.foreign_keys}
            links = found.get_foreign_keys(table.name)
            assert {f"{each['referred_table']}.{each['referred_columns'][0]}" for each in links} == targets
            assert all(each["options"] == {"ondelete": "CASCADE"} for each in links)
    engine.dispose()


def test_the_code_names_the_newest_migration() -> None:
    assert runner.newest() == tables.SCHEMA_REVISION


def test_a_current_database_opens_without_the_migration_library(path: Path) -> None:
    filled(path, 3)
    program = (
        "import sys, pathlib\n"
        "from clussvc.configdb.store import SqliteConfigStore\n"
        "store = SqliteConfigStore(pathlib.Path(sys.argv[1])); loaded = store.load(); store.close()\n"
        "print(loaded[0], 'alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["3", "False"]


def test_a_database_of_the_first_release_is_brought_up_to_date(path: Path) -> None:
    """Fence devices and quarantine came later; what was stored before is kept."""
    engine = engine_on(path)
    with engine.begin() as connection:
        runner.upgrade(connection, "0001")
        connection.exec_driver_sql(f"PRAGMA application_id = {tables.APPLICATION_ID}")
        for table, values in (
            ("applied", "1, 7, 'an old digest'"),
            ("cluster", "'c-1', 'demo', '', '{}', 0, NULL, 2, 1, 'lan', 100, 500, 300, 60, 300, 1000, '[]'"),
            ("nodes", "1, 0, 'N1', '[\"10.0.0.1\"]', 3343, 0, 1, 1, 0, 0, 4, 0, 2, 1, 0, '', '', '{}'"),
        ):
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({values})")
    engine.dispose()
    with opened(path) as store:
        loaded = store.load()
    assert loaded is not None
    index, config = loaded
    assert (index, config.name, config.quarantine_threshold, config.fence_devices) == (7, "demo", 0, {})
    node = next(iter(config.nodes.values()))
    assert (node.name, node.incarnation, node.losses, node.quarantined_until_ms) == ("N1", 4, (), 0)


def test_an_interrupted_migration_leaves_no_trace(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade = runner.upgrade

    def interrupted(connection: Any) -> None:
        upgrade(connection)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(runner, "upgrade", interrupted)
    with pytest.raises(ClusterError, match="Input/output error"):
        SqliteConfigStore(path)
    monkeypatch.undo()
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert filled(path, 2) == numbered(2)


def test_the_file_is_readable_for_its_owner_only(path: Path) -> None:
    with opened(path) as store:
        store.save(1, numbered(1), [])
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert modes["config.db"] == 0o600
    assert set(modes.values()) == {0o600}


# --- what is written -------------------------------------------------------------------------------------------------


@contextmanager
def statements() -> Iterator[list[str]]:
    """The changes that are made to tables, by name, and how many rows each one has."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, text: str, rows: Any, _context: Any, many: bool) -> None:
        words = text.replace('"', "").split()
        if words[0] in ("INSERT", "UPDATE", "DELETE"):
            table = (
                words[1] if words[0] == "UPDATE" else words[words.index("INTO" if words[0] == "INSERT" else "FROM") + 1]
            )
            seen.extend([f"{words[0].lower()} {table}"] * (len(rows) if many else 1))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_only_rows_that_changed_are_written(path: Path) -> None:
    config = numbered(30)
    some = ResourceId("r10")
    changed = replace(config.resources[some], state=ResourceState.FAILED, detail="it fell over")
    recent = {key: value for number, (key, value) in enumerate(config.recent.items()) if number}
    after = replace(
        config,
        resources={**config.resources, some: changed},
        # Equal but not identical, as after decoding: not a change either.
        groups={key: replace(group) for key, group in config.groups.items()},
        recent={**recent, RequestId("new"): None},
    )
    with opened(path) as store:
        store.save(30, config, [])
        with statements() as seen:
            store.save(31, after, [entry(31_000)])
        assert store.load() == (31, after)
    assert sorted(set(seen)) == [
        "delete requests",
        "insert applied",
        "insert events",
        "insert requests",
        "update resources",
    ]
    assert seen.count("update resources") == seen.count("insert requests") == seen.count("delete requests") == 1


def test_lists_are_written_when_their_members_change(path: Path) -> None:
    config = numbered(30)
    some = ResourceId("r10")
    changed = replace(config.resources[some], depends_on=(ResourceId("r9"), ResourceId("r8")), possible_owners=None)
    after = replace(config, resources={**config.resources, some: changed})
    with opened(path) as store:
        store.save(30, config, [])
        with statements() as seen:
            store.save(31, after, [])
        assert store.load() == (31, after)
    assert ["delete dependencies", "delete possible_owners", "insert applied", "update resources"] == sorted(
        each for each in seen if each != "insert dependencies"
    )
    assert 2 == seen.count("insert dependencies")


def test_what_was_loaded_is_not_written_again(path: Path) -> None:
    filled(path, 30)
    with opened(path) as store:
        loaded = store.load()
        assert loaded is not None
        with statements() as seen:
            store.save(31, replace(loaded[1], description="new"), [])
    assert sorted(seen) == ["delete cluster", "insert applied", "insert cluster"]


def test_saving_without_loading_first_replaces_everything(path: Path) -> None:
    filled(path, 30)
    with opened(path) as store:
        store.save(31, numbered(90), [])
    with opened(path) as store:
        assert store.load() == (31, numbered(90))
        assert store.last_cursor() == 30_004


def test_an_older_index_is_ignored_after_a_restart(path: Path) -> None:
    filled(path, 30)
    with opened(path) as store:
        store.save(29, numbered(29), [])
        assert store.load() == (30, numbered(30))


def test_a_save_that_fails_changes_nothing_and_the_next_one_is_whole(path: Path) -> None:
    with opened(path) as store:
        store.save(1, numbered(1), [entry(1_000)])

        def fail(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
            if "events" in text:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error

        event.listen(Engine, "before_cursor_execute", fail)
        try:
            with pytest.raises(ClusterError, match="I/O error"):
                store.save(2, numbered(50), [entry(2_000)])
        finally:
            event.remove(Engine, "before_cursor_execute", fail)
        assert store.history(after=0, limit=10) == [entry(1_000)]
        with opened(path) as other:
            assert other.load() == (1, numbered(1))
        store.save(2, numbered(50), [entry(2_000)])
        assert store.load() == (2, numbered(50))
        assert store.history(after=0, limit=10) == [entry(1_000), entry(2_000)]


def test_a_full_disk_is_an_error_that_may_be_tried_again(path: Path) -> None:
    with opened(path) as store:
        store.save(1, numbered(1), [])
        assert store._writer is not None
        pages = store._writer.exec_driver_sql("PRAGMA page_count").scalar_one()
        store._writer.rollback()
        store._writer.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        store._writer.rollback()
        with pytest.raises(ClusterError, match="full") as caught:
            store.save(2, numbered(1), [entry(2_000 + place, "x" * 2_000) for place in range(50)])
        assert caught.value.code == "database-unusable"
        assert caught.value.retryable
        assert store.load() == (1, numbered(1))
        store._writer.exec_driver_sql("PRAGMA max_page_count = 1000000")
        store._writer.rollback()
        store.save(2, numbered(2), [entry(2_000)])
        assert store.load() == (2, numbered(2))


def test_the_history_is_bounded_and_keeps_the_newest(path: Path) -> None:
    with opened(path, events_max=200) as store:
        for index in range(1, 101):
            store.save(index, numbered(1), [entry(index * 1_000 + place) for place in range(7)])
            kept = store.history(after=0, limit=1_000)
            assert len(kept) <= 200
            assert [each.cursor for each in kept[-7:]] == [index * 1_000 + place for place in range(7)]
        assert len(kept) >= 190
        assert store.last_cursor() == 100_006
    with opened(path, events_max=200) as store:
        store.save(101, numbered(1), [entry(101_000 + place) for place in range(50)])
        assert 190 <= len(store.history(after=0, limit=1_000)) <= 200


def test_a_closed_store_says_so(path: Path) -> None:
    store = SqliteConfigStore(path)
    store.close()
    store.close()
    with pytest.raises(ClusterError, match="closed"):
        store.save(1, numbered(1), [])
    with pytest.raises(ClusterError, match="closed"):
        store.history(after=0, limit=1)


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_a_killed_process_leaves_a_consistent_database(path: Path) -> None:
    """Every save that was reported is there, whole; at most the one after it is there as well."""
    chance = random.Random(4)
    reported = 0
    for _ in range(5):
        saver = subprocess.Popen(
            [sys.executable, "-m", "tests.adapters.configdb.saver", path],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert saver.stdout is not None
        with saver.stdout:
            try:
                for _ in range(chance.randrange(5, 60)):
                    line = saver.stdout.readline()
                    assert line, "the saving process ended by itself"
                    reported = int(line)
            finally:
                saver.kill()
            rest = saver.stdout.read().split("\n")
            saver.wait(30)
        # The last line may be cut.
        reported = max([reported, *(int(line) for line in rest[:-1])])
        with opened(path) as store:
            loaded = store.load()
            assert loaded is not None
            index, config = loaded
            assert reported <= index <= reported + 1
            assert config == numbered(index)
            assert codec.config_digest(config) == codec.config_digest(numbered(index))
            expected = [each.cursor for number in range(1, index + 1) for each in entries_at(number)]
            assert [each.cursor for each in store.history(after=0, limit=1_000)] == expected[:1_000]
        reported = index


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(path: Path, part: float) -> None:
    filled(path)
    os.truncate(path, int(path.stat().st_size * part) // 512 * 512)
    error = refused(path)
    assert error.code == "database-damaged"
    assert "move" in error.message
    assert "rebuilt from the cluster's log" in error.message


def test_a_file_of_length_zero_is_an_empty_store(path: Path) -> None:
    path.touch()
    with opened(path) as store:
        assert store.load() is None


@pytest.mark.parametrize(
    "content", [b"x", b"\x00" * 4_096, b"SQLite format 3\x00" + b"\xff" * 8_000, b"# notes\n" * 999]
)
def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refused(path).code == "database-damaged"
    assert path.read_bytes() == content, "what is not ours must not be touched"


def test_the_database_of_another_product_is_refused_and_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE songs (title TEXT)")
        other.commit()
    assert refused(path).code == "database-damaged"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE alembic_version (version_num TEXT)")
        other.execute("INSERT INTO alembic_version VALUES ('0001')")
        other.commit()
    assert "another product" in refused(path).message


def test_random_damage_is_refused_or_did_no_harm(path: Path) -> None:
    """Whatever was overwritten, a configuration that the cluster did not have is never loaded."""
    config = filled(path)
    good = path.read_bytes()
    chance = random.Random(11)
    refusals: list[str] = []
    for _ in range(60):
        bad = bytearray(good)
        start, length = chance.randrange(len(bad)), chance.choice([1, 8, 64, 4_096])
        bad[start : start + length] = chance.randbytes(len(bad[start : start + length]))
        path.write_bytes(bad)
        try:
            with opened(path) as store:
                assert store.load() == (30, config)
                store.history(after=0, limit=1_000)
        except ClusterError as error:
            refusals.append(error.code)
        for left in path.parent.glob("config.db-*"):
            left.unlink()
    assert len(refusals) > 10
    assert set(refusals) <= {"database-damaged", "database-too-new"}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE resources SET restart_threshold = restart_threshold + 1 WHERE id = 'r10'",
        "UPDATE groups SET owner = 2, epoch = epoch + 1 WHERE id = 'g1'",
        "UPDATE resources SET state = 'Upside Down'",
        "UPDATE resources SET private = '{\"CommandLine\": '",
        "UPDATE nodes SET addresses = 'null'",
        "UPDATE nodes SET position = 10 - position",
        "UPDATE cluster SET name = x'ff'",
        "DELETE FROM dependencies WHERE rank = 1",
        "DELETE FROM requests WHERE position = (SELECT max(position) FROM requests)",
        "DELETE FROM cluster",
        "DROP TABLE tokens",
        "UPDATE applied SET digest = 'a' || digest",
    ],
)
def test_changes_from_outside_are_refused(path: Path, change: str) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as outside:
        outside.execute(change)
        outside.commit()
    assert refused(path).code == "database-damaged"


def test_a_damaged_event_is_an_error_of_history_alone(path: Path) -> None:
    config = filled(path)
    with closing(sqlite3.connect(path)) as outside:
        outside.execute("UPDATE events SET severity = 'odd' WHERE cursor = 7000")
        outside.commit()
    with opened(path) as store:
        assert store.load() == (30, config)
        assert len(store.history(after=7_000, limit=10)) == 10
        with pytest.raises(ClusterError, match="odd"):
            store.history(after=0, limit=1_000)


def test_moving_a_damaged_file_away_is_the_way_out(path: Path) -> None:
    config = filled(path)
    os.truncate(path, 5_000)
    refused(path)
    shutil.move(path, path.with_name("damaged.db"))
    with opened(path) as store:
        assert store.load() is None
        store.save(30, config, [])
    with opened(path) as store:
        assert store.load() == (30, config)


def test_a_newer_database_is_refused(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
        newer.commit()
    error = refused(path)
    assert error.code == "database-too-new"
    assert "9999" in error.message


def test_an_emptied_digest_is_accepted_once(path: Path) -> None:
    """What a migration leaves behind when it changes what a configuration holds."""
    filled(path)
    with closing(sqlite3.connect(path)) as migrated:
        migrated.execute("UPDATE applied SET digest = ''")
        migrated.execute("UPDATE groups SET description = 'from a migration'")
        migrated.commit()
    with opened(path) as store:
        loaded = store.load()
        assert loaded is not None
        assert loaded[1].groups[GroupId("g0")].description == "from a migration"
        store.save(31, loaded[1], [])
        assert store.load() == (31, loaded[1])


def test_a_directory_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    assert refused(path).code == "database-unusable"


def test_a_missing_folder_is_refused(path: Path) -> None:
    error = refused(path.parent / "missing" / "config.db")
    assert error.code == "database-unusable"
    assert "No such file" in error.message


def test_a_read_only_file_is_refused_and_unchanged() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.db"
        filled(path, 3)
        content = path.read_bytes()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        root = os.geteuid() == 0
        try:
            # Permissions do not bind root, so it becomes nobody for a moment.
            if root:
                os.seteuid(65_534)
            error = refused(path)
        finally:
            if root:
                os.seteuid(0)
            Path(folder).chmod(0o755)
        assert error.code == "database-unusable"
        assert path.read_bytes() == content

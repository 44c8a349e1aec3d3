"""The configuration database of one node, in SQLite.

It is not the source of truth: the log is. Therefore a commit is not flushed to the disk (``synchronous=NORMAL`` with a
write-ahead log: after a loss of power the database is whole but may lack its newest commits, and the log tells them
again), and a damaged file may simply be moved away.

Configurations never change in place, so ``save`` finds what to write by comparing objects by identity first and by
value second: its cost is a look at every object and a row for each one that changed. Every object has a digest, and the
digest over these, in the order of the objects, is stored with the log index. ``load`` refuses what does not agree with
it, so a node never starts from a configuration that the cluster did not have.

One transaction for each save. Saving and reading events use a connection and a lock each; any method may be called
from any thread, and readers never wait for a save.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, bindparam, create_engine, delete, event, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from clussvc import codec
from clussvc.configdb import tables
from clussvc.configdb.bulk import inserting, updating
from clussvc.configdb.rows import SECTIONS, Row, Section, cluster_row, event_row, make_config, make_event
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.records import HistoryEntry

EVENTS_MAX: Final = 100_000
"""How many events are kept; the oldest are deleted, a hundredth of this number at a time."""
HISTORY_LIMIT_MAX: Final = 1_000
"""How many events one call of ``history`` returns at most."""
BUSY_MS: Final = 5_000
"""How long to wait for another process that uses the file, such as a backup."""
_CURSOR_MAX: Final = 2**63 - 1

_MAGIC: Final = b"SQLite format 3\x00"
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@dataclass(slots=True)
class _Kept:
    """What the store remembers of one section between saves, to write only what changed."""

    objects: Mapping[Any, Any] = field(default_factory=dict)
    positions: dict[Any, int] = field(default_factory=dict)
    digests: dict[Any, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Changes:
    """What a save has to do to one section, and what is kept when it succeeded."""

    section: Section
    after: _Kept
    gone: list[Any]
    changed: list[Any]
    new: list[Any]
    moved: list[Any]
    """Unchanged objects that stand elsewhere in the order."""
    relisted: list[Any]
    """Changed objects whose lists have other members than before."""


class SqliteConfigStore:
    """A ConfigStore on one SQLite file, which is made when it does not exist."""

    def __init__(self, path: Path, *, events_max: int = EVENTS_MAX) -> None:
        """Open the file and bring its tables up to date.

        Raises ClusterError: ``database-damaged`` when the file is no database of this product or cannot be read,
        ``database-too-new`` when a newer release has written it, ``database-unusable`` when the system does not let us
        (permissions, a full disk, a directory in its place).
        """
        assert events_max >= 100, events_max
        self._path = path
        self._events_max = events_max
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._kept: dict[str, _Kept] | None = None
        """None: unknown, the next save writes everything."""
        self._cluster_row: Row | None = None
        self._engine = _engine(path)
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        try:
            with self._explained("opened"):
                if not _is_database_or_empty(path):
                    raise self._damaged("it is not a database")
                self._writer = self._engine.connect()
                self._prepare(self._writer)
                self._reader = self._engine.connect()
                self._index, self._last_cursor, self._event_count = self._read_marks(self._reader)
        except BaseException:
            self.close()
            raise

    # --- the port -----------------------------------------------------------------------------------------------------

    def load(self) -> tuple[int, Config] | None:
        """The newest stored configuration with its log index; None for an empty store.

        Raises ClusterError(``database-damaged``) when the file fails SQLite's check or the stored digest.
        """
        with self._write_lock, self._explained("read"):
            connection = self._open(self._writer)
            with connection.begin():
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
                if found != "ok":
                    raise self._damaged(str(found))
                mark = connection.execute(select(tables.applied)).mappings().one_or_none()
                if mark is None:
                    return None
                config, kept, row = self._read_config(connection)
            # A migration that changes what a configuration holds empties the digest; the next save writes a new one.
            if mark["digest"] not in ("", _digest(row, kept)):
                raise self._damaged("the stored configuration does not agree with its digest")
            self._kept, self._cluster_row, self._index = kept, row, mark["log_index"]
            return self._index, config

    def save(self, index: int, config: Config, entries: Sequence[HistoryEntry]) -> None:
        """Store a configuration and the events up to its index in one transaction; older indexes are ignored.

        Saving the same index again is harmless. Raises ClusterError(``database-unusable``, retryable) when nothing
        could be written, and ClusterError(``database-damaged``).
        """
        with self._write_lock, self._explained("written", reading=False):
            connection = self._open(self._writer)
            if index < self._index:
                return
            changes = [_compare(section, config, self._kept) for section in SECTIONS]
            kept = {each.section.table.name: each.after for each in changes}
            row = cluster_row(config)
            fresh = [event_row(entry) for entry in entries if entry.cursor > self._last_cursor]
            known, self._kept = self._kept is not None, None  # Unknown again, should the transaction fail.
            with connection.begin():
                if not known:
                    _clear(connection)
                for each in changes:
                    _write(connection, each)
                if not known or row != self._cluster_row:
                    connection.execute(delete(tables.cluster))
                    connection.execute(insert(tables.cluster), row)
                mark = {"id": 1, "log_index": index, "digest": _digest(row, kept)}
                connection.execute(_REPLACE_MARK, mark)
                inserting(tables.events, known=True).run(connection, fresh)
                dropped = self._drop_old_events(connection, len(fresh))
            self._kept, self._cluster_row, self._index = kept, row, index
            self._event_count += len(fresh) - dropped
            self._last_cursor = max([self._last_cursor, *(each["cursor"] for each in fresh)])

    def history(self, *, after: int, limit: int) -> list[HistoryEntry]:
        """Events with a cursor greater than ``after``, oldest first, at most ``limit`` (1..1000; others are clamped).

        Raises ClusterError(``database-damaged``, ``database-unusable``).
        """
        asked = (
            select(tables.events)
            .where(tables.events.c.cursor > max(-1, min(after, _CURSOR_MAX)))
            .order_by(tables.events.c.cursor)
            .limit(max(1, min(limit, HISTORY_LIMIT_MAX)))
        )
        with self._read_lock, self._explained("read"):
            connection = self._open(self._reader)
            with connection.begin():
                return [make_event(_plain(row)) for row in connection.execute(asked).mappings()]

    def last_cursor(self) -> int:
        """The cursor of the newest event; 0 when there is none."""
        return self._last_cursor

    def close(self) -> None:
        """Release the file, after what is under way; calling it twice is harmless."""
        with self._write_lock, self._read_lock:
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._reader = self._writer = None
            self._engine.dispose()

    # --- opening ------------------------------------------------------------------------------------------------------

    def _prepare(self, connection: Connection) -> None:
        """Make the tables, bring them up to date, or refuse the file."""
        revision = _revision(connection)
        if revision is not None and not _is_ours(connection):
            raise self._damaged("it belongs to another product")
        if revision == tables.SCHEMA_REVISION:
            return
        # Migrations need a library that takes a while to load; a current database does without.
        from clussvc.configdb.migrations import runner

        if revision is None:
            if not _is_empty(connection):
                raise self._damaged("it is not a configuration database")
        elif not runner.knows(revision):
            raise ClusterError(
                "database-too-new",
                f"the configuration database {self._path} was written by a newer release (its tables are of revision"
                f" {revision}, this release knows {tables.SCHEMA_REVISION}): install that release again, or"
                f" {_WAY_OUT.format(path=self._path)}",
            )
        with connection.begin():
            runner.upgrade(connection)
            connection.exec_driver_sql(f"PRAGMA application_id = {tables.APPLICATION_ID}")

    def _read_marks(self, connection: Connection) -> tuple[int, int, int]:
        """Index, newest cursor and number of events."""
        with connection.begin():
            index = connection.execute(select(tables.applied.c.log_index)).scalar()
            newest = connection.execute(select(func.max(tables.events.c.cursor))).scalar()
            count = connection.execute(select(func.count()).select_from(tables.events)).scalar_one()
        return (-1 if index is None else index), newest or 0, count

    def _read_config(self, connection: Connection) -> tuple[Config, dict[str, _Kept], Row]:
        row = _plain(connection.execute(select(tables.cluster)).mappings().one())
        kept = {section.table.name: _read(connection, section) for section in SECTIONS}
        config = make_config(row, {name: each.objects for name, each in kept.items()})
        return config, kept, row

    # --- writing ------------------------------------------------------------------------------------------------------

    def _drop_old_events(self, connection: Connection, added: int) -> int:
        """Keep the newest; done in steps, so that most saves need not look. Returns how many went."""
        if self._event_count + added <= self._events_max:
            return 0
        keep = self._events_max - self._events_max // 100
        newest_dropped = (
            select(tables.events.c.cursor)
            .order_by(tables.events.c.cursor.desc())
            .offset(keep)
            .limit(1)
            .scalar_subquery()
        )
        return connection.execute(delete(tables.events).where(tables.events.c.cursor <= newest_dropped)).rowcount

    # --- trouble ------------------------------------------------------------------------------------------------------

    def _open(self, connection: Connection | None) -> Connection:
        if connection is None:
            raise ClusterError("database-closed", f"the configuration database {self._path} is closed already")
        return connection

    def _damaged(self, why: str) -> ClusterError:
        return ClusterError(
            "database-damaged",
            f"the configuration database {self._path} is damaged ({why[:300]}): {_WAY_OUT.format(path=self._path)}",
        )

    @contextmanager
    def _explained(self, what: str, *, reading: bool = True) -> Iterator[None]:
        """Turn what the libraries raise into errors that name the file and the way out."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            origin = getattr(error, "orig", None) or error
            code = getattr(origin, "sqlite_errorcode", None)
            if code is None and not reading:
                raise  # A value that no table can hold: our own mistake, not the file's.
            # Tables that are not there, or hold what they should not, are damage as well.
            if code is None or code & 0xFF in _DAMAGED or code == sqlite3.SQLITE_ERROR:
                raise self._damaged(str(origin)) from error
            raise self._unusable(what, str(origin), retryable=True) from error
        except OSError as error:
            raise self._unusable(what, error.strerror or str(error)) from error
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            if not reading:
                raise
            raise self._damaged(f"a row cannot be understood: {error}") from error

    def _unusable(self, what: str, why: str, *, retryable: bool = False) -> ClusterError:
        return ClusterError(
            "database-unusable",
            f"the configuration database {self._path} cannot be {what}: {why}; make sure that it is a file in a folder"
            " that the service may write to and that the disk is not full",
            retryable=retryable,
        )


_WAY_OUT: Final = (
    "stop the service, move {path} away (with {path}-wal and {path}-shm, if there are any) and start again: the"
    " configuration is rebuilt from the cluster's log"
)


# --- connections -----------------------------------------------------------------------------------------------------


def _is_database_or_empty(path: Path) -> bool:
    """Make the file if it is not there, and look at its beginning: SQLite would write over a very short file.

    It is made readable for its owner only, and SQLite gives its companions the same permissions.
    """
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as file:
        return file.read(len(_MAGIC)) in (b"", _MAGIC)


def _engine(path: Path) -> Engine:
    # The path goes around the URL: any character of it is meant literally.
    def connect() -> sqlite3.Connection:
        # isolation_level None leaves BEGIN to us, so that changes of tables belong to transactions as well.
        return sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up(connection: Any, _record: object) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _revision(connection: Connection) -> str | None:
    """The migration that the tables are at; None when there is no such mark."""
    with connection.begin():
        marked = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
        if not connection.exec_driver_sql(marked).scalar():
            return None
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def _is_ours(connection: Connection) -> bool:
    with connection.begin():
        return connection.exec_driver_sql("PRAGMA application_id").scalar() == tables.APPLICATION_ID


def _is_empty(connection: Connection) -> bool:
    with connection.begin():
        return not connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()


# --- sections --------------------------------------------------------------------------------------------------------


def _digest(row: Row, kept: Mapping[str, _Kept]) -> str:
    """The digest over everything that is stored of a configuration, in order."""
    whole = hashlib.sha256(codec.digest_of(sorted(row.items())))
    for name, each in kept.items():
        whole.update(f"{name} {len(each.objects)} ".encode())
        whole.update(b"".join(map(each.digests.__getitem__, each.objects)))
    return whole.hexdigest()


def _compare(section: Section, config: Config, all_kept: Mapping[str, _Kept] | None) -> _Changes:
    """What differs between what is stored and what is to be."""
    kept = _Kept() if all_kept is None else all_kept[section.table.name]
    objects = section.objects(config)
    if objects is kept.objects:
        return _Changes(section=section, after=kept, gone=[], changed=[], new=[], moved=[], relisted=[])
    gone = [key for key in kept.objects if key not in objects]
    changed: list[Any] = []
    new: list[Any] = []
    relisted: list[Any] = []
    digests = dict(kept.digests)
    for key in gone:
        del digests[key]
    for key, value in objects.items():
        known = key in kept.digests
        if known and ((old := kept.objects[key]) is value or old == value):
            continue
        (changed if known else new).append(key)
        if known and section.lists and section.members(kept.objects[key]) != section.members(value):
            relisted.append(key)
        digests[key] = codec.digest_of(key, value)
    positions, moved = _place(objects, kept.positions)
    after = _Kept(objects=objects, positions=positions, digests=digests)
    touched = {*changed, *new}
    return _Changes(
        section=section,
        after=after,
        gone=gone,
        changed=changed,
        new=new,
        moved=[key for key in moved if key not in touched],
        relisted=relisted,
    )


def _place(objects: Mapping[Any, Any], before: Mapping[Any, int]) -> tuple[dict[Any, int], list[Any]]:
    """Rising positions in the order of the objects, and the known objects whose position differs.

    Nearly always objects go from anywhere and come at the end: then all others keep their positions.
    """
    positions: dict[Any, int] = {}
    last, free = -1, max(before.values(), default=-1) + 1
    for key in objects:
        place = before.get(key)
        if place is None:
            place, free = free, free + 1
        if place <= last:
            positions = {each: number for number, each in enumerate(objects, start=free)}
            return positions, [each for each in objects if each in before]
        positions[key] = last = place
    return positions, []


def _write(connection: Connection, changes: _Changes) -> None:
    section, after = changes.section, changes.after
    table, key = section.table, section.key
    where = table.c[key] == bindparam("wanted")
    if changes.gone:
        connection.execute(delete(table).where(where), [{"wanted": each} for each in changes.gone])
    if changes.moved:
        places = [{"wanted": each, "position": after.positions[each]} for each in changes.moved]
        connection.execute(update(table).where(where), places)
    if changes.changed:
        rows = [{"wanted": each, **_full_row(section, after, each)} for each in changes.changed]
        updating(table, key).run(connection, rows)
    inserting(table).run(connection, [{key: each, **_full_row(section, after, each)} for each in changes.new])
    for each in section.lists:
        if changes.relisted:
            owner = each.table.c[each.owner] == bindparam("wanted")
            connection.execute(delete(each.table).where(owner), [{"wanted": key} for key in changes.relisted])
        members = [
            {each.owner: owner_key, "rank": rank, each.member: member}
            for owner_key in (*changes.relisted, *changes.new)
            for rank, member in enumerate(section.members(after.objects[owner_key])[each.table.name])
        ]
        inserting(each.table).run(connection, members)


def _plain(row: Mapping[Any, Any]) -> Row:
    """SQLAlchemy's names of columns are texts of a class of its own."""
    return {str(name): value for name, value in row.items()}


def _full_row(section: Section, after: _Kept, key: Any) -> Row:
    return {"position": after.positions[key], **section.row(after.objects[key])}


def _read(connection: Connection, section: Section) -> _Kept:
    """One mapping of the configuration from its tables."""
    lists: dict[str, dict[Any, list[Any]]] = {}
    for each in section.lists:
        columns = each.table.c
        found = lists.setdefault(each.table.name, {})
        for owner, member in connection.execute(
            select(columns[each.owner], columns[each.member]).order_by(columns[each.owner], columns["rank"])
        ):
            found.setdefault(owner, []).append(member)
    objects: dict[Any, Any] = {}
    kept = _Kept(objects=objects)
    table: Table = section.table
    for mapping in connection.execute(select(table).order_by(table.c.position)).mappings():
        row = _plain(mapping)
        key = row[section.key]
        members = {name: tuple(found.get(key, ())) for name, found in lists.items()}
        objects[key] = section.made(key, row, members)
        kept.positions[key] = row["position"]
        kept.digests[key] = codec.digest_of(key, objects[key])
    return kept


def _clear(connection: Connection) -> None:
    """Forget the stored configuration, not the events; lists go with their owners."""
    connection.execute(delete(tables.cluster))
    for section in SECTIONS:
        connection.execute(delete(section.table))


_REPLACE_MARK: Final = insert_sqlite(tables.applied).prefix_with("OR REPLACE")

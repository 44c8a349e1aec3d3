"""Statements for many rows, compiled once: SQLAlchemy's own way spends three times longer on a row than SQLite does.

The statement, the order of its parameters and the conversion of each value come from SQLAlchemy, at the first use; the
rows then go straight to the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql.dml import UpdateBase

Convert = Callable[[Any], Any]

_DIALECT: Final = sqlite.dialect(paramstyle="qmark")
_WANTED: Final = "wanted"
"""The parameter that names the row of an UPDATE."""


class RowStatement:
    """One statement, executed for each of many rows."""

    def __init__(self, statement: UpdateBase, table: Table, names: Sequence[str], *, wanted: str | None = None) -> None:
        compiled = statement.compile(dialect=_DIALECT, column_keys=list(names))
        positions = compiled.positiontup
        assert positions is not None, "the dialect has positional parameters"
        columns = {name: table.c[name] for name in names} | ({_WANTED: table.c[wanted]} if wanted else {})
        self._text = str(compiled)
        self._parameters = [(name, _converter(columns[name].type)) for name in positions]

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it for these rows, each of which has a value for every column."""
        if rows:
            columns = [
                [row[name] for row in rows] if convert is None else [convert(row[name]) for row in rows]
                for name, convert in self._parameters
            ]
            connection.exec_driver_sql(self._text, list(zip(*columns, strict=True)))


def _converter(kind: Any) -> Convert | None:
    converter: Convert | None = kind.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    return converter


@cache
def inserting(table: Table, *, known: bool = False) -> RowStatement:
    """INSERT of whole rows; with ``known`` those whose key exists already are passed over."""
    statement = insert(table)
    return RowStatement(statement.on_conflict_do_nothing() if known else statement, table, table.c.keys())


@cache
def updating(table: Table, key: str) -> RowStatement:
    """UPDATE of all columns but the key in the row whose key is ``wanted``."""
    names = [name for name in table.c.keys() if name != key]  # noqa: SIM118 -- iterating gives columns
    return RowStatement(update(table).where(table.c[key] == bindparam(_WANTED)), table, names, wanted=key)

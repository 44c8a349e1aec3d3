"""Screens: the classic tables with their exact widths, property listings, and JSON.

Tables of cluster.exe are parsed by scripts, column by column, so their form is fixed: a title line, a blank line, the
header, dashes, rows; a name that is longer than its column pushes the rest of the row right and is never cut. The
widths are those of captured sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What a command shows: the same as text for people and as data for programs."""

    text: str
    data: Any
    status: int = 0
    """The Win32 status that the command ends with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    header: str
    width: int
    right: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The columns of one kind of table."""

    columns: tuple[Column, ...] = field(default=())

    def lines(self, rows: Iterable[Sequence[object]]) -> list[str]:
        """Header, dashes and rows, without blanks at the end of lines."""
        shown = [self._line([column.header for column in self.columns], header=True)]
        shown.append(" ".join("-" * column.width for column in self.columns))
        shown.extend(self._line([str(cell) for cell in row]) for row in rows)
        return shown

    def _line(self, cells: Sequence[str], *, header: bool = False) -> str:
        padded = [
            cell.rjust(column.width) if column.right and not header else cell.ljust(column.width)
            for cell, column in zip(cells, self.columns, strict=True)
        ]
        return " ".join(padded).rstrip()


def _table(*columns: tuple[str, int]) -> Table:
    return Table(columns=tuple(Column(header=header, width=width) for header, width in columns))


NODES: Final = Table(
    columns=(
        Column(header="Node", width=14),
        Column(header="Node ID", width=7, right=True),
        Column(header="Status", width=21),
    )
)
GROUPS: Final = _table(("Group", 20), ("Node", 15), ("Status", 6))
RESOURCES: Final = _table(("Resource", 20), ("Group", 20), ("Node", 15), ("Status", 6))
FENCES: Final = _table(("Fence Device", 20), ("Node", 15), ("Agent", 20), ("Action", 8), ("Order", 6))
RESOURCE_TYPES: Final = _table(("Resource Type", 20), ("Class", 10), ("Description", 40))
NETWORKS: Final = _table(("Network", 20), ("Status", 11))
INTERFACES: Final = _table(("Node", 14), ("Network", 20), ("Address", 15), ("Status", 11))

KIND_HEADERS: Final[Mapping[str, str]] = {
    "cluster": "Cluster",
    "node": "Node",
    "group": "Resource Group",
    "resource": "Resource",
    "fence": "Fence Device",
    "resourcetype": "Resource Type",
    "network": "Network",
    "netinterface": "Net Interface",
}
"""The header of the second column of property listings."""

KIND_WORDS: Final[Mapping[str, str]] = {
    "cluster": "cluster",
    "node": "node",
    "group": "resource group",
    "resource": "resource",
    "fence": "fence device",
    "resourcetype": "resource type",
    "network": "network",
    "netinterface": "network interface",
}
"""Kinds as sentences name them."""


def titled(title: str, lines: Iterable[str]) -> str:
    """A table under its title."""
    return "\n".join([title, "", *lines])


def property_lines(kind: str, lines: Iterable[Mapping[str, Any]], owner: str) -> list[str]:
    """A property listing: type letters, owner, name and value; lists of texts take one row each."""
    table = _table(("T", 2), (KIND_HEADERS[kind], 20), ("Name", 30), ("Value", 23))
    rows = []
    for line in lines:
        letters = f"{line['kind']}R" if line["read_only"] else line["kind"]
        first = (letters, line.get("object") or owner, line["name"])
        value = line["value"]
        for shown in value_texts(line["kind"], value):
            rows.append((*first, shown))
    return table.lines(rows)


def value_texts(kind: str, value: object) -> list[str]:
    """A property value as listings show it, one text for each row it takes."""
    if isinstance(value, list):
        return [str(part) for part in value] or [""]
    if kind == "D" and isinstance(value, int):
        return [f"{value} ({value:#x})"]
    return ["" if value is None else str(value)]


def owner_lines(header: str, names: Iterable[str]) -> list[str]:
    """A list of nodes under one header, as /listowners shows it."""
    return [header, "-" * len(header), *names]


def key_lines(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Pairs of words and values, the values in one column."""
    listed = [(key, str(value)) for key, value in pairs]
    width = max((len(key) for key, _ in listed), default=0)
    return [f"{key:<{width}}  {value}".rstrip() for key, value in listed]


def event_line(event: Mapping[str, Any]) -> str:
    """One event as one line: time (UTC), number, severity, sentence."""
    number = event["event_id"] or "-"
    message = printable(event["message"]).replace("\n", " ")
    return f"{utc(event['at_ms'])}  {number!s:>5}  {event['severity'][:4].upper():<4}  {message}"


def utc(at_ms: int) -> str:
    """A wall clock time in milliseconds as a date with milliseconds, UTC."""
    import time

    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(at_ms // 1000))}.{at_ms % 1000:03d}"


def as_json(data: object) -> str:
    """Data for programs."""
    import json

    return json.dumps(data, ensure_ascii=False, indent=2)


def printable(text: str) -> str:
    """Without control characters, which a resource's own words could carry to an administrator's terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def failure(status: int, message: str) -> str:
    """The two lines with which cluster.exe reports a failure."""
    return f"System error {status} has occurred (0x{status:08x}).\n{message}"

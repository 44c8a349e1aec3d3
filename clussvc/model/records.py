"""What is worth remembering: one line of the cluster's event history.

Records that :func:`~clussvc.global_update.apply.apply` returns are the same on every node and are numbered by their
place in the log, so a reader's cursor is valid on any node. Event numbers are the published ones of MSCS where one
exists (1069: a resource failed, 1135: a node was removed, ...), and 0 otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from clussvc.model.reports import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event, in words.

    ``name`` is the stable dotted word for programs (``group.moved``), ``message`` a whole sentence for people with the
    reason in it, ``because`` the reason alone. ``kind`` is cluster, node, group, resource or network.
    """

    name: str
    message: str
    kind: str
    object: str
    """The name of the object at that time."""
    event_id: int = 0
    severity: Severity = Severity.INFORMATION
    node: str = ""
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """A record with its place. ``cursor`` grows strictly and is comparable between nodes."""

    cursor: int
    """Log index * 1000 + position within the entry."""
    at_ms: int
    """Wall clock of the proposer, milliseconds since 1970."""
    record: Record


RECORDS_PER_ENTRY_MAX = 1_000
"""Further records of one log entry are counted in its last one; keeps cursors unique."""

"""What clients did and what they were told: one operation each, in memory and as lines of JSON.

All times are nanoseconds of one monotonic clock, that of the machine whose kernel everything shares. An operation took
effect, if at all, at one moment between its beginning and its end; one whose outcome nobody knows has no end and may
take effect at any later time, or never.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum, unique
from pathlib import Path
from typing import Any


@unique
class Kind(Enum):
    """What a client can do with a register."""

    READ = "read"
    """Read it, freshly: with everything that anybody was told of before."""
    WRITE = "write"
    """Set it, whatever it holds."""
    SWAP = "compare-and-set"
    """Set it, if it holds what is expected."""
    APPEND = "append"
    """A compare-and-set that adds an entry to the end of a list."""
    MOVE = "move a group"
    """An administrator's command beside the registers; it is counted and not checked."""


@unique
class Outcome(Enum):
    """What the client was told."""

    ACKNOWLEDGED = "acknowledged"
    DIFFERENT = "refused"
    """The register did not hold what was expected. Of a move: the cluster said no."""
    FAILED = "failed"
    """Certainly nothing was done: no node could be reached, or none that held quorum."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation on one register. ``value`` None: the register does not exist."""

    number: int
    """Unique in the history."""
    client: int
    kind: Kind
    key: str
    outcome: Outcome
    begun_ns: int
    ended_ns: int
    """Of an unknown outcome: when the client gave up; the operation itself has no end."""
    value: str | None = None
    """What was read, or was to be written; written values are unique in the history."""
    expected: str | None = None
    entry: str = ""
    """Of an append: what was added."""
    attempts: int = 1
    """How often it was sent, all under one request id."""
    told: str = ""
    """The last code that was not an acknowledgement."""


def write_history(path: Path, operations: Iterable[Operation]) -> None:
    """One line for each operation."""
    with path.open("w") as lines:
        for operation in operations:
            plain = asdict(operation) | {"kind": operation.kind.value, "outcome": operation.outcome.value}
            lines.write(json.dumps(plain) + "\n")


def read_history(path: Path) -> Iterator[Operation]:
    """The inverse of write_history, to check a history again."""
    with path.open() as lines:
        for line in lines:
            plain: dict[str, Any] = json.loads(line)
            kinds = {"kind": Kind(plain["kind"]), "outcome": Outcome(plain["outcome"])}
            yield Operation(**(plain | kinds))

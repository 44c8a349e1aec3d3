"""What resources made in the system, written down before it is made, so that a crash of the monitor leaves a trail.

One small JSON file for each resource in ``<run folder>/state``. It is not synced to the disk: a crash of the monitor
does not lose it, and a crash of the machine undoes what it describes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clussvc.model.ids import ResourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one resource made."""

    resource: ResourceId
    type: str
    made: Mapping[str, Any]


class RecordBook:
    """The records of one run folder."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / "state"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, record: Record) -> None:
        """Remember; replaces what was remembered of the resource before."""
        path = self._path(record.resource)
        text = json.dumps({"resource": record.resource, "type": record.type, "made": dict(record.made)})
        scratch = path.with_suffix(".new")
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)

    def read(self, resource: ResourceId) -> Record | None:
        """What is remembered of a resource; None: nothing."""
        return _parse(self._path(resource))

    def erase(self, resource: ResourceId) -> None:
        """It has been undone."""
        with contextlib.suppress(FileNotFoundError):
            self._path(resource).unlink()

    def all(self) -> Iterator[Record]:
        """Every record, also those of resources that this monitor was never told of."""
        for path in sorted(self._folder.glob("*.json")):
            record = _parse(path)
            if record is not None:
                yield record

    def _path(self, resource: ResourceId) -> Path:
        return self._folder / f"{quote(resource, safe='')}.json"


def _parse(path: Path) -> Record | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Record(resource=ResourceId(values["resource"]), type=values["type"], made=values["made"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

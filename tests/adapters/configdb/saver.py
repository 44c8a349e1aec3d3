"""Run as a process of its own: saves one configuration after the other until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path

from clussvc.configdb.store import SqliteConfigStore
from tests.adapters.configdb.values import entries_at, numbered


def main(path: Path) -> None:
    """Print the index after each save."""
    store = SqliteConfigStore(path)
    loaded = store.load()
    index = 0 if loaded is None else loaded[0]
    while index < 100_000:
        index += 1
        store.save(index, numbered(index), entries_at(index))
        print(index, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

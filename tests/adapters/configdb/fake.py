"""A ConfigStore in memory, for tests of other parts; it passes the same contract suite as the real one."""

from __future__ import annotations

from collections.abc import Sequence

from clussvc.model.config import Config
from clussvc.model.records import HistoryEntry


class MemoryConfigStore:
    """Keeps everything until the test ends."""

    def __init__(self) -> None:
        self._newest: tuple[int, Config] | None = None
        self._events: dict[int, HistoryEntry] = {}

    def load(self) -> tuple[int, Config] | None:
        return self._newest

    def save(self, index: int, config: Config, entries: Sequence[HistoryEntry]) -> None:
        if self._newest is not None and index < self._newest[0]:
            return
        self._newest = (index, config)
        newest = self.last_cursor()
        self._events |= {each.cursor: each for each in entries if each.cursor > newest}

    def history(self, *, after: int, limit: int) -> list[HistoryEntry]:
        found = [self._events[cursor] for cursor in sorted(self._events) if cursor > after]
        return found[: max(1, min(limit, 1_000))]

    def last_cursor(self) -> int:
        return max(self._events, default=0)

    def close(self) -> None:
        """Nothing is held."""

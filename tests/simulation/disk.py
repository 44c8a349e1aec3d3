"""A machine's disk: what is written, what of it is durable, and what a loss of power leaves.

The journal lives in memory, since it is written all the time. Snapshots are real files in a folder of the story, since
the library itself moves them about.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from clussvc.global_update.raft.raft_node import JOURNAL_NAME, SNAPSHOT_NAME
from clussvc.global_update.raft.storage import AppendFile


class Disk:
    """Implements the Storage port of the log for one machine."""

    def __init__(self, folder: Path, rng: random.Random, now_us: Callable[[], int]) -> None:
        self.folder = folder
        self._rng = rng
        self._now_us = now_us
        self._journals: dict[Path, bytearray] = {}
        self._durable: dict[Path, int] = {}
        self._snapshot_names: dict[Path, bytes | None] = {}
        self.full = False
        """Every write fails; what is there can be read and synced."""
        self.writes_left: int | None = None
        """The power goes off at the write after these; None: it does not."""
        self.stalled_until_us = -1
        """Syncs that are asked for before that time are done only then."""
        self._not_yet: list[tuple[int, Path, int]] = []
        """Syncs that a stall holds up: when they are done, and how much of the file is durable before."""

    def _operate(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "no space left on device")
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                raise OSError(errno.EIO, "the power is off")

    # --- the Storage port -------------------------------------------------------------------------------------------

    def read(self, path: Path) -> bytes | None:
        """See Storage."""
        if path in self._journals:
            return bytes(self._journals[path])
        return path.read_bytes() if path.exists() else None

    def append_to(self, path: Path, size: int) -> AppendFile:
        """See Storage."""
        del self._journals[path][size:]
        self._durable[path] = size
        self._not_yet = [waiting for waiting in self._not_yet if waiting[1] != path]
        return _JournalFile(self, path)

    def write_synced(self, path: Path, data: bytes) -> None:
        """See Storage."""
        self._operate()
        if path.name.startswith(JOURNAL_NAME):
            self._journals[path] = bytearray(data)
            self._durable[path] = len(data)
        else:
            path.write_bytes(data)

    def replace(self, path: Path, data: bytes) -> None:
        """See Storage."""
        self.sync_folder(path.parent)
        self.write_synced(path, data)
        self.sync_folder(path.parent)

    def sync_file(self, path: Path) -> None:
        """See Storage."""
        if path in self._journals:
            if self._now_us() < self.stalled_until_us:
                self._not_yet.append((self.stalled_until_us, path, self._durable.get(path, 0)))
            self._durable[path] = len(self._journals[path])

    def sync_folder(self, folder: Path) -> None:
        """See Storage."""
        snapshot = folder / SNAPSHOT_NAME
        self._snapshot_names[snapshot] = snapshot.read_bytes() if snapshot.exists() else None

    # --- what the journal file does ---------------------------------------------------------------------------------

    def append(self, path: Path, data: bytes) -> None:
        """Write at the end; a write that fails may have been done in part."""
        try:
            self._operate()
        except OSError:
            self._journals[path] += data[: self._rng.randrange(len(data) + 1)]
            raise
        self._journals[path] += data

    # --- faults -----------------------------------------------------------------------------------------------------

    def lose_power(self) -> None:
        """Leave what a loss of power leaves: what was synced, a torn rest, and perhaps not the newest names."""
        for done_us, path, durable in self._not_yet:
            if done_us > self._now_us():
                self._durable[path] = min(self._durable[path], durable)
        self._not_yet.clear()
        self.stalled_until_us = -1
        for path, content in self._journals.items():
            kept = self._rng.randint(min(self._durable.get(path, 0), len(content)), len(content))
            lost = len(content) - kept
            del content[kept:]
            if lost and self._rng.random() < 0.3:
                # The file had grown already, its last blocks had not arrived.
                content += bytes(self._rng.randint(1, lost))
            self._durable[path] = len(content)
        for path, before in self._snapshot_names.items():
            if self._rng.random() < 0.5:
                if before is None:
                    path.unlink(missing_ok=True)
                else:
                    path.write_bytes(before)
        self.writes_left = None

    def erase(self) -> None:
        """Forget everything, as a machine that is set up anew."""
        self._journals.clear()
        self._durable.clear()
        self._not_yet.clear()
        self._snapshot_names.clear()
        if self.folder.name and self.folder.exists():
            shutil.rmtree(self.folder)

    def erase_folder(self, folder: Path) -> None:
        """Forget what is in one folder."""
        for known in (self._journals, self._durable, self._snapshot_names):
            for path in [path for path in known if path.parent == folder]:
                del known[path]
        self._not_yet = [waiting for waiting in self._not_yet if waiting[1].parent != folder]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)


class _JournalFile:
    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path

    def write(self, data: bytes) -> None:
        self._disk.append(self._path, data)

    def sync(self) -> None:
        self._disk.sync_file(self._path)

    def close(self) -> None:
        """Nothing is held open."""

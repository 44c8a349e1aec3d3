"""The few file operations that the journal and the snapshots are made of, in one place.

Everything that must survive a loss of power goes through this object, so that a test can lose unsynced bytes, tear a
write or fail a disk where it likes. Nothing here retries: after a failed ``fdatasync`` the kernel may have dropped the
dirty pages, so an error is final for the process (see "fsyncgate", PostgreSQL wiki).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class AppendFile(Protocol):
    """A file that only grows at its end."""

    def write(self, data: bytes) -> None:
        """Append all of ``data``; raises OSError."""

    def sync(self) -> None:
        """Return when everything written is on stable storage; raises OSError."""

    def close(self) -> None:
        """Release the file without syncing."""


class Storage(Protocol):
    """What may be done to files; every method raises OSError when the disk does not obey."""

    def read(self, path: Path) -> bytes | None:
        """The whole file; None when there is none."""

    def append_to(self, path: Path, size: int) -> AppendFile:
        """Open an existing file for appending after cutting it to ``size`` bytes, which are on stable storage when this
        returns, whoever wrote them: a process may have died between its write and its sync."""

    def write_synced(self, path: Path, data: bytes) -> None:
        """Write a whole file (replacing it in place) and sync its content; its name is not yet durable."""

    def replace(self, path: Path, data: bytes) -> None:
        """Give ``path`` the content ``data`` atomically and durably: new file, sync, rename, sync of the folder."""

    def sync_file(self, path: Path) -> None:
        """Make the content of an existing file durable."""

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""


class DiskAppendFile:
    """An append-only file on a real disk."""

    def __init__(self, path: Path, size: int) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            if os.fstat(self._descriptor).st_size != size:
                os.ftruncate(self._descriptor, size)
            os.fsync(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class DiskStorage:
    """The real thing."""

    def read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def append_to(self, path: Path, size: int) -> AppendFile:
        return DiskAppendFile(path, size)

    def write_synced(self, path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, path: Path, data: bytes) -> None:
        # The folder is synced first as well: names that others renamed in it (the library renames its snapshot without
        # any sync) must be durable before a file that relies on them is.
        self.sync_folder(path.parent)
        fresh = path.with_name(path.name + ".new")
        self.write_synced(fresh, data)
        os.rename(fresh, path)
        self.sync_folder(path.parent)

    def sync_file(self, path: Path) -> None:
        self._sync(path, os.O_RDONLY)

    def sync_folder(self, folder: Path) -> None:
        self._sync(folder, os.O_RDONLY | os.O_DIRECTORY)

    @staticmethod
    def _sync(path: Path, flags: int) -> None:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

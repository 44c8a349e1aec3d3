"""A plain file on shared storage as a quorum disk. It has no reservations: who owns it follows from the slots alone.

The storage must give every node what another one has written, at once: a block device below a cluster file system,
NFS, or one machine's disk in tests. Reads and writes go past this machine's cache (``O_DIRECT``) where the file system
can; one that several machines share and that cannot is refused. A write is durable when it returns (``O_DSYNC``).
"""

from __future__ import annotations

import errno
import mmap
import os

from clussvc.model.errors import ClusterError
from clussvc.ports import Registrants
from clussvc.quorum.devices.facts import file_system_of
from clussvc.quorum.disk_layout import SECTOR_BYTES

BUFFER_BYTES = 1024 * 1024


def lost(name: str, error: OSError) -> ClusterError:
    """What a failed call means."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ClusterError(
            "device-unsuitable",
            f"this node may not write to the quorum disk {name}: {error.strerror}; give it the right, or choose another"
            " disk",
        )
    return ClusterError(
        "device-lost", f"quorum disk {name} does not answer: {error.strerror}; see that this node reaches the storage"
    )


class SharedFile:
    """See the module and :class:`clussvc.ports.QuorumDevice`."""

    reservations = False

    def __init__(self, path: str, more_flags: int = 0) -> None:
        """``more_flags``: of open(2). Raises ClusterError: ``device-lost``, ``device-unsuitable``."""
        self._path = path
        flags = os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC | more_flags
        self._file = -1
        try:
            try:
                self._file = os.open(path, flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._file = os.open(path, flags)
                self._without_direct_access()
            self._sectors = os.lseek(self._file, 0, os.SEEK_END) // SECTOR_BYTES
        except OSError as error:
            self._give_up()
            raise lost(path, error) from error
        except ClusterError:
            self._give_up()
            raise
        # Direct access wants memory that begins at a page.
        self._buffer = mmap.mmap(-1, BUFFER_BYTES)

    def _without_direct_access(self) -> None:
        """Harmless where only this machine has the file system, such as one in memory."""
        system = file_system_of(self._path)
        if system.shared:
            raise ClusterError(
                "device-unsuitable",
                f"{self._path} lies on a file system ({system.kind}) that knows no direct access (O_DIRECT): this node"
                " would be shown old content from its own memory. Choose a block device, or another share",
            )

    def _give_up(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    @property
    def sectors(self) -> int:
        """See QuorumDevice."""
        return self._sectors

    def read(self, sector: int, count: int) -> bytes:
        """See QuorumDevice."""
        parts = []
        at, left = sector * SECTOR_BYTES, count * SECTOR_BYTES
        try:
            while left:
                size = min(left, BUFFER_BYTES)
                with memoryview(self._buffer) as view, view[:size] as piece:
                    done = os.preadv(self._file, [piece], at)
                if done == 0 or done % SECTOR_BYTES:
                    raise OSError(errno.EIO, f"it ends after {at + done} bytes")
                parts.append(self._buffer[:done])
                at, left = at + done, left - done
        except OSError as error:
            raise lost(self._path, error) from error
        return b"".join(parts)

    def write(self, sector: int, data: bytes) -> None:
        """See QuorumDevice."""
        assert len(data) % SECTOR_BYTES == 0, len(data)
        if sector * SECTOR_BYTES + len(data) > self._sectors * SECTOR_BYTES:
            raise ClusterError("device-lost", f"quorum disk {self._path} is shorter than it was")
        at, sent = sector * SECTOR_BYTES, 0
        try:
            while sent < len(data):
                piece = data[sent : sent + BUFFER_BYTES]
                self._buffer[: len(piece)] = piece
                with memoryview(self._buffer) as view, view[: len(piece)] as ready:
                    done = self._put(ready, at + sent)
                if done == 0 or done % SECTOR_BYTES:
                    raise OSError(errno.EIO, "it takes parts of sectors only")
                sent += done
        except OSError as error:
            if error.errno == errno.EBADE:
                # So the kernel says what the device has answered: another node holds the reservation.
                raise ClusterError(
                    "reservation-conflict", f"quorum disk {self._path} refuses this node to write: another one has it"
                ) from error
            raise lost(self._path, error) from error

    def _put(self, piece: memoryview, at: int) -> int:
        return os.pwritev(self._file, [piece], at)

    def register(self, key: int) -> None:
        """Never called: there are no reservations."""
        raise AssertionError(key)

    reserve = release = clear = unregister = resume = register

    def preempt(self, key: int, victim: int) -> None:
        """Never called: there are no reservations."""
        raise AssertionError((key, victim))

    def registrants(self) -> Registrants | None:
        """See QuorumDevice."""
        return None

    def close(self) -> None:
        """See QuorumDevice."""
        os.close(self._file)
        self._buffer.close()


def create_file(path: str, size_bytes: int) -> None:
    """Make the file, full of zeros: its place is not missing later, and writing takes no work of the file system then.
    (The first write into a place that is only reserved took half as long again, on ext4.)

    Raises ClusterError(``device-unsuitable``).
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            left = size_bytes
            while left:
                left -= os.write(file, bytes(min(left, BUFFER_BYTES)))
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise ClusterError("device-unsuitable", f"cannot make {path}: {error.strerror}") from error

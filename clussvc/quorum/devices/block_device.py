"""A block device of the kernel as a quorum disk, with its persistent reservations where it has them (linux/pr.h).

Reservations are of the whole disk: the kernel offers none on partitions. A device mapper with several paths passes them
to all of its paths.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Callable
from typing import Final

from clussvc.model.errors import ClusterError
from clussvc.quorum.devices.shared_file import SharedFile, lost

_REGISTRATION = struct.Struct("=QQII")
_RESERVATION = struct.Struct("=QII")
_PREEMPT = struct.Struct("=QQII")


def _iow(number: int, size: int) -> int:
    """_IOW('p', number, size) of asm-generic/ioctl.h."""
    return 1 << 30 | size << 16 | ord("p") << 8 | number


REGISTER: Final = _iow(200, _REGISTRATION.size)
RESERVE: Final = _iow(201, _RESERVATION.size)
RELEASE: Final = _iow(202, _RESERVATION.size)
PREEMPT: Final = _iow(203, _PREEMPT.size)
CLEAR: Final = _iow(205, _RESERVATION.size)
IGNORE_KEY: Final = 1
WRITE_EXCLUSIVE_REG_ONLY: Final = 3
"""The kernel's number for what SCSI calls type 5."""
CONFLICTS: Final = (0x18, 0x83)
"""SAM-5 status RESERVATION CONFLICT, and the same of NVMe."""
NOBODYS_KEY: Final = 1

Ioctl = Callable[[int, int, bytes], int]


class BlockDevice(SharedFile):
    """See the module and :class:`clussvc.ports.QuorumDevice`."""

    def __init__(self, path: str, ioctl: Ioctl | None = None) -> None:
        """Raises ClusterError(``device-lost``)."""
        super().__init__(path)
        self._ioctl = ioctl or _ioctl_status
        self.reservations = self._knows_reservations()

    def _knows_reservations(self) -> bool:
        """Asked by releasing under a key that nobody has registered: a device that knows reservations refuses that, or
        takes no notice; nobody's reservation ends with it."""
        try:
            status = self._ioctl(self._file, RELEASE, _RESERVATION.pack(NOBODYS_KEY, WRITE_EXCLUSIVE_REG_ONLY, 0))
        except OSError as error:
            # Partitions answer EPERM or EINVAL, devices without reservations EOPNOTSUPP or ENOTTY.
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EPERM):
                return False
            raise lost(self._path, error) from error
        # A SCSI disk without reservations takes the call and answers with another status, such as CHECK CONDITION.
        return status in (0, *CONFLICTS)

    def register(self, key: int) -> None:
        """See QuorumDevice."""
        self._ask(REGISTER, _REGISTRATION.pack(0, key, IGNORE_KEY, 0), "register with")

    def reserve(self, key: int) -> None:
        """See QuorumDevice."""
        self._ask(RESERVE, _RESERVATION.pack(key, WRITE_EXCLUSIVE_REG_ONLY, 0), "reserve")

    def preempt(self, key: int, victim: int) -> None:
        """See QuorumDevice."""
        self._ask(PREEMPT, _PREEMPT.pack(victim, key, WRITE_EXCLUSIVE_REG_ONLY, 0), "take over")

    def release(self, key: int) -> None:
        """See QuorumDevice."""
        self._ask(RELEASE, _RESERVATION.pack(key, WRITE_EXCLUSIVE_REG_ONLY, 0), "release", harmless=True)

    def clear(self, key: int) -> None:
        """See QuorumDevice."""
        self._ask(CLEAR, _RESERVATION.pack(key, 0, 0), "clear the reservations of")

    def unregister(self, key: int) -> None:
        """See QuorumDevice."""
        self._ask(REGISTER, _REGISTRATION.pack(key, 0, IGNORE_KEY, 0), "leave", harmless=True)

    def _ask(self, request: int, argument: bytes, what: str, *, harmless: bool = False) -> None:
        try:
            status = self._ioctl(self._file, request, argument)
        except OSError as error:
            raise lost(self._path, error) from error
        if status in CONFLICTS:
            if harmless:
                return
            raise ClusterError("reservation-conflict", f"quorum disk {self._path} refuses to let this node {what} it")
        if status:
            raise ClusterError(
                "device-lost", f"quorum disk {self._path} answers with status {status:#x} when asked to {what} it"
            )


def _ioctl_status(file: int, request: int, argument: bytes) -> int:
    """Zero, or the status that the device has answered with.

    fcntl.ioctl gives either the changed argument or the status, never both; a buffer that may be changed makes it the
    status.
    """
    return int(fcntl.ioctl(file, request, bytearray(argument), True))

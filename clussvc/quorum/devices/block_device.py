"""A block device of the kernel as a quorum disk, with its persistent reservations where it has them (linux/pr.h).

Reservations are of the whole disk: the kernel offers none on partitions. A device mapper with several paths passes them
to all of its paths. The kernel is the registrant and remains it however often the device is opened.

The device is claimed (``O_EXCL``): while it is open, this machine mounts nothing of it, and what is mounted cannot be
opened.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Final

from clussvc.model.errors import ClusterError
from clussvc.ports import Registrants
from clussvc.quorum.devices import scsi
from clussvc.quorum.devices.facts import examine
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
CONFLICTS: Final = (0x18, 0x118, 0x83, 0x4083)
"""SAM-5 status RESERVATION CONFLICT, the same with a mark that kernels from 6.1 to 6.3 add for themselves, and the same
of NVMe, with and without its mark that repeating is of no use."""
CHECK_CONDITIONS: Final = (0x2, 0x8000002)
"""SAM-5 status CHECK CONDITION, as newer and older kernels give it. What it is about they keep to themselves."""
ATTENTIONS_MAX: Final = 8
"""A SCSI disk has this many things to say at most before it does what it is asked for (unit attentions): that others
have changed registrations, that it was reset. After each it wants to be asked again."""
NOBODYS_KEY: Final = 1

SG_IO: Final = 0x2285
NVME_ID: Final = 0x4E40
NVME_IO: Final = 0xC0484E43
_NVME_RESERVATION_REPORT: Final = 0x0E
_FROM_DEVICE: Final = -3
_SENSE_BYTES: Final = 96
_NVME_HEAD_BYTES: Final = 24
_NVME_REGISTRANT: Final = struct.Struct("<HB5xQQ")
"""Controller, whether it holds the reservation, host, key."""
ASK_TIMEOUT_MS: Final = 5_000

Ioctl = Callable[[int, int, bytearray], int]
"""As ioctl(2): the argument may be changed, and what the call returns is returned."""


class ScsiCommand(ctypes.Structure):
    """struct sg_io_hdr of scsi/sg.h."""

    _fields_ = (
        ("interface", ctypes.c_int),
        ("direction", ctypes.c_int),
        ("command_bytes", ctypes.c_ubyte),
        ("sense_bytes", ctypes.c_ubyte),
        ("pieces", ctypes.c_ushort),
        ("data_bytes", ctypes.c_uint),
        ("data", ctypes.c_void_p),
        ("command", ctypes.c_void_p),
        ("sense", ctypes.c_void_p),
        ("timeout_ms", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("message_status", ctypes.c_ubyte),
        ("sense_written", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("residual", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class NvmeCommand(ctypes.Structure):
    """struct nvme_passthru_cmd of linux/nvme_ioctl.h."""

    _fields_ = (
        ("opcode", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("reserved", ctypes.c_uint16),
        ("namespace", ctypes.c_uint32),
        ("words2", ctypes.c_uint32 * 2),
        ("metadata", ctypes.c_uint64),
        ("data", ctypes.c_uint64),
        ("metadata_bytes", ctypes.c_uint32),
        ("data_bytes", ctypes.c_uint32),
        ("words10", ctypes.c_uint32 * 6),
        ("timeout_ms", ctypes.c_uint32),
        ("result", ctypes.c_uint32),
    )


class BlockDevice(SharedFile):
    """See the module and :class:`clussvc.ports.QuorumDevice`."""

    def __init__(self, path: str, ioctl: Ioctl | None = None) -> None:
        """Raises ClusterError: ``device-lost``, ``device-unsuitable``."""
        try:
            super().__init__(path, os.O_EXCL)
        except ClusterError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY:
                used_by = examine(path).used_by or "another program, or this node's cluster service, has it open"
                raise ClusterError(
                    "device-unsuitable",
                    f"{path} is in use on this node: {used_by}. End that use, or choose another disk",
                ) from error
            raise
        self._ioctl = ioctl or _ioctl_status
        try:
            self.reservations = self._knows_reservations()
        except ClusterError:
            self.close()
            raise

    def _knows_reservations(self) -> bool:
        """Asked by releasing under a key that nobody has registered: a device that knows reservations refuses that, or
        takes no notice; nobody's reservation ends with it. Linux' own target refuses it as it would refuse an unknown
        command, and so does a SCSI disk without reservations; those are asked who is registered."""
        try:
            question = _RESERVATION.pack(NOBODYS_KEY, WRITE_EXCLUSIVE_REG_ONLY, 0)
            status = self._ioctl(self._file, RELEASE, bytearray(question))
        except OSError as error:
            # Partitions answer EPERM or EINVAL, devices without reservations EOPNOTSUPP or ENOTTY.
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EPERM):
                return False
            raise lost(self._path, error) from error
        if status in (0, *CONFLICTS):
            return True
        try:
            self._scsi_registrants()
        except OSError:
            return False
        return True

    def register(self, key: int) -> None:
        """See QuorumDevice."""
        try:
            self._ask(REGISTER, _REGISTRATION.pack(0, key, IGNORE_KEY, 0), "register with")
        except ClusterError as error:
            if error.code != "reservation-conflict":
                raise
            # NVMe tells a first registration, which has no old key, from one that takes the place of another.
            self._ask(REGISTER, _REGISTRATION.pack(key, key, IGNORE_KEY, 0), "register with")

    def reserve(self, key: int) -> None:
        """See QuorumDevice."""
        self._ask(RESERVE, _RESERVATION.pack(key, WRITE_EXCLUSIVE_REG_ONLY, 0), "reserve")

    def preempt(self, key: int, victim: int) -> None:
        """See QuorumDevice. What linux/pr.h calls the old key is that of whoever asks, and its new key is the victim's:
        so the drivers for SCSI and NVMe hand them on, whatever the kernel's documents say."""
        self._ask(PREEMPT, _PREEMPT.pack(key, victim, WRITE_EXCLUSIVE_REG_ONLY, 0), "take over")

    def release(self, key: int) -> None:
        """See QuorumDevice."""
        self._ask(RELEASE, _RESERVATION.pack(key, WRITE_EXCLUSIVE_REG_ONLY, 0), "release", harmless=True)

    def clear(self, key: int) -> None:
        """See QuorumDevice."""
        self._ask(CLEAR, _RESERVATION.pack(key, 0, 0), "clear the reservations of")

    def unregister(self, key: int) -> None:
        """See QuorumDevice."""
        self._ask(REGISTER, _REGISTRATION.pack(key, 0, IGNORE_KEY, 0), "leave", harmless=True)

    def resume(self, key: int) -> None:
        """See QuorumDevice; nothing to do, since the kernel was the registrant all the time."""

    def registrants(self) -> Registrants | None:
        """See QuorumDevice. The kernel has no call for this, so the disk is asked itself, in the words of SCSI or of
        NVMe."""
        if not self.reservations:
            return None
        try:
            return self._scsi_registrants()
        except OSError:
            pass
        try:
            return self._nvme_registrants()
        except OSError:
            return None

    def _scsi_registrants(self) -> Registrants:
        generation, keys = scsi.keys_of(self._scsi_told(scsi.persistent_reserve_in(scsi.READ_KEYS)))
        holder = scsi.holder_of(self._scsi_told(scsi.persistent_reserve_in(scsi.READ_RESERVATION)))
        return Registrants(keys=keys, holder=holder, generation=generation)

    def _scsi_told(self, command: bytes) -> bytes:
        """Raises OSError when it is no SCSI disk, or does not answer the question."""
        answer = ctypes.create_string_buffer(scsi.PERSISTENT_RESERVE_IN_BYTES)
        sense = ctypes.create_string_buffer(_SENSE_BYTES)
        words = ctypes.create_string_buffer(command, len(command))
        asked = ScsiCommand(
            interface=ord("S"),
            direction=_FROM_DEVICE,
            command_bytes=len(command),
            sense_bytes=_SENSE_BYTES,
            data_bytes=len(answer),
            data=ctypes.addressof(answer),
            command=ctypes.addressof(words),
            sense=ctypes.addressof(sense),
            timeout_ms=ASK_TIMEOUT_MS,
        )
        for _ in range(ATTENTIONS_MAX + 1):
            argument = bytearray(asked)
            failed = self._ioctl(self._file, SG_IO, argument)
            said = ScsiCommand.from_buffer(argument)
            if not (failed or said.status or said.host_status):
                return answer.raw
            if said.status not in CHECK_CONDITIONS:
                break
        raise OSError(errno.EIO, f"status {said.status:#x}, host status {said.host_status:#x}")

    def _nvme_registrants(self) -> Registrants:
        namespace = self._ioctl(self._file, NVME_ID, bytearray())
        answer = ctypes.create_string_buffer(scsi.PERSISTENT_RESERVE_IN_BYTES)
        asked = NvmeCommand(
            opcode=_NVME_RESERVATION_REPORT,
            namespace=namespace,
            data=ctypes.addressof(answer),
            data_bytes=len(answer),
            timeout_ms=ASK_TIMEOUT_MS,
        )
        # How many words of four bytes fit, less one.
        asked.words10[0] = len(answer) // 4 - 1
        if status := self._ioctl(self._file, NVME_IO, bytearray(asked)):
            raise OSError(errno.EIO, f"status {status:#x}")
        generation, kind, count = struct.unpack_from("<IBH", answer.raw)
        room = (len(answer) - _NVME_HEAD_BYTES) // _NVME_REGISTRANT.size
        keys, holder = [], 0
        for number in range(min(count, room)):
            at = _NVME_HEAD_BYTES + number * _NVME_REGISTRANT.size
            _, holds, _, key = _NVME_REGISTRANT.unpack_from(answer.raw, at)
            keys.append(key)
            if kind and holds & 1:
                holder = key
        return Registrants(keys=tuple(keys), holder=holder, generation=generation)

    def _ask(self, request: int, argument: bytes, what: str, *, harmless: bool = False) -> None:
        for _ in range(ATTENTIONS_MAX + 1):
            try:
                status = self._ioctl(self._file, request, bytearray(argument))
            except OSError as error:
                raise lost(self._path, error) from error
            if status not in CHECK_CONDITIONS:
                break
        if status in CONFLICTS:
            if harmless:
                return
            raise ClusterError("reservation-conflict", f"quorum disk {self._path} refuses to let this node {what} it")
        if status:
            raise ClusterError(
                "device-lost", f"quorum disk {self._path} answers with status {status:#x} when asked to {what} it"
            )


def _ioctl_status(file: int, request: int, argument: bytearray) -> int:
    """Zero, or the status that the device has answered with.

    fcntl.ioctl gives either the changed argument or the status, never both; a buffer that may be changed makes it the
    status.
    """
    if not argument:
        return int(fcntl.ioctl(file, request))
    return int(fcntl.ioctl(file, request, argument, True))

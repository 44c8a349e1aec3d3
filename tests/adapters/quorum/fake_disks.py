"""Quorum devices without a disk: one in memory, and the kernel's answers to a block device that has reservations.

Both are held to the contract by ``test_contract.py``.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Hashable
from pathlib import Path
from typing import Literal

from clussvc.model.errors import ClusterError
from clussvc.ports import Registrants
from clussvc.quorum.devices.block_device import (
    CLEAR,
    NVME_ID,
    NVME_IO,
    PREEMPT,
    REGISTER,
    RELEASE,
    RESERVE,
    SG_IO,
    BlockDevice,
    Ioctl,
    NvmeCommand,
    ScsiCommand,
)
from clussvc.quorum.disk_layout import SECTOR_BYTES
from tests.adapters.quorum.reservations import CONFLICT, GOOD, Reservations

NVME_CONFLICT = 0x4083
MARKED_CONFLICT = 0x118
CHECK_CONDITION = 0x2
NAMESPACE = 7


class MemoryDisk:
    """What all machines share."""

    def __init__(self, size_bytes: int, *, reservations: bool = True) -> None:
        self.content = bytearray(size_bytes)
        self.has_reservations = reservations
        self.state = Reservations()

    def open(self, machine: int) -> MemoryDevice:
        """As that machine."""
        return MemoryDevice(self, machine)


class MemoryDevice:
    """One machine's way to a disk in memory: the verified fake of the port QuorumDevice."""

    def __init__(self, disk: MemoryDisk, machine: int) -> None:
        self._disk: MemoryDisk | None = disk
        self._machine = machine
        self.reservations = disk.has_reservations

    @property
    def _open(self) -> MemoryDisk:
        if self._disk is None:
            raise ClusterError("device-lost", "it was closed")
        return self._disk

    @property
    def sectors(self) -> int:
        """See QuorumDevice."""
        return len(self._open.content) // SECTOR_BYTES

    def read(self, sector: int, count: int) -> bytes:
        """See QuorumDevice."""
        self._check(sector, count)
        return bytes(self._open.content[sector * SECTOR_BYTES : (sector + count) * SECTOR_BYTES])

    def write(self, sector: int, data: bytes) -> None:
        """See QuorumDevice."""
        self._check(sector, len(data) // SECTOR_BYTES)
        if not self._open.state.may_write(self._machine):
            _judge(CONFLICT)
        self._open.content[sector * SECTOR_BYTES : sector * SECTOR_BYTES + len(data)] = data

    def _check(self, sector: int, count: int) -> None:
        if sector + count > self.sectors:
            raise ClusterError("device-lost", "it is shorter than that")

    def register(self, key: int) -> None:
        """See QuorumDevice."""
        _judge(self._open.state.register(self._machine, 0, key, ignore=True))

    def reserve(self, key: int) -> None:
        """See QuorumDevice."""
        _judge(self._open.state.reserve(self._machine, key))

    def preempt(self, key: int, victim: int) -> None:
        """See QuorumDevice."""
        _judge(self._open.state.preempt(self._machine, key, victim))

    def release(self, key: int) -> None:
        """See QuorumDevice."""
        self._open.state.release(self._machine, key)

    def clear(self, key: int) -> None:
        """See QuorumDevice."""
        _judge(self._open.state.clear(self._machine, key))

    def unregister(self, key: int) -> None:
        """See QuorumDevice."""
        self._open.state.register(self._machine, key, 0, ignore=True)

    def resume(self, key: int) -> None:
        """See QuorumDevice."""
        _judge(self._open.state.register(self._machine, key, key, ignore=False))

    def registrants(self) -> Registrants | None:
        """See QuorumDevice."""
        state = self._open.state
        if not self.reservations:
            return None
        return Registrants(keys=tuple(state.keys.values()), holder=state.holding_key, generation=state.generation)

    def close(self) -> None:
        """See QuorumDevice."""
        self._disk = None


def _judge(status: int) -> None:
    if status != GOOD:
        raise ClusterError("reservation-conflict", "another machine has it")


class KernelDisk:
    """A file that the kernel seems to serve as a disk with reservations to several machines.

    Written from linux/pr.h, scsi/sg.h and linux/nvme_ioctl.h and the standards; ``linux`` is a SCSI disk as kernel 6.1
    shows one of its own target (``script/test-kernels``): a mark at its refusals, attentions, and no other answer to a
    stranger's release than to a command that it does not know.
    """

    def __init__(self, path: Path, kind: Literal["scsi", "linux", "nvme"]) -> None:
        self.path, self.kind = path, kind
        self.state = Reservations()
        self._attentions: set[Hashable] = set()
        """Machines that are told first that others have changed something."""
        self.tells_registrants = True

    def open(self, machine: int) -> BlockDevice:
        """As that machine."""
        return _Device(str(self.path), self, machine)

    @property
    def conflict(self) -> int:
        """How a refusal looks."""
        return {"scsi": CONFLICT, "linux": MARKED_CONFLICT, "nvme": NVME_CONFLICT}[self.kind]

    def ioctl_of(self, machine: int) -> Ioctl:
        """What that machine's kernel answers."""

        def ioctl(file: int, request: int, argument: bytearray) -> int:
            if self.kind == "linux" and machine in self._attentions:
                self._attentions.discard(machine)
                if request != SG_IO:
                    return CHECK_CONDITION
                ScsiCommand.from_buffer(argument).status = CHECK_CONDITION
                return 0
            if request in (SG_IO, NVME_ID, NVME_IO):
                return self._passed_through(request, argument)
            if self.kind == "linux" and request == RELEASE and machine not in self.state.keys:
                return CHECK_CONDITION
            status = self._persistent(machine, request, bytes(argument))
            if status == GOOD and request != RESERVE:
                self._attentions |= {other for other in self.state.keys if other != machine}
            return self.conflict if status == CONFLICT else status

        return ioctl

    def _persistent(self, machine: int, request: int, argument: bytes) -> int:
        state = self.state
        match request:
            case _ if request == REGISTER:
                old, new, flags, _ = struct.unpack("=QQII", argument)
                assert flags == 1, "register whatever was registered before"
                if self.kind == "nvme" and not old and state.keys.get(machine, new) != new:
                    return CONFLICT
                return state.register(machine, old, new, ignore=True)
            case _ if request == RESERVE:
                key, kind, _ = struct.unpack("=QII", argument)
                assert kind == 3, "write exclusive, registrants only"
                return state.reserve(machine, key)
            case _ if request == RELEASE:
                key, kind, _ = struct.unpack("=QII", argument)
                return state.release(machine, key)
            case _ if request == PREEMPT:
                key, victim, kind, _ = struct.unpack("=QQII", argument)
                assert kind == 3, "write exclusive, registrants only"
                return state.preempt(machine, key, victim)
            case _ if request == CLEAR:
                key, _, _ = struct.unpack("=QII", argument)
                return state.clear(machine, key)
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    def _passed_through(self, request: int, argument: bytearray) -> int:
        if not self.tells_registrants or (request == SG_IO) != (self.kind != "nvme"):
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        keys = list(self.state.keys.values())
        if request == NVME_ID:
            return NAMESPACE
        if request == NVME_IO:
            asked = NvmeCommand.from_buffer(argument)
            assert (asked.opcode, asked.namespace, asked.words10[0]) == (0x0E, NAMESPACE, asked.data_bytes // 4 - 1)
            answer = struct.pack("<IBH", self.state.generation, 4 * bool(self.state.holding_key), len(keys))
            answer = answer.ljust(24, b"\0")
            for machine, key in self.state.keys.items():
                answer += struct.pack("<HB5xQQ", 1, machine == self.state.holder, 0, key)
            ctypes.memmove(asked.data, answer, len(answer))
            return 0
        told = ScsiCommand.from_buffer(argument)
        assert (told.interface, told.direction) == (ord("S"), -3)
        command = ctypes.string_at(told.command, told.command_bytes)
        assert command[0] == 0x5E and int.from_bytes(command[7:9]) == told.data_bytes
        if command[1] == 0:
            answer = struct.pack(f">II{len(keys)}Q", self.state.generation, 8 * len(keys), *keys)
        elif self.state.holding_key:
            answer = struct.pack(">IIQIBBH", self.state.generation, 16, self.state.holding_key, 0, 0, 5, 0)
        else:
            answer = struct.pack(">II", self.state.generation, 0)
        ctypes.memmove(told.data, answer, len(answer))
        return 0


class _Device(BlockDevice):
    def __init__(self, path: str, disk: KernelDisk, machine: int) -> None:
        self._disk, self._machine = disk, machine
        super().__init__(path, disk.ioctl_of(machine))

    def _put(self, piece: memoryview, at: int) -> int:
        if not self._disk.state.may_write(self._machine):
            # So the kernel says that the device has answered RESERVATION CONFLICT.
            raise OSError(errno.EBADE, "Invalid exchange")
        return super()._put(piece, at)

"""What is said to SCSI disks, and how their answers are read (SPC-4, SBC-3), whatever carries it.

Values only: who sends the command, over a network or through the kernel, is another module.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

GOOD: Final = 0x00
CHECK_CONDITION: Final = 0x02
BUSY: Final = 0x08
CONFLICT: Final = 0x18
"""RESERVATION CONFLICT."""
TASK_SET_FULL: Final = 0x28

NOT_READY: Final = 0x2
ILLEGAL_REQUEST: Final = 0x5
UNIT_ATTENTION: Final = 0x6
ABORTED_COMMAND: Final = 0xB
"""Sense keys: it is not ready yet, does not know what was asked, has something else to say first, gave up."""

REGISTER: Final = 0
RESERVE: Final = 1
RELEASE: Final = 2
CLEAR: Final = 3
PREEMPT: Final = 4
REGISTER_AND_IGNORE: Final = 6
READ_KEYS: Final = 0
READ_RESERVATION: Final = 1
WRITE_EXCLUSIVE_REGISTRANTS: Final = 5
"""Everybody may read, registrants may write."""

CACHING_PAGE: Final = 0x08
PERSISTENT_RESERVE_IN_BYTES: Final = 8_192
"""Room for the keys of a thousand registrants; a quorum disk has 127 at most."""
MODE_SENSE_BYTES: Final = 192
CAPACITY_BYTES: Final = 32

_RESERVE_OUT = struct.Struct(">QQIBBH")
_SENSE = re.compile(r"SENSE KEY:.*?\((?P<key>\d+)\) ASCQ:.*?\(0x(?P<ascq>[0-9a-fA-F]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sense:
    """Why a command was answered with CHECK CONDITION."""

    key: int
    ascq: int
    """Additional sense code and qualifier, such as 0x2000: the command is not known."""

    @property
    def again(self) -> bool:
        """Whether the same command may succeed if it is sent again."""
        return self.key in (UNIT_ATTENTION, ABORTED_COMMAND) or (self.key == NOT_READY and self.ascq == 0x0401)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """How a disk treats what is written."""

    fua: bool
    """It obeys when a single write is to be forced to the medium (DPOFUA)."""
    volatile: bool
    """It may keep what was written in memory for a while (WCE)."""


def sense_of(text: str) -> Sense | None:
    """The sense in the words of libiscsi; None if there is none in them."""
    found = _SENSE.search(text)
    return Sense(key=int(found["key"]), ascq=int(found["ascq"], 16)) if found else None


# --- commands --------------------------------------------------------------------------------------------------------


def read_capacity() -> bytes:
    """READ CAPACITY (16)."""
    return struct.pack(">BBQIBB", 0x9E, 0x10, 0, CAPACITY_BYTES, 0, 0)


def mode_sense(page: int) -> bytes:
    """MODE SENSE (6), without block descriptors."""
    return struct.pack(">BBBBBB", 0x1A, 0x08, page, 0, MODE_SENSE_BYTES, 0)


def read(block: int, blocks: int) -> bytes:
    """READ (16)."""
    return struct.pack(">BBQIBB", 0x88, 0, block, blocks, 0, 0)


def write(block: int, blocks: int, *, fua: bool) -> bytes:
    """WRITE (16); ``fua``: it is to be on the medium when it is answered."""
    return struct.pack(">BBQIBB", 0x8A, 0x08 if fua else 0, block, blocks, 0, 0)


def synchronize_cache(*, short: bool = False) -> bytes:
    """SYNCHRONIZE CACHE (16) of the whole disk; ``short``: its older form of 10 bytes."""
    if short:
        return struct.pack(">BBIBHB", 0x35, 0, 0, 0, 0, 0)
    return struct.pack(">BBQIBB", 0x91, 0, 0, 0, 0, 0)


def persistent_reserve_in(action: int) -> bytes:
    """PERSISTENT RESERVE IN: who is registered, or who holds the reservation."""
    return struct.pack(">BBBBBBBHB", 0x5E, action, 0, 0, 0, 0, 0, PERSISTENT_RESERVE_IN_BYTES, 0)


def persistent_reserve_out(action: int) -> bytes:
    """PERSISTENT RESERVE OUT; what it is about goes with it, see :func:`reserve_parameters`."""
    return struct.pack(">BBBBBIB", 0x5F, action, WRITE_EXCLUSIVE_REGISTRANTS, 0, 0, _RESERVE_OUT.size, 0)


def reserve_parameters(key: int, other: int, *, persistent: bool) -> bytes:
    """The own key, the new or the victim's key, and whether registrations outlive a loss of power (APTPL)."""
    return _RESERVE_OUT.pack(key, other, 0, int(persistent), 0, 0)


# --- answers ---------------------------------------------------------------------------------------------------------


def capacity_of(answer: bytes) -> tuple[int, int]:
    """Bytes of a block, and how many blocks there are."""
    last, size = struct.unpack_from(">QI", answer)
    return size, last + 1


def caching_of(answer: bytes) -> Caching | None:
    """From the caching page; None if the disk has told nothing that can be understood."""
    if len(answer) < 4:
        return None
    at = 4 + answer[3]
    if len(answer) < at + 3 or answer[at] & 0x3F != CACHING_PAGE:
        return None
    return Caching(fua=bool(answer[2] & 0x10), volatile=bool(answer[at + 2] & 0x04))


def keys_of(answer: bytes) -> tuple[int, tuple[int, ...]]:
    """READ KEYS: a number that every change raises, and the keys of all registrants."""
    generation, length = struct.unpack_from(">II", answer)
    count = min(length, len(answer) - 8) // 8
    return generation, struct.unpack_from(f">{count}Q", answer, 8)


def holder_of(answer: bytes) -> int:
    """READ RESERVATION: the key that holds the reservation; 0: nobody does."""
    _, length = struct.unpack_from(">II", answer)
    return int(struct.unpack_from(">Q", answer, 8)[0]) if length >= 16 else 0

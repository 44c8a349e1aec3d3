"""Until when the lease runs, in a few bytes of memory that the service and one monitor share.

Feeding the deadman through the connection would make it depend on the monitor's main loop, which may have five hundred
commands before it, on a machine that has other work; and it would wake four threads ten times a second. So the service
*writes* the end of the lease, and the deadman reads it when the end that it knew has come. Only the first lease, and
one after a gap, is sent as a command, since somebody has to set the timer.

The word also counts the gaps: a lease that ended before the next one was written must not look like one that went on.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

_GAP_BITS: Final = 16
_UNTIL_BITS: Final = 64 - _GAP_BITS


class LeaseWord:
    """The word, mapped into this process. One process writes, and one reads; either may do so from any thread."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory behind the descriptor, which stays open."""
        memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._word = ctypes.c_uint64.from_buffer(memory)
        self._budget = ctypes.c_uint64.from_buffer(memory, ctypes.sizeof(ctypes.c_uint64))

    def write(self, gaps: int, until_ms: int) -> None:
        """The lease runs until then (CLOCK_BOOTTIME), and has had so many gaps (counted modulo 65536)."""
        # Aligned to eight bytes, it is written in one step on every machine with 64 bits.
        self._word.value = (gaps % (1 << _GAP_BITS)) << _UNTIL_BITS | max(until_ms, 0)

    def read(self) -> tuple[int, int]:
        """Gaps, and until when."""
        word = self._word.value
        return word >> _UNTIL_BITS, word & ((1 << _UNTIL_BITS) - 1)

    @property
    def budget_ms(self) -> int:
        """How long ending everything may take after the end of the lease; 0 as long as nobody has said so."""
        return self._budget.value

    @budget_ms.setter
    def budget_ms(self, value: int) -> None:
        self._budget.value = max(value, 0)


def make_lease_memory() -> int:
    """A descriptor of new memory for a word that says: no lease."""
    descriptor = os.memfd_create("clussvc-lease", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, mmap.PAGESIZE)
    return descriptor

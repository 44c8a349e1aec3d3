"""Until when the lease runs, in eight bytes of memory that the service and one monitor share.

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
        self._word = ctypes.c_uint64.from_buffer(mmap.mmap(descriptor, mmap.PAGESIZE))

    def write(self, gaps: int, until_ms: int) -> None:
        """The lease runs until then (CLOCK_BOOTTIME), and has had so many gaps (counted modulo 65536)."""
        # Aligned to eight bytes, it is written in one step on every machine with 64 bits.
        self._word.value = (gaps % (1 << _GAP_BITS)) << _UNTIL_BITS | max(until_ms, 0)

    def read(self) -> tuple[int, int]:
        """Gaps, and until when."""
        word = self._word.value
        return word >> _UNTIL_BITS, word & ((1 << _UNTIL_BITS) - 1)


def make_lease_memory() -> int:
    """A descriptor of new memory for a word that says: no lease."""
    descriptor = os.memfd_create("clussvc-lease", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, mmap.PAGESIZE)
    return descriptor

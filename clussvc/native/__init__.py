"""The compiled extension: checksums of the journal, and heartbeats in a thread that never waits for the interpreter.

There is no fall-back in Python: the extension is part of the build, and a product without it would only look as if it
worked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clussvc.native._native import HeartbeatTuple as HeartbeatTuple

try:
    from clussvc.native._native import Heartbeats, crc32c, crc32c_by_tables, lock_memory, siphash128
except ImportError as error:
    raise ImportError(
        "the compiled extension clussvc.native._native is missing; run script/demo, or"
        " 'pip install .' in the clone with a C compiler and the Python headers installed"
    ) from error

__all__ = ["Heartbeats", "crc32c", "crc32c_by_tables", "lock_memory", "siphash128"]

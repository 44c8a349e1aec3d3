"""The compiled extension: checksums of the journal, heartbeats in a thread that never waits for the interpreter, the
packet filter of load balancing.

There is no fall-back in Python: the extension is part of the build, and a product without it would only look as if it
worked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clussvc.native._native import HeartbeatTuple as HeartbeatTuple
    from clussvc.native._native import NlbFlowTuple as NlbFlowTuple

try:
    from clussvc.native._native import (
        NLB_REASONS,
        Heartbeats,
        NlbFlows,
        NlbProgram,
        NlbTable,
        crc32c,
        crc32c_by_tables,
        lock_memory,
        siphash128,
    )
except ImportError as error:
    raise ImportError(
        "the compiled extension clussvc.native._native is missing; run script/demo, or"
        " 'pip install .' in the clone with a C compiler and the Python headers installed"
    ) from error

__all__ = [
    "NLB_REASONS",
    "Heartbeats",
    "NlbFlows",
    "NlbProgram",
    "NlbTable",
    "crc32c",
    "crc32c_by_tables",
    "lock_memory",
    "siphash128",
]

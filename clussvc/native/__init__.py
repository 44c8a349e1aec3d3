"""The compiled extension: checksums of the journal and tags of heartbeats.

There is no fall-back in Python: the extension is part of the build, and a product without it would only look as if it
worked.
"""

from __future__ import annotations

try:
    from clussvc.native._native import crc32c, crc32c_by_tables, siphash128
except ImportError as error:
    raise ImportError(
        "the compiled extension clussvc.native._native is missing; run script/demo, or"
        " 'pip install .' in the clone with a C compiler and the Python headers installed"
    ) from error

__all__ = ["crc32c", "crc32c_by_tables", "siphash128"]

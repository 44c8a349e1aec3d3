"""The application of the demonstration: it counts on where the last one stopped, in a file that all nodes can reach.

``worker.py FILE`` appends ``NODE NUMBER`` to the file ten times a second. A cluster must never run two of them at once:
the same number twice in the file would show it.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

INTERVAL_S = 0.1
TAIL_BYTES = 256


def last_number(path: Path) -> int:
    """The number of the last whole line; 0 in a new file."""
    if not path.exists():
        return 0
    with path.open("rb") as lines:
        lines.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        whole = lines.read().split(b"\n")[:-1]
    return int(whole[-1].split()[-1]) if whole else 0


def main() -> None:
    """Count until killed."""
    path = Path(sys.argv[1])
    number = last_number(path)
    node = socket.gethostname()
    # One write of O_APPEND per line: a kill leaves whole lines only.
    output = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    while True:
        number += 1
        os.write(output, f"{node} {number}\n".encode())
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()

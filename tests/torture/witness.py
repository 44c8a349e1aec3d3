"""The resource whose online intervals are recorded: it writes that it lives, into one file for all nodes.

``witness.py FILE NAME`` appends a line ``NAME NODE INSTANCE WORD TIME`` when it starts, every 25 ms while it runs, and
when it is asked to end (SIGTERM). Each line is one write with O_APPEND, so lines are whole, and their order in the file
is the order in which they were written, on whichever machine. INSTANCE tells two lives of it apart. TIME is
CLOCK_BOOTTIME in nanoseconds, which is the same clock on all machines of the lab, since they share a kernel.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from types import FrameType

INTERVAL_S = 0.025


def main() -> None:
    """Write until asked to end, or killed."""
    path, name = sys.argv[1:3]
    node = socket.gethostname()
    output = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    instance = f"{node}-{_now_ns()}"

    def say(word: str) -> None:
        os.write(output, f"{name} {node} {instance} {word} {_now_ns()}\n".encode())

    def end(_number: int, _frame: FrameType | None) -> None:
        say("end")
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    say("start")
    while True:
        time.sleep(INTERVAL_S)
        say("alive")


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    main()

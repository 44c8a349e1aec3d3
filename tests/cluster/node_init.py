"""PID 1 of a virtual machine: names it, gives it an empty /run, reaps orphans, and ends when the lab ends.

Started as ``node_init.py NAME`` in fresh network, PID, mount, UTS and IPC namespaces. It says ``ready`` on its standard
output. Its standard input is the lifeline: nothing is ever written there, and its end, which comes however the lab
ends, is the end of this process and so of every other one in the PID namespace.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

REAP_INTERVAL_MS = 200
"""Orphans are not urgent; this bounds how long one stays a zombie."""


def main() -> int:
    """Set the machine up, then reap until the lifeline ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    socket.sethostname(sys.argv[1])
    for words in (("mount", "-t", "tmpfs", "tmpfs", "/run"), ("ip", "link", "set", "lo", "up")):
        subprocess.run(words, check=True)
    os.write(1, b"ready\n")
    lifeline = select.poll()
    lifeline.register(0, select.POLLIN | select.POLLHUP)
    while not lifeline.poll(REAP_INTERVAL_MS):
        reap()
    return 0


def reap() -> None:
    """Take the exit status of every child that has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    sys.exit(main())

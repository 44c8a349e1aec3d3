"""What the service takes of the machine, and what it says when it may not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAY = """
import os
from clussvc.service.priority import give_priority_back, take_priority
print("\\n".join(take_priority()))
print("policy", os.sched_getscheduler(0))
give_priority_back()
print("policy", os.sched_getscheduler(0))
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give privileges up")


def run(*before: str) -> list[str]:
    done = subprocess.run([*before, sys.executable, "-c", SAY], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


@needs_root
def test_a_machine_that_permits_nothing_is_told_of() -> None:
    """Both sentences name what is missing, what follows, and the way out; the service goes on as it is."""
    lines = run("setpriv", "--bounding-set", "-sys_nice,-sys_resource,-ipc_lock")

    assert "no real-time priority" in lines[0]
    assert "CAP_SYS_NICE" in lines[0]
    assert "memory is not locked" in lines[1]
    assert "CAP_SYS_RESOURCE" in lines[1]
    assert lines[2:4] == [f"policy {os.SCHED_OTHER}"] * 2


@needs_root
def test_priority_is_taken_and_given_back() -> None:
    """Monitors run what administrators wrote, and not with the service's priority."""
    lines = run()
    if "no real-time priority" in lines[0]:
        pytest.skip("this machine permits no real-time priority")

    assert f"policy {os.SCHED_RR}" in lines
    assert lines[-2] == f"policy {os.SCHED_OTHER}"

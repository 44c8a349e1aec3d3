"""What the service takes of the machine, and what it says when it may not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAY = """
import os, sys
from clussvc.service.priority import give_priority_back, take_priority
print("\\n".join(take_priority(int(sys.argv[1]))))
print("policy", os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))
give_priority_back()
print("policy", os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give privileges up")


def run(lease_ms: int, *before: str) -> list[str]:
    done = subprocess.run(
        [*before, sys.executable, "-c", SAY, str(lease_ms)], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\n")


@needs_root
@pytest.mark.parametrize(("lease_ms", "kind"), [(100, "real-time priority"), (500, "priority over others")])
def test_a_machine_that_permits_nothing_is_told_of(lease_ms: int, kind: str) -> None:
    """Both sentences name what is missing, what follows, and the way out; the service goes on as it is."""
    lines = run(lease_ms, "setpriv", "--bounding-set", "-sys_nice,-sys_resource,-ipc_lock")

    assert f"no {kind}" in lines[0]
    assert "CAP_SYS_NICE" in lines[0]
    assert "memory is not locked" in lines[1]
    assert "CAP_SYS_RESOURCE" in lines[1]
    assert len(set(lines[2:4])) == 1


@needs_root
@pytest.mark.parametrize(
    ("lease_ms", "taken"), [(100, f"policy {os.SCHED_RR} 0"), (500, f"policy {os.SCHED_OTHER} -10")]
)
def test_priority_is_taken_and_given_back(lease_ms: int, taken: str) -> None:
    """Real-time only where the lease is short. Monitors run what administrators wrote, and not with the priority."""
    lines = run(lease_ms, "nice", "-n", "0")
    if "priority (" in lines[0]:
        pytest.skip("this machine permits no priority")

    assert taken in lines
    assert lines[-2] == f"policy {os.SCHED_OTHER} 0"


CHANGE = """
import os, threading
from clussvc.service.priority import change_priority, take_priority
def policies():
    threads = map(int, os.listdir("/proc/self/task"))
    return sorted((os.sched_getscheduler(each), os.getpriority(os.PRIO_PROCESS, each)) for each in threads)
end = threading.Event()
if any("priority" in each for each in take_priority(500)):
    raise SystemExit(77)
threading.Thread(target=end.wait).start()
def native():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    ready.set()
    end.wait()
ready = threading.Event()
threading.Thread(target=native).start()
ready.wait()
for lease_ms in (500, 100, 500):
    assert change_priority(lease_ms) == ()
    print(policies())
end.set()
"""


def test_every_thread_follows_another_lease() -> None:
    """But the one of the heartbeats, which has a higher priority in any case."""
    done = subprocess.run(
        ["nice", "-n", "0", sys.executable, "-c", CHANGE], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("this machine permits no priority")
    ordinary, native = (os.SCHED_OTHER, -10), (os.SCHED_FIFO, -10)
    realtime = (os.SCHED_RR, -10)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        str(sorted([ordinary, ordinary, native])),
        str(sorted([realtime, realtime, native])),
        str(sorted([ordinary, ordinary, native])),
    ]

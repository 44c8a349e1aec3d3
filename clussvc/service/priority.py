"""Keeping on time on a busy machine: priority and locked memory for the whole service.

Any thread of the service may hold the interpreter's lock when the core needs it, so one thread alone with a high
priority would wait for the others; all of them get the same. With a lease of a tenth of a second that is the lowest
real-time priority. With longer ones it is a better nice value: a service with much to do (a thousand resources that
start at once) must not keep everything else from running, its own monitors among them.

A service takes the real-time priority when it asks to be admitted, and not while it starts: that takes a processor for
half a second, and whatever else on this machine has such a priority would wait for it.

The native thread of the heartbeats has real-time priority in any case; it needs microseconds. Resource monitors give
the priority back when they start.
"""

from __future__ import annotations

import contextlib
import os

from clussvc.native import lock_memory

SERVICE_PRIORITY = 1
SERVICE_NICE = -10
REALTIME_BELOW_MS = 200
"""With a shorter lease than this, the delays of an ordinary scheduler on a busy machine would end it."""


def take_priority(lease_ms: int) -> tuple[str, ...]:
    """Take what the system permits; the answer says, in sentences, what it does not permit and what follows.

    Must be called before other threads are started: they inherit it.
    """
    missing = list(_take(0, lease_ms))
    refused = lock_memory()
    if refused:
        missing.append(
            f"the service's memory is not locked ({refused}), so a machine that swaps may make the node look dead;"
            " give it CAP_SYS_RESOURCE or an unlimited RLIMIT_MEMLOCK"
        )
    return tuple(missing)


def change_priority(lease_ms: int) -> tuple[str, ...]:
    """Take what another lease asks for, for every thread that runs; the answer is that of take_priority."""
    for name in os.listdir("/proc/self/task"):
        thread = int(name)
        with contextlib.suppress(ProcessLookupError):
            # The thread of the heartbeats has a higher one of its own, whatever the lease.
            if os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO:
                continue
            if missing := _take(thread, lease_ms):
                return missing
    return ()


def _take(thread: int, lease_ms: int) -> tuple[str, ...]:
    try:
        if lease_ms < REALTIME_BELOW_MS:
            os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(SERVICE_PRIORITY))
        else:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, thread, SERVICE_NICE)
    except ProcessLookupError:
        raise
    except OSError as error:
        kind = "real-time priority" if lease_ms < REALTIME_BELOW_MS else "priority over others"
        return (
            f"the service has no {kind} ({error.strerror}), so a busy machine may make the node look dead;"
            " give it CAP_SYS_NICE, or choose a timing profile with longer times",
        )
    return ()


def give_priority_back() -> None:
    """Run as an ordinary process again; for children of the service."""
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except OSError:  # pragma: no cover -- nobody forbids a process to have less
        return

"""Keeping on time on a busy machine: real-time priority and locked memory for the whole service.

Every thread of the service may hold the interpreter's lock when the core needs it, so one thread alone with a high
priority would wait for the others; all of them get the lowest real-time priority, as other cluster managers do. The
native thread of the heartbeats has a higher one. Resource monitors give the priority back when they start.
"""

from __future__ import annotations

import os

from clussvc.native import lock_memory

SERVICE_PRIORITY = 1


def take_priority() -> tuple[str, ...]:
    """Take what the system permits; the answer says, in sentences, what it does not permit and what follows.

    Must be called before other threads are started: they inherit it.
    """
    missing = []
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(SERVICE_PRIORITY))
    except OSError as error:
        missing.append(
            f"the service has no real-time priority ({error.strerror}), so a busy machine may make the node look dead;"
            " give it CAP_SYS_NICE, or choose a timing profile with longer times"
        )
    refused = lock_memory()
    if refused:
        missing.append(
            f"the service's memory is not locked ({refused}), so a machine that swaps may make the node look dead;"
            " give it CAP_SYS_RESOURCE or an unlimited RLIMIT_MEMLOCK"
        )
    return tuple(missing)


def give_priority_back() -> None:
    """Run as an ordinary process again; for children of the service."""
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:  # pragma: no cover -- nobody forbids a process to have less
        return

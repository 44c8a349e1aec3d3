"""The few system calls that the standard library does not offer: prctl and a timer on the boot-time clock."""

from __future__ import annotations

import ctypes
import os
import time

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_CHILD_SUBREAPER = 36
_TFD_TIMER_ABSTIME = 1
_TFD_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def boottime_ms() -> int:
    """Milliseconds since this machine was booted, time in suspend included; equal in all its processes."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds on the clock that time limits of calls are measured with."""
    return time.monotonic_ns() // 1_000_000


def become_subreaper() -> None:
    """Orphaned descendants become children of this process, so that a daemon cannot escape by forking twice."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def make_boottime_timer() -> int:
    """A non-blocking timer descriptor on CLOCK_BOOTTIME, not armed."""
    return _check(_libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_NONBLOCK_CLOEXEC), "timerfd_create")


def arm_boottime_timer(descriptor: int, at_ms: int) -> None:
    """Make the timer readable at ``at_ms`` of CLOCK_BOOTTIME (at once when that has passed)."""
    at_ms = max(at_ms, 1)  # A zero would disarm the timer.
    value = _Itimerspec(_Timespec(0, 0), _Timespec(at_ms // 1000, at_ms % 1000 * 1_000_000))
    _check(_libc.timerfd_settime(descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(value), None), "timerfd_settime")


def raise_in_thread(ident: int, exception: type[BaseException]) -> None:
    """Have ``exception`` raised in that thread before it runs its next step of Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(exception))

"""A watchdog: a clock in the hardware (or the kernel) that resets the machine unless somebody feeds it in time.

The interface is that of Linux (``Documentation/watchdog/watchdog-api.rst``): a device file with a few ioctls; whoever
closes it after writing a ``V`` disarms it, and whoever dies leaves it running.

It is fed by a thread of its own while the core of the service vouches for itself, so a service that is stopped, hangs
or died is followed by a reset after the watchdog's time-out, whatever its monitors do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from pathlib import Path
from typing import Final, Protocol

from clussvc.model.errors import ClusterError

DEFAULT_DEVICE: Final = Path("/dev/watchdog")
DEFAULT_TIMEOUT_S: Final = 10
TIMEOUT_S_MAX: Final = 3_600

# The numbers of linux/watchdog.h with the generic layout of ioctl numbers (x86, ARM, RISC-V).
_GET_SUPPORT: Final = 0x80285700
_KEEP_ALIVE: Final = 0x80045705
_SET_TIMEOUT: Final = 0xC0045706
_GET_TIMEOUT: Final = 0x80045707

_MAGIC_CLOSE: Final = 0x0100

FEEDS_PER_TIMEOUT: Final = 5


class Clock(Protocol):
    """What is used of the service's clock."""

    def now_ms(self) -> int: ...


class Watchdog:
    """An open watchdog; opening it arms it."""

    def __init__(self, device: Path = DEFAULT_DEVICE, *, timeout_s: int = DEFAULT_TIMEOUT_S) -> None:
        """``timeout_s`` is 1..3600; the device may round it.

        Raises ClusterError(``watchdog-unusable``) that names the device and the way out.
        """
        self.device = device
        try:
            self._file = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ClusterError(
                "watchdog-unusable",
                f"the watchdog {device} cannot be opened ({error.strerror}); load its driver (softdog, if the machine"
                " has none), and make sure that no other program has it open",
            ) from error
        try:
            fcntl.ioctl(self._file, _SET_TIMEOUT, struct.pack("i", timeout_s))
            self.timeout_s: int = struct.unpack("i", fcntl.ioctl(self._file, _GET_TIMEOUT, struct.pack("i", 0)))[0]
            self.feed()
        except OSError as error:
            self.disarm()
            raise ClusterError(
                "watchdog-unusable",
                f"{device} does not take a time-out of {timeout_s} s like a watchdog ({error.strerror}); name the"
                " device file of a watchdog, or another time-out",
            ) from error

    @property
    def identity(self) -> str:
        """What the driver calls itself; empty if it does not say."""
        try:
            answer = fcntl.ioctl(self._file, _GET_SUPPORT, bytes(40))
        except OSError:
            return ""
        return answer[8:].split(b"\0")[0].decode("utf-8", "replace")

    @property
    def outlives_its_feeder(self) -> bool:
        """Whether it goes on when its file is closed without the ``V``, as it is when a process dies."""
        try:
            answer = fcntl.ioctl(self._file, _GET_SUPPORT, bytes(40))
        except OSError:
            return False
        return bool(struct.unpack("I", answer[:4])[0] & _MAGIC_CLOSE)

    def feed(self) -> None:
        """Begin its time anew. Raises OSError."""
        fcntl.ioctl(self._file, _KEEP_ALIVE, struct.pack("i", 0))

    def hasten(self) -> None:
        """Have it go off as soon as it can."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._file, _SET_TIMEOUT, struct.pack("i", 1))

    def disarm(self) -> None:
        """Nothing is left that could harm: it need not watch any more (unless the driver forbids that)."""
        with contextlib.suppress(OSError):
            os.write(self._file, b"V")
        os.close(self._file)


class WatchdogFeeder:
    """Feeds a watchdog while the core vouches for itself."""

    def __init__(self, watchdog: Watchdog, clock: Clock) -> None:
        self._watchdog = watchdog
        self._clock = clock
        self._lock = threading.Lock()
        self._until_ms: int | None = None
        self._expired = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to feed; until the core has spoken for the first time it counts as alive."""
        self._thread.start()

    def vouch(self, until_ms: int) -> None:
        """The core lives, which may be believed until then (CLOCK_BOOTTIME)."""
        self._until_ms = until_ms

    def expire(self) -> None:
        """Never feed it again, and have it go off soon: the machine is to be reset."""
        with self._lock:
            self._expired = True
            self._watchdog.hasten()

    def stop(self, *, disarm: bool) -> None:
        """The service ends. Without ``disarm`` the watchdog is left to go off, unless a new service feeds it."""
        self._over.set()
        self._thread.join(5)
        if disarm and not self._expired:
            self._watchdog.disarm()

    def _work(self) -> None:
        while not self._over.wait(self._watchdog.timeout_s / FEEDS_PER_TIMEOUT):
            with self._lock:
                alive = self._until_ms is None or self._clock.now_ms() < self._until_ms
                if alive and not self._expired:
                    with contextlib.suppress(OSError):
                        self._watchdog.feed()

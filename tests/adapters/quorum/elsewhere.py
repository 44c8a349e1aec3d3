"""A network of its own for one thread of the test, with an iSCSI target in it.

The thread leaves the network of the machine (unshare); what it starts and what it connects to lives in the new one,
which is gone with the last of them.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clussvc.ports import QuorumDevice

CLONE_NEWNET = 0x40000000
TARGET = "iqn.2026-11.test:disk"
PORT = 3260
LIMIT_S = 20.0


def _leave_the_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Elsewhere:
    """Runs calls on the thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, initializer=_leave_the_network)

    def call(self, function: Callable[..., Any], *arguments: Any, **words: Any) -> Any:
        """The result of the call, made on the thread."""
        return self._pool.submit(function, *arguments, **words).result(LIMIT_S)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


class Remote:
    """A quorum device that was opened on the thread; every call of it runs there."""

    def __init__(self, elsewhere: Elsewhere, device: QuorumDevice) -> None:
        self._elsewhere, self._device = elsewhere, device

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._device, name)
        if not callable(found):
            return found
        return lambda *arguments: self._elsewhere.call(found, *arguments)


class Target:
    """``tgtd`` with one LUN in a file. Use it in a ``with`` statement."""

    def __init__(self, folder: Path, *, size_bytes: int) -> None:
        self.elsewhere = Elsewhere()
        self.file = folder / "lun"
        self._folder = folder
        self._daemon: subprocess.Popen[bytes] | None = None
        with self.file.open("wb") as lun:
            lun.truncate(size_bytes)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.elsewhere.close()

    @property
    def place(self) -> str:
        """Where initiators find it."""
        return f"iscsi://127.0.0.1:{PORT}/{TARGET}/1"

    def start(self) -> None:
        """Begin to serve; registrations are those of a target that was just switched on."""
        self._daemon = self.elsewhere.call(
            subprocess.Popen,
            ["tgtd", "-f", "-C", "7", "--iscsi", f"portal=127.0.0.1:{PORT}"],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        limit_s = time.monotonic() + LIMIT_S
        while self._admin("--op", "show", "--mode", "system"):
            assert self._daemon is not None
            assert self._daemon.poll() is None, "tgtd has ended"
            assert time.monotonic() < limit_s, "tgtd does not answer"
            time.sleep(0.02)
        for words in (
            ("--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET),
            ("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", str(self.file)),
            ("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"),
        ):
            assert not self._admin("--lld", "iscsi", *words), words

    def add_disk(self) -> str:
        """One more disk of the target, as large; where initiators find it."""
        more = self._folder / "lun2"
        more.write_bytes(bytes(self.file.stat().st_size))
        words = ("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "2", "-b", str(more))
        assert not self._admin("--lld", "iscsi", *words), words
        return f"iscsi://127.0.0.1:{PORT}/{TARGET}/2"

    def stop(self) -> None:
        """Switch it off."""
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.kill()
            daemon.wait()

    def freeze(self, signal_number: int) -> None:
        """Send the daemon a signal."""
        assert self._daemon is not None
        self._daemon.send_signal(signal_number)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TGT_IPC_SOCKET": str(self._folder / "tgt")}

    def _admin(self, *words: str) -> int:
        return subprocess.run(
            ["tgtadm", "-C", "7", *words], env=self._environment, capture_output=True, check=False
        ).returncode

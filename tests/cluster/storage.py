"""A machine of the lab that serves one iSCSI disk to all nodes (``tgtd``)."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.lab import NETWORK, START_LIMIT_S, Lab, Node, environment, eventually

ADDRESS = f"{NETWORK}.90"
TARGET = "iqn.2026-11.test:quorum"
NEEDED = ("tgtd", "tgtadm")


def can_serve() -> bool:
    """Whether this machine has what it takes."""
    return all(shutil.which(program) for program in NEEDED)


class Storage:
    """The machine; ends with ``close``, before the lab does."""

    def __init__(self, lab: Lab, *, size_bytes: int, synchronous: bool = False) -> None:
        """``synchronous``: the target itself answers no write before this machine's disk has it; without, only those
        that ask for it (which the quorum log does)."""
        self._lab = lab
        self._flags = ("--bsoflags", "sync") if synchronous else ()
        self._file = lab.folder / "lun"
        self._socket = lab.folder / "tgt"
        with self._file.open("wb") as lun:
            lun.truncate(size_bytes)
        self._holder = lab.hold("storage")
        lab.plug("st", self._holder, address=ADDRESS, mac="02:77:00:00:00:c8")
        self._daemon = subprocess.Popen(
            self._enter("tgtd", "-f", "-C", "7", "--iscsi", f"portal={ADDRESS}:3260"),
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: not self._admin("--op", "show", "--mode", "system"), "tgtd answers")
        for words in (
            ("--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET),
            self._unit(1, self._file),
            ("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"),
        ):
            assert not self._admin("--lld", "iscsi", *words), words

    @property
    def place(self) -> str:
        """Where nodes find the disk."""
        return f"iscsi://{ADDRESS}/{TARGET}/1"

    @property
    def file(self) -> Path:
        """What the disk holds."""
        return self._file

    def add_disk(self) -> str:
        """One more disk, as large; where nodes find it."""
        lun = self._lab.folder / "lun2"
        lun.write_bytes(bytes(self._file.stat().st_size))
        words = self._unit(2, lun)
        assert not self._admin("--lld", "iscsi", *words), words
        return f"iscsi://{ADDRESS}/{TARGET}/2"

    def _unit(self, number: int, file: Path) -> tuple[str, ...]:
        return (
            *("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", str(number), "-b", str(file)),
            *self._flags,
        )

    def keep_from(self, node: Node) -> None:
        """The node reaches the disk no more; everything else it does."""
        assert node.run("ip", "route", "add", "blackhole", ADDRESS).returncode == 0

    def give_to(self, node: Node) -> None:
        """Undo ``keep_from``."""
        node.run("ip", "route", "del", "blackhole", ADDRESS)

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Answer nobody for a while."""
        self._daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemon.send_signal(signal.SIGCONT)

    def break_sessions(self) -> int:
        """End every session, as when a cable is pulled; how many there were."""
        told = subprocess.run(
            ["tgtadm", "-C", "7", "--lld", "iscsi", "--op", "show", "--mode", "conn", "--tid", "1"],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        sessions = re.findall(r"^Session: (\d+)\n\s+Connection: (\d+)", told, re.MULTILINE)
        for session, connection in sessions:
            words = ("--op", "delete", "--mode", "conn", "--tid", "1", "--sid", session, "--cid", connection)
            assert not self._admin("--lld", "iscsi", *words)
        return len(sessions)

    def close(self) -> None:
        """Switch it off."""
        self._daemon.kill()
        self._daemon.wait(START_LIMIT_S)

    def _enter(self, *words: str) -> list[str]:
        return ["nsenter", "-t", str(self._holder.pid), "-n", "--", *words]

    @property
    def _environment(self) -> dict[str, str]:
        return environment(TGT_IPC_SOCKET=str(self._socket))

    def _admin(self, *words: str) -> int:
        command = ["tgtadm", "-C", "7", *words]
        return subprocess.run(command, env=self._environment, capture_output=True, check=False).returncode

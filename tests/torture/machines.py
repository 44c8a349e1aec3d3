"""The machines under torture: services that are restarted when they end, small disks, cut lines.

``Keeper`` does for each machine what systemd does with ``Restart=always``, and judges each end of a service: one that
the harness caused, one that a full disk explains, or a finding. Everything here runs in the one thread that owns the
lab.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.lab import Lab, Node

RESTART_S: Final = (0.3, 1.5)
"""How long after its end a service is started again; systemd's RestartSec is 1 s in our unit."""
DISK_EXCUSE_S: Final = 20.0
"""How long after a full disk was freed a service may still end because of it."""
DISK_CODES: Final = (1, 70)
"""Exit codes of a service that cannot write: explained errors, at start or later."""
SMALL_DISK: Final = "192m"
"""Room for the journal, the database, two service logs and a copy of the journal while it is compacted."""
NOWHERE: Final = "02:77:ff:ff:ff:ff"
"""A hardware address that nobody has: frames to it are lost without anybody being told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A service that ended."""

    node: str
    code: int
    """As the shell knows it; negative: the signal that killed it."""
    because: str
    """Why that was to be expected; empty: it was not."""


class SmallDisk:
    """A file system of its own for the data folder of one machine, which outlives the machine."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=0700", "tmpfs", folder], check=True)
        self._folder = folder
        self._filler = folder / "filler"
        self.full_until_s = 0.0
        """Monotonic time until which errors of writing are explained; infinite while it is full."""

    def fill(self) -> None:
        """Leave no byte free."""
        self.full_until_s = float("inf")
        with self._filler.open("ab", buffering=0) as filler:
            for size in (1 << 20, 4096):
                block = bytes(size)
                with contextlib.suppress(OSError):
                    while filler.write(block) == size:
                        pass

    def free(self) -> None:
        """Give the room back, if it was taken."""
        if self._filler.exists():
            self._filler.unlink()
            self.full_until_s = time.monotonic() + DISK_EXCUSE_S

    def unmount(self) -> None:
        """After all machines are gone."""
        subprocess.run(["umount", self._folder], check=True)


class Keeper:
    """Starts what ended, and says what should not have ended."""

    def __init__(self, lab: Lab, disks: dict[str, SmallDisk], chance: random.Random) -> None:
        self.lab = lab
        self.disks = disks
        self.ends: list[End] = []
        self._chance = chance
        self._killed: set[int] = set()
        """Process ids of waiting nsenter(1)s whose services were killed here."""
        self._judged: set[int] = set()
        self._start_at_s: dict[str, float] = {}

    # --- the services -----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look after every machine that is switched on; to be called some times a second."""
        now_s = time.monotonic()
        for node in self.lab.nodes:
            if not node.up:
                continue
            waiting = _waiting(node)
            if waiting is not None and waiting.poll() is None:
                continue
            if waiting is not None and waiting.pid not in self._judged:
                self._judged.add(waiting.pid)
                self._judge(node, waiting)
                self._start_at_s[node.name] = now_s + self._chance.uniform(*RESTART_S)
            elif now_s >= self._start_at_s.get(node.name, 0):
                node.start_service()

    def _judge(self, node: Node, ended: subprocess.Popen[bytes]) -> None:
        because = ""
        disk = self.disks.get(node.name)
        if ended.pid in self._killed:
            because = "killed"
        elif disk is not None and time.monotonic() < disk.full_until_s and ended.returncode in DISK_CODES:
            because = "full disk"
        self.ends.append(End(node=node.name, code=ended.returncode, because=because))

    def runs(self, node: Node) -> bool:
        """Whether its service has a process."""
        waiting = _waiting(node)
        return node.up and waiting is not None and waiting.poll() is None

    def kill_services(self, nodes: Iterable[Node]) -> None:
        """kill -9 of their services, all in one moment."""
        victims = []
        for node in nodes:
            waiting, pid = _waiting(node), node.service()
            if waiting is not None and pid is not None:
                self._killed.add(waiting.pid)
                victims.append(pid)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def crash(self, node: Node) -> None:
        """A power failure."""
        waiting = _waiting(node)
        if waiting is not None:
            self._killed.add(waiting.pid)
        node.crash()

    # --- the lines --------------------------------------------------------------------------------------------------

    def lose(self, sender: Node, receiver: Node) -> None:
        """From now on nothing that one sends reaches the other, and neither is told."""
        self._neighbour(sender, f"replace {receiver.address} lladdr {NOWHERE} dev eth0 nud permanent")

    def deliver(self, sender: Node, receiver: Node) -> None:
        """Undo ``lose``; nothing to do on a machine that was switched off meanwhile."""
        if sender.up:
            self._neighbour(sender, f"del {receiver.address} dev eth0")

    @staticmethod
    def _neighbour(node: Node, words: str) -> None:
        # An entry that a reboot has taken away need not be deleted, so the answer does not matter.
        subprocess.run(node.enter("ip", "neigh", *words.split()), capture_output=True, timeout=30, check=False)

    # --- everything -------------------------------------------------------------------------------------------------

    def heal_all(self) -> None:
        """Undo whatever may have been done to machines, lines and disks."""
        for disk in self.disks.values():
            disk.free()
        for node in self.lab.nodes:
            if not node.up:
                node.boot()
            node.thaw()
            for other in self.lab.nodes:
                if other is not node:
                    self.deliver(node, other)

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Look after the machines until the condition holds; False: it did not within the time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            self.tick()
            time.sleep(0.1)
        return True


def _waiting(node: Node) -> subprocess.Popen[bytes] | None:
    """The nsenter(1) that waits for the newest service of that machine."""
    return node._services[-1] if node._services else None

"""What a contender has to do, and what contenders share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, Protocol

from tests.cluster.lab import REPOSITORY, VIP, Lab, Node

WEB_SERVER: Final = REPOSITORY / "resource_scripts" / "web_server.py"
NETMASK_BITS: Final = 24


class Contender(Protocol):
    """A way to keep an address and a web server alive on three machines. ``begin`` is called once, on fresh ones."""

    name: str
    faults: frozenset[str]
    """The faults that make sense for it."""
    phase_s: float
    """A random delay of up to so long before each fault, so that faults meet its timers at any phase."""
    hold_s: float
    """How long a cut lasts at least; the cut-off node must have had the time to give up by itself."""

    def begin(self) -> None:
        """Configure and start everything; returns when a client can be answered."""

    def ready(self) -> bool:
        """Whether every machine takes part, and nothing is under way."""

    def active(self) -> Node | None:
        """The machine that serves."""

    def restart(self, node: Node) -> None:
        """Start the daemons of a machine that has just been booted."""

    def move(self, source: Node, target: Node) -> None:
        """Have it moved, as an administrator would; may return before it is done."""

    def after(self, node: Node) -> None:
        """Undo what a fault or a move has left in its configuration."""

    def end(self) -> None:
        """End what runs beside the machines."""

    def version(self) -> str:
        """Names and versions of its programs."""


def server_words(name: str) -> tuple[str, ...]:
    """The command line of the served program, the same for every contender."""
    return (sys.executable, "-I", "-S", str(WEB_SERVER), "", "80", "", name)


def server_of(node: Node) -> int | None:
    """The number of the web server's process on a machine."""
    return next((one.pid for one in node.processes() if str(WEB_SERVER) in one.words), None)


def holder_of_the_address(lab: Lab) -> Node | None:
    """The machine that has the address; None if none has it, or two."""
    having = [node for node in lab.nodes if node.up and VIP in node.addresses()]
    return having[0] if len(having) == 1 else None


def own_folders(node: Node, folders: tuple[str, ...]) -> None:
    """Give a machine folders of its own where programs insist on theirs; what a disk would keep stays on the disk."""
    node.run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm")
    for folder in folders:
        if not Path(folder).is_dir():
            continue
        mine = node.folder / "disk" / folder.strip("/").replace("/", "-")
        mine.mkdir(parents=True, exist_ok=True)
        node.run("mount", "--bind", str(mine), folder)


def processes_named(node: Node, *names: str) -> list[int]:
    """The numbers of the processes of these programs."""
    return [one.pid for one in node.processes() if one.words and Path(one.words[0]).name in names]

"""PySyncObj behind its seams: the pinned release, and what is put in place of its clock, dice, journal and nodes.

The library looks up ``monotonicTime``, ``random``, ``createJournal`` and ``open`` as names of its modules. They are
replaced once by functions that ask which node is running on the current thread, so several nodes can live in one
process, each with its own clock. Outside any node they behave as they did before. Nothing private of the library is
touched.
"""

from __future__ import annotations

import builtins
import io
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

import pysyncobj
import pysyncobj.serializer as library_serializer
import pysyncobj.syncobj as library
from pysyncobj.node import Node
from pysyncobj.version import VERSION

from clussvc.global_update.raft.journal import Journal
from clussvc.model.errors import ClusterError

LIBRARY_VERSION = "0.3.17"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the library finds around it while one node runs."""

    now_s: Callable[[], float]
    rng: random.Random
    journal: Journal


class _Current(threading.local):
    surroundings: Surroundings | None = None


_current = _Current()
_install_lock = threading.Lock()
_installed = False


class RaftPeer(Node):  # type: ignore[misc]  # The library has no types.
    """A node as the library sees it. The hash is the number, so the order of sets does not depend on the process."""

    def __init__(self, node_id: int) -> None:
        super().__init__(str(node_id))

    def __hash__(self) -> int:
        return int(self.id)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # Membership entries then hold a plain text, which the library turns back into a node through our factory.
        return str, (str(self.id),)


@contextmanager
def surrounded_by(surroundings: Surroundings) -> Iterator[None]:
    """Run library code as one node."""
    before, _current.surroundings = _current.surroundings, surroundings
    try:
        yield
    finally:
        _current.surroundings = before


def install() -> None:
    """Put the seams in place; idempotent. Raises ClusterError ``pysyncobj-version`` for any other release."""
    global _installed
    if VERSION != LIBRARY_VERSION:
        raise ClusterError(
            "pysyncobj-version",
            f"PySyncObj {VERSION} is installed, but only {LIBRARY_VERSION} has been proved safe behind our guard. "
            f"Install it with: pip install pysyncobj=={LIBRARY_VERSION}",
        )
    with _install_lock:
        if _installed:
            return
        create_journal = library.createJournal

        def journal_of_current_node(path: str | None = None) -> Any:
            found = _current.surroundings
            return found.journal if found is not None else create_journal(path)

        library.createJournal = journal_of_current_node
        library.monotonicTime = _now_s
        library.random = _Dice()
        library_serializer.open = _open
        # Nothing ever waits in the library's poller, so its wake-up pipe would only cost two descriptors and a write
        # for each command.
        library.PIPE_NOTIFIER_ENABLED = False
        _installed = True


def _now_s() -> float:
    found = _current.surroundings
    return found.now_s() if found is not None else time.monotonic()


def _open(path: str, mode: str) -> IO[bytes]:
    """The library's ``open`` for snapshots it sends (``rb``) and has received (``wb``).

    Sending is the guard's work, which only needs to be told that a snapshot is wanted; the library would open the file
    for each peer and never close it. So for our nodes there is nothing in it to read.
    """
    if _current.surroundings is not None and mode == "rb":
        return io.BytesIO()
    return cast("IO[bytes]", builtins.open(path, mode))


class _Dice:
    """Stands in for the module ``random``, of which the library uses one function."""

    def random(self) -> float:
        """A number in [0, 1) from the generator of the current node."""
        found = _current.surroundings
        return found.rng.random() if found is not None else random.random()  # noqa: S311 (election timing, no secret)


SyncObj = pysyncobj.SyncObj
SyncObjConf = pysyncobj.SyncObjConf
FAIL_REASON = pysyncobj.FAIL_REASON
replicated = pysyncobj.replicated

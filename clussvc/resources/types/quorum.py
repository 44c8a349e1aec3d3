"""Resource types that can be the quorum of a cluster (in MSCS: the quorum-capable characteristic).

Such a type has two entry points more, ``arbitrate`` and ``release``, and says so in its ``info``
(``quorum_capable=True``). Whoever wins the arbitration gets a *storage*, on which the cluster keeps its log; the format
is the cluster's own affair. The type runs in a process of its own, one for the quorum of a node, and is never called
from two threads at a time. It is found by its name, as all types are, and written as a place:
``TYPE://ARGUMENT?Property=value``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

from clussvc.model.errors import ClusterError
from clussvc.resources.types.base import ResourceType

Lost = Callable[[str], None]
"""To be called, from any thread and in a sentence, when this node has lost what it had won."""


class OwnedElsewhere(Exception):
    """Another node has the quorum just now; raised by ``arbitrate``."""


class Storage(Protocol):
    """What a node may read and write while it has won. Every call raises OSError when it fails."""

    @property
    def size_bytes(self) -> int:
        """How much can be kept there; 50 MB at least."""

    def read(self, at: int, size: int) -> bytes:
        """What stands there: what any node has written last, from wherever it was asked. ``at`` and ``size`` are
        multiples of 4096; ``size`` is 262144 at most."""

    def write(self, at: int, data: bytes) -> None:
        """Keep it. It must outlive the end of every node and of the power when this returns; a piece of 4096 bytes is
        written as a whole or damaged, and no other piece is."""


class QuorumType(ResourceType):
    """A type that is a quorum and nothing else, so it is never online in a group."""

    @abstractmethod
    def arbitrate(self, lost: Lost) -> Storage:
        """Win the quorum for this node, defend it from now on, and return its storage.

        At most one node may have won at any moment. Raises OwnedElsewhere when another one has, and anything else when
        it cannot be told. Returns within 20 s, or the process is ended. Call ``lost`` if this node has the quorum no
        longer; nothing is read or written afterwards.
        """

    @abstractmethod
    def release(self) -> None:
        """Let another node have the quorum. Also called after ``lost``, and when ``arbitrate`` failed halfway."""

    def online(self) -> None:
        """See ResourceType."""
        raise ClusterError(
            "not-supported", f"{self.info.name} is a quorum and not for groups: choose it with cluster /quorum"
        )

    def offline(self) -> None:
        """See ResourceType."""

    def looks_alive(self) -> bool:
        """See ResourceType."""
        return False

    is_alive = looks_alive

"""How the service and the monitor's resource type talk to the host process of a load-balanced cluster on this node.

The process listens on a Unix socket in the run folder of the node, which only the service's user can enter. A question
is one line of JSON, and so is its answer; a connection may carry many. Both ends bound what they take.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from clussvc.model.errors import ClusterError
from clussvc.model.ids import ResourceId

LINE_BYTES_MAX: Final = 1 << 20
"""The properties of a resource, which are the longest thing said here, are bounded far below it."""
ANSWER_LIMIT_S: Final = 2.0


def socket_name(resource: ResourceId) -> str:
    """The name of the file; short, since the path of a socket is bounded."""
    return f"nlb-{hashlib.blake2b(resource.encode(), digest_size=6).hexdigest()}"


@contextmanager
def _short_path(folder: Path, name: str) -> Iterator[str]:
    """A path for the socket that is short however long the folder's is."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{opened}/{name}"
    finally:
        os.close(opened)


def listen(folder: Path, name: str) -> socket.socket:
    """A socket that listens there, in place of one that a dead process left. Raises OSError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with _short_path(folder, name) as path:
            Path(path).unlink(missing_ok=True)
            former = os.umask(0o177)
            try:
                listening.bind(path)
            finally:
                os.umask(former)
        listening.listen(8)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def connect_at_once(folder: Path, resource: ResourceId) -> socket.socket | None:
    """A connection that never waits, for those who have a loop; None: nobody listens there."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    try:
        with _short_path(folder, socket_name(resource)) as path:
            made.connect(path)
    except OSError:
        made.close()
        return None
    return made


class Connection:
    """One connection to a host process. For one thread."""

    def __init__(self, folder: Path, resource: ResourceId) -> None:
        """Raises ClusterError(``balancer-not-here``)."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(ANSWER_LIMIT_S)
        try:
            with _short_path(folder, socket_name(resource)) as path:
                self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise _not_here(error) from error

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer. Raises ClusterError: ``balancer-not-here`` when the process has ended or does not answer."""
        try:
            self._socket.sendall(json.dumps(question).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                chunk = self._socket.recv(1 << 16)
                if not chunk or len(answer) > LINE_BYTES_MAX:
                    raise OSError("it hung up" if not chunk else "it says too much")
                answer += chunk
            found = json.loads(answer)
        except (OSError, ValueError) as error:
            raise _not_here(error) from error
        if not isinstance(found, dict):
            raise _not_here(ValueError("it gave an answer of an unknown form"))
        return found

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def _not_here(error: Exception) -> ClusterError:
    return ClusterError(
        "balancer-not-here",
        f"the load-balancing host of this node does not answer ({error}); it runs while the resource is online here",
        retryable=True,
    )

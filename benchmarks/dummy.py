"""A resource that only keeps state: a file that exists while it is online. For the benchmark of many resources.

The same work as Pacemaker's agent ``ocf:pacemaker:Dummy``, which creates, tests and removes a file; run by the type
Generic Script. ``StateFolder`` must exist; each machine has a folder of its own in it, named like the machine.
"""

from __future__ import annotations

import os
import socket
from typing import Any


def online(resource: Any) -> None:
    """Create the file."""
    path = _path(resource)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w"):
        pass


def offline(resource: Any) -> None:
    """Remove the file."""
    terminate(resource)


def terminate(resource: Any) -> None:
    """Remove the file, if it is there."""
    if os.path.exists(_path(resource)):
        os.unlink(_path(resource))


def looks_alive(resource: Any) -> bool:
    """Whether the file is there."""
    return os.path.exists(_path(resource))


def is_alive(resource: Any) -> bool:
    """Whether the file is there."""
    return os.path.exists(_path(resource))


def _path(resource: Any) -> str:
    return os.path.join(str(resource.StateFolder), socket.gethostname(), str(resource.name))

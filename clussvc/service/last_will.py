"""The last will of a service: what its last monitor sends to the other nodes when the service is dead.

The service writes it while it lives: the datagram, complete and signed, and where it goes. It says that this
incarnation is over and that nothing of it runs. That is not true yet, so the file is as secret as the key of the
heartbeats; and it is sent only by a monitor that has terminated everything, when the process of the service is gone and
no other monitor's folder is marked as occupied (``leftovers``). Whatever of this is in doubt keeps it unsent, and the
others wait for the silence as ever.

The will is true for good from then on, so it does no harm when it comes late, twice, or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from pathlib import Path
from typing import Final

from clussvc.service.leftovers import monitors_with_leftovers

SENDINGS_PAUSE_S: Final = (0.0, 0.01, 0.04)
"""Pauses before each sending; datagrams may be lost."""

PARENT_ENDS_MS: Final = 500
"""How long the end of a process whose connections are closed already may take to be known."""

TARGETS_MAX: Final = 64 * 8

_FILE = "will.json"


def write_will(run_folder: Path, datagram: bytes, targets: tuple[tuple[str, int], ...]) -> None:
    """Have this sent to these addresses and ports when the service is dead. Raises OSError."""
    run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = run_folder / f"{_FILE}.new"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        json.dump({"datagram": datagram.hex(), "targets": targets}, file)
    # What a service that dies here leaves is the old will, or the new one, and never half of one.
    fresh.replace(run_folder / _FILE)


class Service:
    """The process that started this one, held by a descriptor, so that its number cannot come to mean another."""

    def __init__(self) -> None:
        """To be made early; if the service is dead by then, or cannot be seen from here, nothing is known of it."""
        self._handle: int | None = None
        parent = os.getppid()
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(parent)
            if parent > 1 and os.getppid() == parent:
                self._handle = handle
            else:
                os.close(handle)

    def is_dead(self) -> bool:
        """Whether it is certainly gone, with all its threads."""
        if self._handle is None:
            return False
        poller = select.poll()
        poller.register(self._handle, select.POLLIN)
        return bool(poller.poll(PARENT_ENDS_MS))


def execute_will(run_folder: Path, service: Service) -> bool:
    """Send the will if it is true now. The caller holds nothing, and has said so in its folder.

    Whether it was sent.
    """
    if not service.is_dead() or monitors_with_leftovers(run_folder):
        return False
    try:
        will = json.loads((run_folder / _FILE).read_text("ascii"))
        datagram = bytes.fromhex(will["datagram"])
        targets = [(str(address), int(port)) for address, port in will["targets"][:TARGETS_MAX]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    for pause_s in SENDINGS_PAUSE_S:
        time.sleep(pause_s)
        for address, port in targets:
            _send(datagram, address, port)
    return True


def _send(datagram: bytes, address: str, port: int) -> None:
    with contextlib.suppress(OSError):
        family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as sending:
            sending.setblocking(False)
            sending.sendto(datagram, where)

"""One thread that asks the quorum disk, so that nobody else waits for it.

It opens the device when the first request comes, and again after it was lost; each time it looks at the superblock
first, so that no other disk is taken for the cluster's. A registrant is to be one again after that, if nobody has taken
over meanwhile (:meth:`clussvc.ports.QuorumDevice.resume`), so that a session that breaks does not cost the disk.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import assert_never

from clussvc.model.errors import ClusterError
from clussvc.model.quorum import Quorum
from clussvc.ports import QuorumDevice
from clussvc.quorum.disk_layout import decode_superblock
from clussvc.quorum.disk_messages import (
    Clear,
    DiskFailed,
    DiskRequest,
    Preempt,
    Read,
    Register,
    Release,
    Reserve,
    Write,
)

STOP_TIMEOUT_S = 10.0


class DeviceWorker:
    """Performs one request at a time. ``answer`` is called on its thread."""

    def __init__(
        self,
        quorum: Quorum,
        cluster_id: str,
        open_device: Callable[[], QuorumDevice],
        answer: Callable[[bytes | DiskFailed], None],
    ) -> None:
        self._quorum = quorum
        self._cluster_id = cluster_id
        self._open_device = open_device
        self._answer = answer
        self._device: QuorumDevice | None = None
        self._key = 0
        """Under which this node is a registrant, as far as it knows; 0: it is none."""
        self._requests: queue.SimpleQueue[DiskRequest | None] = queue.SimpleQueue()
        """At most one, and None for the end. (Its waiting is done in C; a condition takes several times as long.)"""
        self._under_way = False
        self._thread = threading.Thread(target=self._run, name="quorum-disk", daemon=True)

    def start(self) -> None:
        """Begin to wait for requests."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. A device that hangs keeps it; the process can end without it."""
        self._requests.put(None)
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def ask(self, request: DiskRequest) -> None:
        """Perform this; the one before must have been answered. May be called from within ``answer``."""
        assert not self._under_way, "a request is under way"
        self._under_way = True
        self._requests.put(request)

    def _run(self) -> None:
        while (request := self._requests.get()) is not None:
            answer = self._perform(request)
            self._under_way = False
            self._answer(answer)
        self._close()

    def _perform(self, request: DiskRequest) -> bytes | DiskFailed:
        try:
            if self._device is None:
                self._device = self._opened()
            done = perform(self._device, request)
            if isinstance(request, Register):
                self._key = request.key
            return done
        except ClusterError as error:
            if error.code == "device-lost":
                self._close()
            elif error.code == "reservation-conflict":
                # Who asks registers anew if it wants to, and never becomes a registrant behind its back.
                self._key = 0
            return DiskFailed(code=error.code, detail=error.message)

    def _opened(self) -> QuorumDevice:
        device = self._open_device()
        try:
            check_identity(device, self._quorum, self._cluster_id)
            if self._key:
                device.resume(self._key)
        except BaseException:
            device.close()
            raise
        return device

    def _close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.close()


def check_identity(device: QuorumDevice, quorum: Quorum, cluster_id: str) -> None:
    """Whether this is the cluster's quorum disk.

    Raises ClusterError(``device-unsuitable``) that says what it is instead, or ``device-lost``.
    """
    where = f"{quorum.device} is not the quorum disk of this cluster"
    block = decode_superblock(device.read(0, 1))
    if block is None:
        raise ClusterError(
            "device-unsuitable",
            f"{where}: no quorum disk was prepared there. See that every node finds the same disk under that name, or"
            " set 'quorum_device' in this node's file",
        )
    if block.cluster != cluster_id:
        raise ClusterError(
            "device-unsuitable",
            f"{where} but of cluster {block.cluster_name!r}. See that every node finds the same disk under that name,"
            " or set 'quorum_device' in this node's file",
        )
    if f"{block.disk:016x}" != quorum.disk:
        raise ClusterError("device-unsuitable", f"{where} but one that the cluster has used before, or not yet")
    if quorum.reservations and not device.reservations:
        raise ClusterError(
            "device-unsuitable",
            f"{quorum.device} was prepared with persistent reservations and has none on this node: connect it in the"
            " same way on every node",
        )


def perform(device: QuorumDevice, request: DiskRequest) -> bytes:
    """Have the device do it; empty for everything but a read.

    Raises ClusterError as the port says.
    """
    match request:
        case Read():
            return device.read(request.sector, request.count)
        case Write():
            device.write(request.sector, request.data)
        case Register():
            device.register(request.key)
        case Reserve():
            device.reserve(request.key)
        case Preempt():
            device.preempt(request.key, request.victim)
        case Release():
            device.release(request.key)
        case Clear():
            device.clear(request.key)
        case _:
            assert_never(request)
    return b""

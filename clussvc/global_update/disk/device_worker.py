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
from clussvc.quorum.disk_layout import (
    FIRST_SLOT_SECTOR,
    SLOT_SECTORS,
    Superblock,
    decode_slots,
    decode_superblock,
    encode_superblock,
)
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
_SAME_DISK = "See that every node finds the same disk under that name, or set 'quorum_device' in this node's file"
_BY_FORCE = "go on with another quorum by force: 'clussvc run /forcequorum:NODE,...'"


class DeviceWorker:
    """Performs one request at a time. ``answer`` is called on its thread."""

    def __init__(
        self,
        quorum: Quorum,
        cluster_id: str,
        open_device: Callable[[], QuorumDevice],
        answer: Callable[[bytes | DiskFailed], None],
        *,
        repair: bool = False,
    ) -> None:
        """``repair``: a damaged superblock is written anew, if the slots show that the disk is the cluster's."""
        self._quorum = quorum
        self._cluster_id = cluster_id
        self._open_device = open_device
        self._answer = answer
        self._device: QuorumDevice | None = None
        self._key = 0
        """Under which this node is a registrant, as far as it knows; 0: it is none."""
        self._repair = repair
        self._repair_due = False
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
            if isinstance(request, Write) and self._repair_due:
                # Who can write is a registrant, if that is needed.
                self._device.write(0, encode_superblock(superblock_of(self._quorum, self._cluster_id)))
                self._repair_due = False
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
            self._check(device)
            if self._key:
                device.resume(self._key)
        except BaseException:
            device.close()
            raise
        return device

    def _check(self, device: QuorumDevice) -> None:
        try:
            check_identity(device, self._quorum, self._cluster_id)
        except ClusterError as error:
            if error.code != "quorum-damaged" or not self._repair or not _has_our_slots(device, self._quorum):
                raise
            self._repair_due = True

    def _close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.close()


def check_identity(device: QuorumDevice, quorum: Quorum, cluster_id: str) -> None:
    """Whether this is the cluster's quorum disk.

    Raises ClusterError: ``device-unsuitable`` that says what it is instead, ``quorum-damaged``, or ``device-lost``.
    """
    where = f"{quorum.device} is not the quorum disk of this cluster"
    try:
        block = decode_superblock(device.read(0, 1))
    except ClusterError as error:
        if error.code == "quorum-damaged":
            raise ClusterError(
                error.code,
                f"{quorum.device}: {error.message}. Have a node start with --resetquorumlog, which writes it anew, or"
                f" {_BY_FORCE}",
            ) from error
        raise
    if device.sectors < quorum.sectors:
        raise ClusterError(
            "device-unsuitable",
            f"{quorum.device} has {device.sectors} sectors of 4 KiB on this node, and the quorum disk uses"
            f" {quorum.sectors}: it is another disk, or was made smaller. See that every node finds the same disk under"
            " that name",
        )
    if block is None:
        raise ClusterError(
            "device-unsuitable",
            f"{where}: no quorum disk was prepared there. {_SAME_DISK}. If the disk was erased, {_BY_FORCE}",
        )
    if block.cluster != cluster_id:
        raise ClusterError(
            "device-unsuitable",
            f"{where} but of cluster {block.cluster_name!r}. {_SAME_DISK}. If that cluster has taken the disk,"
            f" {_BY_FORCE}; if this machine is to join that cluster, clean it up first: 'cluster node /forcecleanup'",
        )
    if f"{block.disk:016x}" != quorum.disk:
        if block.generation < quorum.generation:
            which = f"the one of its quorum number {block.generation}, and it has number {quorum.generation} now"
        elif block.generation > quorum.generation:
            which = (
                f"the one of its quorum number {block.generation}, and this node knows of no later one than number"
                f" {quorum.generation}. Start any other node, from which this one learns where the quorum is now"
            )
        else:
            which = "another one that was prepared for it, and that it does not use"
        raise ClusterError(
            "device-unsuitable",
            f"{where} but {which}. {_SAME_DISK}",
        )
    if quorum.reservations and not device.reservations:
        raise ClusterError(
            "device-unsuitable",
            f"{quorum.device} was prepared with persistent reservations and has none on this node: connect it in the"
            " same way on every node",
        )


def superblock_of(quorum: Quorum, cluster_id: str) -> Superblock:
    """The superblock as the configuration has it; nodes that do not reach the disk need its geometry as well."""
    return Superblock(
        cluster=cluster_id,
        cluster_name="",
        disk=int(quorum.disk, 16),
        sectors=quorum.sectors,
        prepared_ms=0,
        base_index=quorum.base_index,
        generation=quorum.generation,
    )


def _has_our_slots(device: QuorumDevice, quorum: Quorum) -> bool:
    """Every slot carries the number that was drawn when the disk was prepared."""
    return bool(decode_slots(device.read(FIRST_SLOT_SECTOR, SLOT_SECTORS), int(quorum.disk, 16)))


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

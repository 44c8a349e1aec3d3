"""The choice of a quorum: which disk, is it free to be used, and its preparation.

Only the machine itself can look at its disks, so this is done by the program that creates a cluster, and by the service
of the node that is asked to change the quorum.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from clussvc.global_update.apply_quorum import check_quorum, set_quorum
from clussvc.global_update.update import SetQuorum
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import LOG_KB_RANGE, MAX_LOG_KB, Quorum, QuorumKind
from clussvc.model.reports import Report
from clussvc.ports import QuorumDevice
from clussvc.quorum.devices import candidates, create_file, device_opener, examine, open_device
from clussvc.quorum.disk_layout import (
    DISK_BYTES_MIN,
    FIRST_AREA_SECTOR,
    FIRST_SLOT_SECTOR,
    SECTOR_BYTES,
    Superblock,
    decode_superblock,
    encode_superblock,
    used_sectors,
)
from clussvc.service.quorum_suitability import check_free
from clussvc.service.settings_file import NodeFile

DEVICE_TIMEOUT_MS = 1_000
"""How long a quorum disk may take to answer before it is called lost for the moment."""
PREPARATION_TIMEOUT_MS = 15_000
"""How long a disk may take to answer while it is looked at and prepared. Nobody's service waits for it, and a storage
system that writes megabytes for others at the same moment may need more than a second."""
WORDS = {
    "majority": QuorumKind.MAJORITY,
    "mns": QuorumKind.MAJORITY,
    "majority node set": QuorumKind.MAJORITY,
    "local": QuorumKind.LOCAL,
    "local quorum": QuorumKind.LOCAL,
}
AUTOMATIC = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an administrator asks for."""

    place: str = AUTOMATIC
    """``auto``, ``majority``, ``local``, or where the quorum disk is found."""
    max_log_kb: int = 0
    """0: MaxLogSize of MSCS, or as much as the disk has room for."""
    hold_ms: int = 0
    force: bool = False
    """Overwrite what lies on the disk, and clear what others have reserved, if nobody can be seen to use it."""


def initiator_name(file: NodeFile) -> str:
    """This node's name for iSCSI targets; reservations belong to it."""
    return f"iqn.2026-11.net.clussvc:{file.cluster_id[:12]}:{file.node_id}"


def opener(file: NodeFile, quorum: Quorum) -> Callable[[], QuorumDevice]:
    """How this node opens its quorum disk: where the node file says, or else, as after a change to another disk, under
    the name that the cluster knows."""
    timeout_ms = max(DEVICE_TIMEOUT_MS, quorum.hold_ms)
    named = device_opener(quorum.device, initiator=initiator_name(file), timeout_ms=timeout_ms)
    if file.quorum_device in ("", quorum.device):
        return named
    here = device_opener(file.quorum_device, initiator=initiator_name(file), timeout_ms=timeout_ms)

    def open_either() -> QuorumDevice:
        try:
            device = here()
        except ClusterError as error:
            if error.code != "device-unsuitable":
                raise
            return named()
        try:
            if _is_another_disk(device, quorum):
                device.close()
                return named()
        except BaseException:
            device.close()
            raise
        return device

    return open_either


def _is_another_disk(device: QuorumDevice, quorum: Quorum) -> bool:
    """Whether it certainly is not the quorum disk; a damaged one may be."""
    try:
        block = decode_superblock(device.read(0, 1))
    except ClusterError as error:
        if error.code != "quorum-damaged":
            raise
        return False
    return block is None or f"{block.disk:016x}" != quorum.disk


def choose(
    wanted: Wanted,
    file: NodeFile,
    *,
    base_index: int = 0,
    generation: int = 0,
    present: Quorum | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Quorum:
    """The quorum that is asked for; its disk is prepared then. ``present``: the quorum of the running cluster, whose
    disk is not prepared again, but is the answer.

    ``auto`` is the smallest suitable shared disk larger than 50 MB, else a local quorum (MSCS 2003: default at
    creation). ``base_index``: what who begins the log must have applied; ``generation``: how many quorums were before.

    Raises ClusterError: ``device-unsuitable`` (with the reason and the way out; nothing was written), ``device-lost``.
    """
    kind = WORDS.get(wanted.place.casefold())
    if kind is not None:
        return Quorum(kind=kind, generation=generation)
    places = [wanted.place] if wanted.place.casefold() != AUTOMATIC else [facts.place for facts in candidates()]
    for place in places:
        return prepare(wanted, place, file, base_index=base_index, generation=generation, present=present, pause=pause)
    return Quorum(kind=QuorumKind.LOCAL, generation=generation)


def choose_on_running(wanted: Wanted, file: NodeFile, config: Config, *, base_index: int) -> Quorum:
    """The next quorum of a running cluster, of which ``config`` is known here at ``base_index``.

    Raises ClusterError as :func:`choose`, or with the code of the refusal that such a change would meet.
    """
    present = config.quorum
    generation = present.generation + 1
    kind = WORDS.get(wanted.place.casefold(), QuorumKind.DISK)
    example = Quorum(kind=kind, generation=generation)
    if kind is QuorumKind.DISK:
        least = DISK_BYTES_MIN // SECTOR_BYTES
        example = replace(example, device=wanted.place, disk="f" * 16, sectors=least, max_log_kb=LOG_KB_RANGE[0])
    if not example.same_log(present):
        # Before anything is written: would such a change be refused?
        refusal = set_quorum(config, SetQuorum(quorum=example, voters_version=config.voters_version))
        if isinstance(refusal, Report):
            raise ClusterError(refusal.code, refusal.message)
    return choose(wanted, file, base_index=base_index, generation=generation, present=present)


def prepare(
    wanted: Wanted,
    place: str,
    file: NodeFile,
    *,
    base_index: int,
    generation: int,
    present: Quorum | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Quorum:
    """Make the disk at ``place`` the cluster's: slots are emptied, then the superblock is written. Before that it is
    looked at (:mod:`clussvc.service.quorum_suitability`); ``pause`` waits for so many seconds.

    A disk that a running cluster has prepared for this very generation, and never used, is taken as it is: the change
    for which it was prepared may have an unknown outcome, and come to be yet.

    Raises ClusterError as :func:`choose`.
    """
    if present is not None and present.on_disk and place == present.device:
        # Its owner has it open, and another look would only disturb it.
        return present
    if _is_new_file(place):
        create_file(place, 2 * DISK_BYTES_MIN)
    facts = examine(place)
    if facts.used_by:
        # Not even force helps: something works with it at this moment.
        raise ClusterError(
            "device-unsuitable", f"{place} is in use: {facts.used_by}. Choose another disk, or end that use first"
        )
    device = open_device(place, initiator=initiator_name(file), timeout_ms=PREPARATION_TIMEOUT_MS)
    try:
        sectors = _sectors(place, device)
        found = _own_block(device, file) if present is not None else None
        if found is not None and present is not None and present.on_disk and f"{found.disk:016x}" == present.disk:
            return present
        unused = found if found is not None and _never_used(device, found, sectors, generation) else None
        disk = unused.disk if unused is not None else secrets.randbits(63) + 1
        block = Superblock(
            cluster=file.cluster_id,
            cluster_name=file.cluster,
            disk=disk,
            sectors=sectors,
            prepared_ms=time.time_ns() // 1_000_000,
            base_index=unused.base_index if unused is not None else base_index,
            generation=generation,
        )
        quorum = Quorum(
            kind=QuorumKind.DISK,
            device=place,
            disk=f"{disk:016x}",
            sectors=sectors,
            reservations=device.reservations,
            base_index=block.base_index,
            hold_ms=wanted.hold_ms,
            generation=generation,
        )
        quorum = replace(quorum, max_log_kb=wanted.max_log_kb or min(MAX_LOG_KB, quorum.most_log_kb))
        if bad := check_quorum(quorum):
            raise ClusterError("device-unsuitable", f"{place}: {bad.message}")
        if unused is not None:
            return quorum
        check_free(
            place, facts, device, cluster_id=file.cluster_id, node=NodeId(file.node_id), force=wanted.force, pause=pause
        )
        # The old superblock goes first: half a preparation is no quorum disk at all.
        device.write(0, bytes(SECTOR_BYTES))
        device.write(FIRST_SLOT_SECTOR, bytes((FIRST_AREA_SECTOR - FIRST_SLOT_SECTOR) * SECTOR_BYTES))
        device.write(0, encode_superblock(block))
        return quorum
    finally:
        device.close()


def _own_block(device: QuorumDevice, file: NodeFile) -> Superblock | None:
    """The superblock, if this cluster has prepared the disk."""
    try:
        block = decode_superblock(device.read(0, 1))
    except ClusterError as error:
        if error.code != "quorum-damaged":
            raise
        return None
    return block if block is not None and block.cluster == file.cluster_id else None


def _never_used(device: QuorumDevice, block: Superblock, sectors: int, generation: int) -> bool:
    """Whether the disk was prepared for this, and no node has written its slot there."""
    if block.left or (block.sectors, block.generation) != (sectors, generation):
        return False
    return not any(device.read(FIRST_SLOT_SECTOR, FIRST_AREA_SECTOR - FIRST_SLOT_SECTOR))


def _is_new_file(place: str) -> bool:
    """Whether it is a path where nothing is yet, in a folder that exists; never below /dev."""
    path = Path(place)
    return path.is_absolute() and not path.exists() and path.parent.is_dir() and not place.startswith("/dev/")


def _sectors(place: str, device: QuorumDevice) -> int:
    try:
        return used_sectors(device.sectors)
    except ClusterError as error:
        raise ClusterError(error.code, f"{place}: {error.message}") from error

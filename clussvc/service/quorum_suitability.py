"""Whether a disk may become the quorum disk of a cluster: what lies on it, and who else has it.

Nothing is written before every question is answered. What speaks against a disk is told with the way out. ``force``
overrules what lies there, never a use that can be seen: this machine's own (mounted, swap, a part of something else),
or another machine's, whose slot moves or whose registrations change while we look.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from clussvc.global_update.disk.disk_thread import reservation_key
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.ports import QuorumDevice, Registrants
from clussvc.quorum.devices import DeviceFacts
from clussvc.quorum.disk_layout import (
    FIRST_AREA_SECTOR,
    FIRST_SLOT_SECTOR,
    SECTOR_BYTES,
    SLOT_SECTORS,
    Slot,
    Superblock,
    decode_slots,
    decode_superblock,
)

LOOKED_AT_SECTORS = 32
"""So much at the beginning of a disk must be empty: whatever systems keep there of what lies on it."""
WATCHED_SECTORS = FIRST_AREA_SECTOR
"""So much is compared to see whether somebody writes: the slots of a cluster, the beginning of anything else."""
WATCH_MS = 2_000
"""For how long a disk on which something lies is watched before it is overwritten. An owner renews its slot several
times in a hold; one with a longer hold than this is watched for that long."""
_KEY_SHIFT = 40


def check_free(
    place: str,
    facts: DeviceFacts,
    device: QuorumDevice,
    *,
    cluster_id: str,
    node: NodeId,
    force: bool,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Whether the cluster may have the disk. Registrations of other machines are gone when this returns.

    Raises ClusterError(``device-unsuitable``) with the reason and the way out, or ``device-lost``.
    """
    against = [*_content(place, facts, device, cluster_id), *_reserved(place, device, cluster_id, node)]
    if against and not force:
        raise ClusterError("device-unsuitable", " ".join(against))
    if against:
        _refuse_if_in_use(place, device, pause)
    _clear_registrations(device, cluster_id, node, force=force)


# --- what lies there -------------------------------------------------------------------------------------------------


def _content(place: str, facts: DeviceFacts, device: QuorumDevice, cluster_id: str) -> list[str]:
    try:
        block = decode_superblock(device.read(0, 1))
    except ClusterError as error:
        if error.code != "quorum-damaged":
            raise
        return [
            f"{place} was the quorum disk of a cluster, and {error.message}. If it still is, have a node of that"
            " cluster start with /resetquorumlog; else use /force to overwrite it, or choose another disk."
        ]
    if block is not None and block.left:
        # Whoever used it has another quorum now.
        return []
    if block is not None:
        return [_whose(place, block, cluster_id)]
    if not facts.signature and any(device.read(0, LOOKED_AT_SECTORS)):
        # Not every kind of data is known by a signature, and nobody looks for one on iSCSI disks.
        facts = replace(facts, signature="data")
    if facts.signature:
        return [f"{place} holds {facts.signature}; use /force to overwrite it, or choose another disk."]
    return []


def _whose(place: str, block: Superblock, cluster_id: str) -> str:
    if block.cluster == cluster_id:
        return (
            f"{place} is a quorum disk of this very cluster, prepared for its quorum number {block.generation}. If it"
            " is not the present one, use /force to overwrite it; else choose another disk."
        )
    return (
        f"{place} is the quorum disk of cluster {block.cluster_name!r} ({block.cluster}). If that cluster is gone, or"
        " has another quorum now, use /force to overwrite it; else choose another disk."
    )


# --- who else has it -------------------------------------------------------------------------------------------------


def _is_ours(key: int, cluster_id: str) -> bool:
    return key >> _KEY_SHIFT == reservation_key(cluster_id, 0, 0) >> _KEY_SHIFT


def _reserved(place: str, device: QuorumDevice, cluster_id: str, node: NodeId) -> list[str]:
    if not device.reservations:
        return []
    known = device.registrants()
    if known is None:
        if _can_be_reserved(device, reservation_key(cluster_id, node, 0)):
            return []
        return [
            f"{place} is reserved by another machine, and does not tell which. If nobody uses it any more, /force"
            " clears the reservation; else choose another disk."
        ]
    foreign = sorted(key for key in known.all if not _is_ours(key, cluster_id))
    if not foreign:
        return []
    keys = ", ".join(f"{key:#x}" for key in foreign[:4]) + (" and others" if len(foreign) > 4 else "")
    what = "is reserved by" if known.holder in foreign else "is registered by"
    return [
        f"{place} {what} another machine or cluster (key {keys}). If nobody uses it any more, /force clears that;"
        " else choose another disk."
    ]


def _can_be_reserved(device: QuorumDevice, key: int) -> bool:
    """Found out by doing it, on a device that does not tell; nothing of it is left, and no data is written."""
    device.register(key)
    try:
        device.reserve(key)
        device.release(key)
    except ClusterError as error:
        if error.code != "reservation-conflict":
            raise
        return False
    finally:
        device.unregister(key)
    return True


def _clear_registrations(device: QuorumDevice, cluster_id: str, node: NodeId, *, force: bool) -> None:
    """Who stays registered could write on the disk whoever owns it."""
    if not device.reservations:
        return
    known = device.registrants()
    if known.all if known is not None else force:
        key = reservation_key(cluster_id, node, 0)
        device.register(key)
        device.clear(key)


# --- is it used at this moment ---------------------------------------------------------------------------------------


def _refuse_if_in_use(place: str, device: QuorumDevice, pause: Callable[[float], None]) -> None:
    before, registrants = _sight(device)
    pause(_watch_ms(before) / 1000)
    after, registrants_then = _sight(device)
    if before == after and registrants == registrants_then:
        return
    raise ClusterError(
        "device-unsuitable",
        f"{place} is in use at this moment: {_who_moves(before, after)}. Not even /force overwrites a disk that"
        " somebody works with: stop that cluster or program, or choose another disk",
    )


def _sight(device: QuorumDevice) -> tuple[bytes, Registrants | None]:
    count = min(WATCHED_SECTORS, device.sectors)
    return device.read(0, count), device.registrants() if device.reservations else None


def _slots(content: bytes) -> tuple[Superblock | None, dict[NodeId, Slot]]:
    try:
        block = decode_superblock(content[:SECTOR_BYTES])
    except ClusterError:
        block = None
    if block is None:
        return None, {}
    begin = FIRST_SLOT_SECTOR * SECTOR_BYTES
    return block, decode_slots(content[begin : begin + SLOT_SECTORS * SECTOR_BYTES], block.disk)


def _watch_ms(content: bytes) -> int:
    _, slots = _slots(content)
    return max([WATCH_MS, *(slot.hold_ms + slot.hold_ms // 10 for slot in slots.values() if slot.held)])


def _who_moves(before: bytes, after: bytes) -> str:
    block, slots = _slots(after)
    _, slots_before = _slots(before)
    moving = [str(node) for node, slot in slots.items() if slots_before.get(node) != slot]
    if block is not None and moving:
        return f"node {', '.join(moving)} of cluster {block.cluster_name!r} writes on it"
    return "it changes, or its registrations do"

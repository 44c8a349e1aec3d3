"""Which adapter a quorum device needs, by how its place is written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from clussvc.model.errors import ClusterError
from clussvc.ports import QuorumDevice
from clussvc.quorum.devices.block_device import BlockDevice
from clussvc.quorum.devices.iscsi import IscsiDevice
from clussvc.quorum.devices.shared_file import SharedFile, lost
from clussvc.quorum.devices.type_device import TypeDevice, TypeProcess
from clussvc.quorum.devices.type_protocol import parse_place

LOOKING_MS = 60_000
"""How long somebody who prepares a quorum of a type may take between two looks."""


def is_of_a_type(spec: str) -> bool:
    """Whether it names a quorum-capable resource type. Raises ClusterError(``device-unsuitable``)."""
    return parse_place(spec) is not None


def device_opener(spec: str, *, initiator: str, timeout_ms: int) -> Callable[[], QuorumDevice]:
    """How to open that disk again and again; the process of a type is used anew then."""
    if not spec.startswith("iscsi:") and is_of_a_type(spec):
        process = TypeProcess(spec, timeout_ms=timeout_ms)
        return lambda: TypeDevice(process, ends=False)
    return lambda: open_device(spec, initiator=initiator, timeout_ms=timeout_ms)


def open_device(spec: str, *, initiator: str, timeout_ms: int) -> QuorumDevice:
    """Open the disk of that place: a device file, a plain file, ``iscsi://HOST[:PORT]/TARGET/LUN``, or
    ``TYPE://ARGUMENT`` of a quorum-capable resource type, which is arbitrated for.

    ``initiator`` is this node's name for an iSCSI target. Raises ClusterError: ``device-lost``, ``device-unsuitable``,
    ``reservation-conflict`` (another node has won the arbitration).
    """
    if spec.startswith("iscsi:"):
        return IscsiDevice(spec, initiator=initiator, timeout_ms=timeout_ms)
    if is_of_a_type(spec):
        return TypeDevice(TypeProcess(spec, timeout_ms=timeout_ms, silence_ms=LOOKING_MS), ends=True)
    if not os.path.isabs(spec):
        raise ClusterError(
            "device-unsuitable",
            f"{spec!r} is no quorum device: give the absolute path of a device or of a file on shared storage,"
            " iscsi://HOST/TARGET/LUN, or TYPE://ARGUMENT",
        )
    try:
        mode = os.stat(spec).st_mode
    except OSError as error:
        raise lost(spec, error) from error
    if stat.S_ISBLK(mode):
        return BlockDevice(spec)
    if stat.S_ISREG(mode):
        return SharedFile(spec)
    raise ClusterError("device-unsuitable", f"{spec} is neither a file nor a block device")

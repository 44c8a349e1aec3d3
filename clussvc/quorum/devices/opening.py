"""Which adapter a quorum device needs, by how its place is written."""

from __future__ import annotations

import os
import stat

from clussvc.model.errors import ClusterError
from clussvc.ports import QuorumDevice
from clussvc.quorum.devices.block_device import BlockDevice
from clussvc.quorum.devices.iscsi import IscsiDevice
from clussvc.quorum.devices.shared_file import SharedFile, lost


def open_device(spec: str, *, initiator: str, timeout_ms: int) -> QuorumDevice:
    """Open the disk of that place: a device file, a plain file, or ``iscsi://HOST[:PORT]/TARGET/LUN``.

    ``initiator`` is this node's name for an iSCSI target. Raises ClusterError(``device-lost``, ``device-unsuitable``).
    """
    if spec.startswith("iscsi:"):
        return IscsiDevice(spec, initiator=initiator, timeout_ms=timeout_ms)
    if not os.path.isabs(spec):
        raise ClusterError(
            "device-unsuitable",
            f"{spec!r} is no quorum device: give the absolute path of a device or of a file on shared storage",
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

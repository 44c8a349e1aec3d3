"""What a node that takes no part can say of its cluster's log: how far it can be read, and what is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clussvc.global_update.disk.device_worker import check_identity
from clussvc.global_update.raft.stored_log import read_stored_log
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum
from clussvc.ports import QuorumDevice
from clussvc.quorum.disk_layout import decode_superblock
from clussvc.quorum.log_survey import Survey, survey


def diagnose_disk(open_disk: Callable[[], QuorumDevice], quorum: Quorum, cluster_id: str, config: Config | None) -> str:
    """In sentences; nothing is written and no reservation is touched, so an owner at work is not disturbed."""
    try:
        device = open_disk()
        try:
            check_identity(device, quorum, cluster_id)
            block = decode_superblock(device.read(0, 1))
            assert block is not None, "its identity was right"
            return _told(survey(device.read, block), config)
        finally:
            device.close()
    except ClusterError as error:
        return f"The log on the quorum disk cannot be read: {error.message}."


def _told(found: Survey, config: Config | None) -> str:
    if found.owner is None:
        return "The quorum disk is empty: nobody has ever owned it."
    owner = config.node_name(NodeId(found.owner)) if config is not None else f"node {found.owner}"
    if not found.damage:
        return f"The log on the quorum disk is good and ends at entry {found.index}; {owner} owned it last."
    safe = f", and entry {found.durable_index} was safe" if found.durable_index > found.index else ""
    return (
        f"The log on the quorum disk is damaged: {found.damage}. It can be read up to entry {found.index}{safe};"
        f" {owner} owned it last."
    )


def diagnose_journal(folder: Path, cluster_id: str, node_id: int) -> str:
    """The same of this node's part of the log among the nodes. The file itself is opened as at any start: a write that
    was torn by a crash is cut off."""
    try:
        found = read_stored_log(folder, cluster_id=cluster_id, node_id=node_id)
    except ClusterError as error:
        return f"This node's part of the log cannot be used: {error.message}"
    return (
        f"This node's part of the log is good and ends at change {found.applied + len(found.commands)} (entry"
        f" {found.index} of term {found.term}); whether the last ones were acknowledged only a majority can tell."
    )

"""Plain mappings for everything that administration shows; JSON says them as they are.

One function for each kind of object, from the configuration (and what this node knows besides) to a mapping with
stable keys. Reports and errors are carried unchanged: code, status, message, severity, force code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from clussvc.model.config import Config, Group, Node, Resource
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.monitoring import PropertyValue
from clussvc.model.properties import PropertyDef
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.records import HistoryEntry
from clussvc.model.reports import Report
from clussvc.model.settings import PROFILES, disk_timing
from clussvc.model.states import NodePhase
from clussvc.model.view import LiveView
from clussvc.resources.aggregate import group_state
from clussvc.resources.type_info import PropertyInfo, ResourceTypeInfo

Plain = dict[str, Any]


def report_of(report: Report) -> Plain:
    """A refusal."""
    return {
        "code": report.code,
        "status": report.status,
        "message": report.message,
        "severity": report.severity.value,
        "force_code": report.force_code,
    }


def error_of(error: ClusterError) -> Plain:
    """The world failed: status 1 (the function failed) with the error's own code."""
    return {
        "code": error.code,
        "status": 1,
        "message": error.message,
        "severity": "error",
        "force_code": None,
        "retryable": error.retryable,
        "remote": error.remote,
    }


def notes_of(view: LiveView, config: Config) -> list[str]:
    """What the reader of any answer of this node should know: whether it may be old news."""
    if view.phase is NodePhase.MEMBER and view.holds_quorum:
        return []
    why = f" ({view.note})" if view.note else ""
    if view.holds_quorum:
        return [f"Node {config.node_name(view.node)} is {view.phase.value}{why}."]
    return [
        f"Node {config.node_name(view.node)} does not take part in the cluster now{why}: it is {view.phase.value} and"
        f" holds {view.votes_held} of {view.votes_needed} votes needed. What it shows may be old."
    ]


def cluster_of(config: Config, view: LiveView) -> Plain:
    """The cluster as this node sees it."""
    return {
        "name": config.name,
        "id": config.cluster,
        "description": config.description,
        "timing_profile": config.timing.profile,
        "node": config.node_name(view.node),
        "phase": view.phase.value,
        "note": view.note,
        "holds_quorum": view.holds_quorum,
        "quorum_lease_ms": view.quorum_lease_ms,
        "votes_held": view.votes_held,
        "votes_needed": view.votes_needed,
        "coordinator": config.node_name(view.coordinator) if view.coordinator is not None else None,
        "index": view.index,
        "nodes": len(config.nodes),
        "groups": sum(group.instance_of is None for group in config.groups.values()),
        "resources": sum(resource.instance_of is None for resource in config.resources.values()),
    }


_QUORUM_TYPES: Final = {
    QuorumKind.MAJORITY: "Majority Node Set",
    QuorumKind.DISK: "Physical Disk",
    QuorumKind.LOCAL: "Local Quorum",
}
"""The resource types that MSCS has for them."""


def _quorum_type(quorum: Quorum) -> str:
    """A quorum disk may be of somebody else's type: ``TYPE://ARGUMENT``."""
    scheme, found, _ = quorum.device.partition("://")
    if quorum.on_disk and found and scheme.casefold() != "iscsi":
        return scheme
    return _QUORUM_TYPES[quorum.kind]


def quorum_of(config: Config, view: LiveView) -> Plain:
    """How the cluster decides which side of a split may live."""
    quorum = config.quorum
    return {
        "type": _quorum_type(quorum),
        "device": quorum.device,
        "max_log_kb": quorum.max_log_kb,
        "reservations": quorum.reservations,
        "hold_ms": disk_timing(PROFILES[config.timing.profile], quorum.hold_ms).hold_ms if quorum.on_disk else 0,
        "hold_is_set": bool(quorum.hold_ms),
        "generation": quorum.generation,
        "voters": [config.node_name(node) for node in sorted(config.voters)],
        "voters_version": config.voters_version,
        "without_vote": [node.name for node in config.nodes.values() if not node.voter],
        "dynamic_votes": config.dynamic_votes,
        "witness": config.witness.path,
        "witness_open": config.witness_open,
        "witness_trouble": view.witness_trouble,
        "asked_node": config.node_name(view.node),
        "votes_needed": view.votes_needed,
        "votes_held": view.votes_held,
        "holds_quorum": view.holds_quorum,
        "coordinator": config.node_name(view.coordinator) if view.coordinator is not None else None,
    }


def node_of(node: Node, view: LiveView) -> Plain:
    """A member."""
    peer = view.peers.get(node.id)
    return {
        "name": node.name,
        "id": node.id,
        "state": node.state.value,
        "state_number": node.state.number,
        "voter": node.voter,
        "stopping": node.stopping,
        "incarnation": node.incarnation,
        "down_because": node.down_because,
        "addresses": list(node.addresses),
        "port": node.port,
        "admin_port": node.admin_port,
        "silent_ms": 0 if node.id == view.node else (peer.silent_ms if peer else None),
    }


def group_of(config: Config, group: Group, resources: Iterable[Resource]) -> Plain:
    """A group with its derived state."""
    held = list(resources)
    state = group_state(held)
    move = group.move
    return {
        "name": group.name,
        "id": group.id,
        "state": state.value,
        "state_number": state.number,
        "node": config.node_name(group.owned),
        "node_id": group.owned,
        "epoch": group.epoch,
        "persistent": group.persistent_state,
        "moving": move is not None or group.failover is not None or group.released,
        "moving_to": config.node_name(move.to) if move and move.to is not None else None,
        "halted": group.halted,
        "because": group.released_because if group.released else group.placed_because,
        "wanted": sum(resource.persistent_state for resource in held),
        "online": sum(resource.state.value == "Online" for resource in held),
        "failed": [resource.name for resource in held if resource.state.value == "Failed"],
        "pending": sum(resource.state.pending for resource in held),
        "resources": len(held),
        "type": group.group_type,
        "instance_of": config.groups[group.instance_of].name if group.instance_of is not None else None,
        "instances": [],
    }


def resource_of(config: Config, resource: Resource, view: LiveView) -> Plain:
    """A resource with what its owner reported."""
    group = config.groups[resource.group]
    local = view.resources.get(resource.id)
    return {
        "name": resource.name,
        "id": resource.id,
        "group": group.name,
        "node": config.node_name(group.owned),
        "type": resource.type,
        "state": resource.state.value,
        "state_number": resource.state.number,
        "detail": resource.detail or (local.last_failure if local else ""),
        "persistent": resource.persistent_state,
        "separate_monitor": resource.separate_monitor,
        "restarts_in_period": local.restarts_in_period if local else None,
        "instance_of": config.resources[resource.instance_of].name if resource.instance_of is not None else None,
        "instances": [],
        "moving": group.move is not None or group.failover is not None or group.released,
    }


def type_of(info: ResourceTypeInfo) -> Plain:
    """A resource type."""
    return {
        "name": info.name,
        "description": info.description,
        "class": info.resource_class,
        "looks_alive_interval_ms": info.looks_alive_interval_ms,
        "is_alive_interval_ms": info.is_alive_interval_ms,
        "required_dependencies": list(info.required_dependencies),
        "extensible": info.extensible,
        "private": [private_info_of(known) for known in info.private],
    }


def private_info_of(info: PropertyInfo) -> Plain:
    """What a type says of one of its private properties."""
    return {
        "name": info.name,
        "kind": info.kind,
        "required": info.required,
        "default": value_of(info.default) if info.default is not None else None,
        "doc": info.doc,
    }


def property_of(definition: PropertyDef, value: PropertyValue) -> Plain:
    """One line of a listing of common properties."""
    return {
        "name": definition.name,
        "kind": definition.kind,
        "read_only": definition.read_only,
        "value": value_of(value),
    }


def private_of(name: str, value: PropertyValue) -> Plain:
    """One line of a listing of private properties; the letter follows from the value."""
    kind = "D" if isinstance(value, int) else "S" if isinstance(value, str) else "M"
    return {"name": name, "kind": kind, "read_only": False, "value": value_of(value)}


def value_of(value: PropertyValue) -> int | str | list[str]:
    """A property value; lists of texts as lists. -1 is the DWORD that it stands for."""
    if isinstance(value, tuple):
        return list(value)
    return value


def event_of(entry: HistoryEntry) -> Plain:
    """One event with its cursor."""
    record = entry.record
    return {
        "cursor": entry.cursor,
        "at_ms": entry.at_ms,
        "event_id": record.event_id,
        "severity": record.severity.value,
        "name": record.name,
        "kind": record.kind,
        "object": record.object,
        "node": record.node,
        "message": record.message,
        "because": record.because,
    }


def names_of(config: Config, nodes: Iterable[NodeId]) -> list[str]:
    """Node names, in that order."""
    return [config.node_name(node) for node in nodes]


def sorted_by_name(items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """As tables show them."""
    return sorted(items, key=lambda item: str(item["name"]).casefold())

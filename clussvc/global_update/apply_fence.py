"""Fence devices: what can switch a node off. Whether an agent exists and takes its parameters, only a node can tell."""

from __future__ import annotations

import re
from dataclasses import replace

from clussvc.global_update.names import check_new_name
from clussvc.global_update.outcome import Done, Result, find_node, note
from clussvc.global_update.update import CreateFenceDevice, DeleteFenceDevice, SetFenceDeviceProperties
from clussvc.model.config import Config, FenceDevice
from clussvc.model.ids import FenceDeviceId
from clussvc.model.properties import common_changes, private_changes
from clussvc.model.reports import Report, bad_property, fence_device_not_found, limit_reached, object_exists
from clussvc.model.settings import FENCE_DEVICES_MAX

_AGENT = re.compile(r"(/[A-Za-z0-9_.+-]+)*/?[A-Za-z0-9_.+-]+", re.ASCII)
_AGENT_LENGTH_MAX = 255
RESERVED = ("action",)
"""Parameters of agents that are ours to give."""


def create_fence_device(config: Config, update: CreateFenceDevice) -> Result:
    """A device for a node that is a member."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if update.device in config.fence_devices:
        return object_exists("fence device", update.name)
    bad = check_new_name(config, "fence device", update.name)
    if bad is not None:
        return bad
    if len(config.fence_devices) >= FENCE_DEVICES_MAX:
        return limit_reached("fence devices", FENCE_DEVICES_MAX)
    if len(update.agent) > _AGENT_LENGTH_MAX or not _AGENT.fullmatch(update.agent):
        why = f"{update.agent[:80]!r} is neither the name of a program nor a whole path"
        return bad_property(f"fence device {update.name!r}", "Agent", why)
    blank = FenceDevice(id=update.device, name=update.name, node=node.id, agent=update.agent)
    device = _changed(blank, update)
    if isinstance(device, Report):
        return device
    message = f"Fence device {device.name} was created: {device.agent} can switch off node {node.name}."
    return Done(
        config=_with(config, device),
        records=note("fence.created", message, kind="fence", thing=device.name, node=node.name),
    )


def delete_fence_device(config: Config, update: DeleteFenceDevice) -> Result:
    """It is not used any more; what it does at this moment goes on."""
    device = config.fence_devices.get(update.device)
    if device is None:
        return fence_device_not_found(update.device)
    left = {known: other for known, other in config.fence_devices.items() if known != device.id}
    message = f"Fence device {device.name} of node {config.node_name(device.node)} was deleted."
    return Done(
        config=replace(config, fence_devices=left),
        records=note("fence.deleted", message, kind="fence", thing=device.name, node=config.node_name(device.node)),
    )


def set_fence_device_properties(config: Config, update: SetFenceDeviceProperties) -> Result:
    """All values, or none of them."""
    device = config.fence_devices.get(update.device)
    if device is None:
        return fence_device_not_found(update.device)
    changed = _changed(device, update)
    if isinstance(changed, Report):
        return changed
    names = ", ".join((*update.common, *update.private)) or "nothing"
    message = f"Properties of fence device {device.name} were set: {names}."
    return Done(
        config=_with(config, changed),
        records=note("fence.properties", message, kind="fence", thing=device.name, node=config.node_name(device.node)),
    )


def _changed(device: FenceDevice, update: CreateFenceDevice | SetFenceDeviceProperties) -> FenceDevice | Report:
    owner = f"fence device {device.name!r}"
    common = common_changes("fence", owner, update.common)
    if isinstance(common, Report):
        return common
    for name, value in update.private.items():
        if name.casefold() in RESERVED:
            return bad_property(owner, name, "the cluster itself gives this parameter")
        if "=" in name or _breaks(name) or _breaks(value):
            return bad_property(owner, name[:255], "a parameter of an agent is one line, and its name has no '='")
    private = private_changes(owner, device.private, update.private)
    if isinstance(private, Report):
        return private
    return replace(device, private=private, **common)  # type: ignore[arg-type]  # the table pairs fields and types


def _breaks(value: object) -> bool:
    """Agents read one parameter in a line; nothing else may end one."""
    return isinstance(value, tuple) or any(mark in str(value) for mark in ("\n", "\r", "\0"))


def _with(config: Config, device: FenceDevice) -> Config:
    return replace(config, fence_devices={**config.fence_devices, FenceDeviceId(device.id): device})

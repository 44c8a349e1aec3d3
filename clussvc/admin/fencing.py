"""Fence devices as administrators use them: made, tried, and set on a node by hand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from clussvc.admin.dto import Plain, private_of
from clussvc.model.config import Config, FenceDevice, Node
from clussvc.model.errors import ClusterError
from clussvc.model.monitoring import PropertyValue
from clussvc.model.reports import Report, bad_property
from clussvc.ports import ClusterAccess

HAND_TIMEOUT_MS: Final = 40_000
"""How long one device may take while somebody waits for the answer; the connection would be given up after 60 s."""
LOOK_S: Final = 0.05
HIDDEN: Final = ("passw", "secret", "token", "community", "ssh_options")
"""Parameters whose names hold one of these are not shown; ``identity_file`` and the like name files and are."""


def device_of(config: Config, device: FenceDevice) -> Plain:
    """A fence device."""
    return {
        "name": device.name,
        "id": device.id,
        "node": config.node_name(device.node),
        "agent": device.agent,
        "action": device.action,
        "order": device.order,
        "timeout_ms": device.timeout_ms,
        "verify": device.verify,
        "description": device.description,
    }


def parameter_lines(device: FenceDevice) -> list[Plain]:
    """The agent's parameters, without the secrets among them."""
    return [
        {**private_of(name, "***" if is_secret(name) else value), "object": device.name}
        for name, value in device.private.items()
    ]


def is_secret(name: str) -> bool:
    """Whether a parameter of that name is not for everybody."""
    return any(part in name.casefold() for part in HIDDEN)


def check_parameters(
    access: ClusterAccess, name: str, agent: str, given: Mapping[str, PropertyValue | None], *, complete: bool
) -> Report | None:
    """What the agent's own metadata say against these parameters. ``complete``: nothing required may be missing.

    Raises ClusterError when this node has no such agent, or it tells no metadata.
    """
    known = access.fence_agent(agent)
    owner = f"fence device {name!r}"
    for parameter in given:
        if parameter not in known.parameters:
            listed = ", ".join(sorted(known.parameters - {"action"}))
            return bad_property(owner, parameter[:255], f"{agent} has no such parameter; it has {listed}")
    missing = known.required - set(given) - {"action", "plug", "port", "nodename"}
    if complete and missing:
        return bad_property(
            owner, ", ".join(sorted(missing)), f"{agent} needs it; set it with /priv when you create it"
        )
    return None


def fence_by_hand(access: ClusterAccess, config: Config, node: Node, devices: list[FenceDevice]) -> Report | str:
    """Switch a node off by the first device that can; the sentence for the history, or why none could."""
    failures = []
    for device in devices:
        try:
            access.use_fence_device(device, "off", min(device.timeout_ms, HAND_TIMEOUT_MS))
        except ClusterError as error:
            failures.append(f"{device.name}: {error.message}")
            continue
        if node.up and not _falls_silent(access, config, node):
            failures.append(f"{device.name}: it said that {node.name} is off, but {node.name} is still heard")
            continue
        return f"fence device {device.name} switched it off, as an administrator asked"
    message = (
        f"Node {node.name} could not be fenced: {'; '.join(failures)}. Switch it off yourself and confirm it with"
        f" 'cluster node {node.name} /confirmdown'."
    )
    return Report(code="fencing-failed", status=1, message=message)


def _falls_silent(access: ClusterAccess, config: Config, node: Node) -> bool:
    """Whether the node is not heard any more for a whole lease."""
    end_s = time.monotonic() + 4 * config.timing.lease_ms / 1000
    while time.monotonic() < end_s:
        peer = access.view().peers.get(node.id)
        if peer is None or peer.silent_ms is None or peer.silent_ms >= config.timing.lease_ms:
            return True
        time.sleep(LOOK_S)
    return False


def notes_on(config: Config, node: Node, wall_ms: int) -> list[str]:
    """What the reader of a list of nodes should know of this one, in sentences without the full stop."""
    notes: list[str] = []
    if node.quarantined_until_ms > wall_ms:
        left_s = (node.quarantined_until_ms - wall_ms) // 1_000 + 1
        notes.append(
            f"Node {node.name} is in quarantine for {left_s} s more, since it was lost {len(node.losses)} times within"
            f" {config.quarantine_period_s} s; 'cluster node {node.name} /clearquarantine' ends it"
        )
    if node.up and node.fence_failure:
        notes.append(
            f"Node {node.name} could not be fenced: {node.fence_failure}; if it does not run, confirm that with"
            f" 'cluster node {node.name} /confirmdown'"
        )
    return notes

"""Refusals that only an update can meet, beside the common ones of :mod:`clussvc.model.reports`."""

from __future__ import annotations

from collections.abc import Sequence

from clussvc.model.reports import Report


def no_cluster() -> Report:
    """An update came before the cluster was founded."""
    return Report(
        code="no-cluster", status=5052, message="There is no cluster yet; 'cluster NAME /create' founds one. Try then."
    )


def core_group(name: str) -> Report:
    """The built-in group cannot be deleted."""
    return Report(
        code="core-group",
        status=5026,
        message=f"Group {name!r} belongs to the cluster itself and cannot be deleted; it may be renamed.",
    )


def owner_exists(resource: str, node: str) -> Report:
    """The node is a possible owner already."""
    return Report(
        code="object-exists",
        status=5010,
        message=f"Node {node} is a possible owner of {resource!r} already; nothing needs to be done.",
    )


def owner_not_listed(resource: str, node: str) -> Report:
    """The node is no possible owner."""
    return Report(
        code="owner-not-found",
        status=5071,
        message=f"Node {node} is no possible owner of {resource!r};"
        f" 'cluster res \"{resource}\" /listowners' lists them.",
    )


def last_possible_owner(resource: str, node: str) -> Report:
    """Nobody would be left to run the resource."""
    return Report(
        code="last-owner",
        status=5071,
        message=f"Node {node} is the last possible owner of {resource!r}; add another one with /addowner first.",
    )


def different_owners(resource: str, group: str, owner: str, target: str, target_owner: str) -> Report:
    """A resource was to be put into a group that is elsewhere."""
    return Report(
        code="different-owners",
        status=5016,
        message=f"Resource {resource!r} cannot go from group {group!r} on {owner} to group {target!r} on"
        f" {target_owner}: both must be on one node; move one of them first ('cluster group \"{group}\" /moveto').",
    )


def still_voter(node: str) -> Report:
    """A voter cannot be evicted at once."""
    return Report(
        code="node-votes",
        status=5009,
        message=f"Node {node} still counts among the voters; its vote is taken away first, then it can be evicted.",
    )


def node_is_stopping(node: str) -> Report:
    """The node hands its groups over and takes none."""
    return Report(
        code="node-stopping",
        status=5073,
        message=f"Node {node} is being stopped and takes no groups; choose another or start it again afterwards.",
    )


def property_changed(owner: str, name: str, present: str, expected: str) -> Report:
    """A property does not have the value on which a change was made to depend."""
    return Report(
        code="property-changed",
        status=5023,
        message=f"Property {name} of {owner} is {present}, not {expected} as the change expects; somebody else was"
        " first. Nothing was changed: read it again, and decide anew.",
    )


def request_in_batch() -> Report:
    """A batch held another batch."""
    return Report(code="bad-argument", status=87, message="A batch cannot hold another batch; send its updates alone.")


def batch_too_long(count: int, limit: int) -> Report:
    """A batch held too many updates."""
    return Report(
        code="bad-argument", status=87, message=f"A batch of {count} updates is too long; send at most {limit} at once."
    )


def last_internal_network(network: str) -> Report:
    """No internal network would be left."""
    return Report(
        code="last-internal-network",
        status=5066,
        message=f"Network {network!r} is the last internal one; without it the nodes could not hear each other. Give"
        " another network the role 1 or 3 first.",
    )


def nodes_parted(network: str, why: str) -> Report:
    """Some nodes need this network to hear each other."""
    return Report(
        code="network-needed",
        status=5066,
        message=f"Network {network!r} must stay internal: {why}. Repair that first, or give another network the role 1"
        " or 3.",
    )


def not_internal(network: str) -> Report:
    """Only internal networks have an order."""
    return Report(
        code="network-not-internal",
        status=5060,
        message=f"Network {network!r} is not internal, so it has no place in their order; its role would have to be 1"
        " or 3.",
    )


def instance_fixed(kind: str, name: str, pattern: str) -> Report:
    """An instance of a parallel group was to be changed by itself."""
    command = "group" if kind == "group" else "res"
    return Report(
        code="instance-fixed",
        status=5016,
        message=f"The {kind} {name!r} is an instance of {pattern!r} and has its properties from there; change"
        f" {pattern!r} instead ('cluster {command} \"{pattern}\" ...').",
    )


def instance_wanted(kind: str, name: str, instances: Sequence[str]) -> Report:
    """Something was asked of a parallel group that only one instance can do."""
    known = ", ".join(instances[:12]) or "there is none now"
    return Report(
        code="instance-wanted",
        status=5016,
        message=f"The {kind} {name!r} runs in instances; say which of them is meant, by its name or by the node that"
        f" has it: {known}{', ...' if len(instances) > 12 else ''}.",
    )


def instance_on_node(group: str, node: str, other: str) -> Report:
    """A node runs at most one instance of a group."""
    return Report(
        code="instance-exists",
        status=5071,
        message=f"Group {group!r} cannot run on {node}, where {other!r} is or goes: a node runs one instance of a"
        " parallel group. Choose another node.",
    )


def name_for_instances(kind: str, name: str, pattern: str) -> Report:
    """A name belongs to the instances of something."""
    return Report(
        code="object-exists",
        status=5010,
        message=f"The name {name!r} of a {kind} and that of an instance of {pattern!r} would be the same; choose"
        " another name.",
    )


def too_long_for_instances(kind: str, name: str) -> Report:
    """The names of instances would be too long."""
    return Report(
        code="bad-name",
        status=87,
        message=f"The name of the {kind} {name[:32]!r}... is too long for a parallel group, whose instances add '#' and"
        " a number to it; shorten it by 3 characters ('/rename').",
    )


def group_type_in_use(name: str, wanted: str, why: str) -> Report:
    """A group can become parallel, or cease to be, only while it is offline."""
    return Report(
        code="group-in-use",
        status=5016,
        message=f"Group {name!r} cannot become {wanted} now: {why}. Take it offline first"
        f" ('cluster group \"{name}\" /offline').",
    )


def instances_left(name: str, instances: Sequence[str]) -> Report:
    """The instances of a former parallel group have not ended yet."""
    return Report(
        code="group-in-use",
        status=5016,
        message=f"Group {name!r} still has instances, which are being stopped: {', '.join(instances[:12])}. Try again"
        " when they are gone.",
    )


def core_group_alone(name: str) -> Report:
    """The built-in group runs on one node."""
    return Report(
        code="core-group",
        status=5026,
        message=f"Group {name!r} belongs to the cluster itself and runs on one node; make another group parallel.",
    )


def parallel_stays(resource: str, group: str) -> Report:
    """Resources do not move between groups of different kinds."""
    return Report(
        code="parallel-group",
        status=5016,
        message=f"Resource {resource!r} cannot leave or join the parallel group {group!r}; delete it, and create it in"
        " the other group.",
    )


def instance_elsewhere(group: str, owner: str, node: str) -> Report:
    """A group was looked for on a node that does not have it."""
    return Report(
        code="not-on-node",
        status=5016,
        message=f"Group {group!r} is on {owner}, not on {node}, and it runs on one node; leave the node out.",
    )


def quorum_in_batch() -> Report:
    """Another log must begin with a clear cut."""
    return Report(
        code="quorum-in-batch",
        status=87,
        message="Another quorum cannot be chosen in one step with other changes; give it a step of its own.",
    )


def not_settled(nodes: list[str]) -> Report:
    """Some nodes may still act by the majority that has given way to a quorum disk."""
    return Report(
        code="quorum-changing",
        status=5068,
        message="The last change of the quorum is not finished: the quorum disk has not granted a lease yet to"
        f" {', '.join(nodes)}. Try again in a few seconds; if a node is gone, start it, or cut its power and confirm"
        " that ('cluster node NAME /confirmdown').",
    )


def quorum_changed() -> Report:
    """The change was prepared for another generation of the quorum, or another set of voters."""
    return Report(
        code="stale",
        status=5068,
        message="The quorum or the voters were changed meanwhile; look at them with 'cluster /quorum' and try again.",
    )

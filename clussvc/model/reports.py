"""Refusals and findings, as values: what was wrong, with which object, and what to do about it.

A :class:`Report` carries a stable ``code`` for programs, the ``status`` number that cluster.exe would return (the
published Win32 cluster errors 5001-5910), the name of the object, and a sentence that names the way out. The functions
below are the only places where these sentences are written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, unique


@unique
class Severity(Enum):
    """How bad it is."""

    INFORMATION = "information"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One finding. ``force_code`` names the override that would turn this refusal into a warning, if one exists."""

    code: str
    status: int
    message: str
    severity: Severity = Severity.ERROR
    force_code: str | None = None


def node_not_found(name: str, known: Iterable[str]) -> Report:
    """A node of that name is not a member."""
    return Report(
        code="node-not-found",
        status=5042,
        message=f"Node {name!r} is not a member of this cluster; its nodes are: {_listed(known)}.",
    )


def group_not_found(name: str) -> Report:
    """No group has that name."""
    return Report(
        code="group-not-found", status=5013, message=f"There is no group {name!r}; 'cluster group' lists them."
    )


def resource_not_found(name: str) -> Report:
    """No resource has that name."""
    return Report(
        code="resource-not-found", status=5007, message=f"There is no resource {name!r}; 'cluster res' lists them."
    )


def type_not_found(name: str, known: Iterable[str]) -> Report:
    """No resource type has that name."""
    return Report(
        code="type-not-found",
        status=5078,
        message=f"There is no resource type {name!r}; the types are: {_listed(known)}.",
    )


def object_exists(kind: str, name: str) -> Report:
    """An object of that kind already has the name."""
    return Report(
        code="object-exists", status=5010, message=f"A {kind} named {name!r} already exists; choose another name."
    )


def bad_name(kind: str, name: str, why: str) -> Report:
    """The name cannot be used."""
    return Report(code="bad-name", status=87, message=f"{name!r} cannot name a {kind}: {why}.")


def bad_property(owner: str, name: str, why: str) -> Report:
    """A property value was not accepted."""
    return Report(code="bad-property", status=87, message=f"Property {name} of {owner}: {why}. Nothing was changed.")


def unknown_property(owner: str, name: str, known: Iterable[str]) -> Report:
    """A common property of that name does not exist."""
    return Report(
        code="unknown-property",
        status=87,
        message=f"{owner} has no common property {name!r}; it has: {_listed(known)}. Other names go to /priv.",
    )


def read_only_property(owner: str, name: str) -> Report:
    """The property cannot be set."""
    way = _OTHER_WAYS.get(name, "It is shown for information only.")
    return Report(code="read-only-property", status=5089, message=f"Property {name} of {owner} cannot be set. {way}")


_OTHER_WAYS = {
    "Name": "Use /rename:NEW-NAME instead.",
    "Type": "Create a resource of the other type and delete this one.",
    "SeparateMonitor": "It is chosen with /separate when the resource is created.",
}
"""What to do about a property that cannot be set."""


def not_set_up(resource: str, problems: str) -> Report:
    """A resource was to be brought online before its private properties were complete."""
    return Report(
        code="bad-property",
        status=87,
        message=f"Resource {resource!r} cannot be brought online: {problems}. Set it with"
        f" 'cluster res \"{resource}\" /priv NAME=VALUE'. Nothing was changed.",
    )


def group_not_empty(name: str, resources: Iterable[str]) -> Report:
    """A group with resources was to be deleted."""
    return Report(
        code="group-not-empty",
        status=5023,
        message=f"Group {name!r} still holds {_listed(resources)}; delete or move these resources first.",
    )


def dependency_cycle(path: Iterable[str]) -> Report:
    """The dependency would close a circle."""
    return Report(
        code="dependency-cycle",
        status=5069,
        message=f"This dependency would close a circle: {' -> '.join(path)}. Remove one of these dependencies first.",
    )


def dependency_other_group(resource: str, provider: str, group: str) -> Report:
    """The two resources are in different groups."""
    return Report(
        code="dependency-other-group",
        status=5069,
        message=f"{resource!r} cannot depend on {provider!r}, which is in group {group!r}; move one of them"
        " (cluster res NAME /moveto:GROUP), since a dependency holds within one group only.",
    )


def dependency_exists(resource: str, provider: str) -> Report:
    """It is there already."""
    return Report(code="dependency-exists", status=5003, message=f"{resource!r} already depends on {provider!r}.")


def dependency_not_found(resource: str, provider: str) -> Report:
    """It is not there."""
    return Report(
        code="dependency-not-found",
        status=5002,
        message=f"{resource!r} does not depend on {provider!r}; 'cluster res NAME /listdep' lists what it depends on.",
    )


def dependents_exist(resource: str, dependents: Iterable[str]) -> Report:
    """Others depend on the resource."""
    return Report(
        code="dependents-exist",
        status=5001,
        message=f"{_listed(dependents)} depend(s) on {resource!r}; remove the dependency or delete them first.",
    )


def missing_dependency(resource: str, type_name: str, wanted: str) -> Report:
    """A required dependency is not there."""
    return Report(
        code="missing-dependency",
        status=5002,
        message=f"{resource!r} is a {type_name} and needs a dependency on a resource of type {wanted};"
        " add it with /adddep.",
    )


def not_possible_owner(group: str, node: str, resource: str, possible: Iterable[str]) -> Report:
    """The node may not run one of the group's resources."""
    return Report(
        code="not-possible-owner",
        status=5071,
        message=f"Group {group!r} cannot run on {node}: resource {resource!r} may only run on {_listed(possible)};"
        f" 'cluster res \"{resource}\" /addowner:{node}' would allow it.",
    )


def node_is_down(node: str, because: str = "") -> Report:
    """The node is not Up."""
    why = f" ({because})" if because else ""
    return Report(
        code="node-down",
        status=5050,
        message=f"Node {node} is down{why}; start its cluster service ('cluster node {node} /start')"
        " or choose another.",
    )


def node_is_paused(node: str) -> Report:
    """The node accepts no groups."""
    return Report(
        code="node-paused",
        status=5070,
        message=f"Node {node} is paused and takes no groups; 'cluster node {node} /resume' ends the pause.",
    )


def node_not_paused(node: str) -> Report:
    """Resume without a pause."""
    return Report(code="node-not-paused", status=5058, message=f"Node {node} is not paused.")


def node_in_quarantine(node: str) -> Report:
    """The node was lost too often lately."""
    return Report(
        code="node-quarantined",
        status=5050,
        message=f"Node {node} is in quarantine since it was lost too often; 'cluster node {node} /clearquarantine'"
        " ends it.",
    )


def node_not_quarantined(node: str) -> Report:
    """There is no quarantine to end."""
    return Report(code="node-not-quarantined", status=5058, message=f"Node {node} is not in quarantine.")


def fence_device_not_found(name: str) -> Report:
    """No fence device has that name."""
    return Report(
        code="fence-device-not-found",
        status=5007,
        message=f"There is no fence device {name!r}; 'cluster fence' lists them.",
    )


def network_not_found(name: str) -> Report:
    """No network has that name."""
    return Report(
        code="network-not-found", status=5045, message=f"There is no network {name!r}; 'cluster network' lists them."
    )


def no_fence_device(node: str) -> Report:
    """The node cannot be switched off by anything that the cluster knows."""
    return Report(
        code="no-fence-device",
        status=5007,
        message=f"Node {node} has no fence device; make one with"
        f" 'cluster fence NAME /create /node:{node} /agent:AGENT', or switch the node off yourself and confirm it with"
        f" 'cluster node {node} /confirmdown'.",
    )


def node_is_up(node: str, wanted: str) -> Report:
    """What was asked needs a node that is down."""
    return Report(
        code="node-up",
        status=5056,
        message=f"Node {node} is up, so {wanted}; stop it first ('cluster node {node} /stop').",
    )


def node_owns_groups(node: str, groups: Iterable[str]) -> Report:
    """Evicting a node that still owns groups."""
    return Report(
        code="node-owns-groups",
        status=5009,
        message=f"Node {node} still owns {_listed(groups)}; move these groups away first.",
    )


def last_node(node: str) -> Report:
    """The last node cannot be taken away."""
    return Report(
        code="last-node",
        status=5009,
        message=f"Node {node} is the last voting node; taking it away would leave no cluster. To end the cluster, stop"
        " its service there and give 'cluster node /forcecleanup'.",
    )


def vote_needed(node: str, down: Iterable[str]) -> Report:
    """Without this node's vote those that are up would not be a majority."""
    return Report(
        code="vote-needed",
        status=5009,
        message=f"Node {node} cannot be evicted now: its vote is needed, since without it the nodes that are up would"
        f" be no majority of the voters. Start {_listed(down)} first, or bring {node} back.",
    )


def voters_changed() -> Report:
    """A proposal counted on another set of voters."""
    return Report(code="voters-changed", status=5083, message="The set of voters changed meanwhile; try again.")


def stale(what: str) -> Report:
    """The precondition of an update no longer holds; somebody else was first. Never shown for commands."""
    return Report(code="stale", status=5023, message=f"Nothing was done: {what}.")


def no_quorum(node: str, detail: str) -> Report:
    """This node cannot act for the cluster now."""
    return Report(
        code="no-quorum",
        status=5050,
        message=f"Node {node} does not hold quorum ({detail}), so nothing can be changed here; ask a node of the"
        " majority, or start the missing nodes. Nothing was changed.",
    )


def outcome_unknown(detail: str) -> Report:
    """Nobody can say whether the change took effect."""
    return Report(
        code="outcome-unknown",
        status=1460,
        message=f"It is unknown whether the change took effect ({detail}); look before you repeat it.",
    )


def group_has_no_owner(group: str) -> Report:
    """Nobody owns the group at the moment."""
    return Report(
        code="group-unowned",
        status=5012,
        message=f"Group {group!r} has no owner now; no node that may run it is up."
        f" 'cluster explain \"{group}\"' says why.",
    )


def group_is_moving(group: str, to: str) -> Report:
    """A move is under way."""
    return Report(
        code="group-moving",
        status=5908,
        message=f"Group {group!r} is already moving{to}; wait for the end of that move.",
    )


def no_candidate(group: str, reasons: Iterable[str]) -> Report:
    """Nobody can take the group."""
    return Report(
        code="no-candidate",
        status=5036,
        message=f"No other node can take group {group!r}: {'; '.join(reasons)}.",
    )


def not_online(resource: str, state: str) -> Report:
    """What was asked needs an online resource."""
    return Report(
        code="resource-not-online",
        status=5004,
        message=f"Resource {resource!r} is {state}, not Online; bring it online first.",
    )


def running_relation(resource: str) -> Report:
    """The dependency would change what already runs."""
    return Report(
        code="resource-online",
        status=5019,
        message=f"Resource {resource!r} is online; take it offline before giving it a dependency that is not online.",
    )


def token_refused(why: str) -> Report:
    """A join token was not accepted."""
    return Report(
        code="token-refused",
        status=5,
        message=f"The join token was refused: {why}. Make a new one with 'cluster /addnodes:NAME' on a member.",
    )


def joins_refused(cluster: str) -> Report:
    """A local quorum is one node's own."""
    return Report(
        code="local-quorum",
        status=5039,
        message=f"Cluster {cluster} has a local quorum, which is one node's own, so no other node can join it; change"
        " the quorum on that node first: cluster /quorum:majority, or cluster /quorum:DEVICE for a shared disk.",
    )


def quorum_cannot_become(before: str, wanted: str, why: str) -> Report:
    """A change of the quorum that is not possible here."""
    return Report(
        code="quorum-change-refused",
        status=5068,
        message=f"The {before} cannot become a {wanted} now: {why}.",
    )


def witness_refused(why: str) -> Report:
    """A file share witness that cannot be one."""
    return Report(
        code="witness-refused",
        status=5069,
        message=f"This cannot be the witness: {why}.",
    )


def limit_reached(what: str, limit: int) -> Report:
    """A stated maximum was met."""
    return Report(code="limit-reached", status=87, message=f"This cluster already has {limit} {what}, the maximum.")


def bad_argument(message: str) -> Report:
    """A command could not be understood."""
    return Report(code="bad-argument", status=87, message=message)


def access_denied(who: str, needed: str) -> Report:
    """The caller's role does not allow it."""
    return Report(
        code="access-denied",
        status=5,
        message=f"{who} may not do this; it needs the role {needed}. Ask an administrator for a certificate with it.",
    )


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    if len(shown) > 12:
        shown = [*shown[:12], f"and {len(shown) - 12} more"]
    return ", ".join(shown) if shown else "(none)"

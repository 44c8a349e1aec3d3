"""The cluster as a whole: founding it, its properties, its join tokens, and names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from clussvc.global_update.apply_network import find_network, with_network
from clussvc.global_update.apply_quorum import check_quorum, with_timing
from clussvc.global_update.instances import check_no_instance, check_not_reserved, check_room
from clussvc.global_update.names import check_name, check_new_name
from clussvc.global_update.outcome import (
    Done,
    Result,
    find_group,
    find_node,
    find_resource,
    note,
    with_groups,
    with_node,
    with_resources,
)
from clussvc.global_update.update import AddJoinToken, FoundCluster, Rename, SetClusterProperties
from clussvc.model.config import Config, Group, JoinToken, Network, Node, Resource
from clussvc.model.ids import ClusterId, GroupId, NetworkId, NodeId, RequestId, ResourceId
from clussvc.model.properties import common_changes, private_changes
from clussvc.model.quorum import Quorum
from clussvc.model.reports import Report, bad_argument, bad_property, limit_reached, object_exists
from clussvc.model.settings import JOIN_TOKENS_MAX, PROFILES

ADDRESSES_MAX = 16
"""Host addresses of one node: one for each network."""
DEFAULT_GROUP_NAME = "Cluster Group"
TOKEN_LENGTH_MAX = 255

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def check_endpoints(addresses: tuple[str, ...], port: int, admin_port: int) -> Report | None:
    """Whether a node can be reached at what it says of itself; the last word has the network."""
    if not 1 <= len(addresses) <= ADDRESSES_MAX or not all(0 < len(address) <= 255 for address in addresses):
        return bad_argument(f"A node has 1 to {ADDRESSES_MAX} addresses of at most 255 characters; give its addresses.")
    if not 1 <= port <= 65_535 or not 0 <= admin_port <= 65_535:
        return bad_argument(f"Ports lie in 1..65535 (0: no remote administration), not {port} and {admin_port}.")
    return None


def found_cluster(request: RequestId, update: FoundCluster) -> Result:
    """The cluster with its first node, which votes but is not up: it asks to be admitted like everybody.

    The identifier of the cluster is the request's, which is unique and the same on all nodes.
    """
    bad = (
        check_name("cluster", update.name)
        or check_name("node", update.node_name)
        or check_endpoints(update.addresses, update.port, update.admin_port)
    )
    if bad is not None:
        return bad
    timing = PROFILES.get(update.timing_profile.lower())
    if timing is None:
        known = ", ".join(PROFILES)
        return bad_property("the cluster", "TimingProfile", f"{update.timing_profile!r} is none of {known}")
    if not -720 <= update.utc_offset_min <= 840:
        return bad_property("the cluster", "UtcOffsetMinutes", f"{update.utc_offset_min} is outside -720..840")
    quorum = update.quorum or Quorum()
    if bad := check_quorum(quorum):
        return bad
    if not update.group or not request:
        return bad_argument("The cluster and its built-in group need an identifier.")
    node = Node(
        id=NodeId(1),
        name=update.node_name,
        addresses=update.addresses,
        port=update.port,
        admin_port=update.admin_port,
        voter=True,
    )
    group = Group(id=update.group, name=DEFAULT_GROUP_NAME, released_because="the cluster was founded")
    config = Config(
        cluster=ClusterId(str(request)),
        name=update.name,
        timing=quorum.timing_of(timing.profile),
        quorum=quorum,
        utc_offset_min=update.utc_offset_min,
        default_group=group.id,
        next_node_id=2,
        voters_version=1,
        nodes={node.id: node},
        groups={group.id: group},
    )
    message = f"Cluster {update.name} was founded on node {update.node_name}."
    return Done(
        config=config,
        records=note(
            "cluster.formed", message, kind="cluster", thing=update.name, event_id=1061, node=update.node_name
        ),
    )


def set_cluster_properties(config: Config, update: SetClusterProperties) -> Result:
    """All values, or none of them.

    What another profile brings with it: see apply_quorum.with_timing.
    """
    owner = f"cluster {config.name!r}"
    common = common_changes("cluster", owner, update.common)
    if isinstance(common, Report):
        return common
    private = private_changes(owner, config.private, update.private)
    if isinstance(private, Report):
        return private
    wanted = replace(config, private=private, **common)  # type: ignore[arg-type]  # the table pairs fields and types
    timing = config.quorum.timing_of(wanted.timing.profile) if "timing" in common else config.timing
    if timing.quicker_than(config.timing) and not update.quicker:
        return bad_property(
            owner,
            "TimingProfile",
            f"{timing.profile} is faster than {config.timing.profile}, and leases that run now are longer;"
            " ask a node of a later release, which can make a running cluster faster",
        )
    changed = with_timing(replace(wanted, timing=config.timing), timing)
    names = ", ".join((*update.common, *update.private)) or "nothing"
    message = f"Properties of cluster {config.name} were set: {names}."
    return Done(config=changed, records=note("cluster.properties", message, kind="cluster", thing=config.name))


def add_join_token(config: Config, update: AddJoinToken, at_ms: int) -> Result:
    """Remember the hash of a token's secret; expired tokens make room."""
    if not 0 < len(update.token) <= TOKEN_LENGTH_MAX or not _SHA256.fullmatch(update.secret_sha256):
        return bad_argument("A join token has a name and the SHA-256 of its secret in 64 lower-case hex digits.")
    if update.node_name:
        bad = check_new_name(config, "node", update.node_name)
        if bad is not None:
            return bad
    if update.expires_ms <= at_ms:
        return bad_argument("The join token would have expired already; give it a time that is still to come.")
    tokens = {token.id: token for token in config.tokens.values() if token.expires_ms > at_ms}
    if update.token in tokens:
        return object_exists("join token", update.token)
    if len(tokens) >= JOIN_TOKENS_MAX:
        return limit_reached("unused join tokens", JOIN_TOKENS_MAX)
    tokens[update.token] = JoinToken(
        id=update.token,
        secret_sha256=update.secret_sha256,
        expires_ms=update.expires_ms,
        node_name=update.node_name,
    )
    meant = f"node {update.node_name}" if update.node_name else "any node"
    message = f"A token was made with which {meant} may join once."
    return Done(
        config=replace(config, tokens=tokens),
        records=note("cluster.token", message, kind="cluster", thing=config.name),
    )


def rename(config: Config, update: Rename) -> Result:
    """Give the cluster, a node, a group, a resource or a network another name."""
    if update.kind == "cluster":
        bad = check_name("cluster", update.name)
        return bad or _renamed(replace(config, name=update.name), "cluster", config.name, update.name)
    if update.kind not in _NAMED:
        return bad_argument(f"{update.kind!r} cannot be renamed; only a cluster or a {', '.join(_NAMED)} can.")
    thing = _NAMED[update.kind](config, update.id)
    if isinstance(thing, Report):
        return thing
    bad = check_new_name(config, update.kind, update.name, instead_of=thing.name)
    if isinstance(thing, Group | Resource):
        bad = bad or check_no_instance(config, thing) or check_not_reserved(config, update.kind, update.name)
        pattern = config.groups[thing.group] if isinstance(thing, Resource) else thing
        if pattern.parallel or config.instances_of(pattern.id):
            bad = bad or check_room(config, update.kind, update.name, thing.id)
    if bad is not None:
        return bad
    changed = replace(thing, name=update.name)
    if isinstance(changed, Node):
        renamed = with_node(config, changed)
    elif isinstance(changed, Group):
        renamed = with_groups(config, [changed])
    elif isinstance(changed, Network):
        renamed = with_network(config, changed)
    else:
        renamed = with_resources(config, [changed])
    return _renamed(renamed, update.kind, thing.name, update.name)


def _renamed(config: Config, kind: str, old: str, new: str) -> Done:
    message = f"The {kind} {old} is now called {new}."
    return Done(config=config, records=note(f"{kind}.renamed", message, kind=kind, thing=new))


def _node_of(config: Config, text: str) -> Node | Report:
    known = text.isascii() and text.isdecimal() and len(text) < 10
    return find_node(config, NodeId(int(text) if known else 0))


def _group_of(config: Config, text: str) -> Group | Report:
    return find_group(config, GroupId(text))


def _resource_of(config: Config, text: str) -> Resource | Report:
    return find_resource(config, ResourceId(text))


def _network_of(config: Config, text: str) -> Network | Report:
    return find_network(config, NetworkId(text))


_NAMED: Final[Mapping[str, Callable[[Config, str], Node | Group | Resource | Network | Report]]] = {
    "node": _node_of,
    "group": _group_of,
    "resource": _resource_of,
    "network": _network_of,
}
"""What has a name, beside the cluster itself."""

"""Who belongs to the cluster and who votes: admission with a token, votes, eviction."""

from __future__ import annotations

from dataclasses import replace

from clussvc.global_update.apply_cluster import check_endpoints
from clussvc.global_update.apply_network import check_reached
from clussvc.global_update.apply_quorum import unsettled_nodes
from clussvc.global_update.names import check_new_name
from clussvc.global_update.outcome import Done, Result, find_node, note, with_node
from clussvc.global_update.refusals import not_settled, still_voter
from clussvc.global_update.update import AdmitNode, EvictNode, RemoveNode, SetVoter
from clussvc.model.config import Config, Group, JoinToken, Node, Resource
from clussvc.model.ids import NODES_MAX, NodeId
from clussvc.model.quorum import NODE_NUMBER_MAX, QuorumKind
from clussvc.model.reports import (
    Report,
    Severity,
    joins_refused,
    last_node,
    limit_reached,
    node_is_up,
    stale,
    token_refused,
    vote_needed,
    voters_changed,
)

EVICTED_MAX = 1_024
"""How many evicted node numbers are remembered; the oldest are forgotten."""


def admit_node(config: Config, update: AdmitNode) -> Result:
    """Use up a token: the node becomes a member, neither up nor a voter, under the next number."""
    token = config.tokens.get(update.token)
    if token is None or token.secret_sha256 != update.secret_sha256:
        # One answer for both, so that nobody learns which tokens exist.
        return token_refused("it is unknown or was used already")
    bad = _token_problem(token, update) or check_new_name(config, "node", update.node_name)
    bad = bad or check_endpoints(update.addresses, update.port, update.admin_port)
    bad = bad or check_reached(config, update.addresses)
    if bad is not None:
        return bad
    if config.quorum.kind is QuorumKind.LOCAL:
        return joins_refused(config.name)
    if config.quorum.on_disk and config.next_node_id > NODE_NUMBER_MAX:
        return limit_reached("node numbers on a quorum disk", NODE_NUMBER_MAX)
    if len(config.nodes) >= NODES_MAX:
        return limit_reached("nodes", NODES_MAX)
    node = Node(
        id=NodeId(config.next_node_id),
        name=update.node_name,
        addresses=update.addresses,
        port=update.port,
        admin_port=update.admin_port,
    )
    admitted = replace(
        with_node(config, node),
        next_node_id=config.next_node_id + 1,
        tokens={known: other for known, other in config.tokens.items() if known != token.id},
    )
    message = f"Node {node.name} became a member of cluster {config.name} as node {node.id}."
    because = "it presented a valid join token"
    return Done(
        config=admitted,
        records=note(
            "node.added", message, kind="node", thing=node.name, because=because, event_id=1007, node=node.name
        ),
    )


def _token_problem(token: JoinToken, update: AdmitNode) -> Report | None:
    if update.at_ms >= token.expires_ms:
        return token_refused("it has expired")
    if token.node_name and token.node_name.casefold() != update.node_name.casefold():
        return token_refused(f"it was made for node {token.node_name}, not for {update.node_name[:64]!r}")
    return None


def set_voter(config: Config, update: SetVoter) -> Result:
    """Give or take one vote, decided on this very set of voters, so that old and new majorities overlap."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if update.voters_version != config.voters_version:
        return voters_changed()
    if node.voter == update.voter:
        return Done(config=config)
    if unsettled := unsettled_nodes(config):
        return not_settled(unsettled)
    if config.witness_open:
        # A majority of other voters need not meet one that the witness has made.
        return stale("the witness is open; it has to be closed before the voters change")
    if not update.voter and len(config.voters) == 1:
        return last_node(node.name)
    if not update.voter and lost_without(config, node):
        return vote_needed(node.name, lost_without(config, node))
    changed = replace(with_node(config, replace(node, voter=update.voter)), voters_version=config.voters_version + 1)
    count = len(changed.voters)
    message = (
        f"Node {node.name} {'now has a vote' if update.voter else 'has no vote any more'}; the votes are {count} now."
    )
    return Done(
        config=changed,
        records=note(
            "node.voter",
            message,
            kind="node",
            thing=node.name,
            because=_why_voter(node, update),
            node=node.name,
        ),
    )


def _why_voter(node: Node, update: SetVoter) -> str:
    if update.voter:
        return "every node that is up uses the present set of voters"
    if node.evicting or node.stopping:
        return "it is to leave"
    return "with an odd number of votes no tie is possible" if node.up else "it is down, and votes are dynamic"


def lost_without(config: Config, node: Node) -> list[str]:
    """The voters that are down although a majority would be missing without them, if this node had no vote; none, if
    its vote can be spared. A node that is down may still give leases to others, and its vote hold the quorum."""
    if config.quorum.on_disk:
        return []
    left = [config.nodes[voter] for voter in config.voters if voter != node.id]
    down = [voter.name for voter in left if not voter.up]
    return sorted(down) if 2 * (len(left) - len(down)) <= len(left) else []


def evict_node(config: Config, update: EvictNode) -> Result:
    """Note the wish. Taking the vote needs evidence that only the coordinator has; it proposes the rest."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if len(config.nodes) == 1 or (node.voter and len(config.voters) == 1):
        return last_node(node.name)
    if node.up:
        return node_is_up(node.name, "it cannot be evicted")
    if node.evicting:
        return Done(config=config)
    if node.voter and lost_without(config, node):
        return vote_needed(node.name, lost_without(config, node))
    message = f"Node {node.name} is to be evicted from cluster {config.name}."
    return Done(
        config=with_node(config, replace(node, evicting=True)),
        records=note("node.evicting", message, kind="node", thing=node.name, node=node.name),
    )


def remove_node(config: Config, update: RemoveNode) -> Result:
    """Evict: the node disappears from the members and from all lists of owners; its number is never given again."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if len(config.nodes) == 1 or (node.voter and len(config.voters) == 1):
        return last_node(node.name)
    if node.up:
        return node_is_up(node.name, "it cannot be evicted")
    if node.voter:
        return still_voter(node.name)
    left = replace(
        config,
        nodes={known: other for known, other in config.nodes.items() if known != node.id},
        groups={known: _group_without(group, node.id) for known, group in config.groups.items()},
        resources={known: _resource_without(resource, node.id) for known, resource in config.resources.items()},
        evicted=(*config.evicted, node.id)[-EVICTED_MAX:],
        fence_devices={known: device for known, device in config.fence_devices.items() if device.node != node.id},
    )
    message = f"Node {node.name} was evicted from cluster {config.name}."
    return Done(
        config=left,
        records=note(
            "node.evicted",
            message,
            kind="node",
            thing=node.name,
            event_id=1011,
            severity=Severity.WARNING,
            node=node.name,
        ),
    )


def _group_without(group: Group, node: NodeId) -> Group:
    """A node that is down owns nothing, so only traces are left: the last owner, a wish, the preferred owners."""
    assert group.released or group.owner != node, "a node that is down owns a group"
    move = group.move
    if group.owner == node:
        group = replace(group, owner=None)
    if move is not None and move.to == node:
        group = replace(group, move=replace(move, to=None))
    if node in group.preferred_owners:
        group = replace(group, preferred_owners=tuple(other for other in group.preferred_owners if other != node))
    return group


def _resource_without(resource: Resource, node: NodeId) -> Resource:
    """An empty list stays empty: that nobody else may run the resource was somebody's decision."""
    possible = resource.possible_owners
    if possible is None or node not in possible:
        return resource
    return replace(resource, possible_owners=tuple(other for other in possible if other != node))

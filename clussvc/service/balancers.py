"""What the service tells the load-balancing hosts of its own node, and asks them.

A host process decides by facts that only the service knows: the properties as they are now (parameters, rules, what
administrators commanded), which nodes are up, which resources are online on this node. One thread pushes these facts
whenever they change, from the moment the resource's group is here. A host that has been told nothing takes no traffic,
and one whose node loses quorum is ended by its monitor like everything else, so nothing here is needed for safety.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import operator
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from clussvc.model.config import Config, Resource
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId, ResourceId
from clussvc.model.states import ResourceState
from clussvc.nlb.instance import TYPE_NAME, claimed_addresses, team_id, with_profile
from clussvc.nlb.mac import address_octets
from clussvc.ports import ClusterAccess
from clussvc.resources.type_info import BUILTIN_TYPES, complete_private
from clussvc.resources.types.balancer_socket import Connection

IDLE_MS: Final = 500
"""How long the thread waits for a change when every host has been told."""
GAP_MS: Final = 20
RETRY_MS: Final = 50
"""How soon a host that does not listen yet is tried again."""

log = structlog.get_logger()


def facts_of(config: Config, resource: Resource, node: NodeId) -> dict[str, Any]:
    """What the host for ``resource`` on ``node`` is to know; equal as long as nothing of it has changed."""
    online = [
        each
        for each in config.resources.values()
        if each.state is ResourceState.ONLINE and config.groups[each.group].owned == node
    ]
    # A port rule names the resource of a parallel group without the number of the instance.
    names = {each.name for each in online} | {_pattern_of(config, each).name for each in online}
    private = with_profile(_pattern_of(config, resource).private, config.timing.profile)
    return {
        "ask": "facts",
        "node": config.node_name(node),
        "private": dict(complete_private(BUILTIN_TYPES[TYPE_NAME], private)),
        "up": sorted(each.name for each in config.nodes.values() if each.up),
        "online": sorted(names),
        "sharing": _sharing(config, resource),
        "team": _team_of(config, resource, node),
    }


def _sharing(config: Config, resource: Resource) -> list[str]:
    """The nodes on which the resource, or another instance of it, is online."""
    pattern = _pattern_of(config, resource).id
    owners = [
        config.groups[each.group].owned
        for each in config.resources.values()
        if each.type == TYPE_NAME and each.state is ResourceState.ONLINE and _pattern_of(config, each).id == pattern
    ]
    return sorted(config.node_name(owner) for owner in owners if owner is not None)


def _team_of(config: Config, resource: Resource, node: NodeId) -> dict[str, Any] | None:
    """The team of bi-directional affinity that the resource belongs to: how it is configured, and who else of it is on
    this node."""
    team = team_id(_pattern_of(config, resource).private)
    if not team:
        return None
    mates = [
        each
        for each in config.resources.values()
        if each.type == TYPE_NAME and each.instance_of is None and team_id(each.private) == team
    ]
    addresses = [address for mate in mates for address in claimed_addresses(mate.private, primary=True)]
    here = [each for each in balanced_here(config, node) if each.id != resource.id]
    return {
        "participants": len(mates),
        "masters": sum(1 for mate in mates if mate.private.get("Master") == 1),
        "xor": functools.reduce(
            operator.xor, (int.from_bytes(address_octets(each)[2:], "big") for each in addresses), 0
        ),
        "mates": [
            {"resource": each.id, "master": _pattern_of(config, each).private.get("Master") == 1}
            for each in here
            if team_id(_pattern_of(config, each).private) == team
        ],
    }


def _pattern_of(config: Config, resource: Resource) -> Resource:
    """The resource of the parallel group, if this is its copy in an instance."""
    return config.resources[resource.instance_of] if resource.instance_of is not None else resource


def balanced_here(config: Config, node: NodeId) -> list[Resource]:
    """The load-balancing resources whose group this node runs."""
    return [
        each for each in config.resources.values() if each.type == TYPE_NAME and config.groups[each.group].owned == node
    ]


@dataclass(slots=True)
class _Told:
    """A host that has been told something."""

    connection: Connection
    facts: dict[str, Any]
    noted: int
    """The number of the newest of its notes that is in the log."""
    refused: str
    """Why it did not take the facts; empty: it did."""


class Balancers:
    """The connections to the hosts of this node. ``ask`` may be called from any thread."""

    def __init__(self, access: ClusterAccess, folder: Path, secret: bytes) -> None:
        """``folder``: where the hosts listen; ``secret``: from which the keys of their heartbeats are derived."""
        self._access = access
        self._folder = folder
        self._secret = secret
        self._stopping = threading.Event()
        self._told: dict[ResourceId, _Told] = {}
        self._thread = threading.Thread(target=self._run, name="balancers", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def stop(self) -> None:
        """Tell nothing any more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)
        for told in self._told.values():
            told.connection.close()
        self._told.clear()

    def ask(self, resource: ResourceId, question: Mapping[str, object]) -> Mapping[str, Any]:
        """See ports.ClusterAccess."""
        config, node = self._access.config(), self._access.node_id()
        for each in balanced_here(config, node):
            if resource in (each.id, each.instance_of):
                connection = Connection(self._folder, each.id)
                try:
                    return connection.ask(dict(question))
                finally:
                    connection.close()
        name = config.resources[resource].name if resource in config.resources else resource
        raise ClusterError("balancer-not-here", f"{name!r} is not online on {config.node_name(node)}")

    def _run(self) -> None:
        seen: Config | None = None
        due = False
        while not self._stopping.is_set():
            # Read first, so that what comes meanwhile ends the wait below.
            index = self._access.view().index
            try:
                config = self._access.config()
            except ClusterError:
                # Before the first configuration there is nothing to tell.
                self._stopping.wait(IDLE_MS / 1000)
                continue
            if config is not seen or due:
                seen = config
                due = not self._tell(config)
                # In a storm of changes the hosts are told fifty times a second, and not of each.
                self._stopping.wait(GAP_MS / 1000)
            self._collect_notes()
            if due:
                self._stopping.wait(RETRY_MS / 1000)
            else:
                self._access.wait_for_index(index + 1, IDLE_MS)

    def _collect_notes(self) -> None:
        """Write into the log of the service what the hosts of this node have noted since the last time."""
        for resource, told in self._told.items():
            # One that does not answer is found out when it is to be told something, or by its monitor.
            with contextlib.suppress(ClusterError):
                answer = told.connection.ask({"ask": "notes", "after": told.noted})
                for note in answer.get("notes", ()):
                    told.noted = int(note["number"])
                    log.info("balancer.note", resource=resource, event_id=note["id"], message=note["text"])

    def _tell(self, config: Config) -> bool:
        """Bring every host of this node up to date; False when one has to be tried again."""
        node = self._access.node_id()
        wanted = {each.id: each for each in balanced_here(config, node)}
        for gone in self._told.keys() - wanted.keys():
            self._told.pop(gone).connection.close()
        told = [self._tell_one(config, resource, node) for resource in wanted.values()]
        return all(told)

    def _tell_one(self, config: Config, resource: Resource, node: NodeId) -> bool:
        pattern = _pattern_of(config, resource)
        facts = facts_of(config, resource, node) | {
            "key": self._key(pattern.id),
            # The members of a team must hash alike.
            "seed": self._key(f"seed {team_id(pattern.private) or pattern.id}"),
        }
        known = self._told.get(resource.id)
        if known is not None and known.facts == facts and resource.state is ResourceState.ONLINE:
            return True
        connection = known.connection if known is not None else None
        try:
            connection = connection or Connection(self._folder, resource.id)
            answer = connection.ask(facts)
        except ClusterError:
            self._told.pop(resource.id, None)
            if connection is not None:
                connection.close()
            # While it is not online there need not be a process; the first one that listens is told at once.
            return resource.state not in (ResourceState.ONLINE_PENDING, ResourceState.ONLINE)
        refused = str(answer.get("refused", ""))
        if refused and (known is None or known.refused != refused):
            log.warning("balancer.refused", resource=resource.name, because=refused)
        self._told[resource.id] = _Told(connection, facts, known.noted if known is not None else 0, refused)
        # What keeps a host from beginning may pass, such as a link that is down; one that is online goes on as it was.
        return not refused or resource.state is ResourceState.ONLINE

    def _key(self, resource: str) -> str:
        """A key that is equal on all hosts of one cluster and known to nobody else: that of heartbeats, of the hash."""
        return hashlib.blake2b(
            resource.encode(), key=self._secret[:64], person=b"nlb heartbeats", digest_size=32
        ).hexdigest()

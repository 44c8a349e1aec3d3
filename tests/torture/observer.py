"""What the nodes say of themselves: whether the cluster has recovered, and whether all of them say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from clussvc.admin.client import ClusterClient, CommandRefused, connect
from clussvc.model.errors import ClusterError
from clussvc.model.states import NodePhase
from tests.torture.clients import list_key

LOOK_TIMEOUT_S: Final = 5.0


class Observer:
    """Asks every node, each over a connection of its own."""

    def __init__(self, sockets: Mapping[str, str]) -> None:
        self._sockets = sockets
        self._connections: dict[str, ClusterClient] = {}

    def missing(self, witnesses: Sequence[str]) -> str:
        """What keeps the cluster from being whole: all nodes up and members, these groups online. Empty: nothing."""
        for node in self._sockets:
            try:
                why = self._missing_on(node, witnesses)
            except (ClusterError, CommandRefused) as problem:
                self._drop(node)
                why = str(problem)
            if why:
                return f"{node}: {why}"
        return ""

    def _missing_on(self, node: str, witnesses: Sequence[str]) -> str:
        status = self._ask(node, "Cluster", "status")
        if status["phase"] != NodePhase.MEMBER.value or not status["holds_quorum"]:
            return f"it is {status['phase']} and holds {status['votes_held']} of {status['votes_needed']} votes"
        for other in self._ask(node, "Node", "status"):
            if other["state"] != "Up":
                return f"it sees {other['name']} as {other['state']}"
        for group in self._ask(node, "Group", "status"):
            wanted = group["name"] in witnesses
            if group["node"] == "(none)" or group["moving"] or (wanted and group["state"] != "Online"):
                return f"it sees group {group['name']} as {group['state']} on {group['node']} ({group['because']})"
        return ""

    def fingerprints(self) -> dict[str, str]:
        """Index and hash of each node's configuration, or what it says instead."""
        found = {}
        for node in self._sockets:
            try:
                answer = self._ask(node, "Cluster", "fingerprint")
                found[node] = f"{answer['sha256'][:16]} at index {answer['index']}"
            except (ClusterError, CommandRefused) as problem:
                self._drop(node)
                found[node] = str(problem)
        return found

    def lists(self, node: str, groups: Sequence[str]) -> dict[str, str | None]:
        """Every segment of every list, as that node shows it freshly."""
        found: dict[str, str | None] = {}
        for group in groups:
            for line in self._ask(node, "Group", "private", group, fresh=True):
                found[list_key(group, line["name"])] = str(line["value"])
        return found

    def close(self) -> None:
        """End all connections."""
        for node in list(self._connections):
            self._drop(node)

    def _ask(self, node: str, *words: str, **more: Any) -> Any:
        if node not in self._connections:
            self._connections[node] = connect(socket_path=self._sockets[node], call_timeout_s=LOOK_TIMEOUT_S)
        object_, method, *rest = words
        return self._connections[node].call(object_, method, *rest, **more)

    def _drop(self, node: str) -> None:
        known = self._connections.pop(node, None)
        if known is not None:
            known.close()

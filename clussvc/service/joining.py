"""A member's answer to a machine that wants to join: use the token through the log, then sign its certificate."""

from __future__ import annotations

import json
from typing import Any

from clussvc.comms.authority import Authority
from clussvc.comms.token import secret_sha256
from clussvc.global_update.update import AdmitNode
from clussvc.model import reports
from clussvc.model.errors import ClusterError
from clussvc.model.reports import Report
from clussvc.ports import Clock, ClusterAccess
from clussvc.service.lifecycle import written_quorum

ADDRESSES_MAX = 8


class Doorkeeper:
    """Admits nodes."""

    def __init__(self, *, access: ClusterAccess, authority: Authority, heartbeat_key: bytes, clock: Clock) -> None:
        self._access = access
        self._authority = authority
        self._heartbeat_key = heartbeat_key
        self._clock = clock

    def answer(self, request: bytes) -> bytes:
        """The reply to a join request; blocks until the cluster has decided."""
        try:
            question = json.loads(request)
            reply = self._admit(question)
        except ClusterError as error:
            reply = {"error": error.message, "code": error.code}
        except (ValueError, KeyError, TypeError) as error:
            reply = {"error": f"the join request is malformed: {error}", "code": "bad-join-request"}
        return json.dumps(reply).encode()

    def _admit(self, question: dict[str, Any]) -> dict[str, Any]:
        addresses = tuple(str(address) for address in question["addresses"])
        if not 1 <= len(addresses) <= ADDRESSES_MAX:
            raise ClusterError("bad-join-request", f"a node has 1 to {ADDRESSES_MAX} addresses, not {len(addresses)}")
        update = AdmitNode(
            token=str(question["token"]),
            secret_sha256=secret_sha256(str(question["secret"])),
            node_name=str(question["node"]),
            addresses=addresses,
            port=int(question["port"]),
            admin_port=int(question["admin_port"]),
            at_ms=self._clock.wall_ms(),
        )
        refusal = self._execute(update)
        if refusal is not None:
            raise ClusterError(refusal.code, refusal.message)
        config = self._access.config()
        node = config.node_named(update.node_name)
        if node is None:
            raise ClusterError("join-failed", "the node was admitted and evicted at once; try again with a new token")
        certificate = self._authority.sign_node_request(
            str(question["request"]).encode(), node_id=node.id, node_name=node.name
        )
        return {
            "cluster": config.name,
            "node_id": node.id,
            "profile": config.timing.profile,
            "quorum": written_quorum(config.quorum),
            "certificate": certificate.decode(),
            "authority_key": self._authority.pair.key.decode(),
            "heartbeat_key": self._heartbeat_key.hex(),
            "members": {member.id: (member.name, member.addresses, member.port) for member in config.nodes.values()},
        }

    def _execute(self, update: AdmitNode) -> Report | None:
        if update.token not in self._access.config().tokens:
            return reports.token_refused("it is not known: it was used, has expired, or is another cluster's")
        return self._access.execute(update)

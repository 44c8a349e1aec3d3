"""The object Cluster: the cluster as a whole, its quorum, its certificates, and what would happen if."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from clussvc import __version__
from clussvc.admin import dto
from clussvc.admin.dto import Plain
from clussvc.admin.many import Change, prepare
from clussvc.admin.roles import Role, find_role
from clussvc.admin.servant import Derived, Refused, Servant, change, query
from clussvc.admin.servants.lines import private_changes_of, private_lines
from clussvc.admin.values import Assigned, common_changes
from clussvc.codec import config_digest
from clussvc.global_update import update as updates
from clussvc.global_update.update import Update
from clussvc.groups.what_if import (
    GroupMoved,
    NodeDies,
    NodePaused,
    NodeResumed,
    NodeReturns,
    ResourceFails,
    simulate,
)
from clussvc.membership.timing_advice import advise
from clussvc.model import reports
from clussvc.model.errors import ClusterError
from clussvc.model.properties import common_values
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.reports import Report
from clussvc.ports import ClusterAccess

TOKEN_VALID_S_MAX = 7 * 86_400


class ClusterServant(Servant):
    """The cluster as a whole."""

    @query()
    def status(self) -> Plain:
        """Name, quorum and membership as this node sees them."""
        return dto.cluster_of(self.config, self.access.view())

    @query()
    def version(self) -> Plain:
        """What runs here."""
        return {"cluster": self.config.name, "version": __version__, "node": self.node(None).name}

    @query()
    def quorum(self) -> Plain:
        """The quorum and who votes."""
        return dto.quorum_of(self.config, self.access.view())

    @query()
    def properties(self) -> list[Plain]:
        """Common properties."""
        return [dto.property_of(*pair) for pair in common_values(self.config)]

    @query()
    def private(self) -> list[Plain]:
        """Private properties."""
        return private_lines(self.config.private)

    @change(Role.ADMINISTRATOR)
    def set_properties(self, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change common properties; ``reset`` ones go back to their defaults."""
        return updates.SetClusterProperties(common=common_changes(self.config, assigned, reset), quicker=True)

    @change(Role.ADMINISTRATOR)
    def set_quorum(self, kind: str, max_log_kb: int, hold_ms: int = 0, place: str = "", force: bool = False) -> Update:
        """Choose another quorum (``majority node set``, ``local quorum`` or ``quorum disk``), how long the log on a
        quorum disk may grow, and how long writing its slot keeps the owner of the disk in office (-1: as the timing
        profile says); an empty text and 0 leave things as they are.

        ``place``: where a quorum disk is found (empty with ``quorum disk``: the smallest suitable one). It is prepared
        by this node; ``force``: whatever lies on it."""
        known = {each.value: each for each in QuorumKind}
        if kind and kind not in known:
            raise Refused(reports.bad_argument(f"{kind!r} is no quorum; choose one of {', '.join(known)}."))
        present = self.config.quorum
        wanted = known[kind] if kind else QuorumKind.DISK if place else present.kind
        if place and wanted is not QuorumKind.DISK:
            raise Refused(reports.bad_argument(f"A {wanted.value} has no place; leave /path out."))
        same = wanted is present.kind if not place else False
        if same or (wanted is not QuorumKind.DISK and present.replicated):
            return updates.SetQuorum(kind=known[kind] if kind else None, max_log_kb=max_log_kb, hold_ms=hold_ms)
        where = {QuorumKind.MAJORITY: "majority", QuorumKind.LOCAL: "local"}.get(wanted, place or "auto")
        try:
            quorum = self.access.choose_quorum(place=where, max_log_kb=max_log_kb, hold_ms=hold_ms, force=force)
        except ClusterError as error:
            raise Refused(reports.quorum_cannot_become(present.kind.value, wanted.value, error.message)) from error
        if quorum.disk == present.disk and quorum.on_disk:
            return updates.SetQuorum(max_log_kb=max_log_kb, hold_ms=hold_ms)
        return updates.SetQuorum(quorum=quorum, voters_version=self.config.voters_version)

    @change(Role.ADMINISTRATOR)
    def renew_log(self) -> Update:
        """Have the log among the nodes begin anew, so that a node can take part again that has lost its part of it."""
        present = self.config.quorum
        if not present.replicated:
            raise Refused(reports.bad_argument(f"The log of a {present.kind.value} is not among the nodes."))
        quorum = Quorum(kind=present.kind, generation=present.generation + 1)
        return updates.SetQuorum(quorum=quorum, voters_version=self.config.voters_version, anew=True)

    @change(Role.ADMINISTRATOR)
    def set_witness(self, path: str, force: bool = False) -> Any:
        """Choose a file share witness: a folder on a share that every node finds under this path, and that no node
        serves; an empty path: none. The folder is prepared by the node that is asked. ``force``: also where it cannot
        be told who serves it."""
        if not path:
            return updates.SetWitness(path="", token="")

        def prepared(identifier: str) -> Update:
            token = hashlib.blake2b(identifier.encode(), digest_size=8).hexdigest()
            try:
                self.access.prepare_witness(path, token, force=force)
            except ClusterError as error:
                raise Refused(reports.witness_refused(error.message)) from error
            return updates.SetWitness(path=path, token=token)

        return Derived(prepared)

    @change(Role.ADMINISTRATOR)
    def set_private(self, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change private properties; ``reset`` ones are removed."""
        return updates.SetClusterProperties(private=private_changes_of(self.config, assigned, reset))

    @change(Role.ADMINISTRATOR)
    def rename(self, new_name: str) -> Update:
        """Give the cluster another name."""
        return updates.Rename(kind="cluster", id="", name=new_name)

    @change(Role.OPERATOR)
    def change_many(self, changes: list[Change]) -> Any:
        """All of these in one step of the log, or none; see :mod:`clussvc.admin.many`. Each also needs its own role."""
        return Derived(lambda identifier: self._batch(changes, identifier))

    def _batch(self, changes: list[Change], identifier: str) -> Update:
        def find(access: ClusterAccess, object_: str, method: str) -> Any:
            kind = self.kinds.get(object_)
            known = getattr(kind, method, None)
            if kind is None or not getattr(known, "_changes", False) or method == "change_many":
                return None
            return getattr(kind(access, self.caller, self.kinds), method)

        batch = prepare(self.access, changes, identifier, find)
        if isinstance(batch, Report):
            raise Refused(batch)
        return batch

    @query(Role.ADMINISTRATOR)
    def make_join_token(self, node_name: str, valid_s: int) -> str:
        """A one-time token for a new node; only a hash of it is kept."""
        if not 1 <= valid_s <= TOKEN_VALID_S_MAX:
            raise Refused(reports.bad_argument(f"A token can be valid for 1 to {TOKEN_VALID_S_MAX} seconds."))
        made = self.access.make_join_token(node_name=node_name, valid_s=valid_s)
        if isinstance(made, Report):
            raise Refused(made)
        return made

    @query(Role.ADMINISTRATOR)
    def make_admin_certificate(self, name: str, role: str) -> Plain:
        """A certificate with a role, and where the nodes listen for its holder."""
        found = find_role(role)
        if found is None:
            known = ", ".join(each.word for each in Role)
            raise Refused(reports.bad_argument(f"There is no role {role!r}; the roles are: {known}."))
        if not name or len(name) > 64 or not name.isprintable() or "/" in name:
            raise Refused(reports.bad_name("administrator", name, "use 1 to 64 printable characters without '/'"))
        made = dict(self.access.make_admin_certificate(name=name, role=found.word))
        nodes = self.config.nodes.values()
        made["addresses"] = "\n".join(
            f"{node.addresses[0]}:{node.admin_port}" for node in nodes if node.admin_port and node.addresses
        )
        return {"cluster": self.config.name, **made}

    @query()
    def what_if(self, kind: str, event: str, name: str, to: str | None = None) -> Any:
        """What the production planner would do; changes nothing. See :meth:`_hypothesis`."""
        return simulate(self.config, self._hypothesis(kind, event, name, to), now_ms=self._wall_ms())

    def _hypothesis(self, kind: str, event: str, name: str, to: str | None) -> Any:
        match (kind, event):
            case ("node", "down"):
                return NodeDies(node=self.node(name).id)
            case ("node", "pause"):
                return NodePaused(node=self.node(name).id)
            case ("node", "resume"):
                return NodeResumed(node=self.node(name).id)
            case ("node", "up"):
                return NodeReturns(node=self.node(name).id)
            case ("group", "moveto"):
                return GroupMoved(group=self.group(name).id, to=self.node(to).id if to else None)
            case ("resource", "fail"):
                return ResourceFails(resource=self.resource(name).id)
        known = "node NAME down|pause|resume|up, group NAME moveto [NODE], resource NAME fail"
        raise Refused(reports.bad_argument(f"{kind} {event} cannot be simulated; what can: {known}."))

    @staticmethod
    def _wall_ms() -> int:
        return time.time_ns() // 1_000_000

    @query()
    def fingerprint(self) -> Plain:
        """How far this node has applied the log, and a hash of the whole configuration.

        Nodes that stand still at one index must show one hash. (While changes arrive the hash may be of a later index.)
        """
        return {"index": self.access.view().index, "sha256": config_digest(self.config)}

    @query()
    def measure_timing(self) -> Plain:
        """How late heartbeats and this node's service were at most since the last call, and which timing profiles bear
        that; ask once to begin, and again after a while."""
        measured = self.access.measure_timing()
        advice = advise(measured)
        return {
            "node": self.config.node_name(self.access.node_id()),
            "profile": self.config.timing.profile,
            "interval_ms": measured.interval_ms,
            "sender_late_ms": measured.sender_late_ms,
            "core_late_ms": measured.core_late_ms,
            "gaps_ms": dict(measured.gaps_ms),
            "profiles": [{"profile": one.profile, "fits": one.fits, "because": one.because} for one in advice],
            "recommended": next((one.profile for one in advice if one.fits), ""),
        }

    @query()
    def statistics(self) -> Plain:
        """Counters of the adapters."""
        return dict(self.access.statistics())

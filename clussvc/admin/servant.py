"""The objects of remote administration: each method looks something up, or turns names into one typed update.

An object serves one connection and knows its caller. Every exposed method is made by :func:`query` or :func:`change`,
which name the role it needs, check the types of what arrived, and turn every outcome into a plain mapping
(see :mod:`clussvc.admin.wire`): no exception leaves a servant. A test walks all methods and finds their roles.

A change begins with a request id *made by the client*, so that repeating it after a lost connection is safe:
identifiers of new objects are derived from it, and a request that the cluster has already seen gets its former outcome,
even if the name it was about is gone by now.

A query answers at once from the configuration that this node has applied, which may be behind. With the keyword
``fresh=True`` it first takes its place in the log, by an update that changes nothing, and answers when that has come
back: then it sees every change that anybody was told of before the question. It costs as much as a change, and is
refused like one where a change would be.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar, cast, get_type_hints

import Pyro5.server

from clussvc import __version__
from clussvc.admin import dto, fencing, instances, networks
from clussvc.admin.dto import Plain
from clussvc.admin.many import Change, prepare
from clussvc.admin.roles import Caller, Role, find_role
from clussvc.admin.values import Assigned, common_changes, private_changes
from clussvc.admin.wire import POLL_EVENTS_MAX, POLL_WAIT_MS_MAX
from clussvc.codec import config_digest, from_plain, to_plain
from clussvc.global_update import update as updates
from clussvc.global_update.update import Update
from clussvc.membership.timing_advice import advise
from clussvc.model import reports
from clussvc.model.config import PING_TARGETS, Config, FenceDevice, Group, Network, Node, Resource
from clussvc.model.errors import ClusterError
from clussvc.model.ids import FenceDeviceId, GroupId, RequestId, ResourceId
from clussvc.model.properties import common_values, kind_of
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.reports import Report
from clussvc.model.states import MoveCause
from clussvc.ports import ClusterAccess
from clussvc.resources.type_info import BUILTIN_TYPES, ResourceTypeInfo, find_type

log = logging.getLogger(__name__)

REQUEST_ID_LENGTH_MAX = 64
EXECUTE_TIMEOUT_MS = 10_000
TOKEN_VALID_S_MAX = 7 * 86_400
_IDENTIFIERS: Final = uuid.UUID("6f0c8b1e-6a0f-4b0e-9d55-2f1d7a6f3b10")
"""The name space in which identifiers of new objects are derived from request ids."""

F = TypeVar("F", bound=Callable[..., Any])
_Thing = TypeVar("_Thing", Group, Resource)


class Refused(Exception):
    """A report on its way to the client."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.message)
        self.report = report


def query(role: Role = Role.READ_ONLY) -> Callable[[F], F]:
    """Expose a method that changes nothing of the replicated configuration."""
    return _exposed(role, changes=False)


def change(role: Role) -> Callable[[F], F]:
    """Expose a method that returns an update; it is executed under the request id that precedes its arguments."""
    return _exposed(role, changes=True)


def _exposed(role: Role, *, changes: bool) -> Callable[[F], F]:
    def decorate(method: F) -> F:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def call(self: Servant, *args: Any, **kwargs: Any) -> Plain:
            try:
                self.require(role)
                request = None
                if not changes and kwargs.pop("fresh", False) is not False:
                    self.catch_up()
                if changes:
                    if not args:
                        raise Refused(reports.bad_argument("A change begins with a request id."))
                    request, args = self.request_id(args[0]), args[1:]
                    if request in self.config.recent:
                        return self.answer(self.config.recent[request])
                result = method(self, **_checked(signature, method, args, kwargs))
                if changes:
                    return self.answer(self.execute(result, request))
                return {"ok": to_plain(result), "notes": dto.notes_of(self.access.view(), self.config)}
            except Refused as refused:
                return {"report": dto.report_of(refused.report)}
            except ClusterError as error:
                return {"report": dto.error_of(error)}
            except Exception:
                # A defect of ours: the whole story goes into the log, the client learns where to look.
                log.exception("admin.defect in %s", method.__qualname__)
                name = method.__qualname__
                message = f"An internal error occurred in {name}; the log of the cluster service has the details."
                return {"report": {"code": "internal-error", "status": 1, "message": message, "severity": "error"}}

        call._role = role  # type: ignore[attr-defined]
        call._changes = changes  # type: ignore[attr-defined]
        return cast(F, Pyro5.server.expose(call))

    return decorate


def _checked(
    signature: inspect.Signature, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by name, each of the type that the method declares."""
    try:
        bound = signature.bind(None, *args, **kwargs)
    except TypeError as problem:
        raise Refused(reports.bad_argument(f"{method.__qualname__}: {problem}.")) from problem
    hints = get_type_hints(method)
    checked = {}
    for name, value in list(bound.arguments.items())[1:]:
        try:
            checked[name] = from_plain(hints[name], value)
        except ClusterError as problem:
            message = f"{method.__qualname__}: argument {name}: {problem.message}"
            raise Refused(reports.bad_argument(message)) from problem
    return checked


class Servant:
    """What all objects share: the way into the cluster, the caller, and looking names up."""

    def __init__(self, access: ClusterAccess, caller: Caller) -> None:
        self.access = access
        self.caller = caller

    @property
    def config(self) -> Config:
        """The configuration as this node has applied it."""
        return self.access.config()

    def require(self, role: Role) -> None:
        """Refuse a caller of a smaller role."""
        if self.caller.role is None or self.caller.role < role:
            raise Refused(reports.access_denied(self.caller.who, role.word))

    def request_id(self, given: object) -> RequestId:
        """A request id of a client, as far as it can be one."""
        if not isinstance(given, str) or not 8 <= len(given) <= REQUEST_ID_LENGTH_MAX or not given.isascii():
            raise Refused(reports.bad_argument("A request id is an ASCII text of 8 to 64 characters."))
        return RequestId(given)

    def execute(self, update: object, request: RequestId | None) -> Report | None:
        """Let the cluster decide."""
        if isinstance(update, _Derived):
            assert request is not None
            try:
                update = update.build(str(uuid.uuid5(_IDENTIFIERS, request)))
            except Refused:
                # An earlier attempt of the same request may have come true at this moment, which is why.
                if request not in self.config.recent:
                    raise
                return self.config.recent[request]
        return self.access.execute(cast(Update, update), request=request, timeout_ms=EXECUTE_TIMEOUT_MS)

    def catch_up(self) -> None:
        """Wait until this node has applied everything that was acknowledged before now, here or elsewhere."""
        refusal = self.access.execute(updates.Batch(updates=()), timeout_ms=EXECUTE_TIMEOUT_MS)
        if refusal is not None:
            raise Refused(refusal)

    def answer(self, refusal: Report | None) -> Plain:
        """The outcome of a change."""
        if refusal is not None:
            return {"report": dto.report_of(refusal)}
        return {"ok": None, "notes": []}

    # --- names ----------------------------------------------------------------------------------------------------

    def node(self, name: str | None) -> Node:
        """The node of that name; the one that answers for None or empty."""
        config = self.config
        found = config.node_named(name) if name else config.nodes.get(self.access.node_id())
        if found is None:
            raise Refused(reports.node_not_found(name or "", (node.name for node in config.nodes.values())))
        return found

    def group(self, name: str) -> Group:
        """The group of that name."""
        found = self.config.group_named(name)
        if found is None:
            raise Refused(reports.group_not_found(name))
        return found

    def resource(self, name: str) -> Resource:
        """The resource of that name."""
        found = self.config.resource_named(name)
        if found is None:
            raise Refused(reports.resource_not_found(name))
        return found

    def network(self, name: str) -> Network:
        """The network of that name."""
        found = self.config.network_named(name)
        if found is None:
            raise Refused(reports.network_not_found(name))
        return found

    def type_info(self, name: str) -> ResourceTypeInfo:
        """The resource type of that name."""
        found = find_type(name)
        if found is None:
            raise Refused(reports.type_not_found(name, BUILTIN_TYPES))
        return found


class _Derived:
    """An update that needs the identifier of a new object, derived from the request id."""

    def __init__(self, build: Callable[[str], Update]) -> None:
        self.build = build


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
        return _private_lines(self.config.private)

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

        return _Derived(prepared)

    @change(Role.ADMINISTRATOR)
    def set_private(self, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change private properties; ``reset`` ones are removed."""
        return updates.SetClusterProperties(private=_private(self.config, assigned, reset))

    @change(Role.ADMINISTRATOR)
    def rename(self, new_name: str) -> Update:
        """Give the cluster another name."""
        return updates.Rename(kind="cluster", id="", name=new_name)

    @change(Role.OPERATOR)
    def change_many(self, changes: list[Change]) -> Any:
        """All of these in one step of the log, or none; see :mod:`clussvc.admin.many`. Each also needs its own role."""
        return _Derived(lambda identifier: self._batch(changes, identifier))

    def _batch(self, changes: list[Change], identifier: str) -> Update:
        # The table of all objects needs this module first.
        from clussvc.admin.objects import SERVANTS

        def find(access: ClusterAccess, object_: str, method: str) -> Any:
            kind = SERVANTS.get(object_)
            known = getattr(kind, method, None)
            if kind is None or not getattr(known, "_changes", False) or method == "change_many":
                return None
            return getattr(kind(access, self.caller), method)

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
        from clussvc.groups.what_if import simulate

        return simulate(self.config, self._hypothesis(kind, event, name, to), now_ms=self._wall_ms())

    def _hypothesis(self, kind: str, event: str, name: str, to: str | None) -> Any:
        from clussvc.groups.what_if import GroupMoved, NodeDies, NodePaused, NodeResumed, NodeReturns, ResourceFails

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


class NodeServant(Servant):
    """The nodes."""

    @query()
    def status(self, name: str | None = None) -> list[Plain]:
        """One node or all of them, by number."""
        view = self.access.view()
        nodes = [self.node(name)] if name else [self.config.nodes[key] for key in sorted(self.config.nodes)]
        own = {"shortcomings": list(self.access.shortcomings())}
        wall_ms = time.time_ns() // 1_000_000
        return [
            dto.node_of(node, view)
            | (own if node.id == view.node else {})
            | {"notes": fencing.notes_on(self.config, node, wall_ms)}
            for node in nodes
        ]

    @query()
    def local(self) -> Plain:
        """The node that answers."""
        return dto.node_of(self.node(None), self.access.view())

    @query()
    def properties(self, name: str | None = None) -> list[Plain]:
        """Common properties of one node or of all."""
        nodes = [self.node(name)] if name else self.config.nodes.values()
        return _common_lines(nodes)

    @query()
    def private(self, name: str | None = None) -> list[Plain]:
        """Private properties of one node or of all."""
        nodes = [self.node(name)] if name else self.config.nodes.values()
        return [line for node in nodes for line in _private_lines(node.private, node.name)]

    @change(Role.ADMINISTRATOR)
    def set_properties(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change common properties."""
        node = self.node(name)
        return updates.SetNodeProperties(node=node.id, common=common_changes(node, assigned, reset))

    @change(Role.ADMINISTRATOR)
    def set_private(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change private properties."""
        node = self.node(name)
        return updates.SetNodeProperties(node=node.id, private=_private(node, assigned, reset))

    @change(Role.OPERATOR)
    def pause(self, name: str | None = None) -> Update:
        """The node keeps its groups and takes no more."""
        return updates.PauseNode(node=self.node(name).id)

    @change(Role.OPERATOR)
    def resume(self, name: str | None = None) -> Update:
        """End of a pause."""
        return updates.ResumeNode(node=self.node(name).id)

    @change(Role.ADMINISTRATOR)
    def stop(self, name: str | None = None) -> Update:
        """Hand the node's groups over, then stop its service."""
        return updates.StopNode(node=self.node(name).id)

    @change(Role.ADMINISTRATOR)
    def confirm_down(self, name: str) -> Update:
        """The administrator has made sure that the machine is off."""
        return updates.ConfirmNodeDown(node=self.node(name).id)

    @change(Role.ADMINISTRATOR)
    def fence(self, name: str) -> Update:
        """Have the node's fence devices switch it off now, from this node."""
        node = self.node(name)
        if node.id == self.access.node_id():
            raise Refused(reports.bad_argument(f"Node {node.name} cannot fence itself; ask another node to do it."))
        devices = self.config.fence_devices_of(node.id)
        if not devices:
            raise Refused(reports.no_fence_device(node.name))
        done = fencing.fence_by_hand(self.access, self.config, node, devices)
        if isinstance(done, Report):
            raise Refused(done)
        if not node.up:
            # It had been declared down before; there is nothing to note.
            return updates.Batch(updates=())
        return updates.NodeFenced(node=node.id, incarnation=node.incarnation, because=done)

    @change(Role.ADMINISTRATOR)
    def clear_quarantine(self, name: str) -> Update:
        """Let a node in again that was lost too often."""
        return updates.ClearQuarantine(node=self.node(name).id)

    @change(Role.ADMINISTRATOR)
    def evict(self, name: str) -> Update:
        """Have a node that is down removed; the coordinator takes its vote first."""
        return updates.EvictNode(node=self.node(name).id)


class GroupServant(Servant):
    """The groups."""

    @query()
    def status(self, name: str | None = None, node: str | None = None) -> list[Plain]:
        """One group or all of them; only those that ``node`` owns, if given. Instances stand inside their group."""
        config = self.config
        owner = self.node(node).id if node else None
        groups = [self.group(name)] if name else _no_instances(config.groups.values())
        members = config.resources_by_group()
        shown = [(group, instances.group_of(config, group, members.get(group.id, ()), owner)) for group in groups]
        return [one for group, one in shown if owner is None or group.owned == owner or one["instances"]]

    @query()
    def instance(self, name: str, node: str) -> str:
        """The name of the instance of a parallel group that the node has."""
        found = instances.instance_on(self.config, self.group(name), self.node(node))
        if isinstance(found, Report):
            raise Refused(found)
        return found.name

    @query()
    def properties(self, name: str | None = None) -> list[Plain]:
        """Common properties of one group or of all."""
        return _common_lines([self.group(name)] if name else _no_instances(self.config.groups.values()))

    @query()
    def private(self, name: str | None = None) -> list[Plain]:
        """Private properties of one group or of all."""
        groups = [self.group(name)] if name else _no_instances(self.config.groups.values())
        return [line for group in groups for line in _private_lines(group.private, group.name)]

    @query()
    def owners(self, name: str) -> list[str]:
        """Preferred owners, best first."""
        return dto.names_of(self.config, self.group(name).preferred_owners)

    @query()
    def explain(self, name: str) -> Any:
        """Why the group is where it is, and where else it could be."""
        from clussvc.groups.explain import explain_group

        return explain_group(self.config, self.group(name).id, now_ms=time.time_ns() // 1_000_000)

    @change(Role.ADMINISTRATOR)
    def create(self, name: str, on: str | None = None) -> Any:
        """A new empty group."""
        node = self.node(on).id if on else None
        return _Derived(lambda identifier: updates.CreateGroup(group=GroupId(identifier), name=name, on=node))

    @change(Role.ADMINISTRATOR)
    def delete(self, name: str) -> Update:
        """Delete an empty group."""
        return updates.DeleteGroup(group=self.group(name).id)

    @change(Role.ADMINISTRATOR)
    def rename(self, name: str, new_name: str) -> Update:
        """Give the group another name."""
        return updates.Rename(kind="group", id=self.group(name).id, name=new_name)

    @change(Role.OPERATOR)
    def move(self, name: str, to: str | None = None) -> Update:
        """Change the owner; without ``to``, to the best possible node."""
        group = self.group(name)
        target = self.node(to).id if to else None
        because = f"{self.caller.who} moved it"
        return updates.MoveGroup(group=group.id, to=target, cause=MoveCause.ADMIN, because=because)

    @change(Role.OPERATOR)
    def online(self, name: str, to: str | None = None) -> Update:
        """Want all its resources online; of a parallel group, those of the instance on ``to`` if that is given."""
        group, node = self.group(name), self.node(to) if to else None
        if group.parallel and node is not None:
            found = instances.instance_on(self.config, group, node)
            if isinstance(found, Report):
                raise Refused(found)
            return updates.OnlineGroup(group=found.id)
        return updates.OnlineGroup(group=group.id, to=node.id if node is not None else None)

    @change(Role.OPERATOR)
    def offline(self, name: str) -> Update:
        """Want all its resources offline."""
        return updates.OfflineGroup(group=self.group(name).id)

    @change(Role.ADMINISTRATOR)
    def set_owners(self, name: str, nodes: list[str]) -> Update:
        """Set the preferred owners."""
        found = tuple(self.node(node).id for node in nodes)
        return updates.SetPreferredOwners(group=self.group(name).id, nodes=found)

    @change(Role.ADMINISTRATOR)
    def set_properties(
        self,
        name: str,
        assigned: list[Assigned],
        reset: list[str],
        expected: list[Assigned] | None = None,
        expected_default: list[str] | None = None,
    ) -> Update:
        """Change common properties, if these are as expected; else the refusal is ``property-changed``."""
        group = self.group(name)
        named = {each.casefold() for each in (*(one.name for one in assigned), *reset)}
        return updates.SetGroupProperties(
            group=group.id,
            common=common_changes(group, assigned, reset),
            instances=not named.isdisjoint(("grouptype", "maxinstances")),
            expected_common=common_changes(group, expected or [], expected_default or []),
        )

    @change(Role.ADMINISTRATOR)
    def set_private(
        self,
        name: str,
        assigned: list[Assigned],
        reset: list[str],
        expected: list[Assigned] | None = None,
        expected_absent: list[str] | None = None,
    ) -> Update:
        """Change private properties, if these are as expected; else the refusal is ``property-changed``."""
        group = self.group(name)
        return updates.SetGroupProperties(
            group=group.id,
            private=_private(group, assigned, reset),
            expected_private=_private(group, expected or [], expected_absent or []),
        )


class ResourceServant(Servant):
    """The resources."""

    @query()
    def status(self, name: str | None = None, node: str | None = None) -> list[Plain]:
        """One resource or all of them; only those that ``node`` runs, if given. What instances of a parallel group run
        stands in the resource of the group."""
        config, view = self.config, self.access.view()
        owner = self.node(node).id if node else None
        resources = [self.resource(name)] if name else _no_instances(config.resources.values())
        shown = [(each, instances.resource_of(config, each, view, owner)) for each in resources]
        return [
            one for each, one in shown if owner is None or config.groups[each.group].owned == owner or one["instances"]
        ]

    @query()
    def instance(self, name: str, node: str) -> str:
        """The name that the resource has in the instance of its parallel group that the node has."""
        found = instances.copy_on(self.config, self.resource(name), self.node(node))
        if isinstance(found, Report):
            raise Refused(found)
        return found.name

    @query()
    def properties(self, name: str | None = None) -> list[Plain]:
        """Common properties of one resource or of all."""
        return _common_lines([self.resource(name)] if name else _no_instances(self.config.resources.values()))

    @query()
    def private(self, name: str | None = None) -> list[Plain]:
        """Private properties of one resource or of all."""
        resources = [self.resource(name)] if name else _no_instances(self.config.resources.values())
        return [line for one in resources for line in _private_lines(one.private, one.name)]

    @query()
    def dependencies(self, name: str) -> list[Plain]:
        """What the resource depends on directly."""
        config, view = self.config, self.access.view()
        providers = self.resource(name).depends_on
        return [instances.resource_of(config, config.resources[provider], view) for provider in providers]

    @query()
    def owners(self, name: str) -> list[str]:
        """Possible owners."""
        possible = self.resource(name).possible_owners
        return dto.names_of(self.config, sorted(self.config.nodes) if possible is None else possible)

    @change(Role.ADMINISTRATOR)
    def create(
        self,
        name: str,
        type: str,
        group: str,
        separate_monitor: bool = False,
        common: list[Assigned] | None = None,
        private: list[Assigned] | None = None,
    ) -> Any:
        """A new resource, offline."""
        info = self.type_info(type)
        home = self.group(group).id
        blank = Resource(id=ResourceId(""), name=name, type=info.name, group=home)
        common_values_ = common_changes(blank, common or [], [])
        private_values = private_changes(f"resource {name!r}", {}, info, private or [], [])
        _refuse_reports(private_values)
        return _Derived(
            lambda identifier: updates.CreateResource(
                resource=ResourceId(identifier),
                name=name,
                type=info.name,
                group=home,
                separate_monitor=separate_monitor,
                common=common_values_,
                private=cast("dict[str, Any]", private_values),
            )
        )

    @change(Role.ADMINISTRATOR)
    def delete(self, name: str) -> Update:
        """Delete the resource."""
        return updates.DeleteResource(resource=self.resource(name).id)

    @change(Role.ADMINISTRATOR)
    def rename(self, name: str, new_name: str) -> Update:
        """Give the resource another name."""
        return updates.Rename(kind="resource", id=self.resource(name).id, name=new_name)

    @change(Role.ADMINISTRATOR)
    def move(self, name: str, group: str) -> Update:
        """Put it into another group."""
        return updates.MoveResource(resource=self.resource(name).id, group=self.group(group).id)

    @change(Role.OPERATOR)
    def online(self, name: str) -> Update:
        """Want it and its providers online."""
        return updates.OnlineResource(resource=self.resource(name).id)

    @change(Role.OPERATOR)
    def offline(self, name: str) -> Update:
        """Want it and its dependents offline."""
        return updates.OfflineResource(resource=self.resource(name).id)

    @change(Role.ADMINISTRATOR)
    def fail(self, name: str) -> Update:
        """Treat it as failed."""
        return updates.FailResource(resource=self.resource(name).id)

    @change(Role.ADMINISTRATOR)
    def add_dependency(self, name: str, provider: str) -> Update:
        """It needs ``provider`` online first."""
        return updates.AddDependency(resource=self.resource(name).id, provider=self.resource(provider).id)

    @change(Role.ADMINISTRATOR)
    def remove_dependency(self, name: str, provider: str) -> Update:
        """The inverse."""
        return updates.RemoveDependency(resource=self.resource(name).id, provider=self.resource(provider).id)

    @change(Role.ADMINISTRATOR)
    def add_owner(self, name: str, node: str) -> Update:
        """Allow it on one more node."""
        return updates.AddPossibleOwner(resource=self.resource(name).id, node=self.node(node).id)

    @change(Role.ADMINISTRATOR)
    def remove_owner(self, name: str, node: str) -> Update:
        """Forbid it on a node."""
        return updates.RemovePossibleOwner(resource=self.resource(name).id, node=self.node(node).id)

    @change(Role.ADMINISTRATOR)
    def set_properties(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change common properties."""
        resource = self.resource(name)
        return updates.SetResourceProperties(resource=resource.id, common=common_changes(resource, assigned, reset))

    @change(Role.ADMINISTRATOR)
    def set_private(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change private properties; they take effect at the next online."""
        resource = self.resource(name)
        info = find_type(resource.type)
        changes = private_changes(f"resource {resource.name!r}", resource.private, info, assigned, reset)
        return updates.SetResourceProperties(resource=resource.id, private=_refuse_reports(changes))


class FenceServant(Servant):
    """The fence devices: what can switch nodes off."""

    @query()
    def status(self, name: str | None = None) -> list[Plain]:
        """One device or all of them, in the order in which they are tried."""
        config = self.config
        devices = [self.device(name)] if name else config.fence_devices.values()
        ordered = sorted(devices, key=lambda one: (one.node, one.order))
        return [fencing.device_of(config, device) for device in ordered]

    @query()
    def properties(self, name: str | None = None) -> list[Plain]:
        """Common properties of one device or of all."""
        return _common_lines([self.device(name)] if name else self.config.fence_devices.values())

    @query()
    def private(self, name: str | None = None) -> list[Plain]:
        """The parameters of the agents; secrets are not shown."""
        devices = [self.device(name)] if name else self.config.fence_devices.values()
        return [line for device in devices for line in fencing.parameter_lines(device)]

    @change(Role.ADMINISTRATOR)
    def create(
        self,
        name: str,
        node: str,
        agent: str,
        common: list[Assigned] | None = None,
        private: list[Assigned] | None = None,
    ) -> Any:
        """A device for a node. The agent must be on this node, and its metadata must know the parameters."""
        owner = self.node(node).id
        blank = FenceDevice(id=FenceDeviceId(""), name=name, node=owner, agent=agent)
        parameters = _refuse_reports(private_changes(f"fence device {name!r}", {}, None, private or [], []))
        bad = fencing.check_parameters(self.access, name, agent, parameters, complete=True)
        if bad is not None:
            raise Refused(bad)
        return _Derived(
            lambda identifier: updates.CreateFenceDevice(
                device=FenceDeviceId(identifier),
                name=name,
                node=owner,
                agent=agent,
                common=common_changes(blank, common or [], []),
                private=parameters,
            )
        )

    @change(Role.ADMINISTRATOR)
    def delete(self, name: str) -> Update:
        """The device is not used any more."""
        return updates.DeleteFenceDevice(device=self.device(name).id)

    @change(Role.ADMINISTRATOR)
    def set_properties(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change common properties."""
        device = self.device(name)
        return updates.SetFenceDeviceProperties(device=device.id, common=common_changes(device, assigned, reset))

    @change(Role.ADMINISTRATOR)
    def set_private(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change parameters of the agent, whose metadata must know them."""
        device = self.device(name)
        owner = f"fence device {device.name!r}"
        parameters = _refuse_reports(private_changes(owner, device.private, None, assigned, reset))
        given = {known: value for known, value in parameters.items() if value is not None}
        bad = fencing.check_parameters(self.access, device.name, device.agent, given, complete=False)
        if bad is not None:
            raise Refused(bad)
        return updates.SetFenceDeviceProperties(device=device.id, private=parameters)

    @query(Role.OPERATOR)
    def test(self, name: str) -> Plain:
        """Whether the device answers to this node; nothing is switched."""
        device = self.device(name)
        problem = ""
        try:
            self.access.use_fence_device(device, "monitor", min(device.timeout_ms, fencing.HAND_TIMEOUT_MS))
        except ClusterError as error:
            problem = error.message
        return {**fencing.device_of(self.config, device), "from": self.node(None).name, "problem": problem}

    def device(self, name: str) -> FenceDevice:
        """The device of that name."""
        found = self.config.fence_device_named(name)
        if found is None:
            raise Refused(reports.fence_device_not_found(name))
        return found


class ResourceTypeServant(Servant):
    """The types of resources."""

    @query()
    def types(self, name: str | None = None) -> list[Plain]:
        """One type or all of them."""
        return [dto.type_of(info) for info in ([self.type_info(name)] if name else BUILTIN_TYPES.values())]


class NetworkServant(Servant):
    """The networks that connect the nodes with each other and with clients."""

    @query()
    def status(self, name: str | None = None) -> list[Plain]:
        """One network or all of them, in the order of the nodes' addresses."""
        config = self.config
        return [networks.network_of(config, network) for network in self.networks(name)]

    @query()
    def interfaces(self, name: str | None = None) -> list[Plain]:
        """The interfaces on one network or on all."""
        config = self.config
        return [line for network in self.networks(name) for line in networks.interfaces_of(config, network)]

    @query()
    def properties(self, name: str | None = None) -> list[Plain]:
        """Common properties of one network or of all."""
        return _common_lines(self.networks(name))

    @query()
    def private(self, name: str | None = None) -> list[Plain]:
        """Private properties of one network or of all."""
        return [line for network in self.networks(name) for line in _private_lines(network.private, network.name)]

    @query()
    def priorities(self) -> list[str]:
        """The internal networks, the one that carries the log first."""
        config = self.config
        found = {network.position: network.name for network in config.all_networks}
        return [found[position] for position in config.internal_positions]

    @change(Role.ADMINISTRATOR)
    def set_priorities(self, names: list[str]) -> Update:
        """Order the internal networks, all of which must be named."""
        return updates.SetNetworkPriorities(networks=tuple(self.network(name).id for name in names))

    @change(Role.ADMINISTRATOR)
    def rename(self, name: str, new_name: str) -> Update:
        """Give the network another name."""
        return updates.Rename(kind="network", id=self.network(name).id, name=new_name)

    @change(Role.ADMINISTRATOR)
    def set_properties(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change common properties, the role among them."""
        network = self.network(name)
        return updates.SetNetworkProperties(network=network.id, common=common_changes(network, assigned, reset))

    @change(Role.ADMINISTRATOR)
    def set_private(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change private properties, such as the ping targets."""
        network = self.network(name)
        listed = [
            replace(one, name=PING_TARGETS, format="multistring")
            if one.name.casefold() == PING_TARGETS.casefold()
            else one
            for one in assigned
        ]
        return updates.SetNetworkProperties(network=network.id, private=_private(network, listed, reset))

    def networks(self, name: str | None) -> list[Network]:
        """The network of that name, or all of them."""
        return [self.network(name)] if name else list(self.config.all_networks)


class NetInterfaceServant(Servant):
    """The addresses of the nodes on the networks."""

    @query()
    def status(self, node: str | None = None, network: str | None = None) -> list[Plain]:
        """The interfaces of one node, on one network, or all, by nodes."""
        return self.found(node, network)

    @query()
    def properties(self, node: str | None = None, network: str | None = None) -> list[Plain]:
        """The properties of these interfaces, none of which can be set."""
        return [line for one in self.found(node, network) for line in networks.interface_properties(one)]

    def found(self, node: str | None, network: str | None) -> list[Plain]:
        """The interfaces that are meant."""
        config = self.config
        nodes = [self.node(node)] if node else list(config.nodes.values())
        wanted = [self.network(network)] if network else config.all_networks
        lines = [line for each in wanted for line in networks.interfaces_of(config, each)]
        return [line for one in nodes for line in lines if line["node"] == one.name]


class EventStreamServant(Servant):
    """The event history, read with a cursor, so that nothing is lost or seen twice across reconnects."""

    @query()
    def poll(self, cursor: int, limit: int, wait_ms: int) -> Plain:
        """Events after ``cursor``, oldest first; held open for ``wait_ms`` (at most 30 s) while there are none.

        The answer's ``cursor`` is the one to ask with next.
        """
        if not 1 <= limit <= POLL_EVENTS_MAX or cursor < 0 or wait_ms < 0:
            raise Refused(reports.bad_argument(f"Ask for 1 to {POLL_EVENTS_MAX} events after a cursor of 0 or more."))
        entries = self.access.history(after=cursor, limit=limit, wait_ms=min(wait_ms, POLL_WAIT_MS_MAX))
        return {
            "events": [dto.event_of(entry) for entry in entries],
            "cursor": entries[-1].cursor if entries else cursor,
        }

    @query()
    def newest(self, limit: int) -> Plain:
        """The newest events, oldest of them first, with the cursor to go on from."""
        if not 1 <= limit <= POLL_EVENTS_MAX:
            raise Refused(reports.bad_argument(f"Ask for 1 to {POLL_EVENTS_MAX} events."))
        index = self.access.view().index
        span = limit
        while True:
            # A cursor is a log index times 1000; entries without events make a few doublings necessary.
            after = max(0, index - span) * 1_000
            entries = self.access.history(after=after, limit=POLL_EVENTS_MAX, wait_ms=0)
            if len(entries) >= limit or after == 0:
                break
            span *= 4
        while len(entries) >= POLL_EVENTS_MAX:
            further = self.access.history(after=entries[-1].cursor, limit=POLL_EVENTS_MAX, wait_ms=0)
            if not further:
                break
            entries = [*entries, *further][-POLL_EVENTS_MAX:]
            if len(further) < POLL_EVENTS_MAX:
                break
        shown = entries[-limit:]
        return {"events": [dto.event_of(entry) for entry in shown], "cursor": shown[-1].cursor if shown else 0}


def _no_instances(things: Iterable[_Thing]) -> list[_Thing]:
    """The groups or resources that administrators made; instances have everything from those."""
    return [thing for thing in things if thing.instance_of is None]


def _common_lines(objects: Iterable[Node | Group | Resource | FenceDevice | Network]) -> list[Plain]:
    return [
        {**dto.property_of(definition, value), "object": one.name}
        for one in objects
        for definition, value in common_values(one)
    ]


def _private_lines(values: Mapping[str, Any], owner: str = "") -> list[Plain]:
    return [{**dto.private_of(name, value), "object": owner} for name, value in values.items()]


def _private(owner: Config | Node | Group | Network, assigned: list[Assigned], reset: list[str]) -> dict[str, Any]:
    return _refuse_reports(private_changes(f"{kind_of(owner)} {owner.name!r}", owner.private, None, assigned, reset))


def _refuse_reports(changes: dict[str, Any] | Report) -> dict[str, Any]:
    if isinstance(changes, Report):
        raise Refused(changes)
    return changes

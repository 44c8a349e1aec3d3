"""What the objects of remote administration share: methods that look something up, or make names one typed update.

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
import inspect
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast, get_type_hints

import Pyro5.server

from clussvc.admin import dto
from clussvc.admin.dto import Plain
from clussvc.admin.roles import Caller, Role
from clussvc.codec import from_plain, to_plain
from clussvc.global_update import update as updates
from clussvc.global_update.update import Update
from clussvc.model import reports
from clussvc.model.config import Config, Group, Network, Node, Resource
from clussvc.model.errors import ClusterError
from clussvc.model.ids import RequestId
from clussvc.model.reports import Report
from clussvc.ports import ClusterAccess
from clussvc.resources.type_info import BUILTIN_TYPES, ResourceTypeInfo, find_type

log = logging.getLogger(__name__)

REQUEST_ID_LENGTH_MAX = 64
EXECUTE_TIMEOUT_MS = 10_000
_IDENTIFIERS: Final = uuid.UUID("6f0c8b1e-6a0f-4b0e-9d55-2f1d7a6f3b10")
"""The name space in which identifiers of new objects are derived from request ids."""

F = TypeVar("F", bound=Callable[..., Any])


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

    def __init__(self, access: ClusterAccess, caller: Caller, kinds: Mapping[str, type[Servant]]) -> None:
        """``kinds``: all objects by the names under which they are registered, for changes of several of them."""
        self.access = access
        self.caller = caller
        self.kinds = kinds

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
        if isinstance(update, Derived):
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


class Derived:
    """An update that needs the identifier of a new object, derived from the request id."""

    def __init__(self, build: Callable[[str], Update]) -> None:
        self.build = build

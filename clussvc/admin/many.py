"""Many changes in one step of the log: for those who configure by program, or bring a whole cluster online.

Each change of the list is prepared by the same servant method that a single one would call, with the same check of the
caller's role and of its arguments, on the configuration *as it will be* after the changes before it. So a resource may
be created in a group that stands earlier in the list. What any of them would be refused for refuses the whole list, and
nothing is proposed; only a change that somebody else makes at the same moment can still have single ones refused by the
log, which then says so for the first of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from clussvc.admin.dto import Plain
from clussvc.admin.wire import CHANGES_MAX
from clussvc.codec import encode_proposal
from clussvc.global_update.apply import apply
from clussvc.global_update.update import Batch, Proposal, Update
from clussvc.model.config import Config
from clussvc.model.ids import RequestId
from clussvc.model.reports import Report, bad_argument
from clussvc.ports import ClusterAccess

Change = tuple[str, str, list[Any], dict[str, Any]]
"""Object, method, arguments, arguments by name; the request id, which comes first otherwise, is left out."""


class Ahead:
    """A way into the cluster on which changes are only thought: each sees what those before it would have done."""

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access
        # What is proposed here was not proposed to anybody, and its ids would only fill the memory of the real ones.
        self._config = replace(access.config(), recent={})
        self.updates: list[Update] = []

    def config(self) -> Config:
        """The configuration as it will be."""
        return self._config

    def execute(self, update: Update, *, request: RequestId | None = None, timeout_ms: int = 0) -> Report | None:
        """Apply in thought and keep the update, unless it would be refused."""
        del request, timeout_ms
        proposal = Proposal(
            request=RequestId("ahead"),
            proposer=self._access.node_id(),
            at_ms=time.time_ns() // 1_000_000,
            update=update,
        )
        applied = apply(self._config, proposal)
        if applied.refusal is None:
            self._config = replace(applied.config, recent={})
            self.updates.append(update)
        return applied.refusal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._access, name)


def prepare(
    access: ClusterAccess, changes: list[Change], identifier: str, find: Callable[[ClusterAccess, str, str], Any]
) -> Batch | Report:
    """The batch for these changes, or why one of them cannot be made.

    ``find(access, object, method)`` is the bound method of a servant on that access, or None when there is no such
    change. ``identifier`` makes the identifiers of new objects the same ones if the request is repeated. Raises
    ClusterError(``too-large``).
    """
    if not 1 <= len(changes) <= CHANGES_MAX:
        return bad_argument(f"Give 1 to {CHANGES_MAX} changes at once, not {len(changes)}.")
    ahead = Ahead(access)
    for position, (object_, method, args, kwargs) in enumerate(changes, start=1):
        call = find(cast("ClusterAccess", ahead), object_, method)
        if call is None:
            return bad_argument(f"Change {position}: there is no change {object_[:40]}.{method[:40]}.")
        answer: Plain = call(f"{identifier}/{position}", *args, **kwargs)
        if "report" in answer:
            return _which(answer["report"], position, f"{object_}.{method}", args)
    batch = Batch(updates=tuple(ahead.updates))
    # What is too long for an entry of the log is said now, and not after the time that a proposal may take.
    encode_proposal(Proposal(request=RequestId(identifier), proposer=access.node_id(), at_ms=0, update=batch))
    return batch


def _which(report: Plain, position: int, what: str, args: list[Any]) -> Report:
    """The refusal of one change, as that of the list."""
    about = f" {str(args[0])[:60]!r}" if args else ""
    message = f"Change {position} ({what}{about}) would be refused, so none was made: {report['message']}"
    return Report(code=report["code"], status=report["status"], message=message)

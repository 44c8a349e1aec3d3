"""The private properties that scripts and types of this node have set and that the log does not have yet.

A change is kept until the log has taken or refused it, so that none is lost in an election. Of one property only the
newest value counts. What was proposed once is repeated unchanged under the same request id until the log has answered,
and only then newer values of that resource follow; so an old value that arrives late never replaces a newer one.
Bounded by CHANGES_MAX; what comes beyond is not taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from clussvc.model.ids import RequestId, ResourceId
from clussvc.model.monitoring import PropertyChanged, PropertyValue

CHANGES_MAX = 2_000
"""Properties that wait at once, of all resources together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyProposal:
    """One change of one resource; ``request`` None: it was not proposed yet."""

    resource: ResourceId
    name: str
    value: PropertyValue | None
    request: RequestId | None = None


class PropertyChanges:
    """What has to be stored, by resource."""

    def __init__(self) -> None:
        self._waiting: dict[ResourceId, dict[str, PropertyValue | None]] = {}
        self._under_way: dict[ResourceId, PropertyProposal] = {}

    def add(self, change: PropertyChanged) -> bool:
        """Take in a change; False when too many wait already."""
        values = self._waiting.get(change.resource, {})
        known = next((name for name in values if name.casefold() == change.name.casefold()), change.name)
        if known not in values and sum(map(len, self._waiting.values())) >= CHANGES_MAX:
            return False
        self._waiting.setdefault(change.resource, {})[known] = change.value
        return True

    def resources(self) -> list[ResourceId]:
        """Of which resources something waits."""
        return list(self._waiting)

    def next(self, resource: ResourceId) -> PropertyProposal:
        """What to propose for this resource now: what is under way already, or else its oldest change. One at a time,
        since one that is refused must not take others with it."""
        under_way = self._under_way.get(resource)
        if under_way is not None:
            return under_way
        name, value = next(iter(self._waiting[resource].items()))
        return PropertyProposal(resource=resource, name=name, value=value)

    def proposed(self, proposal: PropertyProposal, request: RequestId) -> None:
        """It is proposed under this id."""
        self._under_way[proposal.resource] = replace(proposal, request=request)

    @property
    def requests(self) -> list[RequestId]:
        """What is under way."""
        return [proposal.request for proposal in self._under_way.values() if proposal.request is not None]

    def settled(self, request: RequestId) -> PropertyProposal | None:
        """The log has taken or refused what was proposed under this id, and this is what it was. A newer value of the
        same property goes on waiting. None: nothing was proposed under it."""
        found = next((proposal for proposal in self._under_way.values() if proposal.request == request), None)
        if found is None:
            return None
        del self._under_way[found.resource]
        waiting = self._waiting[found.resource]
        if waiting[found.name] == found.value:
            del waiting[found.name]
        if not waiting:
            del self._waiting[found.resource]
        return found

    def forget(self, resource: ResourceId) -> None:
        """The resource was deleted."""
        self._waiting.pop(resource, None)
        self._under_way.pop(resource, None)

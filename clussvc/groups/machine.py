"""The owner's sequencer: in which order the resources of one group are started and stopped.

*Where* a group runs is decided by the coordinator. *How and when* is decided here, on the owner, without asking
anybody. Every call of :meth:`GroupMachine.step` looks at the whole group and says what can be done now: a resource
comes online as soon as all its providers are online, goes offline as soon as all its dependents are stopped, so
independent branches proceed in parallel. There is no stored plan that could become wrong; after any event the next step
is computed anew. When a resource is lost, everything above it is stopped from the top down before it starts again.

When the group is to leave this node (a move was decided, the node is stopping), everything is stopped and the group is
*released*. Once released, this machine never starts anything again (rule R1): the same node may own the group again
only under a higher epoch, which is another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clussvc.model.config import Group, Resource
from clussvc.model.ids import GroupId, ResourceId
from clussvc.model.monitoring import BringOnline, ResourceReported, TakeOffline, TerminateResource
from clussvc.model.states import MoveCause, ResourceState, StateChangeReason
from clussvc.resources.machine import LocalResource

_REASONS = {
    MoveCause.ADMIN: StateChangeReason.MOVE,
    MoveCause.RESOURCE_FAILURE: StateChangeReason.FAILOVER,
    MoveCause.NETWORK_FAILURE: StateChangeReason.FAILOVER,
    MoveCause.NODE_DOWN: StateChangeReason.FAILOVER,
    MoveCause.NODE_STOPPING: StateChangeReason.SHUTDOWN,
    MoveCause.FAILBACK: StateChangeReason.MOVE,
    MoveCause.FIRST_PLACEMENT: StateChangeReason.UNKNOWN,
    MoveCause.OWNERS_CHANGED: StateChangeReason.MOVE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverWish:
    """A resource whose restart policy is exhausted."""

    resource: ResourceId
    because: str


@dataclass(slots=True)
class Step:
    """What to do now."""

    commands: list[BringOnline | TakeOffline | TerminateResource] = field(default_factory=list)
    wishes: list[FailoverWish] = field(default_factory=list)
    released: bool = False
    """Everything is stopped and the group may be given away."""
    next_ms: int | None = None
    """When to look again although nothing happened (a retry period)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Support:
    """What lies below a resource: whether all of it is online as far as is known, and whether that is certain now."""

    holds: bool
    is_certain: bool


class GroupMachine:
    """One group under one ownership epoch on its owner."""

    def __init__(self, *, group: GroupId, epoch: int) -> None:
        self.group = group
        self.epoch = epoch
        self.released = False
        self.locals: dict[ResourceId, LocalResource] = {}

    def take_report(self, report: ResourceReported, resource: Resource | None, now_ms: int) -> None:
        """Take in a report about one of the group's resources; ``resource`` None if it was deleted meanwhile."""
        local = self.locals.get(report.resource)
        if local is None:
            return
        if resource is None:
            # A deleted resource is only waited for until it is gone.
            if report.state is ResourceState.OFFLINE or report.terminated:
                del self.locals[report.resource]
            elif report.state is ResourceState.FAILED and local.terminating:
                local.termination_failed(report.detail, now_ms)
            return
        local.take_report(report, resource, now_ms)

    def monitor_died(self, resource: Resource, why: str, now_ms: int) -> None:
        """The resource's monitor is gone and a new one has cleaned up: what ran counts as failed and terminated."""
        local = self.locals.get(resource.id)
        if local is None:
            return
        if local.state in (ResourceState.ONLINE, ResourceState.ONLINE_PENDING):
            local.fail(why, resource, now_ms, terminated=True)
        else:
            local.take_report(
                ResourceReported(resource=resource.id, epoch=local.epoch, state=ResourceState.OFFLINE),
                resource,
                now_ms,
            )

    def step(
        self, group: Group, resources: Sequence[Resource], now_ms: int, *, ready: Callable[[ResourceId], bool]
    ) -> Step:
        """What can be done now. ``ready`` says whether a resource's monitor takes commands."""
        assert (group.id, group.epoch) == (self.group, self.epoch), (group.id, group.epoch, self.epoch)
        step = Step()
        if self.released:
            step.released = True
            return step
        self._meet(resources, now_ms, step)
        reason = _REASONS[group.move.cause] if group.move else StateChangeReason.UNKNOWN
        wanted = self._wanted(group, resources)
        offline = {resource.id for resource in resources if self.locals[resource.id].state is not ResourceState.ONLINE}
        unready = {resource.id for resource in resources if not ready(resource.id)}
        unsupported = _above(offline, resources)
        # What a monitor ran that has died is not known to run any more, though its failure is told only when the next
        # monitor has cleaned up. Nothing is started upon it; what stands on it already waits for that word.
        uncertain = _above(offline | unready, resources) if unready else unsupported
        dependents = _dependents(resources)
        for resource in resources:
            if resource.id in unready:
                continue
            local = self.locals[resource.id]
            if resource.id in wanted:
                support = _Support(holds=resource.id not in unsupported, is_certain=resource.id not in uncertain)
                self._towards_online(resource, local, step, dependents, reason, support)
            else:
                self._towards_offline(resource, local, step, dependents, reason)
        self._sweep_deleted(resources, now_ms, step, ready)
        if group.move is not None and all(local.stopped for local in self.locals.values()):
            self.released = step.released = True
        return step

    # --- parts of a step --------------------------------------------------------------------------------------------

    def _meet(self, resources: Sequence[Resource], now_ms: int, step: Step) -> None:
        """Make the acquaintance of new resources, take in new tickets and ended retry periods."""
        for resource in resources:
            local = self.locals.get(resource.id)
            if local is None:
                local = self.locals[resource.id] = LocalResource(
                    epoch=self.epoch, online_ticket=resource.online_ticket, fail_ticket=resource.fail_ticket
                )
            if local.online_ticket != resource.online_ticket:
                local.online_ticket = resource.online_ticket
                local.try_again()
            if local.fail_ticket != resource.fail_ticket:
                local.fail_ticket = resource.fail_ticket
                if local.state is ResourceState.ONLINE:
                    local.fail("made to fail by an administrator", resource, now_ms, terminated=False)
            if local.stays_failed and not resource.persistent_state:
                # Nobody wants it online any more, so its failure is settled: it ends up Offline, and stays there.
                local.try_again()
            if local.retry_at_ms is not None:
                if now_ms >= local.retry_at_ms:
                    local.try_again()
                else:
                    step.next_ms = min(step.next_ms or local.retry_at_ms, local.retry_at_ms)
            _await_termination(local, now_ms, step)
            if local.wants_failover:
                step.wishes.append(FailoverWish(resource=resource.id, because=local.wants_failover))

    def _wanted(self, group: Group, resources: Sequence[Resource]) -> set[ResourceId]:
        """The resources that should be online here: wanted themselves, and so are all their providers."""
        if group.move is not None or group.halted:
            return set()
        wanted = {
            resource.id
            for resource in resources
            if resource.persistent_state and not self.locals[resource.id].stays_failed
        }
        # Circles do not exist, so taking away what lacks a provider ends after at most one pass per level.
        while True:
            lacking = {r.id for r in resources if r.id in wanted and any(p not in wanted for p in r.depends_on)}
            if not lacking:
                return wanted
            wanted -= lacking

    def _towards_online(
        self,
        resource: Resource,
        local: LocalResource,
        step: Step,
        dependents: dict[ResourceId, list[ResourceId]],
        reason: StateChangeReason,
        support: _Support,
    ) -> None:
        if local.state is ResourceState.OFFLINE:
            # What stood on it when it was lost has to be stopped before it starts again.
            if support.is_certain and self._free(resource, dependents):
                local.begin_online(self.epoch)
                step.commands.append(BringOnline(resource=resource.id, epoch=self.epoch, reason=reason))
        elif local.state is ResourceState.FAILED or not support.holds:
            # It failed itself, or something below it did: it has to stop before it can start again.
            self._terminate(resource, local, step, dependents, StateChangeReason.FAILOVER)

    def _towards_offline(
        self,
        resource: Resource,
        local: LocalResource,
        step: Step,
        dependents: dict[ResourceId, list[ResourceId]],
        reason: StateChangeReason,
    ) -> None:
        if local.state is ResourceState.ONLINE:
            broken = any(self.locals[provider].state is ResourceState.FAILED for provider in resource.depends_on)
            if broken:
                self._terminate(resource, local, step, dependents, reason)
            elif self._free(resource, dependents):
                local.begin_offline(self.epoch)
                step.commands.append(TakeOffline(resource=resource.id, epoch=self.epoch, reason=reason))
        elif local.state in (ResourceState.ONLINE_PENDING, ResourceState.FAILED):
            self._terminate(resource, local, step, dependents, reason)

    def _terminate(
        self,
        resource: Resource,
        local: LocalResource,
        step: Step,
        dependents: dict[ResourceId, list[ResourceId]],
        reason: StateChangeReason,
    ) -> None:
        if local.stopped or local.terminating or local.state is ResourceState.OFFLINE_PENDING:
            return
        if local.terminate_again_ms is not None:
            return
        if self._free(resource, dependents):
            local.begin_terminate(self.epoch)
            step.commands.append(TerminateResource(resource=resource.id, epoch=self.epoch, reason=reason))

    def _free(self, resource: Resource, dependents: dict[ResourceId, list[ResourceId]]) -> bool:
        return all(self.locals[dependent].stopped for dependent in dependents.get(resource.id, ()))

    def _sweep_deleted(
        self, resources: Sequence[Resource], now_ms: int, step: Step, ready: Callable[[ResourceId], bool]
    ) -> None:
        """Terminate what was deleted while it ran; it is forgotten when the monitor says that it is gone."""
        known = {resource.id for resource in resources}
        for deleted in [resource for resource in self.locals if resource not in known]:
            local = self.locals[deleted]
            _await_termination(local, now_ms, step)
            if local.stopped:
                del self.locals[deleted]
            elif not local.terminating and local.terminate_again_ms is None and ready(deleted):
                local.begin_terminate(self.epoch)
                step.commands.append(TerminateResource(resource=deleted, epoch=self.epoch))


def _above(missing: set[ResourceId], resources: Sequence[Resource]) -> set[ResourceId]:
    """The resources below which one of these is, however far below."""
    found: set[ResourceId] = set()
    while True:
        more = {
            resource.id
            for resource in resources
            if resource.id not in found and any(p in missing or p in found for p in resource.depends_on)
        }
        if not more:
            return found
        found |= more


def _await_termination(local: LocalResource, now_ms: int, step: Step) -> None:
    """The pause before something that could not be terminated is terminated again."""
    if local.terminate_again_ms is None:
        return
    if now_ms >= local.terminate_again_ms:
        local.terminate_again_ms = None
    else:
        step.next_ms = min(step.next_ms or local.terminate_again_ms, local.terminate_again_ms)


def _dependents(resources: Sequence[Resource]) -> dict[ResourceId, list[ResourceId]]:
    found: dict[ResourceId, list[ResourceId]] = {}
    for resource in resources:
        for provider in resource.depends_on:
            found.setdefault(provider, []).append(resource.id)
    return found

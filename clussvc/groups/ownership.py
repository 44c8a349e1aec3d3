"""The groups that this node owns, with one sequencer each: the owner's half of rule R1.

A sequencer exists only for a group that the log assigns to this node under its present epoch, and only while the node
is a member. What the sequencers want is turned into commands for monitors and updates for the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from clussvc.global_update.update import GroupReleased, ReportStates, RequestFailover, ResourceFailure, ResourceStatus
from clussvc.groups.failure_log import FailureLog
from clussvc.groups.machine import GroupMachine
from clussvc.groups.networks import on_this_node
from clussvc.model.config import Config, Group, Resource
from clussvc.model.ids import GroupId, NodeId, ResourceId
from clussvc.model.monitoring import (
    BringOnline,
    CommandRefused,
    ResourceReported,
    ResourceSpec,
    TakeOffline,
    TerminateResource,
)
from clussvc.model.states import ResourceState
from clussvc.model.view import LocalResourceView
from clussvc.resources.machine import LocalResource
from clussvc.resources.monitors import DEFAULT_MONITOR
from clussvc.resources.restart_policy import count_recent
from clussvc.resources.type_info import find_type

LINES_PER_REPORT_MAX = 250
"""State changes and failures in one log entry; the rest follows in the next one. With the longest details it stays
below the limit of an entry."""

LooksReady = Callable[[ResourceId], bool]


@dataclass(slots=True)
class Wanted:
    """What the sequencers want after a step."""

    commands: list[BringOnline | TakeOffline | TerminateResource] = field(default_factory=list)
    failovers: list[RequestFailover] = field(default_factory=list)
    releases: list[GroupReleased] = field(default_factory=list)
    moved: list[ResourceId] = field(default_factory=list)
    """Resources that were put into another group; their monitors have to learn of it before any command."""


class Ownership:
    """All groups that one member owns. Made anew for every incarnation; ``failures`` outlives it."""

    def __init__(self, node: NodeId, failures: FailureLog) -> None:
        self._node = node
        self._failures = failures
        self._machines: dict[GroupId, GroupMachine] = {}
        self._by_group: dict[GroupId, list[Resource]] = {}
        self._config: Config | None = None
        self._stirred: set[GroupId] = set()
        self._next_ms: dict[GroupId, int] = {}
        self._seen: dict[GroupId, tuple[Group, list[Resource]]] = {}
        self._orphans: list[TerminateResource] = []
        self._orphan_homes: dict[ResourceId, str] = {}
        self._moved: list[ResourceId] = []
        self._troubled: dict[ResourceId, LocalResource] = {}
        """What has failed at some time, and may be of another epoch by now."""

    # --- inputs -----------------------------------------------------------------------------------------------------

    def follow(self, config: Config) -> None:
        """Take over a new configuration: new groups, new epochs, changed resources."""
        if config is self._config:
            return
        if (
            self._config is None
            or config.resources is not self._config.resources
            or set(self._by_group) != set(config.groups)
        ):
            self._by_group = config.resources_by_group()
        self._config = config
        owned = {group.id: group for group in config.groups_owned_by(self._node)}
        for gone in [group for group in self._machines if group not in owned]:
            self._drop(gone)
        for group in owned.values():
            machine = self._machines.get(group.id)
            if machine is None or machine.epoch != group.epoch:
                self._machines[group.id] = GroupMachine(group=group.id, epoch=group.epoch)
            self._note_changes(group)
        self._hand_over_moved()

    def _drop(self, group: GroupId) -> None:
        """The group is not ours any more. If it was deleted while a deleted resource still stopped, that goes on."""
        machine = self._machines.pop(group)
        self._seen.pop(group, None)
        self._next_ms.pop(group, None)
        for resource, local in machine.locals.items():
            if not local.stopped:
                self._orphans.append(TerminateResource(resource=resource, epoch=local.epoch))
                self._orphan_homes[resource] = local.monitor

    def _note_changes(self, group: Group) -> None:
        resources = self._by_group.get(group.id, [])
        before = self._seen.get(group.id)
        same = (
            before is not None
            and before[0] is group
            and len(before[1]) == len(resources)
            and all(old is new for old, new in zip(before[1], resources, strict=True))
        )
        if not same:
            self._stirred.add(group.id)
            self._seen[group.id] = (group, resources)

    def _hand_over_moved(self) -> None:
        """A resource that was put into another group of this node keeps what is known of it."""
        assert self._config is not None
        for machine in self._machines.values():
            for resource_id in list(machine.locals):
                resource = self._config.resources.get(resource_id)
                if resource is None or resource.group == machine.group:
                    continue
                target = self._machines.get(resource.group)
                if target is not None:
                    target.locals[resource_id] = machine.locals.pop(resource_id)
                    self._moved.append(resource_id)
                    self._stirred |= {machine.group, target.group}

    def take_report(self, report: ResourceReported, now_ms: int) -> None:
        """A monitor reported on a resource."""
        if report.state is ResourceState.OFFLINE or report.terminated:
            self._orphan_homes.pop(report.resource, None)
        machine = self._machine_of(report.resource)
        if machine is not None and self._config is not None:
            machine.take_report(report, self._config.resources.get(report.resource), now_ms)
            self._note_failures(machine, (report.resource,))
            self._stirred.add(machine.group)

    def take_refusal(self, refused: CommandRefused, now_ms: int) -> None:
        """A monitor refused a command: what could not be started has failed, what could not be stopped is ended."""
        machine = self._machine_of(refused.resource)
        resource = self._config.resources.get(refused.resource) if self._config else None
        if machine is None or resource is None:
            return
        local = machine.locals[refused.resource]
        if refused.epoch != local.epoch:
            return
        if local.state is ResourceState.ONLINE_PENDING and not local.terminating:
            local.fail(refused.why, resource, now_ms, terminated=False)
        elif local.state is ResourceState.OFFLINE_PENDING and not local.terminating:
            local.state, local.detail, local.dirty = ResourceState.FAILED, refused.why, True
        self._note_failures(machine, (refused.resource,))
        self._stirred.add(machine.group)

    def monitor_died(self, monitor: str, why: str, now_ms: int) -> None:
        """This monitor died and its successor has cleaned up, also what was deleted while it still stopped."""
        self._orphan_homes = {orphan: home for orphan, home in self._orphan_homes.items() if home != monitor}
        for machine in self._machines.values():
            for resource_id, local in list(machine.locals.items()):
                if local.monitor != monitor or local.stopped:
                    continue
                resource = self._config.resources.get(resource_id) if self._config else None
                if resource is None:
                    del machine.locals[resource_id]
                else:
                    machine.monitor_died(resource, why, now_ms)
                self._stirred.add(machine.group)
            self._note_failures(machine, machine.locals)

    def _note_failures(self, machine: GroupMachine, resources: Iterable[ResourceId]) -> None:
        """Put new failures where they are kept until the history has them."""
        for resource in resources:
            local = machine.locals.get(resource)
            if local is None or not local.untold:
                continue
            self._troubled[resource] = local
            for failure in local.untold:
                told = ResourceFailure(resource=resource, detail=failure.detail, because=failure.because)
                self._failures.add(told, failure.at_ms)
            local.untold.clear()

    def stir(self) -> None:
        """Look at every group at the next step (a monitor became ready)."""
        self._stirred |= set(self._machines)

    # --- outputs ----------------------------------------------------------------------------------------------------

    def step(self, now_ms: int, *, ready: LooksReady) -> Wanted:
        """What should be done now for the groups where something changed or a time has come."""
        wanted = Wanted()
        config = self._config
        if config is None:
            return wanted
        wanted.commands, self._orphans = list(self._orphans), []
        wanted.moved, self._moved = self._moved, []
        due = self._stirred | {group for group, at_ms in self._next_ms.items() if now_ms >= at_ms}
        self._stirred = set()
        for group_id in sorted(due):
            machine, group = self._machines.get(group_id), config.groups.get(group_id)
            if machine is None or group is None:
                continue
            step = machine.step(group, self._by_group.get(group_id, []), now_ms, ready=ready)
            self._note_failures(machine, machine.locals)
            for command in step.commands:
                if isinstance(command, BringOnline):
                    machine.locals[command.resource].monitor = self._configured_monitor(command.resource)
            wanted.commands += step.commands
            if step.next_ms is not None:
                self._next_ms[group_id] = step.next_ms
            else:
                self._next_ms.pop(group_id, None)
            if group.failover is None and group.move is None:
                wanted.failovers += [
                    RequestFailover(
                        group=group_id, epoch=group.epoch, resource=wish.resource, because=wish.because, at_ms=0
                    )
                    for wish in step.wishes
                ]
            else:
                # The coordinator knows; what it answers (a move, or a denial) ends the wish.
                for wish in step.wishes:
                    machine.locals[wish.resource].wants_failover = ""
            if step.released:
                wanted.releases.append(self._release(group))
            if step.released or step.wishes:
                # A proposal may get lost: look again until the log has answered.
                self._stirred.add(group_id)
        return wanted

    def _release(self, group: Group) -> GroupReleased:
        because = group.move.because if group.move else "nothing of it runs any more"
        return GroupReleased(group=group.id, epoch=group.epoch, node=self._node, because=because)

    def report(self, incarnation: int, now_ms: int) -> ReportStates | None:
        """How the states of the owned resources differ from what the log says, and what failed; None if nothing."""
        config = self._config
        if config is None:
            return None
        failures = self._failures.batch(now_ms)
        lines = self._changed_states(config, LINES_PER_REPORT_MAX - len(failures))
        if not lines and not failures:
            return None
        return ReportStates(node=self._node, incarnation=incarnation, lines=tuple(lines), failures=failures)

    def _changed_states(self, config: Config, limit: int) -> list[ResourceStatus]:
        lines: list[ResourceStatus] = []
        for machine in self._machines.values():
            if machine.released:
                continue
            for resource_id, local in machine.locals.items():
                known = config.resources.get(resource_id)
                if known is None or known.group != machine.group:
                    continue
                detail = local.detail if local.state is ResourceState.FAILED else ""
                if (known.state, known.detail) != (local.state, detail):
                    lines.append(ResourceStatus(resource=resource_id, state=local.state, detail=detail))
                    if len(lines) >= limit:
                        return lines
        return lines

    @property
    def next_ms(self) -> int | None:
        """When a step is due although nothing happened."""
        return min(self._next_ms.values(), default=None)

    @property
    def stirred(self) -> bool:
        """Whether a step would look at anything now."""
        return bool(self._stirred)

    @property
    def empty(self) -> bool:
        """Nothing is owned, or everything has been released."""
        return all(machine.released for machine in self._machines.values())

    def spec(self, resource_id: ResourceId) -> ResourceSpec | None:
        """What a monitor must know of a resource; None if it is not in the configuration."""
        config = self._config
        resource = config.resources.get(resource_id) if config else None
        if config is None or resource is None:
            return None
        info = find_type(resource.type)
        private = {p.name: p.default for p in info.private if p.default is not None} if info else {}
        looks_alive_ms = resource.looks_alive_poll_interval_ms
        is_alive_ms = resource.is_alive_poll_interval_ms
        if looks_alive_ms is None:
            looks_alive_ms = info.looks_alive_interval_ms if info else 5_000
        if is_alive_ms is None:
            is_alive_ms = info.is_alive_interval_ms if info else 60_000
        return ResourceSpec(
            resource=resource.id,
            name=resource.name,
            type=resource.type,
            group=resource.group,
            group_name=config.groups[resource.group].name,
            node_name=config.node_name(self._node),
            instance=config.groups[resource.group].instance,
            base_name=config.resources[resource.instance_of].name if resource.instance_of is not None else "",
            private={**private, **on_this_node(config, resource, self._node)},
            looks_alive_interval_ms=looks_alive_ms,
            is_alive_interval_ms=is_alive_ms,
            pending_timeout_ms=resource.pending_timeout_ms,
        )

    def monitor_of(self, resource_id: ResourceId) -> str:
        """The name of the monitor that takes commands for a resource.

        As long as anything of it may run, that is the one in which it was started, whatever became of the resource.
        """
        machine = self._machine_of(resource_id)
        if machine is not None and not machine.locals[resource_id].stopped:
            return machine.locals[resource_id].monitor
        return self._orphan_homes.get(resource_id) or self._configured_monitor(resource_id)

    def monitors_in_use(self) -> set[str]:
        """The names of the monitors in which something may run."""
        started = {
            local.monitor
            for machine in self._machines.values()
            for local in machine.locals.values()
            if not local.stopped
        }
        return started | set(self._orphan_homes.values())

    def _configured_monitor(self, resource_id: ResourceId) -> str:
        resource = self._config.resources.get(resource_id) if self._config else None
        return resource_id if resource is not None and resource.separate_monitor else DEFAULT_MONITOR

    def known(self, resource_id: ResourceId) -> bool:
        """Whether the configuration knows the resource or something of it may still run here."""
        in_config = self._config is not None and resource_id in self._config.resources
        return in_config or self._machine_of(resource_id) is not None

    def views(self, now_ms: int) -> dict[ResourceId, LocalResourceView]:
        """What the owner knows beyond the states, for status commands."""
        found = {}
        for resource_id, local in self._troubled.items():
            resource = self._config.resources.get(resource_id) if self._config else None
            machine = self._machines.get(resource.group) if resource else None
            if resource is None or machine is None or machine.locals.get(resource_id) is not local:
                continue
            if local.restarts_ms or local.last_failure:
                found[resource_id] = LocalResourceView(
                    restarts_in_period=count_recent(
                        local.restarts_ms, period_ms=resource.restart_period_ms, now_ms=now_ms
                    ),
                    last_failure=local.last_failure,
                )
        return found

    def _machine_of(self, resource_id: ResourceId) -> GroupMachine | None:
        resource = self._config.resources.get(resource_id) if self._config else None
        if resource is not None:
            machine = self._machines.get(resource.group)
            if machine is not None and resource_id in machine.locals:
                return machine
        for machine in self._machines.values():
            if resource_id in machine.locals:
                return machine
        return None

"""The owners' observations: states of resources, and what they mean for their groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from clussvc.global_update.outcome import Done, Result, find_node, note, with_resources
from clussvc.global_update.update import ReportStates, ResourceFailure
from clussvc.model.config import Config, Group, Resource
from clussvc.model.ids import GroupId
from clussvc.model.records import Record
from clussvc.model.reports import Report, Severity, stale
from clussvc.model.states import GroupState, ResourceState
from clussvc.resources.aggregate import group_state

LATE_MS = 1_000
"""A failure that is told later than this is told with its age."""

_GROUP_EVENTS = {
    GroupState.ONLINE: ("group.online", 1201, Severity.INFORMATION, "is online"),
    GroupState.FAILED: ("group.failed", 1202, Severity.ERROR, "has failed"),
    GroupState.OFFLINE: ("group.offline", 1204, Severity.INFORMATION, "is offline"),
}


def report_states(config: Config, update: ReportStates) -> Result:
    """Take in what the owner saw. Lines about groups that it does not own now are ignored: they are late."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if not node.up or node.incarnation != update.incarnation:
        return stale(f"incarnation {update.incarnation} of {node.name} is not up any more")
    changed: dict[str, Resource] = {}
    records = [record for failure in update.failures for record in _failure_record(config, failure, node.name)]
    for line in update.lines:
        known = changed.get(line.resource) or config.resources.get(line.resource)
        if known is None or config.groups[known.group].owned != node.id:
            continue
        if (known.state, known.detail) == (line.state, line.detail):
            continue
        seen = replace(known, state=line.state, detail=line.detail)
        changed[seen.id] = seen
        if known.state is not seen.state:
            records += _resource_records(seen, node.name)
    if not changed:
        return Done(config=config, records=tuple(records))
    reported = with_resources(config, changed.values())
    affected = list(dict.fromkeys(resource.group for resource in changed.values()))
    records += _group_records(config, reported, affected, node.name)
    return Done(config=reported, records=tuple(records))


def _failure_record(config: Config, failure: ResourceFailure, node: str) -> tuple[Record, ...]:
    """A failure is told once, whether or not the resource was seen in the state Failed."""
    resource = config.resources.get(failure.resource)
    if resource is None:
        return ()
    detail = (failure.detail or "its monitor gave no reason").rstrip(".")
    often = "failed" if failure.count == 1 else f"failed {failure.count} times"
    last = "" if failure.count == 1 else "the last time "
    late = f"{failure.ago_ms / 1000:.0f} s before this was told" if failure.ago_ms >= LATE_MS else ""
    return note(
        "resource.failed",
        f"Resource {resource.name} {often} on {node}: {last}{detail}.",
        kind="resource",
        thing=resource.name,
        because="; ".join(part for part in (detail, failure.because, late) if part),
        event_id=1069,
        severity=Severity.ERROR,
        node=node,
    )


def _resource_records(resource: Resource, node: str) -> tuple[Record, ...]:
    """Transitions that somebody may ask for later; the pending states in between are not, and failures are told by
    themselves."""
    name = resource.name
    if resource.state in (ResourceState.ONLINE, ResourceState.OFFLINE):
        word = resource.state.value.lower()
        because = resource.detail or f"{node} reported it"
        return note(
            f"resource.{word}",
            f"Resource {name} is {word} on {node}.",
            kind="resource",
            thing=name,
            because=because,
            node=node,
        )
    return ()


def _group_records(before: Config, after: Config, groups: list[GroupId], node: str) -> Iterable[Record]:
    """One record for each of these groups whose derived state has become online, failed or offline."""
    old, new = _members(before, groups), _members(after, groups)
    for group_id in groups:
        state = group_state(new[group_id])
        if state is not group_state(old[group_id]) and state in _GROUP_EVENTS:
            yield from _group_record(after.groups[group_id], state, new[group_id], node)


def _members(config: Config, groups: list[GroupId]) -> dict[GroupId, list[Resource]]:
    return {group: list(config.resources_of(group)) for group in groups}


def _group_record(group: Group, state: GroupState, resources: list[Resource], node: str) -> tuple[Record, ...]:
    name, event_id, severity, words = _GROUP_EVENTS[state]
    failed = [resource.name for resource in resources if resource.state is ResourceState.FAILED]
    because = f"failed: {', '.join(failed[:12])}" if failed else f"all of its resources are {state.value.lower()}"
    return note(
        name,
        f"Group {group.name} {words} on {node}.",
        kind="group",
        thing=group.name,
        because=because,
        event_id=event_id,
        severity=severity,
        node=node,
    )

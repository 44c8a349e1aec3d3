"""``cluster group``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster_cli import render
from cluster_cli.commands import common
from cluster_cli.render import Screen
from cluster_cli.session import Failed, Progress, Session
from cluster_cli.syntax import Invocation, split_list

MOVE_WAIT_S = 20.0
ONLINE_WAIT_S = 10.0
"""How long a command waits without ``/wait`` (cluster.exe)."""
PLACED_WAIT_S = 2.0
"""How long /create waits for the new group's first owner."""


EVERY = "*"
"""Stands for all groups, with /online and /offline."""


def run(invocation: Invocation, session: Session) -> Screen:
    """Do what the command says."""
    name = invocation.name or ""
    action = invocation.action
    match action.name:
        case "status":
            return status(session, invocation.name, invocation.argument("node"))
        case "properties" | "privproperties":
            return common.properties(invocation, session, "group")
        case "create":
            return _create(invocation, session, name)
        case "delete":
            session.progress(f"Deleting resource group '{name}'...")
            session.change("Group", "delete", name)
            return common.done("")
        case "rename":
            session.change("Group", "rename", name, action.argument)
            return status(session, action.argument, None)
        case "online" | "offline" if name == EVERY and not action.argument:
            return _all(invocation, session)
        case "moveto" | "online" | "offline":
            where = invocation.argument("from" if action.name == "moveto" else "node")
            return _transition(invocation, session, session.call("Group", "instance", name, where) if where else name)
        case "listowners":
            return _owners(session, name)
        case "setowners":
            session.change("Group", "set_owners", name, list(split_list(action.argument or "")))
            return _owners(session, name)
        case "explain":
            from cluster_cli.commands import insight

            return insight.explain(session, name)
    raise Failed(87, f"/{action.name} is not done by 'cluster group'.", "bad-argument")


def status(session: Session, name: str | None, node: str | None) -> Screen:
    """The status table."""
    groups = session.call("Group", "status", name, node)
    lines = _lines(groups)
    whom = f"resource group '{groups[0]['name']}'" if name and groups else "all available resource groups"
    where = f" on node '{node}'" if node else ""
    return Screen(text=render.titled(f"Listing status for {whom}{where}:", lines), data=groups)


def _create(invocation: Invocation, session: Session, name: str) -> Screen:
    session.progress(f"Creating resource group '{name}'...\n")
    session.change("Group", "create", name, invocation.argument("node"))
    for kind, method in (("properties", "set_properties"), ("privproperties", "set_private")):
        option = invocation.find(kind)
        if option is not None and option.assignments:
            session.change("Group", method, name, common.sent(option.assignments), [])

    def placed() -> Progress:
        group = common.single(session.call("Group", "status", name))
        return Progress.PENDING if group["moving"] else Progress.DONE

    # The coordinator gives it an owner in the next moment; without a node that is up it stays without one.
    session.wait(placed, PLACED_WAIT_S)
    return _table(session, name)


def _owners(session: Session, name: str) -> Screen:
    owners = session.call("Group", "owners", name)
    lines = render.owner_lines("Preferred Owner Nodes", owners)
    return Screen(text=render.titled(f"Listing preferred owners for resource group '{name}':", lines), data=owners)


def _transition(invocation: Invocation, session: Session, name: str) -> Screen:
    action = invocation.action
    to = action.argument or None
    where = f" to node '{to}'" if to else ""
    match action.name:
        case "moveto":
            limit_s = common.limit_of(invocation, MOVE_WAIT_S)
            session.progress(f"Moving resource group '{name}'{where}...\n")
            session.change("Group", "move", name, to)
        case "online":
            limit_s = common.limit_of(invocation, ONLINE_WAIT_S)
            session.progress(f"Bringing resource group '{name}' online{f' on node {to!r}' if to else ''}...\n")
            session.change("Group", "online", name, to)
        case _:
            limit_s = common.limit_of(invocation, ONLINE_WAIT_S)
            session.progress(f"Taking resource group '{name}' offline...\n")
            session.change("Group", "offline", name)

    def look() -> tuple[Progress, str]:
        group = common.single(session.call("Group", "status", name))
        progress = _offline_progress(group) if action.name == "offline" else _settled_progress(group)
        return progress, _failures(session, group) if group["failed"] else _sentence(group)

    return common.settled(session, look, lambda: _table(session, name), limit_s)


def _all(invocation: Invocation, session: Session) -> Screen:
    """Every group with resources, in as few steps of the log as they fit into."""
    method = invocation.action.name
    wanted = [group["name"] for group in session.call("Group", "status") if group["resources"]]
    limit_s = common.limit_of(invocation, ONLINE_WAIT_S)
    verb = "Bringing" if method == "online" else "Taking"
    session.progress(f"{verb} {len(wanted)} resource groups {method}...\n")
    session.change_many([("Group", method, name) for name in wanted])

    def look() -> tuple[Progress, str]:
        groups = [group for group in session.call("Group", "status") if group["name"] in set(wanted)]
        found = [(_offline_progress if method == "offline" else _settled_progress)(group) for group in groups]
        open_ = [group["name"] for group, one in zip(groups, found, strict=True) if one is not Progress.DONE]
        said = f"{len(open_)} of {len(groups)} groups are not {method} yet, {', '.join(open_[:5])} among them."
        return next((one for one in (Progress.PENDING, Progress.FAILED) if one in found), Progress.DONE), said

    return common.settled(session, look, lambda: status(session, None, None), limit_s)


def _offline_progress(group: Mapping[str, Any]) -> Progress:
    return Progress.DONE if group["state"] == "Offline" else Progress.PENDING


def _settled_progress(group: Mapping[str, Any]) -> Progress:
    """Whether everything that is wanted online is, on the node where the group is to be."""
    if group["moving"] or group["pending"]:
        return Progress.PENDING
    if group["failed"]:
        return Progress.FAILED
    if group["halted"] or group["online"] >= group["wanted"]:
        return Progress.DONE
    return Progress.PENDING


def _failures(session: Session, group: Mapping[str, Any]) -> str:
    """What failed in the group, and why."""
    shown = session.call("Resource", "status")
    why = {row["name"]: row["detail"] for one in shown for row in (one, *one["instances"])}
    failed = [f"{name} ({why[name]})" if why.get(name) else name for name in group["failed"]]
    return f"In group '{group['name']}' on {group['node']} failed: {', '.join(failed)}."


def _sentence(group: Mapping[str, Any]) -> str:
    if group["moving"]:
        target = f" to {group['moving_to']}" if group["moving_to"] else ""
        return f"Group '{group['name']}' is still moving{target} ({group['because'] or 'waiting for its owner'})."
    return f"Group '{group['name']}' on {group['node']} is still {group['state']}."


def _table(session: Session, name: str) -> Screen:
    groups = session.call("Group", "status", name)
    return Screen(text="\n".join(_lines(groups)), data=groups)


def _lines(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """The table: a row for each group, and below a parallel one a row for each of its instances."""
    rows = [row for group in groups for row in (group, *group["instances"])]
    return render.GROUPS.lines((row["name"], row["node"], row["state"]) for row in rows)

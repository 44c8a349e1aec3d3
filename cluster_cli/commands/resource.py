"""``cluster res``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster_cli import render
from cluster_cli.commands import common
from cluster_cli.render import Screen
from cluster_cli.session import Failed, Progress, Session
from cluster_cli.syntax import Invocation

WAIT_S = 10.0
"""How long online and offline wait without ``/wait`` (cluster.exe)."""


def run(invocation: Invocation, session: Session) -> Screen:
    """Do what the command says."""
    name = invocation.name or ""
    action = invocation.action
    node = invocation.argument("node")
    if node and action.name in ("online", "offline", "fail"):
        name = session.call("Resource", "instance", name, node)
    argument = action.argument or ""
    match action.name:
        case "status":
            return status(session, invocation.name, invocation.argument("node"))
        case "properties" | "privproperties":
            return common.properties(invocation, session, "resource")
        case "create":
            return _create(invocation, session, name)
        case "delete":
            session.progress(f"Deleting resource '{name}'...")
            session.change("Resource", "delete", name)
            return common.done("")
        case "rename":
            session.change("Resource", "rename", name, argument)
            return _table(session, argument)
        case "moveto":
            session.progress(f"Moving resource '{name}' to group '{argument}'...\n")
            session.change("Resource", "move", name, argument)
            return _table(session, name)
        case "online" | "offline":
            return _transition(invocation, session, name)
        case "fail":
            session.progress(f"Failing resource '{name}'...\n")
            session.change("Resource", "fail", name)
            return _table(session, name)
        case "listdependencies":
            return _dependencies(session, name)
        case "adddependency":
            session.progress(f"Making resource '{name}' depend on resource '{argument}'...\n")
            session.change("Resource", "add_dependency", name, argument)
            return _dependencies(session, name)
        case "removedependency":
            session.progress(f"Removing the dependency of resource '{name}' on resource '{argument}'...\n")
            session.change("Resource", "remove_dependency", name, argument)
            return _dependencies(session, name)
        case "listowners":
            return _owners(session, name)
        case "addowner":
            session.change("Resource", "add_owner", name, argument)
            return _owners(session, name)
        case "removeowner":
            session.change("Resource", "remove_owner", name, argument)
            return _owners(session, name)
    raise Failed(87, f"/{action.name} is not done by 'cluster resource'.", "bad-argument")


def status(session: Session, name: str | None, node: str | None) -> Screen:
    """The status table."""
    screen = _table(session, name, node)
    for one in (row for shown in screen.data for row in shown["instances"] or (shown,)):
        if one["state"] == "Failed" and one["detail"]:
            session.remark(f"Resource '{one['name']}' failed on {one['node']}: {one['detail']}.")
    whom = f"resource '{screen.data[0]['name']}'" if name and screen.data else "all available resources"
    where = f" on node '{node}'" if node else ""
    return Screen(text=render.titled(f"Listing status for {whom}{where}:", [screen.text]), data=screen.data)


def _create(invocation: Invocation, session: Session, name: str) -> Screen:
    group, type_ = invocation.argument("group"), invocation.argument("type")
    if not group or not type_:
        missing = "/group:GROUP" if not group else "/type:TYPE"
        raise Failed(87, f"/create needs {missing}: cluster res NAME /create /group:GROUP /type:TYPE.", "bad-argument")
    common_, private = invocation.find("properties"), invocation.find("privproperties")
    session.progress(f"Creating resource '{name}'...\n")
    session.change(
        "Resource",
        "create",
        name,
        type_,
        group,
        invocation.has("separate"),
        common.sent(common_.assignments) if common_ else [],
        common.sent(private.assignments) if private else [],
    )
    return _table(session, name)


def _transition(invocation: Invocation, session: Session, name: str) -> Screen:
    limit_s = common.limit_of(invocation, WAIT_S)
    wanted = "Online" if invocation.action.name == "online" else "Offline"
    if wanted == "Online":
        session.progress(f"Bringing resource '{name}' online...\n")
        session.change("Resource", "online", name)
    else:
        session.progress(f"Taking resource '{name}' offline...\n")
        session.change("Resource", "offline", name)

    def look() -> tuple[Progress, str]:
        resource = common.single(session.call("Resource", "status", name))
        state, detail = resource["state"], f" ({resource['detail']})" if resource["detail"] else ""
        sentence = f"Resource '{resource['name']}' on {resource['node']} is {state}{detail}."
        if state == wanted:
            return Progress.DONE, sentence
        if state == "Failed" and not resource["moving"]:
            return Progress.FAILED, sentence
        return Progress.PENDING, sentence

    return common.settled(session, look, lambda: _table(session, name), limit_s)


def _dependencies(session: Session, name: str) -> Screen:
    providers = session.call("Resource", "dependencies", name)
    lines = _lines(providers)
    return Screen(text=render.titled(f"Listing dependencies for resource '{name}':", lines), data=providers)


def _owners(session: Session, name: str) -> Screen:
    owners = session.call("Resource", "owners", name)
    lines = render.owner_lines("Possible Owner Nodes", owners)
    return Screen(text=render.titled(f"Listing possible owners for resource '{name}':", lines), data=owners)


def _table(session: Session, name: str | None, node: str | None = None) -> Screen:
    resources = session.call("Resource", "status", name, node)
    return Screen(text="\n".join(_lines(resources)), data=resources)


def _lines(resources: Iterable[Mapping[str, Any]]) -> list[str]:
    """The table: a row for each resource, and below one of a parallel group a row for each of its instances."""
    rows = [row for one in resources for row in (one, *one["instances"])]
    return render.RESOURCES.lines((row["name"], row["group"], row["node"], row["state"]) for row in rows)

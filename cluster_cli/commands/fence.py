"""``cluster fence``."""

from __future__ import annotations

from cluster_cli import render
from cluster_cli.commands import common
from cluster_cli.render import Screen
from cluster_cli.session import Failed, Session
from cluster_cli.syntax import Invocation


def run(invocation: Invocation, session: Session) -> Screen:
    """Do what the command says."""
    name = invocation.name or ""
    action = invocation.action
    match action.name:
        case "status":
            screen = _table(session, invocation.name)
            whom = f"fence device '{screen.data[0]['name']}'" if name else "all fence devices"
            return Screen(text=render.titled(f"Listing {whom}:", [screen.text]), data=screen.data)
        case "properties" | "privproperties":
            return common.properties(invocation, session, "fence")
        case "create":
            return _create(invocation, session, name)
        case "delete":
            session.progress(f"Deleting fence device '{name}'...")
            session.change("Fence", "delete", name)
            return common.done("")
        case "test":
            return _test(session, name)
    raise Failed(87, f"/{action.name} is not done by 'cluster fence'.", "bad-argument")


def _create(invocation: Invocation, session: Session, name: str) -> Screen:
    node, agent = invocation.argument("node"), invocation.argument("agent")
    if not node or not agent:
        missing = "/node:NODE" if not node else "/agent:AGENT"
        example = f"cluster fence {name} /create /node:NODE /agent:AGENT /priv NAME=VALUE ..."
        raise Failed(87, f"/create needs {missing}: {example}", "bad-argument")
    common_, private = invocation.find("properties"), invocation.find("privproperties")
    session.progress(f"Creating fence device '{name}'...\n")
    session.change(
        "Fence",
        "create",
        name,
        node,
        agent,
        common.sent(common_.assignments) if common_ else [],
        common.sent(private.assignments) if private else [],
    )
    return _table(session, name)


def _test(session: Session, name: str) -> Screen:
    """Ask the device; it may take as long as its time-out."""
    session.progress(f"Asking fence device '{name}'...\n")
    found = session.call("Fence", "test", name)
    if found["problem"]:
        raise Failed(1, f"Fence device '{found['name']}' does not work: {found['problem']}.", "fence-failed")
    return Screen(text=f"Fence device '{found['name']}' answers to node '{found['from']}'.", data=found)


def _table(session: Session, name: str | None) -> Screen:
    devices = session.call("Fence", "status", name)
    lines = render.FENCES.lines(
        (one["name"], one["node"], one["agent"], one["action"], one["order"]) for one in devices
    )
    return Screen(text="\n".join(lines), data=devices)

"""``cluster network`` and ``cluster netinterface``."""

from __future__ import annotations

from typing import Any

from cluster_cli import render
from cluster_cli.commands import common
from cluster_cli.render import Screen
from cluster_cli.session import Failed, Session
from cluster_cli.syntax import Invocation


def run(invocation: Invocation, session: Session) -> Screen:
    """Do what the command says."""
    if invocation.object == "netinterface":
        return _net_interface(invocation, session)
    name = invocation.name
    action = invocation.action
    match action.name:
        case "status":
            screen = _table(session, name)
            whom = f"network '{screen.data[0]['name']}'" if name else "all available networks"
            return Screen(text=render.titled(f"Listing status for {whom}:", [screen.text]), data=screen.data)
        case "listinterfaces":
            found = session.call("Network", "interfaces", name)
            whom = f"network interfaces on network '{name}'" if name else "all network interfaces"
            return _interfaces(session, whom, found)
        case "properties" | "privproperties":
            return common.properties(invocation, session, "network")
        case "rename":
            session.change("Network", "rename", name, action.argument)
            return _table(session, action.argument)
    raise Failed(87, f"/{action.name} is not done by 'cluster network'.", "bad-argument")


def _net_interface(invocation: Invocation, session: Session) -> Screen:
    node, network = invocation.argument("node"), invocation.argument("network")
    if invocation.action.name == "properties":
        lines = session.call("NetInterface", "properties", node, network)
        title = f"Listing properties for {_whom(node, network)}:"
        return Screen(text=render.titled(title, render.property_lines("netinterface", lines, "")), data=lines)
    return interfaces(session, node, network)


def interfaces(session: Session, node: str | None, network: str | None = None) -> Screen:
    """The interfaces of one node, on one network, or all."""
    return _interfaces(session, _whom(node, network), session.call("NetInterface", "status", node, network))


def _whom(node: str | None, network: str | None) -> str:
    if not node and not network:
        return "all network interfaces"
    of = f" of node '{node}'" if node else ""
    on = f" on network '{network}'" if network else ""
    return f"network interfaces{of}{on}"


def _interfaces(session: Session, whom: str, found: list[dict[str, Any]]) -> Screen:
    for one in found:
        if one["because"]:
            session.remark(f"{one['name']} has failed: {one['because']}.")
    lines = render.INTERFACES.lines((one["node"], one["network"], one["address"], one["state"]) for one in found)
    return Screen(text=render.titled(f"Listing status for {whom}:", lines), data=found)


def _table(session: Session, name: str | None) -> Screen:
    networks = session.call("Network", "status", name)
    lines = render.NETWORKS.lines((one["name"], one["state"]) for one in networks)
    return Screen(text="\n".join(lines), data=networks)

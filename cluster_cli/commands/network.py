"""``cluster net`` and ``cluster netint``."""

from __future__ import annotations

from cluster_cli import render
from cluster_cli.render import Screen
from cluster_cli.session import Session
from cluster_cli.syntax import Invocation


def run(invocation: Invocation, session: Session) -> Screen:
    """Do what the command says."""
    if invocation.object == "netinterface":
        return interfaces(session, invocation.argument("node"))
    networks = session.call("Network", "status", invocation.name)
    lines = render.NETWORKS.lines((one["name"], one["state"]) for one in networks)
    whom = f"network '{networks[0]['name']}'" if invocation.name else "all available networks"
    return Screen(text=render.titled(f"Listing status for {whom}:", lines), data=networks)


def interfaces(session: Session, node: str | None) -> Screen:
    """The interfaces of one node or of all."""
    found = session.call("NetInterface", "status", node)
    lines = render.INTERFACES.lines((one["node"], one["network"], one["address"], one["state"]) for one in found)
    whom = f"network interfaces of node '{node}'" if node else "all network interfaces"
    return Screen(text=render.titled(f"Listing status for {whom}:", lines), data=found)

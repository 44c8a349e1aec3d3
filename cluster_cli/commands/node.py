"""``cluster node``."""

from __future__ import annotations

import os
import socket
import subprocess

from clussvc.model.errors import ClusterError
from cluster_cli import render
from cluster_cli.commands import common, network
from cluster_cli.render import Screen
from cluster_cli.session import Failed, Progress, Session
from cluster_cli.syntax import Invocation

START_COMMAND = "clussvc run"


def run(invocation: Invocation, session: Session) -> Screen:
    """Do what the command says."""
    name = invocation.name
    action = invocation.action
    match action.name:
        case "status":
            return status(session, name)
        case "properties" | "privproperties":
            return common.properties(invocation, session, "node")
        case "pause":
            session.progress(f"Pausing node '{_known(session, name)}'...\n")
            session.change("Node", "pause", name)
            return _table(session, _known(session, name))
        case "resume":
            session.progress(f"Resuming node '{_known(session, name)}'...\n")
            session.change("Node", "resume", name)
            return _table(session, _known(session, name))
        case "start":
            return _start(invocation, session)
        case "stop":
            return _stop(invocation, session)
        case "evict":
            known = _known(session, name)
            session.progress(f"Evicting node '{known}'...")
            session.change("Node", "evict", known)
            return common.done(f"Node '{known}' leaves the cluster as soon as the nodes that are up agree.")
        case "forcecleanup":
            return _force_cleanup(invocation, session)
        case "confirmdown":
            session.change("Node", "confirm_down", name)
            return _table(session, name)
        case "fence":
            session.progress(f"Fencing node '{_known(session, name)}'...\n")
            session.change("Node", "fence", name)
            return _table(session, name)
        case "clearquarantine":
            session.change("Node", "clear_quarantine", name)
            return _table(session, name)
        case "listinterfaces":
            return network.interfaces(session, _known(session, name))
    raise Failed(87, f"/{action.name} is not done by 'cluster node'.", "bad-argument")


def status(session: Session, name: str | None) -> Screen:
    """The status table."""
    screen = _table(session, name)
    for node in screen.data:
        for shortcoming in node.get("shortcomings", ()):
            session.remark(f"On node {node['name']} {shortcoming}.")
        for note in node.get("notes", ()):
            session.remark(f"{note}.")
    whom = f"node '{screen.data[0]['name']}'" if name else "all available nodes"
    return Screen(text=render.titled(f"Listing status for {whom}:", [screen.text]), data=screen.data)


def _known(session: Session, name: str | None) -> str:
    """The name of the node that is meant; a missing one means the node that answers."""
    return name or str(session.call("Node", "local")["name"])


def _table(session: Session, name: str | None) -> Screen:
    nodes = session.call("Node", "status", name)
    lines = render.NODES.lines((node["name"], node["id"], node["state"]) for node in nodes)
    return Screen(text="\n".join(lines), data=nodes)


def _stop(invocation: Invocation, session: Session) -> Screen:
    local = str(session.call("Node", "local")["name"])
    name = invocation.name or local
    session.progress(f"Stopping the cluster service on node '{name}'...\n")
    session.change("Node", "stop", name)
    if not invocation.has("wait"):
        return common.done(f"Node '{name}' hands its groups over and stops its cluster service.")
    mine = name.casefold() == local.casefold()

    def look() -> tuple[Progress, str]:
        try:
            node = common.single(session.call("Node", "status", name))
        except ClusterError as problem:
            if mine and problem.code in ("connection-lost", "service-not-running", "cannot-connect"):
                return Progress.DONE, ""  # The service that we asked was the one to stop.
            raise
        return (Progress.DONE if node["state"] == "Down" else Progress.PENDING), f"Node '{name}' is {node['state']}."

    ended = False

    def observe() -> tuple[Progress, str]:
        nonlocal ended
        progress, why = look()
        ended = progress is Progress.DONE
        return progress, why

    def show() -> Screen:
        return common.done(f"The cluster service on node '{name}' {'has stopped' if ended else 'is stopping'}.")

    return common.settled(session, observe, show, common.limit_of(invocation, None))


def _start(invocation: Invocation, session: Session) -> Screen:
    """Start the service of this machine: that of another one cannot be reached, since it does not run."""
    name = invocation.name
    here = {socket.gethostname().casefold(), socket.gethostname().split(".")[0].casefold()}
    try:
        running = str(session.call("Node", "local")["name"])
    except ClusterError as problem:
        if problem.code != "service-not-running":
            raise
        running = ""
    if running and (name is None or name.casefold() == running.casefold()):
        raise Failed(5061, f"The cluster service on node '{running}' is already running.", "node-already-up")
    if running or (name is not None and name.casefold() not in here):
        raise Failed(
            5050,
            f"The cluster service of node '{name}' can only be started on that machine:"
            f" run 'systemctl start clussvc' or '{START_COMMAND}' there.",
            "start-elsewhere",
        )
    if not os.path.isdir("/run/systemd/system"):
        message = f"This machine does not run systemd; start the service with '{START_COMMAND}'."
        raise Failed(1058, message, "no-service-manager")
    session.progress("Starting the cluster service on this machine...")
    result = subprocess.run(["systemctl", "start", "clussvc"], check=False, capture_output=True, text=True, timeout=120)
    if result.returncode:
        raise Failed(1058, f"systemctl could not start clussvc: {result.stderr.strip()}", "start-failed")
    if not invocation.has("wait"):
        return common.done("The cluster service was started.")

    def look() -> tuple[Progress, str]:
        try:
            node = session.call("Node", "local")
        except ClusterError as problem:
            if problem.code not in ("connection-lost", "service-not-running"):
                raise
            return Progress.PENDING, "The cluster service does not answer yet."
        up = node["state"] in ("Up", "Paused")
        return (Progress.DONE if up else Progress.PENDING), f"Node '{node['name']}' is {node['state']}."

    return common.settled(session, look, lambda: _table(session, None), common.limit_of(invocation, None))


def _force_cleanup(invocation: Invocation, session: Session) -> Screen:
    """Done by the service's own program on this machine, which looks itself whether a service runs."""
    if invocation.cluster is not None:
        raise Failed(
            5050,
            "A node is cleaned up on that machine itself: give 'cluster node /forcecleanup' there.",
            "clean-elsewhere",
        )
    try:
        running = str(session.call("Node", "local")["name"])
    except ClusterError as problem:
        if problem.code not in ("service-not-running", "connection-lost"):
            raise
        running = ""
    if running:
        raise Failed(
            5061,
            f"The cluster service on node '{running}' is running, so nothing was removed. Stop it first:"
            f" cluster node {running} /stop; to have the cluster forget a node, /evict it.",
            "node-already-up",
        )
    limit_s = common.limit_of(invocation, common.WAIT_FOR_MONITORS_S)
    words = ["forcecleanup", "--wait", f"{common.WAIT_S_MAX if limit_s is None else limit_s:g}"]
    if invocation.name:
        words += ["--node", invocation.name]
    lines = common.service_program(words, quiet=True)
    return common.done("\n".join(lines), {"done": lines})

"""``cluster`` itself: creation, joining, properties, quorum, versions, certificates."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from clussvc.admin.client import CERTIFICATE_FILES, certificate_folder, default_socket
from clussvc.model.errors import ClusterError
from cluster_cli import render
from cluster_cli.commands import common
from cluster_cli.render import Screen
from cluster_cli.session import Failed, Session
from cluster_cli.syntax import Invocation, split_list

TOKEN_VALID_S = 3_600
TOKENS_MAX = 16
"""Tokens of one command."""


def run(invocation: Invocation, session: Session) -> Screen:
    """Do what the command says."""
    if invocation.object == "admincert":
        return _admin_certificate(invocation, session)
    action = invocation.action
    match action.name:
        case "status":
            return _status(session)
        case "create":
            return _create(invocation)
        case "join":
            return _join(invocation, action.argument or "")
        case "addnodes":
            return _add_nodes(invocation, session)
        case "rename":
            session.change("Cluster", "rename", action.argument)
            return common.done(f"The cluster is now called '{action.argument}'.")
        case "version":
            return _version(session)
        case "list":
            return _list(session)
        case "quorumresource":
            return _quorum(invocation, session)
        case "listnetpriority":
            return _network_priorities(session)
        case "setnetpriority":
            session.change("Network", "set_priorities", list(split_list(action.argument or "")))
            return _network_priorities(session)
        case "properties" | "privproperties":
            return common.properties(invocation, session, "cluster")
    raise Failed(87, f"/{action.name} is not done by 'cluster'.", "bad-argument")


def _network_priorities(session: Session) -> Screen:
    names = session.call("Network", "priorities")
    lines = render.owner_lines("Internal Networks", names)
    return Screen(text=render.titled("Listing the internal networks in the order of their use:", lines), data=names)


def _status(session: Session) -> Screen:
    data = session.call("Cluster", "status")
    quorum = "holds quorum" if data["holds_quorum"] else "does NOT hold quorum"
    lines = render.key_lines(
        [
            ("Cluster", data["name"]),
            ("Asked node", f"{data['node']} ({data['phase']}; {quorum})"),
            ("Votes", f"{data['votes_held']} held, {data['votes_needed']} needed"),
            ("Coordinator", data["coordinator"] or "(none known)"),
            ("Timing", data["timing_profile"]),
            ("Objects", f"{data['nodes']} nodes, {data['groups']} groups, {data['resources']} resources"),
        ]
    )
    return Screen(text=render.titled(f"Listing status for cluster '{data['name']}':", lines), data=data)


def _version(session: Session) -> Screen:
    data = session.call("Cluster", "version")
    lines = render.key_lines(
        [("Cluster Name", data["cluster"]), ("Cluster Version", data["version"]), ("Answered by node", data["node"])]
    )
    return Screen(text="\n".join(lines), data=data)


QUORUMS: Final = {
    "majority": "majority node set",
    "mns": "majority node set",
    "majority node set": "majority node set",
    "local": "local quorum",
    "local quorum": "local quorum",
    "disk": "quorum disk",
    "quorum disk": "quorum disk",
    "physical disk": "quorum disk",
}
"""What an administrator may call them; another word is the place of a quorum disk."""


def _quorum(invocation: Invocation, session: Session) -> Screen:
    wanted, size = invocation.argument("quorumresource"), invocation.argument("maxlogsize") or "0"
    hold = invocation.argument("hold") or "0"
    if not size.isdecimal():
        raise Failed(87, f"/maxlogsize:{size} is not a number of KB.", "bad-argument")
    if not hold.isdecimal() and hold.casefold() != "auto":
        raise Failed(87, f"/hold:{hold} is neither a number of milliseconds nor auto.", "bad-argument")
    hold_ms = int(hold) if hold.isdecimal() else -1
    path, force = invocation.argument("path") or "", invocation.has("force")
    witness = invocation.argument("witness")
    if witness is not None:
        session.change("Cluster", "set_witness", "" if witness.casefold() == "none" else witness, force)
    if invocation.has("renewlog"):
        session.change("Cluster", "renew_log")
    if wanted or path or int(size) or hold_ms:
        kind = QUORUMS.get((wanted or "").casefold())
        if wanted and kind is None and path:
            raise Failed(
                87, f"'{wanted}' is none of majority, local, disk; /path says where the disk is.", "bad-argument"
            )
        place = path or (wanted or "" if kind is None else "")
        session.change("Cluster", "set_quorum", kind or "", int(size), hold_ms, place, force)
    data = session.call("Cluster", "quorum")
    lines: list[tuple[str, object]] = [("Quorum Resource", data["type"])]
    if data["device"]:
        guard = "persistent reservations" if data["reservations"] else "the on-disk lease"
        if data["type"] != "Physical Disk":
            guard = f"the arbitration of {data['type']}"
        lines += [
            ("Device", data["device"]),
            ("Max Log Size", f"{data['max_log_kb']} KB"),
            ("Guarded by", guard),
            ("Hold", f"{data['hold_ms']} ms ({'set' if data['hold_is_set'] else 'by the timing profile'})"),
            ("Owner", data["coordinator"] or "(none known)"),
        ]
    else:
        lines += [
            ("Voting nodes", ", ".join(data["voters"])),
            ("Votes needed", data["votes_needed"]),
            ("Votes held", f"{data['votes_held']} (as the asked node sees it)"),
            ("Coordinator", data["coordinator"] or "(none known)"),
        ]
        lines += _tie_breakers(data)
    return Screen(text=render.titled("Listing the quorum:", render.key_lines(lines)), data=data)


def _tie_breakers(data: Any) -> list[tuple[str, object]]:
    """What the votes rest on besides the nodes that have one; nothing in a cluster without such things."""
    lines: list[tuple[str, object]] = []
    if data["without_vote"]:
        lines.append(("Without a vote", ", ".join(data["without_vote"])))
    if data["dynamic_votes"]:
        lines.append(("Dynamic votes", "on"))
    if data["witness"]:
        trouble = data["witness_trouble"]
        reached = "not looked at yet" if trouble is None else trouble or "reached"
        state = "breaks a tie" if data["witness_open"] else "waits"
        if len(data["voters"]) % 2:
            state = "not needed with an odd number of votes"
        lines += [
            ("Witness", data["witness"]),
            ("Witness state", state),
            (f"Seen by {data['asked_node']}", reached),
        ]
    return lines


def _list(session: Session) -> Screen:
    """The cluster of this machine, and those that there are certificate folders for."""
    found = []
    try:
        found.append({"name": session.call("Cluster", "version")["cluster"], "through": default_socket()})
    except ClusterError as problem:
        if problem.code not in ("service-not-running", "access-denied"):
            raise
    base = certificate_folder("x").parent if not os.environ.get("CLUSSVC_CERTS") else Path(os.environ["CLUSSVC_CERTS"])
    if base.is_dir():
        folders = sorted(path for path in base.iterdir() if (path / CERTIFICATE_FILES["addresses"]).is_file())
        found.extend({"name": path.name, "through": str(path)} for path in folders)
    lines = [f"{one['name']:<20} {one['through']}" for one in found]
    return Screen(text=render.titled("Listing clusters that can be reached from here:", lines), data=found)


def _place(invocation: Invocation) -> list[str]:
    """How this machine takes part, for the service's own command line."""
    words: list[str] = []
    address = invocation.argument("ipaddress")
    if address:
        # cluster.exe gives mask and connection as well; here the system knows the mask, and the network by its address.
        words += ["--address", split_list(address)[0]]
    for option in ("node", "port", "profile"):
        value = invocation.argument(option)
        if value:
            words += [f"--{option}", value]
    return words


def _create(invocation: Invocation) -> Screen:
    name = invocation.cluster
    if not name:
        raise Failed(87, "/create needs the name of the new cluster: cluster NAME /create /ipaddr:IP.", "bad-argument")
    if not invocation.argument("ipaddress"):
        raise Failed(87, "/create needs /ipaddr:IP, the address of this machine for the other nodes.", "bad-argument")
    words = ["create", "--cluster", name, *_place(invocation)]
    for option, meant in (("quorumresource", "--quorum"), ("maxlogsize", "--max-log-size")):
        value = invocation.argument(option)
        if value:
            words += [meant, value]
    return _service([*words, *(["--force"] if invocation.has("force") else [])], "create", name)


def _join(invocation: Invocation, token: str) -> Screen:
    if not invocation.argument("ipaddress"):
        raise Failed(87, "/join needs /ipaddr:IP, the address of this machine for the other nodes.", "bad-argument")
    if invocation.has("profile"):
        raise Failed(87, "/profile belongs to /create; a node that joins uses the cluster's timing.", "bad-argument")
    return _service(["join", token, *_place(invocation)], "join", "this machine")


def _service(words: list[str], what: str, whom: str) -> Screen:
    common.service_program(words)
    return common.done(f"'clussvc {what}' finished for {whom[:40]}.")


def _add_nodes(invocation: Invocation, session: Session) -> Screen:
    names = [name for name in split_list(invocation.action.argument or "") if name] or [""]
    if len(names) > TOKENS_MAX:
        raise Failed(87, f"{len(names)} nodes were named; {TOKENS_MAX} can be added at once.", "bad-argument")
    valid = invocation.argument("validfor") or str(TOKEN_VALID_S)
    if not valid.isdecimal():
        raise Failed(87, f"/validfor:{valid} is not a number of seconds.", "bad-argument")
    made = []
    for name in names:
        token = session.call("Cluster", "make_join_token", name, int(valid))
        made.append({"node": name or None, "token": token, "valid_s": int(valid)})
    lines = []
    for one in made:
        lines.append(f"On {one['node'] or 'the new machine'}, within {_duration(int(valid))}:")
        lines.append(
            f"  cluster /join:{one['token']}"
            + (f" /node:{one['node']}" if one["node"] else "")
            + " /ipaddr:ITS-ADDRESS"
        )
    return Screen(text="\n".join(lines), data=made)


def _duration(seconds: int) -> str:
    return f"{seconds} seconds" if seconds < 120 else f"{seconds // 60} minutes"


def _admin_certificate(invocation: Invocation, session: Session) -> Screen:
    name = invocation.name
    if not name:
        raise Failed(87, "Whose certificate? cluster admincert NAME /role:ROLE [/folder:FOLDER].", "bad-argument")
    made = session.call("Cluster", "make_admin_certificate", name, invocation.argument("role") or "read-only")
    given = invocation.argument("folder")
    folder = Path(given) if given else certificate_folder(made["cluster"])
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for key, file in CERTIFICATE_FILES.items():
            _write_private(folder / file, made[key])
    except OSError as problem:
        raise Failed(5, f"The certificate could not be written into {folder}: {problem}.", "cannot-write") from problem
    data = {"folder": str(folder), "cluster": made["cluster"], "name": name}
    return Screen(text=f"The certificate of '{name}' for cluster '{made['cluster']}' is in {folder}.", data=data)


def _write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, never with wider rights in between."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)

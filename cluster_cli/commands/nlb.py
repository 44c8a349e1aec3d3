"""What the program ``nlb`` does: control, queries, and the work of the manager.

The screens have the forms of nlb.exe where these are known: a block for each cluster, headed ``Cluster a.b.c.d``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from clussvc.admin.client import CommandRefused, connect
from clussvc.model.errors import ClusterError
from cluster_cli import render
from cluster_cli.nlb_syntax import NlbInvocation
from cluster_cli.render import Screen
from cluster_cli.session import Failed, Session

OK, ALREADY, DRAIN_STOP, BAD_PARAMS, NOT_FOUND = 1000, 1001, 1002, 1003, 1004
STOPPED, CONVERGING, CONVERGED, DEFAULT, DRAINING, SUSPENDED = 1005, 1006, 1007, 1008, 1009, 1013
DISCONNECTED = 1014
ATTEMPTS_MAX: Final = 5
"""How often a command is tried again that somebody else's command came in between."""
HOST_LIST_BYTES_MAX: Final = 1 << 20
HOST_LIST_LINES_MAX: Final = 1_000

_DONE_WORDS: Final = {
    ("start", OK): "started",
    ("start", ALREADY): "is started already",
    ("start", DRAIN_STOP): "started; its draining has been ended",
    ("stop", OK): "stopped",
    ("stop", ALREADY): "is stopped already",
    ("stop", DRAIN_STOP): "stopped; its draining has been ended",
    ("drainstop", OK): "drains, then stops",
    ("drainstop", ALREADY): "is draining already",
    ("suspend", OK): "suspended",
    ("suspend", ALREADY): "is suspended already",
    ("suspend", DRAIN_STOP): "suspended; its draining has been ended",
    ("resume", OK): "accepts control commands again, and is stopped",
    ("resume", ALREADY): "accepts control commands already",
    ("enable", OK): "handles these port rules",
    ("enable", ALREADY): "handles these port rules already",
    ("disable", OK): "does not handle these port rules any more",
    ("disable", ALREADY): "does not handle these port rules anyway",
    ("drain", OK): "takes no new connections of these port rules",
    ("drain", ALREADY): "is draining these port rules already",
}
_FAILED_WORDS: Final = {
    BAD_PARAMS: "has bad parameters; 'nlb diagnose' names them",
    NOT_FOUND: "has no port rule with that port",
    STOPPED: "is stopped; start it first ('nlb start')",
    DRAINING: "is draining to stop; start it first ('nlb start')",
    SUSPENDED: "is suspended and accepts only 'nlb resume' and 'nlb query'",
}

_WISH_WORDS: Final = {"start": "started", "stop": "stopped", "drainstop": "draining", "suspend": "suspended"}

_QUERY_STATUS: Final = {
    "converged": CONVERGED,
    "default": DEFAULT,
    "converging": CONVERGING,
    "draining": DRAINING,
    "suspended": SUSPENDED,
    "disconnected": DISCONNECTED,
}
"""The published status for each state of a host; every other one is STOPPED."""


def run(invocation: NlbInvocation, session: Session) -> Screen:
    """Do what the command says."""
    command = invocation.command
    if command in ("start", "stop", "drainstop", "suspend", "resume", "enable", "disable", "drain"):
        return _control(invocation, session)
    return _OTHERS[command](invocation, session)


# --- control --------------------------------------------------------------------------------------------------------


def _control(invocation: NlbInvocation, session: Session) -> Screen:
    blocks, data, worst = [], [], 0
    for cluster in _clusters(invocation, session):
        answers = _command(invocation, session, cluster)
        lines = [_done_line(invocation.command, one) for one in answers]
        blocks.append("\n".join([f"Cluster {cluster['cluster_ip']}", *lines]))
        data.append({"cluster": cluster["cluster_ip"], "hosts": answers})
        worst = worst or next((one["status"] for one in answers if one["status"] not in (OK, ALREADY, DRAIN_STOP)), 0)
    return Screen(text="\n\n".join(blocks), data=data, status=worst)


def _command(invocation: NlbInvocation, session: Session, cluster: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What became of it on each host. Everything is decided on what was read; when that has changed, again."""
    words = (cluster["name"], invocation.command, _host(invocation, cluster), invocation.ports.text())
    attempt = 1
    while True:
        answers: list[dict[str, Any]] = session.call("Nlb", "judge", *words)
        if not any(one["status"] in (OK, DRAIN_STOP) for one in answers):
            return answers
        try:
            session.change("Nlb", "control", *words)
        except CommandRefused as refused:
            if refused.report.code != "property-changed" or attempt == ATTEMPTS_MAX:
                raise
            attempt += 1
            continue
        return answers


def _done_line(command: str, answer: Mapping[str, Any]) -> str:
    status = answer["status"]
    words = _DONE_WORDS.get((command, status)) or _FAILED_WORDS[status]
    return f"Host {answer['id']} ({answer['node']}) {words}."


def _host(invocation: NlbInvocation, cluster: Mapping[str, Any]) -> str:
    """The host that a command is for; empty: all of the cluster."""
    scope = invocation.scope
    if scope.host is not None:
        return scope.host
    if "local" in invocation.options or (scope.cluster is None and not scope.everywhere):
        return str(cluster["here"])
    return ""


def _clusters(invocation: NlbInvocation, session: Session) -> list[dict[str, Any]]:
    """The clusters that are meant; with none in particular, those in which the answering node is a host."""
    named = invocation.scope.cluster or (invocation.words[0] if invocation.words else None)
    found: list[dict[str, Any]] = session.call("Nlb", "clusters", named)
    if named is None:
        mine = [one for one in found if any(host["node"] == one["here"] for host in one["hosts"])]
        if not mine:
            names = ", ".join(f"{one['cluster_ip']} ({one['name']})" for one in found)
            way = f"name one of: {names}" if names else "'nlb create' makes one"
            here = f"{found[0]['here']} is not a host of any load-balanced cluster" if found else "There is none"
            raise Failed(1005, f"{here}; {way}.", "no-balanced-cluster")
        return mine
    return found


# --- queries --------------------------------------------------------------------------------------------------------


def _query(invocation: NlbInvocation, session: Session) -> Screen:
    blocks, data, status = [], [], 0
    for cluster in _clusters(invocation, session):
        answer = session.call("Nlb", "status", cluster["name"])
        wanted = _host(invocation, cluster)
        hosts = [host for host in answer["hosts"] if not wanted or _is_host(host, wanted, answer)]
        if not hosts:
            raise Failed(NOT_FOUND, f"{cluster['cluster_ip']} has no host {wanted!r}.", "host-not-found")
        lines = [line for host in hosts for line in _state_lines(host)]
        if answer["detail"]:
            session.remark(answer["detail"])
        blocks.append("\n".join([f"Cluster {cluster['cluster_ip']}", *lines]))
        codes = [_QUERY_STATUS.get(host["state"], STOPPED) for host in hosts]
        data.append(answer | {"hosts": [host | {"status": code} for host, code in zip(hosts, codes, strict=True)]})
    return Screen(text="\n\n".join(blocks), data=data, status=status)


def _is_host(host: Mapping[str, Any], wanted: str, answer: Mapping[str, Any]) -> bool:
    if wanted == "0":
        return bool(host["id"] == answer["default_host"])
    return wanted.casefold() in (str(host["id"]), host["node"].casefold(), host["dip"].split("/")[0])


def _state_lines(host: Mapping[str, Any]) -> list[str]:
    who = f"Host {host['id']}"
    members = ", ".join(map(str, host["members"]))
    follows = "with the following host(s) as part of the cluster:"
    match host["state"]:
        case "default":
            return [f"{who} converged as DEFAULT {follows}", members]
        case "converged":
            return [f"{who} converged {follows}", members]
        case "converging":
            lines = []
            if host["entered"]:
                lines = [
                    f"{who} has entered a converging state {host['entered']} time(s) since joining the cluster",
                    "  and is still in a state of convergence.",
                ]
            reason = [f"  {host['because']}"] if host["because"] else []
            return [*lines, *reason, f"{who} converging {follows}", members]
        case "draining":
            return [f"{who} draining {follows}", members]
        case "suspended":
            return [f"{who} is suspended and takes no traffic."]
        case "stopped":
            return [f"{who} is stopped and does not know convergence status of the cluster."]
        case "disconnected":
            return [f"{who} has lost its link and takes no traffic."]
    return [f"{who} ({host['node']}) is unknown: {host['because'] or 'nothing has been heard of it'}."]


def _query_port(invocation: NlbInvocation, session: Session) -> Screen:
    blocks, data, status = [], [], 0
    for cluster in _clusters(invocation, session):
        answer = session.call("Nlb", "port_status", cluster["name"], invocation.ports.text())
        wanted = _host(invocation, cluster)
        lines = []
        for rule in answer["rules"]:
            lines.append(f"Retrieving state for port rule {rule['title']}")
            for host in rule["hosts"]:
                if wanted and not _is_host(host, wanted, answer):
                    continue
                share = "" if host["buckets"] is None else f", {host['buckets']} of {cluster['buckets']} buckets"
                lines.append(f"Host {host['id']}: rule is {host['state']}{share}")
                lines += [f"  {host['because']}"] if host["because"] else []
                lines += [f"  Packets: {_counted(host['packets'])}"] if host["packets"] else []
        if answer["packets"] and answer["rules"]:
            lines.append(f"Packets of all rules here: {_counted(answer['packets'])}")
        if not answer["rules"]:
            lines, status = [f"Port rule not found: no rule contains {invocation.ports.text()}"], NOT_FOUND
        blocks.append("\n".join([f"Cluster {cluster['cluster_ip']}", *lines]))
        data.append(answer)
    return Screen(text="\n\n".join(blocks), data=data, status=status)


def _counted(packets: Mapping[str, Any]) -> str:
    """In the form of the original."""
    return f"Accepted={packets['accepted']}, Dropped={packets['dropped']}"


def _packet_lines(packets: Mapping[str, Any] | None) -> list[str]:
    """By rule, and by reason where there are any."""
    if not packets:
        return ["Not known: the host does not run on this node."]
    rows = [*packets.get("by_rule", {}).items(), ("(all, those without a rule too)", packets)]
    lines = [f"{'Port rule':<40} {'Accepted':>12} {'Dropped':>12}", f"{'-' * 40} {'-' * 12} {'-' * 12}"]
    lines += [f"{title:<40} {counted['accepted']:>12} {counted['dropped']:>12}" for title, counted in rows]
    reasons = packets.get("by_reason", {})
    if reasons:
        lines += ["", f"{'Reason':<40} {'Packets':>12}", f"{'-' * 40} {'-' * 12}"]
        lines += [f"{reason:<40} {count:>12}" for reason, count in reasons.items()]
    return lines


def _params(invocation: NlbInvocation, session: Session) -> Screen:
    def block(cluster: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
        return [
            "Retrieving parameters",
            *_parameter_lines(answer["parameters"]),
            "",
            *_rule_lines(answer["rules"]),
            "",
            "Statistics:",
            "",
            f"{'Number of active connections':<36}= {_or_unknown(answer['statistics'].get('connections'))}",
            f"{'Number of descriptors allocated':<36}= {_or_unknown(answer['statistics'].get('descriptors'))}",
        ]

    return _local_blocks(invocation, session, "params", block)


def _display(invocation: NlbInvocation, session: Session) -> Screen:
    def block(cluster: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
        here = [host for host in answer["hosts"] if host["node"] == cluster["here"]]
        return [
            "=== Configuration: ===",
            "",
            *_parameter_lines(answer["parameters"]),
            "",
            *_rule_lines(answer["rules"]),
            "",
            "=== Event messages: ===",
            "",
            *(f"{render.utc(one['at_ms'])}  {one['id']:>3}  {one['text']}" for one in answer["events"]),
            "",
            "=== IP configuration: ===",
            "",
            *answer["addresses"],
            "",
            "=== Packets: ===",
            "",
            *_packet_lines(answer["packets"]),
            "",
            "=== Current state: ===",
            "",
            *(line for host in here for line in _state_lines(host)),
        ]

    return _local_blocks(invocation, session, "display", block)


def _local_blocks(
    invocation: NlbInvocation,
    session: Session,
    method: str,
    block: Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]],
) -> Screen:
    blocks, data = [], []
    for cluster in _clusters(invocation, session):
        answer = session.call("Nlb", method, cluster["name"])
        blocks.append("\n".join([f"Cluster {cluster['cluster_ip']}", *block(cluster, answer)]))
        data.append(answer)
    return Screen(text="\n\n".join(blocks), data=data)


def _parameter_lines(pairs: Iterable[Sequence[Any]]) -> list[str]:
    return [f"{name:<26}= {value}".rstrip() for name, value in pairs]


_RULE_HEADER: Final = (
    "      VIP       Start  End  Prot   Mode   Pri Load Affinity",
    "--------------- ----- ----- ---- -------- --- ---- --------",
)


def _rule_lines(rules: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"PortRules ({len(rules)}):", "", *_RULE_HEADER]
    for rule in rules:
        priority = rule["priority"] if rule["mode"] == "Single" else ""
        load = ("Eql" if rule["load"] is None else rule["load"]) if rule["mode"] == "Multiple" else ""
        affinity = rule["affinity"] if rule["mode"] == "Multiple" else ""
        lines.append(
            f"{rule['vip']:<15} {rule['start']:>5} {rule['end']:>5} {rule['protocol']:<4} {rule['mode']:<8}"
            f" {priority!s:>3} {load!s:>4} {affinity}".rstrip()
        )
    return lines


def _or_unknown(value: object) -> object:
    return "unknown (the host is stopped)" if value is None else value


def _reload(invocation: NlbInvocation, session: Session) -> Screen:
    def block(cluster: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
        if answer["in_use"]:
            return ["The parameters in use are those of the configuration; changes are taken over by themselves."]
        return [answer["because"]]

    return _local_blocks(invocation, session, "reload", block)


def _connections(invocation: NlbInvocation, session: Session) -> Screen:
    def block(cluster: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
        table = [
            f"{one['protocol']:<5} {one['client']:<47} {one['server']:<47} {one['state']}".rstrip()
            for one in answer["connections"]
        ]
        return [f"{answer['count']} connection(s) are tracked", *table]

    return _local_blocks(invocation, session, "connections", block)


def _history(invocation: NlbInvocation, session: Session) -> Screen:
    def block(cluster: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
        lines = [f"{render.utc(one['at_ms'])}  {one['state']:<12} {one['because']}".rstrip() for one in answer["steps"]]
        return lines or ["This node has not converged since it started."]

    return _local_blocks(invocation, session, "history", block)


def _explain(invocation: NlbInvocation, session: Session) -> Screen:
    cluster, protocol, client, server = invocation.words
    flags = invocation.options.get("flags", "")
    answer = session.call("Nlb", "explain", cluster, protocol, client, server, flags)
    text = "\n".join([f"Cluster {answer['cluster_ip']}", *answer["sentences"]])
    return Screen(text=text, data=answer)


def _ip2mac(invocation: NlbInvocation, session: Session) -> Screen:
    import ipaddress

    from clussvc.nlb.mac import OperationMode, cluster_mac, mac_text

    given = invocation.words[0]
    try:
        address = ipaddress.ip_address(given)
    except ValueError:
        raise Failed(87, f"{given!r} is not an address; give one such as 192.0.2.10.", "bad-argument") from None
    macs = {mode.value: mac_text(cluster_mac(mode, address)) for mode in OperationMode}
    lines = [
        f"{'Cluster:':<22}{address}",
        f"{'Unicast MAC:':<22}{macs['unicast']}",
        f"{'Multicast MAC:':<22}{macs['multicast']}",
        f"{'IGMP Multicast MAC:':<22}{macs['igmp']}",
    ]
    return Screen(text="\n".join(lines), data={"cluster": str(address), **macs})


# --- the manager ----------------------------------------------------------------------------------------------------


def _rule(invocation: NlbInvocation, session: Session) -> Screen:
    cluster, *rest = invocation.words
    if len(rest) == 1 or (rest and rest[0].casefold() not in ("add", "remove", "set")):
        raise Failed(87, f'After {cluster!r} write: add "RULE", remove "RULE" or set "RULE".', "bad-argument")
    if rest:
        options = invocation.options
        follows = (options.get("resource", ""), options.get("probe", ""))
        _again(session, "edit_rules", cluster, rest[0].casefold(), rest[1], *follows)
    answer = session.call("Nlb", "clusters", cluster)[0]
    lines = [f"Cluster {answer['cluster_ip']}", *_rule_lines(answer["rules"])]
    bound = [f"{one['title']} is bound to resource '{one['resource']}'" for one in answer["rules"] if one["resource"]]
    bound += [f"{one['title']} is probed: {one['probe']}" for one in answer["rules"] if one["probe"]]
    return Screen(text="\n".join([*lines, *([""] if bound else []), *bound]), data=answer)


def _weight(invocation: NlbInvocation, session: Session) -> Screen:
    _again(session, "set_weight", *invocation.words)
    return _hosts_screen(session, invocation.words[0])


def _add_host(invocation: NlbInvocation, session: Session) -> Screen:
    options = invocation.options
    _again(session, "add_host", *invocation.words, options.get("priority", ""), options.get("dip", ""))
    return _hosts_screen(session, invocation.words[0])


def _remove_host(invocation: NlbInvocation, session: Session) -> Screen:
    _again(session, "remove_host", *invocation.words)
    return _hosts_screen(session, invocation.words[0])


def _again(session: Session, method: str, *words: str) -> None:
    """A change that the service works out from what it reads; repeated when somebody else's change came between."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            session.change("Nlb", method, *words)
            return
        except CommandRefused as refused:
            if refused.report.code != "property-changed" or attempt == ATTEMPTS_MAX:
                raise
            time.sleep(0.05 * attempt)


def _hosts_screen(session: Session, cluster: str) -> Screen:
    answer = session.call("Nlb", "clusters", cluster)[0]
    lines = [f"Cluster {answer['cluster_ip']}"]
    for host in answer["hosts"]:
        extra = "".join(f" {name}={value}" for name, value in host["shares"])
        lines.append(
            f"Host {host['id']:<2} {host['node']:<15} {host['dip'] or '-':<18} {_WISH_WORDS[host['wish']]}{extra}"
        )
    return Screen(text="\n".join(lines), data=answer)


def _create(invocation: NlbInvocation, session: Session) -> Screen:
    name = invocation.words[0]
    options = invocation.options
    missing = [f"/{option}" for option in ("ip", "mask", "hosts") if not options.get(option)]
    if missing:
        raise Failed(87, f"'nlb create' needs {', '.join(missing)}; 'nlb help' shows the syntax.", "bad-argument")
    hosts = [host.strip() for host in options["hosts"].split(",") if host.strip()]
    group = options.get("group") or name
    known = {str(one["name"]).casefold() for one in session.call("Group", "status")}
    parameters = {
        "ClusterIPAddress": options["ip"],
        "ClusterNetworkMask": options["mask"],
        "OperationMode": options.get("mode") or "unicast",
        "ClusterName": options.get("fullname") or "",
        "Interface": options.get("interface") or "",
    }
    private = [_sent(key, [value]) for key, value in parameters.items() if value]
    private.append(_sent("HostParameters", [f"{host} priority={at}" for at, host in enumerate(hosts, start=1)]))
    rules = [rule for rule in invocation.repeated.get("rule", ()) if rule]
    if rules:
        private.append(_sent("PortRules", rules))
    changes: list[list[Any]] = []
    if group.casefold() not in known:
        changes.append(["Group", "create", group])
        changes.append(["Group", "set_properties", group, [_sent("GroupType", ["Parallel"])], []])
        changes.append(["Group", "set_owners", group, hosts])
    changes.append(["Resource", "create", name, "Network Load Balancing", group, False, [], private])
    everybody = [str(one["name"]) for one in session.call("Node", "status")]
    strangers = [node for node in everybody if node.casefold() not in {host.casefold() for host in hosts}]
    changes += [["Resource", "remove_owner", name, node] for node in strangers]
    session.change_many(changes)
    session.remark(f"'cluster group \"{group}\" /online' starts it.")
    return _hosts_screen(session, name)


def _sent(name: str, values: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "text": ",".join(values), "parts": list(values), "format": None}


def _diagnose(invocation: NlbInvocation, session: Session) -> Screen:
    blocks, data = [], []
    worst = 0
    named = invocation.scope.cluster
    for cluster in session.call("Nlb", "clusters", named):
        answer = session.call("Nlb", "diagnose", cluster["name"])
        findings = answer["findings"]
        lines = findings or ["Nothing is wrong, and the hosts do not differ."]
        worst = BAD_PARAMS if findings else worst
        blocks.append("\n".join([f"Cluster {cluster['cluster_ip']}", *lines]))
        data.append(answer)
    return Screen(text="\n\n".join(blocks) or "There is no load-balanced cluster.", data=data, status=worst)


def _host_list(invocation: NlbInvocation, session: Session) -> Screen:
    what, file = invocation.words
    if what.casefold() == "save":
        return _save_host_list(session, Path(file))
    if what.casefold() == "load":
        return _load_host_list(Path(file))
    raise Failed(87, f"{what!r} is neither save nor load.", "bad-argument")


def _save_host_list(session: Session, path: Path) -> Screen:
    addresses = session.call("Nlb", "host_list")
    try:
        path.write_text("".join(f"{address}\n" for address in addresses))
    except OSError as error:
        raise Failed(1, f"{path} cannot be written: {error.strerror}.", "file") from error
    return Screen(text=f"{len(addresses)} host(s) were written to {path}.", data=addresses)


def _load_host_list(path: Path) -> Screen:
    """Ask every host of the file; those that cannot be administered are shown with the reason."""
    try:
        with path.open("rb") as file:
            raw = file.read(HOST_LIST_BYTES_MAX + 1)
        text = raw.decode()
    except OSError as error:
        raise Failed(1, f"{path} cannot be read: {error.strerror}.", "file") from error
    except UnicodeDecodeError as error:
        raise Failed(87, f"{path} is not a text.", "bad-argument") from error
    targets = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(raw) > HOST_LIST_BYTES_MAX or len(targets) > HOST_LIST_LINES_MAX:
        raise Failed(87, f"{path} is too long; a host list has at most {HOST_LIST_LINES_MAX} lines.", "bad-argument")
    lines, data = [], []
    for target in targets:
        try:
            with connect(target) as client:
                found = client.call("Nlb", "clusters", None)
        except CommandRefused as refused:
            lines.append(f"{target}: {refused.report.message}")
            data.append({"target": target, "error": refused.report.message})
            continue
        except ClusterError as error:
            lines.append(f"{target}: {error.message}")
            data.append({"target": target, "error": error.message})
            continue
        names = ", ".join(f"{one['cluster_ip']} ({one['name']})" for one in found)
        here = found[0]["here"] if found else "it"
        lines.append(f"{target}: {here} knows {names or 'no load-balanced cluster'}")
        data.append({"target": target, "clusters": found})
    return Screen(text="\n".join(lines) or f"{path} names no host.", data=data)


_OTHERS: Final[Mapping[str, Callable[[NlbInvocation, Session], Screen]]] = {
    "query": _query,
    "queryport": _query_port,
    "reload": _reload,
    "display": _display,
    "params": _params,
    "ip2mac": _ip2mac,
    "explain": _explain,
    "connections": _connections,
    "history": _history,
    "create": _create,
    "addhost": _add_host,
    "removehost": _remove_host,
    "rule": _rule,
    "weight": _weight,
    "hostlist": _host_list,
    "diagnose": _diagnose,
}

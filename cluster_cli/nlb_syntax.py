"""The language of nlb.exe: from the words of a command line to a typed :class:`NlbInvocation`.

``nlb COMMAND [port scope] [scope] [/option[:argument] ...]``

=============  =====================================================================================
scope          ``CLUSTER[:HOST]``, ``all local``, ``all global``, or nothing: the clusters of this node
port scope     ``VIP[:PORT|:all]``, ``all[:PORT|:all]``, or ``PORT`` alone; nothing: every rule
CLUSTER        the primary address of the cluster, its full Internet name, or the name of its resource
HOST           the number of a host, its dedicated address, or the name of its node; 0: the default host
=============  =====================================================================================

An IPv6 address stands in brackets where a colon may follow: ``[2001:db8::1]:2``. The options of remote control of the
original (``/PASSW``, ``/PORT``, ``/DEST``) are understood and explained, since the certificate takes their place.

This module only understands words; it decides nothing and touches nothing. Mistakes are SyntaxProblem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from clussvc.nlb.port_rule import RuleScope, parse_scope
from cluster_cli.syntax import SyntaxProblem

WORDS_MAX: Final = 64
TIMEOUT_MS_MAX: Final = 600_000


@unique
class Shape(Enum):
    """Which words follow a command."""

    NONE = "none"
    SCOPE = "scope"
    """``[scope]``"""
    LOCAL = "local"
    """``[CLUSTER | all]``: answered by this node alone."""
    PORT_SCOPE = "port scope"
    """``[port scope] [scope]``"""
    ONE_PORT = "one port"
    """``[VIP:]PORT [scope]``"""
    ADDRESS = "address"
    WORDS = "words"
    """Words of its own, in the number that the command says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """One command."""

    name: str
    aliases: tuple[str, ...] = ()
    shape: Shape
    words: str = ""
    """How its words are shown in the help."""
    least: int = 0
    most: int = 0
    """How many words of its own it takes."""
    options: tuple[str, ...] = ()
    """Options of this command alone."""
    help: str = ""


_SCOPE = "[{CLUSTER[:HOST] | all {local | global}}]"
_PORTS = "[{VIP[:{PORT | all}] | all[:{PORT | all}]}]"

_COMMANDS = (
    CommandSpec(name="help", aliases=("?", "h"), shape=Shape.NONE, help="Show this."),
    CommandSpec(
        name="query", shape=Shape.SCOPE, words=_SCOPE, help="Which hosts have converged, and with which others."
    ),
    CommandSpec(
        name="suspend",
        shape=Shape.SCOPE,
        words=_SCOPE,
        help="Stop, and refuse every control command but resume and query.",
    ),
    CommandSpec(name="resume", shape=Shape.SCOPE, words=_SCOPE, help="Accept control commands again; does not start."),
    CommandSpec(name="start", shape=Shape.SCOPE, words=_SCOPE, help="Take part; a host that drains drains no more."),
    CommandSpec(name="stop", shape=Shape.SCOPE, words=_SCOPE, help="Leave now; connections are lost."),
    CommandSpec(
        name="drainstop",
        shape=Shape.SCOPE,
        words=_SCOPE,
        help="Take no new connections, let the open ones finish, then stop.",
    ),
    CommandSpec(
        name="enable",
        shape=Shape.PORT_SCOPE,
        words=f"{_PORTS} {_SCOPE}",
        help="Handle the traffic of the rule that holds the port again.",
    ),
    CommandSpec(
        name="disable",
        shape=Shape.PORT_SCOPE,
        words=f"{_PORTS} {_SCOPE}",
        help="Handle no traffic of the rule on these hosts.",
    ),
    CommandSpec(
        name="drain",
        shape=Shape.PORT_SCOPE,
        words=f"{_PORTS} {_SCOPE}",
        help="Take no new connections of the rule on these hosts; open ones go on.",
    ),
    CommandSpec(
        name="queryport",
        shape=Shape.ONE_PORT,
        words=f"[VIP:]PORT {_SCOPE}",
        help="State and packet counters of the rule that holds the port.",
    ),
    CommandSpec(
        name="reload",
        shape=Shape.LOCAL,
        words="[{CLUSTER | all}]",
        help="Say which version of the parameters is in use; they are taken over by themselves.",
    ),
    CommandSpec(
        name="display",
        shape=Shape.LOCAL,
        words="[{CLUSTER | all}]",
        help="Parameters, newest events, addresses and state of this node.",
    ),
    CommandSpec(
        name="params",
        shape=Shape.LOCAL,
        words="[{CLUSTER | all}]",
        help="Parameters, rules and statistics of this node.",
    ),
    CommandSpec(
        name="ip2mac", shape=Shape.ADDRESS, words="ADDRESS", help="The hardware addresses of a cluster in each mode."
    ),
    CommandSpec(
        name="explain",
        aliases=("filter",),
        shape=Shape.WORDS,
        words="CLUSTER {tcp|udp|icmp|gre|ipsec} CLIENT[:PORT] SERVER[:PORT]",
        least=4,
        most=4,
        options=("flags",),
        help="Which host takes a packet, and why; /flags:{syn|fin|rst} for TCP, other packets without it.",
    ),
    CommandSpec(
        name="connections",
        shape=Shape.LOCAL,
        words="[{CLUSTER | all}]",
        help="The connections that this node keeps although they belong to another one by now.",
    ),
    CommandSpec(
        name="history", shape=Shape.LOCAL, words="[{CLUSTER | all}]", help="How this node converged, newest last."
    ),
    CommandSpec(
        name="create",
        shape=Shape.WORDS,
        words="NAME",
        least=1,
        most=1,
        options=("ip", "mask", "mode", "interface", "group", "hosts", "rule", "fullname"),
        help="Make a load-balanced cluster: /ip:A /mask:M [/mode:{unicast|multicast|igmp}] [/interface:I] /hosts:N,...",
    ),
    CommandSpec(
        name="addhost",
        shape=Shape.WORDS,
        words="CLUSTER NODE",
        least=2,
        most=2,
        options=("priority", "dip"),
        help="Let one more node take part: [/priority:N] [/dip:ADDRESS].",
    ),
    CommandSpec(
        name="removehost",
        shape=Shape.WORDS,
        words="CLUSTER NODE",
        least=2,
        most=2,
        help="The node takes part no more.",
    ),
    CommandSpec(
        name="rule",
        shape=Shape.WORDS,
        words="CLUSTER [{add | remove | set} RULE]",
        least=1,
        most=3,
        options=("resource", "probe"),
        help="List or edit the port rules, once for all hosts: 'rule WEB add \"All 80-80 TCP Multiple Single\"'.",
    ),
    CommandSpec(
        name="weight",
        shape=Shape.WORDS,
        words="CLUSTER NODE [VIP:]PORT {WEIGHT | equal}",
        least=4,
        most=4,
        help="The load weight (0..100) of a multiple rule, or the handling priority of a single one, on one node.",
    ),
    CommandSpec(
        name="hostlist",
        shape=Shape.WORDS,
        words="{save | load} FILE",
        least=2,
        most=2,
        help="Write a file of the hosts to administer, or ask all hosts of such a file.",
    ),
    CommandSpec(
        name="diagnose",
        shape=Shape.LOCAL,
        words="[{CLUSTER | all}]",
        help="What is wrong or differs between hosts, and the way out.",
    ),
)

COMMANDS: Final[Mapping[str, CommandSpec]] = {spec.name: spec for spec in _COMMANDS}
_WORDS: Final = {word: spec for spec in _COMMANDS for word in (spec.name, *spec.aliases)}

_EXPLAINED: Final = {
    "passw": "There is no remote password: who may do what is told by the certificate (see 'cluster admincert').",
    "port": "Remote control goes to the administration port of the service, not to port 2504.",
    "dest": "The addresses of the nodes are taken from the certificate folder.",
}
"""Options of the original that mean nothing here, and why."""

_GENERAL: Final = ("passw", "port", "dest", "timeout", "local", "cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which hosts are meant."""

    cluster: str | None = None
    """Its address or name; None: all clusters."""
    host: str | None = None
    """A number, address or name; None: all hosts of a cluster that was named."""
    everywhere: bool = False
    """``all global``: all hosts of the clusters of this node; otherwise, without a cluster, this node alone."""


EVERY_RULE: Final = RuleScope()


@dataclass(frozen=True, slots=True, kw_only=True)
class NlbInvocation:
    """One command, understood."""

    command: str
    scope: Scope = Scope()
    ports: RuleScope = EVERY_RULE
    """Which port rules are meant."""
    words: tuple[str, ...] = ()
    options: Mapping[str, str]
    """By name in small letters; an option without an argument is an empty text."""
    repeated: Mapping[str, tuple[str, ...]]
    """All arguments of options that may come several times (``/rule``)."""
    notes: tuple[str, ...] = ()
    """What is to be said about options of the original."""

    @property
    def target(self) -> str | None:
        """The failover cluster to ask; None: this machine."""
        named = self.options.get("cluster")
        return None if named in (None, "", ".") else named


def parse(words: Sequence[str]) -> NlbInvocation:
    """Understand a command line, without the program's name. Raises SyntaxProblem."""
    if len(words) > WORDS_MAX:
        raise SyntaxProblem(f"The command has {len(words)} words; {WORDS_MAX} are the maximum.", "nlb")
    plain, options, repeated, notes = _split(words)
    if not plain or "?" in options:
        return NlbInvocation(command="help", options=options, repeated=repeated)
    spec = _WORDS.get(plain[0].casefold())
    if spec is None:
        raise SyntaxProblem(f"{plain[0]!r} is not a command; the commands are: {', '.join(COMMANDS)}.", "nlb")
    for name in options:
        if name not in _GENERAL and name not in spec.options:
            known = ", ".join(f"/{each}" for each in (*spec.options, "timeout", "local", "cluster"))
            raise SyntaxProblem(f"'nlb {spec.name}' has no option /{name}; it has: {known}.", "nlb")
    rest = plain[1:]
    scope, ports = Scope(), RuleScope()
    own: tuple[str, ...] = ()
    match spec.shape:
        case Shape.NONE:
            _check_count(spec, rest, 0, 0)
        case Shape.SCOPE:
            scope = _scope(spec, rest)
        case Shape.LOCAL:
            scope = _local(spec, rest)
        case Shape.PORT_SCOPE:
            if rest:
                ports, rest = parse_port_scope(rest[0]), rest[1:]
            scope = _scope(spec, rest)
        case Shape.ONE_PORT:
            if not rest:
                raise SyntaxProblem("'nlb queryport' needs a port: nlb queryport [VIP:]PORT.", "nlb")
            ports = parse_port_scope(rest[0])
            if ports.port is None:
                raise SyntaxProblem(f"{rest[0]!r} names no port; write PORT or VIP:PORT.", "nlb")
            scope = _scope(spec, rest[1:])
        case Shape.ADDRESS:
            _check_count(spec, rest, 1, 1)
            own = tuple(rest)
        case Shape.WORDS:
            _check_count(spec, rest, spec.least, spec.most)
            own = tuple(rest)
    if "local" in options and (scope.cluster is None or scope.host is not None):
        scope = Scope(cluster=scope.cluster)
    return NlbInvocation(
        command=spec.name, scope=scope, ports=ports, words=own, options=options, repeated=repeated, notes=notes
    )


def _split(
    words: Sequence[str],
) -> tuple[list[str], dict[str, str], dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Plain words, options, repeated ones, remarks."""
    plain: list[str] = []
    options: dict[str, str] = {}
    repeated: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if len(word) < 2 or word[0] not in "/-":
            plain.append(word)
            continue
        name, colon, argument = word.lstrip("/-").partition(":")
        if not colon and "=" in name:
            name, colon, argument = name.partition("=")
        name = name.casefold()
        if name in ("?", "h", "help"):
            name = "?"
        if name in ("passw", "port", "dest", "timeout") and not colon and rest and rest[0][:1] not in "/-":
            # The original takes their argument as the next word.
            argument = rest.pop(0)
        if name in options and name != "rule":
            raise SyntaxProblem(f"/{name} was given twice.", "nlb")
        if name in _EXPLAINED:
            notes.append(_EXPLAINED[name])
        if name == "timeout" and not (argument.isdecimal() and 0 < int(argument) <= TIMEOUT_MS_MAX):
            raise SyntaxProblem(f"/timeout needs milliseconds, 1 to {TIMEOUT_MS_MAX}: /timeout 2000.", "nlb")
        options[name] = argument
        repeated[name] = (*repeated.get(name, ()), argument)
    return plain, options, repeated, tuple(notes)


def _check_count(spec: CommandSpec, rest: Sequence[str], least: int, most: int) -> None:
    if len(rest) < least:
        raise SyntaxProblem(f"'nlb {spec.name}' needs: {spec.words}.", "nlb")
    if len(rest) > most:
        raise SyntaxProblem(f"{rest[most]!r} is one word too many for 'nlb {spec.name} {spec.words}'.", "nlb")


def _scope(spec: CommandSpec, rest: Sequence[str]) -> Scope:
    if not rest:
        return Scope()
    if rest[0].casefold() == "all":
        if len(rest) != 2 or rest[1].casefold() not in ("local", "global"):
            raise SyntaxProblem("After 'all' say 'local' (this node) or 'global' (all hosts of its clusters).", "nlb")
        return Scope(everywhere=rest[1].casefold() == "global")
    _check_count(spec, rest, 0, 1)
    cluster, host = split_colon(rest[0])
    if not cluster:
        raise SyntaxProblem(f"{rest[0]!r} names no cluster; write CLUSTER or CLUSTER:HOST.", "nlb")
    return Scope(cluster=cluster, host=host or None)


def _local(spec: CommandSpec, rest: Sequence[str]) -> Scope:
    _check_count(spec, rest, 0, 1)
    if not rest or rest[0].casefold() == "all":
        return Scope()
    return Scope(cluster=split_colon(rest[0])[0])


def parse_port_scope(word: str) -> RuleScope:
    """Which rules a word means. Raises SyntaxProblem."""
    scope = parse_scope(word)
    if scope is None:
        forms = "PORT, VIP, VIP:PORT, VIP:all, all:PORT or all:all; ports are 0 to 65535"
        raise SyntaxProblem(f"{word!r} names no port rules; write {forms}.", "nlb")
    return scope


def split_colon(word: str) -> tuple[str, str]:
    """``A:B`` at its last colon; an IPv6 address is taken as a whole, or stands in brackets."""
    if word.startswith("["):
        address, _, rest = word[1:].partition("]")
        return address, rest.removeprefix(":")
    if word.count(":") > 1:
        return word, ""
    head, _, tail = word.partition(":")
    return head, tail


def usage() -> str:
    """The help of the program."""
    lines = ["The syntax of this command is:", "", "NLB COMMAND [words] [/option[:argument] ...]", "", "Commands:"]
    for spec in _COMMANDS:
        also = f" ({', '.join(spec.aliases)})" if spec.aliases else ""
        lines.append(f"  {f'{spec.name}{also} {spec.words}'.rstrip()}")
        lines.append(f"        {spec.help}")
    lines += [
        "",
        "  CLUSTER   the primary address of the load-balanced cluster, its full name, or that of its resource",
        "  HOST      the number of a host, its dedicated address, or its node; 0 is the default host",
        "",
        "Options: /cluster:NAME (the failover cluster to ask; by certificate), /local, /timeout MS,",
        "/passw, /port and /dest (accepted and explained); everywhere: --output json, --socket PATH.",
    ]
    return "\n".join(lines)

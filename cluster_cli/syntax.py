"""The language of cluster.exe: from the words of a command line to a typed :class:`Invocation`.

``cluster [[/cluster:]NAME] OBJECT [object-name] /option[:argument] ...``

Everything is in the tables below: the objects with their short forms, and for each object its options with the *fixed*
abbreviations of the original (they are words of their own, not free prefixes). Options may be written ``/opt``,
``-opt`` or ``--opt``, in any case; the argument follows a ``:`` (or ``=``); in the ``--opt`` form it may also be the
next word. This module only understands words; it decides nothing and touches nothing, so all of it is tested by tables.

Mistakes are :class:`SyntaxProblem` with a sentence that names the word and the way out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final


class SyntaxProblem(Exception):
    """The command line cannot be understood. ``object`` is the table whose help would show the way."""

    def __init__(self, message: str, object_: str = "cluster") -> None:
        super().__init__(message)
        self.message = message
        self.object = object_


@unique
class Argument(Enum):
    """What may follow an option."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"
    PROPERTIES = "properties"
    """``Name=Value[,Value...][:Format]`` in the words that follow, or attached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """One option of one object."""

    name: str
    aliases: tuple[str, ...] = ()
    argument: Argument = Argument.NONE
    modifier: bool = False
    """True: it refines another option and is nothing to do by itself."""
    needs_name: bool = False
    """True: the object's name must be given."""
    shown: str = ""
    """How the argument is written in the help, ``:GROUP``."""
    help: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSpec:
    """One kind of object that commands name."""

    name: str
    aliases: tuple[str, ...] = ()
    words: str = "[NAME]"
    """The positional words, for the help."""
    words_max: int = 1
    default: str = "status"
    """The option that is meant when none is given."""
    options: tuple[OptionSpec, ...] = ()
    help: str = ""

    def option(self, word: str) -> OptionSpec | None:
        """The option of that name or abbreviation, whatever the case of its letters."""
        wanted = word.casefold()
        return next((spec for spec in self.options if wanted == spec.name or wanted in spec.aliases), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One ``Name=Value[,Value...][:Format]`` of a property list."""

    name: str
    text: str
    """The value as one text, quotes around the whole of it removed."""
    parts: tuple[str, ...]
    """The value as a list, for properties that hold several texts."""
    format: str | None = None
    """The canonical name of the format if one was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option as it was used."""

    name: str
    argument: str | None = None
    assignments: tuple[Assignment, ...] = ()
    names: tuple[str, ...] = ()
    """Bare property names, for ``/usedefault``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One command, understood."""

    cluster: str | None
    """The cluster that was named; None: the local one."""
    object: str
    words: tuple[str, ...]
    """The positional words after the object: usually its name alone."""
    options: tuple[Option, ...]
    wants_help: bool = False

    @property
    def name(self) -> str | None:
        """The name of the object, if it was given."""
        return self.words[0] if self.words else None

    def find(self, name: str) -> Option | None:
        """The option of that full name, if it was used."""
        return next((option for option in self.options if option.name == name), None)

    def has(self, name: str) -> bool:
        """Whether the option was used."""
        return self.find(name) is not None

    def argument(self, name: str) -> str | None:
        """The argument of that option; None when either is missing."""
        found = self.find(name)
        return found.argument if found else None

    @property
    def action(self) -> Option:
        """The one thing to do, by the rules of :func:`parse`: never a modifier."""
        spec = OBJECTS[self.object]
        doing = [option for option in self.options if not _spec_of(spec, option).modifier]
        creating = next((option for option in doing if option.name == "create"), None)
        return creating or (doing[0] if doing else Option(name=spec.default))


FORMATS: Final[Mapping[str, str]] = {
    "binary": "binary",
    "dword": "dword",
    "string": "string",
    "str": "string",
    "expandstring": "expandstring",
    "expandstr": "expandstring",
    "multistring": "multistring",
    "multistr": "multistring",
    "security": "security",
    "ularge": "ularge",
}
"""Value formats with their abbreviations (cluster.exe: fixed words)."""

_WAIT = OptionSpec(
    name="wait",
    argument=Argument.OPTIONAL,
    modifier=True,
    shown="[:SECONDS]",
    help="Wait for the outcome; without a number, for as long as it takes.",
)
_PROPERTIES = OptionSpec(
    name="properties",
    aliases=("prop", "props"),
    argument=Argument.PROPERTIES,
    shown=" [NAME=VALUE[,VALUE...][:FORMAT] ...]",
    help="Show or set the common properties; /prop:NAME,... /usedefault resets them.",
)
_PRIVATE = OptionSpec(
    name="privproperties",
    aliases=("priv", "privprop", "privprops"),
    argument=Argument.PROPERTIES,
    shown=" [NAME=VALUE[,VALUE...][:FORMAT] ...]",
    help="Show or set the private properties.",
)
_USE_DEFAULT = OptionSpec(name="usedefault", modifier=True, help="With /prop or /priv: reset the named properties.")
_HELP = OptionSpec(name="help", aliases=("?",), modifier=True, help="Show this.")
_RENAME = OptionSpec(
    name="rename",
    aliases=("ren",),
    argument=Argument.REQUIRED,
    needs_name=True,
    shown=":NEWNAME",
    help="Give it another name.",
)
_COMMON = (_PROPERTIES, _PRIVATE, _USE_DEFAULT, _HELP)


def _status(help_: str) -> OptionSpec:
    return OptionSpec(name="status", aliases=("stat", "state"), help=help_)


_ON_NODE = OptionSpec(
    name="node",
    argument=Argument.REQUIRED,
    modifier=True,
    shown=":NODE",
    help="Only what this node owns; of a parallel group, the instance that it has.",
)

_CLUSTER = ObjectSpec(
    name="cluster",
    aliases=("c",),
    words="",
    words_max=0,
    help="The cluster as a whole.",
    options=(
        _status("Show the cluster's name, quorum and membership (the default)."),
        OptionSpec(
            name="create", help="Create the cluster NAME on this machine, with /ipaddress (cluster NAME /create ...)."
        ),
        OptionSpec(
            name="ipaddress",
            aliases=("ipaddr",),
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":IP[,MASK,NETWORK]",
            help="With /create and /join: the address of this machine for the other nodes.",
        ),
        OptionSpec(
            name="node",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":NODE",
            help="With /create and /join: the name of this node; the host name otherwise.",
        ),
        OptionSpec(
            name="port", argument=Argument.REQUIRED, modifier=True, shown=":PORT", help="With /create and /join."
        ),
        OptionSpec(
            name="profile",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":PROFILE",
            help="With /create: the timing profile (lan, fast, wan, loopback).",
        ),
        OptionSpec(
            name="join",
            argument=Argument.REQUIRED,
            shown=":TOKEN",
            help="On a new machine: join the cluster that made the token.",
        ),
        OptionSpec(
            name="addnodes",
            aliases=("add",),
            argument=Argument.OPTIONAL,
            shown="[:NODE,...]",
            help="On a member: make a join token for each new node.",
        ),
        OptionSpec(
            name="validfor",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":SECONDS",
            help="With /addnodes: how long the tokens can be used; an hour by default.",
        ),
        OptionSpec(
            name="rename",
            aliases=("ren",),
            argument=Argument.REQUIRED,
            shown=":NEWNAME",
            help="Give the cluster another name.",
        ),
        OptionSpec(name="version", aliases=("ver",), help="Show the versions."),
        OptionSpec(name="list", help="List the clusters that this account can reach."),
        OptionSpec(
            name="quorumresource",
            aliases=("quorum",),
            argument=Argument.OPTIONAL,
            shown="[:QUORUM]",
            help="Show the quorum, or choose it: majority, local, disk, or the place of a quorum disk.",
        ),
        OptionSpec(
            name="path",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":PLACE",
            help="With /quorum: where the quorum disk is: a device, a file on a share, iscsi://HOST/TARGET/LUN.",
        ),
        OptionSpec(
            name="maxlogsize",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":KB",
            help="With /quorum: how long the log on a quorum disk may grow.",
        ),
        OptionSpec(
            name="renewlog",
            modifier=True,
            help="With /quorum: begin the log of a majority anew, for a node that has lost its part of it.",
        ),
        OptionSpec(
            name="hold",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":MS",
            help="With /quorum: how long writing its slot keeps the owner of a quorum disk in office, or 'auto'.",
        ),
        OptionSpec(
            name="witness",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":PATH",
            help="With /quorum: a folder on a share that breaks ties of a majority node set, or 'none'.",
        ),
        OptionSpec(
            name="force",
            modifier=True,
            help="With /quorum: overwrite what lies on the disk. With /witness: whoever serves the share.",
        ),
        OptionSpec(
            name="listnetpriority",
            aliases=("listnetpri",),
            help="Show the internal networks in the order of their use.",
        ),
        OptionSpec(
            name="setnetpriority",
            aliases=("setnetpri",),
            argument=Argument.REQUIRED,
            shown=":NETWORK[,NETWORK...]",
            help="Order the internal networks, all of which must be named.",
        ),
        *_COMMON,
    ),
)

_NODE = ObjectSpec(
    name="node",
    help="The nodes.",
    options=(
        _status("Show the state of the node or of all nodes (the default)."),
        OptionSpec(name="pause", help="The node keeps its groups and takes no more."),
        OptionSpec(name="resume", help="End a pause."),
        OptionSpec(name="start", help="Start the cluster service of this machine."),
        OptionSpec(name="stop", help="Hand the node's groups over and stop its cluster service."),
        OptionSpec(name="evict", help="Remove the stopped node from the cluster."),
        OptionSpec(
            name="forcecleanup",
            aliases=("force",),
            help="On that machine, its service stopped: remove all that makes it a node, whatever the cluster thinks.",
        ),
        OptionSpec(
            name="confirmdown",
            needs_name=True,
            help="You have made sure that the machine is off: take its groups over at once.",
        ),
        OptionSpec(name="fence", needs_name=True, help="Have its fence devices switch the machine off now."),
        OptionSpec(name="clearquarantine", needs_name=True, help="Let a node in again that was lost too often."),
        OptionSpec(name="listinterfaces", aliases=("listint", "listinterface"), help="Show the node's addresses."),
        _WAIT,
        *_COMMON,
    ),
)

_GROUP = ObjectSpec(
    name="group",
    aliases=("resourcegroup", "resgroup"),
    help="The groups of resources.",
    options=(
        _status("Show the state of the group or of all groups (the default)."),
        _ON_NODE,
        OptionSpec(name="create", needs_name=True, help="Create an empty group."),
        OptionSpec(name="delete", aliases=("del",), needs_name=True, help="Delete the empty group."),
        _RENAME,
        OptionSpec(
            name="moveto",
            aliases=("move",),
            argument=Argument.OPTIONAL,
            needs_name=True,
            shown="[:NODE]",
            help="Move the group; without a node, to the best possible one.",
        ),
        OptionSpec(
            name="from",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":NODE",
            help="With /moveto: which instance of a parallel group, by the node that has it.",
        ),
        OptionSpec(
            name="online",
            aliases=("on",),
            argument=Argument.OPTIONAL,
            needs_name=True,
            shown="[:NODE]",
            help="Bring all its resources online, there if a node is given.",
        ),
        OptionSpec(name="offline", aliases=("off",), needs_name=True, help="Take all its resources offline."),
        OptionSpec(name="listowners", needs_name=True, help="Show the preferred owners."),
        OptionSpec(
            name="setowners",
            argument=Argument.OPTIONAL,
            needs_name=True,
            shown=":NODE[,NODE...]",
            help="Set the preferred owners, best first; nothing clears them.",
        ),
        OptionSpec(name="explain", needs_name=True, help="Say why the group is where it is."),
        _WAIT,
        *_COMMON,
    ),
)

_RESOURCE = ObjectSpec(
    name="resource",
    aliases=("res",),
    help="The resources.",
    options=(
        _status("Show the state of the resource or of all resources (the default)."),
        _ON_NODE,
        OptionSpec(name="create", needs_name=True, help="Create a resource, with /group and /type."),
        OptionSpec(
            name="group",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":GROUP",
            help="With /create: the group it belongs to.",
        ),
        OptionSpec(
            name="type", argument=Argument.REQUIRED, modifier=True, shown=":TYPE", help="With /create: its type."
        ),
        OptionSpec(name="separate", modifier=True, help="With /create: a resource monitor of its own."),
        OptionSpec(name="delete", aliases=("del",), needs_name=True, help="Delete the resource."),
        _RENAME,
        OptionSpec(
            name="moveto",
            aliases=("move",),
            argument=Argument.REQUIRED,
            needs_name=True,
            shown=":GROUP",
            help="Put it, with all that is tied to it by dependencies, into another group.",
        ),
        OptionSpec(name="online", aliases=("on",), needs_name=True, help="Bring it online, after what it depends on."),
        OptionSpec(name="offline", aliases=("off",), needs_name=True, help="Take it offline, after its dependents."),
        OptionSpec(name="fail", needs_name=True, help="Treat it as failed, to try its restart policy."),
        OptionSpec(
            name="listdependencies", aliases=("listdep",), needs_name=True, help="Show what it depends on directly."
        ),
        OptionSpec(
            name="adddependency",
            aliases=("adddep",),
            argument=Argument.REQUIRED,
            needs_name=True,
            shown=":RESOURCE",
            help="It needs that resource online first.",
        ),
        OptionSpec(
            name="removedependency",
            aliases=("removedep",),
            argument=Argument.REQUIRED,
            needs_name=True,
            shown=":RESOURCE",
            help="The inverse of /adddep.",
        ),
        OptionSpec(name="listowners", needs_name=True, help="Show the possible owners."),
        OptionSpec(
            name="addowner",
            argument=Argument.REQUIRED,
            needs_name=True,
            shown=":NODE",
            help="Allow it on one more node.",
        ),
        OptionSpec(
            name="removeowner",
            aliases=("remowner",),
            argument=Argument.REQUIRED,
            needs_name=True,
            shown=":NODE",
            help="Forbid it on a node.",
        ),
        _WAIT,
        *_COMMON,
    ),
)

_FENCE = ObjectSpec(
    name="fence",
    aliases=("fencedevice",),
    help="The fence devices: what can switch nodes off.",
    options=(
        _status("Show the device or all devices (the default)."),
        OptionSpec(name="create", needs_name=True, help="Create a device, with /node and /agent."),
        OptionSpec(
            name="node",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":NODE",
            help="With /create: the node that it switches off.",
        ),
        OptionSpec(
            name="agent",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":AGENT",
            help="With /create: the fence agent, such as fence_ipmilan.",
        ),
        OptionSpec(name="delete", aliases=("del",), needs_name=True, help="Delete the device."),
        OptionSpec(name="test", needs_name=True, help="See whether the device answers; nothing is switched."),
        *_COMMON,
    ),
)

_RESOURCE_TYPE = ObjectSpec(
    name="resourcetype",
    aliases=("restype", "type"),
    default="list",
    help="The types of resources.",
    options=(
        OptionSpec(name="list", help="List the types (the default)."),
        _PROPERTIES,
        _HELP,
    ),
)

_NETWORK = ObjectSpec(
    name="network",
    aliases=("net",),
    help="The networks that connect the nodes with each other and with clients.",
    options=(
        _status("Show the state of the network or of all networks (the default)."),
        _RENAME,
        OptionSpec(
            name="listinterfaces", aliases=("listint", "listinterface"), help="Show the interfaces of the nodes on it."
        ),
        *_COMMON,
    ),
)

_NET_INTERFACE = ObjectSpec(
    name="netinterface",
    aliases=("netint",),
    words="",
    words_max=0,
    help="The network interfaces of the nodes.",
    options=(
        _status("Show the interfaces (the default)."),
        OptionSpec(
            name="node", argument=Argument.REQUIRED, modifier=True, shown=":NODE", help="Only those of this node."
        ),
        OptionSpec(
            name="network",
            aliases=("net",),
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":NETWORK",
            help="Only those on this network.",
        ),
        OptionSpec(name="properties", aliases=("prop", "props"), help="Show their properties; none can be set."),
        _HELP,
    ),
)

_SIMULATE = ObjectSpec(
    name="simulate",
    words="node NAME down|pause|resume|up  |  group NAME moveto [NODE]  |  resource NAME fail",
    words_max=4,
    default="simulate",
    help="Say what the cluster would do; nothing is changed.",
    options=(OptionSpec(name="simulate", modifier=True, help="(The default.)"), _HELP),
)

_EXPLAIN = ObjectSpec(
    name="explain",
    words="GROUP",
    default="explain",
    help="Say why a group is where it is and where it could go.",
    options=(OptionSpec(name="explain", modifier=True, help="(The default.)"), _HELP),
)

_EVENTS = ObjectSpec(
    name="events",
    words="",
    words_max=0,
    default="list",
    help="The event history.",
    options=(
        OptionSpec(name="list", modifier=True, help="Show the newest events (the default)."),
        OptionSpec(
            name="after",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":CURSOR",
            help="Only what happened after that event.",
        ),
        OptionSpec(
            name="limit",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":COUNT",
            help="At most so many; 50 by default.",
        ),
        OptionSpec(name="follow", modifier=True, help="Go on and show what happens, until interrupted."),
        _HELP,
    ),
)

_VALIDATE_TIMING = ObjectSpec(
    name="validate-timing",
    words="",
    words_max=0,
    default="measure",
    help="Measure how late heartbeats are and recommend a timing profile.",
    options=(
        OptionSpec(name="measure", modifier=True, help="(The default.)"),
        OptionSpec(
            name="seconds",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":SECONDS",
            help="For so long; 10 by default. The longer, and the busier the machine, the more it says.",
        ),
        _HELP,
    ),
)

_ADMIN_CERTIFICATE = ObjectSpec(
    name="admincert",
    words="NAME",
    default="create",
    help="A certificate for remote administration, written into a folder.",
    options=(
        OptionSpec(name="create", help="Make the certificate (the default)."),
        OptionSpec(
            name="role",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":ROLE",
            help="read-only, operator or administrator; read-only by default.",
        ),
        OptionSpec(
            name="folder",
            argument=Argument.REQUIRED,
            modifier=True,
            shown=":FOLDER",
            help="Where to write it; ~/.config/clussvc/CLUSTER by default.",
        ),
        _HELP,
    ),
)

OBJECTS: Final[Mapping[str, ObjectSpec]] = {
    spec.name: spec
    for spec in (
        _CLUSTER,
        _NODE,
        _GROUP,
        _RESOURCE,
        _FENCE,
        _RESOURCE_TYPE,
        _NETWORK,
        _NET_INTERFACE,
        _SIMULATE,
        _EXPLAIN,
        _VALIDATE_TIMING,
        _EVENTS,
        _ADMIN_CERTIFICATE,
    )
}
"""All objects, by name."""

_OBJECT_WORDS: Final = {word: spec for spec in OBJECTS.values() for word in (spec.name, *spec.aliases)}

WORDS_MAX: Final = 4_096
"""The longest command line, in words; what the system lets pass is of the same order."""


def parse(words: Sequence[str]) -> Invocation:
    """Understand a command line, without the program's name.

    Raises SyntaxProblem.
    """
    if len(words) > WORDS_MAX:
        raise SyntaxProblem(f"The command has {len(words)} words; {WORDS_MAX} are the maximum.")
    rest = list(words)
    cluster = _take_cluster(rest)
    spec = _take_object(rest)
    if spec is None and rest and not _is_option(rest[0]):
        if cluster is not None:
            raise SyntaxProblem(f"{rest[0]!r} is not an object; the objects are: {', '.join(OBJECTS)}.")
        cluster = rest.pop(0)
        spec = _take_object(rest)
        if spec is None and rest and not _is_option(rest[0]):
            raise SyntaxProblem(
                f"Neither {cluster!r} nor {rest[0]!r} is an object; the objects are: {', '.join(OBJECTS)}."
            )
    spec = spec or _CLUSTER
    positional = []
    while rest and not _is_option(rest[0]):
        positional.append(rest.pop(0))
    if len(positional) > spec.words_max:
        raise SyntaxProblem(
            f"{positional[spec.words_max]!r} is one word too many; names with blanks need quotes.", spec.name
        )
    options = []
    while rest:
        if not _is_option(rest[0]):
            raise SyntaxProblem(f"{rest[0]!r} is neither an option nor the argument of one.", spec.name)
        option, taken = _read_option(spec, rest)
        if cluster_option := option if option.name == "cluster" else None:
            cluster = cluster_option.argument
        else:
            options.append(option)
        del rest[:taken]
    invocation = Invocation(
        cluster=cluster if cluster not in ("", ".") else None,
        object=spec.name,
        words=tuple(positional),
        options=tuple(option for option in options if option.name != "help"),
        wants_help=any(option.name == "help" for option in options) or not words,
    )
    if not invocation.wants_help:
        _check(spec, invocation)
    return invocation


def _take_cluster(rest: list[str]) -> str | None:
    if rest and _is_option(rest[0]):
        word, argument = _split_option(rest[0])
        if word == "cluster":
            if not argument:
                raise SyntaxProblem("/cluster needs the name of a cluster: /cluster:NAME.")
            rest.pop(0)
            return argument
    if rest and rest[0] == ".":
        rest.pop(0)
        return "."
    return None


def _take_object(rest: list[str]) -> ObjectSpec | None:
    if rest and not _is_option(rest[0]):
        found = _OBJECT_WORDS.get(rest[0].casefold())
        if found is not None:
            rest.pop(0)
            return found
    return None


def _is_option(word: str) -> bool:
    return len(word) > 1 and word[0] in "/-"


def _split_option(word: str) -> tuple[str, str | None]:
    """``/moveto:NODE2`` is ``moveto`` and ``NODE2``; without a separator the argument is None."""
    match = re.match(r"(?:/|--?)([^:=]*)(?:[:=](.*))?\Z", word, re.DOTALL)
    assert match is not None
    return match[1].casefold(), match[2]


def _read_option(spec: ObjectSpec, rest: Sequence[str]) -> tuple[Option, int]:
    """The option at the head of ``rest``, and how many words it took."""
    word, argument = _split_option(rest[0])
    if word == "cluster" and argument:
        return Option(name="cluster", argument=argument), 1
    found = spec.option(word)
    if found is None:
        known = ", ".join(f"/{option.name}" for option in spec.options)
        raise SyntaxProblem(f"{spec.name} has no option {rest[0]!r}; its options are: {known}.", spec.name)
    match found.argument:
        case Argument.PROPERTIES:
            return _read_properties(spec, found, argument, rest)
        case Argument.NONE:
            if argument:
                raise SyntaxProblem(f"/{found.name} takes no argument, but {argument!r} was given.", spec.name)
            return Option(name=found.name), 1
        case Argument.REQUIRED | Argument.OPTIONAL:
            taken = 1
            dashed = rest[0].startswith("-")
            if argument is None and dashed and len(rest) > 1 and not _is_option(rest[1]):
                argument, taken = rest[1], 2
            if found.argument is Argument.REQUIRED and not argument:
                raise SyntaxProblem(f"/{found.name} needs an argument: /{found.name}{found.shown}.", spec.name)
            return Option(name=found.name, argument=_unquoted(argument) if argument is not None else None), taken


def _read_properties(
    spec: ObjectSpec, found: OptionSpec, argument: str | None, rest: Sequence[str]
) -> tuple[Option, int]:
    words = [argument] if argument else []
    taken = 1
    while taken < len(rest) and not _is_option(rest[taken]):
        words.append(rest[taken])
        taken += 1
    assignments = []
    names: list[str] = []
    for word in words:
        if "=" in word:
            assignments.append(_assignment(word, spec.name))
        else:
            names.extend(name for name in split_list(word) if name)
    return Option(name=found.name, assignments=tuple(assignments), names=tuple(names)), taken


def _assignment(word: str, object_: str) -> Assignment:
    name, _, value = word.partition("=")
    name = _unquoted(name.strip())
    if not name:
        raise SyntaxProblem(f"{word!r} has no property name before the '='.", object_)
    head, colon, tail = value.rpartition(":")
    format_ = FORMATS.get(tail.casefold()) if colon else None
    if format_ is not None:
        value = head
    return Assignment(name=name, text=_unquoted(value), parts=split_list(value), format=format_)


def split_list(text: str) -> tuple[str, ...]:
    """Split at commas that are not inside double quotes, and take the quotes off each part; empty text: no parts."""
    parts = []
    current = ""
    quoted = False
    for char in text:
        if char == '"':
            quoted = not quoted
        if char == "," and not quoted:
            parts.append(current)
            current = ""
        else:
            current += char
    parts.append(current)
    return tuple(_unquoted(part.strip()) for part in parts) if text else ()


def _unquoted(text: str) -> str:
    """Without the quotes around the whole of it, if a pair encloses it and none is inside."""
    if len(text) >= 2 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        return text[1:-1]
    return text


def _spec_of(spec: ObjectSpec, option: Option) -> OptionSpec:
    found = spec.option(option.name)
    assert found is not None, f"{option.name} is no option of {spec.name}"
    return found


def _check(spec: ObjectSpec, invocation: Invocation) -> None:
    """What goes together: one action, a name where one is needed, no option twice."""
    seen: set[str] = set()
    for option in invocation.options:
        if option.name in seen:
            raise SyntaxProblem(f"/{option.name} was given twice.", spec.name)
        seen.add(option.name)
    creating = invocation.has("create")
    doing = [option for option in invocation.options if not _spec_of(spec, option).modifier]
    if creating:
        doing = [option for option in doing if option.name not in ("properties", "privproperties", "quorumresource")]
    if len(doing) > 1:
        listed = ", ".join(f"/{option.name}" for option in doing)
        raise SyntaxProblem(f"One command does one thing, but {listed} were given.", spec.name)
    action = invocation.action
    action_spec = spec.option(action.name)
    if action_spec is not None and action_spec.needs_name and invocation.name is None:
        raise SyntaxProblem(f"/{action.name} needs the name of a {spec.name}: cluster {spec.name} NAME ...", spec.name)
    if invocation.has("usedefault") and not any(option.names for option in invocation.options):
        raise SyntaxProblem("/usedefault needs the names of the properties: /prop:NAME1,NAME2 /usedefault.", spec.name)
    for option in invocation.options:
        if option.names and not invocation.has("usedefault"):
            raise SyntaxProblem(
                f"{option.names[0]!r} has no value; write NAME=VALUE to set it, or add /usedefault to reset it.",
                spec.name,
            )
        if option.names and option.assignments:
            raise SyntaxProblem("Either set properties or reset them (/usedefault), not both at once.", spec.name)
        named = spec.name == "cluster" or invocation.name is not None
        if (option.assignments or option.names) and not named:
            raise SyntaxProblem(f"Setting properties needs the name of one {spec.name}.", spec.name)


def usage(object_: str | None) -> str:
    """The help of one object, or of the whole program for None."""
    if object_ is None:
        lines = [
            "The syntax of this command is:",
            "",
            "CLUSTER [[/CLUSTER:]cluster-name] object [object-name] /option[:argument] ...",
            "",
            "  cluster-name   . or nothing: the cluster of this machine; HOST:PORT or a name: by certificate",
            "",
            "Objects:",
        ]
        lines += [f"  {', '.join((spec.name, *spec.aliases)):<34} {spec.help}" for spec in OBJECTS.values()]
        lines += [
            "",
            "Options may be written /option, -option or --option; everywhere: --output json, --socket PATH.",
            "'cluster OBJECT /?' shows the options of an object.",
        ]
        return "\n".join(lines)
    spec = OBJECTS[object_]
    word = "" if spec.name == "cluster" else f" {spec.name.upper()}"
    positional = f" {spec.words}" if spec.words else ""
    lines = [
        "The syntax of this command is:",
        "",
        f"CLUSTER [[/CLUSTER:]cluster-name]{word}{positional} /option[:argument] ...",
        "",
        spec.help,
        "",
        "Options:",
    ]
    for option in spec.options:
        short = f" (/{', /'.join(option.aliases)})" if option.aliases else ""
        lines.append(f"  /{option.name}{option.shown}{short}")
        lines.append(f"        {option.help}")
    return "\n".join(lines)

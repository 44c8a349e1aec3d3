"""What is known of each resource type without running it: properties, polling, dependencies.

The coordinator checks an administrator's values with this table before they enter the log, the monitor fills defaults
in from it, and the command line lists it. The code that does the work is in ``clussvc.resources.types`` and runs only
in monitors; a test holds the two together.

Names of types and of properties are compared without regard to case, as administrators of MSCS expect; the spelling in
the table is the one that is stored and shown.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from clussvc.model.monitoring import PropertyValue
from clussvc.nlb.instance import TYPE_NAME as BALANCING
from clussvc.nlb.instance import read_instance
from clussvc.nlb.parameters import CLUSTER_DEFAULTS

PropertyKind = Literal["D", "S", "M"]
"""DWORD (a number), string, multi-string: the letters that ``cluster res /priv`` prints."""

DWORD_MAX = 2**32 - 1

_KIND_WORDS: Mapping[str, str] = {"D": "a number", "S": "a text", "M": "a list of texts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyInfo:
    """One private property of a type."""

    name: str
    kind: PropertyKind
    required: bool = False
    """The resource cannot be brought online without it."""
    default: PropertyValue | None = None
    """What counts when it was never set; None: nothing."""
    minimum: int = 0
    """Smallest allowed number (kind D only)."""
    maximum: int = DWORD_MAX
    """Largest allowed number (kind D only)."""
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceTypeInfo:
    """One resource type as administrators see it."""

    name: str
    description: str
    private: tuple[PropertyInfo, ...] = ()
    looks_alive_interval_ms: int = 5_000
    """0: failures are reported by events alone."""
    is_alive_interval_ms: int = 60_000
    required_dependencies: tuple[str, ...] = ()
    """Names of types; a resource must depend on one of each."""
    resource_class: str = "Unknown"
    """The class in the sense of MSCS: Unknown, Storage or Network."""
    extensible: bool = False
    """True for scripts: they may have any further property."""
    quorum_capable: bool = False
    """It has the entry points ``arbitrate`` and ``release``, and can be the quorum of a cluster (in MSCS: the
    quorum-capable characteristic)."""
    check: Callable[[Mapping[str, PropertyValue]], tuple[str, ...]] | None = None
    """Further rules over complete values of the right kinds, in words."""

    def property_named(self, name: str) -> PropertyInfo | None:
        """The property of that name, whatever the case of its letters."""
        wanted = name.casefold()
        return next((known for known in self.private if known.name.casefold() == wanted), None)


def prefix_length(mask: str) -> int | None:
    """The prefix length that a subnet mask means: ``255.255.255.0`` and ``24`` are both 24; None: not a mask."""
    text = mask.strip().removeprefix("/")
    if text.isascii() and text.isdecimal():
        return int(text) if int(text) <= 32 else None
    try:
        number = int(ipaddress.IPv4Address(text))
    except ValueError:
        return None
    inverted = number ^ DWORD_MAX
    # A mask is ones followed by zeros, so its complement is one less than a power of two.
    return 32 - inverted.bit_length() if inverted & (inverted + 1) == 0 else None


def _check_ip_address(values: Mapping[str, PropertyValue]) -> tuple[str, ...]:
    problems: list[str] = []
    address: ipaddress.IPv4Address | None = None
    try:
        address = ipaddress.IPv4Address(str(values.get("Address", "")).strip())
    except ValueError:
        problems.append(f"Address is {values.get('Address')!r}, which is not an IPv4 address such as 192.0.2.10")
    if address is not None and (address.is_multicast or address.is_unspecified or address.is_reserved):
        problems.append(f"Address is {address}; a host cannot have that address")
        address = None
    mask = str(values.get("SubnetMask", ""))
    prefix = prefix_length(mask)
    if prefix is None:
        problems.append(f"SubnetMask is {mask!r}; give a mask such as 255.255.255.0 or a prefix length such as 24")
    elif not 1 <= prefix <= 31:
        problems.append(f"SubnetMask is {mask!r}; its prefix length must lie in 1..31")
    elif address is not None and prefix < 31:
        network = ipaddress.IPv4Network((address, prefix), strict=False)
        if address in (network.network_address, network.broadcast_address):
            problems.append(f"Address {address} is the network or broadcast address of {network}, not a host's")
    interface = str(values.get("Network", ""))
    if interface and not re.fullmatch(r"[^\s/]{1,15}", interface):
        problems.append(f"Network is {interface!r}, which cannot be the name of a network interface")
    return tuple(problems)


def _check_absolute(*names: str) -> Callable[[Mapping[str, PropertyValue]], tuple[str, ...]]:
    """A rule: these properties, where given, are absolute paths, since a monitor has no folder of its own to mean."""

    def check(values: Mapping[str, PropertyValue]) -> tuple[str, ...]:
        return tuple(
            f"{name} is {values[name]!r}; give an absolute path"
            for name in names
            if values.get(name) and not str(values[name]).startswith("/")
        )

    return check


def _check_service(values: Mapping[str, PropertyValue]) -> tuple[str, ...]:
    name = str(values.get("ServiceName", ""))
    problems = list(_check_absolute("InitScriptFolder")(values))
    if not re.fullmatch(r"[A-Za-z0-9_.@:][A-Za-z0-9_.@:\\-]{0,200}", name):
        problems.append(f"ServiceName is {name!r}, which cannot be the name of a systemd unit or an init script")
    return tuple(problems)


def _check_balancing(values: Mapping[str, PropertyValue]) -> tuple[str, ...]:
    return tuple(problem.rstrip(".") for problem in read_instance(values)[1])


def _balanced(
    name: str, kind: PropertyKind, doc: str, *, required: bool = False, minimum: int = 0, maximum: int = DWORD_MAX
) -> PropertyInfo:
    """A parameter of a load-balanced cluster, whose default is known where parameters are read."""
    default = None if required else CLUSTER_DEFAULTS[name]
    return PropertyInfo(
        name=name, kind=kind, doc=doc, required=required, default=default, minimum=minimum, maximum=maximum
    )


_CURRENT_DIRECTORY = PropertyInfo(
    name="CurrentDirectory", kind="S", default="/", doc="The folder in which the program is started."
)

_TYPES = (
    ResourceTypeInfo(
        name="Generic Application",
        description="A program that runs until it is stopped; its end is a failure, noticed at once.",
        private=(
            PropertyInfo(
                name="CommandLine",
                kind="S",
                required=True,
                doc="The program and its arguments, split as a shell would; no shell is run.",
            ),
            _CURRENT_DIRECTORY,
        ),
        check=_check_absolute("CurrentDirectory"),
    ),
    ResourceTypeInfo(
        name="Generic Script",
        description="A Python file of functions (open, online, offline, terminate, looks_alive, is_alive, close).",
        private=(
            PropertyInfo(
                name="ScriptFilepath",
                kind="S",
                required=True,
                doc="The script; the same path on every possible owner, on a local disk.",
            ),
        ),
        extensible=True,
        check=_check_absolute("ScriptFilepath"),
    ),
    ResourceTypeInfo(
        name="Generic Service",
        description="A service of the system: a systemd unit, or an init script where systemd does not run.",
        private=(
            PropertyInfo(name="ServiceName", kind="S", required=True, doc="The unit or init script, without its path."),
            PropertyInfo(
                name="StartupParameters", kind="S", default="", doc="Further arguments to the init script's start."
            ),
            PropertyInfo(
                name="InitScriptFolder",
                kind="S",
                default="/etc/init.d",
                doc="Where the init script is looked for when systemd does not run the machine.",
            ),
        ),
        check=_check_service,
    ),
    ResourceTypeInfo(
        name="IP Address",
        description="An IPv4 address that moves with its group.",
        private=(
            PropertyInfo(name="Address", kind="S", required=True, doc="The address, such as 192.0.2.10."),
            PropertyInfo(name="SubnetMask", kind="S", required=True, doc="255.255.255.0, or the prefix length 24."),
            PropertyInfo(
                name="Network",
                kind="S",
                default="",
                doc="The network interface; empty: the one that has an address in the same subnet.",
            ),
            PropertyInfo(
                name="DuplicateCheck",
                kind="D",
                default=1,
                maximum=1,
                doc="1: before the address is taken, ask the network whether somebody has it. 0: do not.",
            ),
        ),
        resource_class="Network",
        check=_check_ip_address,
    ),
    ResourceTypeInfo(
        name=BALANCING,
        description="Shares the clients of virtual addresses among all nodes on which it is online.",
        private=(
            _balanced(
                "ClusterIPAddress",
                "S",
                "The primary virtual address, IPv4 or IPv6; it names the load-balanced cluster.",
                required=True,
            ),
            _balanced("ClusterNetworkMask", "S", "255.255.255.0, or the prefix length 24."),
            _balanced("VirtualIPAddresses", "M", "Further virtual addresses, each with its prefix: 192.0.2.11/24."),
            _balanced("ClusterName", "S", "The full Internet name, for people."),
            _balanced("OperationMode", "S", "unicast, multicast or igmp: which link address the hosts share."),
            _balanced(
                "ClusterNetworkAddress",
                "S",
                "The shared link address; empty: the one that follows from ClusterIPAddress.",
            ),
            _balanced(
                "MaskSourceMAC", "D", "1: in the mode unicast no frame is sent from the shared link address.", maximum=1
            ),
            _balanced("IGMPVersion", "D", "The version of group reports in the mode igmp.", minimum=1, maximum=3),
            _balanced(
                "BucketCount",
                "D",
                "Into how many buckets clients fall: 60 as in the original, or 960 for evenness.",
                maximum=960,
            ),
            _balanced(
                "PortRules",
                "M",
                "VIP PORTS PROTOCOL MODE [AFFINITY [LOAD]] [resource=NAME | probe=PROBE], one string each.",
            ),
            _balanced(
                "HostParameters",
                "M",
                "NODE priority=N [dip=A/P] [weight:PORT=N] [handling:PORT=N], one string each.",
                required=True,
            ),
            _balanced(
                "AliveMsgPeriod", "D", "Milliseconds between two heartbeats of a host.", minimum=10, maximum=10_000
            ),
            _balanced(
                "AliveMsgTolerance",
                "D",
                "Periods without a heartbeat after which a host is dead.",
                minimum=5,
                maximum=100,
            ),
            _balanced("FilterICMP", "D", "1: ICMP is shared like other traffic. 0: every host takes it.", maximum=1),
            _balanced(
                "TCPConnectionTimeout",
                "D",
                "Seconds after which a closing connection is forgotten.",
                minimum=1,
                maximum=86_400,
            ),
            _balanced(
                "IPSecConnectionTimeout",
                "D",
                "Seconds after which an idle IPsec session is forgotten.",
                minimum=1,
                maximum=604_800,
            ),
            _balanced("TeamID", "S", "Instances of one team (bi-directional affinity) decide alike; empty: no team."),
            _balanced("Master", "D", "1: the team decides by the state of this instance.", maximum=1),
            _balanced("ReverseHash", "D", "1: source and destination change places before the decision.", maximum=1),
            PropertyInfo(
                name="Interface",
                kind="S",
                default="",
                doc="The network interface; empty: the one with an address in the subnet of ClusterIPAddress.",
            ),
            PropertyInfo(name="HostInterfaces", kind="M", default=(), doc="NODE INTERFACE for hosts with another one."),
            PropertyInfo(
                name="FilterMode",
                kind="S",
                default="auto",
                doc="auto, generic or native: whether the kernel or the adapter's driver runs the packet filter.",
            ),
            PropertyInfo(
                name="DrainSeconds",
                kind="D",
                default=0,
                maximum=86_400,
                doc="How long going offline waits for open connections to end; 0: they are lost.",
            ),
            PropertyInfo(
                name="HostStates",
                kind="M",
                default=(),
                doc="What was commanded with nlb: NODE stop, NODE drain RULE, ... Use nlb to change it.",
            ),
        ),
        resource_class="Network",
        looks_alive_interval_ms=5_000,
        is_alive_interval_ms=30_000,
        check=_check_balancing,
    ),
)

BUILTIN_TYPES: Mapping[str, ResourceTypeInfo] = {info.name: info for info in _TYPES}
"""The types that come with the product, by name."""

_BY_FOLDED_NAME = {info.name.casefold(): info for info in _TYPES}


def find_type(name: str) -> ResourceTypeInfo | None:
    """The built-in type of that name, whatever the case of its letters; None: there is none."""
    return _BY_FOLDED_NAME.get(name.casefold())


def complete_private(info: ResourceTypeInfo, values: Mapping[str, PropertyValue]) -> dict[str, PropertyValue]:
    """``values`` under the spelling of the type, with the defaults of the type filled in."""
    complete = {known.name: known.default for known in info.private if known.default is not None}
    for name, value in values.items():
        known = info.property_named(name)
        complete[known.name if known else name] = value
    return complete


def check_private(info: ResourceTypeInfo, values: Mapping[str, PropertyValue]) -> tuple[str, ...]:
    """All that is wrong with these private properties, in sentences; empty when the resource may use them.

    A required property that is missing or empty is a problem, so call this for a resource that is to go online; an
    administrator may create the resource first and set the properties afterwards (then see :func:`check_kinds`).
    """
    problems = list(check_kinds(info, values))
    complete = complete_private(info, values)
    missing = [known.name for known in info.private if known.required and complete.get(known.name, "") in ("", ())]
    problems.extend(f"{name} is required by the type {info.name} and is not set" for name in missing)
    if not problems and info.check is not None:
        problems.extend(info.check(complete))
    return tuple(problems)


def check_kinds(info: ResourceTypeInfo, values: Mapping[str, PropertyValue]) -> tuple[str, ...]:
    """What is wrong with each value by itself: unknown names, wrong kinds, numbers out of range."""
    problems = []
    for name, value in values.items():
        known = info.property_named(name)
        if known is None:
            if not info.extensible:
                names = ", ".join(other.name for other in info.private)
                problems.append(f"{name} is not a property of the type {info.name}, which has: {names}")
        elif not _has_kind(value, known.kind):
            problems.append(f"{known.name} is {value!r}; it must be {_KIND_WORDS[known.kind]}")
        elif isinstance(value, int) and not known.minimum <= value <= known.maximum:
            problems.append(f"{known.name} is {value}; it must lie in {known.minimum}..{known.maximum}")
    return tuple(problems)


def _has_kind(value: PropertyValue, kind: PropertyKind) -> bool:
    if kind == "D":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "S":
        return isinstance(value, str)
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)

"""The common properties of every kind of object: names, kinds, defaults, ranges, and how they are stored.

An administrator sets them by the names that MSCS published (``FailoverThreshold``); the configuration stores them in
fields of its own (``failover_threshold``). The tables below are the only place where the two meet: the log validates
with them, the command line lists with them.

The idea that needs care is the DWORD: MSCS shows -1 as 4294967295 (0xffffffff) and means "unset", "never" or "no
window" by it. Here both spellings are understood on the way in, 4294967295 is shown on the way out, and the field
holds what its own type says (None for an unset interval, -1 for no window).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from clussvc.model.config import FAILOVER_TYPE, PARALLEL_TYPE, Config, FenceDevice, Group, Network, Node, Resource
from clussvc.model.monitoring import PropertyValue
from clussvc.model.reports import Report, bad_property, read_only_property, unknown_property
from clussvc.model.settings import INSTANCES_MAX, PROFILES, PROPERTY_BYTES_MAX, QUARANTINE_THRESHOLD_MAX, Timing

DWORD_MAX = 2**32 - 1
ULONG_MAX = 2**64 - 1
PRIVATE_PROPERTIES_MAX = 256
"""Private properties of one object."""
PROPERTY_NAME_LENGTH_MAX = 255

PropertyKind = Literal["D", "S", "M"]
"""DWORD, string, multi-string: the letters that ``/prop`` prints."""

Form = Literal["plain", "flag", "optional", "signed", "profile"]
"""How a value is stored: as it is; as a bool; as an int or None for -1; as an int that may be negative; as a Timing."""

Stored = int | bool | str | tuple[str, ...] | Timing | None
"""What a field of the configuration may hold for a common property."""

_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})")


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyDef:
    """One common property. The range is inclusive and holds for kind D; -1 stands for 4294967295."""

    name: str
    kind: PropertyKind
    attribute: str
    """The field of the object in the configuration."""
    default: PropertyValue = ""
    """What ``/usedefault`` sets it to."""
    minimum: int = 0
    maximum: int = DWORD_MAX
    also: tuple[int, ...] = ()
    """Further numbers that are allowed outside the range."""
    read_only: bool = False
    form: Form = "plain"
    choices: tuple[str, ...] = ()
    """The only texts that are allowed, if there are any."""
    doc: str = ""

    @property
    def letters(self) -> str:
        """The type column of a listing: D, S or M, with an R if it cannot be set."""
        return self.kind + ("R" if self.read_only else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadValue:
    """Why a value was not understood, as the end of a sentence."""

    why: str


def _flag(name: str, attribute: str, doc: str, *, read_only: bool = False, default: int = 0) -> PropertyDef:
    return PropertyDef(
        name=name, kind="D", attribute=attribute, default=default, maximum=1, form="flag", read_only=read_only, doc=doc
    )


def _name(name: str = "Name") -> PropertyDef:
    return PropertyDef(name=name, kind="S", attribute="name", read_only=True, doc="Changed by /rename.")


_DESCRIPTION = PropertyDef(name="Description", kind="S", attribute="description", doc="A comment.")

CLUSTER_PROPERTIES: tuple[PropertyDef, ...] = (
    _name(),
    _DESCRIPTION,
    PropertyDef(
        name="TimingProfile",
        kind="S",
        attribute="timing",
        default="lan",
        form="profile",
        doc="How quickly a death is noticed: lan, fast, wan or loopback. A running cluster can be made slower only.",
    ),
    PropertyDef(
        name="UtcOffsetMinutes",
        kind="D",
        attribute="utc_offset_min",
        default=0,
        minimum=-720,
        maximum=840,
        form="signed",
        doc="Cluster local time minus UTC, for failback windows.",
    ),
    _flag(
        "DynamicVotes",
        "dynamic_votes",
        "1: nodes that are down or stop lose their vote until they are up, and an even number of votes becomes odd.",
    ),
    _flag(
        "FencingRequired",
        "fencing_required",
        "1: a silent node with fence devices counts as down only when it was fenced or confirmed to be down.",
    ),
    PropertyDef(
        name="QuarantineThreshold",
        kind="D",
        attribute="quarantine_threshold",
        default=0,
        maximum=QUARANTINE_THRESHOLD_MAX,
        doc="Losses within QuarantinePeriod after which a node is kept out; 0: never.",
    ),
    PropertyDef(
        name="QuarantinePeriod",
        kind="D",
        attribute="quarantine_period_s",
        default=3_600,
        minimum=1,
        doc="Seconds over which the losses of a node are counted.",
    ),
    PropertyDef(
        name="QuarantineDuration",
        kind="D",
        attribute="quarantine_duration_s",
        default=7_200,
        minimum=1,
        doc="Seconds for which a node is kept out.",
    ),
)

NODE_PROPERTIES: tuple[PropertyDef, ...] = (_name("NodeName"), _DESCRIPTION)

GROUP_PROPERTIES: tuple[PropertyDef, ...] = (
    _name(),
    _DESCRIPTION,
    _flag("PersistentState", "persistent_state", "1: the group should be online; survives restarts."),
    PropertyDef(
        name="FailoverThreshold",
        kind="D",
        attribute="failover_threshold",
        default=10,
        doc="Failovers allowed within FailoverPeriod.",
    ),
    PropertyDef(
        name="FailoverPeriod",
        kind="D",
        attribute="failover_period_h",
        default=6,
        maximum=1193,
        doc="Hours over which failovers are counted.",
    ),
    _flag("AutoFailbackType", "auto_failback", "1: return to a node that ranks higher in the preferred owners."),
    PropertyDef(
        name="FailbackWindowStart",
        kind="D",
        attribute="failback_window_start_h",
        default=DWORD_MAX,
        minimum=-1,
        maximum=23,
        form="signed",
        doc="First hour of cluster local time in which a failback may happen; -1: no window.",
    ),
    PropertyDef(
        name="FailbackWindowEnd",
        kind="D",
        attribute="failback_window_end_h",
        default=DWORD_MAX,
        minimum=-1,
        maximum=23,
        form="signed",
        doc="The hour at which the window closes; -1: no window.",
    ),
    PropertyDef(
        name="AntiAffinityClassNames",
        kind="M",
        attribute="anti_affinity",
        default=(),
        doc="Groups that share a name avoid each other's nodes.",
    ),
    PropertyDef(
        name="GroupType",
        kind="S",
        attribute="group_type",
        default=FAILOVER_TYPE,
        choices=(FAILOVER_TYPE, PARALLEL_TYPE),
        doc="failover: runs on one node. parallel: runs in instances, one on a node. Changed while it is offline.",
    ),
    PropertyDef(
        name="MaxInstances",
        kind="D",
        attribute="max_instances",
        default=0,
        maximum=INSTANCES_MAX,
        doc="On how many nodes a parallel group runs at most; 0: on every possible owner.",
    ),
)

RESOURCE_PROPERTIES: tuple[PropertyDef, ...] = (
    _name(),
    PropertyDef(name="Type", kind="S", attribute="type", read_only=True, doc="Chosen when the resource is created."),
    _DESCRIPTION,
    _flag("SeparateMonitor", "separate_monitor", "1: has a resource monitor process of its own.", read_only=True),
    _flag("PersistentState", "persistent_state", "1: the resource should be online; survives restarts."),
    PropertyDef(
        name="LooksAlivePollInterval",
        kind="D",
        attribute="looks_alive_poll_interval_ms",
        default=DWORD_MAX,
        minimum=10,
        also=(0,),
        form="optional",
        doc="Milliseconds between cheap health checks; -1: as the type says; 0: by events alone.",
    ),
    PropertyDef(
        name="IsAlivePollInterval",
        kind="D",
        attribute="is_alive_poll_interval_ms",
        default=DWORD_MAX,
        minimum=10,
        form="optional",
        doc="Milliseconds between thorough health checks; -1: as the type says.",
    ),
    PropertyDef(
        name="RestartAction",
        kind="D",
        attribute="restart_action",
        default=2,
        maximum=2,
        doc="0: never restart. 1: restart, leave the group alone. 2: restart, then fail the group over.",
    ),
    PropertyDef(
        name="RestartThreshold",
        kind="D",
        attribute="restart_threshold",
        default=3,
        doc="Restarts allowed within RestartPeriod.",
    ),
    PropertyDef(
        name="RestartPeriod",
        kind="D",
        attribute="restart_period_ms",
        default=900_000,
        doc="Milliseconds over which restarts are counted.",
    ),
    PropertyDef(
        name="RetryPeriodOnFailure",
        kind="D",
        attribute="retry_period_on_failure_ms",
        default=DWORD_MAX,
        form="optional",
        doc="Milliseconds after which a failed resource is tried again; -1: never.",
    ),
    PropertyDef(
        name="PendingTimeout",
        kind="D",
        attribute="pending_timeout_ms",
        default=180_000,
        minimum=10,
        doc="Milliseconds of silence after which a pending resource has failed.",
    ),
)

FENCE_PROPERTIES: tuple[PropertyDef, ...] = (
    _name(),
    PropertyDef(name="Agent", kind="S", attribute="agent", read_only=True, doc="Chosen when the device is created."),
    _DESCRIPTION,
    PropertyDef(
        name="Action",
        kind="S",
        attribute="action",
        default="reboot",
        choices=("off", "reboot"),
        doc="reboot: switch the node on again once it is known to be off. off: leave it off.",
    ),
    PropertyDef(
        name="Order",
        kind="D",
        attribute="order",
        default=100,
        maximum=1_000,
        doc="The devices of a node are tried one after the other, the smallest number first.",
    ),
    PropertyDef(
        name="Timeout",
        kind="D",
        attribute="timeout_ms",
        default=20_000,
        minimum=100,
        maximum=600_000,
        doc="Milliseconds that one run of the agent may take.",
    ),
    _flag("Verify", "verify", "1: believe nothing before the agent's status says that the node is off.", default=1),
)

NETWORK_PROPERTIES: tuple[PropertyDef, ...] = (
    _name(),
    PropertyDef(name="Address", kind="S", attribute="address", read_only=True, doc="The subnet, as the nodes tell it."),
    PropertyDef(name="AddressMask", kind="S", attribute="mask", read_only=True, doc="The subnet's mask."),
    _DESCRIPTION,
    PropertyDef(
        name="Role",
        kind="D",
        attribute="role",
        default=3,
        maximum=3,
        doc="0: not used. 1: internal, for heartbeats and the log. 2: for clients. 3: both.",
    ),
    PropertyDef(
        name="Priority",
        kind="D",
        attribute="priority",
        default=0,
        maximum=1_000,
        doc="Of the internal networks the one with the smallest number carries the log.",
    ),
)

PROPERTIES: Mapping[str, tuple[PropertyDef, ...]] = {
    "cluster": CLUSTER_PROPERTIES,
    "node": NODE_PROPERTIES,
    "group": GROUP_PROPERTIES,
    "resource": RESOURCE_PROPERTIES,
    "fence": FENCE_PROPERTIES,
    "network": NETWORK_PROPERTIES,
}
"""The table of each kind of object, in the order of a listing."""


def find_property(kind: str, name: str) -> PropertyDef | None:
    """The common property of that name, whatever the case of its letters; None if that kind has none."""
    wanted = name.casefold()
    return next((known for known in PROPERTIES[kind] if known.name.casefold() == wanted), None)


def convert(definition: PropertyDef, value: PropertyValue) -> Stored | BadValue:
    """What the configuration stores for ``value``, or why it cannot be stored.

    A number may come as a decimal or 0x text, and a single text stands for a list of one; -1 is 4294967295.
    """
    if definition.kind == "D":
        return _convert_number(definition, value)
    if definition.kind == "M":
        values = (value,) if isinstance(value, str) and value else value
        if values == "":
            return ()
        if not isinstance(values, tuple) or not all(isinstance(item, str) for item in values):
            return BadValue(why=f"{value!r} is not a list of texts")
        return values if _bytes_of(values) <= PROPERTY_BYTES_MAX else _too_long()
    if not isinstance(value, str):
        return BadValue(why=f"{value!r} is not a text")
    if _bytes_of(value) > PROPERTY_BYTES_MAX:
        return _too_long()
    if definition.form == "profile":
        timing = PROFILES.get(value.lower())
        return timing if timing else BadValue(why=f"{value!r} is none of {', '.join(PROFILES)}")
    if definition.choices:
        chosen = value.strip().lower()
        return (
            chosen
            if chosen in definition.choices
            else BadValue(why=f"{value!r} is none of {', '.join(definition.choices)}")
        )
    return value


def _convert_number(definition: PropertyDef, value: PropertyValue) -> Stored | BadValue:
    number = as_number(value)
    if number is None:
        return BadValue(why=f"{value!r} is not a number such as 10 or 0xa")
    if not -(2**31) <= number <= DWORD_MAX:
        return BadValue(why=f"{number} does not fit into 32 bits")
    if definition.form == "signed":
        number = number - 2**32 if number >= 2**31 else number
    elif number < -1:
        return BadValue(why=f"{number} is outside {_range_of(definition)}")
    else:
        number %= 2**32
    if definition.form == "optional" and number == DWORD_MAX:
        return None
    if not definition.minimum <= number <= definition.maximum and number not in definition.also:
        return BadValue(why=f"{number} is outside {_range_of(definition)}")
    return bool(number) if definition.form == "flag" else number


def as_number(value: PropertyValue) -> int | None:
    """The number that an int, or a decimal or 0x text, means; None if it means none."""
    if isinstance(value, int):
        return int(value)
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return None
    text = value.strip().lower()
    return int(text, 16) if "x" in text else int(text, 10)


def _range_of(definition: PropertyDef) -> str:
    unset = ", or -1" if definition.form == "optional" else ""
    also = "".join(f", or {number}" for number in definition.also)
    return f"{definition.minimum}..{definition.maximum}{also}{unset}"


def _too_long() -> BadValue:
    return BadValue(why=f"the value is longer than {PROPERTY_BYTES_MAX} bytes")


def _bytes_of(value: PropertyValue) -> int:
    if isinstance(value, int):
        return 8
    texts = (value,) if isinstance(value, str) else value
    return sum(len(text.encode("utf-8", "surrogatepass")) + 1 for text in texts)


def shown(definition: PropertyDef, stored: Stored) -> PropertyValue:
    """The value as a listing shows it: every number a DWORD, so that -1 and None are 4294967295."""
    if isinstance(stored, Timing):
        return stored.profile
    if stored is None:
        return DWORD_MAX
    if isinstance(stored, int):
        return int(stored) % 2**32
    return stored


def common_values(
    thing: Config | Node | Group | Resource | FenceDevice | Network,
) -> list[tuple[PropertyDef, PropertyValue]]:
    """All common properties of an object with their present values, in the order of a listing."""
    return [(known, shown(known, getattr(thing, known.attribute))) for known in PROPERTIES[kind_of(thing)]]


def kind_of(thing: Config | Node | Group | Resource | FenceDevice | Network) -> str:
    """The word for the kind of an object: cluster, node, group, resource, fence or network."""
    if isinstance(thing, Config):
        return "cluster"
    kinds: dict[type, str] = {
        Node: "node",
        Group: "group",
        Resource: "resource",
        FenceDevice: "fence",
        Network: "network",
    }
    return kinds[type(thing)]


def common_changes(kind: str, owner: str, values: Mapping[str, PropertyValue | None]) -> dict[str, Stored] | Report:
    """The fields to replace for these common properties, or the first thing that is wrong with them.

    ``owner`` names the object in the refusal ("group 'SQL'"); a value of None resets to the default. Of two spellings
    of one property the last one counts.
    """
    changes: dict[str, Stored] = {}
    for name, value in values.items():
        known = find_property(kind, name)
        if known is None:
            return unknown_property(owner, name, [each.name for each in PROPERTIES[kind] if not each.read_only])
        if known.read_only:
            return read_only_property(owner, known.name)
        stored = convert(known, known.default if value is None else value)
        if isinstance(stored, BadValue):
            return bad_property(owner, known.name, stored.why)
        changes[known.attribute] = stored
    return changes


def private_changes(
    owner: str, present: Mapping[str, PropertyValue], values: Mapping[str, PropertyValue | None]
) -> dict[str, PropertyValue] | Report:
    """The private properties after setting ``values`` (None removes), or the first thing that is wrong with them.

    Names are compared without regard to case; the first spelling stays. Which names and kinds make sense is for the
    resource type to say.
    """
    merged = dict(present)
    spelling = {name.casefold(): name for name in merged}
    for name, value in values.items():
        key = spelling.setdefault(name.casefold(), name)
        if value is None:
            merged.pop(key, None)
            continue
        problem = _private_problem(key, value)
        if problem is not None:
            return bad_property(owner, name[:PROPERTY_NAME_LENGTH_MAX], problem)
        merged[key] = int(value) if isinstance(value, int) else value
    if len(merged) > PRIVATE_PROPERTIES_MAX:
        return bad_property(owner, next(reversed(merged)), f"there are {PRIVATE_PROPERTIES_MAX} already, the maximum")
    return merged


def _private_problem(name: str, value: PropertyValue) -> str | None:
    if not 1 <= len(name) <= PROPERTY_NAME_LENGTH_MAX or not is_printable(name) or name != name.strip():
        return f"a name has 1 to {PROPERTY_NAME_LENGTH_MAX} printable characters and no blank at either end"
    if isinstance(value, int) and not -(2**31) <= value <= ULONG_MAX:
        return f"{value} does not fit into 64 bits"
    if _bytes_of(value) > PROPERTY_BYTES_MAX:
        return _too_long().why
    return None


def is_printable(text: str) -> bool:
    """Whether a text is free of control characters, line separators and halves of characters.

    Ranges of our own: ``str.isprintable`` follows the Unicode tables of the Python release, and nodes may differ.
    """
    return not any(
        ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 or ord(char) in (0x2028, 0x2029) or 0xD800 <= ord(char) < 0xE000
        for char in text
    )

"""Port rules: how the traffic for the virtual addresses of a cluster is spread, as values, as text, and what makes
them valid.

A rule covers a range of ports of one virtual address, or of all those that no rule of their own covers, for TCP,
UDP or both:

* **Multiple**: all hosts share the clients, by their weights and by affinity;
* **Single**: one host takes everything, the one that lives and has the lowest handling priority;
* **Disabled**: nobody takes anything.

As text (one string of the property ``PortRules`` for each rule) a rule is its columns in the order of ``nlb params``::

    All 80-80 TCP Multiple Single Equal
    192.0.2.10 443 TCP Multiple None 30 timeout=20 resource="Web server"
    All 25 TCP Single
    All 8080 TCP Multiple probe=http:/health
    All 0-79 Both Disabled

``VIP PORTS PROTOCOL MODE [AFFINITY [LOAD]] [timeout=MINUTES] [resource=NAME | probe=PROBE]``: affinity (None, Single,
Network; default Single) and load (Equal or 0..100; default Equal) belong to Multiple alone. ``resource`` names a
cluster resource; a host on which it is not online is drained for the rule. So is one on which the rule's *probe*
(:mod:`clussvc.nlb.probe`) is not answered. Case does not matter. The text printed is
always the full, canonical one.

Every host sorts its rules alike (:func:`sort_rules`), since heartbeats name a rule only by its place. What must be
equal on all hosts goes into a rule's 32-bit *code*; load and handling priority may differ for each host and do not.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from ipaddress import ip_address
from typing import TypeVar

from clussvc.nlb.bucket_map import WEIGHT_MAX
from clussvc.nlb.mac import Address
from clussvc.nlb.probe import OPTIONS as PROBE_OPTIONS
from clussvc.nlb.probe import Probe, parse_probe

RULES_MAX = 32
"""Port rules of one cluster, as published; heartbeats have one more place, for the default rule."""
PORT_MAX = 65_535
HOSTS_MAX = 32
"""Hosts of one cluster, as published."""
TIMEOUT_MIN_MAX = 240
"""Minutes for which a client may be remembered after its last connection."""
WEIGHT_EQUAL = 50
"""What Equal counts as beside weights in numbers."""
RESOURCE_NAME_LENGTH_MAX = 255


@unique
class Protocol(Enum):
    """The transport protocols of a rule."""

    TCP = "TCP"
    UDP = "UDP"
    BOTH = "Both"

    @property
    def number(self) -> int:
        """1, 2, or 3 for both: also a set of bits."""
        return 1 if self is Protocol.TCP else 2 if self is Protocol.UDP else 3

    def meets(self, other: Protocol) -> bool:
        """Whether some packet belongs to both."""
        return bool(self.number & other.number)


@unique
class FilteringMode(Enum):
    """Who takes the traffic of a rule."""

    MULTIPLE = "Multiple"
    SINGLE = "Single"
    DISABLED = "Disabled"


@unique
class Affinity(Enum):
    """Which clients stay together: none (by address and port), one address, or one network (/24; of IPv6, /64)."""

    NONE = "None"
    SINGLE = "Single"
    NETWORK = "Network"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRule:
    """One port rule. The defaults are those of the rule that a new cluster has: everything, shared equally."""

    vip: Address | None = None
    """None: all virtual addresses for which no other rule covers the packet."""
    start_port: int = 0
    end_port: int = PORT_MAX
    """Inclusive."""
    protocol: Protocol = Protocol.BOTH
    mode: FilteringMode = FilteringMode.MULTIPLE
    affinity: Affinity = Affinity.SINGLE
    """Has a meaning with Multiple only, and is Single otherwise."""
    load: int | None = None
    """The share of a host that says nothing else: 0..100; None: equal. Has a meaning with Multiple only."""
    timeout_min: int = 0
    """Minutes, 0..240, for which a client is remembered after its last connection; 0: not at all."""
    resource: str = ""
    """The cluster resource that must be online on a host for it to take new clients; empty: none."""
    probe: Probe | None = None
    """What the server on a host must answer for it to take new clients; None: it is not asked."""

    @property
    def weight(self) -> int:
        """The load as a number."""
        return WEIGHT_EQUAL if self.load is None else self.load

    @property
    def vip_text(self) -> str:
        """The virtual address, or ``All``."""
        return "All" if self.vip is None else str(self.vip)

    @property
    def probed_port(self) -> int:
        """Where the probe of the rule looks for the server."""
        return (self.probe.port if self.probe is not None else 0) or self.start_port

    @property
    def title(self) -> str:
        """How messages name the rule: ``All 80-80 TCP``."""
        return f"{self.vip_text} {self.start_port}-{self.end_port} {self.protocol.value}"

    def covers_port(self, port: int) -> bool:
        """Whether the port lies in the range."""
        return self.start_port <= port <= self.end_port

    def overlaps(self, other: PortRule) -> bool:
        """Whether both would claim some packet for the same address. A rule for one address wins over one for all, so
        these two do not overlap."""
        return (
            self.vip == other.vip
            and self.protocol.meets(other.protocol)
            and self.start_port <= other.end_port
            and other.start_port <= self.end_port
        )

    def code(self) -> int:
        """The 32-bit digest of all that must be equal on every host; never 0, which stands for no rule.

        Neither load, resource nor probe is part of it: they decide only with which weight a host takes part.
        """
        words = (self.title, self.mode.value, self.affinity.value, str(self.timeout_min))
        digest = hashlib.blake2b("|".join(words).encode(), digest_size=4, person=b"nlb port rule").digest()
        return int.from_bytes(digest, "little") or 1

    def text(self) -> str:
        """The canonical text; :func:`parse_rule` understands it."""
        columns = [self.title, self.mode.value]
        if self.mode is FilteringMode.MULTIPLE:
            columns += [self.affinity.value, "Equal" if self.load is None else str(self.load)]
        if self.timeout_min:
            columns.append(f"timeout={self.timeout_min}")
        if self.resource:
            columns.append(f"resource={shlex.quote(self.resource)}")
        if self.probe is not None:
            columns.append(self.probe.text())
        return " ".join(columns)

    def validate(self) -> tuple[str, ...]:
        """All that is wrong with this rule by itself, in sentences that name it."""
        problems = []
        if not 0 <= self.start_port <= self.end_port <= PORT_MAX:
            problems.append(
                f"the ports are {self.start_port}-{self.end_port};"
                f" give a range within 0-{PORT_MAX}, the lower port first"
            )
        if self.load is not None and not 0 <= self.load <= WEIGHT_MAX:
            problems.append(f"the load is {self.load}; give Equal or a number in 0..{WEIGHT_MAX}")
        if not 0 <= self.timeout_min <= TIMEOUT_MIN_MAX:
            problems.append(f"the timeout is {self.timeout_min}; give minutes in 0..{TIMEOUT_MIN_MAX}")
        multiple = self.mode is FilteringMode.MULTIPLE
        if not multiple and (self.load is not None or self.affinity is not Affinity.SINGLE):
            problems.append(f"affinity and load belong to the mode Multiple, and this rule is {self.mode.value}")
        if self.timeout_min and (not multiple or self.affinity is Affinity.NONE):
            problems.append("a timeout needs the mode Multiple with affinity Single or Network")
        if self.vip is not None and (self.vip.is_multicast or self.vip.is_unspecified or self.vip.is_loopback):
            problems.append(f"{self.vip} cannot be the virtual address of a cluster")
        if len(self.resource) > RESOURCE_NAME_LENGTH_MAX or not (self.resource.isprintable()):
            problems.append(
                f"the name of the resource must be printable and have at most {RESOURCE_NAME_LENGTH_MAX} letters"
            )
        problems += self._wrong_probe(self.probe) if self.probe is not None else ()
        return tuple(f"Port rule '{self.title}': {problem}." for problem in problems)

    def _wrong_probe(self, probe: Probe) -> list[str]:
        problems = list(probe.problems())
        if self.resource:
            problems.append("it names a resource and a probe; a rule follows one of them, so leave the other out")
        if self.mode is FilteringMode.DISABLED:
            problems.append("nobody serves a rule that is Disabled; leave the probe out")
        if not probe.port and self.start_port == 0:
            problems.append("the probe does not know the port of the server; name it, as in probe=tcp:80")
        elif not probe.port and self.protocol is Protocol.UDP:
            problems.append(
                "a probe asks over TCP, and the rule is for UDP; name a TCP port of the server, as in probe=tcp:53"
            )
        return problems


DEFAULT_RULES = (PortRule(),)
"""What a new cluster has: all addresses, ports and protocols, shared equally with single affinity."""


def sort_rules(rules: Iterable[PortRule]) -> tuple[PortRule, ...]:
    """The one order in which all hosts keep their rules: by port range, then address (all addresses last), then
    protocol."""

    def key(rule: PortRule) -> tuple[int, int, int, int, int]:
        family, number = (9, 0) if rule.vip is None else (rule.vip.version, int(rule.vip))
        return rule.start_port, rule.end_port, family, number, rule.protocol.number

    return tuple(sorted(rules, key=key))


def validate_rules(rules: Sequence[PortRule], vips: Sequence[Address] | None = None) -> tuple[str, ...]:
    """All that is wrong with the rules of one cluster, each alone and together; empty when they may be used.

    ``vips``: the virtual addresses of the cluster, if they are known; a rule for another one would never match.
    """
    problems = [problem for rule in rules for problem in rule.validate()]
    if len(rules) > RULES_MAX:
        problems.append(
            f"There are {len(rules)} port rules; a cluster has at most {RULES_MAX}. Join ranges or remove some."
        )
        return tuple(problems)
    for at, rule in enumerate(rules):
        problems += [
            f"Port rules '{rule.title}' and '{other.title}' overlap; change the ports or the protocol of one of them."
            for other in rules[at + 1 :]
            if rule.overlaps(other)
        ]
        if vips is not None and rule.vip is not None and rule.vip not in vips:
            problems.append(
                f"Port rule '{rule.title}': {rule.vip} is not a virtual address of the cluster; its addresses are:"
                f" {', '.join(map(str, vips)) or 'none'}."
            )
    return tuple(problems)


def find_rule(rules: Sequence[PortRule], vip: Address, port: int, protocol: Protocol) -> int | None:
    """The place of the rule that a packet belongs to: one for its address before one for all; None: the default host's.

    ``protocol`` is TCP or UDP.
    """
    for wanted in (vip, None):
        for at, rule in enumerate(rules):
            if rule.vip == wanted and rule.covers_port(port) and rule.protocol.meets(protocol):
                return at
    return None


# --- which rules somebody means -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScope:
    """Names rules as commands do: ``[VIP:]PORT``. The rules that contain the port are meant, each as a whole.

    ``80``: whatever the address; ``all:80``: rules for all addresses; ``192.0.2.10:80`` and ``[2001:db8::1]:80``:
    rules of that address; ``all`` in the place of the port: every port; ``all`` alone or ``all:all``: every rule
    there is.
    """

    vip: Address | None = None
    for_all_vips: bool = False
    """Only rules for all addresses. Without it and without ``vip`` the address does not matter."""
    port: int | None = None
    """None: every port."""

    def means(self, rule: PortRule) -> bool:
        """Whether the rule is one of those meant."""
        if self.vip is not None and rule.vip != self.vip:
            return False
        if self.for_all_vips and rule.vip is not None:
            return False
        return self.port is None or rule.covers_port(self.port)

    def text(self) -> str:
        """As it is written."""
        port = "all" if self.port is None else str(self.port)
        if self.vip is None:
            return f"all:{port}" if self.for_all_vips or self.port is None else port
        return f"{self.vip}:{port}" if self.vip.version == 4 else f"[{self.vip}]:{port}"


def parse_scope(text: str) -> RuleScope | None:
    """The rules that a text names; None: it is not such a text."""
    word = text.strip().lower()
    if word in ("all", "all:all"):
        return RuleScope()
    found = re.fullmatch(r"(?:(all|\[[0-9a-f:.]+\]|[0-9.]+):)?(all|[0-9]{1,5})", word)
    if found is None:
        bare = _address(word)
        return RuleScope(vip=bare) if bare is not None else None
    where, which = found.groups()
    port = None if which == "all" else int(which)
    if port is not None and port > PORT_MAX:
        return None
    if where is None:
        return RuleScope(port=port)
    if where == "all":
        return RuleScope(for_all_vips=True, port=port)
    vip = _address(where.strip("[]"))
    return RuleScope(vip=vip, port=port) if vip is not None else None


# --- text -----------------------------------------------------------------------------------------------------------

_Word = TypeVar("_Word", bound=Enum)

_FORM = "VIP PORTS PROTOCOL MODE [AFFINITY [LOAD]] [timeout=MINUTES] [resource=NAME | probe=PROBE]"


def parse_rule(text: str) -> PortRule | str:
    """The rule that a text means, or a sentence that says what is wrong with it. The rule may still be invalid."""
    try:
        words = shlex.split(text)
    except ValueError:
        return f"Port rule {text!r}: a quotation mark is not closed."
    columns = [word for word in words if "=" not in word]
    options = [word.partition("=") for word in words if "=" in word]
    if not 4 <= len(columns) <= 6:
        return (
            f"Port rule {text!r} has {len(columns)} columns; write {_FORM},"
            " such as 'All 80-80 TCP Multiple Single Equal'."
        )
    everything = columns[0].lower() in ("all", "255.255.255.255")
    vip = None if everything else _address(columns[0])
    if vip is None and not everything:
        return f"Port rule {text!r}: {columns[0]!r} is not an address; give a virtual address, or All."
    ports = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", columns[1])
    if ports is None:
        return f"Port rule {text!r}: {columns[1]!r} is not a range of ports; give one such as 80 or 8000-8099."
    protocol = _word(Protocol, columns[2])
    if protocol is None:
        return f"Port rule {text!r}: {columns[2]!r} is not a protocol; give TCP, UDP or Both."
    mode = _word(FilteringMode, columns[3])
    if mode is None:
        return f"Port rule {text!r}: {columns[3]!r} is not a mode; give Multiple, Single or Disabled."
    if len(columns) > 4 and mode is not FilteringMode.MULTIPLE:
        return f"Port rule {text!r}: affinity and load belong to the mode Multiple; leave {columns[4]!r} out."
    affinity = _word(Affinity, columns[4]) if len(columns) > 4 else Affinity.SINGLE
    if affinity is None:
        return f"Port rule {text!r}: {columns[4]!r} is not an affinity; give None, Single or Network."
    load: int | None = None
    if len(columns) > 5 and columns[5].lower() not in ("equal", "eql"):
        load = _number(columns[5])
        if load is None:
            return f"Port rule {text!r}: {columns[5]!r} is not a load; give Equal or a number in 0..{WEIGHT_MAX}."
    timeout_min: int | None = 0
    given = {name.lower(): value for name, _, value in options}
    known = ("timeout", "resource", *PROBE_OPTIONS)
    for name, _, _ in options:
        if name.lower() not in known or len(given) != len(options):
            listed = ", ".join(f"{one}=" for one in known)
            return f"Port rule {text!r}: {name!r} is not understood here; {listed} may each be given once."
    probe = parse_probe(given)
    if isinstance(probe, str):
        return f"Port rule {text!r}: {probe}."
    resource = given.get("resource", "")
    if "timeout" in given:
        timeout_min = _number(given["timeout"])
    if timeout_min is None:
        return f"Port rule {text!r}: the timeout is not a number; give minutes in 0..{TIMEOUT_MIN_MAX}."
    return PortRule(
        vip=vip,
        start_port=int(ports[1]),
        end_port=int(ports[2] or ports[1]),
        protocol=protocol,
        mode=mode,
        affinity=affinity,
        load=load,
        timeout_min=timeout_min,
        resource=resource,
        probe=probe,
    )


def parse_rules(
    texts: Iterable[str], vips: Sequence[Address] | None = None
) -> tuple[tuple[PortRule, ...], tuple[str, ...]]:
    """The rules that the strings of ``PortRules`` mean, in canonical order, and all that is wrong with them.

    Empty strings are passed over. With problems, the rules are those that were understood; they must not be used.
    """
    read = [parse_rule(text) for text in texts if text.strip()]
    rules = sort_rules(each for each in read if isinstance(each, PortRule))
    return rules, (*(each for each in read if isinstance(each, str)), *validate_rules(rules, vips))


def _address(word: str) -> Address | None:
    try:
        return ip_address(word) if "%" not in word else None
    except ValueError:
        return None


def _number(word: str) -> int | None:
    return int(word) if re.fullmatch(r"[0-9]{1,9}", word) else None


def _word(kind: type[_Word], text: str) -> _Word | None:
    return next((member for member in kind if str(member.value).lower() == text.lower()), None)

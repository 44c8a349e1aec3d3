"""What administrators want of each host of a load-balanced cluster, and what their commands change in it.

Wishes are part of the replicated configuration (one string for each in the property ``HostStates``), so they outlive a
restart, reach a host that is down when it returns, and are the same whoever is asked. A host that is not named is in
the state that its parameters give (``state=`` of ``HostParameters``, usually started), and handles every rule::

    NODE1 stop
    NODE2 drainstop
    NODE3 suspend
    NODE1 drain "All 80-80 TCP"
    NODE2 disable "192.0.2.10 443-443 TCP"

A command is a pure function from wishes to wishes, with one status of the original for each host. A host that is
*suspended* is stopped and refuses everything but ``resume`` and ``query``; ``resume`` leaves it stopped.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, unique
from typing import TypeVar

from clussvc.nlb.port_rule import PortRule, RuleScope


@unique
class ControlStatus(Enum):
    """What became of a command on one host: the published codes."""

    OK = 1000
    ALREADY = 1001
    """It was in that state."""
    DRAIN_STOP = 1002
    """Done; a drainstop that was under way has been ended."""
    BAD_PARAMS = 1003
    NOT_FOUND = 1004
    """No rule contains the port."""
    STOPPED = 1005
    """The host is stopped, so the command has no meaning."""
    CONVERGING = 1006
    CONVERGED = 1007
    DEFAULT = 1008
    DRAINING = 1009
    """The host drains in order to stop, so its rules cannot be commanded."""
    SUSPENDED = 1013
    """The host refuses control commands."""

    @property
    def good(self) -> bool:
        """Whether the host is now as it was wanted."""
        return self in (ControlStatus.OK, ControlStatus.ALREADY, ControlStatus.DRAIN_STOP)


@unique
class HostWish(Enum):
    """How a host is to be as a whole; the words are those of ``HostStates``."""

    STARTED = "start"
    STOPPED = "stop"
    DRAINING = "drainstop"
    """Finish the open connections, then stop, and stay stopped."""
    SUSPENDED = "suspend"
    """Stopped, and deaf to commands."""


@unique
class RuleWish(Enum):
    """How a host is to handle a rule."""

    ENABLED = "enable"
    DISABLED = "disable"
    DRAINING = "drain"


HOST_COMMANDS = ("start", "stop", "drainstop", "suspend", "resume")
RULE_COMMANDS = ("enable", "disable", "drain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is wanted of one host."""

    host: HostWish = HostWish.STARTED
    rules: Mapping[str, RuleWish] = field(default_factory=dict)
    """By the title of the rule; those that are enabled are left out."""

    def of(self, rule: PortRule) -> RuleWish:
        """What is wanted of one rule."""
        return self.rules.get(rule.title, RuleWish.ENABLED)


WISHES_LINES_MAX = 32 * 34
"""One for each host and each of its rules, and as many again for names that are gone."""


def parse_wishes(texts: Iterable[str]) -> tuple[dict[str, Wishes], tuple[str, ...]]:
    """The wishes by the name of the node (its case kept), and all that is wrong with the texts."""
    wishes: dict[str, Wishes] = {}
    problems = []
    for number, text in enumerate(texts):
        if number >= WISHES_LINES_MAX:
            problems.append(f"There are more than {WISHES_LINES_MAX} lines in HostStates; remove some.")
            break
        try:
            words = shlex.split(text)
        except ValueError:
            words = []
        host = _word(HostWish, words[1]) if len(words) == 2 else None
        rule = _word(RuleWish, words[1]) if len(words) == 3 else None
        if host is None and rule is None:
            problems.append(
                f"{text!r} is not the state of a host; write 'NODE {{start|stop|drainstop|suspend}}' or"
                " 'NODE {enable|disable|drain} \"RULE\"', such as 'NODE1 drain \"All 80-80 TCP\"'."
            )
            continue
        former = wishes.get(words[0], Wishes())
        if host is not None:
            wishes[words[0]] = replace(former, host=host)
        elif rule is not None:
            wishes[words[0]] = replace(former, rules=_with(former.rules, words[2], rule))
    return wishes, tuple(problems)


def wishes_texts(wishes: Mapping[str, Wishes]) -> tuple[str, ...]:
    """The strings that mean these wishes, in a fixed order; :func:`parse_wishes` understands them."""
    lines = []
    for node in sorted(wishes):
        name = shlex.quote(node)
        lines.append(f"{name} {wishes[node].host.value}")
        lines += [f"{name} {wish.value} {shlex.quote(title)}" for title, wish in sorted(wishes[node].rules.items())]
    return tuple(lines)


def command_host(wishes: Wishes, command: str) -> tuple[Wishes, ControlStatus]:
    """What one of HOST_COMMANDS makes of the wishes for one host."""
    now = wishes.host
    match command:
        case "resume":
            if now is not HostWish.SUSPENDED:
                return wishes, ControlStatus.ALREADY
            return replace(wishes, host=HostWish.STOPPED), ControlStatus.OK
        case "suspend":
            if now is HostWish.SUSPENDED:
                return wishes, ControlStatus.ALREADY
            ended = ControlStatus.DRAIN_STOP if now is HostWish.DRAINING else ControlStatus.OK
            return replace(wishes, host=HostWish.SUSPENDED), ended
    if now is HostWish.SUSPENDED:
        return wishes, ControlStatus.SUSPENDED
    match command:
        case "start":
            if now is HostWish.STARTED:
                return wishes, ControlStatus.ALREADY
            ended = ControlStatus.DRAIN_STOP if now is HostWish.DRAINING else ControlStatus.OK
            return replace(wishes, host=HostWish.STARTED), ended
        case "stop":
            if now is HostWish.STOPPED:
                return wishes, ControlStatus.ALREADY
            ended = ControlStatus.DRAIN_STOP if now is HostWish.DRAINING else ControlStatus.OK
            return replace(wishes, host=HostWish.STOPPED), ended
        case "drainstop":
            if now is HostWish.STOPPED:
                return wishes, ControlStatus.STOPPED
            if now is HostWish.DRAINING:
                return wishes, ControlStatus.ALREADY
            return replace(wishes, host=HostWish.DRAINING), ControlStatus.OK
    raise AssertionError(f"{command} is not a command for a host")


def command_rules(
    wishes: Wishes, command: str, rules: Sequence[PortRule], scope: RuleScope
) -> tuple[Wishes, ControlStatus]:
    """What one of RULE_COMMANDS makes of the wishes for one host; each rule that is meant is commanded as a whole."""
    match wishes.host:
        case HostWish.SUSPENDED:
            return wishes, ControlStatus.SUSPENDED
        case HostWish.STOPPED:
            return wishes, ControlStatus.STOPPED
        case HostWish.DRAINING:
            return wishes, ControlStatus.DRAINING
        case HostWish.STARTED:
            pass
    meant = [rule for rule in rules if scope.means(rule)]
    if not meant:
        return wishes, ControlStatus.NOT_FOUND
    wanted = RuleWish(command)
    if all(wishes.of(rule) is wanted for rule in meant):
        return wishes, ControlStatus.ALREADY
    changed = wishes.rules
    for rule in meant:
        changed = _with(changed, rule.title, wanted)
    return replace(wishes, rules=changed), ControlStatus.OK


_Wish = TypeVar("_Wish", HostWish, RuleWish)


def _with(rules: Mapping[str, RuleWish], title: str, wish: RuleWish) -> dict[str, RuleWish]:
    others = {known: its for known, its in rules.items() if known != title}
    return others if wish is RuleWish.ENABLED else others | {title: wish}


def _word(kind: type[_Wish], text: str) -> _Wish | None:
    return next((wish for wish in kind if wish.value == text.lower()), None)

"""Which rules of a host are served, by the answers to their probes: the pure machine behind :mod:`clussvc.nlb.probe`.

| the server | becomes the other | after |
|---|---|---|
| answering | failing | ``fall`` failures in a row |
| failing | answering | ``rise`` successes in a row; the first success when nothing is known yet |

What a rule begins as is what is safe at that moment. A host that goes online knows nothing of its servers, and takes no
clients of a rule before it has been answered. A rule that gets a probe while it is served goes on, since a change of
the configuration must not turn its clients away on all hosts; so does one whose probe is changed.

Each rule has one probe under way at most, which ends within its limit; the next begins an interval after the last one
began, and at once after a time in which this machine was not asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clussvc.nlb.port_rule import PortRule
from clussvc.nlb.probe import Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A rule began or ceased to be served here."""

    title: str
    answering: bool
    why: str
    """What failed; empty if nothing did."""


@dataclass(slots=True, kw_only=True)
class _Watched:
    rule: PortRule
    probe: Probe
    answering: bool
    next_ms: int
    fresh: bool
    """It has never been served, as far as is known."""
    begun_ms: int | None = None
    """None: no probe is under way."""
    in_a_row: int = 0
    """Answers that speak against ``answering``."""
    why: str = ""
    """What the last probe failed of."""


class ProbeHealth:
    """All probes of one host. Times are milliseconds of a monotonic clock of the caller's."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._served: frozenset[str] | None = None
        """The titles of the rules at the last call of watch; None: there was none."""

    def watch(self, rules: Iterable[PortRule], now_ms: int) -> tuple[str, ...]:
        """These are the rules from now on; the titles of those whose probe under way is not wanted any more."""
        former, before = self._watched, self._served or frozenset()
        self._watched = {}
        known = list(rules)
        for rule in known:
            if rule.probe is None:
                continue
            was = former.get(rule.title)
            if was is not None and was.probe == rule.probe:
                was.rule = rule
                self._watched[rule.title] = was
                continue
            answering = was.answering if was is not None else rule.title in before
            self._watched[rule.title] = _Watched(
                rule=rule, probe=rule.probe, answering=answering, fresh=not answering, next_ms=now_ms
            )
        self._served = frozenset(rule.title for rule in known)
        return tuple(
            title for title, was in former.items() if was.begun_ms is not None and self._watched.get(title) is not was
        )

    @property
    def answering(self) -> frozenset[str]:
        """The titles of the rules whose probe says that they are served here."""
        return frozenset(title for title, each in self._watched.items() if each.answering)

    def trouble(self, title: str) -> str:
        """Why the rule of that title is not served here; empty: it is, or has no probe."""
        each = self._watched.get(title)
        if each is None or each.answering:
            return ""
        return each.why or "no probe has ended yet"

    @property
    def deadline_ms(self) -> int | None:
        """When :meth:`expire` or :meth:`begin` has something to do; None: nothing is probed."""
        return min(
            (
                each.next_ms if each.begun_ms is None else each.begun_ms + each.probe.limit_ms
                for each in self._watched.values()
            ),
            default=None,
        )

    def begin(self, now_ms: int) -> tuple[PortRule, ...]:
        """The rules of which a probe is to begin now."""
        due = [each for each in self._watched.values() if each.begun_ms is None and now_ms >= each.next_ms]
        for each in due:
            each.begun_ms, each.next_ms = now_ms, now_ms + each.probe.interval_ms
        return tuple(each.rule for each in due)

    def expire(self, now_ms: int) -> tuple[tuple[str, ...], tuple[Change, ...]]:
        """The titles of the rules whose probe has taken too long and is to be given up, and what that changes."""
        late = [
            title
            for title, each in self._watched.items()
            if each.begun_ms is not None and now_ms >= each.begun_ms + each.probe.limit_ms
        ]
        changes = [self.finish(title, f"no answer within {self._watched[title].probe.limit_ms} ms") for title in late]
        return tuple(late), tuple(change for change in changes if change is not None)

    def finish(self, title: str, why: str) -> Change | None:
        """The probe of that rule has ended: empty, it was answered, or why not. What changes by that, if anything.

        Harmless for a rule of which no probe is under way.
        """
        each = self._watched.get(title)
        if each is None or each.begun_ms is None:
            return None
        each.begun_ms = None
        each.why = why
        success = not why
        first, each.fresh = success and each.fresh, each.fresh and not success
        if success is each.answering:
            each.in_a_row = 0
            return None
        each.in_a_row += 1
        enough = each.probe.rise if success else each.probe.fall
        if each.in_a_row < enough and not first:
            return None
        each.answering, each.in_a_row = success, 0
        return Change(title=title, answering=success, why=why)

"""The health probes of a host: the machine that judges, and the questions that are under way."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterable
from functools import partial

from clussvc.nlb.mac import Address
from clussvc.nlb.port_rule import PortRule
from clussvc.nlb.probe_health import Change, ProbeHealth
from clussvc.nlb.server.question import Question


class Probes:
    """For the loop of the host process: nothing here waits. At most one question for each rule is under way."""

    def __init__(self, selector: selectors.BaseSelector, changed: Callable[[Change], None]) -> None:
        """``changed`` is called when a rule begins or ceases to be served here."""
        self._selector = selector
        self._changed = changed
        self._health = ProbeHealth()
        self._address: Address | None = None
        self._questions: dict[str, Question] = {}

    def watch(self, rules: Iterable[PortRule], address: Address, now: int) -> None:
        """These are the rules; those for all virtual addresses are asked about at ``address``."""
        self._address = address
        self._give_up(self._health.watch(rules, now))

    @property
    def answering(self) -> frozenset[str]:
        """The titles of the rules that are served here."""
        return self._health.answering

    def trouble(self, title: str) -> str:
        """Why a rule is not served here; empty: it is, or has no probe."""
        return self._health.trouble(title)

    @property
    def deadline_ms(self) -> int | None:
        """When :meth:`tick` is due; None: nothing is probed."""
        return self._health.deadline_ms

    def tick(self, now: int) -> None:
        """Give up what takes too long, and begin what is due."""
        late, changes = self._health.expire(now)
        self._give_up(late)
        for change in changes:
            self._changed(change)
        assert self._address is not None
        for rule in self._health.begin(now):
            assert rule.probe is not None
            question = self._questions[rule.title] = Question(self._selector, partial(self._ended, rule.title))
            question.ask(rule.vip or self._address, rule.probed_port, rule.probe.path)

    def close(self) -> None:
        """Ask no more."""
        self._give_up(tuple(self._questions))

    def _give_up(self, titles: Iterable[str]) -> None:
        for title in titles:
            question = self._questions.pop(title, None)
            if question is not None:
                question.give_up()

    def _ended(self, title: str, why: str) -> None:
        self._questions.pop(title, None)
        change = self._health.finish(title, why)
        if change is not None:
            self._changed(change)

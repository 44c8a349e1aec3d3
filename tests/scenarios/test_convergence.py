"""Convergence in scenarios: one behaviour in each file of ``convergence/``, with what hosts note and who takes what.

A file says *why* it exists, what is *given*, and which *events* happen, one after the other; what the hosts note in the
meantime follows in *plan*, with milliseconds since the first event, and *then* what each host says of itself and how
many of the 60 buckets of each rule it takes. Run pytest with ``--rewrite`` to write the last two as observed, and
review the difference as a change of the product.

```
given:
  hosts: [1, 2, 3]                       # they have converged when the first event happens
  rules: [All 80 TCP Multiple Single Equal]
  other: [All 80 TCP Multiple Network]   # rules of hosts that 'start with other rules'
event: [host 3 dies, 600 ms pass]        # see happen()
```
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from clussvc.model.ids import HostId
from clussvc.nlb.messages import (
    ConnectionsReported,
    Control,
    NodesUp,
    ParametersChanged,
    QuorumChanged,
    ResourcesOnline,
    RuleControl,
)
from clussvc.nlb.parameters import HostParameters, RuleNumber
from clussvc.nlb.port_rule import parse_rules, parse_scope
from tests.unit.nlb.wire import Wire

FOLDER = Path(__file__).parent / "convergence"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
FILE_KEYS = {"why", "given", "event", "plan", "then"}
DUPLICATE = 100
"""Added to the host id for the key of another machine with the same one."""


class Story:
    """One file, told on a wire."""

    def __init__(self, story: dict[str, Any]) -> None:
        assert set(story) <= FILE_KEYS, set(story) - FILE_KEYS
        given = story["given"]
        self.rules = self._rules(given["rules"])
        self.other = self._rules(given.get("other", given["rules"]))
        self.wire = Wire(*given["hosts"], rules=self.rules)
        self.wire.run(1_000)
        self.cut: set[int] = set()
        self.begin_ms = self.wire.now_ms
        self.notes_before = len(self.wire.notes)
        self.wire.lost = lambda sender, receiver, said: (sender in self.cut) != (receiver in self.cut)

    @staticmethod
    def _rules(texts: list[str]) -> tuple[Any, ...]:
        rules, problems = parse_rules(texts)
        assert problems == (), problems
        return rules

    def happen(self, event: str) -> None:
        """One event of a scenario."""
        wire = self.wire
        match event.split():
            case [number, "ms", "pass"]:
                wire.run(int(number))
            case ["host", number, "dies"]:
                wire.remove(int(number))
            case ["host", number, "starts"]:
                wire.add(int(number))
            case ["host", number, "starts", "with", "other", "rules"]:
                wire.add(int(number), cluster=replace(wire.cluster, rules=self.other))
            case ["another", "host", number, "starts"]:
                wire.add(int(number), code=DUPLICATE, key=DUPLICATE + int(number))
            case ["host", number, ("start" | "stop" | "drainstop" | "suspend" | "resume") as what]:
                wire.control(int(number), Control(what))
            case ["host", number, ("enable" | "disable" | "drain") as what, port]:
                scope = parse_scope(port)
                assert scope is not None
                wire.control_rules(int(number), RuleControl(what), scope)
            case ["host", number, "weighs", weight, "on", port]:
                scope = parse_scope(port)
                assert scope is not None
                own = HostParameters(
                    node=f"n{number}",
                    host=HostId(int(number)),
                    weights=(RuleNumber(scope=scope, number=int(weight)),),
                )
                wire.tell(int(number), ParametersChanged(cluster=wire.cluster, host=own))
            case ["host", number, "learns", "the", "other", "rules"]:
                cluster = replace(wire.cluster, rules=self.other)
                own = HostParameters(node=f"n{number}", host=HostId(int(number)))
                wire.tell(int(number), ParametersChanged(cluster=cluster, host=own))
            case ["host", number, "loses", "quorum"]:
                wire.tell(int(number), QuorumChanged(held=False))
            case ["host", number, "has", "quorum"]:
                wire.tell(int(number), QuorumChanged(held=True))
            case ["host", number, "has", "connections", "in", *buckets]:
                self._connections(int(number), [int(bucket) for bucket in buckets])
            case ["resource", name, "is", "online", "on", *numbers]:
                for host in wire.hosts:
                    names = frozenset({name} if str(host) in numbers else ())
                    wire.tell(host, ResourcesOnline(names=names))
            case ["the", "cluster", "declares", number, "down"]:
                up = frozenset(HostId(other) for other in wire.hosts if other != int(number))
                for other in sorted(up):
                    wire.tell(other, NodesUp(hosts=up))
            case ["hosts", *numbers, "are", "cut", "off"]:
                self.cut = {int(number) for number in numbers}
            case ["the", "segment", "is", "whole"]:
                self.cut = set()
            case _:
                raise AssertionError(f"unknown event: {event}")

    def _connections(self, number: int, buckets: list[int]) -> None:
        """Of the first rule."""
        table = self.wire.tables[number]
        bits = sum(1 << bucket for bucket in buckets)
        report = ConnectionsReported(
            number=table.number, total=len(buckets), buckets=(bits, *(0 for _ in table.slots[1:]))
        )
        self.wire.tell(number, report)

    def plan(self) -> list[str]:
        """What the hosts noted."""
        noted = list(zip(self.wire.noted_ms, self.wire.notes, strict=True))[self.notes_before :]
        return [f"{at_ms - self.begin_ms} ms, {_name(number)}: {note.message}" for at_ms, (number, note) in noted]

    def then(self) -> dict[str, str]:
        """What each host says, and takes."""
        result = {}
        for number, machine in sorted(self.wire.hosts.items()):
            view = machine.view(self.wire.now_ms)
            words = [view.state if view.state != "converging" else f"converging ({view.because})"]
            table = self.wire.tables[number]
            if table.active:
                for slot, rule in enumerate((*table.rules, None)):
                    taken = table.slots[slot].owners.count(number % DUPLICATE)
                    dirty = table.slots[slot].dirty.bit_count()
                    title = rule.title if rule else "the rest"
                    words.append(f"{title}: {taken}{f', {dirty} of them dirty' if dirty else ''}")
            result[_name(number)] = "; ".join(words)
        return result

    def laws(self) -> None:
        """What holds at any time but while the segment is cut and at the moment when it is whole again: no two hosts
        take one bucket."""
        tables = [(number, table) for number, table in self.wire.tables.items() if table.active]
        for one, mine in tables:
            for other, theirs in tables:
                if one < other and mine.rules == theirs.rules:
                    for slot, there in zip(mine.slots, theirs.slots, strict=True):
                        pairs = zip(slot.owners, there.owners, strict=True)
                        assert not any(left == one and right == other for left, right in pairs), (one, other)


def _name(number: int) -> str:
    return f"host {number}" if number < DUPLICATE else f"another host {number - DUPLICATE}"


def observe(words: dict[str, Any]) -> dict[str, Any]:
    """Let it happen and tell what was seen."""
    story = Story(words)
    for event in words["event"]:
        story.happen(event)
        if not story.cut and event != "the segment is whole":
            story.laws()
    return {"plan": story.plan(), "then": story.then()}


@pytest.mark.parametrize("name", NAMES)
def test_scenario(name: str, rewrite: bool) -> None:
    """One file."""
    path = FOLDER / f"{name}.yaml"
    text = path.read_text()
    story = yaml.safe_load(text)
    observed = observe(story)
    if rewrite:
        path.write_text(text.split("\nplan:")[0].rstrip("\n") + "\n" + written(observed))
        return
    assert {key: story[key] for key in observed} == observed


def written(observed: dict[str, Any]) -> str:
    """The observed parts in the form of the files: one sentence in a line."""
    lines = ["plan:" if observed["plan"] else "plan: []"]
    lines += [f"  - {yaml.safe_dump(one, width=1000).splitlines()[0]}" for one in observed["plan"]]
    lines.append("then:")
    lines += [
        f"  {name}: {yaml.safe_dump(said, width=1000).splitlines()[0]}" for name, said in observed["then"].items()
    ]
    return "\n".join(lines) + "\n"


def test_there_are_scenarios() -> None:
    """A wrong path would make all of them pass."""
    assert len(NAMES) >= 20

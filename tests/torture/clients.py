"""The clients: threads that read and change registers and lists through any node, and write down what they were told.

The product has no registers of its own. The description of a group serves as one; a private property of a group holds
a list of at most SEGMENT_ENTRIES entries, and the next property goes on where it is full. A client keeps to one node
until that node fails it, or for some operations, then goes to another one. A change is sent again under the same
request id, to whatever node, until its outcome is known or PATIENCE_S is over; so "applied once" is tried all the time.
Nothing is ever sent again under a new id.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clussvc.admin.client import UNREACHABLE, ClusterClient, CommandRefused, connect
from clussvc.model.errors import ClusterError
from tests.torture.appends import entries_of
from tests.torture.history import Kind, Operation, Outcome

CALL_TIMEOUT_S: Final = 4.0
"""A node that is silent for so long is left; longer than an election, shorter than most pauses of a service."""
PATIENCE_S: Final = 10.0
"""How long an operation is tried. The cluster remembers 2048 request ids: at 150 changes a second, for 14 s."""
PAUSE_S: Final = 0.1
STAY: Final = 60
"""Operations after which a client goes to another node, on average."""
AVOID_S: Final = 3.0
"""How long a node that failed is not chosen."""
SEGMENT_ENTRIES: Final = 40
FRESHLY_READ: Final = 0.7
"""Share of the compare-and-sets that read first; the others expect what they saw last, and are often refused."""
MOVE_PAUSE_S: Final = (1.0, 4.0)
"""Between two moves of the administrator."""

NOTHING_DONE: Final = frozenset({*UNREACHABLE, "no-quorum", "limit-reached"})
"""Codes after which this attempt certainly changed nothing."""
MOVE_REFUSALS: Final = frozenset(
    {"group-moving", "node-down", "node-paused", "node-stopping", "group-unowned", "no-candidate", "stale"}
)

Numbers = itertools.count
"""``next`` on it is atomic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What became of one question, after all attempts."""

    outcome: Outcome
    answer: Any = None
    attempts: int
    code: str = ""


class Asker(threading.Thread):
    """A thread that asks one node after another."""

    def __init__(
        self,
        number: int,
        *,
        sockets: Mapping[str, str],
        chance: random.Random,
        numbers: Numbers[int],
        stop: threading.Event,
    ) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.number = number
        self.history: list[Operation] = []
        self.codes: Counter[str] = Counter()
        """Refusals and errors by their codes."""
        self.strange: list[str] = []
        """Answers that no fault explains."""
        self._sockets = sockets
        self._chance = chance
        self._numbers = numbers
        self._stop_asked = stop
        self._node = chance.choice(sorted(sockets))
        self._avoid: dict[str, float] = {}
        self._connections: dict[str, ClusterClient] = {}

    def run(self) -> None:
        """Ask until asked to stop."""
        try:
            while not self._stop_asked.is_set():
                if self._chance.random() < 1 / STAY:
                    self._node = self._chance.choice(sorted(self._sockets))
                self.turn()
        except Exception:  # noqa: BLE001 (a client that died would make the run look better than it was)
            self.strange.append(f"client {self.number} died: {traceback.format_exc()}")
        finally:
            self.close()

    def close(self) -> None:
        """End all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def turn(self) -> None:
        """One step."""
        raise NotImplementedError

    def ask(self, object_: str, method: str, *words: Any, changes: bool, allowed: frozenset[str], **more: Any) -> Told:
        """Ask until there is an answer, PATIENCE_S is over, or everything stops."""
        give_up_s = time.monotonic() + PATIENCE_S
        may_be_done = False
        code = ""
        for attempt in itertools.count(1):
            try:
                answer = self._connection().call_once(object_, method, *words, **more)
                return Told(outcome=Outcome.ACKNOWLEDGED, answer=answer, attempts=attempt, code=code)
            except CommandRefused as refused:
                code = refused.report.code
                if code in allowed:
                    return Told(outcome=Outcome.DIFFERENT, attempts=attempt, code=code)
                if code not in (*NOTHING_DONE, "outcome-unknown", "no-configuration"):
                    self.strange.append(f"{self._node} refused {object_}.{method}: {code}: {refused}")
            except ClusterError as problem:
                code = problem.code
                if code not in (*NOTHING_DONE, "connection-lost"):
                    self.strange.append(f"{self._node} at {object_}.{method}: {code}: {problem}")
            self.codes[code] += 1
            may_be_done = may_be_done or (changes and code not in NOTHING_DONE)
            self._leave()
            if time.monotonic() > give_up_s or self._stop_asked.wait(PAUSE_S):
                outcome = Outcome.UNKNOWN if may_be_done else Outcome.FAILED
                return Told(outcome=outcome, attempts=attempt, code=code)
        raise AssertionError("the loop has no end")

    def note(self, kind: Kind, key: str, told: Told, begun_ns: int, **more: Any) -> Operation:
        """Write an operation down."""
        operation = Operation(
            number=next(self._numbers),
            client=self.number,
            kind=kind,
            key=key,
            outcome=told.outcome,
            begun_ns=begun_ns,
            ended_ns=time.monotonic_ns(),
            attempts=told.attempts,
            told=told.code,
            **more,
        )
        self.history.append(operation)
        return operation

    def _connection(self) -> ClusterClient:
        known = self._connections.get(self._node)
        if known is None:
            known = connect(socket_path=self._sockets[self._node], call_timeout_s=CALL_TIMEOUT_S)
            self._connections[self._node] = known
        return known

    def _leave(self) -> None:
        """Go to a node that has not failed lately, if there is one."""
        lost = self._connections.pop(self._node, None)
        if lost is not None:
            lost.close()
        now_s = time.monotonic()
        self._avoid[self._node] = now_s + AVOID_S
        good = [node for node in sorted(self._sockets) if self._avoid.get(node, 0) <= now_s]
        self._node = self._chance.choice(good or sorted(self._sockets))


class Client(Asker):
    """Works on registers and lists, each in one of the groups."""

    def __init__(self, number: int, *, groups: Sequence[str], run: str, **more: Any) -> None:
        super().__init__(number, **more)
        self._groups = groups
        self._run = run
        self._sent = 0
        self._seen: dict[str, str] = {}
        """The value of each register when this client saw it last."""

    def turn(self) -> None:
        """One operation, or a read and a change that depends on it."""
        group = self._chance.choice(self._groups)
        choice = self._chance.random()
        if choice < 0.30:
            self.read_register(group)
        elif choice < 0.50:
            self.write(group)
        elif choice < 0.75:
            self.swap(group)
        else:
            self.append(group)

    def read_register(self, group: str) -> str | None:
        """The value; None if no node could say."""
        begun_ns = time.monotonic_ns()
        told = self.ask("Group", "properties", group, changes=False, allowed=frozenset(), fresh=True)
        value = None
        if told.outcome is Outcome.ACKNOWLEDGED:
            value = next(str(line["value"]) for line in told.answer if line["name"] == "Description")
            self._seen[group] = value
        self.note(Kind.READ, group, told, begun_ns, value=value)
        return value

    def write(self, group: str) -> None:
        """Whatever it holds."""
        value = self._unique()
        begun_ns = time.monotonic_ns()
        told = self._set("set_properties", group, "Description", value)
        self.note(Kind.WRITE, group, told, begun_ns, value=value)
        if told.outcome is Outcome.ACKNOWLEDGED:
            self._seen[group] = value

    def swap(self, group: str) -> None:
        """If it holds what was seen."""
        fresh = group not in self._seen or self._chance.random() < FRESHLY_READ
        expected = self.read_register(group) if fresh else self._seen[group]
        if expected is None:
            return
        value = self._unique()
        begun_ns = time.monotonic_ns()
        told = self._set("set_properties", group, "Description", value, expected=[_assigned("Description", expected)])
        self.note(Kind.SWAP, group, told, begun_ns, value=value, expected=expected)
        if told.outcome is Outcome.ACKNOWLEDGED:
            self._seen[group] = value

    def append(self, group: str) -> None:
        """One entry behind what a fresh read shows."""
        begun_ns = time.monotonic_ns()
        told = self.ask("Group", "private", group, changes=False, allowed=frozenset(), fresh=True)
        segments = {line["name"]: str(line["value"]) for line in told.answer or ()}
        segment = max(segments, default=segment_name(0))
        expected = segments.get(segment)
        self.note(Kind.READ, list_key(group, segment), told, begun_ns, value=expected)
        if told.outcome is not Outcome.ACKNOWLEDGED:
            return
        if len(entries_of(expected)) >= SEGMENT_ENTRIES:
            segment, expected = segment_name(segment_number(segment) + 1), None
        entry = self._unique()
        value = f"{expected} {entry}" if expected else entry
        condition: dict[str, Any] = {"expected_absent": [segment]}
        if expected is not None:
            condition = {"expected": [_assigned(segment, expected)]}
        begun_ns = time.monotonic_ns()
        told = self._set("set_private", group, segment, value, **condition)
        key = list_key(group, segment)
        self.note(Kind.APPEND, key, told, begun_ns, value=value, expected=expected, entry=entry)

    def _set(self, method: str, group: str, name: str, value: str, **condition: Any) -> Told:
        request = f"{self._run}-{self.number}-{self._sent}"
        words: tuple[Any, ...] = (request, group, [_assigned(name, value)], [])
        allowed = frozenset({"property-changed"} if condition else ())
        return self.ask("Group", method, *words, changes=True, allowed=allowed, **condition)

    def _unique(self) -> str:
        self._sent += 1
        return f"{self.number}.{self._sent}"


class Administrator(Asker):
    """Moves groups about while everything else happens."""

    def __init__(self, number: int, *, groups: Sequence[str], run: str, **more: Any) -> None:
        super().__init__(number, **more)
        self._groups = groups
        self._run = run

    def turn(self) -> None:
        """One move, and a pause."""
        group, to = self._chance.choice(self._groups), self._chance.choice(sorted(self._sockets))
        begun_ns = time.monotonic_ns()
        request = f"{self._run}-move-{len(self.history)}"
        told = self.ask("Group", "move", request, group, to, changes=True, allowed=MOVE_REFUSALS)
        self.note(Kind.MOVE, group, told, begun_ns, value=to)
        self._stop_asked.wait(self._chance.uniform(*MOVE_PAUSE_S))


def list_key(group: str, segment: str) -> str:
    """The register that one property of a group is."""
    return f"{group}/{segment}"


def segment_name(number: int) -> str:
    """Names in the order of numbers."""
    return f"list-{number:05d}"


def segment_number(name: str) -> int:
    """The inverse of segment_name."""
    return int(name.removeprefix("list-"))


def _assigned(name: str, text: str) -> dict[str, str]:
    return {"name": name, "text": text}

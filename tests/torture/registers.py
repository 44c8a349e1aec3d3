"""Is a history of one register linearizable? A search after Wing and Gong, with Lowe's just-in-time linearization.

The events of the history (an operation begins, an operation ends) are taken in the order of time, while all the states
are kept in which the register may be: its value, and which of the operations under way have taken effect already. When
an operation ends it must have taken effect in each state that remains; so from each state every order of operations
under way is tried that leads to it. If no state remains, no order explains the history. What only looks (a read, a
refusal) takes effect as soon as a state fits, since that stands in nobody's way.

Operations whose outcome is unknown stay under way for ever, and there may be many, so they are tried only where
something needs them: right before the operation that sees their value, or that was refused because of it. Nothing is
lost by that. Such an operation can always take effect later than tried, except that another write may fall between;
then nobody has seen its value, and the history is the same without it. Since written values are unique, one operation
at most can have made a value that is needed. What certainly did nothing is left out before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.torture.history import Kind, Operation, Outcome

STATES_MAX = 200_000
"""States tried at the end of one operation; a few clients on one register take some dozens. Beyond it, no verdict."""
CONTEXT_MAX = 12
"""Operations shown around the place where no order fits."""
VALUE_SHOWN_MAX = 24

State = tuple[str | None, frozenset[int]]
"""The value, and the operations under way that have taken effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found of one register."""

    key: str
    linearizable: bool | None
    """None: not decided within the limit."""
    checked: int
    because: str = ""
    around: tuple[Operation, ...] = ()


class _TooManyStatesError(Exception):
    pass


def check_register(key: str, operations: Iterable[Operation], *, initial: str | None) -> Verdict:
    """The verdict on the operations of one register that held ``initial`` before all of them."""
    history = [one for one in operations if _counts(one)]
    search = _Search(initial)
    for at_ns, ends, operation in sorted(_events(history), key=lambda event: (event[0], event[1], event[2].number)):
        if not ends:
            search.begin(operation)
            continue
        try:
            fits = search.end(operation)
        except _TooManyStatesError:
            because = f"more than {STATES_MAX} states at the end of operation {operation.number}"
            return Verdict(key=key, linearizable=None, checked=len(history), because=because)
        if not fits:
            because = f"operation {operation.number} ({describe(operation)}) fits into no order of what was told"
            return Verdict(
                key=key,
                linearizable=False,
                checked=len(history),
                because=because,
                around=_around(history, at_ns),
            )
    return Verdict(key=key, linearizable=True, checked=len(history))


def describe(operation: Operation) -> str:
    """An operation in a few words."""
    if operation.kind is Kind.READ:
        return f"client {operation.client} read {_shortened(operation.value)}"
    what = f"client {operation.client}: {operation.kind.value} {_shortened(operation.value)}"
    if operation.kind in (Kind.SWAP, Kind.APPEND):
        what += f" expecting {_shortened(operation.expected)}"
    return f"{what}: {operation.outcome.value}"


def _shortened(value: str | None) -> str:
    """The end of a long list, where the newest entries are."""
    if value is None or len(value) <= VALUE_SHOWN_MAX:
        return repr(value)
    return f"'...{value[-VALUE_SHOWN_MAX:]}'"


def _counts(operation: Operation) -> bool:
    """Whether the operation says or may have done anything."""
    if operation.outcome is Outcome.UNKNOWN:
        return operation.kind is not Kind.READ
    return operation.outcome is not Outcome.FAILED


def _events(history: list[Operation]) -> Iterator[tuple[int, bool, Operation]]:
    """Beginnings before ends at the same moment: then the two operations overlap."""
    for operation in history:
        yield operation.begun_ns, False, operation
        if operation.outcome is not Outcome.UNKNOWN:
            yield operation.ended_ns, True, operation


def _around(history: list[Operation], at_ns: int) -> tuple[Operation, ...]:
    """The operations that were under way at that moment, and the last ones before."""
    begun = sorted((one for one in history if one.begun_ns <= at_ns), key=lambda one: one.ended_ns)
    return tuple(sorted(begun[-CONTEXT_MAX:], key=lambda one: one.begun_ns))


class _Search:
    """The states in which the register may be now."""

    def __init__(self, initial: str | None) -> None:
        self._states: set[State] = {(initial, frozenset())}
        self._under_way: dict[int, Operation] = {}
        """Operations that will end."""
        self._unknown: dict[str | None, Operation] = {}
        """Operations that will not, by the value that they write."""

    def begin(self, operation: Operation) -> None:
        """From now on it may take effect."""
        if operation.outcome is Outcome.UNKNOWN:
            assert operation.value not in self._unknown, f"{operation.value!r} was written twice"
            self._unknown[operation.value] = operation
            return
        self._under_way[operation.number] = operation
        if _only_looks(operation):
            self._states = {self._with_looks(state) for state in self._states}

    def end(self, operation: Operation) -> bool:
        """It has taken effect by now, in every state that remains. False: in none."""
        del self._under_way[operation.number]
        self._states = {
            (value, done - {operation.number})
            for state in self._states
            for value, done in self._until(state, operation)
        }
        return bool(self._states)

    def _until(self, start: State, operation: Operation) -> Iterator[State]:
        """The states to which orders of operations under way lead that end with this one, or had it before."""
        if operation.number in start[1]:
            yield start
            return
        seen = {start}
        waiting = [start]
        while waiting:
            state = waiting.pop()
            yield from self._apply(state, operation)
            for other in self._under_way.values():
                for after in self._apply(state, other):
                    if after not in seen:
                        seen.add(after)
                        waiting.append(after)
            if len(seen) > STATES_MAX:
                raise _TooManyStatesError

    def _apply(self, state: State, operation: Operation) -> Iterator[State]:
        """The states after this operation, with what it needs of the unknown ones right before it."""
        value, done = state
        if operation.number in done:
            return
        if _allows(operation, value):
            yield self._with_looks((_after(operation, value), done | {operation.number}))
            return
        for needed in self._that_could_help(operation, self._unknown):
            for between, done_between in self._apply(state, needed):
                if operation.number in done_between:
                    yield between, done_between
                elif _allows(operation, between):
                    yield self._with_looks((_after(operation, between), done_between | {operation.number}))

    def _with_looks(self, state: State) -> State:
        """The state, with all that only looks and fits there."""
        value, done = state
        looks = [one.number for one in self._under_way.values() if _only_looks(one) and _allows(one, value)]
        return (value, done.union(looks)) if looks else state

    @staticmethod
    def _that_could_help(operation: Operation, unknown: Mapping[str | None, Operation]) -> Iterable[Operation]:
        if operation.outcome is Outcome.DIFFERENT:
            return list(unknown.values())
        wanted = operation.value if operation.kind is Kind.READ else operation.expected
        maker = unknown.get(wanted)
        return [maker] if maker is not None and maker is not operation else []


def _only_looks(operation: Operation) -> bool:
    return operation.kind is Kind.READ or operation.outcome is Outcome.DIFFERENT


def _allows(operation: Operation, value: str | None) -> bool:
    """Whether the operation can do, or have told, what it did where the register holds ``value``."""
    if operation.kind is Kind.READ:
        return value == operation.value
    if operation.kind is Kind.WRITE:
        return True
    if operation.outcome is Outcome.DIFFERENT:
        return value != operation.expected
    return value == operation.expected


def _after(operation: Operation, value: str | None) -> str | None:
    return value if _only_looks(operation) else operation.value

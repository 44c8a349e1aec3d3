"""The checker finds what is wrong, accepts what is not, and knows that the unknown may happen late or never."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.torture import registers
from tests.torture.history import Kind, Operation, Outcome
from tests.torture.registers import check_register

ACK, DIFFERENT, FAILED, UNKNOWN = Outcome.ACKNOWLEDGED, Outcome.DIFFERENT, Outcome.FAILED, Outcome.UNKNOWN


def history(*lines: str) -> list[Operation]:
    """Operations from lines: ``BEGIN END read|write|swap [EXPECTED>]VALUE [OUTCOME]``."""
    made = []
    for number, line in enumerate(lines):
        begin, end, word, values, *rest = line.split()
        expected, _, value = values.rpartition(">")
        made.append(
            Operation(
                number=number,
                client=number,
                kind={"read": Kind.READ, "write": Kind.WRITE, "swap": Kind.SWAP}[word],
                key="x",
                outcome=Outcome[rest[0].upper()] if rest else ACK,
                begun_ns=int(begin),
                ended_ns=int(end),
                value=value,
                expected=expected or None,
            )
        )
    return made


def linearizable(operations: Sequence[Operation]) -> bool | None:
    return check_register("x", operations, initial="0").linearizable


GOOD = {
    "nothing": (),
    "one after the other": ("0 1 read 0", "2 3 write a", "4 5 read a", "6 7 swap a>b", "8 9 read b"),
    "a read during a write sees the old": ("0 9 write a", "1 2 read 0"),
    "or the new": ("0 9 write a", "1 2 read a"),
    "two reads during a write see it happen": ("0 9 write a", "1 2 read 0", "3 4 read a"),
    "writes at once, in either order": ("0 9 write a", "0 9 write b", "10 11 read a"),
    "writes at once, in the other order": ("0 9 write a", "0 9 write b", "10 11 read b"),
    "an order that only a later read decides": ("0 9 write a", "1 8 write b", "2 3 read b", "10 11 read a"),
    "a chain within one moment": ("0 9 swap 0>a", "0 9 swap a>b", "0 9 swap b>c", "10 11 read c"),
    "a refusal that another one explains": ("0 9 write a", "1 8 swap 0>b different"),
    "an unknown write that is seen late": ("0 1 write a unknown", "50 51 read 0", "60 61 read a"),
    "an unknown write that is never seen": ("0 1 write a unknown", "50 51 read 0", "60 61 swap 0>b", "70 71 read b"),
    "an unknown write that falls between": ("0 1 write a unknown", "5 6 write b", "7 8 read a", "9 10 swap a>c"),
    "a chain of unknown ones": ("0 1 write a unknown", "2 3 swap a>b unknown", "4 5 swap b>c unknown", "9 10 read c"),
    "a refusal that an unknown write explains": ("0 1 write a unknown", "5 6 swap 0>b different", "7 8 read a"),
    "a refusal explained by what nobody saw": ("0 1 write a unknown", "5 6 swap 0>b different", "7 8 write c"),
    "what failed did nothing": ("0 1 write a failed", "2 3 read 0"),
    "an unknown read says nothing": ("0 1 read z unknown", "2 3 read 0"),
}

BAD = {
    "a value from nowhere": ("0 1 read z",),
    "a lost write": ("0 1 write a", "2 3 read 0"),
    "a stale read after a new one": ("0 9 write a", "1 2 read a", "3 4 read 0"),
    "a stale read after another write": ("0 1 write a", "2 3 write b", "4 5 read a"),
    "two compare-and-sets win": ("0 9 swap 0>a", "0 9 swap 0>b"),
    "a compare-and-set that expected the past": ("0 1 write a", "2 3 swap 0>b"),
    "a refusal without a reason": ("0 1 swap 0>a different",),
    "a refusal before the reason": ("0 1 swap 0>a different", "5 6 write b"),
    "a failed write that is seen": ("0 1 write a failed", "2 3 read a"),
    "an unknown write that is seen before it began": ("0 1 read a", "2 3 write a unknown"),
    "an unknown write that happens twice": (
        *("0 1 write a unknown", "2 3 read a", "4 5 write b", "6 7 read b", "8 9 read a"),
    ),
    "an unknown one whose expectation never held": ("0 1 swap z>a unknown", "2 3 read a"),
    "three readers who disagree": ("0 9 write a", "0 9 write b", "10 11 read a", "12 13 read b"),
    "an order that two pairs contradict": (
        *("0 20 write a", "0 20 write b", "1 2 read a", "3 4 read b", "5 6 read a"),
    ),
}


@pytest.mark.parametrize("lines", GOOD.values(), ids=GOOD)
def test_possible_histories_are_accepted(lines: Sequence[str]) -> None:
    assert linearizable(history(*lines)) is True


@pytest.mark.parametrize("lines", BAD.values(), ids=BAD)
def test_impossible_histories_are_rejected(lines: Sequence[str]) -> None:
    verdict = check_register("x", history(*lines), initial="0")
    assert verdict.linearizable is False
    assert "fits into no order" in verdict.because
    assert verdict.around


def by_brute_force(operations: Sequence[Operation]) -> bool:
    """Every order of every choice of the unknown ones, tried in turn."""
    known = [one for one in operations if one.outcome in (ACK, DIFFERENT)]
    unknown = [one for one in operations if one.outcome is UNKNOWN and one.kind is not Kind.READ]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *chosen]):
                if in_time(order) and makes_sense(order):
                    return True
    return False


def in_time(order: Sequence[Operation]) -> bool:
    """No operation stands before one that had ended when it began."""
    return not any(
        earlier.begun_ns > later.ended_ns and later.outcome is not UNKNOWN
        for place, earlier in enumerate(order)
        for later in order[place + 1 :]
    )


def makes_sense(order: Sequence[Operation]) -> bool:
    value: str | None = "0"
    for one in order:
        fits = one.kind is Kind.WRITE or (one.value if one.kind is Kind.READ else one.expected) == value
        if one.outcome is DIFFERENT:
            if fits:
                return False
        elif not fits:
            return False
        elif one.kind is not Kind.READ:
            value = one.value
    return True


def small_history(chance: random.Random) -> list[Operation]:
    """A few operations of three clients on a register that works, or not quite."""
    operations: list[Operation] = []
    free_ns = [0, 0, 0]
    values = ["0"]
    for number in range(chance.randrange(2, 7)):
        client = chance.randrange(3)
        begun_ns = free_ns[client] + chance.randrange(4)
        free_ns[client] = ended_ns = begun_ns + chance.randrange(1, 6)
        kind = chance.choice([Kind.READ, Kind.WRITE, Kind.SWAP])
        value = chance.choice(values) if kind is Kind.READ else f"v{number}"
        operations.append(
            Operation(
                number=number,
                client=client,
                kind=kind,
                key="x",
                begun_ns=begun_ns,
                ended_ns=ended_ns,
                value=value,
                expected=chance.choice(values) if kind is Kind.SWAP else None,
                outcome=chance.choice([ACK, ACK, ACK, UNKNOWN, DIFFERENT if kind is Kind.SWAP else ACK]),
            )
        )
        if kind is not Kind.READ:
            values.append(value)
    return operations


def test_it_agrees_with_trying_every_order() -> None:
    """On a few thousand small histories, of which a good part is impossible."""
    chance = random.Random(7)
    found = {True: 0, False: 0}
    for _ in range(3_000):
        operations = small_history(chance)
        expected = by_brute_force(operations)
        assert linearizable(operations) is expected, operations
        found[expected] += 1
    assert min(found.values()) > 500, found


def simulated(count: int, clients: int, chance: random.Random) -> list[Operation]:
    """A long history of a register that works: each operation takes effect at a moment drawn between its ends."""
    moments = []
    for client in range(clients):
        at = 0
        for _ in range(count // clients):
            begun = at + chance.randrange(1, 50)
            at = begun + chance.randrange(2, 200)
            moments.append((chance.randrange(begun + 1, at + 1), begun, at, client))
    value, operations = "0", []
    for number, (_, begun, ended, client) in enumerate(sorted(moments)):
        kind = chance.choice([Kind.READ, Kind.WRITE, Kind.SWAP])
        lost = chance.random() < 0.02
        expected = value if chance.random() < 0.8 else "never"
        written = value if kind is Kind.READ else f"v{number}"
        wins = kind is Kind.WRITE or (kind is Kind.SWAP and expected == value)
        outcome = UNKNOWN if lost else DIFFERENT if kind is Kind.SWAP and not wins else ACK
        operations.append(
            Operation(
                number=number,
                client=client,
                kind=kind,
                key="x",
                begun_ns=begun,
                ended_ns=ended,
                value=written,
                expected=expected if kind is Kind.SWAP else None,
                outcome=outcome,
            )
        )
        if wins and not (lost and chance.random() < 0.5):
            value = written
    return operations


def test_a_long_history_is_checked_to_its_end() -> None:
    """As many operations as half an hour makes on one register, hundreds of them unknown; and one lie is found."""
    operations = simulated(12_000, 6, random.Random(3))
    assert linearizable(operations) is True

    reads = [one for one in operations if one.kind is Kind.READ and one.outcome is ACK]
    lie = reads[len(reads) // 2]
    early = next(one.value for one in operations if one.kind is Kind.WRITE and one.outcome is ACK)
    assert linearizable([replace(one, value=early) if one is lie else one for one in operations]) is False


def test_a_search_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so, which is not the same as a good history."""
    monkeypatch.setattr(registers, "STATES_MAX", 100)
    writes = [f"0 {90 + number} write w{number}" for number in range(20)]
    verdict = check_register("x", history(*writes), initial="0")
    assert verdict.linearizable is None
    assert "more than 100 states" in verdict.because

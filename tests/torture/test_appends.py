"""Lost, twice and ghostly entries are found; an unknown one may be there or not."""

from __future__ import annotations

from tests.torture.appends import Appended, check_appends
from tests.torture.history import Kind, Operation, Outcome


def append(entry: str, outcome: Outcome = Outcome.ACKNOWLEDGED) -> Operation:
    return Operation(
        number=0, client=0, kind=Kind.APPEND, key="l", outcome=outcome, begun_ns=0, ended_ns=1, value="", entry=entry
    )


def test_everything_acknowledged_is_there_once() -> None:
    operations = [append("a"), append("b"), append("c", Outcome.UNKNOWN), append("d", Outcome.UNKNOWN)]
    operations += [append("e", Outcome.DIFFERENT), append("f", Outcome.FAILED)]
    found = check_appends(operations, {"l/1": "a c", "l/2": "b", "l/3": None})
    assert Appended(acknowledged=2, lost=(), twice=(), ghosts=()) == found
    assert found.good


def test_a_lost_entry_is_found() -> None:
    found = check_appends([append("a"), append("b")], {"l/1": "b"})
    assert ("a",) == found.lost
    assert not found.good


def test_an_entry_that_is_there_twice_is_found() -> None:
    """In one list or in two, and also if its outcome is unknown."""
    operations = [append("a"), append("b"), append("c", Outcome.UNKNOWN)]
    found = check_appends(operations, {"l/1": "a b a", "l/2": "c", "l/3": "c"})
    assert ({"a", "c"}, ()) == (set(found.twice), found.lost)
    assert not found.good


def test_an_entry_that_should_not_be_there_is_found() -> None:
    """It was refused, it failed, or nobody ever sent it."""
    operations = [append("a", Outcome.DIFFERENT), append("b", Outcome.FAILED)]
    found = check_appends(operations, {"l/1": "a b z"})
    assert {"a", "b", "z"} == set(found.ghosts)
    assert not found.good

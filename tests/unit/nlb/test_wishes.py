"""What is wanted of rules reaches the machine whether it takes part or not, and without a command for each."""

from __future__ import annotations

from clussvc.nlb.messages import Control, Passing
from tests.unit.nlb.wire import RULES, Wire, settled


def wish(wire: Wire, number: int, passing: dict[int, Passing]) -> None:
    wire.perform(number, wire.hosts[number].wish_rules(passing, wire.now_ms))
    wire.run(50)


def test_wishes_are_followed_and_taken_back() -> None:
    """The others take over what is drained; what is not named any more is enabled again; the rest does not move."""
    wire = settled(1, 2)
    wish(wire, 1, {RULES[1].code(): Passing.DRAINING})
    assert (0, 60, 30) == (wire.owned(1), wire.owned(2), wire.owned(1, slot=2))
    wish(wire, 1, {RULES[1].code(): Passing.DISABLED})
    assert Passing.DISABLED is wire.tables[1].slots[1].passing
    wish(wire, 1, {})
    assert (30, 30) == (wire.owned(1), wire.owned(2))


def test_wishes_wait_for_a_host_that_is_stopped() -> None:
    """A command for a stopped host would be refused; what is wanted holds when it starts."""
    wire = settled(1, 2)
    wire.control(1, Control.STOP)
    wish(wire, 1, {RULES[1].code(): Passing.DRAINING})
    wire.control(1, Control.START)
    wire.run(3_000)
    assert (0, 60) == (wire.owned(1), wire.owned(2))

"""What is wanted of a host and its rules reaches the machine whether it takes part or not; draining is patient."""

from __future__ import annotations

from clussvc.nlb.messages import ConnectionsReported, Control, Passing, Status
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


def test_a_report_from_before_draining_proves_nothing() -> None:
    """A connection may have been opened since; the host stops only when the filter has been asked again."""
    wire = settled(1, 2)
    nothing = (0, 0, 0, 0)
    wire.tell(1, ConnectionsReported(number=wire.tables[1].number, total=0, buckets=nothing))
    assert wire.control(1, Control.DRAINSTOP) is Status.OK
    wire.run(50)
    assert wire.state(1) == "draining"
    wire.tell(1, ConnectionsReported(number=wire.tables[1].number, total=1, buckets=(0, 1, 0, 0)))
    assert wire.state(1) == "draining"
    wire.tell(1, ConnectionsReported(number=wire.tables[1].number, total=0, buckets=nothing))
    assert wire.state(1) == "stopped"

"""Properties that are set only if others are as expected: compare-and-set in the order of the log."""

from __future__ import annotations

import pytest

from clussvc.global_update.apply_group import TOLD_LENGTH_MAX
from clussvc.global_update.update import SetGroupProperties
from clussvc.model.monitoring import PropertyValue
from clussvc.model.reports import Report

from .world import SQL, World, three_nodes

Values = dict[str, PropertyValue | None]


@pytest.fixture
def world() -> World:
    """The group SQL with two properties of each sort."""
    set_up = SetGroupProperties(
        group=SQL, common={"Description": "old", "FailoverPeriod": 7}, private={"Note": "a", "Names": ("x", "y")}
    )
    return three_nodes().do(set_up)


def refusal(world: World, *, common: Values | None = None, private: Values | None = None) -> Report | None:
    """What a change is answered that expects these values."""
    update = SetGroupProperties(
        group=SQL,
        common={"Description": "new"},
        private={"Note": "b"},
        expected_common=common or {},
        expected_private=private or {},
    )
    return world.send(update).refusal


@pytest.mark.parametrize(
    ("common", "private"),
    [
        ({"Description": "old"}, {}),
        ({"description": "old", "FAILOVERPERIOD": "0x7"}, {}),
        ({"FailoverThreshold": None, "AutoFailbackType": 0}, {}),
        ({}, {"Note": "a"}),
        ({}, {"note": "a", "NAMES": ("x", "y"), "Other": None}),
        ({"Description": "old"}, {"Note": "a"}),
    ],
)
def test_a_change_is_made_when_all_is_as_expected(world: World, common: Values, private: Values) -> None:
    """Names in any case, numbers in any spelling; None is the default, or nothing at all."""
    assert None is refusal(world, common=common, private=private)
    assert "new" == world.group(SQL).description
    assert "b" == world.group(SQL).private["Note"]


@pytest.mark.parametrize(
    ("common", "private", "name"),
    [
        ({"Description": "older"}, {}, "Description"),
        ({"Description": None}, {}, "Description"),
        ({"Description": "old", "failoverperiod": 8}, {}, "FailoverPeriod"),
        ({}, {"Note": "b"}, "Note"),
        ({}, {"Note": None}, "Note"),
        ({}, {"Other": "a"}, "Other"),
        ({}, {"Names": ("y", "x")}, "Names"),
        ({"Description": "old"}, {"Note": "b"}, "Note"),
    ],
)
def test_nothing_is_changed_when_something_is_not(world: World, common: Values, private: Values, name: str) -> None:
    """One value that differs refuses the whole change, and is named."""
    before = world.group(SQL)
    report = refusal(world, common=common, private=private)
    assert report is not None
    assert "property-changed" == report.code
    assert name in report.message
    assert "'SQL'" in report.message
    assert before == world.group(SQL)
    assert () == world.records


@pytest.mark.parametrize("common", [{"Colour": "red"}, {"FailoverPeriod": "long"}, {"Name": "SQL"}])
def test_what_no_property_can_be_is_refused_as_that(world: World, common: Values) -> None:
    """It would never be met, and the reason is not that somebody else was first."""
    report = refusal(world, common=common)
    assert report is not None
    assert report.code in {"unknown-property", "bad-property", "read-only-property"}
    assert "old" == world.group(SQL).description


def test_of_two_that_expect_the_same_one_wins(world: World) -> None:
    """The second one finds what the first one left."""
    assert None is refusal(world, private={"Note": "a"})
    report = refusal(world, private={"Note": "a"})
    assert report is not None
    assert "is 'b', not 'a'" in report.message


def test_a_repeated_request_is_not_judged_by_its_own_effect(world: World) -> None:
    """Sent again because its outcome was unknown, it is answered as it was."""
    update = SetGroupProperties(group=SQL, private={"Note": "b"}, expected_private={"Note": "a"})
    assert None is world.send(update, request="once").refusal
    assert None is world.send(update, request="once").refusal
    assert "b" == world.group(SQL).private["Note"]


def test_long_values_are_shortened_in_the_refusal(world: World) -> None:
    """Every node remembers refusals for a while."""
    world.do(SetGroupProperties(group=SQL, private={"Note": "x" * 60_000}))
    report = refusal(world, private={"Note": "y" * 60_000})
    assert report is not None
    assert len(report.message) < 2 * TOLD_LENGTH_MAX + 300

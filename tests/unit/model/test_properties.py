"""Common properties: what an administrator may write, what is stored, what a listing shows."""

from __future__ import annotations

import pytest

from clussvc.model.config import Config, Group, Node, Resource
from clussvc.model.ids import ClusterId, GroupId, NodeId, ResourceId
from clussvc.model.monitoring import PropertyValue
from clussvc.model.properties import (
    DWORD_MAX,
    PRIVATE_PROPERTIES_MAX,
    PROPERTIES,
    BadValue,
    Stored,
    as_number,
    common_changes,
    common_values,
    convert,
    find_property,
    private_changes,
    shown,
)
from clussvc.model.reports import Report
from clussvc.model.settings import LAN, PROPERTY_BYTES_MAX, WAN

CONFIG = Config(cluster=ClusterId("c"), name="CLUSTER")
NODE = Node(id=NodeId(1), name="n1", addresses=("192.0.2.1",), port=3343)
GROUP = Group(id=GroupId("g"), name="Group 0")
RESOURCE = Resource(id=ResourceId("r"), name="Disk Q:", type="Generic Script", group=GROUP.id)

ACCEPTED: list[tuple[str, str, PropertyValue, Stored]] = [
    ("group", "failoverTHRESHOLD", "0xA", 10),
    ("group", "FailoverThreshold", -1, DWORD_MAX),
    ("group", "FailoverPeriod", 1193, 1193),
    ("group", "AutoFailbackType", "1", True),
    ("group", "FailbackWindowStart", DWORD_MAX, -1),
    ("group", "FailbackWindowStart", "-1", -1),
    ("group", "FailbackWindowEnd", 23, 23),
    ("group", "AntiAffinityClassNames", "A", ("A",)),
    ("group", "AntiAffinityClassNames", ("A", "B"), ("A", "B")),
    ("group", "AntiAffinityClassNames", "", ()),
    ("resource", "LooksAlivePollInterval", -1, None),
    ("resource", "LooksAlivePollInterval", "0xffffffff", None),
    ("resource", "LooksAlivePollInterval", 0, 0),
    ("resource", "IsAlivePollInterval", 10, 10),
    ("resource", "RetryPeriodOnFailure", DWORD_MAX, None),
    ("resource", "RestartAction", 2, 2),
    ("resource", "PersistentState", 1, True),
    ("cluster", "TimingProfile", "WAN", WAN),
    ("cluster", "UtcOffsetMinutes", -120, -120),
    ("cluster", "UtcOffsetMinutes", 2**32 - 120, -120),
]

REFUSED: list[tuple[str, str, PropertyValue]] = [
    ("group", "FailoverThreshold", "many"),
    ("group", "FailoverThreshold", -2),
    ("group", "FailoverThreshold", 2**32),
    ("group", "FailoverThreshold", ("1",)),
    ("group", "FailoverPeriod", 1194),
    ("group", "AutoFailbackType", 2),
    ("group", "FailbackWindowStart", 24),
    ("group", "FailbackWindowEnd", -2),
    ("group", "AntiAffinityClassNames", 7),
    ("group", "Description", 7),
    ("group", "Description", "x" * (PROPERTY_BYTES_MAX + 1)),
    ("resource", "LooksAlivePollInterval", 9),
    ("resource", "IsAlivePollInterval", 0),
    ("resource", "RestartAction", 3),
    ("resource", "PendingTimeout", 9),
    ("cluster", "TimingProfile", "warp"),
    ("cluster", "UtcOffsetMinutes", 841),
]


@pytest.mark.parametrize(("kind", "name", "value", "stored"), ACCEPTED)
def test_accepted(kind: str, name: str, value: PropertyValue, stored: Stored) -> None:
    """Names in any case, numbers in three spellings, and the stored form has its own type."""
    known = find_property(kind, name)
    assert known is not None
    converted = convert(known, value)
    assert stored == converted
    assert type(stored) is type(converted)


@pytest.mark.parametrize(("kind", "name", "value"), REFUSED)
def test_refused(kind: str, name: str, value: PropertyValue) -> None:
    """What cannot be stored is refused with a reason."""
    known = find_property(kind, name)
    assert known is not None
    converted = convert(known, value)
    assert isinstance(converted, BadValue)
    assert converted.why


@pytest.mark.parametrize("thing", [CONFIG, NODE, GROUP, RESOURCE])
def test_what_is_shown_can_be_set_again(thing: Config | Node | Group | Resource) -> None:
    """A listing, typed in again, changes nothing; a new object shows the defaults of the table."""
    for known, value in common_values(thing):
        converted = convert(known, value)
        assert not isinstance(converted, BadValue)
        assert getattr(thing, known.attribute) == converted, known.name
        if not known.read_only:
            assert shown(known, converted) == known.default, known.name


def test_every_attribute_exists_and_is_named_once() -> None:
    """The tables name real fields, and no property twice."""
    for kind, thing in {"cluster": CONFIG, "node": NODE, "group": GROUP, "resource": RESOURCE}.items():
        names = [known.name.casefold() for known in PROPERTIES[kind]]
        assert len(names) == len(set(names))
        assert all(hasattr(thing, known.attribute) for known in PROPERTIES[kind])


def test_group_listing_is_the_classic_one() -> None:
    """Names, order, letters and values of ``cluster group /prop``; what MSCS did not have comes last."""
    assert [
        ("SR", "Name", "Group 0"),
        ("S", "Description", ""),
        ("D", "PersistentState", 0),
        ("D", "FailoverThreshold", 10),
        ("D", "FailoverPeriod", 6),
        ("D", "AutoFailbackType", 0),
        ("D", "FailbackWindowStart", DWORD_MAX),
        ("D", "FailbackWindowEnd", DWORD_MAX),
        ("M", "AntiAffinityClassNames", ()),
        ("S", "GroupType", "failover"),
        ("D", "MaxInstances", 0),
    ] == [(known.letters, known.name, value) for known, value in common_values(GROUP)]


def test_changes_are_all_or_nothing() -> None:
    """The first problem is reported; without one the fields to replace are returned, None being the default."""
    assert {"failover_threshold": 5, "failover_period_h": 6} == common_changes(
        "group", "group 'x'", {"failoverthreshold": 5, "FailoverPeriod": None}
    )
    cases: list[tuple[dict[str, PropertyValue | None], str]] = [
        ({"FailoverThreshold": 5, "Colour": "red"}, "unknown-property"),
        ({"Name": "new"}, "read-only-property"),
        ({"FailoverPeriod": 9999}, "bad-property"),
    ]
    for values, code in cases:
        refused = common_changes("group", "group 'x'", values)
        assert isinstance(refused, Report)
        assert code == refused.code


def test_private_properties_keep_their_first_spelling() -> None:
    """Names are compared without regard to case; None removes."""
    assert {"Port": 2} == private_changes("x", {"Port": 1, "Old": "a"}, {"PORT": 2, "old": None})


@pytest.mark.parametrize(
    ("name", "value"),
    [("", 1), ("a\nb", 1), (" a", 1), ("a" * 256, 1), ("a", 2**64), ("a", -(2**31) - 1), ("a", ("x" * 70_000,))],
)
def test_private_properties_are_bounded(name: str, value: PropertyValue) -> None:
    """Names, numbers and lengths that could not be stored or shown are refused."""
    assert isinstance(private_changes("x", {}, {name: value}), Report)


def test_private_properties_are_counted() -> None:
    """There is a largest number of them."""
    many = {f"p{number}": number for number in range(PRIVATE_PROPERTIES_MAX)}
    assert many == private_changes("x", {}, many)
    assert isinstance(private_changes("x", many, {"one more": 1}), Report)


@pytest.mark.parametrize(("text", "number"), [("10", 10), ("0x1F", 31), (" -1 ", -1), ("", None), ("1.5", None)])
def test_numbers_in_text(text: str, number: int | None) -> None:
    """Decimal and 0x, nothing else."""
    assert number == as_number(text)


def test_profile_default_is_the_default_of_a_cluster() -> None:
    """``/usedefault`` of the timing profile is lan."""
    assert {"timing": LAN} == common_changes("cluster", "c", {"timingprofile": None})

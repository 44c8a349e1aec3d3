"""What a value on a command line becomes: by declaration, by what is there, by its format."""

from __future__ import annotations

import pytest

from clussvc.admin.values import Assigned, common_changes, private_changes
from clussvc.model.config import Group
from clussvc.model.ids import GroupId
from clussvc.model.monitoring import PropertyValue
from clussvc.model.reports import Report
from clussvc.resources.type_info import find_type

ADDRESS = find_type("IP Address")
GROUP = Group(id=GroupId("g"), name="G")


def assigned(name: str, text: str, format_: str | None = None) -> Assigned:
    """As the command line sends it."""
    return Assigned(name=name, text=text, parts=tuple(text.split(",")), format=format_)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (assigned("FailoverThreshold", "5"), 5),
        (assigned("failoverthreshold", "0x10"), 16),
        (assigned("FailbackWindowStart", "-1"), 4294967295),
        (assigned("FailoverThreshold", "-2"), -2),
        (assigned("FailoverThreshold", "many"), "many"),
        (assigned("Description", "5"), "5"),
        (assigned("Description", "a,b"), "a,b"),
        (assigned("AntiAffinityClassNames", "a,b"), ("a", "b")),
        (assigned("NoSuchProperty", "5"), "5"),
    ],
)
def test_common(one: Assigned, expected: PropertyValue) -> None:
    """The declaration decides; what it does not allow is left for the cluster to refuse."""
    assert {one.name: expected} == common_changes(GROUP, [one], [])


def test_reset_is_none() -> None:
    """Defaults are asked for with None."""
    assert {"FailoverThreshold": None} == common_changes(GROUP, [], ["FailoverThreshold"])


@pytest.mark.parametrize(
    ("present", "one", "expected"),
    [
        ({}, assigned("Colour", "red"), ("Colour", "red")),
        ({}, assigned("Size", "5"), ("Size", "5")),
        ({}, assigned("Size", "5", "dword"), ("Size", 5)),
        ({}, assigned("Size", "5", "ularge"), ("Size", 5)),
        ({}, assigned("Names", "a,b", "multistring"), ("Names", ("a", "b"))),
        ({}, assigned("Text", "a,b", "expandstring"), ("Text", "a,b")),
        ({"Size": 1}, assigned("size", "5"), ("Size", 5)),
        ({"Names": ("x",)}, assigned("NAMES", "a,b"), ("Names", ("a", "b"))),
        ({"Size": 1}, assigned("Size", "big", "string"), ("Size", "big")),
    ],
)
def test_private(present: dict[str, PropertyValue], one: Assigned, expected: tuple[str, PropertyValue]) -> None:
    """The format decides if one is given, else what is there, else it is a text."""
    assert dict([expected]) == private_changes("group 'G'", present, None, [one], [])


def test_private_of_a_type() -> None:
    """The type's declaration comes first, with its spelling."""
    changes = private_changes("resource 'IP'", {}, ADDRESS, [assigned("duplicatecheck", "0")], ["NETWORK"])

    assert {"DuplicateCheck": 0, "Network": None} == changes


@pytest.mark.parametrize(
    "one", [assigned("Size", "big", "dword"), assigned("Key", "1,2", "binary"), assigned("Acl", "x", "security")]
)
def test_refused(one: Assigned) -> None:
    """With the property's name in the sentence."""
    refused = private_changes("group 'G'", {}, None, [one], [])

    assert isinstance(refused, Report)
    assert "bad-property" == refused.code
    assert one.name in refused.message

"""What the table of resource types accepts and refuses, and that it tells the truth about the classes."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.model.monitoring import PropertyValue
from clussvc.resources.type_info import (
    BUILTIN_TYPES,
    check_kinds,
    check_private,
    complete_private,
    find_type,
    prefix_length,
)
from clussvc.resources.types.base import TypeCatalogue


def problems(type_name: str, **values: PropertyValue) -> str:
    """All problems as one text."""
    info = find_type(type_name)
    assert info is not None
    return "; ".join(check_private(info, values))


@pytest.mark.parametrize("name", BUILTIN_TYPES)
def test_every_type_is_implemented(name: str) -> None:
    """Each entry has a class, and the class points back at its entry."""
    assert TypeCatalogue().find(name.upper()).info is BUILTIN_TYPES[name]


def test_names_are_compared_without_case() -> None:
    """Types and properties alike; the spelling of the table is kept."""
    info = find_type("ip ADDRESS")
    assert info is BUILTIN_TYPES["IP Address"]
    assert find_type("Tape Drive") is None
    assert {"Address": "10.0.0.9", "Network": "", "DuplicateCheck": 1} == complete_private(
        info, {"ADDRESS": "10.0.0.9"}
    )


@pytest.mark.parametrize(
    ("type_name", "values", "words"),
    [
        ("IP Address", {"Address": "10.0.0.9", "SubnetMask": "255.255.255.0"}, ""),
        ("IP Address", {"Address": "10.0.0.9", "SubnetMask": "24", "Network": "eth0", "DuplicateCheck": 0}, ""),
        ("IP Address", {"SubnetMask": "24"}, "Address is required"),
        ("IP Address", {"Address": "", "SubnetMask": "24"}, "Address is required"),
        ("IP Address", {"Address": "10.0.0.256", "SubnetMask": "24"}, "not an IPv4 address"),
        ("IP Address", {"Address": "fe80::1", "SubnetMask": "24"}, "not an IPv4 address"),
        ("IP Address", {"Address": "224.0.0.1", "SubnetMask": "24"}, "cannot have that address"),
        ("IP Address", {"Address": "0.0.0.0", "SubnetMask": "24"}, "cannot have that address"),
        ("IP Address", {"Address": "10.0.0.9", "SubnetMask": "255.0.255.0"}, "SubnetMask is '255.0.255.0'"),
        ("IP Address", {"Address": "10.0.0.9", "SubnetMask": "255.255.255.255"}, "1..31"),
        ("IP Address", {"Address": "10.0.0.9", "SubnetMask": "0.0.0.0"}, "1..31"),
        ("IP Address", {"Address": "10.0.0.255", "SubnetMask": "24"}, "broadcast"),
        ("IP Address", {"Address": "10.0.0.0", "SubnetMask": "24"}, "broadcast"),
        ("IP Address", {"Address": "10.0.0.9", "SubnetMask": "24", "Network": "no such/name"}, "network interface"),
        ("IP Address", {"Address": "10.0.0.9", "SubnetMask": "24", "DuplicateCheck": 2}, "0..1"),
        ("IP Address", {"Address": 7, "SubnetMask": "24"}, "must be a text"),
        ("IP Address", {"Address": "10.0.0.9", "SubnetMask": "24", "Adress": "x"}, "Adress is not a property"),
        ("Generic Application", {"CommandLine": "sleep 1"}, ""),
        ("Generic Application", {}, "CommandLine is required"),
        ("Generic Application", {"CommandLine": "x", "CurrentDirectory": "here"}, "absolute path"),
        ("Generic Script", {"ScriptFilepath": "/s.py", "Anything": 5, "Else": ("a", "b")}, ""),
        ("Generic Script", {"ScriptFilepath": "s.py"}, "absolute path"),
        ("Generic Service", {"ServiceName": "nginx"}, ""),
        ("Generic Service", {"ServiceName": "../../bin/sh"}, "cannot be the name"),
        ("Generic Service", {"ServiceName": "--now"}, "cannot be the name"),
    ],
)
def test_values(type_name: str, values: dict[str, PropertyValue], words: str) -> None:
    """Good values have no problem; bad ones a sentence that names the property."""
    found = problems(type_name, **values)
    assert words in found
    assert bool(words) == bool(found), found


def test_incomplete_values_pass_the_check_of_kinds() -> None:
    """A resource may be created first and configured later."""
    assert () == check_kinds(BUILTIN_TYPES["IP Address"], {})


@given(st.integers(0, 32))
def test_prefix_length_inverts_the_mask(prefix: int) -> None:
    """Dotted masks and prefix lengths mean the same."""
    mask = ipaddress.IPv4Network((0, prefix)).netmask
    assert prefix == prefix_length(str(mask)) == prefix_length(str(prefix)) == prefix_length(f"/{prefix}")


@given(st.ip_addresses(v=4))
def test_prefix_length_refuses_what_is_no_mask(mask: ipaddress.IPv4Address) -> None:
    """Either the text is the mask of the length that is found, or nothing is found."""
    found = prefix_length(str(mask))
    assert found is None or ipaddress.IPv4Network((0, found)).netmask == mask

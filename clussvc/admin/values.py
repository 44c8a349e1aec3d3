"""Turns the property values of a command line into typed ones: by declaration, by what is there, or by the format.

A client sends a value as text (and split at its commas); whether it is a number, a text or a list is known here, where
the declarations are. Whether the value is *allowed* is decided by ``apply``, for all clients alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clussvc.model import reports
from clussvc.model.config import Config, FenceDevice, Group, Network, Node, Resource
from clussvc.model.monitoring import PropertyValue
from clussvc.model.properties import find_property, kind_of
from clussvc.model.reports import Report
from clussvc.resources.type_info import DWORD_MAX, ResourceTypeInfo

_KINDS = {"dword": "D", "ularge": "D", "string": "S", "expandstring": "S", "multistring": "M"}
"""Formats of cluster.exe by the letter of what they make; ``binary`` and ``security`` have no use here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """``Name=Value[:Format]`` as a client sends it."""

    name: str
    text: str
    parts: tuple[str, ...] = ()
    format: str | None = None


def common_changes(
    owner: Config | Node | Group | Resource | FenceDevice | Network, assigned: list[Assigned], reset: list[str]
) -> dict[str, PropertyValue | None]:
    """Values for common properties; names that do not exist are left for ``apply`` to refuse with the list of them."""
    changes: dict[str, PropertyValue | None] = dict.fromkeys(reset)
    for one in assigned:
        definition = find_property(kind_of(owner), one.name)
        changes[one.name] = _value(one, definition.kind if definition else "S")
    return changes


def private_changes(
    owner: str,
    present: Mapping[str, PropertyValue],
    info: ResourceTypeInfo | None,
    assigned: list[Assigned],
    reset: list[str],
) -> dict[str, PropertyValue | None] | Report:
    """Values for private properties, under the spelling that is declared or already there; or what is wrong."""
    changes: dict[str, PropertyValue | None] = {_spelling(name, present, info): None for name in reset}
    for one in assigned:
        name = _spelling(one.name, present, info)
        if one.format is not None and one.format not in _KINDS:
            known = ", ".join(_KINDS)
            return reports.bad_property(owner, name, f"the format {one.format} is not supported; use one of {known}")
        declared = info.property_named(name) if info else None
        kind: str
        if declared is not None:
            kind = declared.kind
        elif one.format is not None:
            kind = _KINDS[one.format]
        elif name in present:
            kind = "D" if isinstance(present[name], int) else "M" if isinstance(present[name], tuple) else "S"
        else:
            kind = "S"
        value = _value(one, kind)
        if kind == "D" and not isinstance(value, int):
            return reports.bad_property(owner, name, f"it holds a number, and {one.text!r} is none")
        changes[name] = value
    return changes


def _value(one: Assigned, kind: str) -> PropertyValue:
    if kind == "M":
        return one.parts
    if kind == "D":
        try:
            number = int(one.text.strip(), 0)
        except ValueError:
            return one.text
        # Scripts write -1 for the DWORD that means never or unset; any other negative number is a mistake.
        return DWORD_MAX if number == -1 else number
    return one.text


def _spelling(name: str, present: Mapping[str, PropertyValue], info: ResourceTypeInfo | None) -> str:
    declared = info.property_named(name) if info else None
    if declared is not None:
        return declared.name
    wanted = name.casefold()
    return next((known for known in present if known.casefold() == wanted), name)

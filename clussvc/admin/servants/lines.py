"""What several objects answer alike, and changes of private properties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from clussvc.admin import dto
from clussvc.admin.dto import Plain
from clussvc.admin.servant import Refused
from clussvc.admin.values import Assigned, private_changes
from clussvc.model.config import Config, FenceDevice, Group, Network, Node, Resource
from clussvc.model.properties import common_values, kind_of
from clussvc.model.reports import Report

_Thing = TypeVar("_Thing", Group, Resource)


def no_instances(things: Iterable[_Thing]) -> list[_Thing]:
    """The groups or resources that administrators made; instances have everything from those."""
    return [thing for thing in things if thing.instance_of is None]


def common_lines(objects: Iterable[Node | Group | Resource | FenceDevice | Network]) -> list[Plain]:
    """The common properties of these, one line each."""
    return [
        {**dto.property_of(definition, value), "object": one.name}
        for one in objects
        for definition, value in common_values(one)
    ]


def private_lines(values: Mapping[str, Any], owner: str = "") -> list[Plain]:
    """Private properties, one line each; ``owner``: the name of what has them."""
    return [{**dto.private_of(name, value), "object": owner} for name, value in values.items()]


def private_changes_of(
    owner: Config | Node | Group | Network, assigned: list[Assigned], reset: list[str]
) -> dict[str, Any]:
    """The private properties with these changes. Raises Refused."""
    return refuse_reports(private_changes(f"{kind_of(owner)} {owner.name!r}", owner.private, None, assigned, reset))


def refuse_reports(changes: dict[str, Any] | Report) -> dict[str, Any]:
    """The changes, unless they are the report that says why there are none. Raises Refused with that."""
    if isinstance(changes, Report):
        raise Refused(changes)
    return changes

"""``cluster restype``."""

from __future__ import annotations

from cluster_cli import render
from cluster_cli.render import Screen
from cluster_cli.session import Session
from cluster_cli.syntax import Invocation


def run(invocation: Invocation, session: Session) -> Screen:
    """Do what the command says."""
    types = session.call("ResourceType", "types", invocation.name)
    if invocation.action.name == "properties":
        return _properties(types, invocation.name)
    lines = render.RESOURCE_TYPES.lines((one["name"], one["class"], one["description"]) for one in types)
    whom = f"resource type '{types[0]['name']}'" if invocation.name else "all resource types"
    return Screen(text=render.titled(f"Listing {whom}:", lines), data=types)


def _properties(types: list[dict[str, object]], name: str | None) -> Screen:
    lines = [
        {"kind": kind, "read_only": True, "object": one["name"], "name": label, "value": one[key]}
        for one in types
        for kind, label, key in (
            ("S", "Name", "name"),
            ("S", "Description", "description"),
            ("D", "LooksAlivePollInterval", "looks_alive_interval_ms"),
            ("D", "IsAlivePollInterval", "is_alive_interval_ms"),
            ("M", "RequiredDependencies", "required_dependencies"),
        )
    ]
    whom = f"'{types[0]['name']}'" if name else "all resource types"
    text = render.titled(f"Listing properties for {whom}:", render.property_lines("resourcetype", lines, ""))
    return Screen(text=text, data=lines)

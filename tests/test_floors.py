"""The import table of the house, as data, checked over the syntax trees.

Floor 0 decides and imports only values. Floor 1 touches one piece of the world per package, and its packages do not
know each other. Floor 2 wires. Floor 3 serves people.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

VALUE_MODULES = {
    "__future__", "abc", "ast", "bisect", "collections", "collections.abc", "dataclasses", "datetime", "enum",
    "functools", "hashlib", "heapq", "hmac", "ipaddress", "itertools", "math", "operator", "re", "shlex", "string",
    "struct", "typing", "types", "zlib", "zoneinfo",
}  # fmt: skip
"""What floor 0 may import from the standard library: values, no clock, thread, socket or file."""

DOMAINS = ("model", "membership", "quorum", "resources", "groups", "global_update", "nlb")
ROOF = {"clussvc", "clussvc.node", "clussvc.events", "clussvc.actions"}
SHARED = {"clussvc.ports", "clussvc.codec"}
"""Floor 1, but for all of it: the ports and the one form of values in bytes."""

ORDER = {"model": 0, "membership": 1, "quorum": 1, "resources": 1, "global_update": 1, "nlb": 1, "groups": 2, "roof": 3}
"""Within the ground floor a module imports only what stands lower, or its own package."""

SIDEWAYS = {
    ("global_update", "resources"),
    ("global_update", "membership"),
    ("global_update", "quorum"),
    ("membership", "global_update"),
    ("membership", "quorum"),
    ("resources", "nlb"),
    ("global_update", "nlb"),
}
"""Neighbours on one level that may be known: applying checks resource types, tells what the interfaces' states have
become, and counts votes before a majority takes over; regroup speaks in updates; the properties of a load-balanced
cluster are checked like those of other types, and its addresses beside theirs."""

PEOPLE_MAY_IMPORT = (
    "clussvc.model",
    "clussvc.admin.client",
    "clussvc.version",
    "clussvc.nlb.mac",
    "clussvc.nlb.port_rule",
)
"""The words of port rules, and link addresses, which ``nlb ip2mac`` tells without a service."""


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("clussvc", "cluster_cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if "migrations" not in parts:
                yield name, path


def imports(path: Path) -> set[str]:
    """Every module that is imported anywhere in the file, except for annotations only."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found.add(module)
            if module.startswith("clussvc"):
                found |= {
                    f"{module}.{a.name}"
                    for a in node.names
                    if (ROOT / module.replace(".", "/") / f"{a.name}.py").exists()
                }
    return found


def floor(module: str) -> str:
    """Which floor a module of ours stands on."""
    if module in ROOF:
        return "ground"
    if module in SHARED:
        return "shared"
    parts = module.split(".")
    if parts[0] == "cluster_cli":
        return "people"
    if parts[1] == "service":
        return "assembly"
    if parts[1] in DOMAINS:
        inside = ROOT / "clussvc" / parts[1]
        deep = len(parts) > 2 and (inside / parts[2]).is_dir()
        return "adapter" if deep else "ground"
    return "adapter"


def level(module: str) -> str:
    return "roof" if module in ROOF else module.split(".")[1]


def adapter_package(module: str) -> str:
    """The package that owns one piece of the world: clussvc.comms, clussvc.resources.monitor, ..."""
    parts = module.split(".")
    return ".".join(parts[:3] if parts[1] in DOMAINS else parts[:2])


MODULES = list(modules())
GROUND = [(name, path) for name, path in MODULES if floor(name) == "ground"]
ADAPTERS = [(name, path) for name, path in MODULES if floor(name) in ("adapter", "shared")]
PEOPLE = [(name, path) for name, path in MODULES if floor(name) == "people"]

ADAPTERS_THAT_MEET = {
    ("clussvc.resources.monitor", "clussvc.resources.types"): "the far end of a monitor drives resource types",
    ("clussvc.resources.types", "clussvc.resources.monitor"): "types use the monitor's helpers for processes",
    ("clussvc.comms", "clussvc.native"): "checksums and authentication in C",
    ("clussvc.nlb.card", "clussvc.resources.types"): "links and addresses are asked of the kernel in one place",
    ("clussvc.resources.types", "clussvc.nlb.card"): "the type prepares the adapter that its host process uses",
    ("clussvc.comms", "clussvc.resources.types"): "links and addresses are asked of the kernel in one place",
    ("clussvc.global_update.raft", "clussvc.native"): "checksums in C",
    ("clussvc.configdb", "clussvc.native"): "checksums in C",
    ("clussvc.nlb.filter", "clussvc.native"): "the packet filter in C",
}
"""Adapter packages that know each other all the same, each with its reason."""


@pytest.mark.parametrize(("name", "path"), GROUND, ids=[name for name, _ in GROUND])
def test_the_ground_floor_knows_only_values(name: str, path: Path) -> None:
    for module in imports(path):
        if not module.startswith(("clussvc", "cluster_cli")):
            assert module in VALUE_MODULES, f"{name} imports {module}, which is not a value module"
            continue
        assert floor(module) == "ground", f"{name} decides, but imports {module}, which touches something"
        here, there = level(name), level(module)
        lower = ORDER[there] < ORDER[here] or there == here or module == "clussvc"
        assert lower or (here, there) in SIDEWAYS, f"{name} imports {module}, which stands above it"


@pytest.mark.parametrize(("name", "path"), ADAPTERS, ids=[name for name, _ in ADAPTERS])
def test_adapters_do_not_know_each_other(name: str, path: Path) -> None:
    for module in imports(path):
        if not module.startswith(("clussvc", "cluster_cli")) or floor(module) in ("ground", "shared"):
            continue
        assert floor(module) == "adapter", f"{name} is an adapter, but imports {module}"
        mine, other = adapter_package(name), adapter_package(module)
        assert mine == other or (mine, other) in ADAPTERS_THAT_MEET, f"{name} imports {module}, another adapter"


@pytest.mark.parametrize(("name", "path"), PEOPLE, ids=[name for name, _ in PEOPLE])
def test_commands_know_only_the_vocabulary_and_the_client(name: str, path: Path) -> None:
    for module in imports(path):
        if module.startswith("clussvc"):
            assert module == "clussvc" or module.startswith(PEOPLE_MAY_IMPORT), f"{name} imports {module}"


def test_resource_scripts_import_only_the_standard_library() -> None:
    """A script is copied to other machines; it must work wherever Python does."""
    import sys

    for path in sorted((ROOT / "resource_scripts").glob("*.py")):
        for module in imports(path):
            assert module.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {module}"

"""Which names objects may have, and that no two of a kind share one."""

from __future__ import annotations

import re

from clussvc.model.config import Config
from clussvc.model.ids import NAME_LENGTH_MAX
from clussvc.model.index import index_of
from clussvc.model.properties import is_printable
from clussvc.model.reports import Report, bad_name, object_exists

NODE_NAME_LENGTH_MAX = 63
"""As for a label of a host name (RFC 1123)."""

_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)


def check_name(kind: str, name: str) -> Report | None:
    """Why ``name`` cannot name a cluster, node, group, resource or network; None if it can.

    A slash at the beginning would read as an option of the command line, and a node name of digits as a node number.
    """
    why = _problem(name) or (_node_problem(name) if kind == "node" else None)
    return bad_name(kind, name[: NAME_LENGTH_MAX + 1], why) if why else None


def _problem(name: str) -> str | None:
    if not 1 <= len(name) <= NAME_LENGTH_MAX:
        return f"a name has 1 to {NAME_LENGTH_MAX} characters"
    if not is_printable(name):
        return "it holds a control character"
    if name != name.strip():
        return "it begins or ends with a blank"
    if name.startswith("/"):
        return "it begins with '/', like an option"
    return None


def _node_problem(name: str) -> str | None:
    if len(name) > NODE_NAME_LENGTH_MAX:
        return f"a node's name has at most {NODE_NAME_LENGTH_MAX} characters"
    if not _NODE_NAME.fullmatch(name):
        return "a node's name consists of letters, digits, '-', '_' and '.' and begins with a letter or digit"
    if name.isdecimal():
        return "digits alone would be taken for a node number"
    return None


def check_new_name(config: Config, kind: str, name: str, *, instead_of: str = "") -> Report | None:
    """Like :func:`check_name`, and the name must be free; ``instead_of`` is the present name of the same object."""
    bad = check_name(kind, name)
    if bad is not None:
        return bad
    wanted = name.casefold()
    if instead_of and wanted == instead_of.casefold():
        return None
    return object_exists(kind, name) if _taken(config, kind, wanted) else None


def _taken(config: Config, kind: str, wanted: str) -> bool:
    """Whether an object of the kind has that name, which is in folded case."""
    if kind == "node":
        return any(wanted == node.name.casefold() for node in config.nodes.values())
    if kind == "group":
        return wanted in index_of(config.groups).ids
    if kind == "resource":
        return wanted in index_of(config.resources).ids
    if kind == "network":
        return any(wanted in (network.name.casefold(), network.id) for network in config.all_networks)
    if kind == "fence device":
        return any(wanted == device.name.casefold() for device in config.fence_devices.values())
    return False

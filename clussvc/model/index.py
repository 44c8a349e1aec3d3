"""Looking groups and resources up by name, and resources by group, without a scan of all of them.

The mappings of a configuration never change in place, so what was found out about one stays true. A few indexes are
kept, by the identity of their mapping; one that is not at hand is made by a scan. When a mapping is made from another
by exchanging or adding objects, :func:`carry` makes its index from the other's. With that, a batch of a thousand
changes does not scan a thousand resources a thousand times, which would keep the log from its heartbeats.

Nothing that is decided depends on whether an index was at hand: it only saves the scan. Indexes are values as well and
are shared between threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

KEPT_MAX = 8
"""Mappings whose indexes are kept: a few threads work on the newest one or two each."""


class Named(Protocol):
    """A group or a resource."""

    @property
    def id(self) -> Any: ...

    @property
    def name(self) -> str: ...


V = TypeVar("V", bound=Named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What is known of one mapping."""

    ids: Mapping[str, Any]
    """By the name in folded case, which is unique among the objects of a kind."""
    members: Mapping[Any, tuple[Any, ...]] = field(default_factory=dict)
    """The resources of each group that has any, in order of creation; empty for a mapping of groups."""


_kept: tuple[tuple[Mapping[Any, Any], Index], ...] = ()


def index_of(objects: Mapping[Any, Any]) -> Index:
    """The index of this mapping."""
    found = _find(objects)
    if found is None:
        found = _made(objects.values())
        _keep(objects, found)
    return found


def carry(before: Mapping[Any, V], after: Mapping[Any, V], changed: Iterable[V]) -> None:
    """``after`` is ``before`` with these objects exchanged, or added at the end; give it its index as well.

    Nothing is done when there is none to begin with, or when an object has another name or group than before.
    """
    index = _find(before)
    if index is None:
        return
    added = []
    for each in changed:
        old = before.get(each.id)
        if old is None:
            added.append(each)
        elif old.name != each.name or _group_of(old) != _group_of(each):
            return
    _keep(after, _extended(index, added) if added else index)


def _find(objects: Mapping[Any, Any]) -> Index | None:
    return next((index for mapping, index in _kept if mapping is objects), None)


def _keep(objects: Mapping[Any, Any], index: Index) -> None:
    global _kept
    # Two threads that do this at once may lose one of the two, which costs a scan and nothing else.
    _kept = ((objects, index), *_kept[: KEPT_MAX - 1])


def _made(objects: Iterable[Named]) -> Index:
    ids: dict[str, Any] = {}
    members: dict[Any, list[Any]] = {}
    for each in objects:
        ids.setdefault(each.name.casefold(), each.id)
        group = _group_of(each)
        if group is not None:
            members.setdefault(group, []).append(each.id)
    return Index(ids=ids, members={group: tuple(found) for group, found in members.items()})


def _extended(index: Index, added: Iterable[Named]) -> Index:
    ids, members = dict(index.ids), dict(index.members)
    for each in added:
        ids.setdefault(each.name.casefold(), each.id)
        group = _group_of(each)
        if group is not None:
            members[group] = (*members.get(group, ()), each.id)
    return Index(ids=ids, members=members)


def _group_of(each: Any) -> Any:
    return getattr(each, "group", None)

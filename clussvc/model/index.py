"""Looking groups and resources up by name, and resources by group, without a scan of all of them.

The mappings of a configuration never change in place, so what was found out about one stays true. A few indexes are
kept, by the identity of their mapping; one that is not at hand is made by a scan. When a mapping is made from another
by exchanging or adding objects, :func:`carry` makes its index from the other's. With that, a batch of a thousand
changes does not scan a thousand resources a thousand times, which would keep the log from its heartbeats.

Nothing that is decided depends on whether an index was at hand: it only saves the scan. Indexes are values as well and
are shared between threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    """The resources of each group that has any, in order of creation. For a mapping of groups: the instances of each
    parallel group."""
    parallel: tuple[Any, ...] = ()
    """For a mapping of groups: the parallel ones, in order of creation."""


_kept: tuple[tuple[Mapping[Any, Any], Index], ...] = ()


def index_of(objects: Mapping[Any, Any]) -> Index:
    """The index of this mapping."""
    for place, (mapping, index) in enumerate(_kept):
        if mapping is objects:
            if place >= KEPT_MAX // 2:
                # Many changes of another mapping must not push out one that is asked for all the time.
                _keep(objects, index)
            return index
    found = _made(objects.values())
    _keep(objects, found)
    return found


def carry(before: Mapping[Any, V], after: Mapping[Any, V], changed: Iterable[V]) -> None:
    """``after`` is ``before`` with these objects exchanged, or added at the end; give it its index as well.

    Nothing is done when there is none to begin with, or when an object has another name or group than before, or has
    become parallel.
    """
    index = _find(before)
    if index is None:
        return
    added = []
    for each in changed:
        old = before.get(each.id)
        if old is None:
            added.append(each)
        elif old.name != each.name or _group_of(old) != _group_of(each) or _parallel(old) != _parallel(each):
            return
    _keep(after, _extended(index, added) if added else index)


def _find(objects: Mapping[Any, Any]) -> Index | None:
    return next((index for mapping, index in _kept if mapping is objects), None)


def _keep(objects: Mapping[Any, Any], index: Index) -> None:
    global _kept
    # Two threads that do this at once may lose one of the two, which costs a scan and nothing else.
    others = [each for each in _kept if each[0] is not objects]
    _kept = ((objects, index), *others[: KEPT_MAX - 1])


def _made(objects: Iterable[Named]) -> Index:
    ids: dict[str, Any] = {}
    members: dict[Any, list[Any]] = {}
    parallel: list[Any] = []
    for each in objects:
        ids.setdefault(each.name.casefold(), each.id)
        group = _group_of(each)
        if group is not None:
            members.setdefault(group, []).append(each.id)
        if _parallel(each):
            parallel.append(each.id)
    found = {group: tuple(held) for group, held in members.items()}
    return Index(ids=ids, members=found, parallel=tuple(parallel))


def _extended(index: Index, added: Sequence[Named]) -> Index:
    ids, members = dict(index.ids), dict(index.members)
    for each in added:
        ids.setdefault(each.name.casefold(), each.id)
        group = _group_of(each)
        if group is not None:
            members[group] = (*members.get(group, ()), each.id)
    parallel = tuple(each.id for each in added if _parallel(each))
    return Index(ids=ids, members=members, parallel=(*index.parallel, *parallel))


def _group_of(each: Any) -> Any:
    """What an object is listed under: the group of a resource, the parallel group of an instance."""
    return each.group if hasattr(each, "group") else getattr(each, "instance_of", None)


def _parallel(each: Any) -> bool:
    return bool(getattr(each, "parallel", False))

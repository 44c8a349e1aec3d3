"""Configurations and events to store: any at all, and one that follows from a number."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hypothesis import strategies as st

from clussvc.model.config import (
    Config,
    FailoverRequest,
    FenceDevice,
    Group,
    Interface,
    JoinToken,
    Move,
    Network,
    Node,
    Resource,
)
from clussvc.model.ids import ClusterId, GroupId, NodeId, RequestId, ResourceId
from clussvc.model.monitoring import PropertyValue
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.records import HistoryEntry, Record
from clussvc.model.reports import Report, Severity
from clussvc.model.settings import PROFILES
from clussvc.model.states import MoveCause, ResourceState

NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
NODE_IDS = st.integers(1, 6).map(NodeId)
KEYS = st.sampled_from(["a", "b", "c", "d", "é", "'; --", ""])
VALUES: st.SearchStrategy[PropertyValue] = st.one_of(NUMBERS, TEXTS, st.lists(TEXTS, max_size=3).map(tuple))
PRIVATE = st.dictionaries(TEXTS, VALUES, max_size=2)

_BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "int": NUMBERS,
    "str": TEXTS,
    "bool": st.booleans(),
    "int | None": st.none() | NUMBERS,
    "NodeId": NODE_IDS,
    "NodeId | None": st.none() | NODE_IDS,
    "GroupId": KEYS,
    "GroupId | None": st.none() | KEYS,
    "ResourceId | None": st.none() | KEYS,
    "ResourceId": KEYS,
    "FenceDeviceId": KEYS,
    "NetworkId": KEYS,
    "str | None": st.none() | TEXTS,
    "tuple[str, ...]": st.lists(TEXTS, max_size=3).map(tuple),
    "tuple[int, ...]": st.lists(NUMBERS, max_size=3).map(tuple),
    "tuple[NodeId, ...]": st.lists(NODE_IDS, max_size=3).map(tuple),
    "tuple[NodeId, ...] | None": st.none() | st.lists(NODE_IDS, max_size=3).map(tuple),
    "tuple[ResourceId, ...]": st.lists(KEYS, max_size=3).map(tuple),
    "Mapping[str, PropertyValue]": PRIVATE,
    "MoveCause": st.sampled_from(MoveCause),
    "ResourceState": st.sampled_from(ResourceState),
    "Severity": st.sampled_from(Severity),
    "QuorumKind": st.sampled_from(QuorumKind),
}


def every_field(cls: type[Any], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects with every field drawn; a new field of an unknown type is an error here, not a gap in the tests."""
    drawn = {each.name: _BY_TYPE[str(each.type)] for each in fields(cls) if each.name not in given}
    return st.builds(cls, **drawn, **given)


_BY_TYPE["tuple[Interface, ...]"] = st.lists(every_field(Interface), max_size=2).map(tuple)

_MOVES = every_field(Move)
_REQUESTED = every_field(FailoverRequest)
_GROUPS = every_field(Group, move=st.none() | _MOVES, failover=st.none() | _REQUESTED)


def _keyed(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[Any, Any]]:
    return st.lists(values, max_size=4, unique_by=lambda each: each.id).map(
        lambda all_: {each.id: each for each in all_}
    )


def configs() -> st.SearchStrategy[Config]:
    """Configurations of any shape; their parts need not fit together."""
    return st.builds(
        Config,
        cluster=TEXTS.map(ClusterId),
        name=TEXTS,
        timing=st.sampled_from(list(PROFILES.values())),
        description=TEXTS,
        private=PRIVATE,
        utc_offset_min=NUMBERS,
        default_group=st.none() | KEYS,
        next_node_id=NUMBERS,
        voters_version=NUMBERS,
        nodes=_keyed(every_field(Node)),
        groups=_keyed(_GROUPS),
        resources=_keyed(every_field(Resource)),
        tokens=_keyed(every_field(JoinToken)),
        fence_devices=_keyed(every_field(FenceDevice)),
        networks=_keyed(every_field(Network)),
        fencing_required=st.booleans(),
        quarantine_threshold=NUMBERS,
        quarantine_period_s=NUMBERS,
        quarantine_duration_s=NUMBERS,
        timing_version=NUMBERS,
        quorum=every_field(Quorum),
        evicted=st.lists(NODE_IDS, max_size=3).map(tuple),
        recent=st.dictionaries(TEXTS.map(RequestId), st.none() | every_field(Report), max_size=4),
    )


def entry(cursor: int, message: str = "") -> HistoryEntry:
    """One event."""
    record = Record(
        name="group.moved",
        message=message or f"Event {cursor}.",
        kind="group",
        object="web",
        event_id=cursor % 7,
        severity=list(Severity)[cursor % 3],
        node="n1",
        because="it was asked for",
    )
    return HistoryEntry(cursor=cursor, at_ms=1_700_000_000_000 + cursor, record=record)


def numbered(index: int, *, resources: int = 40) -> Config:
    """The configuration that a long-lived cluster might have at that index; every index changes a little."""
    some = range(max(0, index - 20), index)
    return Config(
        cluster=ClusterId("cluster-1"),
        name="demo",
        voters_version=index // 10,
        nodes={
            NodeId(n): Node(id=NodeId(n), name=f"n{n}", addresses=(f"10.0.0.{n}",), port=1, up=(index // n) % 3 > 0)
            for n in (1, 2, 3)
        },
        groups={
            GroupId(f"g{n}"): Group(
                id=GroupId(f"g{n}"),
                name=f"group {n}",
                owner=NodeId(1 + index % 3),
                epoch=index // 2 + n,
                preferred_owners=(NodeId(1 + index % 2), NodeId(3)),
                failovers=tuple(some),
                move=None if index % 4 else Move(to=None, cause=MoveCause.ADMIN, because=f"at {index}"),
            )
            for n in range(4)
        },
        resources={
            ResourceId(f"r{n}"): Resource(
                id=ResourceId(f"r{n}"),
                name=f"resource {n}",
                type="Generic Application",
                group=GroupId(f"g{n % 4}"),
                private={"CommandLine": f"/bin/true {n}", "List": (str(index // 5), "b")},
                depends_on=tuple(ResourceId(f"r{d}") for d in range(n % 3)),
                possible_owners=None if n % 2 else (NodeId(1), NodeId(2)),
                state=list(ResourceState)[(index + n) // 8 % 6],
            )
            # Resources come and go.
            for n in range(index // 7, index // 7 + resources)
        },
        recent={RequestId(f"q{n}"): None for n in some},
    )


def entries_at(index: int) -> list[HistoryEntry]:
    """The events of that index."""
    return [entry(index * 1_000 + place) for place in range(index % 3)]

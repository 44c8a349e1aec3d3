"""Objects of the configuration as rows, and back.

Each :class:`Section` stands for one mapping of the configuration and its table. The store compares and writes sections
without knowing what is in them; what is particular to a kind of object is here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import Table

from clussvc.configdb import tables
from clussvc.model.config import Config, FailoverRequest, FenceDevice, Group, JoinToken, Move, Network, Node, Resource
from clussvc.model.quorum import Quorum
from clussvc.model.records import HistoryEntry, Record
from clussvc.model.reports import Report
from clussvc.model.settings import Timing
from clussvc.model.witness import Witness

Row = dict[str, Any]
Lists = Mapping[str, tuple[Any, ...]]
"""The lists of one object: by the name of their table, its members in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTable:
    """A list that belongs to the objects of a section."""

    table: Table
    owner: str
    """The column that names the object."""
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One mapping of the configuration."""

    table: Table
    key: str
    """The column that holds the key of the mapping."""
    objects: Callable[[Config], Mapping[Any, Any]]
    row: Callable[[Any], Row]
    """All columns but the key, the position and the lists."""
    made: Callable[[Any, Row, Lists], Any]
    """The object from its key, its row and its lists."""
    lists: tuple[ListTable, ...] = ()
    members: Callable[[Any], Lists] = lambda _: {}
    """The members of each list of an object."""


def _plain_fields(table: Table, cls: type[Any]) -> tuple[str, ...]:
    """The fields that are columns of the same name; the key is not among them."""
    return tuple(field.name for field in fields(cls) if field.name in table.c and field.name != "id")


_NODE: Final = _plain_fields(tables.nodes, Node)
_GROUP: Final = _plain_fields(tables.groups, Group)
_RESOURCE: Final = _plain_fields(tables.resources, Resource)
_TOKEN: Final = _plain_fields(tables.tokens, JoinToken)
_FENCE: Final = _plain_fields(tables.fence_devices, FenceDevice)
_NETWORK: Final = tuple(name for name in _plain_fields(tables.networks, Network) if name != "position")
_REPORT: Final = _plain_fields(tables.requests, Report)
_CLUSTER: Final = _plain_fields(tables.cluster, Config)
_TIMING: Final = _plain_fields(tables.cluster, Timing)
_RECORD: Final = _plain_fields(tables.events, Record)
_QUORUM: Final = tuple(field.name for field in fields(Quorum))
_WITNESS: Final = tuple(field.name for field in fields(Witness))


def _taken(value: Any, names: tuple[str, ...]) -> Row:
    return {name: getattr(value, name) for name in names}


def _given(row: Row, names: tuple[str, ...]) -> Row:
    return {name: row[name] for name in names}


def _group_row(group: Group) -> Row:
    row = _taken(group, _GROUP)
    move, failover = group.move, group.failover
    row["move_to"] = move.to if move else None
    row["move_cause"] = move.cause if move else None
    row["move_because"] = move.because if move else None
    row["move_bring_online"] = move.bring_online if move else None
    row["failover_resource"] = failover.resource if failover else None
    row["failover_because"] = failover.because if failover else None
    row["failover_at_ms"] = failover.at_ms if failover else None
    return row


def _group(key: Any, row: Row, lists: Lists) -> Group:
    move = failover = None
    if row["move_cause"] is not None:
        move = Move(
            to=row["move_to"],
            cause=row["move_cause"],
            because=row["move_because"],
            bring_online=row["move_bring_online"],
        )
    if row["failover_resource"] is not None:
        failover = FailoverRequest(
            resource=row["failover_resource"], because=row["failover_because"], at_ms=row["failover_at_ms"]
        )
    preferred = lists["preferred_owners"]
    return Group(id=key, preferred_owners=preferred, move=move, failover=failover, **_given(row, _GROUP))


def _resource_row(resource: Resource) -> Row:
    return {**_taken(resource, _RESOURCE), "any_owner": resource.possible_owners is None}


def _resource(key: Any, row: Row, lists: Lists) -> Resource:
    return Resource(
        id=key,
        depends_on=lists["dependencies"],
        possible_owners=None if row["any_owner"] else lists["possible_owners"],
        **_given(row, _RESOURCE),
    )


def _request_row(refusal: Report | None) -> Row:
    return dict.fromkeys(_REPORT) if refusal is None else _taken(refusal, _REPORT)


def _request(_key: Any, row: Row, _lists: Lists) -> Report | None:
    return None if row["code"] is None else Report(**_given(row, _REPORT))


SECTIONS: Final = (
    Section(
        table=tables.nodes,
        key="id",
        objects=lambda config: config.nodes,
        row=lambda node: _taken(node, _NODE),
        made=lambda key, row, _: Node(id=key, **_given(row, _NODE)),
    ),
    Section(
        table=tables.groups,
        key="id",
        objects=lambda config: config.groups,
        row=_group_row,
        made=_group,
        lists=(ListTable(table=tables.preferred_owners, owner="group_id", member="node_id"),),
        members=lambda group: {"preferred_owners": group.preferred_owners},
    ),
    Section(
        table=tables.resources,
        key="id",
        objects=lambda config: config.resources,
        row=_resource_row,
        made=_resource,
        lists=(
            ListTable(table=tables.dependencies, owner="resource_id", member="provider_id"),
            ListTable(table=tables.possible_owners, owner="resource_id", member="node_id"),
        ),
        members=lambda resource: {
            "dependencies": resource.depends_on,
            "possible_owners": resource.possible_owners or (),
        },
    ),
    Section(
        table=tables.tokens,
        key="id",
        objects=lambda config: config.tokens,
        row=lambda token: _taken(token, _TOKEN),
        made=lambda key, row, _: JoinToken(id=key, **_given(row, _TOKEN)),
    ),
    Section(
        table=tables.fence_devices,
        key="id",
        objects=lambda config: config.fence_devices,
        row=lambda device: _taken(device, _FENCE),
        made=lambda key, row, _: FenceDevice(id=key, **_given(row, _FENCE)),
    ),
    Section(
        table=tables.networks,
        key="id",
        objects=lambda config: config.networks,
        row=lambda network: {**_taken(network, _NETWORK), "place": network.position},
        made=lambda key, row, _: Network(id=key, position=row["place"], **_given(row, _NETWORK)),
    ),
    Section(
        table=tables.requests,
        key="request_id",
        objects=lambda config: config.recent,
        row=_request_row,
        made=_request,
    ),
)


def cluster_row(config: Config) -> Row:
    """What stands in the configuration beside its mappings."""
    quorum = {f"quorum_{name}": getattr(config.quorum, name) for name in _QUORUM}
    witness = {f"witness_{name}": getattr(config.witness, name) for name in _WITNESS}
    return {**_taken(config, _CLUSTER), **_taken(config.timing, _TIMING), **quorum, **witness}


def make_config(row: Row, sections: Mapping[str, Mapping[Any, Any]]) -> Config:
    """The configuration from the row of the cluster and its mappings, by the names of their tables."""
    return Config(
        timing=Timing(**_given(row, _TIMING)),
        quorum=Quorum(**{name: row[f"quorum_{name}"] for name in _QUORUM}),
        witness=Witness(**{name: row[f"witness_{name}"] for name in _WITNESS}),
        nodes=sections["nodes"],
        groups=sections["groups"],
        resources=sections["resources"],
        tokens=sections["tokens"],
        fence_devices=sections["fence_devices"],
        networks=sections["networks"],
        recent=sections["requests"],
        **_given(row, _CLUSTER),
    )


def event_row(entry: HistoryEntry) -> Row:
    """An event as a row."""
    return {"cursor": entry.cursor, "at_ms": entry.at_ms, **_taken(entry.record, _RECORD)}


def make_event(row: Row) -> HistoryEntry:
    """The event of a row."""
    return HistoryEntry(cursor=row["cursor"], at_ms=row["at_ms"], record=Record(**_given(row, _RECORD)))

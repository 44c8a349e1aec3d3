"""The tables of the configuration database.

One row for each object, one column for each field, under the same name where possible. Lists whose members are objects
of the cluster (owners, dependencies) are tables of their own; lists of plain texts and the private properties, which
only their object understands, are JSON. ``position`` keeps the order of the mappings in the configuration.

References point only from a list to the object that it belongs to. What objects owe to each other is held by ``apply``
and proved by the digest in ``applied``; a second opinion here could only refuse what the cluster has agreed on.

A change of these tables needs a new module in ``migrations/versions`` and a new SCHEMA_REVISION; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)

from clussvc.model.config import Interface
from clussvc.model.monitoring import PropertyValue
from clussvc.model.quorum import QuorumKind
from clussvc.model.reports import Severity
from clussvc.model.states import MoveCause, ResourceState

SCHEMA_REVISION: Final = "0008"
"""The newest migration; a database that says this needs none."""

APPLICATION_ID: Final = 0x636C7573
"""Marks the file as ours ('clus'), in the header field that SQLite reserves for this."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(column_0_label)s",
    }
)


class Word(TypeDecorator[Enum]):
    """An enum as the word of its value. A word that does not exist raises ValueError."""

    impl = Text
    cache_ok = True

    def __init__(self, words: type[Enum]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: Enum | None, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else str(value.value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Enum | None:
        """From the database."""
        return None if value is None else self.words(value)


class Listed(TypeDecorator[tuple[Any, ...]]):
    """A tuple of texts or numbers as a JSON list."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: tuple[Any, ...] | None, dialect: Dialect) -> list[Any] | None:
        """To the database."""
        return None if value is None else list(value)

    def process_result_value(self, value: list[Any] | None, dialect: Dialect) -> tuple[Any, ...] | None:
        """From the database."""
        return None if value is None else tuple(value)


class Properties(TypeDecorator[Mapping[str, PropertyValue]]):
    """Private properties as a JSON object: a number, a text, or a list of texts for a multi-string."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, PropertyValue] | None, dialect: Dialect) -> dict[str, Any] | None:
        """To the database."""
        return None if value is None else dict(value)

    def process_result_value(
        self, value: dict[str, Any] | None, dialect: Dialect
    ) -> Mapping[str, PropertyValue] | None:
        """From the database."""
        if value is None:
            return None
        return {name: tuple(each) if isinstance(each, list) else each for name, each in value.items()}


class Interfaces(TypeDecorator[tuple[Interface, ...]]):
    """What a node tells of its addresses, as a JSON list of objects."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: tuple[Interface, ...] | None, dialect: Dialect) -> list[dict[str, Any]] | None:
        """To the database."""
        return None if value is None else [asdict(each) for each in value]

    def process_result_value(
        self, value: list[dict[str, Any]] | None, dialect: Dialect
    ) -> tuple[Interface, ...] | None:
        """From the database."""
        if value is None:
            return None
        return tuple(Interface(**{**each, "silent": tuple(each["silent"])}) for each in value)


def _text(name: str, *, optional: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=optional)


def _number(name: str, *, optional: bool = False) -> Column[Any]:
    return Column(name, BigInteger, nullable=optional)


def _flag(name: str, *, optional: bool = False) -> Column[Any]:
    return Column(name, Boolean, nullable=optional)


def _numbered(name: str) -> Column[Any]:
    # Exactly INTEGER: SQLite then keeps the table in this order and needs no second index.
    return Column(name, Integer, primary_key=True, autoincrement=False)


def _list_of(name: str, owner: Column[Any], owner_name: str, member: Column[Any]) -> Table:
    return Table(
        name,
        metadata,
        Column(owner_name, ForeignKey(owner, ondelete="CASCADE"), primary_key=True),
        Column("rank", Integer, primary_key=True, autoincrement=False),
        member,
    )


applied = Table(
    "applied",
    metadata,
    _numbered("id"),
    _number("log_index"),
    Column("digest", Text, nullable=False),
)
"""One row, id 1: the log index of what is stored here, and the digest of the configuration."""

cluster = Table(
    "cluster",
    metadata,
    _text("cluster"),
    _text("name"),
    _text("description"),
    Column("private", Properties, nullable=False),
    _number("utc_offset_min"),
    _text("default_group", optional=True),
    _number("next_node_id"),
    _number("voters_version"),
    _text("profile"),
    _number("heartbeat_interval_ms"),
    _number("lease_ms"),
    _number("release_budget_ms"),
    _number("raft_heartbeat_ms"),
    _number("raft_election_ms"),
    _number("drift_ppm"),
    Column("evicted", Listed, nullable=False),
    _flag("fencing_required"),
    _number("quarantine_threshold"),
    _number("quarantine_period_s"),
    _number("quarantine_duration_s"),
    _number("timing_version"),
    Column("quorum_kind", Word(QuorumKind), nullable=False),
    _text("quorum_device"),
    _text("quorum_disk"),
    _number("quorum_sectors"),
    _flag("quorum_reservations"),
    _number("quorum_base_index"),
    _number("quorum_max_log_kb"),
    _number("quorum_hold_ms"),
    _number("quorum_generation"),
    _number("quorum_former_hold_ms"),
    _number("quorum_former_silence_ms"),
    _number("settling_version"),
    _text("witness_path"),
    _text("witness_token"),
    _number("witness_opened"),
    _flag("dynamic_votes"),
)
"""One row. ``evicted`` holds numbers of nodes that are no objects any more, and so is a plain list."""

nodes = Table(
    "nodes",
    metadata,
    _numbered("id"),
    _number("position"),
    _text("name"),
    Column("addresses", Listed, nullable=False),
    _number("port"),
    _number("admin_port"),
    _flag("voter"),
    _flag("up"),
    _flag("joining"),
    _flag("paused"),
    _number("incarnation"),
    _flag("evicting"),
    _number("boot"),
    _number("attempt"),
    _flag("stopping"),
    _text("down_because"),
    _text("description"),
    Column("private", Properties, nullable=False),
    Column("losses", Listed, nullable=False),
    _number("quarantined_until_ms"),
    _text("fence_failure"),
    Column("interfaces", Interfaces, nullable=False),
    _flag("unsettled"),
)

groups = Table(
    "groups",
    metadata,
    Column("id", Text, primary_key=True),
    _number("position"),
    _text("name"),
    _text("description"),
    _flag("persistent_state"),
    _number("failover_threshold"),
    _number("failover_period_h"),
    _flag("auto_failback"),
    _number("failback_window_start_h"),
    _number("failback_window_end_h"),
    Column("anti_affinity", Listed, nullable=False),
    Column("private", Properties, nullable=False),
    _number("owner", optional=True),
    _number("epoch"),
    _flag("released"),
    _text("released_because"),
    Column("released_cause", Word(MoveCause), nullable=False),
    _number("move_to", optional=True),
    Column("move_cause", Word(MoveCause), nullable=True),
    _text("move_because", optional=True),
    _flag("move_bring_online", optional=True),
    _text("failover_resource", optional=True),
    _text("failover_because", optional=True),
    _number("failover_at_ms", optional=True),
    Column("failovers", Listed, nullable=False),
    _flag("halted"),
    _text("placed_because"),
    _flag("moved_by_hand"),
    _flag("homecoming"),
    _text("group_type"),
    _number("max_instances"),
    _text("instance_of", optional=True),
    _number("instance"),
)
"""No move is decided while ``move_cause`` is null, no failover is requested while ``failover_resource`` is."""

preferred_owners = _list_of("preferred_owners", groups.c.id, "group_id", _number("node_id"))

resources = Table(
    "resources",
    metadata,
    Column("id", Text, primary_key=True),
    _number("position"),
    _text("name"),
    _text("type"),
    _text("group"),
    _text("description"),
    _flag("separate_monitor"),
    _flag("persistent_state"),
    _number("looks_alive_poll_interval_ms", optional=True),
    _number("is_alive_poll_interval_ms", optional=True),
    _number("restart_action"),
    _number("restart_threshold"),
    _number("restart_period_ms"),
    _number("retry_period_on_failure_ms", optional=True),
    _number("pending_timeout_ms"),
    _flag("any_owner"),
    Column("private", Properties, nullable=False),
    Column("state", Word(ResourceState), nullable=False),
    _text("detail"),
    _number("online_ticket"),
    _number("fail_ticket"),
    _text("instance_of", optional=True),
)
"""``any_owner`` tells a resource that every node may run from one that no node may."""

dependencies = _list_of("dependencies", resources.c.id, "resource_id", _text("provider_id"))
possible_owners = _list_of("possible_owners", resources.c.id, "resource_id", _number("node_id"))

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    _number("position"),
    _text("secret_sha256"),
    _number("expires_ms"),
    _text("node_name"),
)

fence_devices = Table(
    "fence_devices",
    metadata,
    Column("id", Text, primary_key=True),
    _number("position"),
    _text("name"),
    _number("node"),
    _text("agent"),
    _text("action"),
    _number("order"),
    _number("timeout_ms"),
    _flag("verify"),
    _text("description"),
    Column("private", Properties, nullable=False),
)

networks = Table(
    "networks",
    metadata,
    Column("id", Text, primary_key=True),
    # Where it stands in the mapping; which address of the nodes it is for is another thing.
    _number("position"),
    _text("name"),
    _number("place"),
    _text("description"),
    _number("role"),
    _number("priority"),
    _text("address"),
    _number("prefix"),
    Column("private", Properties, nullable=False),
)
"""``place`` is the network's ``position`` among the addresses of a node."""

requests = Table(
    "requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    _number("position"),
    _text("code", optional=True),
    _number("status", optional=True),
    _text("message", optional=True),
    Column("severity", Word(Severity), nullable=True),
    _text("force_code", optional=True),
)
"""Request ids applied lately; ``code`` is null when the request was accepted, else the refusal."""

events = Table(
    "events",
    metadata,
    _numbered("cursor"),
    _number("at_ms"),
    _text("name"),
    _text("message"),
    _text("kind"),
    _text("object"),
    _number("event_id"),
    Column("severity", Word(Severity), nullable=False),
    _text("node"),
    _text("because"),
)

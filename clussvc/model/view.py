"""What one node knows at this moment besides the replicated configuration; shown by status commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clussvc.model.ids import NodeId, ResourceId
from clussvc.model.states import NodePhase


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """What this node knows of another one."""

    silent_ms: int | None
    """Since its last heartbeat arrived here; None: never heard in this life."""
    lease_ms: int
    """For how long its lease for this node still runs; 0: not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResourceView:
    """What the owner knows of a resource beyond its state."""

    restarts_in_period: int
    last_failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveView:
    """A snapshot of one node; cheap to make, never shared with the log."""

    node: NodeId
    phase: NodePhase
    incarnation: int
    holds_quorum: bool
    quorum_lease_ms: int
    """For how long this node may act if it hears nothing more."""
    votes_held: int
    votes_needed: int
    coordinator: NodeId | None
    index: int
    peers: Mapping[NodeId, PeerView] = field(default_factory=dict)
    resources: Mapping[ResourceId, LocalResourceView] = field(default_factory=dict)
    witness_trouble: str | None = None
    """Why this node does not reach the witness; empty: it does; None: nobody has looked yet, or there is none."""
    note: str = ""
    """Why the node is not a member, in a sentence, if it is not."""

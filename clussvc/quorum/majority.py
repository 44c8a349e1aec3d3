"""Majority arithmetic, in one place (MSCS: Majority Node Set needs floor(n/2)+1 of the configured nodes)."""

from __future__ import annotations

from collections.abc import Collection

from clussvc.model.ids import NodeId


def needed(voters: int) -> int:
    """How many of that many voters are a majority; at least 1."""
    return voters // 2 + 1


def is_majority(present: Collection[NodeId], voters: Collection[NodeId]) -> bool:
    """Whether those present hold a majority of the voters; others who are present do not count."""
    return len(set(present) & set(voters)) >= needed(len(voters))


def losses_survived(voters: int) -> int:
    """How many voters may be lost before nobody holds quorum."""
    return voters - needed(voters)

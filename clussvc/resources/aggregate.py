"""The state of a group, derived from the states of its resources.

MSCS: failed if one resource failed; else pending if one is pending; else online or offline if all are (an empty group
is offline); else partially online.
"""

from __future__ import annotations

from collections.abc import Iterable

from clussvc.model.config import Resource
from clussvc.model.states import GroupState, ResourceState


def group_state(resources: Iterable[Resource]) -> GroupState:
    """What the group of these resources is, as administrators see it."""
    states = {resource.state for resource in resources}
    if ResourceState.FAILED in states:
        return GroupState.FAILED
    if any(state.pending for state in states):
        return GroupState.PENDING
    if states <= {ResourceState.OFFLINE}:
        return GroupState.OFFLINE
    if states == {ResourceState.ONLINE}:
        return GroupState.ONLINE
    if ResourceState.ONLINE in states:
        return GroupState.PARTIAL_ONLINE
    return GroupState.UNKNOWN

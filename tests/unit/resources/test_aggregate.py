"""The state of a group follows from those of its resources."""

from __future__ import annotations

import pytest

from clussvc.model.config import Resource
from clussvc.model.ids import GroupId, ResourceId
from clussvc.model.states import GroupState, ResourceState
from clussvc.resources.aggregate import group_state

ON, OFF, FAILED = ResourceState.ONLINE, ResourceState.OFFLINE, ResourceState.FAILED


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], GroupState.OFFLINE),
        ([OFF, OFF], GroupState.OFFLINE),
        ([ON, ON], GroupState.ONLINE),
        ([ON, OFF], GroupState.PARTIAL_ONLINE),
        ([ON, ResourceState.ONLINE_PENDING], GroupState.PENDING),
        ([OFF, ResourceState.OFFLINE_PENDING], GroupState.PENDING),
        ([ResourceState.ONLINE_PENDING, FAILED], GroupState.FAILED),
        ([ON, FAILED], GroupState.FAILED),
        ([OFF, ResourceState.UNKNOWN], GroupState.UNKNOWN),
    ],
)
def test_group_state(states: list[ResourceState], expected: GroupState) -> None:
    """Failed before pending before all-of-one-kind before partial."""
    resources = [
        Resource(id=ResourceId(f"r{at}"), name=f"r{at}", type="Generic Script", group=GroupId("g"), state=state)
        for at, state in enumerate(states)
    ]
    assert expected is group_state(resources)

"""Indexes save scans and change no answer."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc.global_update.apply import apply
from clussvc.global_update.outcome import with_groups, with_resources
from clussvc.global_update.update import Batch, CreateGroup, CreateResource, OnlineGroup, Proposal, Update
from clussvc.model import index
from clussvc.model.config import Config, Group, Resource
from clussvc.model.ids import ClusterId, GroupId, NodeId, RequestId, ResourceId

GROUPS = [Group(id=GroupId(f"g{n}"), name=f"Group {n}") for n in range(3)]
EMPTY = Config(cluster=ClusterId("c"), name="C", groups={group.id: group for group in GROUPS})

resources = st.builds(
    lambda number, name, group: Resource(
        id=ResourceId(f"r{number}"), name=f"{name}-{number}", type="Generic Script", group=GROUPS[group].id
    ),
    st.integers(0, 9),
    st.sampled_from(("alpha", "Beta", "GAMMA")),
    st.integers(0, 2),
)


@settings(max_examples=300)
@given(st.lists(st.lists(resources, max_size=4), max_size=8), st.booleans())
def test_every_answer_is_that_of_a_scan(steps: list[list[Resource]], asked_before: bool) -> None:
    """Added, exchanged, renamed, moved to another group: whether or not an index was at hand before."""
    config = EMPTY
    for changed in steps:
        if asked_before:
            index.index_of(config.resources)
        config = with_resources(config, changed)

        for group in GROUPS:
            scanned = [each for each in config.resources.values() if each.group == group.id]
            assert scanned == list(config.resources_of(group.id))
        for each in config.resources.values():
            assert each is config.resource_named(each.name.swapcase())
            assert each is config.resource_named(each.id)
        assert config.resource_named("nobody") is None


def test_a_renamed_group_is_found_under_its_new_name_only() -> None:
    """An index is not carried over a change of names."""
    index.index_of(EMPTY.groups)
    renamed = with_groups(EMPTY, [replace(GROUPS[0], name="Other")])

    assert renamed.group_named("OTHER") is not None
    assert renamed.group_named("Group 0") is None
    assert EMPTY.group_named("Group 0") is GROUPS[0]


def test_a_batch_scans_once() -> None:
    """The cost of a change does not grow with the number of resources: nothing in the path is quadratic."""
    creation: list[Update] = [CreateGroup(group=GroupId(f"n{n}"), name=f"New {n}") for n in range(100)]
    creation += [
        CreateResource(
            resource=ResourceId(f"n{n}"),
            name=f"new-{n}",
            type="Generic Script",
            group=GroupId(f"n{n % 100}"),
            private={"ScriptFilepath": "/opt/x.py"},
        )
        for n in range(300)
    ]
    with mock.patch.object(index, "_made", wraps=index._made) as scan:
        config = _applied(EMPTY, "creation", creation)
        config = _applied(config, "online", [OnlineGroup(group=GroupId(f"n{n}")) for n in range(100)])

    assert 300 == len([each for each in config.resources.values() if each.persistent_state])
    assert scan.call_count <= 2, "one scan for the groups and one for the resources, at the beginning"


def _applied(config: Config, request: str, updates: list[Update]) -> Config:
    batch = Batch(updates=tuple(updates))
    applied = apply(config, Proposal(request=RequestId(request), proposer=NodeId(1), at_ms=0, update=batch))
    assert applied.refusal is None
    return applied.config

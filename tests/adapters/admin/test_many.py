"""Many changes in one request: one step of the log, and all of them or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clussvc.admin.client import ClusterClient, CommandRefused
from clussvc.admin.wire import CHANGES_MAX
from clussvc.codec import PROPOSAL_BYTES_MAX
from clussvc.global_update.update import Batch
from clussvc.model.errors import ClusterError
from tests.adapters.admin.conftest import Place

Remote = Callable[[Path], ClusterClient]
SCRIPT = {"name": "ScriptFilepath", "text": "/opt/dummy.py", "parts": ["/opt/dummy.py"], "format": None}


def bulk(groups: int, resources: int) -> list[tuple[Any, ...]]:
    """Groups, resources in them that name the groups, and the wish to have all online."""
    return [
        *(("Group", "create", f"G{number}") for number in range(groups)),
        *(
            ("Resource", "create", f"R{number}", "Generic Script", f"G{number % groups}", {"private": [SCRIPT]})
            for number in range(resources)
        ),
        *(("Group", "online", f"G{number}") for number in range(groups)),
    ]


def test_all_of_it_is_one_entry(place: Place, local: ClusterClient) -> None:
    """Later changes name what earlier ones make."""
    local.change_many(bulk(groups=20, resources=60))

    config = place.access.config()
    assert 61 == len(config.resources) + len([1 for group in config.groups.values() if group.name == "Cluster Group"])
    assert all(resource.persistent_state for resource in config.resources.values())
    (proposed,) = [update for update, _ in place.access.executed if isinstance(update, Batch)]
    assert 100 == len(proposed.updates)


def test_one_that_cannot_be_refuses_all(place: Place, local: ClusterClient) -> None:
    """The refusal is that of the single change, with its place in the list, and nothing was proposed."""
    before = place.access.config()
    with pytest.raises(CommandRefused, match=r"Change 22 .*'R1'.* none was made") as refused:
        local.change_many([*bulk(groups=19, resources=2)[:21], ("Resource", "create", "R1", "Generic Script", "G1")])

    assert "object-exists" == refused.value.report.code
    assert [] == place.access.executed
    assert before is place.access.config()


def test_repeated_it_has_its_effect_once(place: Place, local: ClusterClient) -> None:
    """The same request, sent again, gets the same answer and makes the same objects."""
    local.change_many(bulk(groups=2, resources=4), request="request-of-a-test")
    before = place.access.config()
    local.change_many(bulk(groups=2, resources=4), request="request-of-a-test")

    assert before is place.access.config()


def test_each_change_needs_its_role(place: Place, remote: Remote) -> None:
    """An operator may bring many groups online, and creates none this way."""
    client = remote(place.administrator("operator"))
    client.change_many([("Group", "online", "Cluster Group"), ("Group", "offline", "Cluster Group")])
    with pytest.raises(CommandRefused, match=r"Change 2 \(Group.create 'G'\)") as refused:
        client.change_many([("Group", "online", "Cluster Group"), ("Group", "create", "G")])

    assert "access-denied" == refused.value.report.code


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([], "1 to 500 changes at once, not 0"),
        ([("Group", "online", "Cluster Group")] * (CHANGES_MAX + 1), "not 501"),
        ([("Group", "status")], "there is no change Group.status"),
        ([("Cluster", "change_many", [])], "there is no change Cluster.change_many"),
        ([("Group", "__class__")], "there is no change Group.__class__"),
        ([("Printer", "online", "X")], "there is no change Printer.online"),
        ([("Group", "create", 7)], "argument name"),
        ([("Group", "create")], "missing a required argument"),
    ],
)
def test_what_is_no_change_is_refused(place: Place, local: ClusterClient, changes: list[Any], said: str) -> None:
    """Queries, unknown names and wrong arguments; nothing is proposed."""
    with pytest.raises(CommandRefused) as refused:
        local.change_many(changes)

    assert said in refused.value.report.message
    assert [] == place.access.executed


def test_too_long_is_said_at_once(place: Place, local: ClusterClient) -> None:
    """Together the changes must fit an entry of the log."""
    long = "x" * (PROPOSAL_BYTES_MAX // 200)
    wishes: list[tuple[Any, ...]] = [("Group", "create", f"G{number}") for number in range(225)]
    wishes += [
        (
            "Group",
            "set_properties",
            f"G{n}",
            [{"name": "Description", "text": long, "parts": [long], "format": None}],
            [],
        )
        for n in range(225)
    ]
    with pytest.raises((CommandRefused, ClusterError), match="at most 524288 are possible"):
        local.change_many(wishes)

    assert [] == place.access.executed

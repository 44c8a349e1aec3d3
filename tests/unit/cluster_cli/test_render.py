"""The form of the screens: widths, letters, numbers, exit codes, waits."""

from __future__ import annotations

import itertools

import pytest

from cluster_cli import render
from cluster_cli.main import exit_code
from cluster_cli.session import Failed, Progress, Session, wait_limit


@pytest.mark.parametrize(
    ("table", "dashes"),
    [
        (render.NODES, "-------------- ------- ---------------------"),
        (render.GROUPS, "-------------------- --------------- ------"),
        (render.RESOURCES, "-------------------- -------------------- --------------- ------"),
    ],
)
def test_widths(table: render.Table, dashes: str) -> None:
    """Scripts cut the classic tables by column."""
    assert dashes == table.lines([])[1]


def test_numbers_stand_right_and_long_names_push() -> None:
    """Node numbers are right-aligned under their header; nothing is ever cut."""
    lines = render.NODES.lines([("NODE-A", 1, "Up"), ("A-NAME-OF-MANY-LETTERS", 12, "Joining")])

    assert "Node           Node ID Status" == lines[0]
    assert "NODE-A               1 Up" == lines[2]
    assert "A-NAME-OF-MANY-LETTERS      12 Joining" == lines[3]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("D", 1, ["1 (0x1)"]),
        ("D", 4294967295, ["4294967295 (0xffffffff)"]),
        ("S", "a text", ["a text"]),
        ("S", "", [""]),
        ("M", ["A", "B"], ["A", "B"]),
        ("M", [], [""]),
    ],
)
def test_values(kind: str, value: object, expected: list[str]) -> None:
    """Numbers in both bases, lists one row each."""
    assert expected == render.value_texts(kind, value)


def test_property_listing() -> None:
    """Letters with R for read-only, the owner in the second column."""
    lines = render.property_lines(
        "group",
        [
            {"name": "Name", "kind": "S", "read_only": True, "value": "Group 0"},
            {"name": "FailoverPeriod", "kind": "D", "read_only": False, "value": 6},
        ],
        "Group 0",
    )

    assert [
        "T  Resource Group       Name                           Value",
        "-- -------------------- ------------------------------ -----------------------",
        "SR Group 0              Name                           Group 0",
        "D  Group 0              FailoverPeriod                 6 (0x6)",
    ] == lines


@pytest.mark.parametrize(("status", "code"), [(0, 0), (87, 87), (997, 229), (5013, 149), (5120, 1), (256, 1)])
def test_exit_codes(status: int, code: int) -> None:
    """The low eight bits, and never 0 for a failure."""
    assert code == exit_code(status)


def test_failure_text() -> None:
    """Two lines, as cluster.exe prints them."""
    assert "System error 5013 has occurred (0x00001395).\nNo group." == render.failure(5013, "No group.")


def test_no_control_characters_reach_the_terminal() -> None:
    """A script's message may hold anything."""
    assert "a\n\N{REPLACEMENT CHARACTER}[2Jb" == render.printable("a\n\x1b[2Jb")
    event = {"at_ms": 0, "event_id": 0, "severity": "error", "message": "x\x1b[0m\ny"}
    assert render.event_line(event).endswith("ERRO  x\N{REPLACEMENT CHARACTER}[0m y")


@pytest.mark.parametrize(
    ("argument", "given", "limit"), [(None, False, 10.0), (None, True, None), ("", True, None), ("5", True, 5.0)]
)
def test_wait_limits(argument: str | None, given: bool, limit: float | None) -> None:
    """No /wait: the default; bare /wait: no limit; /wait:5: five seconds."""
    assert limit == wait_limit(argument, given=given, default_s=10.0)


@pytest.mark.parametrize("argument", ["soon", "-1", "1.5", "86401"])
def test_bad_wait_limits(argument: str) -> None:
    """A number of seconds up to a day."""
    with pytest.raises(Failed):
        wait_limit(argument, given=True, default_s=None)


def test_a_failure_that_passes_is_not_believed() -> None:
    """A resource that fails and is restarted has not failed for the one who waits."""
    seen = iter([Progress.PENDING, Progress.FAILED, Progress.PENDING, Progress.DONE])

    assert Progress.DONE is Session().wait(lambda: next(seen), 60.0)


def test_a_wait_ends() -> None:
    """With the limit, as pending, or as failed if that is how it stands then."""
    assert Progress.PENDING is Session().wait(lambda: Progress.PENDING, 0.0)
    assert Progress.FAILED is Session().wait(lambda: Progress.FAILED, 0.0)


def test_a_standing_failure_ends_an_unlimited_wait() -> None:
    """Else /wait would never return for a resource that cannot start."""
    looks = itertools.count()

    def look() -> Progress:
        next(looks)
        return Progress.FAILED

    assert Progress.FAILED is Session().wait(look, None)
    assert next(looks) > 2

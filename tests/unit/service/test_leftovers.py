"""What a new service believes of an earlier one on the same machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from clussvc.service import leftovers
from clussvc.service.leftovers import monitors_with_leftovers, note_empty, note_occupied


def test_a_first_start_finds_nothing(tmp_path: Path) -> None:
    """There is not even a folder."""
    assert monitors_with_leftovers(tmp_path / "run") == ()


def test_monitors_that_did_not_end_in_order_are_named(tmp_path: Path) -> None:
    """Those that did are not."""
    for name in ("", "own", "other"):
        note_occupied(tmp_path, name)
    note_empty(tmp_path, "other")
    (tmp_path / "a-file").touch()

    assert monitors_with_leftovers(tmp_path) == ("", "own")


def test_a_reboot_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has another boot then."""
    note_occupied(tmp_path, "own")
    another = tmp_path / "boot_id"
    another.write_text("another boot\n")
    monkeypatch.setattr(leftovers, "_KERNEL_BOOT", another)

    assert monitors_with_leftovers(tmp_path) == ()


def test_what_cannot_be_read_counts(tmp_path: Path) -> None:
    """In doubt there is something."""
    note_occupied(tmp_path, "own")
    (tmp_path / "own" / "occupied").write_bytes(b"\xff\xfe")

    assert monitors_with_leftovers(tmp_path) == ("own",)

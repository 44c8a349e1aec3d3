"""Quorum types as if their packages were installed: a folder for PYTHONPATH."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "writing-resources.md"


def printed(label: str) -> str:
    """The code block of that label on the page."""
    found = re.search(rf"^```\w+ {label}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None, f"the page has no block {label}"
    return found[1]


def install(site: Path, module: str, code: str, entry: str) -> None:
    """``entry``: a line such as ``Locked File = locked_file:LockedFile``."""
    metadata = site / f"{module}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / f"{module}.py").write_text(code)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[clussvc.resource_types]\n{entry}\n")


def install_locked_file(site: Path) -> None:
    """The example of the page."""
    entry = printed("quorum-entry-point").splitlines()[1].replace('"', "")
    install(site, "locked_file", printed("quorum-type"), entry)

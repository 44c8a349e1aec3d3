"""The program in the repository is what its sources say."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILTER = ROOT / "clussvc/nlb/filter"
HEADER = FILTER / "program.h"


def defined(name: str, text: str) -> str:
    """A text that the header defines."""
    found = re.search(rf'#define {name} "([^"]*)"', text)
    assert found is not None
    return found[1]


def test_the_program_was_made_from_these_sources() -> None:
    """Without clang: by the digest of the sources. If it fails: script/build-filter."""
    names = re.findall(r'"(nlb_[a-z]+\.[ch])"', (ROOT / "script/build-filter").read_text())
    included = {FILTER / "xdp.c", ROOT / "clussvc/native/siphash.h", *(FILTER / "core" / name for name in names)}
    reached = {FILTER / "xdp.c"}
    for _ in range(5):
        for path in tuple(reached):
            for name in re.findall(r'#include "([^"]+)"', path.read_text()):
                reached |= {each for each in (FILTER / "core" / name, ROOT / "clussvc/native" / name) if each.exists()}
    assert reached == included, "script/build-filter must name every file that is included"
    in_order = [FILTER / "xdp.c", *(FILTER / "core" / name for name in names), ROOT / "clussvc/native/siphash.h"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in in_order)).hexdigest()

    assert digest == defined("NLB_PROGRAM_SOURCES", HEADER.read_text()), "run script/build-filter"


def test_clang_makes_the_same_program(tmp_path: Path) -> None:
    """With the same clang, byte for byte."""
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed; script/setup-system --tests installs it")
    made = tmp_path / "program.h"
    done = subprocess.run(
        [ROOT / "script/build-filter", "--output", made], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    if defined("NLB_PROGRAM_COMPILER", made.read_text()) != defined("NLB_PROGRAM_COMPILER", HEADER.read_text()):
        pytest.skip("another version of clang than the one that made the program")

    assert made.read_text() == HEADER.read_text()

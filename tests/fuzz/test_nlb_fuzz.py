"""The C core of the packet filter under sanitizers; ``script/fuzz`` does the same for as long as one likes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "clussvc/nlb/filter/core"
INPUTS = 40_000
MIXTURES = 200


def test_the_filter_survives_any_frames(tmp_path: Path) -> None:
    """Any table that can be built, frames good, bent and cut off, each in memory of its size; every reason is given."""
    program = tmp_path / "fuzz"
    built = subprocess.run(
        [
            *("gcc", "-g", "-O2", "-std=c11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *("-DSTANDALONE", f"-I{CORE}", f"-I{ROOT / 'clussvc/native'}", "-o", str(program)),
            *(str(ROOT / "tests/fuzz/nlb_fuzz.c"), str(CORE / "nlb_table.c")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in built.stderr and "asan" in built.stderr:
        pytest.skip("this compiler has no sanitizers")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program, str(INPUTS), "5"], capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 0, done.stderr
    reasons = dict(line.split() for line in done.stdout.splitlines())
    assert all(int(count) for count in reasons.values()), reasons


def test_processors_at_one_place_make_no_flow_that_was_never_noted(tmp_path: Path) -> None:
    """Two threads write into one set while a third asks for names that only a mixture of two flows could have: such
    mixtures are there, and none of them is taken for a flow."""
    program = tmp_path / "race"
    subprocess.run(
        [
            # Not -O2: the compiler would write both words of a name at once.
            *("gcc", "-g", "-O1", "-std=c11", "-pthread", f"-I{CORE}", f"-I{ROOT / 'clussvc/native'}"),
            *("-o", str(program), str(ROOT / "tests/fuzz/nlb_sets_race.c"), str(CORE / "nlb_table.c")),
        ],
        check=True,
    )
    done = subprocess.run([program, str(MIXTURES)], capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 0, done.stdout + done.stderr
    counted = dict(line.split() for line in done.stdout.splitlines())
    assert int(counted["mixtures"]) >= MIXTURES and counted["wrong"] == "0"

"""The C core of heartbeats under sanitizers; ``script/fuzz`` does the same for as long as one likes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INPUTS = 20_000


def test_the_core_survives_any_datagrams(tmp_path: Path) -> None:
    """Bent, forged, authentic but senseless, replayed; every branch of what becomes of a datagram is taken."""
    program = tmp_path / "fuzz"
    built = subprocess.run(
        [
            *("gcc", "-g", "-O2", "-std=c11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *("-DSTANDALONE", f"-I{ROOT / 'clussvc/native'}", "-o", str(program)),
            *(str(ROOT / "tests/fuzz/heartbeat_fuzz.c"), str(ROOT / "clussvc/native/heartbeat_core.c")),
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
    outcomes = dict(line.split() for line in done.stdout.splitlines())
    assert all(int(count) for count in outcomes.values()), outcomes

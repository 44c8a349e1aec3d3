"""A short run of the real thing: real processes, real faults, and every promise kept."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.cluster.lab import REPOSITORY, missing_programs
from tests.torture.__main__ import parse
from tests.torture.faults import KINDS
from tests.torture.history import Kind, Outcome, read_history
from tests.torture.overlaps import check_overlaps, read_lines
from tests.torture.run import check_registers

LIMIT_S = 900
"""The run itself takes two minutes; forming the cluster on a busy machine takes longer than on a free one."""

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or bool(missing_programs()), reason="network namespaces need root and iproute2"
)


def torture(*words: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / "script" / "torture", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "200"},
    )


@pytest.mark.namespaces
@needs_namespaces
def test_a_short_run_keeps_every_promise() -> None:
    """Three sorts of faults and half a dozen clients; the histories that are kept show that something happened."""
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        tmp_path = Path(name)
        kept = tmp_path / "kept"
        faults = ("kill-some", "stop", "partition")
        done = torture(
            *("--minutes", "1", "--nodes", "3", "--clients", "6", "--seed", "5", "--faults", ",".join(faults)),
            *("--keep-histories", str(kept)),
            tmp_path=tmp_path,
        )

        assert done.returncode == 0, done.stdout + done.stderr
        for fault in faults:
            assert re.search(rf"│ {fault} +│ +[1-9]", done.stdout), f"there was no {fault}:\n{done.stdout}"
        operations = list(read_history(kept / "history.jsonl"))
        good = {one.kind for one in operations if one.outcome is Outcome.ACKNOWLEDGED}
        assert set(Kind) == good
        assert all(verdict.linearizable for verdict in check_registers(operations))
        witnessed = check_overlaps(read_lines(kept / "witness.txt"))
        assert witnessed.instances > 3, "no resource was ever moved"
        assert [kept] == list(tmp_path.iterdir()), "the run left something behind"


def test_all_faults_are_asked_for_unless_some_are_named() -> None:
    assert tuple(KINDS) == parse([]).kinds
    assert ("kill", "pause") == parse(["--faults", "kill,pause"]).kinds


@pytest.mark.parametrize(
    "words",
    [
        ["--faults", "kill,earthquake"],
        ["--nodes", "2"],
        ["--clients", "0"],
        ["--minutes", "0"],
    ],
)
def test_options_that_make_no_sense_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert 2 == ended.value.code
    assert words[0] in capsys.readouterr().err

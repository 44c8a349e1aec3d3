"""How long planning takes beside ``crm_simulate``: ``python -m benchmarks.peers.planning``.

1000 resources on 8 nodes: nothing placed yet, everything at rest, one node lost. Ours are 300 groups with owners,
preferences and repulsions (see ``benchmarks.planning``); Pacemaker's are 1000 primitives of their own with a
stickiness, and a status section as a running cluster would have it. ``crm_simulate`` also starts as a program and
reads that file, which is part of its figure (a few hundredths of a second); ours is the planner alone, in the process
that needs it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine
from benchmarks.planning import NODES, NOW_MS, RESOURCES, cluster, without_node
from clussvc.groups.planner import plan
from clussvc.model.config import Config

RESULTS: Final = Path(__file__).parent.parent / "results"
REPEATS: Final = 5

OPERATION: Final = (
    '<lrm_rsc_op id="d{number}_{id}" operation_key="d{number}_{name}_{interval}" operation="{name}"'
    ' crm-debug-origin="x" crm_feature_set="3.16.1" transition-key="{call}:1:{expected}:{zero}"'
    ' transition-magic="0:{expected};{call}:1:{expected}:{zero}" call-id="{call}" rc-code="{expected}" op-status="0"'
    ' interval="{interval}" last-rc-change="1700000000" exec-time="9" queue-time="0"'
    ' op-digest="f2317cad3d54cec5d7d7aa7d0bf35cf8"/>'
)
ZERO: Final = "00000000-0000-0000-0000-000000000000"


def operation(number: int, kind: str, name: str, *, expected: int, call: int, interval: int = 0) -> str:
    """One line of the history of a resource."""
    return OPERATION.format(
        number=number, id=kind, name=name, expected=expected, call=call, interval=interval, zero=ZERO
    )


def status(*, lost: int | None, placed: bool) -> str:
    """The status section: what ran where."""
    parts = []
    for node in range(1, NODES + 1):
        up = node != lost
        history = ""
        for number in range(RESOURCES if placed else 0):
            call = 3 * number
            if number % NODES + 1 == node:
                lines = operation(number, "last_0", "start", expected=0, call=call + 2)
                lines += operation(number, "monitor_10000", "monitor", expected=0, call=call + 3, interval=10_000)
            else:
                lines = operation(number, "last_0", "monitor", expected=7, call=call + 1)
            kind = 'class="ocf" provider="pacemaker" type="Dummy"'
            history += f'<lrm_resource id="d{number}" {kind}>{lines}</lrm_resource>'
        parts.append(
            f'<node_state id="{node}" uname="n{node}" in_ccm="{str(up).lower()}"'
            f' crmd="{"online" if up else "offline"}" join="{"member" if up else "down"}"'
            f' expected="{"member" if up else "down"}" crm-debug-origin="x"><lrm id="{node}"><lrm_resources>'
            f"{history}</lrm_resources></lrm></node_state>"
        )
    return "".join(parts)


def cib(*, lost: int | None = None, placed: bool = False) -> str:
    """A whole configuration of Pacemaker."""
    nodes = "".join(f'<node id="{number}" uname="n{number}"/>' for number in range(1, NODES + 1))
    resources = "".join(
        f'<primitive id="d{number}" class="ocf" provider="pacemaker" type="Dummy"><operations>'
        f'<op id="d{number}-m" name="monitor" interval="10s" timeout="20s"/></operations></primitive>'
        for number in range(RESOURCES)
    )
    return (
        '<cib crm_feature_set="3.16.1" validate-with="pacemaker-3.9" epoch="1" num_updates="0" admin_epoch="0"'
        ' have-quorum="1" dc-uuid="1"><configuration><crm_config><cluster_property_set id="o">'
        '<nvpair id="o1" name="stonith-enabled" value="false"/></cluster_property_set></crm_config>'
        f"<nodes>{nodes}</nodes><resources>{resources}</resources><constraints/>"
        '<rsc_defaults><meta_attributes id="r"><nvpair id="r1" name="resource-stickiness" value="1000"/>'
        f"</meta_attributes></rsc_defaults></configuration><status>{status(lost=lost, placed=placed)}</status></cib>"
    )


def simulate(content: str, folder: Path) -> tuple[list[float], int]:
    """The times of crm_simulate, in milliseconds, and how many actions it planned. Without ``--simulate`` it plans and
    does no more."""
    file, graph = folder / "cib.xml", folder / "graph"
    file.write_text(content)
    taken_ms = []
    for _ in range(REPEATS):
        begin_s = time.perf_counter()
        subprocess.run(
            ["crm_simulate", "--xml-file", str(file), "--save-graph", str(graph), "--quiet"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        taken_ms.append((time.perf_counter() - begin_s) * 1000)
    return taken_ms, graph.read_text().count("<rsc_op ")


def think(config: Config) -> tuple[list[float], int]:
    """The times of our planner, in milliseconds, and how many decisions it made."""
    taken_ms = []
    decisions = 0
    for _ in range(REPEATS):
        begin_s = time.perf_counter()
        decisions = len(plan(config, now_ms=NOW_MS).updates)
        taken_ms.append((time.perf_counter() - begin_s) * 1000)
    return taken_ms, decisions


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="planning", description="Planning beside crm_simulate.")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    placed = cluster(placed=True)
    found: list[dict[str, Any]] = []

    def note(contender: str, situation: str, taken: tuple[list[float], int]) -> None:
        taken_ms, planned = taken
        one = {
            "contender": contender,
            "situation": situation,
            "median_ms": round(statistics.median(taken_ms), 1),
            "max_ms": round(max(taken_ms), 1),
            "planned": planned,
        }
        found.append(one)
        print(f"{contender:<14} {situation:<16} {one['median_ms']:>9} ms   at most {one['max_ms']} ms", flush=True)

    for situation, config in (
        ("first placement", cluster(placed=False)),
        ("at rest", placed),
        ("one node lost", without_node(placed)),
    ):
        note("clussvc", situation, think(config))
    if shutil.which("crm_simulate") is None:
        print("crm_simulate: skipped, since it is not installed (Debian: pacemaker-cli-utils)")
    else:
        with tempfile.TemporaryDirectory() as folder:
            for situation, content in (
                ("first placement", cib()),
                ("at rest", cib(placed=True)),
                ("one node lost", cib(placed=True, lost=NODES)),
            ):
                note("crm_simulate", situation, simulate(content, Path(folder)))
    path = arguments.output or RESULTS / f"planning-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "resources": RESOURCES, "nodes": NODES, "plans": found}) + "\n")
    print(f"\nEverything: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Many resources: how long from one request until all are online, how long after a node's death, and at what price.

``python -m benchmarks.bulk [--nodes 3] [--resources 500] [--groups 150] [--profile lan]`` forms a cluster on machines
made of namespaces, creates the groups and resources in batches, and measures one thing after the other. The resources
are of the type Generic Script and only keep a file (:mod:`benchmarks.dummy`), as those of ``shared/lab/scale.py`` do,
which measures the same with Pacemaker. Every node runs on the same processors, so the CPU seconds, which are
told beside the times, count more than these on a machine that has other work. Needs root, or
``unshare --user --map-root-user``. Results go to ``benchmarks/results/``.

| step | from | to |
|---|---|---|
| create | the first of the batches | the answer to the last |
| online | one request for all groups | every resource has its file, and the cluster says Online of each |
| move | one request that moves all groups of a node | the same |
| crash | a node's port is down and all its processes are killed | it is declared down; then as above |
| idle | nothing happens for 20 s | CPU time per node |
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.usage import file_sizes, thread_times, usage_of
from clussvc.admin.client import ClusterClient, connect
from clussvc.admin.wire import CHANGES_MAX
from clussvc.model.settings import PROFILES
from tests.cluster.formation import Cluster
from tests.cluster.lab import Lab, Node

RESULTS: Final = Path(__file__).with_name("results")
SCRIPT: Final = Path(__file__).with_name("dummy.py")
LIMIT_S: Final = 600.0
"""How long one step may take."""
SETTLE_S: Final = 5.0
IDLE_S: Final = 20.0
LOOK_S: Final = 0.02


class Bulk:
    """One cluster with many resources."""

    def __init__(self, cluster: Cluster, folder: Path, *, groups: int, resources: int) -> None:
        self.cluster = cluster
        self.folder = folder
        self.folder.mkdir()
        self.groups = [f"G{number:04}" for number in range(groups)]
        self.resources = [(f"R{number:04}", self.groups[number % groups]) for number in range(resources)]
        self.result: dict[str, Any] = {}

    # --- steps ------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Groups first, each on a node in turn, as an administrator would spread them; then resources."""
        nodes = [node.name for node in self.cluster.lab.nodes]
        changes: list[tuple[Any, ...]] = [
            ("Group", "create", name, nodes[number % len(nodes)]) for number, name in enumerate(self.groups)
        ]
        private = [_assigned("ScriptFilepath", str(SCRIPT)), _assigned("StateFolder", str(self.folder))]
        changes += [
            ("Resource", "create", name, "Generic Script", group, {"private": private})
            for name, group in self.resources
        ]
        with self._client() as client:
            self._timed("create", lambda: _in_batches(client, changes))
            _until(lambda: all(group["node"] for group in client.call("Group", "status")), "groups have owners")

    def online(self) -> None:
        """One request."""
        wishes = [("Group", "online", name) for name in self.groups]
        with self._client() as client:
            self._timed("online", lambda: _in_batches(client, wishes), lambda: self._all_online(client))

    def move(self) -> None:
        """All groups of the last node go elsewhere, in order, and come back."""
        leaver = self.cluster.lab.nodes[-1]
        with self._client() as client:
            mine = [group["name"] for group in client.call("Group", "status", None, leaver.name)]
            away = [("Group", "move", name) for name in mine if name != "Cluster Group"]
            self.result["moved_groups"] = len(away)
            client.change("Node", "pause", leaver.name)
            self._timed("move", lambda: _in_batches(client, away), lambda: self._all_online(client, without=leaver))
            client.change("Node", "resume", leaver.name)
            back = [(*change, leaver.name) for change in away]
            self._timed("move_back", lambda: _in_batches(client, back), lambda: self._all_online(client))

    def crash(self) -> None:
        """The last node dies, which is not the coordinator if that can be helped."""
        with self._client() as client:
            leader = client.call("Cluster", "status")["coordinator"]
            victim = next(node for node in reversed(self.cluster.lab.nodes) if node.name != leader)
            self.result["lost_resources"] = len(self._files(victim))
            cursor = client.call("EventStream", "newest", 1)["cursor"]
            begun_s, begun_wall_s, before = time.monotonic(), time.time(), self._cpu()
            victim.crash()
            for file in self._files(victim):
                (self.folder / victim.name / file).unlink()
            self._timed("crash", lambda: None, lambda: self._all_online(client), since=(begun_s, before))
            down, *_, last = _times(client, cursor)
            self.result["crash"]["detected_s"] = round(down - begun_wall_s, 3)
            self.result["crash"]["after_detection_s"] = round(last - down, 3)

    def idle(self, name: str) -> None:
        """What it costs to do nothing."""
        time.sleep(SETTLE_S)
        up = [node for node in self.cluster.lab.nodes if node.up]
        before = {node.name: (usage_of(node), thread_times(node)) for node in up}
        begun_s = time.monotonic()
        time.sleep(IDLE_S)
        took_s = time.monotonic() - begun_s
        found = {}
        for node in up:
            usage, (earlier, threads) = usage_of(node), before[node.name]
            busiest = sorted(
                (
                    (round(100 * (now - threads.get(key, 0)) / took_s, 2), key)
                    for key, now in thread_times(node).items()
                ),
                reverse=True,
            )
            found[node.name] = {
                "cpu_percent": round(100 * (usage.cpu_total_s - earlier.cpu_total_s) / took_s, 2),
                "cpu_percent_by_kind": {
                    kind: round(100 * (now - earlier.cpu_s.get(kind, 0)) / took_s, 2)
                    for kind, now in usage.cpu_s.items()
                },
                "busiest_threads": [f"{share} % {key}" for share, key in busiest[:8] if share],
                "pss_mib": round(usage.pss_total_mib, 1),
                "pss_mib_by_kind": {kind: round(now, 1) for kind, now in usage.pss_mib.items()},
                "processes": usage.processes,
                "threads": usage.threads,
                "files": file_sizes(node),
            }
        self.result[name] = found

    # --- looking ----------------------------------------------------------------------------------------------------

    def _client(self) -> ClusterClient:
        return connect(socket_path=str(self.cluster.lab[1].socket))

    def _files(self, node: Node) -> list[str]:
        folder = self.folder / node.name
        return os.listdir(folder) if folder.exists() else []

    def _all_online(self, client: ClusterClient, *, without: Node | None = None) -> Iterator[str]:
        """Names the marks that are reached, one after the other."""
        nodes = [node for node in self.cluster.lab.nodes if node is not without]
        _until(lambda: sum(len(self._files(node)) for node in nodes) == len(self.resources), "all have their files")
        yield "started_s"
        wanted = set(self.groups)

        def told() -> bool:
            states = {group["name"]: (group["state"], group["moving"]) for group in client.call("Group", "status")}
            return all(states[name] == ("Online", False) for name in wanted)

        _until(told, "the cluster says Online of every group", pause_s=0.1)
        yield "online_s"

    def _cpu(self) -> dict[str, float]:
        return {
            f"{node.name} {kind}": cpu_s
            for node in self.cluster.lab.nodes
            if node.up
            for kind, cpu_s in usage_of(node).cpu_s.items()
        }

    def _timed(
        self,
        name: str,
        act: Callable[[], object],
        marks: Callable[[], Iterator[str]] = lambda: iter(()),
        since: tuple[float, dict[str, float]] | None = None,
    ) -> None:
        begun_s, before = since or (time.monotonic(), self._cpu())
        act()
        found: dict[str, Any] = {"answered_s": round(time.monotonic() - begun_s, 3)}
        for mark in marks():
            found[mark] = round(time.monotonic() - begun_s, 3)
        spent = {key: round(cpu_s - before.get(key, 0), 2) for key, cpu_s in self._cpu().items()}
        found["cpu_s"] = spent
        found["cpu_total_s"] = round(sum(spent.values()), 2)
        self.result[name] = found
        print(f"{name}: {json.dumps(found)}", file=sys.stderr, flush=True)


def _assigned(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "text": text, "parts": [text], "format": None}


def _in_batches(client: ClusterClient, changes: list[tuple[Any, ...]]) -> None:
    for start in range(0, len(changes), CHANGES_MAX):
        client.change_many(changes[start : start + CHANGES_MAX])


def _until(predicate: Callable[[], bool], what: str, *, pause_s: float = LOOK_S) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not predicate():
        assert time.monotonic() < deadline_s, f"did not happen within {LIMIT_S:g} s: {what}"
        time.sleep(pause_s)


def _times(client: ClusterClient, cursor: int) -> list[float]:
    """When, by the history, the node was declared down, and when each group was online after that; seconds of 1970."""
    found: list[float] = []
    while True:
        events, after = client.events(cursor, limit=1000)
        found += [event["at_ms"] / 1000 for event in events if event["name"] == "node.down" and not found]
        found += [event["at_ms"] / 1000 for event in events if event["name"] == "group.online" and found]
        if not events:
            return found
        cursor = after


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All steps on a new cluster."""
    temporary = tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True)
    with temporary as folder, Lab(folder=Path(folder), nodes=arguments.nodes) as lab:
        cluster = Cluster(lab)
        cluster.form(arguments.profile)
        bulk = Bulk(cluster, Path(folder) / "state", groups=arguments.groups, resources=arguments.resources)
        try:
            if "idle" in arguments.steps:
                bulk.idle("empty")
            for step in ("create", "online"):
                getattr(bulk, step)()
            if "idle" in arguments.steps:
                bulk.idle("loaded")
            for step in ("move", "crash"):
                if step in arguments.steps:
                    getattr(bulk, step)()
        finally:
            for node in lab.nodes if arguments.keep_logs else ():
                (arguments.keep_logs / f"{node.name}.log").write_bytes((node.data / "service.log").read_bytes())
        return bulk.result


def tables(result: dict[str, Any], arguments: argparse.Namespace) -> Iterator[Table]:
    """The figures for people."""
    title = f"{arguments.resources} resources, {arguments.groups} groups, {arguments.nodes} nodes, {arguments.profile}"
    steps = Table("step", "answered s", "started s", "online s", "CPU s, all nodes", title=title)
    for name in ("create", "online", "move", "move_back", "crash"):
        if name in result:
            found = result[name]
            figures = [found.get(key, "") for key in ("answered_s", "started_s", "online_s", "cpu_total_s")]
            steps.add_row(name, *map(str, figures))
    yield steps
    if "crash" in result:
        crash = Table("lost resources", "detected s", "all online after detection s", title="a node's death")
        crash.add_row(
            *(str(each) for each in (result["lost_resources"], result["crash"]["detected_s"])),
            str(result["crash"]["after_detection_s"]),
        )
        yield crash
    idle = Table("node", "idle", "CPU %", "PSS MiB", "service", "monitor", "threads", title="standing still")
    for name in ("empty", "loaded"):
        for node, found in result.get(name, {}).items():
            kinds = found["pss_mib_by_kind"]
            shown = (found["cpu_percent"], found["pss_mib"], kinds.get("service"), kinds.get("monitor"))
            idle.add_row(node, name, *map(str, shown), str(found["threads"]))
    yield idle


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bulk", description="Many resources.")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--resources", type=int, default=500)
    parser.add_argument("--groups", type=int, default=150)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="lan")
    parser.add_argument("--steps", type=lambda text: text.split(","), default=["idle", "move", "crash"])
    parser.add_argument("--keep-logs", type=Path, help="a folder for the logs of the nodes")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments)
    console = Console()
    for table in tables(result, arguments):
        console.print(table)
    stamp = time.strftime("%Y%m%dT%H%M%S")
    path = arguments.output or RESULTS / f"bulk-{arguments.nodes}-{arguments.resources}-{stamp}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    options = {key: getattr(arguments, key) for key in ("nodes", "resources", "groups", "profile")}
    path.write_text(json.dumps({**options, "machine": machine, "load": os.getloadavg(), **result}, indent=2) + "\n")
    print(f"\nEverything: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long a committed update takes, and how many fit into a second: ``python -m benchmarks.updates``.

Three nodes on machines made of namespaces; each client is a process of its own on the node that leads, which changes
one property again and again and waits for each answer. An answer means: durable on a majority. Beside it etcd, with
three members on the same machines, through the JSON gateway of its API on connections that are kept open. (Both write
to the same disk of this machine, so three nodes share what it can sync.)

etcd is skipped if it is not installed (Debian: etcd-server). Needs root.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine
from clussvc import __version__
from clussvc.admin.client import connect
from tests.cluster.formation import Cluster
from tests.cluster.lab import REPOSITORY, Lab, Node, environment, eventually

RESULTS: Final = Path(__file__).with_name("results")
GROUP: Final = "Cluster Group"
CLIENT_PORT: Final = 2379
PEER_PORT: Final = 2380


# --- the clients, each in a process of its own ------------------------------------------------------------------------


def work(kind: str, where: str, name: str, seconds: float) -> None:
    """Change, wait, change; print the times of all changes in milliseconds."""
    change = clussvc_change(where, name) if kind == "clussvc" else etcd_change(where, name)
    change(0)
    print("ready", flush=True)
    sys.stdin.readline()
    taken_ms = []
    end_s = time.perf_counter() + seconds
    number = 0
    while (begin_s := time.perf_counter()) < end_s:
        number += 1
        change(number)
        taken_ms.append((time.perf_counter() - begin_s) * 1000)
    print(json.dumps(taken_ms))


def clussvc_change(socket: str, name: str) -> Callable[[int], None]:
    """A private property of a group, through the Pyro5 interface."""
    client = connect(socket_path=socket)

    def change(number: int) -> None:
        assigned = [{"name": name, "text": str(number), "parts": [str(number)], "format": None}]
        client.change("Group", "set_private", GROUP, assigned, [])

    return change


def etcd_change(address: str, name: str) -> Callable[[int], None]:
    """A key, through the JSON gateway."""
    connection = http.client.HTTPConnection(address, CLIENT_PORT, timeout=30)
    key = base64.b64encode(name.encode()).decode()

    def change(number: int) -> None:
        body = json.dumps({"key": key, "value": base64.b64encode(str(number).encode()).decode()})
        connection.request("POST", "/v3/kv/put", body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status

    return change


# --- the clusters -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def clussvc_cluster(lab: Lab) -> Iterator[tuple[Node, str]]:
    """The node that leads, and where its clients connect."""
    cluster = Cluster(lab)
    cluster.form("lan")
    leader = lab.named(str(cluster.coordinator(lab[1])))
    yield leader, str(leader.socket)


@contextlib.contextmanager
def etcd_cluster(lab: Lab) -> Iterator[tuple[Node, str]]:
    """As above."""
    members = ",".join(f"{node.name}=http://{node.address}:{PEER_PORT}" for node in lab.nodes)
    processes = []
    for node in lab.nodes:
        peer, client = f"http://{node.address}:{PEER_PORT}", f"http://{node.address}:{CLIENT_PORT}"
        words = (
            *("etcd", "--name", node.name, "--data-dir", str(node.folder / "etcd"), "--log-level", "error"),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--initial-cluster", members, "--initial-cluster-state", "new"),
        )
        with (node.folder / "etcd.out").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    node.enter(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), cwd="/"
                )
            )
    leader: list[Node] = []

    def led() -> bool:
        for node in lab.nodes:
            program = (
                "import http.client,json;"
                f"c=http.client.HTTPConnection('{node.address}',{CLIENT_PORT},timeout=2);"
                "c.request('POST','/v3/maintenance/status','{}');"
                "a=json.load(c.getresponse());print(a['header']['member_id']==a.get('leader'))"
            )
            if node.run(sys.executable, "-I", "-S", "-c", program).stdout.strip() == "True":
                leader.append(node)
                return True
        return False

    eventually(led, "etcd has a leader", timeout_s=60)
    try:
        yield leader[0], leader[0].address
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def measure(kind: str, node: Node, where: str, clients: int, seconds: float) -> dict[str, Any]:
    """One step: so many clients at once."""
    words = (sys.executable, "-m", "benchmarks.updates", "--worker", kind, "--where", where, "--seconds", str(seconds))
    started = [
        subprocess.Popen(
            node.enter(*words, "--name", f"client{number}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # The machine has a root folder of its own, and nsenter(1) begins there.
            env=environment(PYTHONPATH=str(REPOSITORY)),
        )
        for number in range(clients)
    ]
    for worker in started:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in started:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    taken_ms = sorted(each for worker in started for each in json.loads(worker.communicate(timeout=120)[0]))
    return {
        "contender": kind,
        "clients": clients,
        "updates": len(taken_ms),
        "per_second": round(len(taken_ms) / seconds, 1),
        "min_ms": round(taken_ms[0], 3),
        "median_ms": round(taken_ms[len(taken_ms) // 2], 3),
        "p99_ms": round(taken_ms[len(taken_ms) * 99 // 100], 3),
        "max_ms": round(taken_ms[-1], 3),
    }


def sync_ms(folder: Path, times: int = 200) -> float:
    """The median time of writing and syncing half a kibibyte, alone on the disk."""
    taken = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(times):
            begin_s = time.perf_counter()
            file.write(bytes(512))
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begin_s) * 1000)
    return sorted(taken)[times // 2]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="updates", description="Committed updates, beside etcd.")
    parser.add_argument("--clients", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 16])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--worker", choices=["clussvc", "etcd"], help=argparse.SUPPRESS)
    parser.add_argument("--where", default="", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.where, arguments.name, arguments.seconds)
        return 0
    found = []
    versions = {"clussvc": __version__}
    contenders = {"clussvc": clussvc_cluster, "etcd": etcd_cluster}
    if shutil.which("etcd") is None:
        print("etcd: skipped, since it is not installed (Debian: etcd-server)")
        del contenders["etcd"]
    else:
        said = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
        versions["etcd"] = said.splitlines()[0].split()[-1]
    print(f"{'contender':<10} {'clients':>7} {'per second':>11} {'median ms':>10} {'p99 ms':>8} {'max ms':>8}")
    synced_ms = 0.0
    for kind, make in contenders.items():
        temporary = tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True)
        with temporary as folder, Lab(folder=Path(folder)) as lab, make(lab) as (node, where):
            synced_ms = round(sync_ms(Path(folder)), 3)
            for clients in arguments.clients:
                one = measure(kind, node, where, clients, arguments.seconds)
                found.append(one)
                print(
                    f"{kind:<10} {clients:>7} {one['per_second']:>11.1f} {one['median_ms']:>10.2f}"
                    f" {one['p99_ms']:>8.2f} {one['max_ms']:>8.2f}",
                    flush=True,
                )
    print(f"\nwriting and syncing 512 bytes takes {synced_ms} ms here")
    path = arguments.output or RESULTS / f"updates-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    said_all = {"machine": machine(), "versions": versions, "sync_ms": synced_ms, "steps": found}
    path.write_text(json.dumps(said_all, indent=2) + "\n")
    print(f"Everything: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A load-balanced cluster on the lab's machines: made with the commands of an administrator, and its many clients."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final

from cluster_cli.nlb_main import execute
from tests.cluster.formation import Cluster
from tests.cluster.lab import CLIENT_ADDRESS, NETWORK, Holder, Lab, Node, environment, eventually

VIP: Final = f"{NETWORK}.210"
FARM: Final = "FARM"
SERVER: Final = Path(__file__).with_name("balanced_server.py")
CLIENTS: Final = Path(__file__).with_name("many_clients.py")
HOST_PROCESS: Final = "clussvc.service.balancer"


class Farm:
    """A load-balanced cluster, its clients, and the program ``nlb``."""

    def __init__(self, cluster: Cluster, *, client: Holder | None = None, name: str = FARM) -> None:
        """``client``: the machine of the clients, if it is not the lab's."""
        self.cluster = cluster
        self.lab = cluster.lab
        self._client = client
        self._name = name

    def nlb(self, *words: str, on: Node | None = None) -> str:
        """What ``nlb`` prints on a node. Fails unless it succeeds."""
        done = self._nlb(*words, on=on)
        assert done.returncode == 0, f"nlb {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def nlb_output(self, *words: str, on: Node) -> str:
        """What ``nlb`` prints on a node, whatever its exit code."""
        return self._nlb(*words, on=on).stdout

    def _nlb(self, *words: str, on: Node | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cluster_cli.nlb_main", *words],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            cwd="/",
            env=environment(CLUSSVC_SOCKET=str((on or self.lab[1]).socket)),
        )

    def status(self, on: Node) -> dict[str, Any]:
        """``nlb query`` as data, as that node sees the hosts; without hosts when it does not answer.

        The same program, but within this process: polling with new processes would keep the machine busy.
        """
        with io.StringIO() as answer, redirect_stdout(answer), redirect_stderr(io.StringIO()):
            status = execute(("query", self._name), json=True, socket_path=str(on.socket))
            found: dict[str, Any] = json.loads(answer.getvalue())[0] if status == 0 else {"hosts": []}
            return found

    def states(self, on: Node) -> dict[str, str]:
        """The state of every host."""
        return {host["node"]: host["state"] for host in self.status(on)["hosts"]}

    def wait_converged(self, *names: str) -> None:
        """Wait until exactly these hosts share the clients, by the word of each of them."""
        seen: dict[str, Any] = {}

        def converged() -> bool:
            for name in names:
                seen[name] = self.status(self.lab.named(name))["hosts"]
                hosts = {host["node"]: host for host in seen[name]}
                if not set(names) <= set(hosts) or hosts[name]["state"] not in ("default", "converged"):
                    return False
                if hosts[name]["members"] != sorted(hosts[each]["id"] for each in names):
                    return False
            return True

        try:
            eventually(converged, "converged", timeout_s=60)
        except AssertionError:
            logs = "\n".join(node.tail() for node in self.lab.nodes)
            raise AssertionError(f"{names} do not converge: {seen}\n{logs}") from None

    def clients(self, what: str, *numbers: float, address: str = VIP) -> Any:
        """What clients on the client machine saw."""
        words = (sys.executable, str(CLIENTS), what, address, "80", *map(str, numbers))
        elsewhere = ["nsenter", "-t", str(self._client.pid), "-n", "--", *words] if self._client is not None else None
        done = subprocess.run(
            elsewhere or self.lab.enter_client(*words),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return json.loads(done.stdout)

    def answers(self, count: int = 200, first: int = 0, address: str = VIP) -> Counter[str | None]:
        """How many of so many clients, each with an address of its own, each host answered; None: nobody did."""
        return Counter(self.clients("connect", count, first, address=address))

    def host_process(self, node: Node) -> int:
        """The number of the host process on a machine."""
        return next(one.pid for one in node.processes() if one.runs(HOST_PROCESS))

    def restart(self, node: Node) -> None:
        """Switch a machine that crashed on again."""
        node.boot()
        self.lab.node_ip(node, ROUTE)
        node.start_service()

    def change_mode(self, mode: str, *more: str) -> None:
        """Take all hosts offline and bring them online in another mode, with more properties changed if wanted."""
        self.cluster.command("group", FARM, "/offline", "/wait:60")
        self.cluster.command("res", FARM, "/priv", f"OperationMode={mode}", *more)
        self.cluster.command("group", FARM, "/online", "/wait:60")

    def capture(self, node: str, what: str, *fields: str, frames: int = 0, duration_s: int = 20) -> list[list[str]]:
        """What tshark hears on a machine: these fields of each frame, until so many came or the time is over."""
        done = self.lab.named(node).run(
            *("tshark", "-i", "eth0", "-f", what, "-l", "-a", f"duration:{duration_s}", "-T", "fields"),
            *(("-c", str(frames)) if frames else ()),
            *(word for field in fields for word in ("-e", field)),
        )
        assert done.returncode == 0, done.stderr
        return [(line + "\t" * len(fields)).split("\t")[: len(fields)] for line in done.stdout.splitlines()]

    def foreign_frames(self, node: str) -> int:
        """How many frames for the virtual address a machine receives while 20 clients ask."""
        heard: list[list[str]] = []
        listener = threading.Thread(
            target=lambda: heard.extend(self.capture(node, f"ip dst {VIP}", "eth.dst", duration_s=3))
        )
        listener.start()
        # The listener takes a second to begin.
        while listener.is_alive():
            self.answers(20)
        return len(heard)

    def drip(self, count: int, lines: int) -> Downloads:
        """So many downloads that are under way, each taking a twentieth of a second for each line."""
        return Downloads(self, count, lines)


class Downloads:
    """Downloads that have begun when this has been made."""

    def __init__(self, farm: Farm, count: int, lines: int) -> None:
        self._lines = lines
        self._process = subprocess.Popen(
            farm.lab.enter_client(sys.executable, str(CLIENTS), "drip", VIP, "80", str(count), str(lines)),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begun\n"

    def complete(self) -> Counter[str]:
        """Wait for their end: how many each host served. Fails if one was cut off, or changed hosts."""
        output, _ = self._process.communicate(timeout=90)
        served: Counter[str] = Counter()
        for body in json.loads(output):
            assert body is not None, output
            names = [line.split()[0] for line in body.splitlines()]
            assert [names[0]] * self._lines == names
            served[names[0]] += 1
        return served


ROUTE: Final = f"route add 10.79.0.0/16 via {CLIENT_ADDRESS}"
"""Where the many addresses of the client machine are."""
MANY_ADDRESSES: Final = "route add local 10.79.0.0/16 dev lo"
"""On the client machine: all addresses of the network are its own, so that each client has one."""


def open_farm(lab: Lab, profile: str, hosts: Sequence[str], affinity: str = "None") -> Farm:
    """Form a cluster of all machines; some of them are hosts, each with a server on all its addresses; all online."""
    cluster = Cluster(lab)
    cluster.form(profile)
    lab.client_ip(MANY_ADDRESSES)
    for node in lab.nodes:
        lab.node_ip(node, ROUTE)
    farm = Farm(cluster)
    farm.nlb(
        *("create", FARM, f"/ip:{VIP}", "/mask:255.255.255.0", f"/hosts:{','.join(hosts)}"),
        f"/rule:All 80 TCP Multiple {affinity}",
    )
    cluster.command(
        *("res", "Web", "/create", f"/group:{FARM}", "/type:Generic Application"),
        *("/priv", f"CommandLine={sys.executable} {SERVER} 80"),
    )
    # A connection whose client said its last word is remembered for a minute otherwise.
    cluster.command("res", FARM, "/priv", "TCPConnectionTimeout=2")
    cluster.command("group", FARM, "/online", "/wait:60")
    return farm

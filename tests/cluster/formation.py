"""A cluster on the lab's machines: formed and administered with the commands that an administrator types.

``Cluster`` asks through the program ``cluster`` alone, on any node that answers, so that whatever it says has been said
to a user.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clussvc.model.states import NodePhase
from cluster_cli.main import execute
from tests.cluster.lab import REPOSITORY, VIP, Lab, Node, eventually

NAME: Final = "DEMO"
TOKEN: Final = re.compile(r"clj1-\S+")
GROUP: Final = "WEB"
WEB_SERVER: Final = REPOSITORY / "resource_scripts" / "web_server.py"
WORKER: Final = Path(__file__).with_name("worker.py")
WEB_RESOURCES: Final = ("WEB IP", "WEB Server", "WEB Worker")
STEP_LIMIT_S: Final = 60.0
"""How long one step may take on a machine that is busy with other things; each takes a few seconds at most."""


class CommandFailed(AssertionError):
    """A command did not succeed; the message has all that it printed."""

    def __init__(self, node: Node, words: Sequence[str], done: subprocess.CompletedProcess[str]) -> None:
        super().__init__(
            f"on {node.name}: cluster {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupState:
    """A line of ``cluster group``."""

    node: str
    state: str


class Cluster:
    """The cluster, as its users see it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.worker_file = lab.folder / "worker.txt"
        self.used_tokens: list[str] = []
        self._worker_lines_passed = 0

    def command(self, *words: str, on: Node | None = None) -> str:
        """What a command prints on a node (NODE1 unless said otherwise). Raises CommandFailed unless it succeeds."""
        node = on or self.lab[1]
        done = node.cluster(*words)
        if done.returncode:
            raise CommandFailed(node, words, done)
        return done.stdout

    def ask(self, *words: str, on: Node) -> Any:
        """The answer of a command as data; None when the node does not answer.

        The same program, but within this process: polling with new processes would keep the machine busy.
        """
        with io.StringIO() as answer, redirect_stdout(answer), redirect_stderr(io.StringIO()):
            status = execute(words, json=True, socket_path=str(on.socket))
            return json.loads(answer.getvalue()) if status == 0 else None

    def node_states(self, on: Node) -> dict[str, str]:
        """``cluster node``: each node's state, as that node sees it; empty when it does not answer."""
        return {node["name"]: node["state"] for node in self.ask("node", on=on) or ()}

    def group(self, name: str = GROUP, *, on: Node) -> GroupState | None:
        """The line of a group, as that node sees it."""
        for group in self.ask("group", name, on=on) or ():
            return GroupState(node=group["node"], state=group["state"])
        return None

    def resource_states(self, on: Node) -> dict[str, str]:
        """``cluster res``: each resource's state, as that node sees it."""
        return {resource["name"]: resource["state"] for resource in self.ask("res", on=on) or ()}

    def takes_part(self, node: Node) -> bool:
        """Whether a node is a member that may act, by its own account."""
        status = self.ask("cluster", on=node)
        return bool(status and status["holds_quorum"] and status["phase"] == NodePhase.MEMBER.value)

    def coordinator(self, on: Node) -> str | None:
        """The node that leads, as that node sees it."""
        status = self.ask("cluster", on=on)
        return status["coordinator"] if status else None

    def wait_nodes(self, expected: dict[str, str], *, on: Node, timeout_s: float = STEP_LIMIT_S) -> None:
        """Wait until the node sees these states."""
        self._wait(lambda: self.node_states(on), expected, f"{on.name} sees the nodes as", timeout_s)

    def wait_all_up(self, *, on: Node | None = None, timeout_s: float = STEP_LIMIT_S) -> None:
        """Wait until every node is Up, seen from every node (or from one)."""
        for node in [on] if on else self.lab.nodes:
            # A service that has just started still shows what it knew when it ended.
            self._wait(lambda node=node: self.takes_part(node), True, f"{node.name} takes part is", timeout_s)  # type: ignore[misc]
            self.wait_nodes({one.name: "Up" for one in self.lab.nodes}, on=node, timeout_s=timeout_s)

    def wait_group(self, node: str, state: str = "Online", *, on: Node, timeout_s: float = STEP_LIMIT_S) -> None:
        """Wait until the group of the web server is there, in that state, as ``on`` sees it."""
        expected = GroupState(node=node, state=state)
        self._wait(lambda: self.group(on=on), expected, f"{on.name} sees group {GROUP} as", timeout_s)

    def owner(self, *, on: Node, timeout_s: float = STEP_LIMIT_S) -> Node:
        """Wait until the group of the web server is Online somewhere, and say where."""
        seen: list[GroupState | None] = [None]

        def online() -> bool:
            seen[0] = self.group(on=on)
            return seen[0] is not None and seen[0].state == "Online"

        eventually(online, f"group {GROUP} is online, as {on.name} sees it", timeout_s=timeout_s)
        assert seen[0] is not None
        return self.lab.named(seen[0].node)

    def _wait(self, look: Callable[[], object], expected: object, what: str, timeout_s: float) -> None:
        seen: list[object] = [None]

        def fits() -> bool:
            seen[0] = look()
            return seen[0] == expected

        try:
            eventually(fits, what, timeout_s=timeout_s)
        except AssertionError:
            logs = "\n".join(node.tail() for node in self.lab.nodes)
            raise AssertionError(f"{what} {expected}: not within {timeout_s:g} s, but {seen[0]}\n{logs}") from None

    def put_in_order(self) -> None:
        """Undo whatever was done to the machines, and bring the group home to NODE1."""
        first, *_ = self.lab.nodes
        for node in self.lab.nodes:
            if not node.up:
                node.boot()
            node.heal()
            node.thaw()
            if node.service() is None:
                node.start_service()
        self.wait_all_up()
        if self.owner(on=first) is not first:
            self.command("group", GROUP, f"/moveto:{first.name}", "/wait:60")
        for node in self.lab.nodes:
            self.wait_group(first.name, on=node)

    # --- the application --------------------------------------------------------------------------------------------

    def check_worker(self) -> None:
        """No two applications ever ran at once: they share a file, where each counts on from the last number in it."""
        lines = [line.split() for line in self.worker_file.read_text().splitlines()][self._worker_lines_passed :]
        wrong = [pair for pair in itertools.pairwise(lines) if int(pair[1][1]) != int(pair[0][1]) + 1]
        assert lines and not wrong, f"two applications counted at once: {wrong[:5]}"

    def pass_over_worker(self) -> None:
        """Leave what was counted so far out of the check, and wait until the application has counted on.

        A machine that is paused as a whole goes on for a moment when it wakes, until its deadman has run; no cluster
        without fencing can prevent that moment, and the application writes a number in it.
        """
        self._worker_lines_passed = self._worker_lines()
        eventually(lambda: self._worker_lines() > self._worker_lines_passed, "the application counts on")

    def _worker_lines(self) -> int:
        return len(self.worker_file.read_text().splitlines())

    def traces(self, node: Node) -> list[str]:
        """What a machine still has of the group: its address, its processes."""
        found = [f"address {VIP}"] if VIP in node.addresses() else []
        programs = {str(WEB_SERVER), str(WORKER)}
        return found + [f"process {one.pid}" for one in node.processes() if programs & set(one.words)]

    def process(self, node: Node, program: Path) -> int | None:
        """The number of the process that runs that program on a machine."""
        return next((one.pid for one in node.processes() if str(program) in one.words), None)

    # --- forming ----------------------------------------------------------------------------------------------------

    def create(self, profile: str, quorum: str = "majority") -> None:
        """Make NODE1 a cluster of one node."""
        first = self.lab[1]
        _succeed(
            first,
            *("create", "--cluster", NAME, "--profile", profile, "--quorum", quorum),
            *("--node", first.name, *_addresses(first)),
            *("--config", str(first.config), "--data", str(first.data), "--socket", str(first.socket)),
        )
        first.start_service()
        self.wait_nodes({first.name: "Up"}, on=first)

    def tokens(self) -> list[str]:
        """One-time tokens for all the other nodes, in order."""
        names = [node.name for node in self.lab.nodes[1:]]
        tokens = TOKEN.findall(self.command(f"/addnodes:{','.join(names)}"))
        assert len(tokens) == len(names), f"{len(names)} tokens were asked for, {len(tokens)} given"
        return tokens

    def join(self, node: Node, token: str) -> None:
        """Take a machine into the cluster and start its service."""
        _succeed(
            node,
            *("join", token, "--node", node.name, *_addresses(node)),
            *("--config", str(node.config), "--data", str(node.data), "--socket", str(node.socket)),
        )
        self.used_tokens.append(token)
        node.start_service()

    def form(self, profile: str, quorum: str = "majority") -> None:
        """All of it: afterwards every node is up."""
        self.create(profile, quorum)
        for node, token in zip(self.lab.nodes[1:], self.tokens(), strict=True):
            self.join(node, token)
            eventually(
                lambda name=node.name: self.node_states(self.lab[1]).get(name) == "Up",  # type: ignore[misc]
                f"{node.name} is up\n{node.tail()}",
                timeout_s=STEP_LIMIT_S,
            )
        self.wait_all_up()

    def create_web_group(self, *, failback: bool, say: Callable[[str], None] = lambda _: None) -> None:
        """The group of the demonstration: an address, a web server on it, an application beside it; all online."""
        names = ",".join(node.name for node in self.lab.nodes)
        ip, server, worker = WEB_RESOURCES
        for words in (
            ("group", GROUP, "/create"),
            ("group", GROUP, f"/setowners:{names}"),
            ("group", GROUP, "/prop", f"AutoFailbackType={int(failback)}"),
            ("res", ip, "/create", f"/group:{GROUP}", "/type:IP Address"),
            ("res", ip, "/priv", f"Address={VIP}", "SubnetMask=255.255.255.0"),
            ("res", server, "/create", f"/group:{GROUP}", "/type:Generic Script"),
            ("res", server, "/priv", f"ScriptFilepath={WEB_SERVER}", "Port=80:dword"),
            ("res", server, f"/adddep:{ip}"),
            ("res", worker, "/create", f"/group:{GROUP}", "/type:Generic Application"),
            ("res", worker, "/priv", f"CommandLine={sys.executable} {WORKER} {self.worker_file}"),
            ("res", worker, f"/adddep:{server}"),
            ("group", GROUP, f"/online:{self.lab[1].name}", "/wait:60"),
        ):
            say(shown(words))
            self.command(*words)


def shown(words: Sequence[str]) -> str:
    """A command as one would type it."""
    return " ".join(["cluster", *(f'"{word}"' if " " in word else word for word in words)])


def _addresses(node: Node) -> list[str]:
    return [word for address in node.listed for word in ("--address", address)]


def _succeed(node: Node, *words: str) -> str:
    done = node.run(sys.executable, "-m", "clussvc.service.main", *words)
    if done.returncode:
        raise AssertionError(f"on {node.name}: clussvc {words[0]} failed: {done.stdout}{done.stderr}")
    return done.stdout

"""What the service tells the load-balancing hosts of its node, over a real socket to a process that is played here."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clussvc.admin.client import connect
from clussvc.admin.server import AdminServer
from clussvc.global_update.update import ReportStates, ResourceStatus
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId, ResourceId
from clussvc.model.settings import PROFILES
from clussvc.model.states import ResourceState
from clussvc.nlb.instance import with_profile
from clussvc.resources.types import balancer_socket
from clussvc.service.balancers import Balancers, balanced_here, facts_of
from tests.cli.fake_access import FakeAccess

SECRET = b"s" * 32


class Host:
    """A host process, as far as it listens."""

    def __init__(self, folder: Path, resource: ResourceId) -> None:
        self.heard: list[dict[str, Any]] = []
        self.refuses = ""
        self._listening = balancer_socket.listen(folder, balancer_socket.socket_name(resource))
        self._listening.setblocking(True)
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        # It may be ended in the middle of an answer.
        with contextlib.suppress(OSError), connection, connection.makefile("rwb") as lines:
            for line in lines:
                said = json.loads(line)
                if said.get("ask") != "notes":
                    self.heard.append(said)
                answer = {"refused": self.refuses} if self.refuses else {"heard": len(self.heard)}
                lines.write(json.dumps(answer).encode() + b"\n")
                lines.flush()

    def end(self) -> None:
        """Die."""
        self._listening.shutdown(socket.SHUT_RDWR)
        # Whoever has just been accepted is one of those who are ended below.
        self._thread.join(20)
        self._listening.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)


def wait_until(predicate: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + 20
    while not predicate():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


@pytest.fixture
def access(tmp_path: Path) -> FakeAccess:
    """A parallel group with a load-balanced cluster on all three nodes, online; and a server on NODE1."""
    access = FakeAccess()
    changes: list[list[Any]] = [
        ["Group", "create", "WEB"],
        ["Group", "set_properties", "WEB", [{"name": "GroupType", "text": "parallel"}], []],
        ["Group", "create", "OTHER"],
        ["Resource", "create", "NLB", "Network Load Balancing", "WEB", False, [], [
            {"name": "ClusterIPAddress", "text": "10.0.0.200"},
            {"name": "HostParameters", "text": "", "parts": ["NODE1 priority=1", "NODE2 priority=2"]},
        ]],
        ["Resource", "create", "Server", "Generic Application", "OTHER", False, [], [
            {"name": "CommandLine", "text": "/bin/true"}
        ]],
        ["Group", "online", "WEB"],
        ["Group", "online", "OTHER"],
    ]  # fmt: skip
    with AdminServer(access, tmp_path / "admin.sock"), connect(socket_path=str(tmp_path / "admin.sock")) as client:
        for change in changes:
            client.change_many([change])
    access.settle()
    return access


@pytest.fixture
def balancers(access: FakeAccess, tmp_path: Path) -> Iterator[Balancers]:
    made = Balancers(access, tmp_path, SECRET)
    made.start()
    yield made
    made.stop()


def here(access: FakeAccess) -> ResourceId:
    (found,) = balanced_here(access.config(), NodeId(1))
    return found.id


def test_heartbeats_follow_the_timing_profile_unless_their_period_was_set() -> None:
    assert with_profile({"TeamID": "x"}, "fast") == {"TeamID": "x", "AliveMsgPeriod": 25}
    assert with_profile({"AliveMsgPeriod": 60}, "fast") == {"AliveMsgPeriod": 60}
    assert with_profile({}, "lan") == {}


def test_the_facts_have_the_period_of_the_profile(access: FakeAccess) -> None:
    config = access.config()
    resource = config.resources[here(access)]
    for profile, period_ms in (("lan", 100), ("fast", 25)):
        timed = replace(config, timing=PROFILES[profile])
        assert facts_of(timed, resource, NodeId(1))["private"]["AliveMsgPeriod"] == period_ms


def test_facts_are_those_of_this_node(access: FakeAccess) -> None:
    """The properties of the pattern, the nodes that are up, and what is online here by its name without a number."""
    config = access.config()
    facts = facts_of(config, config.resources[here(access)], NodeId(1))

    assert "NODE1" == facts["node"]
    assert ["NODE1", "NODE2", "NODE3"] == facts["up"]
    assert "10.0.0.200" == facts["private"]["ClusterIPAddress"]
    assert 100 == facts["private"]["AliveMsgPeriod"]
    assert {"NLB", "NLB#1", "Server"} == set(facts["online"])
    assert ["NODE1", "NODE2", "NODE3"] == facts["sharing"]


def test_a_host_knows_where_the_others_are_online(access: FakeAccess) -> None:
    """A host whose process has ended does not share, though its node is up."""
    config = access.config()
    ours = config.resources[here(access)]
    other = next(each for each in config.resources.values() if each.name == "NLB#2")
    failed = replace(config, resources={**config.resources, other.id: replace(other, state=ResourceState.FAILED)})
    facts = facts_of(failed, ours, NodeId(1))

    assert ["NODE1", "NODE2", "NODE3"] == facts["up"]
    assert ["NODE1", "NODE3"] == facts["sharing"]


def test_a_host_is_told_at_once_and_again_when_something_changes(
    access: FakeAccess, balancers: Balancers, tmp_path: Path
) -> None:
    """The death of a node reaches it; what does not concern it is not said again; a new process is told anew."""
    host = Host(tmp_path, here(access))
    wait_until(lambda: host.heard, "the host has been told nothing")
    assert 64 == len(host.heard[0]["key"])
    told = len(host.heard)
    access.kill("NODE3")
    wait_until(lambda: host.heard[-1]["up"] == ["NODE1", "NODE2"], "the death has not been told")
    assert len(host.heard) == told + 1

    host.end()
    again = Host(tmp_path, here(access))
    access.kill("NODE2")
    wait_until(lambda: again.heard and again.heard[-1]["up"] == ["NODE1"], "the next process has been told nothing")
    again.end()


def test_a_host_that_cannot_begin_is_told_again(access: FakeAccess, balancers: Balancers, tmp_path: Path) -> None:
    """What it refuses may pass, and nothing else would tell it; one that is online is not told the same twice."""
    resource = here(access)
    access.hold = True
    node = access.config().nodes[NodeId(1)]

    def report(state: ResourceState) -> None:
        line = ResourceStatus(resource=resource, state=state)
        refusal = access.execute(ReportStates(node=node.id, incarnation=node.incarnation, lines=(line,)))
        assert refusal is None

    report(ResourceState.ONLINE_PENDING)
    host = Host(tmp_path, resource)
    host.refuses = "the link is down"
    wait_until(lambda: len(host.heard) >= 3, "it is told once only")
    host.refuses = ""
    told = len(host.heard)
    wait_until(lambda: len(host.heard) > told, "it is not told again")
    host.end()


def test_questions_are_passed_on(access: FakeAccess, balancers: Balancers, tmp_path: Path) -> None:
    """By the name of the pattern or of the instance; without a process the answer says so."""
    pattern = access.config().resource_named("NLB")
    assert pattern is not None
    with pytest.raises(ClusterError) as problem:
        balancers.ask(pattern.id, {"ask": "status"})
    assert "balancer-not-here" == problem.value.code

    host = Host(tmp_path, here(access))
    assert "heard" in balancers.ask(pattern.id, {"ask": "status"})
    assert "heard" in balancers.ask(here(access), {"ask": "status"})
    host.end()


def test_an_answer_of_another_form_is_refused(access: FakeAccess, tmp_path: Path) -> None:
    """A process that answers nonsense, or too much, is as good as none."""
    for nonsense in (b"[1]\n", b"nonsense\n", b"x" * (balancer_socket.LINE_BYTES_MAX + 2)):
        name = balancer_socket.socket_name(ResourceId("r"))
        listening = balancer_socket.listen(tmp_path, name)
        listening.setblocking(True)

        def serve(nonsense: bytes = nonsense, listening: socket.socket = listening) -> None:
            connection, _ = listening.accept()
            connection.recv(1000)
            with connection:
                try:
                    connection.sendall(nonsense)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        connection = balancer_socket.Connection(tmp_path, ResourceId("r"))
        with pytest.raises(ClusterError) as problem:
            connection.ask({"ask": "status"})
        connection.close()
        thread.join()
        listening.close()
        assert "balancer-not-here" == problem.value.code

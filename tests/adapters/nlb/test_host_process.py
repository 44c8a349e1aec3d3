"""The host process by itself, with a neighbour on a cable: what it is told, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from clussvc.model.errors import ClusterError
from clussvc.model.ids import HostId, ResourceId
from clussvc.nlb.card import card
from clussvc.nlb.heartbeat import MembershipHeartbeat, encode, frame
from clussvc.resources.types.balancer_socket import Connection
from tests.adapters.nlb.cable import THERE_MAC, Cable, SnoopingCable, TapCable

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and the ip command"
    ),
]

RESOURCE = ResourceId("farm")
KEY = "ab" * 32
PRIVATE = {
    "ClusterIPAddress": "192.0.2.10",
    "ClusterNetworkMask": "255.255.255.0",
    "HostParameters": ["NODE1 priority=1", "NODE2 priority=2"],
    "PortRules": ["All 80 TCP Multiple None"],
    "AliveMsgPeriod": 20,
}


def facts(**private: Any) -> dict[str, Any]:
    return {
        "ask": "facts",
        "node": "NODE1",
        "private": PRIVATE | private,
        "up": ["NODE1", "NODE2"],
        "online": [],
        "key": KEY,
        "seed": "cd" * 32,
        "team": None,
    }


class Process:
    """A host process at one end of the cable."""

    def __init__(self, cable: Cable, folder: Path, interface: str = "eth0") -> None:
        self.cable, self.folder = cable, folder
        (folder / "monitor").mkdir()
        self.log = (folder / "log").open("wb")
        self.popen: subprocess.Popen[bytes] = cable.here.call(
            subprocess.Popen,
            [sys.executable, "-m", "clussvc.service.balancer", "--resource", RESOURCE, "--interface", interface],
            env={**os.environ, "CLUSSVC_RUN": str(folder / "monitor")},
            stdout=self.log,
            stderr=self.log,
        )
        wait_until(self.listens, "the process does not listen")

    def listens(self) -> bool:
        try:
            Connection(self.folder, RESOURCE).close()
        except ClusterError:
            return False
        return True

    def ask(self, **question: Any) -> dict[str, Any]:
        connection = Connection(self.folder, RESOURCE)
        try:
            return connection.ask(question)
        finally:
            connection.close()

    def tell(self, said: dict[str, Any]) -> dict[str, Any]:
        return self.ask(**said)

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self.log.close()


def wait_until(predicate: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + 20
    while not predicate():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


@pytest.fixture
def cable() -> Iterator[Cable]:
    with Cable() as made:
        yield made


@pytest.fixture
def process(cable: Cable, tmp_path: Path) -> Iterator[Process]:
    made = Process(cable, tmp_path)
    yield made
    made.end()


def test_it_takes_nothing_before_it_is_told(process: Process) -> None:
    """And says for what it waits; questions that need a host are refused."""
    health = process.ask(ask="health")

    assert not health["ready"]
    assert "has not told" in health["waits_for"]
    assert "has not told" in process.ask(ask="status")["refused"]
    assert "xdp" not in process.cable.ip("link", "show", "eth0")


REFUSED = (
    (facts() | {"node": "NODE9"}, "NODE9 is not named in HostParameters"),
    (facts(PortRules=["All 80 TCP Multiple", "All 70-90 TCP Single"]), "overlap"),
    (facts(ClusterIPAddress="nonsense"), "nonsense"),
    (facts(BucketCount=61), "BucketCount"),
)


def test_facts_that_make_no_host_are_refused(process: Process) -> None:
    """With the reason, which stays until better ones come; then it becomes a host after all."""
    for told, says in REFUSED:
        assert says in process.tell(told)["refused"]
        assert says in process.ask(ask="health")["waits_for"]
    assert process.tell(facts()) == {"ok": True}
    wait_until(lambda: process.ask(ask="health")["ready"], "the host is not ready")


def test_lines_that_are_no_questions_are_refused(process: Process, tmp_path: Path) -> None:
    """Nonsense, other forms, unknown words; the process goes on."""
    for line in (b"nonsense\n", b"[]\n", b'{"ask": "everything"}\n', b"\xff\xfe\n", b'{"ask": ["facts"]}\n'):
        connection = Connection(tmp_path, RESOURCE)
        connection._socket.sendall(line)
        assert "refused" in json.loads(connection._socket.recv(1000))
        connection.close()
    assert process.tell(facts()) == {"ok": True}


def test_a_host_alone_and_what_it_refuses(process: Process) -> None:
    """It converges as default host, answers questions, counts what is forged or malformed, and keeps its mode."""
    process.tell(facts())
    wait_until(lambda: process.ask(ask="status")["hosts"][0]["state"] == "default", "it does not converge")

    explained = process.ask(ask="explain", protocol="tcp", client="192.0.2.2:4000", server="192.0.2.10:80", flags="syn")
    assert (explained["verdict"], explained["host"]) == ("accept", 1)
    for protocol in ("udp", "icmp", "gre", "ipsec"):
        answer = process.ask(ask="explain", protocol=protocol, client="192.0.2.2:1", server="192.0.2.10:80", flags="")
        assert answer["verdict"] == "accept"
    wrong = process.ask(ask="explain", protocol="tcp", client="192.0.2.2", server="192.0.2.10:80", flags="")
    assert "needs a port" in wrong["refused"]
    assert process.ask(ask="connections") == {"count": 0, "connections": []}

    forged = encode(
        MembershipHeartbeat(host=HostId(2), cluster=IPv4Address("192.0.2.10").packed, boot=1, seq=1), b"x" * 32
    )
    wire = process.cable.there.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
    wire.bind(("eth0", 0))
    source = bytes.fromhex(THERE_MAC.replace(":", ""))
    for payload in (forged, forged[:1000], forged[:100]):
        wire.send(frame(b"\xff" * 6, source, payload))
    wire.close()
    wait_until(lambda: sum(process.ask(ask="status")["refused_frames"].values()) >= 3, "they are not counted")
    assert [1] == [host["id"] for host in process.ask(ask="status")["hosts"]]

    assert "next brought online" in process.tell(facts(OperationMode="multicast"))["refused"]
    health = process.ask(ask="health")
    assert "next brought online" in health["parameters_trouble"]
    # It goes on as it is, which is no failure.
    assert (True, "") == (health["ready"], health["trouble"])
    assert process.tell(facts()) == {"ok": True}
    notes = process.ask(ask="notes", after=0)["notes"]
    assert 5 == notes[0]["id"]
    assert [] == process.ask(ask="notes", after=notes[-1]["number"])["notes"]


def test_addresses_and_rules_come_and_go_while_it_runs(process: Process) -> None:
    """A rule and its address may go in one change, also while hosts still decide by the former rules."""
    more = [f"192.0.2.{number}/24" for number in range(100, 163)]
    process.tell(facts(VirtualIPAddresses=more, PortRules=["192.0.2.162 80 TCP Multiple", "All 80 TCP Multiple"]))
    wait_until(lambda: process.ask(ask="status")["hosts"][0]["state"] == "default", "it does not converge")
    for private in (
        facts(),
        facts(VirtualIPAddresses=more[:1], PortRules=["192.0.2.100 80 TCP Multiple"], BucketCount=960),
        facts(VirtualIPAddresses=more, PortRules=[f"192.0.2.{number} 80 TCP Single" for number in range(100, 132)]),
        facts(),
    ):
        assert {"ok": True} == process.tell(private)
        wait_until(lambda: process.ask(ask="status")["hosts"][0]["state"] == "default", "it does not converge")
        rules = process.ask(ask="status")["rules"]
        assert len(private["private"]["PortRules"]) == len(rules)
    assert process.popen.poll() is None


def test_a_host_that_hears_nobody_waits_for_a_client(process: Process) -> None:
    """The cluster's log says that another host shares, and it is not heard: this one may be deaf, and takes nothing.
    The first frame of a client shows that it is not."""
    process.tell(facts() | {"sharing": ["NODE1", "NODE2"]})
    wait_until(lambda: process.ask(ask="status")["hosts"][0]["state"] == "stopped", "it founds a cluster")
    assert "nor host 2, online by the cluster's log" in process.ask(ask="status")["hosts"][0]["because"]
    server = process.cable.here.call(socket.create_server, ("192.0.2.10", 80))
    client = process.cable.there.call(socket.create_connection, ("192.0.2.10", 80), 15)
    assert "default" == process.ask(ask="status")["hosts"][0]["state"]
    for each in (client, server):
        each.close()

    # Somebody who was stopped by an administrator is not missed.
    process.tell(facts(HostStates=["NODE1 stop"]) | {"sharing": ["NODE1", "NODE2"]})
    wait_until(lambda: process.ask(ask="status")["hosts"][0]["state"] == "stopped", "it does not stop")
    process.tell(facts(HostStates=["NODE2 stop"]) | {"sharing": ["NODE1", "NODE2"]})
    wait_until(lambda: process.ask(ask="status")["hosts"][0]["state"] == "default", "it waits for a stopped host")


def test_wishes_are_followed(process: Process) -> None:
    """Stop, suspend, start, and rules; each by the facts alone."""
    process.tell(facts())
    for wish, state in (("stop", "stopped"), ("start", "default"), ("suspend", "suspended"), ("start", "default")):
        process.tell(facts(HostStates=[f"NODE1 {wish}"]))
        wait_until(lambda state=state: process.ask(ask="status")["hosts"][0]["state"] == state, f"{wish}: not {state}")  # type: ignore[misc]
    process.tell(facts(HostStates=['NODE1 disable "All 80-80 TCP"']))
    assert process.ask(ask="status")["rules"][0]["state"] == "disabled"
    process.tell(facts(PortRules=["All 80 TCP Multiple None resource=Web"]))
    rule = process.ask(ask="status")["rules"][0]
    assert rule["state"] == "draining"
    assert "'Web'" in rule["because"]


def test_a_rule_follows_the_probe_of_its_server(process: Process) -> None:
    """No client before the server answers; a server that dies, or answers with an error, has none either."""
    probed = facts(PortRules=["All 80 TCP Multiple None probe=http:/health interval=100 fall=2"])

    def rule() -> dict[str, Any]:
        found: dict[str, Any] = process.ask(ask="status")["rules"][0]
        return found

    process.tell(probed)
    wait_until(lambda: process.ask(ask="status")["hosts"][0]["state"] == "default", "it does not converge")
    wait_until(lambda: "the connection is refused" in rule()["because"], "the probe does not fail")
    assert ("draining", 0) == (rule()["state"], rule()["weight"])
    (finding,) = process.ask(ask="status")["findings"]
    assert "'All 80-80 TCP': the probe http:/health of port 80 fails on NODE1 (the connection is refused)" in finding

    health = process.folder / "health"
    health.touch()
    server = process.cable.here.call(
        subprocess.Popen,
        [sys.executable, "-m", "http.server", "80", "--bind", "192.0.2.10", "--directory", str(process.folder)],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: rule()["state"] == "enabled", "the server is not found")
        assert [] == process.ask(ask="status")["findings"]
        health.unlink()
        wait_until(lambda: rule()["state"] == "draining", "an error is taken for an answer")
        assert "the status is 404" in rule()["because"]
        # A rule that is served goes on being served while its new probe is asked for the first time.
        health.touch()
        wait_until(lambda: rule()["state"] == "enabled", "the server is not found again")
        process.tell(facts(PortRules=["All 80 TCP Multiple None probe=tcp interval=100"]))
        assert "enabled" == rule()["state"]
    finally:
        server.kill()
        server.wait()
    wait_until(lambda: rule()["state"] == "draining", "a dead server is not noticed")
    told = [note["text"] for note in process.ask(ask="notes", after=0)["notes"] if "probe" in note["text"]]
    assert [
        "Port rule 'All 80-80 TCP' is served again: its probe is answered.",
        "Port rule 'All 80-80 TCP' takes no new clients here: its probe fails (the status is 404).",
        "Port rule 'All 80-80 TCP' is served again: its probe is answered.",
        "Port rule 'All 80-80 TCP' takes no new clients here: its probe fails (the connection is refused).",
    ] == told
    process.tell(facts())
    assert "enabled" == rule()["state"]


def test_a_host_that_goes_offline_drains_if_that_is_wished(process: Process) -> None:
    """Nothing that is told meanwhile starts it again."""
    process.tell(facts())
    wait_until(lambda: process.ask(ask="health")["ready"], "the host is not ready")
    assert process.ask(ask="drain") == {"limit_s": 0}
    assert process.ask(ask="status")["hosts"][0]["state"] == "default"
    process.tell(facts(DrainSeconds=30))
    assert process.ask(ask="drain") == {"limit_s": 30}
    process.tell(facts(DrainSeconds=30, HostStates=["NODE1 start"]))
    wait_until(lambda: process.ask(ask="health")["drained"], "the host does not drain")
    assert process.ask(ask="status")["hosts"][0]["state"] == "stopped"


def test_an_open_connection_is_waited_for(process: Process) -> None:
    """One that was opened a moment before too: a neighbour's, through the filter to a server on the virtual address."""
    process.tell(facts(DrainSeconds=30, TCPConnectionTimeout=1))
    wait_until(lambda: process.ask(ask="status")["hosts"][0]["state"] == "default", "it does not converge")
    server = process.cable.here.call(socket.create_server, ("192.0.2.10", 80))
    client = process.cable.there.call(socket.create_connection, ("192.0.2.10", 80), 10)
    accepted, _ = server.accept()
    process.ask(ask="drain")
    client.sendall(b"still here")
    assert accepted.recv(100) == b"still here"
    begun_s = time.monotonic()
    # Connections are counted once a second.
    while time.monotonic() < begun_s + 2.5:
        assert not process.ask(ask="health")["drained"]
        time.sleep(0.1)
    client.sendall(b"and here")
    assert accepted.recv(100) == b"and here"
    for each in (client, accepted, server):
        each.close()
    wait_until(lambda: process.ask(ask="health")["drained"], "the host is not drained when the connection has ended")


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="adapters of which a test is the cable need /dev/net/tun")
@pytest.mark.parametrize("mode", ["unicast", "multicast"])
def test_the_filter_in_the_driver(mode: str, tmp_path: Path) -> None:
    """Native mode, by real connections, on an adapter whose driver runs the filter on the frame as it arrives."""
    with TapCable() as cable:
        # The kernel must not answer for the virtual address with the adapter's own link address.
        cable.here.call(card.write_settings, card.settings_for("eth0", multicast=mode == "multicast"))
        process = Process(cable, tmp_path)
        try:
            assert process.tell(facts(FilterMode="native", OperationMode=mode)) == {"ok": True}
            wait_until(lambda: process.ask(ask="status")["hosts"][0]["state"] == "default", "it does not converge")
            assert " xdp " in cable.ip("link", "show", "eth0")
            server = cable.here.call(socket.create_server, ("192.0.2.10", 80))
            client = cable.there.call(socket.create_connection, ("192.0.2.10", 80), 10)
            accepted, _ = server.accept()
            client.sendall(b"through the driver")
            assert b"through the driver" == accepted.recv(100)
            for each in (client, accepted, server):
                each.close()
            link_address = {"unicast": "02:bf:c0:00:02:0a", "multicast": "03:bf:c0:00:02:0a"}[mode]
            assert link_address in cable.ip("neighbour", "show", "192.0.2.10", on=cable.there)
            packets = process.ask(ask="status")["packets"]
            assert packets["by_reason"]["bucket-owner"] >= 1
            assert packets["by_rule"]["All 80-80 TCP"]["accepted"] >= 3
            assert "FilterMode" in process.tell(facts(OperationMode=mode))["refused"]
        finally:
            process.end()


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is missing; see script/setup-system --tests")
@pytest.mark.parametrize(("version", "asked_in", "kind"), [(1, 2, "0x12"), (2, 2, "0x16"), (3, 3, "0x22")])
def test_it_joins_its_group_in_every_version(version: int, asked_in: int, kind: str, tmp_path: Path) -> None:
    """The switch learns it, and an analyser sees reports of that version: the first, and answers to queries."""
    with SnoopingCable(asked_in) as cable:
        cable.here.call(card.write_settings, card.igmp_setting("eth0", version))
        process = Process(cable, tmp_path)
        try:
            process.tell(facts(OperationMode="igmp", IGMPVersion=version))
            wait_until(lambda: ["port"] == cable.members("239.255.2.10"), "the switch does not learn the member")
            heard = cable.here.call(
                subprocess.run,
                [
                    *("tshark", "-i", "eth0", "-f", "igmp and src host 192.0.2.1", "-c", "1", "-a", "duration:15"),
                    *("-T", "fields", "-e", "igmp.version", "-e", "igmp.type", "-e", "igmp.maddr"),
                ],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert [str(version), kind, "239.255.2.10"] == heard.stdout.split(), heard.stderr
        finally:
            process.end()


def test_native_mode_is_refused_where_no_client_would_be_served(process: Process) -> None:
    """A virtual Ethernet pair takes the filter and then loses what it accepts; generic mode serves there."""
    refused = process.tell(facts(FilterMode="native"))["refused"]

    assert "eth0 is a virtual Ethernet pair" in refused
    assert "FilterMode=generic" in process.ask(ask="health")["waits_for"]
    assert "xdp" not in process.cable.ip("link", "show", "eth0")
    assert process.tell(facts(FilterMode="generic")) == {"ok": True}
    assert "xdpgeneric" in process.cable.ip("link", "show", "eth0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(process: Process, number: signal.Signals) -> None:
    """Filter and memberships end with the process, the virtual address at once or when it runs out."""
    process.tell(facts())
    wait_until(lambda: process.ask(ask="health")["ready"], "the host is not ready")
    assert "xdp" in process.cable.ip("link", "show", "eth0")
    assert "192.0.2.10/32" in process.cable.ip("address", "show", "dev", "lo")
    process.popen.send_signal(number)
    assert process.popen.wait(20) == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    assert "xdp" not in process.cable.ip("link", "show", "eth0")
    if number is signal.SIGTERM:
        assert "192.0.2.10" not in process.cable.ip("address", "show", "dev", "lo")
    wait_until(lambda: "192.0.2.10" not in process.cable.ip("address", "show", "dev", "lo"), "the address stays")

"""The service as an administrator meets it: real processes on this machine's loopback addresses.

What needs several machines is tested in namespaces (tests/cluster); here it is about starting, restarting, joining, and
about every way in which a start can be refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clussvc.comms.token import parse_token

LIMIT_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """One node on an address of its own of this machine."""

    def __init__(self, folder: Path, number: int, port: int) -> None:
        self.folder = folder / f"n{number}"
        self.folder.mkdir()
        self.name = f"NODE{number}"
        self.address = f"127.0.0.{number}"
        self.port = port
        self.config = self.folder / "node.toml"
        self.data = self.folder / "data"
        self.process: subprocess.Popen[str] | None = None

    def clussvc(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "clussvc.service.main", *words],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def options(self) -> list[str]:
        return [
            *("--node", self.name, "--address", self.address, "--port", str(self.port), "--admin-port", "0"),
            *("--config", str(self.config), "--data", str(self.data), "--socket", str(self.folder / "s")),
        ]

    def create(self, name: str = "T") -> subprocess.CompletedProcess[str]:
        return self.clussvc(
            "create", "--cluster", name, "--profile", "loopback", "--quorum", "majority", *self.options()
        )

    def join(self, token: str) -> subprocess.CompletedProcess[str]:
        return self.clussvc("join", token, *self.options())

    def start(self) -> None:
        assert self.process is None
        with (self.folder / "stderr").open("a") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clussvc.service.main", "run", "--config", str(self.config)],
                stdout=subprocess.DEVNULL,
                stderr=said,
                text=True,
            )

    def refused(self) -> str:
        """Start the service, which must refuse; what it says."""
        done = self.clussvc("run", "--config", str(self.config))
        assert done.returncode == 1, (done.returncode, done.stderr)
        return done.stderr

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(LIMIT_S)
        self.process = None

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(LIMIT_S)
        self.process = None
        return code

    def cluster(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cluster_cli.main", *words],
            env={**os.environ, "CLUSSVC_SOCKET": str(self.folder / "s")},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def ask(self, *words: str) -> Any:
        done = self.cluster("--output", "json", *words)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_up(self, *names: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        states: dict[str, str] = {}
        while any(states.get(name) != "Up" for name in names or (self.name,)):
            said = (self.folder / "stderr").read_text()[-2_000:]
            assert time.monotonic() < deadline, f"{states}\n{said}"
            time.sleep(0.05)
            states = {node["name"]: node["state"] for node in self.ask("node") or ()}

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    port = free_port()
    pair = Machine(tmp_path, 1, port), Machine(tmp_path, 2, port)
    yield pair
    for machine in pair:
        machine.end()


@pytest.fixture
def one(machines: tuple[Machine, Machine]) -> Machine:
    """A cluster of one node that is up, with a group that has something in it."""
    first, _ = machines
    assert first.create().returncode == 0
    first.start()
    first.wait_up()
    for words in (
        ("group", "SQL", "/create"),
        ("res", "app", "/create", "/group:SQL", "/type:Generic Application"),
        ("res", "app", "/priv", "CommandLine=sleep 1000"),
        ("group", "SQL", "/online", "/wait:30"),
    ):
        done = first.cluster(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    return first


def app_state(machine: Machine) -> str:
    return str(machine.ask("res", "app")[0]["state"])


def wait_online(machine: Machine) -> None:
    deadline = time.monotonic() + LIMIT_S
    while app_state(machine) != "Online":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_everything_is_kept_across_kill_9(one: Machine) -> None:
    """The configuration, the wish to be online, and the history; the cursor goes on where it was."""
    before = one.ask("events")
    one.kill()
    one.start()
    one.wait_up()
    wait_online(one)
    after = one.ask("events")

    assert after["events"][: len(before["events"])] == before["events"]
    assert after["cursor"] > before["cursor"]


def monitor_folders(machine: Machine) -> dict[str, str]:
    """The processes that monitors of this node are or have started: pid, and the monitor's folder."""
    marker = f"CLUSSVC_RUN={machine.data.resolve()}/run/"
    found: dict[str, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            for word in environment:
                if word.startswith(marker):
                    found[entry.name] = word.removeprefix(marker)
    return found


def test_an_orderly_stop_ends_with_success_and_leaves_nothing_running(one: Machine) -> None:
    """The resource's process is gone, too."""
    assert monitor_folders(one)
    assert one.stop() == 0

    assert monitor_folders(one) == {}


def test_the_monitor_of_a_deleted_resource_ends(one: Machine) -> None:
    """And that of the others stays."""
    for words in (
        ("res", "own", "/create", "/group:SQL", "/type:Generic Application", "/separate"),
        ("res", "own", "/priv", "CommandLine=sleep 1000"),
        ("res", "own", "/online", "/wait:30"),
    ):
        done = one.cluster(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(set(monitor_folders(one).values())) == 2
    assert one.cluster("res", "own", "/delete").returncode == 0
    deadline = time.monotonic() + LIMIT_S
    while set(monitor_folders(one).values()) != {"default"}:
        assert time.monotonic() < deadline, monitor_folders(one)
        time.sleep(0.05)

    assert app_state(one) == "Online"


def test_a_damaged_database_is_named_and_can_be_made_anew_from_the_log(one: Machine) -> None:
    """The way out that the message names works, and nothing is lost."""
    assert one.stop() == 0
    database = one.data / "cluster.db"
    content = bytearray(database.read_bytes())
    content[4096:12288] = os.urandom(8192)
    database.write_bytes(content)
    (one.data / "cluster.db-wal").unlink(missing_ok=True)
    said = one.refused()
    assert "database-damaged" in said
    assert str(database) in said
    for part in one.data.glob("cluster.db*"):
        part.rename(part.with_name("old-" + part.name))
    one.start()
    one.wait_up()

    assert [group["name"] for group in one.ask("group")] == ["Cluster Group", "SQL"]
    wait_online(one)


def test_a_damaged_journal_is_named_and_changes_nothing(one: Machine) -> None:
    """One flipped byte in the middle of what was already durable."""
    assert one.stop() == 0
    journal = max((one.data / "log").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(journal.read_bytes())
    content[len(content) // 2] ^= 0xFF
    journal.write_bytes(content)
    said = one.refused()

    assert "journal" in said
    assert str(journal) in said
    assert journal.read_bytes() == content


def test_a_lost_journal_is_not_taken_for_a_first_start(one: Machine) -> None:
    """A node without its memory must not vote under its old identity."""
    assert one.stop() == 0
    shutil.rmtree(one.data / "log")
    said = one.refused()

    assert "journal" in said


def test_a_second_service_and_a_second_cluster_are_refused(one: Machine) -> None:
    """On the same data folder, whatever its name."""
    assert "already-running" in one.refused()
    again = one.create("OTHER")

    assert again.returncode == 1
    assert "'T'" in again.stderr


def test_a_machine_that_is_no_node_is_told_what_to_do(machines: tuple[Machine, Machine]) -> None:
    """Neither created nor joined."""
    assert "/create" in machines[0].refused()


def token_for(machine: Machine, name: str, *more: str) -> str:
    done = machine.cluster(f"/addnodes:{name}", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"clj1-\S+", done.stdout)
    assert found is not None, done.stdout
    return found.group()


def test_a_token_admits_its_node_once(one: Machine, machines: tuple[Machine, Machine]) -> None:
    """For another name, a second time, and damaged it is refused; the right node joins and gets a vote."""
    _, two = machines
    token = token_for(one, "NODE2")
    two.name = "OTHER"
    refused = two.join(token)
    assert refused.returncode == 1
    assert "token" in refused.stderr
    assert "copy it again" in two.join(token[:-5]).stderr
    two.name = "NODE2"
    joined = two.join(token)
    assert joined.returncode == 0, joined.stderr
    two.start()
    two.wait_up("NODE1", "NODE2")
    three = Machine(one.folder.parent, 3, one.port)
    three.name = "NODE2"
    used = three.join(token)

    assert used.returncode == 1
    assert "/addnodes" in used.stderr
    assert not three.config.exists()
    assert [node["name"] for node in one.ask("node")] == ["NODE1", "NODE2"]


def test_a_founder_without_its_database_finds_the_others(one: Machine, machines: tuple[Machine, Machine]) -> None:
    """It was alone when it was born, and both votes are needed; it remembers whom it met since."""
    _, two = machines
    assert two.join(token_for(one, "NODE2")).returncode == 0
    two.start()
    one.wait_up("NODE1", "NODE2")
    assert one.stop() == 0
    for part in one.data.glob("cluster.db*"):
        part.unlink()
    one.start()
    one.wait_up("NODE1", "NODE2")

    assert [group["name"] for group in one.ask("group")] == ["Cluster Group", "SQL"]


@pytest.mark.parametrize("name", ["node.key", "node.pem", "ca.key", "heartbeat.key"])
def test_missing_and_damaged_keys_are_named(machines: tuple[Machine, Machine], name: str) -> None:
    """With the way out; no traceback."""
    first, _ = machines
    assert first.create().returncode == 0
    key = first.data / "keys" / name
    key.rename(key.with_suffix(".away"))
    assert str(key) in (said := first.refused())
    assert "Traceback" not in said
    key.write_text("rubbish")
    if name != "heartbeat.key":
        assert "Traceback" not in first.refused()


def test_an_expired_token_is_refused(one: Machine, machines: tuple[Machine, Machine]) -> None:
    """The joiner says so itself; nothing is sent, nothing is written."""
    _, two = machines
    token = token_for(one, "NODE2", "/validfor:1")
    expires_ms = parse_token(token).expires_ms
    while time.time_ns() // 1_000_000 <= expires_ms:
        time.sleep(0.05)
    refused = two.join(token)

    assert refused.returncode == 1
    assert "expired" in refused.stderr
    assert not two.config.exists()


def test_unknown_names_and_bad_values_change_nothing(one: Machine) -> None:
    """Each names the thing and the way out, with a non-zero exit code; the log is where it was."""
    index = one.ask("events")["cursor"]
    for words, named in (
        (("group", "NOPE", "/online"), "NOPE"),
        (("res", "NOPE", "/offline"), "NOPE"),
        (("group", "SQL", "/moveto:NODE9"), "NODE9"),
        (("group", "SQL", "/prop", "FailoverThreshold=many"), "FailoverThreshold"),
        (("group", "SQL", "/prop", "NoSuchThing=1"), "NoSuchThing"),
        (("res", "app", "/adddep:app"), "app"),
        (("res", "app", "/priv", "Nonsense=1"), "Nonsense"),
        (("group", "SQL", "/delete"), "app"),
        (("group", "SQL", "/create"), "SQL"),
        (("group", "/frobnicate"), "frobnicate"),
    ):
        done = one.cluster(*words)
        assert done.returncode != 0, words
        assert named in done.stdout + done.stderr, (words, done.stdout, done.stderr)

    assert one.ask("events")["cursor"] == index
    assert app_state(one) == "Online"


def test_a_service_does_not_outlive_one_of_its_threads() -> None:
    """A broken invariant in an adapter's thread ends the process with the code for it, and is logged."""
    program = (
        "import threading, time\n"
        "from clussvc.service.main import _die_with_thread\n"
        "threading.excepthook = _die_with_thread\n"
        "threading.Thread(target=lambda: [][0], name='streams').start()\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=False)

    assert done.returncode == 70
    assert "streams ended" in done.stdout + done.stderr
    assert "IndexError" in done.stdout + done.stderr

"""A node that is given up on the machine itself: what goes, what stays, and what a crash in the middle leaves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clussvc import codec
from clussvc.configdb.store import SqliteConfigStore
from clussvc.global_update.raft.replicator import beginning
from clussvc.global_update.raft.stored_log import begin_offline
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.witness import Witness
from clussvc.service import cleanup
from clussvc.service.cleanup import Cleaned, force_cleanup
from clussvc.service.leftovers import note_occupied
from clussvc.service.lifecycle import create_cluster, join_cluster, read_birth, service_lock, write_birth
from clussvc.service.main import main
from clussvc.service.settings_file import NodeFile, cleanup_mark, read_node_file, write_node_file
from tests.adapters.monitor.conftest import alive, marked, read_pid, wait_until
from tests.unit.groups.samples import cluster, node

CLUSTER = "c" * 32
DISK = Quorum(kind=QuorumKind.DISK, device="/dev/sdb", disk="0" * 15 + "1", sectors=25_600)


class Machine:
    """A node that is stopped, with everything that a node can have."""

    def __init__(self, folder: Path, *, config: Config | None = None) -> None:
        self.config = folder / "node.toml"
        self.file = NodeFile(
            cluster="C",
            cluster_id=CLUSTER,
            node="NODE1",
            node_id=1,
            addresses=("127.0.0.1",),
            port=7_343,
            admin_port=0,
            data=folder / "data",
            socket=folder / "admin.sock",
        )
        create_cluster(self.config, self.file, profile="loopback")
        for generation in (0, 3):
            snapshot = beginning(
                cluster_id=CLUSTER,
                members=frozenset({1}),
                index=4,
                image=codec.encode_config(config or cluster(node(1))),
            )
            begin_offline(self.file.log_folder(generation), snapshot, node_id=1)
        if config is not None:
            store = SqliteConfigStore(self.file.database)
            store.save(4, config, [])
            store.close()
        (self.file.data / "boot").write_text("7")
        (self.file.data / "service.log").write_text("{}\n")
        (self.file.data / ".birth.json.new").write_text("{")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.file.socket))

    def clean(self, reached: Callable[[str], None] = lambda step: None) -> Cleaned:
        return force_cleanup(self.config, reached=reached)

    def starts_with(self) -> str:
        """The code with which a start is refused; nothing here can start."""
        with pytest.raises(ClusterError) as caught:
            read_birth(read_node_file(self.config))
        return caught.value.code

    def left(self) -> set[str]:
        """What lies in the folder, but for what is meant to stay."""
        inside = {entry.name for entry in self.file.data.iterdir()} - {"lock", "service.log"}
        return inside | {entry.name for entry in self.config.parent.iterdir()} - {"data"}


def can_become_a_node(machine: Machine) -> bool:
    create_cluster(machine.config, replace(machine.file, cluster="NEW", cluster_id="d" * 32), profile="loopback")
    return machine.config.exists()


THREE = cluster(node(1), node(2), node(3))


def test_nothing_of_the_node_is_left(tmp_path: Path) -> None:
    machine = Machine(tmp_path, config=THREE)
    cleaned = machine.clean()
    assert set() == machine.left()
    names = {path.name for path in cleaned.removed}
    assert {"node.toml", "birth.json", "keys", "log", "log-3", "cluster.db", "boot", "admin.sock"} <= names
    assert "NODE1" == cleaned.node
    assert any(
        "NODE2, NODE3 may still count" in line and "cluster node NODE1 /evict" in line for line in cleaned.remains
    )
    assert any("service.log" in line for line in cleaned.remains)
    assert can_become_a_node(machine)


def test_it_can_be_repeated_and_needs_no_cluster(tmp_path: Path) -> None:
    """A machine that is no node is left as it is."""
    machine = Machine(tmp_path)
    machine.clean()
    before = {entry.name for entry in machine.file.data.iterdir()}
    assert Cleaned(node="", removed=(), remains=()) == machine.clean()
    assert before == {entry.name for entry in machine.file.data.iterdir()}


def test_files_of_others_stay(tmp_path: Path) -> None:
    """What no node makes was put there by somebody who may want it: a copy of the damaged files, say."""
    machine = Machine(tmp_path)
    copy = machine.file.data / "damaged"
    copy.mkdir()
    (copy / "cluster.db").write_text("x")
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "precious").write_text("x")
    (machine.file.data / "run").symlink_to(target)
    cleaned = machine.clean()
    assert (copy / "cluster.db").exists()
    assert any("damaged" in line for line in cleaned.remains)
    assert (target / "precious").exists()


def steps_of(folder: Path) -> list[str]:
    steps: list[str] = []
    Machine(folder, config=THREE).clean(steps.append)
    return steps


def test_a_crash_after_any_step(tmp_path: Path) -> None:
    """The node is whole, or refuses to start and to be made anew until another clean-up has finished, or is clean."""
    (tmp_path / "model").mkdir()
    steps = steps_of(tmp_path / "model")
    assert ["resources", "mark", "node file", "birth.json"] == steps[:4]
    assert "mark removed" == steps[-1] and len(steps) > 10
    for count, last in enumerate(steps):
        folder = tmp_path / str(count)
        folder.mkdir()
        machine = Machine(folder, config=THREE)
        whole = machine.left()
        crash_after(machine, count)
        if last == "resources":
            assert whole == machine.left()
        elif last != "mark removed":
            assert "cleanup-unfinished" == machine.starts_with(), last
            refused_as_unfinished(machine)
        if "birth.json" in steps[: count + 1]:
            # Even if somebody puts the node file back, and believes that this was all.
            mark = cleanup_mark(machine.config)
            noted = mark.read_bytes() if mark.exists() else b""
            mark.unlink(missing_ok=True)
            write_node_file(machine.config, machine.file)
            assert "birth-damaged" == machine.starts_with(), last
            machine.config.unlink()
            if noted:
                mark.write_bytes(noted)
        cleaned = machine.clean()
        assert set() == machine.left(), last
        if last not in ("resources", "mark removed"):
            assert "NODE1" == cleaned.node
            assert any("NODE2, NODE3 may still count" in line for line in cleaned.remains), (
                "noted before it was removed"
            )
        assert can_become_a_node(machine)


class Crash(Exception):
    """The machine stops here."""


def crash_after(machine: Machine, count: int) -> None:
    taken = 0

    def reached(step: str) -> None:
        nonlocal taken
        taken += 1
        if taken > count:
            raise Crash

    with pytest.raises(Crash):
        machine.clean(reached)


def refused_as_unfinished(machine: Machine) -> None:
    with pytest.raises(ClusterError, match="forcecleanup") as caught:
        create_cluster(machine.config, machine.file, profile="loopback")
    assert "cleanup-unfinished" == caught.value.code


def test_a_crash_within_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a log is the worst that can be left; nobody takes part with it."""

    def half(path: Path) -> None:
        first = next(entry for entry in sorted(path.rglob("*")) if entry.is_file())
        first.unlink()
        raise Crash

    real = shutil.rmtree
    for name in ("log", "log-3", "keys"):
        folder = tmp_path / name
        folder.mkdir()
        machine = Machine(folder, config=THREE)
        seen: list[str] = []

        def crash(path: Path, wanted: str = name, seen: list[str] = seen) -> None:
            seen.append(path.name)
            half(path) if path.name == wanted else real(path)

        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", crash)
            with pytest.raises(Crash):
                machine.clean()
        assert name == seen[-1]
        assert "cleanup-unfinished" == machine.starts_with()
        machine.clean()
        assert set() == machine.left()


def test_what_the_system_refuses_is_told_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path)

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refuse)
        with pytest.raises(ClusterError, match="repeat this") as caught:
            machine.clean()
    assert "cleanup-failed" == caught.value.code
    assert "cleanup-unfinished" == machine.starts_with()
    machine.clean()
    assert set() == machine.left()


def test_a_joiner_does_not_take_half_a_node(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    crash_after(machine, 4)
    with pytest.raises(ClusterError, match="forcecleanup"):
        join_cluster(machine.config, token(), machine.file)


def token() -> str:
    from clussvc.comms.token import JoinToken, make_token

    return make_token(
        JoinToken(
            cluster="C",
            id="t",
            secret="s" * 32,
            contacts=(("127.0.0.1", 1),),
            authority_sha256="0" * 64,
            expires_ms=2**52,
        )
    )


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_not_while_the_service_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(tmp_path)
    whole = machine.left()
    with service_lock(machine.file.data):
        assert 1 == main(["forcecleanup", "--config", str(machine.config)])
    assert whole == machine.left()
    said = capsys.readouterr().err
    assert "the cluster service runs on this node" in said and "cluster node /stop" in said


def test_not_another_node(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    whole = machine.left()
    with pytest.raises(
        ClusterError, match=r"this machine is node NODE1.*on NODE2 itself.*cluster node NODE2 /evict"
    ) as caught:
        force_cleanup(machine.config, name="NODE2")
    assert "another-node" == caught.value.code
    assert whole == machine.left()
    assert "NODE1" == force_cleanup(machine.config, name="node1").node


def test_a_node_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Where the data is must be said then; nothing is guessed."""
    machine = Machine(tmp_path)
    machine.config.write_text("data = [")
    with pytest.raises(ClusterError, match="--data") as caught:
        machine.clean()
    assert "data-unknown" == caught.value.code
    cleaned = force_cleanup(machine.config, data=machine.file.data)
    assert {"admin.sock"} == machine.left(), "whose socket that is nobody knows"
    assert any("is not known" in line for line in cleaned.remains)


def test_a_node_file_that_is_missing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.config.unlink()
    assert () == machine.clean().removed, "a folder that nobody named is not touched"
    assert len(force_cleanup(machine.config, data=machine.file.data).removed) > 5
    assert {"admin.sock"} == machine.left()


def test_another_data_folder_than_that_of_the_node(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with pytest.raises(ClusterError, match="is in"):
        force_cleanup(machine.config, data=tmp_path / "other")


def test_a_mark_that_cannot_be_read(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    cleanup_mark(machine.config).write_text("{")
    with pytest.raises(ClusterError, match="Remove it") as caught:
        machine.clean()
    assert "data-unknown" == caught.value.code


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "had no other node, so it is gone"),
        (cluster(node(1)), "had no other node, so it is gone"),
        (replace(cluster(node(1)), quorum=DISK), "another cluster takes the disk with /force"),
        (replace(THREE, quorum=DISK), "keeps nobody from owning the disk."),
        (replace(THREE, witness=Witness(path="/mnt/w", token="1" * 16)), "witness, /mnt/w, nothing was changed"),
        (replace(THREE, nodes={NodeId(2): node(2)}, evicted=(NodeId(1),)), "NODE2 evicted NODE1 before"),
        (cluster(replace(node(1), voter=True), replace(node(2), voter=True)), "clussvc run /forcequorum:NODE2"),
    ],
)
def test_what_remains_is_said(tmp_path: Path, config: Config | None, says: str) -> None:
    cleaned = Machine(tmp_path, config=config).clean()
    assert any(says in line for line in cleaned.remains), cleaned.remains


def test_a_node_that_has_lost_its_memory_promises_nothing(tmp_path: Path) -> None:
    """It was the first node once; who came later stood in the database."""
    machine = Machine(tmp_path)
    write_birth(machine.file, replace(read_birth(machine.file), log_made=True))
    machine.file.database.write_bytes(b"no database")
    assert any("Its other nodes may still count NODE1" in line for line in machine.clean().remains)


# --- resources --------------------------------------------------------------------------------------------------------

SERVICE = """
import sys, time
from pathlib import Path
from clussvc.service.leftovers import note_occupied
from tests.adapters.monitor.conftest import Driver, spec
run = Path(sys.argv[1])
note_occupied(run, "")
driver = Driver(run / "default").start()
child = f"echo $$ > {run}/pid; exec sleep 1000"
driver.online(spec("app", "Generic Application", CommandLine=f"sh -c \\"setsid sh -c '{child}' & exec sleep 1000\\""))
print(driver.host.pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def died(tmp_path: Path) -> Iterator[tuple[Machine, int, int]]:
    """A machine whose service was killed; its monitor, and a process that survives both of them."""
    machine = Machine(tmp_path)
    run = machine.file.run
    run.mkdir(mode=0o700)
    service = subprocess.Popen([sys.executable, "-c", SERVICE, str(run)], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    monitor = int(service.stdout.readline())
    application = read_pid(run / "pid")
    os.kill(monitor, signal.SIGSTOP)
    service.kill()
    service.wait()
    yield machine, monitor, application
    service.stdout.close()
    for pid in (monitor, application):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not marked(run / "default"), "everything to end")


def test_what_a_killed_monitor_left_is_terminated_first(died: tuple[Machine, int, int]) -> None:
    machine, monitor, application = died
    os.kill(monitor, signal.SIGKILL)
    assert alive(application)

    def reached(step: str) -> None:
        if step == "resources":
            assert not alive(application)

    machine.clean(reached)
    assert set() == machine.left()


def test_a_monitor_that_hangs_is_killed_after_the_wait(died: tuple[Machine, int, int]) -> None:
    machine, monitor, application = died
    force_cleanup(machine.config, wait_s=0.2)
    assert not alive(monitor) and not alive(application)
    assert set() == machine.left()


def test_a_monitor_that_is_at_work_is_waited_for(died: tuple[Machine, int, int]) -> None:
    machine, monitor, application = died
    os.kill(monitor, signal.SIGCONT)
    machine.clean()
    assert not alive(monitor) and not alive(application)


def test_nothing_is_removed_while_something_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path)
    note_occupied(machine.file.run, "own")
    monkeypatch.setattr(cleanup, "_terminated", lambda folder: "what is left of disk cannot be ended")
    whole = machine.left()
    with pytest.raises(ClusterError, match=r"disk cannot be ended.*restart the machine") as caught:
        machine.clean()
    assert "resources-left" == caught.value.code
    assert whole == machine.left()

"""The quorum of a third-party type: the example of the documentation, and types that do everything wrong."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from clussvc.global_update.disk.device_worker import DeviceWorker
from clussvc.global_update.disk.disk_thread import DiskLogThread
from clussvc.model.errors import ClusterError
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.settings import LOOPBACK, disk_timing
from clussvc.ports import Outcome, OutcomeKind
from clussvc.quorum import disk_messages
from clussvc.quorum.devices import open_device, type_device
from clussvc.quorum.devices.type_device import TypeDevice, TypeProcess
from clussvc.quorum.devices.type_protocol import LENGTH, Done, Lost, Release, TypePlace, frame, parse_place
from clussvc.quorum.disk_layout import Superblock, encode_superblock
from clussvc.quorum.disk_messages import DiskFailed, DiskRequest, GiveWay, Held, Read, Register, Write
from clussvc.service.quorum_choice import Wanted, choose
from clussvc.service.quorum_type_main import Host
from clussvc.service.settings_file import NodeFile
from tests.adapters.quorum.places import sector
from tests.adapters.quorum.type_site import install, install_locked_file

LIMIT_S = 20.0
CLUSTER = "c" * 32
ODD = """
import os, threading, time

from clussvc.resources.type_info import PropertyInfo, ResourceTypeInfo
from clussvc.resources.types.quorum import OwnedElsewhere, QuorumType


class Odd(QuorumType):
    info = ResourceTypeInfo(
        name="Odd Quorum",
        description="Does what its argument says when somebody reads sector 7.",
        private=(
            PropertyInfo(name="Does", kind="S", required=True),
            PropertyInfo(name="Number", kind="D", default=1),
            PropertyInfo(name="Names", kind="M", default=()),
        ),
        quorum_capable=True,
    )
    size_bytes = 64 * 1024 * 1024

    def arbitrate(self, lost):
        self.lost, self.kept = lost, {}
        does = self.resource.properties["Does"]
        if does == "held":
            raise OwnedElsewhere()
        if does == "raise":
            raise RuntimeError("no way")
        if does == "sleep":
            time.sleep(60)
        self.resource.log_warning(f"{self.resource.name} {does} {self.resource.properties}" + "x" * 1000)
        return self

    def release(self):
        if self.resource.properties["Does"] == "stay":
            raise RuntimeError("it stays")
        self.kept = {}

    def read(self, at, size):
        does = self.resource.properties["Does"]
        if at == 7 * 4096:
            if does == "hang":
                time.sleep(60)
            if does == "crash":
                os._exit(9)
            if does == "lose":
                threading.Thread(target=self.lost, args=("somebody else came",)).start()
                time.sleep(0.1)
            if does == "fail":
                raise OSError("a broken disk")
            if does == "short":
                return b"x"
            if does == "text":
                return "text" * 1024
        return b"".join(self.kept.get(each, bytes(4096)) for each in range(at, at + size, 4096))

    def write(self, at, data):
        for begin in range(0, len(data), 4096):
            self.kept[at + begin] = data[begin : begin + 4096]


class Plain(Odd):
    info = ResourceTypeInfo(name="Plain", description="Not quorum-capable.")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages of types that the processes find."""
    made = tmp_path / "site"
    install_locked_file(made)
    install(made, "odd_quorum", ODD, "Odd Quorum = odd_quorum:Odd\nPlain = odd_quorum:Plain")
    monkeypatch.setenv("PYTHONPATH", str(made))
    return made


@pytest.fixture
def started(site: Path) -> Iterator[Callable[[str], TypeProcess]]:
    """Starts processes of types, and ends them."""
    made: list[TypeProcess] = []

    def start(place: str, timeout_ms: int = 5_000) -> TypeProcess:
        made.append(TypeProcess(place, timeout_ms=timeout_ms))
        return made[-1]

    yield start
    for process in made:
        process.kill()


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ClusterError) as caught:
        call()
    return caught.value.code


def eventually(condition: Callable[[], bool]) -> None:
    limit_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit_s
        time.sleep(0.01)


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("locked-file:///srv/a%20b?SizeMB=200", ("locked-file", {"": "/srv/a b", "SizeMB": "200"})),
        ("Odd-Quorum://", ("Odd-Quorum", {})),
        ("odd-quorum://?a=1&b=c=d&", ("odd-quorum", {"a": "1", "b": "c=d"})),
        ("/srv/disk", None),
        ("iscsi://host/target/1", None),
        ("ISCSI://host/target/1", None),
        ("9p://x", None),
    ],
)
def test_a_type_is_written_as_a_place(place: str, found: tuple[str, dict[str, str]] | None) -> None:
    wanted = None if found is None else TypePlace(type=found[0], properties=found[1])
    assert wanted == parse_place(place)


@pytest.mark.parametrize("place", ["a://x?y", "a://x?=1", "a://x?b=1&b=2"])
def test_a_place_that_is_written_wrongly_is_refused(place: str) -> None:
    with pytest.raises(ClusterError, match="write each property once") as caught:
        parse_place(place)
    assert caught.value.code == "device-unsuitable"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("no-such-type://x", "not installed"),
        ("plain://x", "not quorum-capable"),
        ("generic-script://x", "not quorum-capable"),
        ("odd-quorum://", "Does is required"),
        ("odd-quorum://x?Other=1", "Other is not a property"),
        ("odd-quorum://x?Number=many", "Number is 'many'; it must be a number"),
        ("locked-file:///srv/x?SizeMB=7", "SizeMB is 7"),
    ],
)
def test_what_cannot_be_a_quorum_is_refused(site: Path, place: str, words: str) -> None:
    with pytest.raises(ClusterError, match=words) as caught:
        open_device(place, initiator="", timeout_ms=5_000)
    assert caught.value.code == "device-unsuitable"


# --- the example -----------------------------------------------------------------------------------------------------


def test_one_node_at_a_time_has_the_storage(started: Callable[[str], TypeProcess], tmp_path: Path) -> None:
    """What one wrote the next one reads; neither writes when it is not its turn."""
    place = f"locked-file://{tmp_path}/quorum?SizeMB=64"
    one, two = started(place), started(place)
    first = TypeDevice(one, ends=False)
    assert (first.sectors, first.reservations) == (64 * 256, True)
    long = b"".join(sector(f"number {number}") for number in range(700))
    first.write(100, long)
    assert code_of(lambda: TypeDevice(two, ends=False)) == "reservation-conflict"
    first.release(1)
    assert code_of(lambda: first.write(1, sector("late"))) == "device-lost"
    second = TypeDevice(two, ends=False)
    assert second.read(100, 700) == long
    assert code_of(lambda: second.read(64 * 256 - 1, 2)) == "device-lost"
    assert code_of(lambda: TypeDevice(one, ends=False)) == "reservation-conflict"
    second.close()
    pid = one.pid
    again = TypeDevice(one, ends=True)
    assert one.pid == pid, "the process is used again"
    again.close()
    assert one.pid is None
    assert pid is not None
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_who_loses_the_file_has_lost_the_quorum(started: Callable[[str], TypeProcess], tmp_path: Path) -> None:
    """The type says so by itself; everything is refused then, until the quorum is won anew."""
    process = started(f"locked-file://{tmp_path}/quorum?SizeMB=64")
    device = TypeDevice(process, ends=False)
    device.write(1, sector("before"))
    (tmp_path / "quorum").rename(tmp_path / "taken away")
    said: list[str] = []

    def refused() -> bool:
        try:
            device.write(1, sector("late"))
        except ClusterError as error:
            said.append(error.code)
        return bool(said)

    eventually(refused)
    assert said == ["reservation-conflict"]
    assert "No such file" in process.lost_because
    assert code_of(lambda: device.read(1, 1)) == "device-lost"
    assert TypeDevice(process, ends=False).read(1, 1) == bytes(4096)


def test_a_service_that_is_stuck_does_not_keep_the_quorum(site: Path, tmp_path: Path) -> None:
    """It asks for nothing any more; when it does again, another node has it."""
    place = f"locked-file://{tmp_path}/quorum?SizeMB=64"
    stuck, other = TypeProcess(place, timeout_ms=5_000, silence_ms=2_000), TypeProcess(place, timeout_ms=5_000)
    device = TypeDevice(stuck, ends=True)
    device.write(1, sector("x"))
    assert code_of(lambda: TypeDevice(other, ends=True)) == "reservation-conflict"
    found: list[TypeDevice] = []

    def won() -> bool:
        with contextlib.suppress(ClusterError):
            found.append(TypeDevice(other, ends=False))
        return bool(found)

    eventually(won)
    with pytest.raises(ClusterError, match="asked for nothing for 2 s") as caught:
        device.write(1, sector("late"))
    assert caught.value.code == "reservation-conflict"
    assert found[0].read(1, 1) == sector("x")
    device.close()
    other.kill()


def test_a_node_that_is_gone_has_nothing_any_more(site: Path, tmp_path: Path) -> None:
    """The service was killed: the process of the type sees that its end of the connection is gone."""
    place = f"locked-file://{tmp_path}/quorum?SizeMB=64"
    code = (
        "import sys, time; from clussvc.quorum.devices import open_device;"
        f"d = open_device({place!r}, initiator='', timeout_ms=5000);"
        "print(d._process.pid, flush=True); time.sleep(60)"
    )
    service = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    pid = 0
    for line in service.stdout:
        # The type's words in the log come before.
        if line.strip().isdecimal():
            pid = int(line)
            break
    assert code_of(lambda: open_device(place, initiator="", timeout_ms=5_000)) == "reservation-conflict"
    service.kill()
    service.wait()
    service.stdout.close()
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    open_device(place, initiator="", timeout_ms=5_000).close()


def test_the_log_of_a_cluster_is_prepared_on_it(site: Path, tmp_path: Path) -> None:
    """As on any disk: empty at first, and refused when it is another cluster's."""
    place = f"locked-file://{tmp_path}/quorum?SizeMB=64"
    file = NodeFile(
        cluster="PAYROLL",
        cluster_id="c" * 32,
        node="NODE1",
        node_id=1,
        addresses=("10.77.0.11",),
        port=3343,
        admin_port=0,
        data=tmp_path,
        socket=tmp_path / "socket",
    )
    quorum = choose(Wanted(place=place), file)
    assert (quorum.kind, quorum.device, quorum.reservations) == (QuorumKind.DISK, place, True)
    before = (tmp_path / "quorum").read_bytes()
    with pytest.raises(ClusterError, match="quorum disk of this very cluster"):
        choose(Wanted(place=place), file)
    assert (tmp_path / "quorum").read_bytes() == before


# --- types that do everything wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "code"), [("held", "reservation-conflict"), ("raise", "device-lost")], ids=["held", "raise"]
)
def test_an_arbitration_that_fails_says_why(started: Callable[[str], TypeProcess], does: str, code: str) -> None:
    process = started(f"odd-quorum://{does}")
    with pytest.raises(ClusterError) as caught:
        TypeDevice(process, ends=False)
    words = "another node has it" if does == "held" else "RuntimeError: no way (odd_quorum.py line"
    assert (caught.value.code, words in caught.value.message) == (code, True)


def test_an_arbitration_that_hangs_is_given_up(
    started: Callable[[str], TypeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type_device, "ARBITRATE_TIMEOUT_MS", 2_000)
    process = started("odd-quorum://sleep")
    with pytest.raises(ClusterError, match="did not answer in time") as caught:
        TypeDevice(process, ends=False)
    assert (caught.value.code, process.pid) == ("device-lost", None)


@pytest.mark.parametrize(
    ("does", "code", "words", "ended"),
    [
        ("hang", "device-lost", "did not answer in time", True),
        ("crash", "device-lost", "its process has ended", True),
        ("lose", "reservation-conflict", "somebody else came", False),
        ("fail", "device-lost", "OSError: a broken disk (odd_quorum.py line", False),
        ("short", "device-lost", "1 bytes instead of 4096", False),
        ("text", "device-lost", "TypeError", False),
    ],
)
def test_what_a_type_does_wrong_is_a_failed_request(
    started: Callable[[str, int], TypeProcess], does: str, code: str, words: str, ended: bool
) -> None:
    """It ends in time, and the quorum can be won anew, by a new process if need be."""
    process = started(f"odd-quorum://{does}", 1_000)
    device = TypeDevice(process, ends=False)
    device.write(7, sector("seven"))
    pid = process.pid
    with pytest.raises(ClusterError) as caught:
        device.read(7, 1)
    assert (caught.value.code, words in caught.value.message) == (code, True), caught.value
    assert (process.pid is None) is ended
    device.close()
    again = TypeDevice(process, ends=False)
    again.write(8, sector("eight"))
    assert again.read(8, 1) == sector("eight")
    assert (process.pid != pid) is ended


def test_an_ended_process_is_started_again(started: Callable[[str], TypeProcess]) -> None:
    """As after a time without work."""
    process = started("odd-quorum://nothing")
    TypeDevice(process, ends=False).close()
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    TypeDevice(process, ends=False).close()
    assert process.pid not in (None, pid)


def test_a_type_that_does_not_let_go_is_ended(started: Callable[[str], TypeProcess]) -> None:
    """Whatever it holds goes with its process."""
    process = started("odd-quorum://stay")
    device = TypeDevice(process, ends=False)
    pid = process.pid
    assert pid is not None
    device.close()
    assert process.pid is None
    eventually(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(LENGTH.pack(1 << 30), id="endless"),
        pytest.param(LENGTH.pack(3) + b"\xc1\xc1\xc1", id="no-msgpack"),
        pytest.param(LENGTH.pack(1) + b"\x05", id="no-message"),
        pytest.param(frame(Done(99)), id="not-asked"),
        pytest.param(frame(Release(1)), id="a-question"),
    ],
)
def test_a_process_that_breaks_the_protocol_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: bytes
) -> None:
    """Whatever it says, within bounds and without a word being believed."""
    script = tmp_path / "clussvc_broken_type.py"
    script.write_text(
        f"import socket, sys, time\nsocket.socket(fileno=int(sys.argv[2])).sendall({said!r})\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(type_device, "PROGRAM", "clussvc_broken_type")
    process = TypeProcess("odd-quorum://x", timeout_ms=5_000)
    assert code_of(lambda: TypeDevice(process, ends=False)) == "device-lost"
    assert process.pid is None


def test_the_far_end_takes_nothing_but_questions() -> None:
    """It ends when the service does, or says what no service says."""
    for said in (b"", LENGTH.pack(1 << 30), frame(Lost("x")), LENGTH.pack(2) + b"{}"):
        ours, theirs = socket.socketpair()
        ended: list[int] = []
        thread = threading.Thread(target=lambda theirs=theirs, ended=ended: ended.append(run_host(theirs)))
        thread.start()
        ours.sendall(said)
        ours.shutdown(socket.SHUT_WR)
        thread.join(LIMIT_S)
        assert ended == [0]
        ours.close()
        theirs.close()


def run_host(connection: socket.socket) -> int:
    """A far end whose threads end this process only when they are needed for that."""

    class Patient(Host):
        _watchdog = staticmethod(lambda seconds: None)

    def find(name: str) -> type[object]:
        raise AssertionError(name)

    return Patient(connection, find).run()


# --- as the log sees it ----------------------------------------------------------------------------------------------


def test_what_was_won_anew_was_lost_before(started: Callable[[str], TypeProcess]) -> None:
    """The process of the owner crashed; another node may have owned the quorum until it was there again."""
    process = started("odd-quorum://crash")
    block = Superblock(cluster="c" * 32, cluster_name="", disk=7, sectors=2048, prepared_ms=0)
    quorum = Quorum(kind=QuorumKind.DISK, device=process.place, disk=f"{7:016x}", sectors=2048, reservations=True)

    def opened() -> TypeDevice:
        device = TypeDevice(process, ends=False)
        device.write(0, encode_superblock(block))
        return device

    worker = DeviceWorker(quorum, "c" * 32, opened, lambda answer: None)

    def ask(request: DiskRequest) -> str:
        answer = worker._perform(request)
        return answer.code if isinstance(answer, DiskFailed) else ""

    assert [ask(Register(key=5)), ask(Write(sector=600, data=sector("x")))] == ["", ""]
    assert ask(Read(sector=7, count=1)) == "device-lost"
    assert ask(Write(sector=600, data=sector("late"))) == "reservation-conflict"
    assert [ask(Read(sector=600, count=1)), ask(Register(key=5))] == ["", ""]
    assert ask(Write(sector=600, data=sector("a new owner"))) == ""
    worker._close()


class Member:
    """A node's part of the log, on real threads, whose quorum is the locked file."""

    highest_node = 2
    retired = False

    def __init__(self, node: int, place: str, quorum: Quorum) -> None:
        self.applied: list[bytes] = []
        self.held, self.lost = threading.Event(), threading.Event()
        self.because = ""
        self.process = TypeProcess(place, timeout_ms=1_000)
        self.log = DiskLogThread(
            node_id=node,
            cluster_id=CLUSTER,
            boot=1,
            quorum=quorum,
            timing=disk_timing(LOOPBACK),
            open_device=lambda: TypeDevice(self.process, ends=False),
            state_machine=self,
            index=0,
            send=lambda to, frame: None,
            tell=self.told,
            on_leader_changed=lambda leader, leads: None,
            on_fatal=self.failed.append,
        )

    failed: ClassVar[list[Exception]] = []

    def take_part(self) -> None:
        """Begin to contest."""
        self.log.start()
        self.log.contest(wanted=True, client_networks=1)

    def told(self, what: Held | disk_messages.Lost | GiveWay) -> None:
        """What the core would hear."""
        if isinstance(what, Held):
            self.held.set()
        elif isinstance(what, disk_messages.Lost):
            self.because = what.because
            self.held.clear()
            self.lost.set()

    def propose(self, command: bytes) -> None:
        """It is acknowledged."""
        done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.log.propose(command, LIMIT_S, done.put)
        assert done.get(timeout=LIMIT_S).kind is OutcomeKind.COMMITTED

    def apply(self, index: int, command: bytes) -> bytes:
        """See StateMachine."""
        self.applied.append(command)
        return b""

    def snapshot(self) -> bytes:
        """See StateMachine."""
        return b" ".join(self.applied)

    def restore(self, index: int, image: bytes) -> None:
        """See StateMachine."""
        self.applied = image.split()

    def stop(self) -> None:
        """Leave."""
        self.log.stop()
        self.process.kill()


@pytest.fixture
def members(site: Path, tmp_path: Path) -> Iterator[tuple[Member, Member]]:
    """Two that do not hear each other; the first one owns the quorum."""
    place = f"locked-file://{tmp_path}/quorum?SizeMB=64"
    block = Superblock(cluster=CLUSTER, cluster_name="", disk=7, sectors=64 * 256, prepared_ms=0)
    device = open_device(place, initiator="", timeout_ms=5_000)
    device.write(0, encode_superblock(block))
    device.close()
    quorum = Quorum(kind=QuorumKind.DISK, device=place, disk=f"{7:016x}", sectors=64 * 256, reservations=True)
    first, second = Member(1, place, quorum), Member(2, place, quorum)
    first.take_part()
    assert first.held.wait(LIMIT_S)
    second.take_part()
    yield first, second
    first.stop()
    second.stop()
    assert not Member.failed


def take_the_file_away(first: Member, tmp_path: Path) -> None:
    (tmp_path / "quorum").rename(tmp_path / "aside")
    assert first.lost.wait(LIMIT_S)
    (tmp_path / "aside").rename(tmp_path / "quorum")


def kill(first: Member, tmp_path: Path) -> None:
    assert first.process.pid is not None
    os.kill(first.process.pid, signal.SIGKILL)


def freeze(first: Member, tmp_path: Path) -> None:
    assert first.process.pid is not None
    os.kill(first.process.pid, signal.SIGSTOP)


def give_back(first: Member, tmp_path: Path) -> None:
    first.log.contest(wanted=False, client_networks=1)
    first.log.give_back()


@pytest.mark.parametrize(
    ("what", "because"),
    [
        (take_the_file_away, "this node has lost the quorum"),
        (kill, ""),
        (freeze, "hold on it has ended"),
        (give_back, "given back"),
    ],
    ids=["lost", "crashes", "hangs", "gives-back"],
)
def test_the_owner_lets_go_and_one_of_the_two_goes_on(
    members: tuple[Member, Member], tmp_path: Path, what: Callable[[Member, Path], None], because: str
) -> None:
    """Whatever happens to the type's process, nothing that was acknowledged is lost, and there is an owner again."""
    first, second = members
    first.propose(b"kept")
    assert not second.held.is_set()
    what(first, tmp_path)
    assert first.lost.wait(LIMIT_S)
    assert because in first.because
    eventually(lambda: first.held.is_set() or second.held.is_set())
    owner = first if first.held.is_set() else second
    owner.propose(b"after")
    assert owner.applied == [b"kept", b"after"]
    if what is give_back:
        assert owner is second

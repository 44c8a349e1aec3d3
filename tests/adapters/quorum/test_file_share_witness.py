"""The register on a share: written once, whoever comes when; refused where it cannot be; and the thread that asks."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path

import pytest

from clussvc.events import Event, WitnessSeen
from clussvc.membership.witness_watch import AskWitness, WitnessAnswered
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.witness import Witness
from clussvc.quorum.devices import FileShareWitness, Writer, prepare_witness
from clussvc.quorum.devices import file_share_witness as module
from clussvc.quorum.devices.facts import file_system_of, mount_source_of
from clussvc.quorum.devices.file_share_witness import hosted_by, server_of
from clussvc.quorum.stand_in import Decision
from clussvc.service.witness import WitnessKeeper

TOKEN = "0123456789abcdef"
CLUSTER = "cluster-1"
N1, N2, N3, N4 = (NodeId(number) for number in (1, 2, 3, 4))


def writer(node: int, boot: int = 1) -> Writer:
    return Writer(node=NodeId(node), boot=boot)


def wanted(dropped: NodeId, version: int = 7) -> Decision:
    return Decision(version=version, voters=frozenset({N1, N2}), dropped=dropped)


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return prepare_witness(
        str(tmp_path), TOKEN, cluster=CLUSTER, name="PAYROLL", nodes=("NODE1",), writer=writer(1), force=True
    )


def seen_by(witness: Witness, node: int, boot: int = 1) -> FileShareWitness:
    return FileShareWitness(witness, CLUSTER, writer(node, boot))


def refused(tmp_path: Path, *, cluster: str = CLUSTER, force: bool = True, path: str = "") -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        prepare_witness(
            path or str(tmp_path), "f" * 16, cluster=cluster, name="OTHER", nodes=(), writer=writer(9), force=force
        )
    assert caught.value.code == "witness-refused"
    return caught.value


def test_the_first_decision_stands_for_everybody_and_for_ever(witness: Witness) -> None:
    one, other = seen_by(witness, 1), seen_by(witness, 2)
    assert other.read(7) is None

    assert one.decide(wanted(N2)) == wanted(N2)
    assert other.decide(wanted(N1)) == wanted(N2)
    assert other.read(7) == wanted(N2)
    assert seen_by(witness, 1, boot=2).decide(wanted(N1)) == wanted(N2)
    assert one.decide(wanted(N1, version=8)) == wanted(N1, version=8)
    assert one.read(7) == wanted(N2)


def test_of_many_at_once_one_decides(witness: Witness) -> None:
    """Eight threads with eight wishes, forty versions: all are told the same."""
    for version in range(40):
        told: list[Decision] = []
        gate = threading.Barrier(8)

        def ask(node: int, version: int = version, told: list[Decision] = told, gate: threading.Barrier = gate) -> None:
            gate.wait()
            told.append(seen_by(witness, node).decide(wanted(N1 if node % 2 else N2, version)))

        threads = [threading.Thread(target=ask, args=(node,)) for node in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(told) == 8
        assert len(set(told)) == 1


def test_a_link_that_takes_effect_late_finds_the_name_taken(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another node decides between this node's look and its link is what this node is told."""
    link = os.link

    def late(*args: object, **kwargs: object) -> None:
        patched.undo()
        seen_by(witness, 2).decide(wanted(N1))
        link(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", late)
        assert seen_by(witness, 1).decide(wanted(N2)) == wanted(N1)


def test_an_answer_that_was_lost_is_no_decision_of_its_own(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link was made, and the node is told of an error; the next question finds what was decided."""
    link = os.link

    def loses(*args: object, **kwargs: object) -> None:
        link(*args, **kwargs)  # type: ignore[arg-type]
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", loses)
        with pytest.raises(ClusterError, match="does not answer"):
            seen_by(witness, 1).decide(wanted(N2))
    assert seen_by(witness, 2).decide(wanted(N1)) == wanted(N2)


def test_an_empty_mount_point_is_not_taken_for_the_share(witness: Witness, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mount point"
    elsewhere.mkdir()
    unmounted = FileShareWitness(Witness(path=str(elsewhere), token=TOKEN), CLUSTER, writer(1))

    with pytest.raises(ClusterError, match="is the share mounted there"):
        unmounted.decide(wanted(N2))
    with pytest.raises(ClusterError, match="is the share mounted there"):
        unmounted.check()
    assert list(elsewhere.iterdir()) == []


def test_another_cluster_or_a_foreign_folder_is_refused(witness: Witness, tmp_path: Path) -> None:
    assert "witness of cluster PAYROLL" in refused(tmp_path, cluster="cluster-2").message
    with pytest.raises(ClusterError, match="belongs to something else"):
        FileShareWitness(witness, "cluster-2", writer(1)).read(7)


def test_what_is_no_folder_or_not_writable_is_refused(tmp_path: Path) -> None:
    assert "mount the share first" in refused(tmp_path, path=str(tmp_path / "nothing")).message
    assert "absolute" in refused(tmp_path, path="share").message
    assert "cannot be written" in refused(tmp_path, path="/proc/self").message


def test_a_share_without_exclusive_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_, **__: None)

    assert "may take a name that exists" in refused(tmp_path).message


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": 7}\n00000000', b"\xff" * 5_000])
def test_a_damaged_decision_is_read_by_nobody(witness: Witness, content: bytes) -> None:
    """Nor is it replaced: what it said may be what somebody goes by."""
    path = Path(witness.path) / "clussvc-witness" / TOKEN / "decision-7"
    path.write_bytes(content)

    with pytest.raises(ClusterError) as caught:
        seen_by(witness, 1).read(7)
    assert caught.value.code == "witness-damaged"
    with pytest.raises(ClusterError) as caught:
        seen_by(witness, 1).decide(wanted(N2))
    assert caught.value.code == "witness-damaged"
    assert path.read_bytes() == content


def test_what_an_earlier_life_began_is_removed(witness: Witness) -> None:
    folder = Path(witness.path) / "clussvc-witness" / TOKEN
    (folder / ".decision-1-1-3").write_bytes(b"half")
    (folder / ".decision-2-1-3").write_bytes(b"of another node")
    seen_by(witness, 1, boot=2).check()

    assert {path.name for path in folder.iterdir()} == {"identity", ".decision-2-1-3"}


MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
40 22 0:50 / /mnt/nfs rw - nfs4 192.0.2.90:/export rw,vers=4.2
41 22 0:51 / /mnt/smb rw - cifs //filer/witness rw
42 22 0:52 / /mnt/own rw - nfs4 node2.example:/export rw
"""


@pytest.mark.parametrize(
    ("source", "server"),
    [
        ("192.0.2.90:/export", "192.0.2.90"),
        ("//filer/witness/sub", "filer"),
        ("[2001:db8::9]:/export", "2001:db8::9"),
        ("10.0.0.1:6789,10.0.0.2:6789:/", "10.0.0.1"),
        ("10.0.0.1@tcp:/lustre", "10.0.0.1"),
        ("host0", ""),
        ("/dev/sda1", ""),
    ],
)
def test_the_server_of_a_mount(source: str, server: str) -> None:
    assert server_of(source) == server


def test_who_serves_the_share_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "file_system_of", lambda path: file_system_of(path, MOUNTS))
    monkeypatch.setattr(module, "mount_source_of", lambda path: mount_source_of(path, MOUNTS))
    monkeypatch.setattr(module, "_addresses_of", lambda name: {"192.0.2.2"} if name == "node2.example" else set())

    assert hosted_by("/mnt/nfs/folder", ("NODE1", "192.0.2.1")) == ""
    assert hosted_by("/mnt/smb", ("NODE1", "192.0.2.1")) == ""
    assert "of this machine alone (ext4)" in hosted_by("/srv", ())
    assert "served by a node of this cluster (192.0.2.90)" in hosted_by("/mnt/nfs", ("NODE1", "192.0.2.90"))
    assert "served by a node of this cluster (192.0.2.2)" in hosted_by("/mnt/own", ("NODE2", "192.0.2.2"))
    assert "served by a node of this cluster (filer)" in hosted_by("/mnt/smb", ("FILER",))


def test_a_share_of_this_machine_is_refused_under_every_name_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by an address that the cluster does not use; an address of nobody, or of others, is fine."""
    monkeypatch.setattr(module, "file_system_of", lambda path: file_system_of(path, MOUNTS))
    for server, own in (("127.0.0.1", True), ("::1", True), ("192.0.2.77", False), ("2001:db8::7", False)):
        monkeypatch.setattr(module, "mount_source_of", lambda path, server=server: f"[{server}]:/share")
        assert ("served by this node itself" in hosted_by("/mnt/nfs", ("NODE1",))) is own


def test_a_folder_of_this_machine_needs_force(tmp_path: Path) -> None:
    """Of its own file systems, or of a share that it serves itself."""
    assert "use /force" in refused(tmp_path, force=False).message


def test_the_thread_answers_and_looks_after_the_share(witness: Witness) -> None:
    inbox: queue.Queue[Event] = queue.Queue()
    keeper = WitnessKeeper(CLUSTER, writer(1), inbox.put)
    keeper.watch(witness)
    assert inbox.get(timeout=30) == WitnessSeen(trouble="")
    keeper.ask(AskWitness(witness=witness, version=7, voters=frozenset({N1, N2}), drop=None))
    assert inbox.get(timeout=30) == WitnessAnswered(version=7, decision=None)
    keeper.ask(AskWitness(witness=witness, version=7, voters=frozenset({N1, N2}), drop=N2))
    assert inbox.get(timeout=30) == WitnessAnswered(version=7, decision=wanted(N2))
    lost = Witness(path=witness.path, token="f" * 16)
    keeper.watch(lost)
    seen = inbox.get(timeout=30)
    assert isinstance(seen, WitnessSeen)
    assert "no witness of this cluster" in seen.trouble
    keeper.ask(AskWitness(witness=lost, version=7, voters=frozenset({N1, N2}), drop=N2))
    answer = inbox.get(timeout=30)
    assert isinstance(answer, WitnessAnswered)
    assert answer.decision is None
    assert answer.trouble
    keeper.stop()

"""The program itself, in a process of its own: exit codes, streams, remote targets, and what it costs to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from clussvc.admin.server import AdminServer, TlsSettings
from clussvc.comms.authority import Authority, new_signing_request
from clussvc.service.lifecycle import service_lock
from tests.cli.fake_access import FakeAccess

HEAVY = (
    "rich",
    "sqlalchemy",
    "msgspec",
    "cryptography",
    "asyncio",
    "structlog",
    "pysyncobj",
    "clussvc.codec",
    "Pyro5.server",
)
"""What a status command has no use for; the budget of its start is 0.3 s on a slow machine."""


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``cluster`` with these words."""
    return subprocess.run(
        [sys.executable, "-m", "cluster_cli.main", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_success_and_failure(tmp_path: Path) -> None:
    """The screen on one stream, the failure on the other, and the low eight bits of the status."""
    socket = str(tmp_path / "admin.sock")
    with AdminServer(FakeAccess(), socket):
        good = run("group", "--socket", socket)
        bad = run("group", "NOTHING", CLUSSVC_SOCKET=socket)

    assert (0, "") == (good.returncode, good.stderr)
    assert "Cluster Group        NODE1" in good.stdout
    assert (5013 & 0xFF, "") == (bad.returncode, bad.stdout)
    assert bad.stderr.startswith("System error 5013 has occurred (0x00001395).\nThere is no group 'NOTHING'")


def test_no_service(tmp_path: Path) -> None:
    """The usual first mistake: the message names the socket and how to start."""
    result = run("node", CLUSSVC_SOCKET=str(tmp_path / "none.sock"))

    assert 1753 & 0xFF == result.returncode
    assert "none.sock" in result.stderr
    assert "clussvc run" in result.stderr


def test_version_and_unknown_output() -> None:
    """What click does for us."""
    assert run("--version").stdout.startswith("cluster, version ")
    assert 2 == run("group", "--output", "xml").returncode


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    """``cluster ... | head -1`` ends quietly."""
    socket = str(tmp_path / "admin.sock")
    with AdminServer(FakeAccess(), socket):
        command = f"{sys.executable} -m cluster_cli.main --socket {socket} events | head -c 1"
        result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)

    assert "" == result.stderr


def test_from_another_machine(tmp_path: Path) -> None:
    """``cluster NAME ...`` finds the certificate folder, tries the addresses in it, and obeys the role."""
    access = FakeAccess()
    authority = Authority.create(cluster_id=access.config().cluster, cluster_name="DEMO")
    key, request = new_signing_request("NODE1")
    files = {"certificate.pem": authority.sign_node_request(request, node_id=1, node_name="NODE1"), "key.pem": key}
    for name, content in {**files, "ca.pem": authority.pair.certificate}.items():
        (tmp_path / name).write_bytes(content)
    tls = TlsSettings(
        host="127.0.0.1",
        port=0,
        certificate=tmp_path / "certificate.pem",
        key=tmp_path / "key.pem",
        authority=tmp_path / "ca.pem",
    )
    folder = tmp_path / "clussvc" / "DEMO"
    folder.mkdir(parents=True)
    pair = authority.issue_administrator(name="olga", role="operator")
    (folder / "certificate.pem").write_bytes(pair.certificate)
    (folder / "key.pem").write_bytes(pair.key)
    (folder / "ca.pem").write_bytes(authority.pair.certificate)
    with AdminServer(access, tmp_path / "admin.sock", tls) as server:
        # Nobody listens at the first address; port 1 is reserved.
        (folder / "addresses").write_text(f"127.0.0.1:1\n127.0.0.1:{server.tcp_port}\n")
        moved = run("DEMO", "group", "Cluster Group", "/moveto:NODE2", XDG_CONFIG_HOME=str(tmp_path))
        denied = run("DEMO", "group", "X", "/create", "--output", "json", XDG_CONFIG_HOME=str(tmp_path))
        by_address = run(f"127.0.0.1:{server.tcp_port}", "node", XDG_CONFIG_HOME=str(tmp_path))

    assert 0 == moved.returncode, moved.stderr
    assert "NODE2" in moved.stdout
    assert 5 == denied.returncode
    assert "access-denied" == json.loads(denied.stdout)["error"]["code"]
    assert 0 == by_address.returncode, by_address.stderr


def nlb(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``nlb`` with these words."""
    return subprocess.run(
        [sys.executable, "-m", "cluster_cli.nlb_main", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_nlb_from_another_machine(tmp_path: Path) -> None:
    """Remote control by certificate: who may only look cannot stop a host, and a password changes nothing."""
    access = FakeAccess()
    authority = Authority.create(cluster_id=access.config().cluster, cluster_name="DEMO")
    key, request = new_signing_request("NODE1")
    files = {"certificate.pem": authority.sign_node_request(request, node_id=1, node_name="NODE1"), "key.pem": key}
    for name, content in {**files, "ca.pem": authority.pair.certificate}.items():
        (tmp_path / name).write_bytes(content)
    tls = TlsSettings(
        host="127.0.0.1",
        port=0,
        certificate=tmp_path / "certificate.pem",
        key=tmp_path / "key.pem",
        authority=tmp_path / "ca.pem",
    )
    socket = str(tmp_path / "admin.sock")
    with AdminServer(access, socket, tls) as server:
        made = nlb("create", "WEB", "/ip:10.0.0.200", "/mask:24", "/hosts:NODE1,NODE2", CLUSSVC_SOCKET=socket)
        for role in ("read-only", "operator"):
            folder = tmp_path / role
            folder.mkdir()
            pair = authority.issue_administrator(name="olga", role=role)
            (folder / "certificate.pem").write_bytes(pair.certificate)
            (folder / "key.pem").write_bytes(pair.key)
            (folder / "ca.pem").write_bytes(authority.pair.certificate)
        target = f"/cluster:127.0.0.1:{server.tcp_port}"
        looked = nlb("query", "WEB", target, CLUSSVC_CERTS=str(tmp_path / "read-only"))
        denied = nlb("stop", "WEB:2", target, "/PASSW", "secret", CLUSSVC_CERTS=str(tmp_path / "read-only"))
        stopped = nlb("stop", "WEB:2", target, "--output", "json", CLUSSVC_CERTS=str(tmp_path / "operator"))
        edited = nlb("rule", "WEB", "remove", "All 0-65535 Both", target, CLUSSVC_CERTS=str(tmp_path / "operator"))

    assert 0 == made.returncode, made.stderr
    assert 0 == looked.returncode, looked.stderr
    assert 5 == denied.returncode
    assert "operator" in denied.stderr
    assert "secret" not in denied.stdout + denied.stderr
    assert [{"node": "NODE2", "id": 2, "status": 1000}] == json.loads(stopped.stdout)[0]["hosts"]
    assert 5 == edited.returncode
    resource = access.config().resource_named("WEB")
    assert resource is not None
    assert ("NODE1 start", "NODE2 stop") == resource.private["HostStates"]


def test_nothing_heavy_is_loaded(tmp_path: Path) -> None:
    """A status command stays quick because it loads little."""
    socket = str(tmp_path / "admin.sock")
    program = (
        "import sys\n"
        "from cluster_cli.main import execute\n"
        f"assert 0 == execute(('group',), json=False, socket_path={socket!r})\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    with AdminServer(FakeAccess(), socket):
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert "[]" == result.stdout.splitlines()[-1]


def made_node(folder: Path) -> Path:
    """A node that has never been started; its node file."""
    config = folder / "node.toml"
    words = ["create", "--cluster", "T", "--node", "NODE1", "--address", "127.0.0.1", "--quorum", "majority"]
    places = ["--config", str(config), "--data", str(folder / "data"), "--socket", str(folder / "s")]
    subprocess.run(
        [sys.executable, "-m", "clussvc.service.main", *words, *places], check=True, capture_output=True, timeout=60
    )
    return config


def test_a_node_is_given_up(tmp_path: Path) -> None:
    """Without any service; the abbreviation, another node's name, the data for programs, and once more."""
    config = made_node(tmp_path)
    where = {"CLUSSVC_SOCKET": str(tmp_path / "s"), "CLUSSVC_CONFIG": str(config)}
    other = run("node", "NODE2", "/force", **where)
    assert 1 == other.returncode
    assert "this machine is node NODE1" in other.stderr and "cluster node NODE2 /evict" in other.stderr
    assert config.exists()

    done = run("node", "node1", "/force", "/wait:5", **where)
    assert (0, "") == (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert f"Removed {config}" in lines and f"Removed {tmp_path / 'data' / 'keys'}" in lines
    assert "The cluster T had no other node, so it is gone." in lines
    assert "NODE1 is no node any more, and can be made one of any cluster." == lines[-1]

    again = run("--output", "json", "node", "/forcecleanup", **where)
    assert 0 == again.returncode
    assert {"done": ["Nothing of a cluster was found on this machine, and nothing was removed."]} == json.loads(
        again.stdout
    )
    assert made_node(tmp_path).exists()


def test_a_node_whose_service_runs_is_not_given_up(tmp_path: Path) -> None:
    """Whoever holds the data folder is at work with it, whether it answers or not."""
    config = made_node(tmp_path)
    with service_lock(tmp_path / "data"):
        refused = run("node", "/forcecleanup", CLUSSVC_SOCKET=str(tmp_path / "s"), CLUSSVC_CONFIG=str(config))
    assert 1 == refused.returncode
    assert "the cluster service runs on this node" in refused.stderr and "systemctl stop clussvc" in refused.stderr
    assert config.exists()

"""How a machine becomes a node, and what it finds at every start."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from clussvc.comms.token import JoinToken, make_token
from clussvc.model.errors import ClusterError
from clussvc.service.lifecycle import (
    create_cluster,
    join_cluster,
    new_cluster_id,
    next_boot,
    read_birth,
    service_lock,
    write_birth,
)
from clussvc.service.settings_file import NodeFile, read_node_file


@pytest.fixture
def file(tmp_path: Path) -> NodeFile:
    return NodeFile(
        cluster="T",
        cluster_id=new_cluster_id(),
        node="NODE1",
        node_id=1,
        addresses=("127.0.0.1",),
        port=3343,
        admin_port=0,
        data=tmp_path / "data",
        socket=tmp_path / "admin.sock",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.toml"


def test_creating_leaves_everything_a_first_start_needs(path: Path, file: NodeFile) -> None:
    """Keys for their owner alone, a birth certificate with the first update, the node file last."""
    create_cluster(path, file, profile="lan")
    birth = read_birth(file)

    assert read_node_file(path) == file
    assert birth.found is not None
    assert (birth.found.name, birth.found.node_name, birth.joining, birth.log_made) == ("T", "NODE1", False, False)
    assert {entry.name for entry in file.keys.iterdir()} == {
        "ca.pem",
        "ca.key",
        "node.pem",
        "node.key",
        "heartbeat.key",
    }
    assert all(entry.stat().st_mode & 0o777 == 0o600 for entry in file.keys.iterdir())


def test_a_second_cluster_on_the_same_machine_is_refused(path: Path, file: NodeFile) -> None:
    """By creating and by joining, with the name of the first one; nothing is changed."""
    create_cluster(path, file, profile="lan")
    before = path.read_bytes(), (file.keys / "ca.pem").read_bytes()
    token = make_token(
        JoinToken(
            cluster="OTHER",
            contacts=(("127.0.0.1", 1),),
            authority_sha256="",
            id="x",
            secret="y",
            expires_ms=time.time_ns() // 1_000_000 + 60_000,
        )
    )
    for attempt in (
        lambda: create_cluster(path, replace(file, cluster_id=new_cluster_id()), profile="lan"),
        lambda: join_cluster(path, token, file),
    ):
        with pytest.raises(ClusterError, match="'T'") as caught:
            attempt()
        assert caught.value.code == "already-a-node"

    assert (path.read_bytes(), (file.keys / "ca.pem").read_bytes()) == before


def test_an_expired_or_damaged_token_is_refused_before_anything_is_sent(path: Path, file: NodeFile) -> None:
    """The way out is a new token."""
    expired = make_token(
        JoinToken(cluster="O", contacts=(("127.0.0.1", 1),), authority_sha256="", id="x", secret="y", expires_ms=1)
    )
    with pytest.raises(ClusterError, match="expired") as caught:
        join_cluster(path, expired, file)
    assert caught.value.code == "token-refused"
    with pytest.raises(ClusterError, match="copy it again"):
        join_cluster(path, expired[:-7], file)

    assert not path.exists()
    assert not file.data.exists()


def test_an_unknown_profile_makes_nothing(path: Path, file: NodeFile) -> None:
    """The profiles that exist are named."""
    with pytest.raises(ClusterError, match="loopback"):
        create_cluster(path, file, profile="moon")

    assert not file.data.exists()


def test_the_boot_counter_grows_and_never_goes_back(path: Path, file: NodeFile) -> None:
    """From the file, from the configuration when that knows more, and from the clock when both are lost."""
    create_cluster(path, file, profile="lan")
    assert [next_boot(file, 0), next_boot(file, 0), next_boot(file, 40)] == [1, 2, 41]
    (file.data / "boot").write_text("rubbish")
    assert next_boot(file, 50) == 51
    write_birth(file, replace(read_birth(file), log_made=True))
    (file.data / "boot").unlink()

    assert next_boot(file, 0) > 1_700_000_000


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"profile": 1', json.dumps({"profile": "lan", "members": 3})])
def test_a_damaged_birth_certificate_is_named(path: Path, file: NodeFile, content: str) -> None:
    """Empty, truncated, of another shape."""
    create_cluster(path, file, profile="lan")
    (file.data / "birth.json").write_text(content)
    with pytest.raises(ClusterError, match="birth") as caught:
        read_birth(file)

    assert caught.value.code == "birth-damaged"


def test_only_one_service_at_a_time(path: Path, file: NodeFile) -> None:
    """The second one is told so; after the first has ended it may."""
    create_cluster(path, file, profile="lan")
    with service_lock(file.data):
        with pytest.raises(ClusterError) as caught, service_lock(file.data):
            pass
        assert caught.value.code == "already-running"
    with service_lock(file.data):
        pass

"""How a machine becomes a node: creating a cluster, joining one, and what is read at every start.

The data folder of a node:

```
  keys/      ca.pem ca.key node.pem node.key heartbeat.key      (0600)
  birth.json how this node came to be: founder or joiner, with the members of that time
  boot       the boot counter, raised and synced at every start
  log/       journal and snapshot of the replicated log; log-N/ of that of a later generation of the quorum
  cluster.db configuration and event history
  run/       what the resource monitors must clean up
  service.log
  lock       held while the service runs
```
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import select
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clussvc import codec
from clussvc.comms.authority import Authority, KeyPair, NodeIdentity, new_signing_request, signed_by
from clussvc.comms.heartbeats import KEY_BYTES
from clussvc.comms.stream_tcp import ask_to_join
from clussvc.comms.token import parse_token
from clussvc.global_update.apply_quorum import check_quorum
from clussvc.global_update.raft.replicator import decode_snapshot
from clussvc.global_update.update import FoundCluster
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import GroupId
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.settings import find_profile
from clussvc.service.quorum_choice import Wanted, choose
from clussvc.service.settings_file import (
    NodeFile,
    read_node_file,
    refuse_half_cleaned,
    write_node_file,
    write_whole,
)

CLUSTER_GROUP = GroupId("cluster-group")
BEGINNING_NAME = "beginning"
"""The file with which a node began to follow the log on a quorum disk that is not the cluster's first log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """How this node came to be; written once, before the node file."""

    profile: str
    members: dict[int, tuple[str, tuple[str, ...], int]]
    """Name, addresses and port of every member at that time, this node included."""
    joining: bool
    found: FoundCluster | None
    """The first update of the log, on the founder."""
    quorum: Quorum = field(default_factory=Quorum)
    """In whose log this node takes part."""
    log_made: bool = False
    """Set when the journal was made: from then on a missing journal is a loss, not a first start."""


def create_cluster(path: Path, file: NodeFile, *, profile: str, wanted: Wanted | None = None) -> Quorum:
    """Make this machine the first node of a new cluster, and say which quorum was chosen (by default, a majority node
    set). Nothing runs yet.

    Raises ClusterError: ``already-a-node``, ``unknown-profile``, ``write-failed``, and as quorum_choice.choose.
    """
    find_profile(profile)
    _refuse_second_cluster(path, file.data)
    quorum = choose(wanted, file) if wanted is not None else Quorum()
    if bad := check_quorum(quorum):
        raise ClusterError(bad.code, bad.message)
    authority = Authority.create(cluster_id=file.cluster_id, cluster_name=file.cluster)
    key, request = new_signing_request(file.node)
    certificate = authority.sign_node_request(request, node_id=file.node_id, node_name=file.node)
    _write_keys(file, authority.pair, KeyPair(certificate=certificate, key=key), secrets.token_bytes(KEY_BYTES))
    found = FoundCluster(
        name=file.cluster,
        timing_profile=profile,
        node_name=file.node,
        addresses=file.addresses,
        port=file.port,
        admin_port=file.admin_port,
        utc_offset_min=-time.timezone // 60,
        group=CLUSTER_GROUP,
        quorum=quorum if quorum != Quorum() else None,
    )
    members = {file.node_id: (file.node, file.addresses, file.port)}
    write_birth(file, Birth(profile=profile, members=members, joining=False, found=found, quorum=quorum))
    write_node_file(path, file)
    return quorum


def new_cluster_id() -> str:
    """An identifier that no other cluster has."""
    return uuid.uuid4().hex


def join_cluster(path: Path, token_text: str, file: NodeFile) -> NodeFile:
    """Make this machine a node of an existing cluster. ``file``'s cluster and number come from the cluster.

    Raises ClusterError: ``already-a-node``, ``bad-token``, ``token-refused`` and what the cluster answers.
    """
    token = parse_token(token_text)
    _refuse_second_cluster(path, file.data, token.cluster)
    if token.expires_ms < time.time_ns() // 1_000_000:
        raise ClusterError(
            "token-refused",
            "the join token has expired; make a new one with 'cluster /addnodes:NAME' on a member"
            " (if that is not so, compare this machine's clock with the cluster's)",
        )
    key, request = new_signing_request(file.node)
    question = {
        "token": token.id,
        "secret": token.secret,
        "node": file.node,
        "addresses": list(file.addresses),
        "port": file.port,
        "admin_port": file.admin_port,
        "request": request.decode(),
    }
    admitted_by: list[NodeIdentity] = []
    answer, authority = ask_to_join(
        token.contacts,
        authority_sha256=token.authority_sha256,
        check_member=admitted_by.append,
        request=json.dumps(question).encode(),
    )
    reply = _read_reply(answer)
    joined = _as_joined(file, reply, authority, admitted_by[-1].cluster_id)
    node_pair = KeyPair(certificate=reply["certificate"].encode(), key=key)
    _write_keys(
        joined,
        KeyPair(certificate=authority, key=reply["authority_key"].encode()),
        node_pair,
        bytes.fromhex(reply["heartbeat_key"]),
    )
    members = {int(n): (m[0], tuple(m[1]), int(m[2])) for n, m in reply["members"].items()}
    quorum = read_quorum(reply.get("quorum"))
    write_birth(joined, Birth(profile=reply["profile"], members=members, joining=True, found=None, quorum=quorum))
    write_node_file(path, joined)
    return joined


def _read_reply(answer: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(answer)
    except ValueError as error:
        raise ClusterError("join-failed", "the member's answer cannot be read", remote=True) from error
    if not isinstance(reply, dict):
        raise ClusterError("join-failed", "the member's answer cannot be read", remote=True)
    if "error" in reply:
        raise ClusterError(str(reply.get("code", "join-refused")), str(reply["error"]), remote=True)
    return reply


def _as_joined(file: NodeFile, reply: dict[str, Any], authority: bytes, cluster_id: str) -> NodeFile:
    if not signed_by(reply["certificate"].encode(), authority):
        raise ClusterError("join-failed", "the certificate in the answer is not the authority's", remote=True)
    return NodeFile(
        cluster=reply["cluster"],
        cluster_id=cluster_id,
        node=file.node,
        node_id=int(reply["node_id"]),
        addresses=file.addresses,
        port=file.port,
        admin_port=file.admin_port,
        data=file.data,
        socket=file.socket,
        parallel_starts=file.parallel_starts,
        self_fence=file.self_fence,
    )


def _refuse_second_cluster(path: Path, data: Path, wanted: str = "") -> None:
    refuse_half_cleaned(path)
    for sign in (path, data / "birth.json"):
        if sign.exists():
            name = ""
            with contextlib.suppress(ClusterError, OSError, ValueError):
                name = f" {read_node_file(path).cluster!r}"
            target = f" {wanted!r}" if wanted else ""
            raise ClusterError(
                "already-a-node",
                f"this machine already is a node of the cluster{name} ({sign} exists), so it cannot be made a node of"
                f" a cluster{target} now; 'cluster node /stop' and then 'cluster node /forcecleanup' give it up",
            )


def _write_keys(file: NodeFile, authority: KeyPair, node: KeyPair, heartbeat_key: bytes) -> None:
    file.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.keys.mkdir(exist_ok=True, mode=0o700)
    for name, content in (
        ("ca.pem", authority.certificate),
        ("ca.key", authority.key),
        ("node.pem", node.certificate),
        ("node.key", node.key),
        ("heartbeat.key", heartbeat_key),
    ):
        write_whole(file.keys / name, content, mode=0o600)


# --- birth certificate and boot counter ---------------------------------------------------------------------------


def write_birth(file: NodeFile, birth: Birth) -> None:
    """Write birth.json."""
    found = birth.found
    content = {
        "profile": birth.profile,
        "members": {str(n): member for n, member in birth.members.items()},
        "joining": birth.joining,
        "log_made": birth.log_made,
        "quorum": written_quorum(birth.quorum),
        "found": None
        if found is None
        else {
            "name": found.name,
            "timing_profile": found.timing_profile,
            "node_name": found.node_name,
            "addresses": found.addresses,
            "port": found.port,
            "admin_port": found.admin_port,
            "utc_offset_min": found.utc_offset_min,
            "group": found.group,
            "quorum": written_quorum(found.quorum) if found.quorum else None,
        },
    }
    write_whole(file.data / "birth.json", json.dumps(content, indent=2).encode(), mode=0o600)


def read_birth(file: NodeFile) -> Birth:
    """Read birth.json.

    Raises ClusterError(``birth-damaged``).
    """
    path = file.data / "birth.json"
    try:
        content = json.loads(path.read_bytes())
        found = content["found"]
        return Birth(
            profile=content["profile"],
            members={int(n): (m[0], tuple(m[1]), int(m[2])) for n, m in content["members"].items()},
            joining=content["joining"],
            log_made=content["log_made"],
            quorum=read_quorum(content.get("quorum")),
            found=_read_found(found) if found else None,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ClusterError(
            "birth-damaged",
            f"{path} is missing or damaged ({error}); restore it from a backup, or have the node evicted on another one"
            f" ('cluster node {file.node} /evict'), clean it up ('cluster node /forcecleanup'), and join again",
        ) from error


def _read_found(found: dict[str, Any]) -> FoundCluster:
    quorum = read_quorum(found["quorum"]) if found.get("quorum") else None
    return FoundCluster(**{**found, "addresses": tuple(found["addresses"]), "quorum": quorum})


def written_quorum(quorum: Quorum) -> dict[str, Any]:
    """A quorum as JSON has it."""
    return {**asdict(quorum), "kind": quorum.kind.value}


def read_quorum(content: dict[str, Any] | None) -> Quorum:
    """The inverse of written_quorum; before there was a choice every cluster was a majority node set.

    Raises ValueError or TypeError for anything else.
    """
    return Quorum(**{**content, "kind": QuorumKind(content["kind"])}) if content else Quorum()


def read_beginning(file: NodeFile, quorum: Quorum) -> tuple[int, Config] | None:
    """With what this node began to follow the log on this quorum disk; None if it is not there, or the log keeps all.

    Raises ClusterError(``snapshot-damaged``, ``snapshot-foreign``).
    """
    path = file.log_folder(quorum.generation) / BEGINNING_NAME
    if not quorum.on_disk or not path.exists():
        return None
    snapshot = decode_snapshot(path.read_bytes(), cluster_id=file.cluster_id, source=path)
    return snapshot.applied, codec.decode_config(snapshot.image)


def next_boot(file: NodeFile, at_least: int) -> int:
    """Raise and sync the boot counter; greater than ``at_least``, which comes from the configuration.

    Heartbeats of an earlier boot are refused as replays, so this must never go back. A counter that was lost is made
    good by what the cluster remembers.
    """
    path = file.data / "boot"
    try:
        last = int(path.read_text())
    except (OSError, ValueError):
        last = 0
    # When both are lost, the seconds since 1970 are greater than any counter that began at 1.
    floor = max(last, at_least) or (int(time.time()) if read_birth(file).log_made else 0)
    write_whole(path, str(floor + 1).encode(), mode=0o600)
    return floor + 1


# --- one service at a time ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def service_lock(data: Path) -> Iterator[None]:
    """Hold the data folder; a second service is refused.

    Raises ClusterError(``already-running``).
    """
    path = data / "lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ClusterError(
                "already-running", f"a cluster service already runs with {data}; stop it first"
            ) from None
        yield
    finally:
        os.close(handle)


def end_monitors_of_earlier_life(run: Path) -> int:
    """Kill monitors that an earlier service left behind, and say how many; the lock proves that it is gone.

    They terminate their resources on their own when the service goes; one that is still at it, or hangs, would share
    its folder with the new one, which cleans up whatever is left.
    """
    return sum(_kill(pid) for pid in earlier_monitors(run))


def earlier_monitors(run: Path) -> list[int]:
    """The processes of monitors with this run folder."""
    found = []
    mark = f"CLUSSVC_RUN={run.resolve()}/".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_monitor = any(v.startswith(mark) for v in variables) and not any(
            v.startswith(b"CLUSSVC_RESOURCE=") for v in variables
        )
        if is_monitor and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def _kill(pid: int) -> int:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return 0
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], 5.0)
        return 1
    except OSError:
        return 0
    finally:
        os.close(handle)

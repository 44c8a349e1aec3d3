"""An administration server with both listeners, and certificates of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clussvc.admin.client import ClusterClient, connect
from clussvc.admin.server import AdminServer, TlsSettings
from clussvc.comms.authority import Authority, new_signing_request
from tests.cli.fake_access import FakeAccess


@dataclass(frozen=True)
class Place:
    """Where a test finds everything."""

    access: FakeAccess
    server: AdminServer
    socket: str
    folder: Path
    authority: Authority

    @property
    def target(self) -> str:
        """The address of the TLS port."""
        return f"127.0.0.1:{self.server.tcp_port}"

    def administrator(self, role: str, authority: Authority | None = None) -> Path:
        """A certificate folder for that role; signed by the cluster's authority if none is given."""
        pair = (authority or self.authority).issue_administrator(name="ann", role=role)
        return write_folder(self.folder / f"admin-{role}-{id(authority)}", pair.certificate, pair.key, self.authority)

    def node(self) -> Path:
        """A certificate folder with the identity of a node."""
        key, request = new_signing_request("NODE2")
        certificate = self.authority.sign_node_request(request, node_id=2, node_name="NODE2")
        return write_folder(self.folder / "node-2", certificate, key, self.authority)


def write_folder(folder: Path, certificate: bytes, key: bytes, authority: Authority) -> Path:
    """The files that a client looks for."""
    folder.mkdir(exist_ok=True)
    (folder / "certificate.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(key)
    (folder / "ca.pem").write_bytes(authority.pair.certificate)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    access = FakeAccess()
    authority = Authority.create(cluster_id=access.config().cluster, cluster_name="DEMO")
    key, request = new_signing_request("NODE1")
    certificate = authority.sign_node_request(request, node_id=1, node_name="NODE1")
    files = write_folder(tmp_path / "node-1", certificate, key, authority)
    tls = TlsSettings(
        host="127.0.0.1",
        port=0,
        certificate=files / "certificate.pem",
        key=files / "key.pem",
        authority=files / "ca.pem",
    )
    path = tmp_path / "admin.sock"
    with AdminServer(access, path, tls) as server:
        yield Place(access=access, server=server, socket=str(path), folder=tmp_path, authority=authority)


@pytest.fixture
def local(place: Place) -> Iterator[ClusterClient]:
    with connect(socket_path=place.socket) as client:
        yield client


@pytest.fixture
def remote(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], ClusterClient]]:
    """Connects through TLS with the certificate of a folder."""
    clients: list[ClusterClient] = []

    def open_with(folder: Path) -> ClusterClient:
        monkeypatch.setenv("CLUSSVC_CERTS", str(folder))
        clients.append(connect(place.target))
        return clients[-1]

    yield open_with
    for client in clients:
        client.close()

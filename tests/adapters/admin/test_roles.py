"""Who may do what, at the objects and through both listeners."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clussvc.admin.client import ClusterClient, CommandRefused, connect
from clussvc.admin.objects import SERVANTS, make_servants
from clussvc.admin.roles import Caller, Role, caller_by_certificate, caller_by_uid, find_role, operators_gid
from clussvc.admin.server import AdminServer
from clussvc.admin.wire import OBJECT_NAMES
from clussvc.comms.authority import Authority
from clussvc.model.errors import ClusterError
from tests.adapters.admin.conftest import Place
from tests.cli.fake_access import FakeAccess

Remote = Callable[[Path], ClusterClient]


def exposed() -> list[tuple[str, str]]:
    """All methods that a client can reach, by what Pyro5 itself would expose."""
    return [
        (name, method)
        for name, kind in SERVANTS.items()
        for method in dir(kind)
        if getattr(getattr(kind, method), "_pyroExposed", False)
    ]


def test_every_exposed_method_declares_a_role() -> None:
    """A method without a role would be open to everybody."""
    assert len(exposed()) > 50
    assert [] == [
        each for each in exposed() if not isinstance(getattr(getattr(SERVANTS[each[0]], each[1]), "_role", None), Role)
    ]


def test_all_objects_are_served() -> None:
    """The names that clients use are those that are registered."""
    assert set(OBJECT_NAMES) == set(SERVANTS)


@pytest.mark.parametrize(("name", "method"), exposed())
def test_a_caller_without_a_role_gets_nothing(name: str, method: str) -> None:
    """Neither a look nor a change."""
    servants = make_servants(FakeAccess(), Caller(who="mallory", role=None))

    answer = getattr(servants[name], method)("some-request-id", "x")

    assert "access-denied" == answer["report"]["code"]
    assert "mallory" in answer["report"]["message"]


@pytest.mark.parametrize(("name", "method"), exposed())
def test_each_role_ends_where_the_next_begins(name: str, method: str) -> None:
    """A method is refused for the role below its own."""
    needed: Role = getattr(SERVANTS[name], method)._role
    if needed is Role.READ_ONLY:
        return
    servants = make_servants(FakeAccess(), Caller(who="olga", role=Role(needed - 1)))

    answer = getattr(servants[name], method)("some-request-id", "x")

    assert "access-denied" == answer["report"]["code"]
    assert needed.word in answer["report"]["message"]


def test_operators_move_and_pause_but_do_not_configure() -> None:
    """What the operator role is for."""
    of_operators = {each for each in exposed() if getattr(SERVANTS[each[0]], each[1])._role is Role.OPERATOR}

    assert of_operators == {
        ("Cluster", "change_many"),  # Each change of the list needs its own role besides.
        ("Node", "pause"),
        ("Node", "resume"),
        ("Group", "move"),
        ("Group", "online"),
        ("Group", "offline"),
        ("Resource", "online"),
        ("Resource", "offline"),
        ("Fence", "test"),
        ("Nlb", "control"),
    }


def test_uids() -> None:
    """Root and the service's own user administer; a stranger does nothing."""
    assert caller_by_uid(0, 0).role is Role.ADMINISTRATOR
    assert caller_by_uid(os.geteuid(), os.getegid()).role is Role.ADMINISTRATOR
    if operators_gid() is None:
        assert caller_by_uid(4_000_000, 4_000_000).role is None
        assert "uid 4000000" == caller_by_uid(4_000_000, 4_000_000).who


@pytest.mark.parametrize(
    ("uri", "role"),
    [
        ("clussvc://c1/admin/read-only/ann", Role.READ_ONLY),
        ("clussvc://c1/admin/operator/ann", Role.OPERATOR),
        ("clussvc://c1/admin/administrator/ann%20lee", Role.ADMINISTRATOR),
        ("clussvc://c1/admin/emperor/ann", None),
        ("clussvc://c2/admin/administrator/ann", None),
        ("clussvc://c1/node/2", None),
        ("clussvc://c1/admin/administrator/ann/more", None),
        ("https://c1/admin/administrator/ann", None),
    ],
)
def test_certificates(uri: str, role: Role | None) -> None:
    """Only an administrator's URI of this very cluster gives a role."""
    caller = caller_by_certificate({"subjectAltName": (("URI", uri),)}, "c1")

    assert role == caller.role
    if role is Role.ADMINISTRATOR:
        assert "ann lee" == caller.who


def test_a_certificate_without_names_gives_nothing() -> None:
    """As does none at all."""
    assert caller_by_certificate({}, "c1").role is None
    assert caller_by_certificate(None, "c1").role is None
    assert find_role("READ-ONLY") is Role.READ_ONLY


def test_an_administrator_from_elsewhere(place: Place, remote: Remote) -> None:
    """The whole way: TLS, certificate, role, change."""
    client = remote(place.administrator("administrator"))

    client.change("Group", "create", "SQL")

    assert place.access.config().group_named("SQL") is not None


def test_a_reader_from_elsewhere_cannot_change(place: Place, remote: Remote) -> None:
    """Reads work, the change is refused with the role it would need, nothing was proposed."""
    client = remote(place.administrator("read-only"))
    before = len(place.access.executed)

    assert 3 == len(client.call("Node", "status"))
    with pytest.raises(CommandRefused, match="operator") as refused:
        client.change("Group", "online", "Cluster Group")

    assert "access-denied" == refused.value.report.code
    assert 5 == refused.value.report.status
    assert before == len(place.access.executed)


def test_a_node_certificate_does_not_administer(place: Place, remote: Remote) -> None:
    """A stolen node key is not an administrator's."""
    client = remote(place.node())
    with pytest.raises(CommandRefused, match="node/2") as refused:
        client.call("Cluster", "status")
    assert "access-denied" == refused.value.report.code


def test_a_certificate_of_another_authority_is_refused(place: Place, remote: Remote) -> None:
    """Even if it names the same cluster."""
    stranger = Authority.create(cluster_id=place.access.config().cluster, cluster_name="DEMO")

    with pytest.raises(ClusterError, match="certificate"):
        remote(place.administrator("administrator", stranger)).call("Cluster", "status")


def test_a_server_of_another_authority_is_not_believed(place: Place, remote: Remote) -> None:
    """The client checks the node as the node checks the client."""
    folder = place.administrator("administrator")
    stranger = Authority.create(cluster_id="other", cluster_name="OTHER")
    (folder / "ca.pem").write_bytes(stranger.pair.certificate)

    with pytest.raises(ClusterError, match="did not prove"):
        remote(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_on_the_socket() -> None:
    """The file keeps strangers out; were it open, the kernel's word on who calls would."""
    program = (
        "import os, sys, Pyro5.client, clussvc.admin.roles\n"
        "from clussvc.admin.client import connect\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    print(connect(socket_path=sys.argv[1]).call('Cluster', 'status'))\n"
        "except Exception as problem:\n"
        "    print(type(problem).__name__, problem)\n"
    )

    def as_nobody(path: Path) -> str:
        command = [sys.executable, "-c", program, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "admin.sock"
        with AdminServer(FakeAccess(), path):
            assert as_nobody(path).startswith("ClusterError You may not use")
            path.chmod(0o666)
            said = as_nobody(path)

    assert said.startswith("CommandRefused"), said
    assert "may not do this" in said


def test_a_second_server_leaves_the_first_alone(place: Place) -> None:
    """A live socket is not taken over."""
    with pytest.raises(ClusterError, match="already answers"):
        AdminServer(place.access, place.socket).start()

    with connect(socket_path=place.socket) as client:
        assert "DEMO" == client.call("Cluster", "status")["name"]

"""Answers that are up to date for certain, changes that depend on what was read, and comparing two nodes."""

from __future__ import annotations

import socket
import tempfile
import threading
from pathlib import Path

import pytest

from clussvc.admin.client import ClusterClient, CommandRefused, connect
from clussvc.codec import config_digest
from clussvc.global_update.update import Batch, SetGroupProperties, Update
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import RequestId
from clussvc.model.reports import Report
from tests.adapters.admin.conftest import Place
from tests.cli.fake_access import FakeAccess


class Behind(FakeAccess):
    """A node that has applied the log only as far as it had to: up to the last proposal of its own."""

    def __init__(self) -> None:
        self._applied: Config | None = None
        super().__init__()
        self._applied = super().config()

    def config(self) -> Config:
        return self._applied or super().config()

    def elsewhere(self, update: Update) -> None:
        """Another node proposes something."""
        assert super().execute(update) is None

    def execute(self, update: Update, *, request: RequestId | None = None, timeout_ms: int = 10_000) -> Report | None:
        refusal = super().execute(update, request=request, timeout_ms=timeout_ms)
        if self.quorum:
            self._applied = super().config()
        return refusal


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Behind:
    access = Behind()
    monkeypatch.setattr("tests.adapters.admin.conftest.FakeAccess", lambda: access)
    return access


def described(client: ClusterClient, *, fresh: bool) -> str:
    lines = client.call("Group", "properties", "Cluster Group", fresh=fresh)
    return str(next(line["value"] for line in lines if line["name"] == "Description"))


def set_description(access: FakeAccess, text: str) -> Update:
    group = access.config().group_named("Cluster Group")
    assert group is not None
    return SetGroupProperties(group=group.id, common={"Description": text})


def test_a_fresh_answer_has_what_another_node_was_told(behind: Behind, local: ClusterClient) -> None:
    """A plain one may not have it yet."""
    behind.elsewhere(set_description(behind, "new"))

    assert "" == described(local, fresh=False)
    assert "new" == described(local, fresh=True)


def test_a_fresh_answer_changes_nothing(place: Place, local: ClusterClient) -> None:
    """Its place in the log is an update without content."""
    before = [entry.record for entry in place.access.history(after=0, limit=10_000)]
    nodes, groups = place.access.config().nodes, place.access.config().groups
    described(local, fresh=True)

    assert before == [entry.record for entry in place.access.history(after=0, limit=10_000)]
    assert (nodes, groups) == (place.access.config().nodes, place.access.config().groups)


def test_without_quorum_there_is_no_fresh_answer(place: Place, local: ClusterClient) -> None:
    """It is refused like a change; what is known may still be asked for."""
    place.access.quorum = False
    with pytest.raises(CommandRefused) as refused:
        described(local, fresh=True)

    assert "no-quorum" == refused.value.report.code
    assert "" == described(local, fresh=False)


def test_every_question_can_be_asked_freshly(place: Place, local: ClusterClient) -> None:
    """And a change cannot: it has its place in the log anyway."""
    questions = [("Cluster", "status"), ("Node", "status"), ("Resource", "status"), ("Network", "status")]
    before = len(place.access.executed)
    for object_, method in questions:
        local.call(object_, method, fresh=True)
    assert [Batch(updates=())] * len(questions) == [update for update, _ in place.access.executed[before:]]
    with pytest.raises(CommandRefused) as refused:
        local.call("Group", "create", "request-1", "NEW", fresh=True)
    assert "bad-argument" == refused.value.report.code


def test_a_change_can_depend_on_common_properties(place: Place, local: ClusterClient) -> None:
    """As MSCS has no such thing, the refusal has a code of its own."""
    group, new = "Cluster Group", [{"name": "Description", "text": "new"}]
    local.change("Group", "set_properties", group, new, [], expected_default=["description"])
    with pytest.raises(CommandRefused) as refused:
        local.change("Group", "set_properties", group, new, [], expected_default=["description"])
    assert "property-changed" == refused.value.report.code
    expected = [{"name": "Description", "text": "new"}, {"name": "FailoverThreshold", "text": "0xa"}]
    local.change("Group", "set_properties", group, [], ["Description"], expected=expected)

    assert "" == described(local, fresh=False)


def test_a_change_can_depend_on_private_properties(place: Place, local: ClusterClient) -> None:
    """Kinds follow from what is there, as when setting them."""
    group = "Cluster Group"
    count = {"name": "Count", "text": "1", "format": "dword"}
    local.change("Group", "set_private", group, [count], [], expected_absent=["Count"])
    two = [{"name": "count", "text": "2"}]
    local.change("Group", "set_private", group, two, [], expected=[{"name": "COUNT", "text": "1"}])
    with pytest.raises(CommandRefused) as refused:
        local.change("Group", "set_private", group, two, [], expected_absent=["Count"])

    assert "property-changed" == refused.value.report.code
    assert [2] == [line["value"] for line in local.call("Group", "private", group)]


def test_a_fingerprint_tells_configurations_apart(place: Place, local: ClusterClient) -> None:
    """Equal for equal ones, and different after a change."""
    before = local.call("Cluster", "fingerprint")
    assert {"index": place.access.view().index, "sha256": config_digest(place.access.config())} == before
    local.change("Group", "create", "NEW")

    assert before["sha256"] != local.call("Cluster", "fingerprint")["sha256"]


def test_a_caller_can_give_up_sooner() -> None:
    """A service that does not answer, for who would rather ask another node."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        path = str(Path(folder, "s"))
        listening.bind(path)
        listening.listen()
        problems: list[ClusterError] = []

        def ask() -> None:
            try:
                connect(socket_path=path, call_timeout_s=0.2).close()
            except ClusterError as problem:
                problems.append(problem)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(20)
        assert not asking.is_alive(), "the caller still waits"

    assert ["cannot-connect"] == [problem.code for problem in problems]

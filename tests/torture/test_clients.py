"""What a client writes down follows from everything that it was told, not only from the last answer."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clussvc.admin.server import AdminServer
from clussvc.model import reports
from clussvc.model.ids import RequestId
from clussvc.model.reports import Report
from tests.cli.fake_access import FakeAccess
from tests.torture import clients
from tests.torture.clients import SEGMENT_ENTRIES, Client, list_key, segment_name
from tests.torture.history import Kind, Operation, Outcome, read_history, write_history
from tests.torture.registers import check_register

GROUP = "Cluster Group"
UNKNOWN = reports.outcome_unknown("no majority")
NO_QUORUM = reports.no_quorum("NODE1", "1 of 2 votes")


class Scripted(FakeAccess):
    """Answers the next changes as it was told to; None: as the cluster decides."""

    def __init__(self) -> None:
        self.answers: list[Report | None] = []
        self.requests: list[RequestId | None] = []
        super().__init__()

    def execute(self, update: object, *, request: RequestId | None = None, timeout_ms: int = 10_000) -> Report | None:
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else None
        return answer or super().execute(update, request=request, timeout_ms=timeout_ms)  # type: ignore[arg-type]


@pytest.fixture
def access() -> Scripted:
    return Scripted()


@pytest.fixture
def client(access: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of two nodes, of which one answers."""
    monkeypatch.setattr(clients, "PAUSE_S", 0.01)
    path = tmp_path / "a.sock"
    with AdminServer(access, path):
        client = Client(
            1,
            groups=[GROUP],
            run="a-long-run",
            sockets={"NODE1": str(path), "NODE2": str(tmp_path / "nothing.sock")},
            chance=random.Random(1),
            numbers=itertools.count(1),
            stop=threading.Event(),
        )
        yield client
        client.close()


def last(client: Client) -> Operation:
    return client.history[-1]


def test_a_change_is_sent_again_under_its_request_id(client: Client, access: Scripted) -> None:
    access.answers = [UNKNOWN, UNKNOWN]
    client.write(GROUP)
    assert Outcome.ACKNOWLEDGED is last(client).outcome
    assert 1 == len(set(access.requests))
    assert 3 == len(access.requests)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([UNKNOWN, NO_QUORUM], Outcome.UNKNOWN),
        ([NO_QUORUM, UNKNOWN], Outcome.UNKNOWN),
        ([NO_QUORUM, NO_QUORUM], Outcome.FAILED),
    ],
)
def test_what_may_have_been_done_stays_unknown(
    client: Client, access: Scripted, monkeypatch: pytest.MonkeyPatch, answers: list[Report], outcome: Outcome
) -> None:
    """Whatever comes after it, short of a decision."""
    monkeypatch.setattr(clients, "PATIENCE_S", 0.3)
    access.answers = [*answers, *[NO_QUORUM] * 10_000]
    client.write(GROUP)
    assert outcome is last(client).outcome
    assert [] == client.strange


def test_a_read_is_never_unknown(client: Client, access: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "PATIENCE_S", 0.3)
    access.answers = [UNKNOWN] * 10_000
    assert None is client.read_register(GROUP)
    assert Outcome.FAILED is last(client).outcome


def test_answers_that_no_fault_explains_are_noted(
    client: Client, access: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "PATIENCE_S", 0.1)
    access.answers = [reports.group_not_found("X")]
    client.write(GROUP)
    assert "group-not-found" in client.strange[0]


def test_a_refused_expectation_is_a_decision(client: Client) -> None:
    client.read_register(GROUP)
    client._seen[GROUP] = "never there"
    client._chance.random = lambda: 1.0  # type: ignore[method-assign]
    client.swap(GROUP)
    assert (Kind.SWAP, Outcome.DIFFERENT) == (last(client).kind, last(client).outcome)


def test_lists_go_on_in_the_next_property(client: Client) -> None:
    for _ in range(SEGMENT_ENTRIES + 2):
        client.append(GROUP)
    keys = [one.key for one in client.history if one.kind is Kind.APPEND]
    assert {list_key(GROUP, segment_name(0)), list_key(GROUP, segment_name(1))} == set(keys)
    assert SEGMENT_ENTRIES == keys.count(list_key(GROUP, segment_name(0)))


def test_what_is_written_down_is_a_history(client: Client, tmp_path: Path) -> None:
    """It can be kept, read again, and judged."""
    for _ in range(30):
        client.turn()
    write_history(tmp_path / "h", client.history)
    again = list(read_history(tmp_path / "h"))
    assert client.history == again
    of_register = [one for one in again if one.key == GROUP]
    assert check_register(GROUP, of_register, initial="").linearizable

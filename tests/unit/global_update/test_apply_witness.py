"""What the log knows of the witness: chosen, opened, closed, and a vote that it has dropped."""

from __future__ import annotations

import pytest

from clussvc.global_update.update import (
    CloseWitness,
    DropVote,
    OpenWitness,
    SetClusterProperties,
    SetQuorum,
    SetVoter,
    SetWitness,
)
from clussvc.model.config import Config
from clussvc.model.ids import NodeId
from clussvc.model.quorum import QuorumKind
from clussvc.model.reports import Report
from tests.unit.global_update.world import World, three_nodes

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
CHOICE = SetWitness(path="/mnt/witness", token="0" * 16)


def now(world: World) -> Config:
    assert world.config is not None
    return world.config


@pytest.fixture
def two() -> World:
    """Three nodes of which two vote, and a witness."""
    world = three_nodes()
    return world.do(SetVoter(node=N3, voter=False, voters_version=now(world).voters_version), CHOICE)


def opened(world: World) -> World:
    return world.do(OpenWitness(voters_version=now(world).voters_version))


def refused(world: World, update: object) -> str:
    before = now(world)
    refusal = world.send(update).refusal  # type: ignore[arg-type]
    assert isinstance(refusal, Report)
    assert (now(world).voters, now(world).voters_version) == (before.voters, before.voters_version)
    return refusal.code


def test_a_witness_is_chosen_closed(two: World) -> None:
    """Every choice is another version of the voters, so that nobody counts by what a former witness decided."""
    version = now(two).voters_version
    assert now(two).witness.path == "/mnt/witness"
    assert not now(two).witness_open
    opened(two)
    assert now(two).witness_open
    two.do(SetWitness(path="/mnt/other", token="1" * 16))
    assert (now(two).witness_open, now(two).voters_version) == (False, version + 1)
    opened(two).do(SetWitness(path="", token=""))
    assert (now(two).witness.chosen, now(two).voters_version) == (False, version + 2)


@pytest.mark.parametrize(
    ("path", "token"), [("mnt", "0" * 16), ("/mnt", "zz"), ("/mnt", ""), ("/" + "x" * 1_024, "0" * 16)]
)
def test_a_choice_that_makes_no_sense_is_refused(two: World, path: str, token: str) -> None:
    assert refused(two, SetWitness(path=path, token=token)) == "bad-argument"


def test_it_is_opened_for_an_even_number_of_the_present_voters_only(two: World) -> None:
    version = now(two).voters_version
    assert refused(two, OpenWitness(voters_version=version - 1)) == "voters-changed"
    world = three_nodes().do(CHOICE)
    assert refused(world, OpenWitness(voters_version=now(world).voters_version)) == "stale"


def test_while_it_is_open_votes_change_by_its_decision_only(two: World) -> None:
    version = now(opened(two)).voters_version
    for change in (
        SetVoter(node=N3, voter=True, voters_version=version),
        SetVoter(node=N2, voter=False, voters_version=version),
        DropVote(node=N2, voters_version=version - 1),
        DropVote(node=N3, voters_version=version),
    ):
        assert refused(two, change) in ("stale", "voters-changed")
    two.do(DropVote(node=N2, voters_version=version))
    assert (now(two).voters, now(two).voters_version, now(two).witness_open) == (frozenset({N1}), version + 1, False)
    assert refused(two, DropVote(node=N1, voters_version=version + 1)) == "stale"


def test_closing_makes_another_version_of_the_same_voters(two: World) -> None:
    version = now(opened(two)).voters_version
    two.do(CloseWitness(voters_version=version))
    assert (now(two).voters, now(two).voters_version, now(two).witness_open) == (
        frozenset({N1, N2}),
        version + 1,
        False,
    )
    assert refused(two, CloseWitness(voters_version=version + 1)) == "stale"
    two.do(SetVoter(node=N3, voter=True, voters_version=version + 1))


def test_another_timing_closes_it(two: World) -> None:
    opened(two).do(SetClusterProperties(common={"TimingProfile": "wan"}))
    assert not now(two).witness_open


def test_a_majority_with_a_witness_becomes_nothing_else(two: World) -> None:
    assert refused(two, SetQuorum(kind=QuorumKind.LOCAL, max_log_kb=0)) == "quorum-change-refused"

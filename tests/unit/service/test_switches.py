"""The switches of a start."""

from __future__ import annotations

import pytest

from clussvc.model.errors import ClusterError
from clussvc.service.switches import Switches, spelled_out


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("run /fixquorum", "run --fixquorum"),
        ("run -FQ", "run --fixquorum"),
        ("run /rq --config /etc/x.toml", "run --resetquorumlog --config /etc/x.toml"),
        ("run --config /fq.toml", "run --config /fq.toml"),
        ("run /debug /loglevel:2", "run --debug --loglevel 2"),
        ("run /nq", "run --noquorumlogging"),
        ("run /NoQuorumLogging --config x", "run --noquorumlogging --config x"),
        ("run /forcequorum:NODE1,NODE2", "run --forcequorum NODE1,NODE2"),
        ("run -fo:node1", "run --forcequorum node1"),
        ("run -NoRepEvtLogging", "run --norepevtlogging"),
        ("run --loglevel 3 /ng", "run --loglevel 3 --nogroupinfoevtlogging"),
    ],
)
def test_the_forms_of_the_original_are_understood(words: str, meant: str) -> None:
    assert spelled_out(words.split()) == meant.split()


def test_a_switch_that_changes_nothing_is_accepted_and_says_so() -> None:
    assert Switches(nogroupinfoevtlogging=True).without_effect == ()
    [why] = Switches(norepevtlogging=True).without_effect
    assert why.startswith("/norepevtlogging changes nothing: ")


@pytest.mark.parametrize("quiet", [{"fixquorum": True}, {"noquorumlogging": True}])
@pytest.mark.parametrize("loud", [{"resetquorumlog": True}, {"forcequorum": ("NODE1",)}])
def test_who_takes_no_part_changes_nothing(quiet: dict[str, bool], loud: dict[str, object]) -> None:
    with pytest.raises(ClusterError, match=r"changes nothing, and /\w+ does; give one of the two"):
        Switches(**quiet, **loud).validate()  # type: ignore[arg-type]
    Switches(**quiet).validate()  # type: ignore[arg-type]
    Switches(**loud).validate()  # type: ignore[arg-type]

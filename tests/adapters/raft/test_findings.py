"""Every finding about the stock library has its pair of tests: one shows the harm, one that ours keeps the promise.

The library is safe for us only in the exact release that these tests were written for, and only behind our seams; they
are to be run again, and read again, before another release is admitted.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

import pytest
from pysyncobj.version import VERSION

from clussvc.global_update.raft.library import LIBRARY_VERSION

MODULES = ("replication", "journal", "leadership", "calls", "security")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with the library; the tests are ``test_STEM_stock_library_fails`` and ``test_STEM_ours``."""

    number: str
    sentence: str
    module: str
    stem: str


FINDINGS = tuple(
    Finding(number=number, module=module, stem=stem, sentence=sentence)
    for number, module, stem, sentence in (
        ("S1", "replication", "s1", "acknowledges what no majority holds when a piece of a snapshot arrives"),
        ("S2", "replication", "s2", "discards the whole journal after a crash between snapshot and trim"),
        ("S3", "replication", "s3", "cuts off entries that match when an append is sent again"),
        ("S4", "journal", "s4", "loses the journal when it is killed inside a trim"),
        ("S5", "journal", "s5", "syncs nothing, so acknowledged writes do not survive a loss of power"),
        ("S6", "journal", "s6", "opens a damaged journal in silence, or ends without saying which and what to do"),
        ("S7", "journal", "s7", "accepts a journal without a dump, and loses the state after a compaction"),
        ("S7", "journal", "s7_a_damaged_dump", "starts, and leads, with an empty state when its dump is damaged"),
        ("S8", "leadership", "s8", "changes two members at once"),
        ("S8", "leadership", "s8_own_removal", "cannot remove the leader, and does not say how it is done"),
        ("S9", "replication", "s9", "counts an answer to an earlier leadership"),
        ("S10", "calls", "s10", "completes a command with the answer to another process's"),
        ("S11", "leadership", "s11", "counts one voter twice"),
        ("S12", "replication", "s12", "floods a lagging peer while a snapshot is written"),
        ("S13", "leadership", "s13", "goes back to the members of its command line at a restart, and splits"),
        ("leadership", "leadership", "one_cut_link", "lets two nodes claim to lead when one link is cut"),
        ("leadership", "leadership", "isolated_leader", "lets an isolated leader claim to lead for half a minute"),
        ("leadership", "leadership", "no_pre_vote", "deposes a leader that works for a node that was cut off"),
        ("apply path", "calls", "callback_exception", "applies a command again when a callback raises"),
        ("apply path", "calls", "apply_exception", "tries a command that raises again, for ever"),
        ("apply path", "calls", "code_version", "applies commands twice on a node of an older version"),
        ("callbacks", "calls", "lost_request", "never answers a forwarded command that was lost with its connection"),
        ("callbacks", "calls", "snapshot_over_a_request", "never answers a command that a snapshot covers"),
        ("seams", "replication", "beyond_the_log", "sends appends without a place after an answer beyond its log"),
        ("security", "security", "unpickles_before_authentication", "runs what a stranger sends"),
        ("security", "security", "buffers_without_end", "keeps whatever a stranger sends"),
        ("security", "security", "strangers_administer", "lets strangers administer"),
        ("security", "security", "listens_everywhere", "listens on all addresses"),
    )
)


def module_of(name: str) -> ModuleType:
    """The module with the tests of one subject."""
    return importlib.import_module(f"tests.adapters.raft.test_findings_{name}")


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.stem)
def test_each_finding_has_its_pair(finding: Finding) -> None:
    """Both tests are there."""
    module = module_of(finding.module)
    for name in (f"test_{finding.stem}_stock_library_fails", f"test_{finding.stem}_ours"):
        assert callable(getattr(module, name, None)), f"{finding.number}, {finding.sentence}: {name} is missing"


def test_each_pair_is_a_finding() -> None:
    """No test of the modules is left out of the table, and S1 to S13 are all in it."""
    stems = {(finding.module, finding.stem) for finding in FINDINGS}
    for name in MODULES:
        for test in (word for word in vars(module_of(name)) if word.startswith("test_")):
            words = test.removeprefix("test_")
            assert any(
                module == name and words.startswith((f"{stem}_ours", f"{stem}_stock_library_fails"))
                for module, stem in stems
            ), f"{test} belongs to no finding"
    assert {f"S{number}" for number in range(1, 14)} <= {finding.number for finding in FINDINGS}


def test_the_tests_are_of_the_release_in_use() -> None:
    """What was shown of one release says nothing of another."""
    assert "0.3.17" == LIBRARY_VERSION == VERSION

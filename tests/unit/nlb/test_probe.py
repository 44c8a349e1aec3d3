"""Health probes: what texts mean, and when a rule counts as served."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.nlb.port_rule import PortRule, parse_rule, validate_rules
from clussvc.nlb.probe import Probe, ProbeKind
from clussvc.nlb.probe_health import Change, ProbeHealth

WEB = "All 80-80 TCP"


def rule(options: str = "probe=tcp", columns: str = "All 80 TCP Multiple") -> PortRule:
    """A rule as people write it."""
    made = parse_rule(f"{columns} {options}")
    assert isinstance(made, PortRule), made
    return made


# --- text -----------------------------------------------------------------------------------------------------------


@st.composite
def probes(draw: st.DrawFn) -> Probe:
    """A valid probe."""
    interval_ms = draw(st.integers(100, 60_000))
    kind = draw(st.sampled_from(ProbeKind))
    path = draw(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20))
    return Probe(
        kind=kind,
        port=draw(st.just(0) | st.integers(1, 65_535)),
        path=f"/{path}" if kind is ProbeKind.HTTP else "",
        interval_ms=interval_ms,
        limit_ms=draw(st.just(interval_ms) | st.integers(10, interval_ms)),
        fall=draw(st.integers(1, 10)),
        rise=draw(st.integers(1, 10)),
    )


@given(probe=probes())
def test_the_text_of_a_probe_means_the_probe(probe: Probe) -> None:
    """Whatever stands in the path: quotation marks, equal signs; and a valid probe has nothing wrong with it."""
    made = PortRule(start_port=80, end_port=80, probe=probe)

    assert made == parse_rule(made.text())
    assert made.validate() == ()


@pytest.mark.parametrize(
    ("options", "canonical"),
    [
        ("probe=tcp", "probe=tcp"),
        ("PROBE=TCP:8080 rise=2 fall=3 limit=1000 interval=1000", "probe=tcp:8080"),
        ("probe=http:/", "probe=http:/"),
        ("probe=http:81/a?b=c interval=500", "probe='http:81/a?b=c' interval=500"),
        ("probe=http:/x interval=500 limit=200 fall=1 rise=4", "probe=http:/x interval=500 limit=200 fall=1 rise=4"),
    ],
)
def test_people_may_write_less(options: str, canonical: str) -> None:
    """Defaults are not shown; without a limit a probe may take its whole interval."""
    assert f"All 80-80 TCP Multiple Single Equal {canonical}" == rule(options).text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("probe=udp", "'udp' is no probe; give tcp, tcp:PORT, http:/PATH or http:PORT/PATH"),
        ("probe=http", "is no probe"),
        ("probe=http:80", "is no probe"),
        ("probe=tcp:0", "is no probe"),
        ("probe=tcp:65536", "is no probe"),
        ("probe=tcp:", "is no probe"),
        ("probe=", "is no probe"),
        ("probe='http:/a b'", "is no probe"),
        ("probe=http:/ä", "letters of ASCII"),
        (f"probe=http:/{'x' * 255}", "at most 255 letters"),
        ("probe=tcp interval=soon", "interval= is 'soon', which is not a number"),
        ("probe=tcp probe=tcp", "may each be given once"),
        ("interval=100", "interval= says how to probe, and there is no probe="),
    ],
)
def test_text_that_is_no_probe(options: str, words: str) -> None:
    """The sentence quotes the rule and says what to write."""
    problem = parse_rule(f"All 80 TCP Multiple {options}")

    assert isinstance(problem, str)
    assert words in problem


@pytest.mark.parametrize(
    ("options", "columns", "words"),
    [
        ("probe=tcp interval=99", "All 80 TCP Multiple", "the interval of the probe is 99"),
        ("probe=tcp interval=60001", "All 80 TCP Multiple", "give milliseconds in 100..60000"),
        ("probe=tcp limit=1001", "All 80 TCP Multiple", "give milliseconds in 10..1000, which is its interval"),
        ("probe=tcp limit=9", "All 80 TCP Multiple", "the limit of the probe is 9"),
        ("probe=tcp fall=0", "All 80 TCP Multiple", "fall is 0"),
        ("probe=tcp rise=11", "All 80 TCP Multiple", "rise is 11"),
        ("probe=tcp resource=Web", "All 80 TCP Multiple", "a rule follows one of them"),
        ("probe=tcp", "All 80 TCP Disabled", "nobody serves a rule that is Disabled"),
        ("probe=tcp", "All 0-65535 Both Multiple", "name it, as in probe=tcp:80"),
        ("probe=tcp", "All 53 UDP Multiple", "name a TCP port of the server"),
    ],
)
def test_a_probe_that_cannot_be(options: str, columns: str, words: str) -> None:
    """The rule is named, and the way out."""
    made = rule(options, columns)
    (problem,) = validate_rules([made])

    assert words in problem
    assert made.title in problem


def test_where_the_server_is_looked_for() -> None:
    """At the first port of the rule, or where the probe says; UDP and rules for all ports are probed elsewhere."""
    assert 80 == rule("probe=tcp", "All 80-90 TCP Multiple").probed_port
    assert 8080 == rule("probe=http:8080/", "All 80-90 TCP Multiple").probed_port
    assert () == validate_rules([rule("probe=tcp:53", "All 53 UDP Multiple")])
    assert () == validate_rules([rule("probe=tcp:80", "All 0-65535 Both Multiple")])


def test_a_probe_is_a_matter_of_each_host() -> None:
    """While a change of it spreads, hosts must not take each other for misconfigured."""
    assert rule("probe=tcp").code() == rule("probe=http:/ fall=1").code() == rule("").code()


# --- judging --------------------------------------------------------------------------------------------------------


def judged(*answers: bool, options: str = "probe=tcp", served: bool = False) -> str:
    """Whether the rule was served after each of these answers: ``+`` or ``-`` for each."""
    health = ProbeHealth()
    if served:
        health.watch([rule("")], 0)
    health.watch([rule(options)], 0)
    seen = ""
    for at, answer in enumerate(answers):
        now_ms = at * 1_000
        assert [WEB] == [each.title for each in health.begin(now_ms)]
        change = health.finish(WEB, "" if answer else "refused")
        before, after = seen[-1:] or ("+" if served else "-"), "+" if health.answering else "-"
        assert (change is not None) == (before != after)
        seen += after
    return seen


@pytest.mark.parametrize(
    ("answers", "options", "served", "seen"),
    [
        # Nothing is taken before the first success, and that is enough.
        ("+++", "probe=tcp", False, "+++"),
        ("--+-+---+", "probe=tcp", False, "--+++++--"),
        # Three failures in a row, and two successes.
        ("+--+---+-++", "probe=tcp", False, "++++++----+"),
        ("+-+-", "probe=tcp fall=1 rise=1", False, "+-+-"),
        # A rule that was served without a probe goes on until the probe says otherwise.
        ("--+---", "probe=tcp", True, "+++++-"),
    ],
)
def test_failures_and_successes_count_in_a_row(answers: str, options: str, served: bool, seen: str) -> None:
    """``fall`` of them, or ``rise``; a single one between them begins the count anew."""
    assert seen == judged(*(answer == "+" for answer in answers), options=options, served=served)


def test_one_probe_at_a_time_within_its_limit() -> None:
    """The next one begins an interval after the last one began, even if that took all of its limit."""
    health = ProbeHealth()
    health.watch([rule("probe=tcp interval=500 limit=200 fall=1")], 1_000)
    assert 1_000 == health.deadline_ms
    assert 1 == len(health.begin(1_000))
    assert () == health.begin(1_100)
    assert 1_200 == health.deadline_ms
    assert ((), ()) == health.expire(1_199)
    # A failure that changes nothing: it was not served.
    assert ((WEB,), ()) == health.expire(1_200)
    assert "no answer within 200 ms" == health.trouble(WEB)
    assert health.finish(WEB, "") is None, "an answer that comes too late counts"
    assert 1_500 == health.deadline_ms
    assert 1 == len(health.begin(1_500))
    assert Change(title=WEB, answering=True, why="") == health.finish(WEB, "")
    assert "" == health.trouble(WEB)
    # After a time in which nobody asked, one probe begins and not all that were missed.
    assert 1 == len(health.begin(9_000))
    assert ((WEB,), (Change(title=WEB, answering=False, why="no answer within 200 ms"),)) == health.expire(9_200)
    assert 9_500 == health.deadline_ms


def test_rules_that_come_and_go() -> None:
    """What is known stays with a rule whose probe is the same; another probe begins anew, from where the rule was."""
    health = ProbeHealth()
    health.watch([rule("probe=tcp")], 0)
    assert "no probe has ended yet" == health.trouble(WEB)
    health.begin(0)
    health.finish(WEB, "")

    # Another weight is the same probe.
    assert () == health.watch([rule("probe=tcp", "All 80 TCP Multiple Single 30")], 10)
    assert {WEB} == health.answering
    # A probe that is under way is given up when another one is wanted; the rule goes on being served.
    health.begin(1_000)
    assert (WEB,) == health.watch([rule("probe=http:/")], 1_100)
    assert {WEB} == health.answering
    assert 1_100 == health.deadline_ms
    # A rule that is new has to be answered first, and one without a probe is nobody's concern.
    health.watch([rule("probe=http:/"), rule("probe=tcp", "All 81 TCP Single"), rule("", "All 82 TCP Single")], 1_200)
    assert {WEB} == health.answering
    health.watch([], 1_300)
    assert frozenset() == health.answering
    assert health.deadline_ms is None

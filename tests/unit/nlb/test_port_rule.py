"""Port rules: text and values, the order that all hosts keep, and every refusal with its way out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.nlb.mac import Address
from clussvc.nlb.port_rule import (
    DEFAULT_RULES,
    Affinity,
    FilteringMode,
    PortRule,
    Protocol,
    RuleScope,
    find_rule,
    parse_rule,
    parse_rules,
    parse_scope,
    sort_rules,
    validate_rules,
)

VIP = IPv4Address("192.0.2.10")
PORTS = st.integers(0, 65_535)


@st.composite
def rules(draw: st.DrawFn) -> PortRule:
    """A valid rule."""
    start, end = sorted((draw(PORTS), draw(PORTS)))
    mode = draw(st.sampled_from(FilteringMode))
    multiple = mode is FilteringMode.MULTIPLE
    affinity = draw(st.sampled_from(Affinity)) if multiple else Affinity.SINGLE
    return PortRule(
        vip=draw(st.none() | st.sampled_from([VIP, ip_address("2001:db8::10")])),
        start_port=start,
        end_port=end,
        protocol=draw(st.sampled_from(Protocol)),
        mode=mode,
        affinity=affinity,
        load=draw(st.none() | st.integers(0, 100)) if multiple else None,
        timeout_min=draw(st.integers(0, 240)) if multiple and affinity is not Affinity.NONE else 0,
        resource=draw(st.sampled_from(["", "Web server", 'it\'s "one"'])),
    )


@given(rule=rules())
def test_the_text_of_a_rule_means_the_rule(rule: PortRule) -> None:
    """And a valid rule has nothing wrong with it."""
    assert rule == parse_rule(rule.text())
    assert rule.validate() == ()


@given(some=st.lists(rules(), max_size=6), seed=st.randoms(use_true_random=False))
def test_all_hosts_sort_alike(some: list[PortRule], seed: object) -> None:
    """Valid sets of rules have one order, however they were entered."""
    if validate_rules(some):
        return
    shuffled = list(some)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]

    assert sort_rules(some) == sort_rules(shuffled)


@given(some=st.lists(rules(), max_size=5), port=PORTS, tcp=st.booleans())
def test_rules_that_do_not_overlap_leave_no_choice(some: list[PortRule], port: int, tcp: bool) -> None:
    """At most one rule of an address, and at most one for all, covers any packet."""
    if validate_rules(some):
        return
    protocol = Protocol.TCP if tcp else Protocol.UDP
    covering = [rule for rule in some if rule.covers_port(port) and rule.protocol.meets(protocol)]
    own = [rule for rule in covering if rule.vip == VIP]
    everyones = [rule for rule in covering if rule.vip is None]

    assert len(own) <= 1 and len(everyones) <= 1
    found = find_rule(some, VIP, port, protocol)
    assert ([*own, *everyones, None])[0] == (None if found is None else some[found])


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("all 80 tcp multiple", "All 80-80 TCP Multiple Single Equal"),
        ("255.255.255.255 0-65535 both Multiple none eql", "All 0-65535 Both Multiple None Equal"),
        ("192.0.2.10 443 TCP MULTIPLE Network 30", "192.0.2.10 443-443 TCP Multiple Network 30"),
        ("All 25 TCP Single", "All 25-25 TCP Single"),
        ("2001:DB8::10 1-9 UDP disabled", "2001:db8::10 1-9 UDP Disabled"),
        (
            "resource='Web server' All 80 TCP Multiple Single 0 TIMEOUT=20",
            "All 80-80 TCP Multiple Single 0 timeout=20 resource='Web server'",
        ),
    ],
)
def test_people_may_write_less(text: str, canonical: str) -> None:
    """Whatever the case and order of options, one text is stored and shown."""
    rule = parse_rule(text)

    assert isinstance(rule, PortRule)
    assert canonical == rule.text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("All 80 TCP", "has 3 columns; write VIP PORTS"),
        ("All 80 TCP Multiple Single Equal 7", "has 7 columns"),
        ("web 80 TCP Multiple", "'web' is not an address"),
        ("fe80::1%eth0 80 TCP Multiple", "is not an address"),
        ("All http TCP Multiple", "'http' is not a range of ports"),
        ("All 80 SCTP Multiple", "give TCP, UDP or Both"),
        ("All 80 TCP Many", "give Multiple, Single or Disabled"),
        ("All 80 TCP Single 3", "leave '3' out"),
        ("All 80 TCP Multiple C", "give None, Single or Network"),
        ("All 80 TCP Multiple Single heavy", "give Equal or a number in 0..100"),
        ("All 80 TCP Multiple timeout=long", "the timeout is not a number"),
        ("All 80 TCP Multiple colour=red", "'colour' is not understood"),
        ("All 80 TCP Multiple timeout=1 timeout=2", "may each be given once"),
        ("All 80 TCP Multiple resource='a", "a quotation mark is not closed"),
    ],
)
def test_text_that_is_no_rule(text: str, words: str) -> None:
    """The sentence quotes the text and says what to write."""
    problem = parse_rule(text)

    assert isinstance(problem, str)
    assert words in problem
    assert text.split()[1] in problem


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (PortRule(start_port=9, end_port=8), "the ports are 9-8"),
        (PortRule(end_port=65_536), "the ports are 0-65536"),
        (PortRule(load=101), "the load is 101"),
        (PortRule(load=-1), "the load is -1"),
        (PortRule(timeout_min=241), "the timeout is 241"),
        (PortRule(timeout_min=5, affinity=Affinity.NONE), "a timeout needs"),
        (PortRule(mode=FilteringMode.SINGLE, load=3), "belong to the mode Multiple"),
        (PortRule(mode=FilteringMode.DISABLED, affinity=Affinity.NONE), "belong to the mode Multiple"),
        (PortRule(vip=IPv4Address("224.0.0.1")), "cannot be the virtual address"),
        (PortRule(vip=IPv4Address("0.0.0.0")), "cannot be the virtual address"),
        (PortRule(resource="x" * 256), "at most 255 letters"),
        (PortRule(resource="a\nb"), "must be printable"),
    ],
)
def test_a_rule_that_is_not_valid(rule: PortRule, words: str) -> None:
    """Named by address, ports and protocol."""
    (problem,) = validate_rules([rule])

    assert words in problem
    assert rule.title in problem


def test_rules_that_do_not_go_together() -> None:
    """All findings at once: overlaps, too many, and addresses that the cluster does not have."""
    web = PortRule(start_port=80, end_port=90, protocol=Protocol.TCP)
    both = PortRule(start_port=90, end_port=99)
    other = replace(web, vip=VIP)
    udp = replace(web, protocol=Protocol.UDP, end_port=89)

    (problem,) = validate_rules([web, both, other, udp])
    assert "'All 80-90 TCP' and 'All 90-99 Both' overlap" in problem

    elsewhere: list[Address] = [IPv4Address("192.0.2.99")]
    (problem,) = validate_rules([other], elsewhere)
    assert "192.0.2.10 is not a virtual address of the cluster; its addresses are: 192.0.2.99" in problem

    many = [PortRule(start_port=port, end_port=port) for port in range(33)]
    (problem,) = validate_rules(many)
    assert "There are 33 port rules; a cluster has at most 32" in problem
    assert validate_rules(many[:32]) == ()


def test_reading_the_property() -> None:
    """Rules come back sorted by port range, and problems of text and of validity together."""
    read, problems = parse_rules(["All 443 TCP Multiple", "", "192.0.2.10 80 TCP Single", "All 80 TCP Single"])
    assert [rule.title for rule in read] == ["192.0.2.10 80-80 TCP", "All 80-80 TCP", "All 443-443 TCP"]
    assert problems == ()

    read, problems = parse_rules(["All 80 TCP Single", "nonsense", "All 80 Both Disabled"])
    assert len(read) == 2
    assert len(problems) == 2


def test_the_code_tells_what_must_be_equal() -> None:
    """Loads and resources are a host's own affair; all else is not. The number itself is a promise between versions."""
    rule = DEFAULT_RULES[0]

    assert rule.code() == replace(rule, load=3, resource="SQL").code() == 2_681_358_354
    others = [
        replace(rule, vip=VIP), replace(rule, start_port=1), replace(rule, end_port=1),
        replace(rule, protocol=Protocol.TCP), replace(rule, mode=FilteringMode.SINGLE),
        replace(rule, affinity=Affinity.NONE), replace(rule, timeout_min=1),
    ]  # fmt: skip
    assert len({rule.code(), *(other.code() for other in others)}) == 8


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("80", ["All 80-80 TCP", "192.0.2.10 80-99 TCP"]),
        ("all:80", ["All 80-80 TCP"]),
        ("192.0.2.10:85", ["192.0.2.10 80-99 TCP"]),
        ("192.0.2.10", ["192.0.2.10 80-99 TCP"]),
        ("[2001:db8::10]:53", ["2001:db8::10 53-53 UDP"]),
        ("2001:db8::10", ["2001:db8::10 53-53 UDP"]),
        ("all", ["2001:db8::10 53-53 UDP", "All 80-80 TCP", "192.0.2.10 80-99 TCP"]),
        ("All:All", ["2001:db8::10 53-53 UDP", "All 80-80 TCP", "192.0.2.10 80-99 TCP"]),
        ("all:81", []),
    ],
)
def test_scopes(text: str, means: list[str]) -> None:
    """A port names the rule that contains it."""
    kept, problems = parse_rules(["All 80 TCP Multiple", "192.0.2.10 80-99 TCP Single", "2001:db8::10 53 UDP Disabled"])
    scope = parse_scope(text)

    assert problems == ()
    assert scope is not None
    assert means == [rule.title for rule in kept if scope.means(rule)]
    assert scope == parse_scope(scope.text())


@pytest.mark.parametrize("text", ["", "web", "70000", "192.0.2.10:", "192.0.2.300:80", "80:80", "all:x", "[::1"])
def test_what_is_no_scope(text: str) -> None:
    """None, and nothing is guessed."""
    assert parse_scope(text) is None


def test_every_port_of_one_address() -> None:
    """``vip:all`` and the address alone are the same."""
    assert parse_scope("192.0.2.10:all") == parse_scope("192.0.2.10") == RuleScope(vip=VIP)

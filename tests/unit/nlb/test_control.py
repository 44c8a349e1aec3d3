"""Commands to hosts: each state with each command, as the published table of results has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.nlb.control import (
    HOST_COMMANDS,
    ControlStatus,
    HostWish,
    RuleWish,
    Wishes,
    command_host,
    command_rules,
    parse_wishes,
    wishes_texts,
)
from clussvc.nlb.port_rule import PortRule, RuleScope, parse_scope

OK, ALREADY, DRAIN_STOP = ControlStatus.OK, ControlStatus.ALREADY, ControlStatus.DRAIN_STOP
STARTED, STOPPED, DRAINING, SUSPENDED = HostWish
WEB, MAIL = PortRule(start_port=80, end_port=80), PortRule(start_port=25, end_port=25)
RULES = (MAIL, WEB)


@pytest.mark.parametrize(
    ("before", "command", "after", "status"),
    [
        (STARTED, "start", STARTED, ALREADY),
        (STOPPED, "start", STARTED, OK),
        (DRAINING, "start", STARTED, DRAIN_STOP),
        (SUSPENDED, "start", SUSPENDED, ControlStatus.SUSPENDED),
        (STARTED, "stop", STOPPED, OK),
        (STOPPED, "stop", STOPPED, ALREADY),
        (DRAINING, "stop", STOPPED, DRAIN_STOP),
        (SUSPENDED, "stop", SUSPENDED, ControlStatus.SUSPENDED),
        (STARTED, "drainstop", DRAINING, OK),
        (STOPPED, "drainstop", STOPPED, ControlStatus.STOPPED),
        (DRAINING, "drainstop", DRAINING, ALREADY),
        (SUSPENDED, "drainstop", SUSPENDED, ControlStatus.SUSPENDED),
        (STARTED, "suspend", SUSPENDED, OK),
        (STOPPED, "suspend", SUSPENDED, OK),
        (DRAINING, "suspend", SUSPENDED, DRAIN_STOP),
        (SUSPENDED, "suspend", SUSPENDED, ALREADY),
        (STARTED, "resume", STARTED, ALREADY),
        (SUSPENDED, "resume", STOPPED, OK),
    ],
)
def test_commands_to_hosts(before: HostWish, command: str, after: HostWish, status: ControlStatus) -> None:
    """Resume does not start; suspended hosts refuse everything else."""
    assert (Wishes(host=after), status) == command_host(Wishes(host=before), command)


@pytest.mark.parametrize(
    ("host", "scope", "status"),
    [
        (STARTED, "80", OK),
        (STARTED, "443", ControlStatus.NOT_FOUND),
        (STARTED, "192.0.2.10:80", ControlStatus.NOT_FOUND),
        (STOPPED, "80", ControlStatus.STOPPED),
        (DRAINING, "80", ControlStatus.DRAINING),
        (SUSPENDED, "80", ControlStatus.SUSPENDED),
    ],
)
def test_commands_to_rules(host: HostWish, scope: str, status: ControlStatus) -> None:
    """What cannot be done changes nothing."""
    wanted = parse_scope(scope)
    assert wanted is not None
    after, found = command_rules(Wishes(host=host), "drain", RULES, wanted)

    assert status is found
    assert ({WEB.title: RuleWish.DRAINING} if status is OK else {}) == after.rules


def test_a_rule_is_commanded_as_a_whole_and_once() -> None:
    """The second time it is so already; enabling leaves nothing behind."""
    once, _ = command_rules(Wishes(), "disable", RULES, RuleScope())
    again = command_rules(once, "disable", RULES, RuleScope())
    enabled, status = command_rules(once, "enable", RULES, RuleScope(port=25))

    assert (once, ALREADY) == again
    assert OK is status
    assert {WEB.title: RuleWish.DISABLED} == enabled.rules


def test_texts_that_mean_nothing_are_named() -> None:
    """And change nothing of what the others mean."""
    wishes, problems = parse_wishes(['NODE1 drain "All 80-80 Both"', "NODE1 explode", "NODE2", '"'])

    assert {"NODE1": Wishes(rules={WEB.title: RuleWish.DRAINING})} == wishes
    assert 3 == len(problems)
    assert "'NODE1 explode'" in problems[0]


hosts = st.builds(
    Wishes,
    host=st.sampled_from(HostWish),
    rules=st.dictionaries(
        st.sampled_from([rule.title for rule in RULES]), st.sampled_from([RuleWish.DISABLED, RuleWish.DRAINING])
    ),
)


@given(st.dictionaries(st.sampled_from(["NODE1", "NODE 2", "Knoten'3"]), hosts))
def test_texts_and_wishes_are_the_same(wishes: dict[str, Wishes]) -> None:
    """What was written is read again."""
    read, problems = parse_wishes(wishes_texts(wishes))

    assert () == problems
    assert wishes == read


@given(hosts, st.lists(st.sampled_from(HOST_COMMANDS), max_size=6))
def test_a_refused_command_changes_nothing(wishes: Wishes, commands: list[str]) -> None:
    """And one that is repeated finds its work done."""
    for command in commands:
        after, status = command_host(wishes, command)
        assert status.good or after == wishes
        if status.good:
            assert (after, ALREADY) == command_host(after, command)
        wishes = after

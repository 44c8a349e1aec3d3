"""The words of ``nlb``: scopes, port scopes, options of the original, and mistakes."""

from __future__ import annotations

import pytest

from clussvc.nlb.port_rule import RuleScope
from cluster_cli.nlb_syntax import COMMANDS, Scope, parse, usage
from cluster_cli.syntax import SyntaxProblem


@pytest.mark.parametrize(
    ("line", "command", "scope"),
    [
        ("query", "query", Scope()),
        ("QUERY all local", "query", Scope()),
        ("stop all global", "stop", Scope(everywhere=True)),
        ("start 192.0.2.10", "start", Scope(cluster="192.0.2.10")),
        ("start 192.0.2.10:2", "start", Scope(cluster="192.0.2.10", host="2")),
        ("start web.example.com:192.0.2.2", "start", Scope(cluster="web.example.com", host="192.0.2.2")),
        ("start 2001:db8::10", "start", Scope(cluster="2001:db8::10")),
        ("start [2001:db8::10]:NODE1", "start", Scope(cluster="2001:db8::10", host="NODE1")),
        ("params all", "params", Scope()),
        ("params WEB", "params", Scope(cluster="WEB")),
        ("drainstop /LOCAL", "drainstop", Scope()),
        ("filter WEB tcp 192.0.2.1:1 192.0.2.10:80 /flags:syn", "explain", Scope()),
    ],
)
def test_scopes(line: str, command: str, scope: Scope) -> None:
    """Whom a command is for."""
    invocation = parse(line.split())

    assert (command, scope) == (invocation.command, invocation.scope)


@pytest.mark.parametrize(
    ("line", "ports", "scope"),
    [
        ("drain", RuleScope(), Scope()),
        ("drain 80", RuleScope(port=80), Scope()),
        ("drain all:80 WEB:2", RuleScope(for_all_vips=True, port=80), Scope(cluster="WEB", host="2")),
        ("enable all:all all global", RuleScope(), Scope(everywhere=True)),
        ("queryport 443 WEB", RuleScope(port=443), Scope(cluster="WEB")),
    ],
)
def test_port_scopes(line: str, ports: RuleScope, scope: Scope) -> None:
    """Which rules a command is for; the scope of hosts follows."""
    invocation = parse(line.split())

    assert (ports, scope) == (invocation.ports, invocation.scope)


def test_options_of_the_original_are_explained() -> None:
    """The password stands in the next word, as it always did, and is neither used nor shown."""
    invocation = parse(["query", "192.0.2.10", "/PASSW", "secret", "/PORT", "2504", "/TIMEOUT", "500"])

    assert Scope(cluster="192.0.2.10") == invocation.scope
    assert 2 == len(invocation.notes)
    assert "certificate" in invocation.notes[0]
    assert not any("secret" in note for note in invocation.notes)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("explode", "'explode' is not a command"),
        ("query all", "'local'"),
        ("query all everywhere", "'global'"),
        ("query WEB extra", "'extra' is one word too many"),
        ("query :2", "names no cluster"),
        ("drain 70000", "'70000' names no port rules"),
        ("drain nonsense", "'nonsense' names no port rules"),
        ("queryport", "needs a port"),
        ("queryport all", "names no port"),
        ("ip2mac", "needs: ADDRESS"),
        ("query /rule:x", "no option /rule"),
        ("query /timeout 0", "milliseconds"),
        ("query /local /local", "given twice"),
        ("explain WEB tcp", "needs: CLUSTER"),
    ],
)
def test_mistakes_are_named(line: str, says: str) -> None:
    """Each names the word and the way out."""
    with pytest.raises(SyntaxProblem) as problem:
        parse(line.split())

    assert says in problem.value.message


def test_help_names_every_command() -> None:
    """With and without words."""
    assert "help" == parse([]).command == parse(["/?"]).command == parse(["query", "/?"]).command
    assert all(f"  {name}" in usage() for name in COMMANDS)

"""The language of the command line, as tables: words in, invocation out."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_cli.syntax import (
    FORMATS,
    OBJECTS,
    Argument,
    Assignment,
    Invocation,
    SyntaxProblem,
    parse,
    split_list,
    usage,
)


def understood(line: str) -> Invocation:
    """A line as a shell would hand it over."""
    return parse(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "cluster", "object_", "words", "action", "argument"),
    [
        ("node", None, "node", (), "status", None),
        ("node NODE2", None, "node", ("NODE2",), "status", None),
        ("NODE node2 /STAT", None, "node", ("node2",), "status", None),
        (". node /state", None, "node", (), "status", None),
        ("/cluster:DEMO node", "DEMO", "node", (), "status", None),
        ("/cluster:node node", "node", "node", (), "status", None),
        ("node /cluster:DEMO", "DEMO", "node", (), "status", None),
        ("DEMO node NODE1 /pause", "DEMO", "node", ("NODE1",), "pause", None),
        ("192.0.2.1:7401 group", "192.0.2.1:7401", "group", (), "status", None),
        ("group", None, "group", (), "status", None),
        ("resgroup", None, "group", (), "status", None),
        ("resourcegroup 'Group 0' /on", None, "group", ("Group 0",), "online", None),
        ("group G /on:NODE2", None, "group", ("G",), "online", "NODE2"),
        ("group G /online:NODE2 /wait:5", None, "group", ("G",), "online", "NODE2"),
        ("group G /off", None, "group", ("G",), "offline", None),
        ("group G /move", None, "group", ("G",), "moveto", None),
        ("group G /moveto:NODE2", None, "group", ("G",), "moveto", "NODE2"),
        ("group G -moveto:NODE2", None, "group", ("G",), "moveto", "NODE2"),
        ("group G --moveto=NODE2", None, "group", ("G",), "moveto", "NODE2"),
        ("group G --moveto NODE2", None, "group", ("G",), "moveto", "NODE2"),
        ("group G --moveto --wait", None, "group", ("G",), "moveto", None),
        ("group G /setowners:N1,N2", None, "group", ("G",), "setowners", "N1,N2"),
        ("group G /setowners:", None, "group", ("G",), "setowners", ""),
        ("group G /ren:'New name'", None, "group", ("G",), "rename", "New name"),
        ("group G /del", None, "group", ("G",), "delete", None),
        ("group G /explain", None, "group", ("G",), "explain", None),
        ("res", None, "resource", (), "status", None),
        ("resource R /fail", None, "resource", ("R",), "fail", None),
        ("res R /adddep:S", None, "resource", ("R",), "adddependency", "S"),
        ("res R /adddependency:S", None, "resource", ("R",), "adddependency", "S"),
        ("res R /removedep:S", None, "resource", ("R",), "removedependency", "S"),
        ("res R /listdep", None, "resource", ("R",), "listdependencies", None),
        ("res R /remowner:N", None, "resource", ("R",), "removeowner", "N"),
        ("res R /create /group:G /type:'Generic Script' /separate", None, "resource", ("R",), "create", None),
        ("restype", None, "resourcetype", (), "list", None),
        ("type", None, "resourcetype", (), "list", None),
        ("net", None, "network", (), "status", None),
        ("netint /node:N1", None, "netinterface", (), "status", None),
        ("DEMO /create /ipaddr:192.0.2.1,255.255.255.0,lan", "DEMO", "cluster", (), "create", None),
        ("DEMO /create /ipaddr:192.0.2.1 /quorum:/dev/sdb /force", "DEMO", "cluster", (), "create", None),
        ("c /ver", None, "cluster", (), "version", None),
        ("/ver", None, "cluster", (), "version", None),
        ("/quorum", None, "cluster", (), "quorumresource", None),
        ("/add:n2,n3", None, "cluster", (), "addnodes", "n2,n3"),
        ("/addnodes", None, "cluster", (), "addnodes", None),
        ("/join:clj1-abc:def", None, "cluster", (), "join", "clj1-abc:def"),
        ("simulate node NODE2 down", None, "simulate", ("node", "NODE2", "down"), "simulate", None),
        ("explain 'Group 0'", None, "explain", ("Group 0",), "explain", None),
        ("events /after:17 /follow", None, "events", (), "list", None),
        ("admincert ann /role:operator", None, "admincert", ("ann",), "create", None),
    ],
)
def test_lines(
    line: str, cluster: str | None, object_: str, words: tuple[str, ...], action: str, argument: str | None
) -> None:
    """What each line means."""
    invocation = understood(line)

    assert (cluster, object_, words) == (invocation.cluster, invocation.object, invocation.words)
    assert (action, argument) == (invocation.action.name, invocation.action.argument)
    assert not invocation.wants_help


ABBREVIATIONS = {
    ("group", "delete"): ("del",),
    ("group", "moveto"): ("move",),
    ("group", "offline"): ("off",),
    ("group", "online"): ("on",),
    ("group", "privproperties"): ("priv", "privprop", "privprops"),
    ("group", "properties"): ("prop", "props"),
    ("group", "rename"): ("ren",),
    ("group", "status"): ("stat", "state"),
    ("group", "help"): ("?",),
    ("resource", "adddependency"): ("adddep",),
    ("resource", "listdependencies"): ("listdep",),
    ("resource", "removedependency"): ("removedep",),
    ("resource", "removeowner"): ("remowner",),
    ("node", "listinterfaces"): ("listint", "listinterface"),
    ("network", "listinterfaces"): ("listint", "listinterface"),
    ("network", "rename"): ("ren",),
    ("cluster", "listnetpriority"): ("listnetpri",),
    ("cluster", "setnetpriority"): ("setnetpri",),
    ("cluster", "quorumresource"): ("quorum",),
    ("cluster", "version"): ("ver",),
    ("cluster", "ipaddress"): ("ipaddr",),
    ("cluster", "addnodes"): ("add",),
}


@pytest.mark.parametrize(("place", "short"), list(ABBREVIATIONS.items()))
def test_abbreviations_are_the_published_ones(place: tuple[str, str], short: tuple[str, ...]) -> None:
    """Fixed words; nothing else stands for the option."""
    spec = OBJECTS[place[0]].option(place[1])
    assert spec is not None
    assert short == spec.aliases
    for word in short:
        assert OBJECTS[place[0]].option(word.upper()) is spec


@pytest.mark.parametrize("line", ["group G /onl", "group G /mov", "res R /add", "group /sta", "node /pau"])
def test_free_prefixes_mean_nothing(line: str) -> None:
    """They are fixed words, not prefixes."""
    with pytest.raises(SyntaxProblem, match="has no option"):
        understood(line)


def test_no_word_means_two_things() -> None:
    """Within an object every option word is unique, and so is every object word."""
    for spec in OBJECTS.values():
        words = [word for option in spec.options for word in (option.name, *option.aliases)]
        assert len(words) == len(set(words)), spec.name
    objects = [word for spec in OBJECTS.values() for word in (spec.name, *spec.aliases)]
    assert len(objects) == len(set(objects))


def test_formats_and_their_abbreviations() -> None:
    """The value formats of cluster.exe."""
    assert {"binary", "dword", "string", "expandstring", "multistring", "security", "ularge"} == set(FORMATS.values())
    assert "multistring" == FORMATS["multistr"]
    assert "string" == FORMATS["str"]
    assert "expandstring" == FORMATS["expandstr"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["FailoverThreshold=5"], [("FailoverThreshold", "5", ("5",), None)]),
        (["A=1", "B=2"], [("A", "1", ("1",), None), ("B", "2", ("2",), None)]),
        (["X=5:dword"], [("X", "5", ("5",), "dword")]),
        (["X=5:DWORD"], [("X", "5", ("5",), "dword")]),
        (['Names="A","B":multistr'], [("Names", '"A","B"', ("A", "B"), "multistring")]),
        (["Names=A,B:multistring"], [("Names", "A,B", ("A", "B"), "multistring")]),
        (['Path="Q:\\Spool"'], [("Path", "Q:\\Spool", ("Q:\\Spool",), None)]),
        (["Path=Q:\\Spool"], [("Path", "Q:\\Spool", ("Q:\\Spool",), None)]),
        (
            ["CommandLine=/bin/app -a=b --to host:80"],
            [("CommandLine", "/bin/app -a=b --to host:80", ("/bin/app -a=b --to host:80",), None)],
        ),
        (['CommandLine=sh -c "a, b"'], [("CommandLine", 'sh -c "a, b"', ('sh -c "a, b"',), None)]),
        (["Description="], [("Description", "", (), None)]),
        (["Description=:str"], [("Description", "", (), "string")]),
        (["N=-1"], [("N", "-1", ("-1",), None)]),
    ],
)
def test_property_lists(words: list[str], expected: list[tuple[str, str, tuple[str, ...], str | None]]) -> None:
    """Names, values, lists and formats."""
    invocation = parse(["res", "R", "/priv", *words])

    found = invocation.action.assignments
    assert tuple(Assignment(name=n, text=t, parts=p, format=f) for n, t, p, f in expected) == found


def test_attached_property() -> None:
    """``/prop:Name=Value`` is the same as ``/prop Name=Value``."""
    assert understood("group G /prop:Description=x").action == understood("group G /prop Description=x").action


def test_defaults_are_asked_for_by_name() -> None:
    """``/prop:A,B /usedefault``."""
    invocation = understood("group G /prop:A,B /usedefault")

    assert ("A", "B") == invocation.action.names
    assert invocation.has("usedefault")


def test_creation_takes_properties_along() -> None:
    """/create with /prop and /priv is one action."""
    invocation = understood("res R /create /group:G /type:T /prop Description=x /priv A=1 B=2")

    assert "create" == invocation.action.name
    private = invocation.find("privproperties")
    assert private is not None
    assert ["A", "B"] == [one.name for one in private.assignments]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("group G /nonsense", "/nonsense"),
        ("DEMO nonsense", "the objects are: cluster, node"),
        (". group G extra", "extra"),
        ("group G /on /off", "one thing"),
        ("group G /on /on", "twice"),
        ("group /on", "name of a group"),
        ("res /create /group:G /type:T", "name of a resource"),
        ("group G /ren", "argument"),
        ("group G /ren:", "argument"),
        ("group G /status:yes", "takes no argument"),
        ("group /prop A=1", "name of one group"),
        ("group G /prop A", "/usedefault"),
        ("group G /prop A=1 B", "/usedefault"),
        ("group G /usedefault", "names of the properties"),
        ("group G /prop A=1 B /usedefault", "not both"),
        ("group G /prop =1", "property name"),
        ("/cluster: node", "/cluster:NAME"),
        ("events extra", "extra"),
        ("group G /offline extra", "extra"),
        ("group G /on NODE2", "NODE2"),
    ],
)
def test_mistakes_name_the_word_and_the_way_out(line: str, hint: str) -> None:
    """Every mistake is a sentence."""
    with pytest.raises(SyntaxProblem) as problem:
        understood(line)
    assert hint in problem.value.message


@pytest.mark.parametrize(
    "line", ["", "/?", "/help", "--help", "group /?", "group -?", "res /help", "node X /?", "group /create /?"]
)
def test_help(line: str) -> None:
    """Asked for in any form, and for no words at all; what else stands there does not matter."""
    assert understood(line).wants_help


def test_usage_names_every_option() -> None:
    """The help of an object lists all of its options with their short forms."""
    for name, spec in OBJECTS.items():
        text = usage(name)
        for option in spec.options:
            assert f"/{option.name}" in text
            assert all(f"/{alias}" in text for alias in option.aliases)
            assert option.help, f"{name} /{option.name} has no help"
            assert option.argument is Argument.NONE or option.shown, f"{name} /{option.name} does not show its argument"
    assert all(spec.name in usage(None) for spec in OBJECTS.values())


@given(
    st.lists(
        st.one_of(st.text(max_size=12), st.sampled_from(["group", "/on", "/prop", "A=1", "--wait", "/cluster:x"])),
        max_size=8,
    )
)
def test_any_words_are_understood_or_refused(words: list[str]) -> None:
    """Never anything but an invocation or a sentence."""
    problem: SyntaxProblem | None = None
    try:
        understood_object = parse(words).object
    except SyntaxProblem as raised:
        problem, understood_object = raised, raised.object
    assert understood_object in OBJECTS
    assert problem is None or problem.message


@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_characters='",', categories=["L", "N", "P"]), min_size=1), min_size=1
    )
)
def test_lists_come_back(parts: list[str]) -> None:
    """Quoting each part and joining them with commas is the inverse of splitting."""
    assert tuple(parts) == split_list(",".join(f'"{part}"' for part in parts))

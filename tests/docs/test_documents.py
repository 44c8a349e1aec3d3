"""The documents, kept true: links lead somewhere, commands parse, and every name that is named exists."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from clussvc.model.properties import PROPERTIES, find_property
from clussvc.model.settings import PROFILES
from clussvc.nlb.port_rule import parse_rules
from clussvc.resources.type_info import BUILTIN_TYPES, find_type
from clussvc.service.main import _parser as service_parser
from clussvc.service.settings_file import read_node_file
from cluster_cli.main import exit_code
from cluster_cli.nlb_syntax import COMMANDS as NLB_COMMANDS
from cluster_cli.nlb_syntax import parse as parse_nlb
from cluster_cli.syntax import OBJECTS, Invocation, parse

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "changelog.d").glob("*.md")])
MANUAL = DOCS / "man" / "cluster.1.md"

NOT_YET: set[str] = set()
"""Commands that a document names to say that they do not exist."""

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_EVENT_NAME = re.compile(r"(?:cluster|node|group|resource|monitor|service)\.[a-z_]+")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block."""
    for match in _FENCE.finditer(path.read_text()):
        yield match[1].strip(), match[2]


def prose(path: Path) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", path.read_text())


def tables(path: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Header and rows of every table."""
    for part in re.split(r"\n\s*\n", prose(path)):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        if len(lines) > 2:
            cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
            yield cells[0], cells[2:]


def typed_lines(path: Path, program: str) -> Iterator[str]:
    """What is typed in examples: after a ``$`` in consoles, whole lines of shell."""
    for language, text in blocks(path):
        for line in text.splitlines():
            if language == "console" and line.startswith(f"$ {program} "):
                yield line[2:]
            elif language == "sh" and line.split("#")[0].startswith(f"{program} "):
                yield line.split("#")[0]
            elif not language and path.name == "writing-resources.md" and line.startswith(f"{program} "):
                yield line


def cluster_lines() -> list[tuple[Path, str]]:
    found = []
    for path in DOCUMENTS:
        found += [(path, line) for line in typed_lines(path, "cluster")]
        found += [
            (path, span) for span in _SPAN.findall(prose(path)) if span.startswith("cluster ") and span not in NOT_YET
        ]
    return found


def shown_id(value: Path | str) -> str:
    """How a case is named in the list of tests."""
    return named(value) if isinstance(value, Path) else value[:60]


def understood(line: str) -> Invocation:
    """The command as the program understands it; what click takes is taken off first."""
    words = shlex.split(line)[1:]
    if words[:1] == ["--output"]:
        assert words[1] in ("text", "json")
        words = words[2:]
    return parse(words)


def constants() -> tuple[set[str], set[int]]:
    """All texts and numbers that stand in the product's source."""
    texts: set[str] = set()
    numbers: set[int] = set()
    for package in ("clussvc", "cluster_cli"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.add(node.value)
                elif isinstance(node, ast.Constant) and type(node.value) is int:
                    numbers.add(node.value)
    return texts, numbers


TEXTS, NUMBERS = constants()


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_there_is_something_to_check() -> None:
    """An empty list of examples would pass every test below."""
    assert len(DOCUMENTS) > 20
    assert len(cluster_lines()) > 60


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link names a file that exists and, after a #, one of its headings."""
    for link in _LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.is_file(), f"{link} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{link}: no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_document_can_be_reached(path: Path) -> None:
    """Somebody links to it; decisions and changes are lists of their own."""
    if path.name == "README.md" or path.parent.name in ("decisions", "changelog.d"):
        return
    links = {
        (other.parent / link.partition("#")[0]).resolve() for other in DOCUMENTS for link in _LINK.findall(prose(other))
    }
    assert path in links


@pytest.mark.parametrize(("path", "line"), cluster_lines(), ids=shown_id)
def test_commands_parse(path: Path, line: str) -> None:
    """The program understands every command, and the properties and types in it exist."""
    invocation = understood(line)
    type_ = invocation.argument("type") if invocation.object == "resource" else None
    if type_ is not None:
        assert find_type(type_) is not None, f"{named(path)}: there is no type {type_}"
    for option in invocation.options:
        names = [one.name for one in option.assignments] + list(option.names)
        if option.name == "properties":
            for name in names:
                assert find_property(invocation.object, name), f"{invocation.object} has no property {name}"
        elif option.name == "privproperties" and type_ is not None:
            info = find_type(type_)
            assert info is not None
            assert info.extensible or all(info.property_named(name) for name in names), f"{type_}: {names}"


def nlb_lines() -> list[tuple[Path, str]]:
    return [(path, line) for path in DOCUMENTS for line in typed_lines(path, "nlb")]


@pytest.mark.parametrize(("path", "line"), nlb_lines(), ids=shown_id)
def test_nlb_commands_parse(path: Path, line: str) -> None:
    """What is typed for ``nlb`` is what it takes, and rules in it are rules."""
    invocation = parse_nlb(shlex.split(line, comments=True)[1:])
    texts = [*invocation.repeated.get("rule", ())]
    if invocation.command == "rule" and invocation.words[1:2] in (("add",), ("set",)):
        texts.append(invocation.words[2])
    assert () == parse_rules(texts)[1]


def test_manual_of_nlb_names_every_command() -> None:
    """Each stands there, and there are examples."""
    text = (DOCS / "man" / "nlb.1.md").read_text()
    assert all(
        f"`{name}" in text or f"`nlb {name}" in text or f"nlb {name} " in text
        for name in NLB_COMMANDS
        if name != "help"
    )
    assert len(nlb_lines()) > 15


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_service_commands_parse(path: Path) -> None:
    """What is typed for ``clussvc`` is what it takes."""
    for line in typed_lines(path, "clussvc"):
        service_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.parent.name == "tasks"], ids=named)
def test_names_of_events_exist(path: Path) -> None:
    """Names such as ``group.moved``, and their numbers, stand in the source."""
    for span in _SPAN.findall(prose(path)):
        if _EVENT_NAME.fullmatch(span) and not span.endswith((".db", ".log", ".py", ".toml")):
            assert span in TEXTS, f"there is no event {span}"
    for header, rows in tables(path):
        if header[0] == "number":
            for row in rows:
                for number in re.findall(r"\d+", row[0]):
                    assert int(number) in NUMBERS, f"there is no event {number}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_codes_exist(path: Path) -> None:
    """Error codes in tables exist, and exit codes follow from the statuses."""
    for header, rows in tables(path):
        if header[0] == "code":
            for row in rows:
                for code in _SPAN.findall(row[0]):
                    assert code in TEXTS, f"there is no error {code}"
        if "exit code" in header and "status" in header:
            for row in rows:
                status, code = row[header.index("status")], row[header.index("exit code")]
                if status:
                    assert int(code) == exit_code(int(status))
                    assert int(status) in NUMBERS | {0}


def test_further_codes_exist() -> None:
    """The page on nodes that do not start names codes in its prose too."""
    text = prose(DOCS / "tasks" / "when-a-node-does-not-start.md")
    codes = {
        span for span in _SPAN.findall(text) if re.fullmatch(r"(?:database|journal|snapshot|node-file)-[a-z-]+", span)
    }
    assert len(codes) > 8
    assert codes <= TEXTS


def test_manual_names_every_option() -> None:
    """Each object, option and abbreviation of the language stands in the manual page."""
    text = MANUAL.read_text()
    for spec in OBJECTS.values():
        for word in (spec.name, *spec.aliases):
            assert re.search(rf"\b{word}\b", text), f"{word} is not in the manual"
        for option in spec.options:
            if option.name not in ("help", "usedefault", "simulate", "list", "explain", "measure"):
                for word in (option.name, *option.aliases):
                    assert f"/{word}" in text, f"/{word} of {spec.name} is not in the manual"


def test_manual_names_exactly_the_properties() -> None:
    """The tables of properties agree with those of the program."""
    found: dict[str, set[str]] = {}
    types: dict[str, set[str]] = {}
    for header, rows in tables(MANUAL):
        if header[:2] == ["object", "property"]:
            kind = ""
            for row in rows:
                kind = row[0] or kind
                found.setdefault(kind, set()).update(_SPAN.findall(row[1]))
        elif header == ["type", "private properties"]:
            types = {row[0]: set(_SPAN.findall(row[1])) for row in rows}
    assert {kind: names | {"Name", "Description"} for kind, names in found.items()} == {
        kind: {known.name for known in known_ones} | {"Name", "Description"} for kind, known_ones in PROPERTIES.items()
    }
    assert types == {name: {one.name for one in info.private} for name, info in BUILTIN_TYPES.items()}


def test_profiles_are_those_of_the_program() -> None:
    """The table of timings in the architecture."""
    shown = {}
    for header, rows in tables(DOCS / "architecture.md"):
        if header[0] == "profile":
            shown = {row[0].strip("`"): [int(cell.removesuffix(" ms")) for cell in row[1:5]] for row in rows}
    assert shown == {
        name: [one.heartbeat_interval_ms, one.lease_ms, one.release_budget_ms, one.silence_ms()]
        for name, one in PROFILES.items()
    }


def test_example_of_the_node_file_loads(tmp_path: Path) -> None:
    """The manual's example is a node file."""
    (example,) = [text for language, text in blocks(DOCS / "man" / "clussvc.8.md") if language == "toml"]
    path = tmp_path / "node.toml"
    path.write_text(example)
    assert read_node_file(path).cluster == "PAYROLL"


def test_python_examples_are_python() -> None:
    """Examples compile; those of the page on resources have tests of their own that run them."""
    for path in DOCUMENTS:
        for language, text in blocks(path):
            if language.startswith("python"):
                compile(text, named(path), "exec")


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_nothing_of_a_workshop(path: Path) -> None:
    """No document names the folders of whoever wrote it."""
    assert not re.search(r"/work/|/tmp/|/home/|/root/(?!alice)|\bpid \d+", path.read_text())


def test_decisions_have_one_form() -> None:
    """Each with a number of its own, context, decision and consequences."""
    pages = sorted((DOCS / "decisions").glob("*.md"))
    # A number is given when the work on a page begins, so there is a gap while another page is under way.
    assert len({page.name[:4] for page in pages}) == len(pages)
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {page.name[:4]}: ")
        assert all(f"**{word}.**" in text for word in ("Context", "Decision", "Consequences")), page.name


def test_changes_are_one_sentence_each() -> None:
    """A file of changelog.d is one line that ends with a full stop."""
    for path in (ROOT / "changelog.d").glob("*.md"):
        assert re.fullmatch(r"[^\n]+\.\n", path.read_text()), path.name


def test_glossary_is_in_order() -> None:
    """Each word once, in the order of the alphabet."""
    ((_, rows),) = tables(DOCS / "glossary.md")
    words = [row[0].strip("*").casefold().replace("-", " ") for row in rows]
    assert words == sorted(set(words))

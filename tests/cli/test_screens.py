"""Commands with their expected screens and exit codes, as an administrator sees them.

Each file in ``screens/`` is a story on a fresh cluster of three nodes. A line ``$ ...`` is a command as typed into a
shell, what follows is its screen, ``=> N`` its exit code. A line ``% ...`` makes something happen in the cluster. Run
pytest with ``--rewrite`` to write what was observed, and review the difference as a change of the product.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click.testing
import pytest

from clussvc.admin.server import AdminServer
from cluster_cli.main import main
from cluster_cli.nlb_main import main as nlb_main
from tests.cli.balancing import BALANCING
from tests.cli.fake_access import FakeAccess

SCREENS = Path(__file__).parent / "screens"
PROGRAMS = {"cluster": main, "nlb": nlb_main}
STORIES = sorted(path.stem for path in SCREENS.glob("*.txt"))


def happen(access: FakeAccess, words: list[str]) -> None:
    """Something outside the command line."""
    match words:
        case ["hold"]:
            access.hold = True
        case ["settle"]:
            access.hold = False
            access.settle()
        case ["failing", *names]:
            access.failing = set(names)
        case ["missing", what]:
            access.missing = (what,)
        case ["broken", device, why]:
            access.broken_devices[device] = why
        case ["liar", device]:
            access.liars.add(device)
        case ["occupied", place]:
            access.occupied.add(place)
        case ["quorum", "lost"]:
            access.quorum = False
        case ["network"]:
            access.add_network()
        case ["trouble", name, why]:
            access.tell_interfaces(name, why)
        case ["misses", name, *others]:
            access.tell_interfaces(name, "", tuple(others))
        case ["balancing", state]:
            access.balancer = BALANCING[state]
        case ["kill", name]:
            access.kill(name)
        case _:
            raise AssertionError(f"unknown happening: {words}")


def shown(output: str, folder: Path) -> list[str]:
    """The screen without what differs from run to run: identifiers and the folder of the test."""
    text = output.replace(str(folder), "FOLDER")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "IDENTIFIER", text)
    text = re.sub(r"(Current time +=) [-0-9: ]{19}", r"\1 NOW", text)
    return text.rstrip("\n").split("\n") if text.strip("\n") else []


def play(story: list[str], access: FakeAccess, socket: Path, folder: Path) -> Iterator[str]:
    """Carry a story out; the lines of the story as observed."""
    runner = click.testing.CliRunner(
        env={
            "CLUSSVC_SOCKET": str(socket),
            "XDG_CONFIG_HOME": str(folder),
            "CLUSSVC_CERTS": None,
            # So that no story can ever do anything to a node that this machine really is.
            "CLUSSVC_CONFIG": str(folder / "node.toml"),
        }
    )
    expected_follows = False
    for line in story:
        if line.startswith("% "):
            happen(access, shlex.split(line[2:]))
        elif line.startswith("$ "):
            words = shlex.split(line[2:])
            result = runner.invoke(PROGRAMS[words[0]], words[1:])
            yield line
            yield from shown(result.output, folder)
            yield f"=> {result.exit_code}"
            expected_follows = True
            continue
        elif expected_follows:
            expected_follows = not line.startswith("=> ")
            continue
        yield line


@pytest.mark.parametrize("name", STORIES)
def test_story(name: str, rewrite: bool, tmp_path: Path) -> None:
    """The screens of one story."""
    path = SCREENS / f"{name}.txt"
    story = path.read_text().rstrip("\n").split("\n")
    access = FakeAccess()
    socket = tmp_path / "admin.sock"
    with AdminServer(access, socket):
        observed = list(play(story, access, socket, tmp_path))
    if rewrite:
        path.write_text("\n".join(observed) + "\n")
        return
    assert story == observed


def test_there_are_stories() -> None:
    """A wrong path would make all of them pass."""
    assert len(STORIES) >= 12

"""What the commands of several objects share: property listings and changes, and the end of a wait."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cluster_cli import render
from cluster_cli.render import Screen
from cluster_cli.session import STATUS_PENDING, STATUS_RESOURCE_FAILED, Failed, Progress, Session, wait_limit
from cluster_cli.syntax import Assignment, Invocation, Option

OBJECT_OF_KIND = {
    "cluster": "Cluster",
    "node": "Node",
    "group": "Group",
    "resource": "Resource",
    "fence": "Fence",
    "network": "Network",
}
"""The administration object that serves each kind."""


WAIT_FOR_MONITORS_S = 10.0
"""How long a clean-up waits by itself for resource monitors to end."""
WAIT_S_MAX = 86_400.0


def service_program(words: Sequence[str], *, quiet: bool = False) -> list[str]:
    """Run the service's own program, which does what only this machine itself can do; the lines that it printed.

    It shares this terminal, unless it is ``quiet``. CLUSSVC_CONFIG names its node file, if that is not in its place.
    """
    config = os.environ.get("CLUSSVC_CONFIG")
    finished = subprocess.run(
        [sys.executable, "-m", "clussvc.service.main", *words, *(("--config", config) if config else ())],
        check=False,
        text=True,
        capture_output=quiet,
    )
    if finished.returncode:
        said = (finished.stderr or "").strip().removeprefix("clussvc: ")
        raise Failed(
            finished.returncode if finished.returncode > 0 else 1,
            said
            or f"'clussvc {words[0]}' did not succeed (exit code {finished.returncode}); its message stands above.",
            f"{words[0]}-failed",
        )
    return (finished.stdout or "").splitlines()


def sent(assignments: Iterable[Assignment]) -> list[dict[str, Any]]:
    """Assignments as the service takes them."""
    return [{"name": one.name, "text": one.text, "parts": list(one.parts), "format": one.format} for one in assignments]


def properties(invocation: Invocation, session: Session, kind: str) -> Screen:
    """Show or change common or private properties (the action says which)."""
    option = invocation.action
    private = option.name == "privproperties"
    served = OBJECT_OF_KIND[kind]
    name = () if kind == "cluster" else (invocation.name,)
    if option.assignments or option.names:
        return _change(option, session, served, name, private=private)
    lines = session.call(served, "private" if private else "properties", *name)
    title_name = str(session.call("Cluster", "version")["cluster"]) if kind == "cluster" else invocation.name or ""
    word = "private properties" if private else "properties"
    whom = f"'{title_name}'" if title_name else f"all {render.KIND_WORDS[kind]}s"
    text = render.titled(f"Listing {word} for {whom}:", render.property_lines(kind, lines, title_name))
    return Screen(text=text, data=lines)


def _change(option: Option, session: Session, served: str, name: tuple[str | None, ...], *, private: bool) -> Screen:
    method = "set_private" if private else "set_properties"
    session.change(served, method, *name, sent(option.assignments), list(option.names))
    changed = [one.name for one in option.assignments] or list(option.names)
    return Screen(text="", data={"changed": changed})


def limit_of(invocation: Invocation, default_s: float | None) -> float | None:
    """The limit of this command's wait."""
    return wait_limit(invocation.argument("wait"), given=invocation.has("wait"), default_s=default_s)


def settled(
    session: Session,
    look: Callable[[], tuple[Progress, str]],
    show: Callable[[], Screen],
    limit_s: float | None,
) -> Screen:
    """Wait, then show the object; the status is 0, 997 (goes on) or 5038 (failed).

    ``look`` says how far it is, with a sentence for the case that it is not done.
    """
    why = ""

    def observe() -> Progress:
        nonlocal why
        progress, why = look()
        return progress

    progress = session.wait(observe, limit_s)
    screen = show()
    if progress is Progress.DONE:
        return screen
    if progress is Progress.FAILED:
        status, message = STATUS_RESOURCE_FAILED, why
    else:
        status, message = STATUS_PENDING, f"{why} The operation goes on; this command waits no longer."
    text = f"{screen.text}\n\n{render.failure(status, message)}"
    return Screen(text=text, data=screen.data, status=status)


def single(lines: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The one object that was asked for by name."""
    if len(lines) != 1:
        raise Failed(1, "The cluster service did not answer with one object.", "bad-answer")
    return lines[0]


def done(text: str, data: object = None) -> Screen:
    """A change that shows nothing but what was done."""
    return Screen(text=text, data=data if data is not None else {"done": text})

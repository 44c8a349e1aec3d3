"""The command ``cluster``: speaks the language of cluster.exe to the cluster service.

This module is the entry alone: click takes what is usual on this system (``--output``, ``--socket``, ``--version``),
the rest goes to :mod:`cluster_cli.syntax`, and the result to the module of its object in :mod:`cluster_cli.commands`.

The exit code is the Win32 status that cluster.exe would return, as far as an exit code can be: its low eight bits, or 1
where they are zero. 0 is success; 229 (997) says that the operation goes on after the wait ended. The full status
stands in the message and in ``--output json``.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final, Protocol, cast

import click

from clussvc.admin.client import CommandRefused
from clussvc.model.errors import ClusterError
from clussvc.model.reports import Report
from cluster_cli import render
from cluster_cli.session import Failed, Session, report_of_error
from cluster_cli.syntax import Invocation, SyntaxProblem, parse, usage

_MODULES: Final = {
    "cluster": "cluster",
    "node": "node",
    "group": "group",
    "resource": "resource",
    "fence": "fence",
    "resourcetype": "restype",
    "network": "network",
    "netinterface": "network",
    "simulate": "insight",
    "explain": "insight",
    "validate-timing": "insight",
    "events": "insight",
    "admincert": "cluster",
}
"""The module of ``cluster_cli.commands`` for each object; only the one that is used is loaded."""

BAD_SYNTAX = 87


class _Commands(Protocol):
    def run(self, invocation: Invocation, session: Session) -> render.Screen: ...


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
@click.option("--output", type=click.Choice(["text", "json"]), default="text")
@click.option("--socket", "socket_path", type=click.Path(), default=None)
@click.version_option(package_name="clussvc", prog_name="cluster")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def main(output: str, socket_path: str | None, words: tuple[str, ...]) -> None:
    """Administer a cluster in the language of cluster.exe."""
    sys.exit(execute(words, json=output == "json", socket_path=socket_path))


def execute(words: tuple[str, ...], *, json: bool, socket_path: str | None = None) -> int:
    """Run one command, print its screen, and give the exit code."""
    try:
        invocation = parse(words)
    except SyntaxProblem as problem:
        where = "" if problem.object == "cluster" else f" {problem.object}"
        hint = f"'cluster{where} /?' shows the syntax."
        return _fail(Report(code="bad-syntax", status=BAD_SYNTAX, message=f"{problem.message}\n{hint}"), json=json)
    if invocation.wants_help:
        general = invocation.object == "cluster"
        print(usage(None) if not words else _general_usage() if general else usage(invocation.object))
        return 0
    session = Session(target=invocation.cluster, socket_path=socket_path, json=json)
    try:
        commands = cast(_Commands, importlib.import_module(f"cluster_cli.commands.{_MODULES[invocation.object]}"))
        screen = commands.run(invocation, session)
    except CommandRefused as refused:
        return _fail(refused.report, json=json)
    except Failed as failed:
        return _fail(failed.report, json=json)
    except ClusterError as error:
        return _fail(report_of_error(error), json=json)
    except BrokenPipeError:
        # The reader (head, less) has seen enough; that is no failure, and nothing more can be written.
        sys.stdout = None
        return 0
    except KeyboardInterrupt:
        return 130
    finally:
        for note in session.notes:
            print(render.printable(f"Note: {note}"), file=sys.stderr)
        session.close()
    print(render.as_json(screen.data) if json else render.printable(screen.text), flush=True)
    return exit_code(screen.status)


def exit_code(status: int) -> int:
    """A Win32 status as an exit code, which has eight bits; never 0 for a failure."""
    return status & 0xFF or (1 if status else 0)


def _general_usage() -> str:
    return usage(None) + "\n\n" + usage("cluster")


def _fail(report: Report, *, json: bool) -> int:
    if json:
        error = {
            "code": report.code,
            "status": report.status,
            "message": report.message,
            "severity": report.severity.value,
            "force_code": report.force_code,
        }
        print(render.as_json({"error": error}))
    else:
        print(render.printable(render.failure(report.status, report.message)), file=sys.stderr)
    return exit_code(report.status)


if __name__ == "__main__":
    main()

"""The command ``nlb``: speaks the language of nlb.exe to the load-balanced clusters of a failover cluster.

As with ``cluster``, click takes what is usual on this system and the rest goes to :mod:`cluster_cli.nlb_syntax`. The
exit code is 0 for success, also when a host was in the wanted state already; else the low eight bits of the status that
stands in ``--output json`` (1003 to 1013 are the states of the original: 1004, not found, is 236).
"""

from __future__ import annotations

import sys

import click

from clussvc.admin.client import CommandRefused
from clussvc.model.errors import ClusterError
from clussvc.model.reports import Report
from cluster_cli import render
from cluster_cli.main import BAD_SYNTAX, exit_code
from cluster_cli.nlb_syntax import parse, usage
from cluster_cli.session import Failed, Session, report_of_error
from cluster_cli.syntax import SyntaxProblem

BANNER = "NLB Cluster Control Utility of clussvc"


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
@click.option("--output", type=click.Choice(["text", "json"]), default="text")
@click.option("--socket", "socket_path", type=click.Path(), default=None)
@click.version_option(package_name="clussvc", prog_name="nlb")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def main(output: str, socket_path: str | None, words: tuple[str, ...]) -> None:
    """Control load-balanced clusters in the language of nlb.exe."""
    sys.exit(execute(words, json=output == "json", socket_path=socket_path))


def execute(words: tuple[str, ...], *, json: bool, socket_path: str | None = None) -> int:
    """Run one command, print its screen, and give the exit code."""
    try:
        invocation = parse(words)
    except SyntaxProblem as problem:
        message = f"{problem.message}\n'nlb help' shows the syntax."
        return _fail(Report(code="bad-syntax", status=BAD_SYNTAX, message=message), json=json)
    if invocation.command == "help":
        print(usage())
        return 0
    session = Session(target=invocation.target, socket_path=socket_path, json=json)
    for note in invocation.notes:
        session.remark(note)
    try:
        from cluster_cli.commands import nlb

        screen = nlb.run(invocation, session)
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
    if json:
        print(render.as_json(screen.data), flush=True)
    else:
        print(render.printable("\n".join(filter(None, [BANNER, screen.text]))), flush=True)
    return exit_code(screen.status)


def _fail(report: Report, *, json: bool) -> int:
    if json:
        error = {"code": report.code, "status": report.status, "message": report.message}
        print(render.as_json({"error": error}))
    else:
        print(render.printable(report.message), file=sys.stderr)
    return exit_code(report.status)


if __name__ == "__main__":
    main()

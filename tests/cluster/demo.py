"""The demonstration: three nodes keep a web server alive while the one that runs it is killed.

``python -m tests.cluster.demo`` (or ``script/demo``, which sets everything up first) forms a cluster of three virtual
machines, creates a group with an address, a web server and an application, lets a fourth machine fetch a page through
the address a hundred times a second, and kills the owner. All that it says about the cluster it has from the program
``cluster``. It ends with a non-zero status, and the ends of the services' logs, when something does not happen.

``--keep`` leaves the cluster up, and shows what to type to play with it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from clussvc.model.settings import PROFILES
from tests.cluster.formation import GROUP, NAME, STEP_LIMIT_S, Cluster
from tests.cluster.lab import CLIENT_ADDRESS, VIP, Lab, LabError, Node, Probe, eventually
from tests.cluster.probe import LIMIT_MS, RATE_HZ, longest_gap

QUIET_S = 1.0
"""How long everything must have been answered before the next blow."""
EVENTS_SHOWN = 12
MACHINE_COMMANDS = ("crash", "boot", "cut", "mute", "heal", "freeze", "thaw")


class Story:
    """Tells what happens, with the time since the beginning."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun_s = time.monotonic()

    def title(self, text: str) -> None:
        """A new chapter."""
        self._console.print()
        self._line(text, "bold cyan")

    def say(self, text: str, style: str = "") -> None:
        """One thing that happened."""
        self._line(f"  {text}", style)

    def show(self, text: str) -> None:
        """What a program printed, as it printed it."""
        self._console.print()
        for line in text.rstrip().splitlines():
            self._console.print(Text(f"    {line}"), soft_wrap=True)
        self._console.print()

    def command(self, words: str) -> None:
        """What is typed."""
        self._line(f"  $ {words}", "green")

    def _line(self, text: str, style: str) -> None:
        self._console.print(Text(f"{time.monotonic() - self._begun_s:6.1f} s "), Text(text, style), soft_wrap=True)


def tell(story: Story, lab: Lab, arguments: argparse.Namespace) -> None:
    """The whole story."""
    cluster = Cluster(lab)
    form(story, cluster, arguments.profile)
    create_group(story, cluster)
    story.title("A client")
    probe = lab.probe()
    begun_s = time.monotonic()
    probe.wait_answered(since_s=begun_s, answers=int(QUIET_S * RATE_HZ))
    story.say(f"{CLIENT_ADDRESS} fetches http://{VIP}/whoami {RATE_HZ} times a second, each time over a new")
    story.say(f"connection that has {LIMIT_MS} ms. The answer: {probe.attempts()[-1].answer!r}.")
    outages_s = [kill_the_owner(story, cluster, probe, number) for number in range(1, arguments.rounds + 1)]
    if len(outages_s) > 1:
        story.title(
            f"{len(outages_s)} crashes: outage min {min(outages_s):.2f} s, median {statistics.median(outages_s):.2f} s,"
            f" max {max(outages_s):.2f} s"
        )
    attempts = probe.end()
    answered = sum(1 for attempt in attempts if attempt.answer)
    story.title("The cluster at the end")
    for words in ("node", "group", "res"):
        story.command(f"cluster {words}")
        story.show(cluster.command(words))
    story.say(f"The client asked {len(attempts)} times and was answered {answered} times.")
    cluster.check_worker()
    counted = len(cluster.worker_file.read_text().splitlines())
    story.say(f"The application counted to {counted} across the nodes; no number is missing, none was counted twice.")
    story.say(f"The outage that the client saw: {statistics.median(outages_s):.2f} s.", "bold")


def form(story: Story, cluster: Cluster, profile: str) -> None:
    """Three machines become a cluster."""
    lab = cluster.lab
    story.title(f"Three machines form the cluster {NAME} (timing profile {profile!r})")
    first, *others = lab.nodes
    story.say("(The folders of each node, which these commands name as well, are left out here.)")
    story.command(
        f"clussvc create --cluster {NAME} --profile {profile} --node {first.name} --address {first.address} ..."
    )
    cluster.create(profile)
    story.say(f"{first.name} ({first.address}) is a cluster of one.")
    story.command(f"cluster /addnodes:{','.join(node.name for node in others)}")
    for node, token in zip(others, cluster.tokens(), strict=True):
        story.command(f"clussvc join {token[:16]}... --node {node.name} --address {node.address} ...")
        cluster.join(node, token)
        eventually(
            lambda name=node.name: cluster.node_states(first).get(name) == "Up",  # type: ignore[misc]
            f"{node.name} joins",
            timeout_s=STEP_LIMIT_S,
        )
        story.say(f"{node.name} ({node.address}) is up.")
    cluster.wait_all_up()


def create_group(story: Story, cluster: Cluster) -> None:
    """The group of three resources, online on its most preferred owner."""
    story.title(f"A group {GROUP}: an address, a web server that needs it, an application that needs both")
    cluster.create_web_group(failback=True, say=story.command)
    story.show(cluster.command("res"))


def kill_the_owner(story: Story, cluster: Cluster, probe: Probe, number: int) -> float:
    """The crash, the outage, the explanation, the return and the failback. Returns the outage in seconds."""
    lab = cluster.lab
    owner = cluster.owner(on=lab[1])
    witness = next(node for node in lab.nodes if node is not owner)
    cursor = last_event(cluster, witness)
    story.title(f"Crash {number}: kill -9 of everything on {owner.name}, which owns {GROUP}, and its cable pulled")
    fault_s = time.monotonic()
    owner.crash()
    probe.wait_answered(since_s=fault_s, answers=int(QUIET_S * RATE_HZ))
    gap = longest_gap(probe.attempts(), since_s=fault_s)
    assert gap is not None
    story.say(f"{gap.after.node} answers. Client-visible outage: {gap.length_s:.2f} s.", "bold yellow")
    assert gap.after.node is not None and gap.after.node != owner.name, (
        f"{gap.after.node} answers, though it was killed"
    )
    cluster.wait_group(gap.after.node, on=witness)
    story.command(f"cluster events /after:{cursor}          (on {witness.name})")
    story.show(cluster.command("events", f"/after:{cursor}", f"/limit:{EVENTS_SHOWN}", on=witness))
    story.command(f"cluster explain {GROUP}")
    story.show(cluster.command("explain", GROUP, on=witness))
    back(story, cluster, probe, owner, witness)
    return gap.length_s


def back(story: Story, cluster: Cluster, probe: Probe, owner: Node, witness: Node) -> None:
    """The killed machine boots, rejoins, and the group comes home."""
    cursor = last_event(cluster, witness)
    story.title(f"{owner.name} is switched on again")
    return_s = time.monotonic()
    owner.boot()
    owner.start_service()
    cluster.wait_nodes({node.name: "Up" for node in cluster.lab.nodes}, on=witness)
    story.say(f"{owner.name} is Up again after {time.monotonic() - return_s:.1f} s.")
    cluster.wait_group(owner.name, on=witness)
    home_s = time.monotonic()
    cluster.wait_all_up()
    probe.wait_answered(since_s=home_s, answers=int(QUIET_S * RATE_HZ))
    gap = longest_gap(probe.attempts(), since_s=return_s)
    assert gap is not None
    story.say(
        f"Failback: {GROUP} is on {owner.name} again, which it prefers; the client waited {gap.length_s:.2f} s.",
        "bold yellow",
    )
    story.show(cluster.command("events", f"/after:{cursor}", f"/limit:{EVENTS_SHOWN}", on=witness))


def last_event(cluster: Cluster, node: Node) -> int:
    """The cursor of the newest event."""
    newest = cluster.ask("events", "/limit:1", on=node)
    return int(newest["cursor"]) if newest else 0


# --- keeping the cluster --------------------------------------------------------------------------------------------


def keep(story: Story, lab: Lab) -> None:
    """Leave the cluster up until Ctrl-C; machines are crashed, cut and booted through a pipe."""
    control = lab.folder / "machines"
    os.mkfifo(control)
    program = Path(sys.executable).with_name("cluster")
    story.title("The cluster stays up until Ctrl-C. In another terminal:")
    story.show(
        f"export CLUSSVC_SOCKET={lab[2].socket}\n"
        f"alias cluster={shlex.quote(str(program))}\n"
        "cluster node; cluster group; cluster res\n"
        f"cluster group {GROUP} /moveto:{lab[2].name}\n"
        f"cluster simulate node {lab[2].name} down\n"
        f"cluster explain {GROUP}\n"
        "cluster events /follow\n\n"
        f"(that is {lab[2].name}'s socket; the others: {lab.folder}/n1/admin.sock, {lab.folder}/n3/admin.sock)\n\n"
        f"Machines, from any terminal ({', '.join(MACHINE_COMMANDS)}; ask = what the client is answered):\n"
        f"  echo crash NODE1 > {control}\n"
        f"  echo boot NODE1 > {control}\n"
        f"  echo ask > {control}\n"
        f"Logs: {lab.folder}/n1/data/service.log and so on."
    )
    # Open for both directions, the pipe never ends.
    with open(os.open(control, os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        while True:
            select.select([pipe], [], [])
            for line in (pipe.read(4096) or b"").decode(errors="replace").splitlines():
                try:
                    story.say(obey(lab, line.split()))
                except (AssertionError, LabError) as problem:
                    story.say(str(problem), "red")


def obey(lab: Lab, words: list[str]) -> str:
    """Do one thing to a machine; says what was done."""
    if words == ["ask"]:
        return ask(lab)
    if len(words) != 2 or words[0] not in MACHINE_COMMANDS or words[1].upper() not in {one.name for one in lab.nodes}:
        return f"not understood: {' '.join(words)!r}; write one of {', '.join(MACHINE_COMMANDS)} and a node, or 'ask'"
    what, node = words[0], lab.named(words[1].upper())
    if what == "boot":
        node.boot()
        node.start_service()
    else:
        act: Callable[[], None] = getattr(node, what)
        act()
    return f"{what} {node.name}: done"


def ask(lab: Lab) -> str:
    """One request of the client."""
    program = f"import urllib.request as r; print(r.urlopen('http://{VIP}/whoami', timeout=2).read().decode().strip())"
    done = subprocess.run(
        lab.enter_client(sys.executable, "-c", program), capture_output=True, text=True, timeout=20, check=False
    )
    return f"the client is answered {done.stdout.strip()!r}" if done.returncode == 0 else "the client gets no answer"


# --- the program ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder for everything that the machines write, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The options of the demonstration."""
    parser = argparse.ArgumentParser(
        prog="demo", description="Three virtual machines form a cluster; the owner of a web server is killed."
    )
    parser.add_argument("--keep", action="store_true", help="leave the cluster up until Ctrl-C, to play with it")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="lan", help="timing profile (default: lan)")
    parser.add_argument("--rounds", type=int, default=1, help="how many times the owner is killed (default: 1)")
    arguments = parser.parse_args(words)
    if not 1 <= arguments.rounds <= 1000:
        parser.error("--rounds must lie in 1..1000")
    return arguments


def _ended(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """0 when all went well, 1 when something did not happen, 130 or so when interrupted."""
    arguments = parse()
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGHUP, _ended)
    console = Console(highlight=False)
    story = Story(console)
    with own_folder() as folder:
        try:
            with Lab(folder=folder) as lab:
                try:
                    tell(story, lab, arguments)
                    if arguments.keep:
                        keep(story, lab)
                except (AssertionError, subprocess.TimeoutExpired) as problem:
                    story.say(f"This did not work: {problem}", "bold red")
                    for node in lab.nodes:
                        console.print(Text(node.tail()), soft_wrap=True)
                    return 1
        except LabError as problem:
            story.say(str(problem), "bold red")
            return 1
        except KeyboardInterrupt:
            story.say("Interrupted; everything is taken down.")
            return 0 if arguments.keep else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A lab of virtual machines on this one: what they are made of, and what can be done to them.

A machine is a set of namespaces (network, PID, mount, UTS, IPC) that a *holder* process keeps; nothing has a name, so
nothing can be left behind in /run or in the caller's own network. Its network card is one end of a veth pair, whose
other end is a port of a bridge in a namespace of its own, the *switch*; with two networks there are two cards and two
bridges, and the client is on the first. A crash is the switch port going down and the
death of PID 1, with which the kernel kills everything on the machine; the data folder is on the caller's disk and
outlives it.

Every holder has a lifeline: a pipe whose other end only the lab has. However the lab ends, kill -9 included, the pipes
end, the holders follow, and with them all the rest. (Use the lab in one thread that lives as long: what waits outside
for a program on a machine ends with the thread that started it.)

Needs root, or a user namespace in which the caller is root, and iproute2 and util-linux.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.cluster.probe import LIMIT_MS, RATE_HZ, Attempt, read_attempts, settled

REPOSITORY: Final = Path(__file__).resolve().parents[2]
NODE_INIT: Final = Path(__file__).with_name("node_init.py")
NEEDED_PROGRAMS: Final = ("ip", "bridge", "nsenter", "unshare", "setpriv", "mount")
NETWORK: Final = "10.77.0"
OTHER_NETWORK: Final = "10.78.0"
"""The second network, where the lab has one."""
OTHER_NETWORK_6: Final = "fd77:78:"
"""The same, where it is one of IPv6."""
PREFIX: Final = 24
PREFIX_6: Final = 64
CLIENT_ADDRESS: Final = f"{NETWORK}.100"
VIP: Final = f"{NETWORK}.200"
START_LIMIT_S: Final = 20.0
"""How long a holder may take to be there; it takes some ten milliseconds."""
COMMAND_LIMIT_S: Final = 90.0
MARK: Final = f"{os.getpid()}-{time.monotonic_ns()}"
"""In the environment of every process that this run starts."""
LOG_TAIL_LINES: Final = 25


class LabError(Exception):
    """The lab itself does not work; the message says what is missing."""


def eventually(predicate: Callable[[], object], what: str, *, timeout_s: float = 30.0) -> None:
    """Look again and again until ``predicate`` is true. Raises AssertionError that says ``what`` did not happen."""
    deadline_s = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"did not happen within {timeout_s:g} s: {what}")
        time.sleep(0.05)


def missing_programs() -> list[str]:
    """What the lab needs and this machine does not have."""
    return [program for program in NEEDED_PROGRAMS if shutil.which(program) is None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of a machine, by its number outside."""

    pid: int
    words: tuple[str, ...]

    def runs(self, module: str) -> bool:
        """Whether it is ``python -m module``; its children that only were forked from it are too."""
        return module in self.words

    def is_ours(self) -> bool:
        """Whether this test run started it. The system gives numbers of namespaces again, perhaps to another run."""
        with contextlib.suppress(OSError):
            return f"LAB_OF={MARK}".encode() in Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        return False


class Holder:
    """A process that keeps namespaces alive as long as its lifeline is."""

    def __init__(self, options: Sequence[str], program: Sequence[str], log: Path) -> None:
        with log.open("ab") as errors:
            self._unshare = subprocess.Popen(
                ["unshare", *options, *program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(),
            )
        assert self._unshare.stdin is not None and self._unshare.stdout is not None
        if "--fork" not in options:
            # Here the program is cat(1): what comes back was read inside the new namespaces.
            self._unshare.stdin.write(b"ready\n")
            self._unshare.stdin.flush()
        ready, _, _ = select.select([self._unshare.stdout], [], [], START_LIMIT_S)
        if not ready or self._unshare.stdout.readline() != b"ready\n":
            self.end()
            raise LabError(
                "cannot make the namespaces of a machine; run as root or under 'unshare --user --map-root-user'."
                f" The system says: {log.read_text(errors='replace').strip()[-400:]}"
            )
        self.pid = children_of(self._unshare.pid)[0] if "--fork" in options else self._unshare.pid
        self.pid_namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        self.namespaces = {os.readlink(f"/proc/{self.pid}/ns/net")}
        if "--fork" in options:
            self.namespaces.add(self.pid_namespace)

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self._unshare.poll() is None

    def end(self) -> None:
        """Kill it and wait until it is gone; the namespaces follow."""
        if self.lives:
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.kill(self.pid, signal.SIGKILL)
        for pipe in (self._unshare.stdin, self._unshare.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._unshare.wait(START_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._unshare.kill()
            self._unshare.wait(START_LIMIT_S)


class Node:
    """One machine of the lab, and the cluster service on it."""

    def __init__(self, lab: Lab, number: int) -> None:
        self._lab = lab
        self.number = number
        self.name = f"NODE{number}"
        self.address = f"{NETWORK}.{10 + number}"
        other = f"{OTHER_NETWORK_6}:{10 + number}" if lab.ipv6 else f"{OTHER_NETWORK}.{10 + number}"
        self.homes = (self.address, other)[: lab.networks]
        """Its address on each network."""
        self.listed = self.homes[::-1] if lab.ipv6 else self.homes
        """Its addresses as its node file has them; those of IPv6 come first."""
        self.folder = lab.folder / f"n{number}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = self.folder / "node.toml"
        self.data = self.folder / "data"
        self.socket = self.folder / "admin.sock"
        self.log = self.folder / "service.out"
        self.holder: Holder | None = None
        self._services: list[subprocess.Popen[bytes]] = []

    @property
    def port(self) -> str:
        """Its port of the switch."""
        return self.ports[0]

    @property
    def ports(self) -> tuple[str, ...]:
        """Its port of the switch on each network."""
        return (f"p{self.number}", f"q{self.number}")[: len(self.homes)]

    def _on(self, network: int | None) -> tuple[str, ...]:
        return self.ports if network is None else (self.ports[network],)

    # --- the machine ------------------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Whether the machine runs."""
        return self.holder is not None and self.holder.lives

    def boot(self) -> None:
        """Switch the machine on; nothing but its PID 1 runs then."""
        assert not self.up, f"{self.name} runs already"
        self.holder = Holder(
            (
                *("--net", "--pid", "--fork", "--mount", "--uts", "--ipc"),
                *("--kill-child=SIGKILL", "--mount-proc", "--propagation=private"),
            ),
            (sys.executable, "-I", str(NODE_INIT), self.name),
            self.folder / "init.out",
        )
        for network, (port, address) in enumerate(zip(self.ports, self.homes, strict=True)):
            mac = f"02:77:00:00:{network:02x}:{self.number:02x}"
            self._lab.plug(port, self.holder, address=address, mac=mac, network=network)

    def crash(self) -> None:
        """Pull the cable and end every process at once, as a power failure does."""
        self._assert_up()
        assert self.holder is not None
        self._lab.switch_ip(*(f"link set {port} down" for port in self.ports))
        os.kill(self.holder.pid, signal.SIGKILL)
        # PID 1 does not end before nsenter(1), which is stopped if the service was, has seen the service's end.
        self._wake_services()
        self.holder.end()
        self._forget_services()
        # The kernel takes the card away some time after the machine's end; the port must be free for the next boot.
        for port in self.ports:
            self._lab.switch_ip(f"link del {port}", check=False)

    def cut(self, network: int | None = None) -> None:
        """Pull the cable: the machine sees its link go down. All of them, or that of one network (0 or 1)."""
        self._assert_up()
        self._lab.switch_ip(*(f"link set {port} down" for port in self._on(network)))

    def mute(self, network: int | None = None) -> None:
        """The switch forwards nothing from or to the machine any more, which sees no change."""
        self._assert_up()
        for port in self._on(network):
            self._lab.on_switch("bridge", "link", "set", "dev", port, "state", "0")

    def heal(self, network: int | None = None) -> None:
        """Undo ``cut`` or ``mute``."""
        self._assert_up()
        self._lab.switch_ip(*(f"link set {port} up" for port in self._on(network)))
        for port in self._on(network):
            self._lab.on_switch("bridge", "link", "set", "dev", port, "state", "3")

    def enter(self, *words: str) -> list[str]:
        """The words that run a command on the machine."""
        self._assert_up()
        assert self.holder is not None
        # nsenter(1) waits outside and stops itself with its child; stopped, it would outlive a lab that was killed.
        bound = ("setpriv", "--pdeathsig", "KILL", "--")
        return [*bound, "nsenter", "-t", str(self.holder.pid), "-n", "-p", "-m", "-u", "-i", "--", *words]

    def _assert_up(self) -> None:
        assert self.up, f"{self.name} is switched off"

    def run(self, *words: str, timeout_s: float = COMMAND_LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine to its end."""
        return subprocess.run(self.enter(*words), capture_output=True, text=True, timeout=timeout_s, check=False)

    def addresses(self) -> list[str]:
        """The IPv4 addresses of its network card."""
        shown = self.run("ip", "-4", "-o", "address", "show", "dev", "eth0")
        return [line.split()[3].split("/")[0] for line in shown.stdout.splitlines()]

    def processes(self) -> list[Process]:
        """All processes of the machine but its PID 1, zombies left out."""
        if self.holder is None or not self.up:
            return []
        # Some processes outside, such as nsenter(1), share its network; only what runs on it has its PID namespace.
        inside = frozenset({self.holder.pid_namespace})
        return [one for one in processes_in(inside) if one.pid != self.holder.pid]

    def freeze(self) -> None:
        """Stop every process of the machine; its kernel lives on."""
        # A process that was being started while the first round went by is stopped by the second.
        for _ in range(2):
            signal_all(self.processes(), signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo ``freeze`` or ``freeze_service``."""
        signal_all(self.processes(), signal.SIGCONT)
        self._wake_services()

    def _wake_services(self) -> None:
        """nsenter(1) stops itself when its child is stopped."""
        for service in self._services:
            with contextlib.suppress(ProcessLookupError):
                os.kill(service.pid, signal.SIGCONT)

    # --- the cluster service ----------------------------------------------------------------------------------------

    def start_service(self, *switches: str) -> None:
        """Start ``clussvc run`` with these switches; returns at once."""
        # The service of this machine is the child of nsenter, which waits for it outside.
        with self.log.open("ab") as log:
            words = self.enter(
                sys.executable, "-m", "clussvc.service.main", "run", "--config", str(self.config), *switches
            )
            self._services.append(
                subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=environment())
            )

    def service(self) -> int | None:
        """The number of the service's process; None when it does not run."""
        for nsenter in self._services:
            if nsenter.poll() is None and (children := children_of(nsenter.pid)):
                return children[0]
        return None

    def monitors(self) -> list[int]:
        """The numbers of the resource monitors' processes."""
        return [one.pid for one in self.processes() if one.runs("clussvc.service.monitor_main")]

    def freeze_service(self) -> None:
        """Stop the process of the service alone; its monitors run on."""
        os.kill(self._running(self.service()), signal.SIGSTOP)

    def kill_service(self) -> None:
        """Kill the process of the service alone."""
        os.kill(self._running(self.service()), signal.SIGKILL)

    def kill_monitor(self) -> None:
        """Kill the resource monitor."""
        monitors = self.monitors()
        assert monitors, f"{self.name} runs no resource monitor"
        os.kill(monitors[0], signal.SIGKILL)

    def stop_service(self) -> None:
        """Ask the service to end in order (SIGTERM); returns at once."""
        os.kill(self._running(self.service()), signal.SIGTERM)

    def wait_service_ended(self, timeout_s: float = 30.0) -> None:
        """Wait until no service runs on the machine."""
        eventually(lambda: self.service() is None, f"the service of {self.name} ends", timeout_s=timeout_s)
        self._forget_services()

    def cluster(self, *words: str, timeout_s: float = COMMAND_LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Run the program ``cluster`` with these words, through the socket of this node."""
        return subprocess.run(
            [sys.executable, "-m", "cluster_cli.main", *words],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd="/",
            env=environment(CLUSSVC_SOCKET=str(self.socket), CLUSSVC_CONFIG=str(self.config)),
        )

    def tail(self) -> str:
        """The last lines that its service printed, which are also in its log, and any complaint beside them."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else ["(nothing)"]
        return "\n".join([f"--- {self.log}", *lines[-LOG_TAIL_LINES:]])

    def _running(self, pid: int | None) -> int:
        assert pid is not None, f"no service runs on {self.name}; its log ends with:\n{self.tail()}"
        return pid

    def _forget_services(self) -> None:
        for service in self._services:
            with contextlib.suppress(ProcessLookupError):
                os.kill(service.pid, signal.SIGCONT)
            service.wait(START_LIMIT_S)
        self._services.clear()


class Probe:
    """The client machine's program that asks for ``/whoami`` without end."""

    def __init__(self, lab: Lab, address: str, port: int, rate_hz: int, limit_ms: int) -> None:
        self.path = lab.folder / f"probe-{time.monotonic_ns()}.jsonl"
        program = Path(__file__).with_name("probe.py")
        self._process = subprocess.Popen(
            lab.enter_client(
                *(sys.executable, "-m", f"tests.cluster.{program.stem}", "--address", address, "--port", str(port)),
                *("--rate", str(rate_hz), "--limit-ms", str(limit_ms), "--output", str(self.path)),
            ),
            stdin=subprocess.PIPE,
            cwd=REPOSITORY,
            env=environment(),
        )

    def attempts(self) -> list[Attempt]:
        """All attempts so far."""
        return read_attempts(self.path)

    def wait_answered(self, *, since_s: float, answers: int = 20, timeout_s: float = 60.0) -> None:
        """Wait until that many attempts in a row, begun after ``since_s``, were all answered."""
        eventually(
            lambda: settled(self.attempts(), since_s=since_s, answers=answers),
            f"the client gets {answers} answers in a row",
            timeout_s=timeout_s,
        )

    def end(self) -> list[Attempt]:
        """Stop asking; all attempts."""
        if self._process.poll() is None:
            self._process.terminate()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(START_LIMIT_S)
        finally:
            self._process.kill()
        return self.attempts()


class Lab:
    """Machines NODE1, NODE2, ... and a client, joined by a switch. Use it in a ``with`` statement."""

    def __init__(self, *, folder: Path, nodes: int = 3, networks: int = 1, ipv6: bool = False) -> None:
        """``ipv6``: the second of two networks is one of IPv6."""
        if missing := missing_programs():
            raise LabError(f"not found: {', '.join(missing)}; install them with 'apt-get install iproute2 util-linux'")
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.networks = networks
        self.ipv6 = ipv6
        self._probes: list[Probe] = []
        self._seen: set[str] = set()
        self.nodes: list[Node] = []
        self._holders: list[Holder] = []
        try:
            self._switch = self.hold("switch")
            self._client = self.hold("client")
            self.switch_ip("link set lo up")
            for network in range(networks):
                self.switch_ip(
                    f"link add br{network} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                    f"link set br{network} up",
                )
            self.plug("pc", self._client, address=CLIENT_ADDRESS, mac="02:77:00:00:00:ff")
            self.nodes = [Node(self, number) for number in range(1, nodes + 1)]
            for node in self.nodes:
                node.boot()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, number: int) -> Node:
        """NODE ``number``, from 1."""
        return self.nodes[number - 1]

    def named(self, name: str) -> Node:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def probe(self, *, address: str = VIP, port: int = 80, rate_hz: int = RATE_HZ, limit_ms: int = LIMIT_MS) -> Probe:
        """Let the client ask from now on."""
        probe = Probe(self, address, port, rate_hz, limit_ms)
        self._probes.append(probe)
        return probe

    def enter_client(self, *words: str) -> list[str]:
        """The words that run a command on the client machine."""
        return ["nsenter", "-t", str(self._client.pid), "-n", "--", *words]

    def plug(self, port: str, holder: Holder, *, address: str, mac: str, network: int = 0) -> None:
        """Join a machine to the switch, with the same hardware address at every boot."""
        self._seen |= holder.namespaces
        self.switch_ip(
            f"link add {port} type veth peer name eth{network} address {mac} netns {holder.pid}",
            f"link set {port} master br{network} up",
        )
        self._ip(
            holder,
            "link set lo up",
            f"address add {address}/{PREFIX_6} dev eth{network} nodad"
            if ":" in address
            else f"address add {address}/{PREFIX} dev eth{network}",
            f"link set eth{network} up",
        )

    def switch_ip(self, *lines: str, check: bool = True) -> None:
        """Run lines of ip(8) on the switch."""
        self._ip(self._switch, *lines, check=check)

    def snoop(self) -> None:
        """Let the bridge listen to who joins which group, and ask for it."""
        self.switch_ip(
            "link set br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_interval 200"
            " mcast_query_response_interval 100 mcast_startup_query_interval 50"
        )

    def members(self, group: str) -> set[str]:
        """The ports of the switch behind which a group has members."""
        shown = subprocess.run(
            ["nsenter", "-t", str(self._switch.pid), "-n", "--", "bridge", "mdb", "show", "dev", "br0"],
            capture_output=True,
            text=True,
            timeout=START_LIMIT_S,
            check=True,
        ).stdout
        lines = [line.split() for line in shown.splitlines() if group in line.split()]
        return {words[words.index("port") + 1] for words in lines}

    def holder_ip(self, holder: Holder, *lines: str) -> None:
        """Run lines of ip(8) on a further machine."""
        self._ip(holder, *lines)

    def client_ip(self, *lines: str) -> None:
        """Run lines of ip(8) on the client."""
        self._ip(self._client, *lines)

    def node_ip(self, node: Node, *lines: str) -> None:
        """Run lines of ip(8) on a node."""
        assert node.holder is not None
        self._ip(node.holder, *lines)

    def split(self, *aside: Node) -> None:
        """These nodes are on a switch of their own from now on, the rest and the client on the other; links stay up."""
        self.switch_ip("link add br9 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set br9 up")
        self.switch_ip(*(f"link set {node.port} master br9" for node in aside))

    def join_again(self, *aside: Node) -> None:
        """Undo ``split``."""
        self.switch_ip(*(f"link set {node.port} master br0" for node in aside))
        self.switch_ip("link del br9")

    def on_switch(self, *words: str) -> None:
        """Run a command on the switch."""
        subprocess.run(["nsenter", "-t", str(self._switch.pid), "-n", "--", *words], check=True, timeout=START_LIMIT_S)

    def close(self) -> None:
        """End everything. Raises LabError when a process of the lab is left all the same."""
        for probe in self._probes:
            probe.end()
        for node in self.nodes:
            if node.holder is not None:
                node.holder.end()
                node._forget_services()
        for holder in self._holders:
            holder.end()
        deadline_s = time.monotonic() + START_LIMIT_S
        while left := [one for one in processes_in(frozenset(self._seen)) if one.is_ours()]:
            if time.monotonic() > deadline_s:
                raise LabError(f"left over: {left}")
            time.sleep(0.02)

    def hold(self, name: str) -> Holder:
        """A network for one more machine, until the lab is closed."""
        holder = Holder(("--net",), ("cat",), self.folder / f"{name}.out")
        self._holders.append(holder)
        self._seen |= holder.namespaces
        return holder

    @staticmethod
    def _ip(holder: Holder, *lines: str, check: bool = True) -> None:
        done = subprocess.run(
            ["nsenter", "-t", str(holder.pid), "-n", "--", "ip", "-batch", "-"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            timeout=START_LIMIT_S,
            check=False,
        )
        if check and done.returncode:
            raise LabError(f"ip(8) refused: {done.stderr.strip()} (of: {'; '.join(lines)})")


def environment(**more: str) -> dict[str, str]:
    """The environment of the programs under test: ours, without what another cluster's shell may have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLUSSVC_")}
    return {**kept, "LAB_OF": MARK, **more}


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def children_of(parent: int) -> list[int]:
    """The processes whose parent that one is, zombies left out."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            state, ppid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state not in "ZX":
                found.append(pid)
    return found


def processes_in(namespaces: frozenset[str]) -> list[Process]:
    """The processes that are in one of these network or PID namespaces, zombies left out."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            mine = {os.readlink(f"/proc/{pid}/ns/net"), os.readlink(f"/proc/{pid}/ns/pid")}
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if mine & namespaces and words != [b""]:
                found.append(Process(pid=pid, words=tuple(os.fsdecode(word) for word in words if word)))
    return found


def signal_all(processes: Sequence[Process], number: signal.Signals) -> None:
    """Signal each that is still there."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

"""What the packet filter costs, and how evenly it shares: ``python -m benchmarks.filter``.

* Kernel: nanoseconds for one frame by the kernel's own test run of the program, for a foreign frame, frames of this
  host's clients and frames of another host's, beside an empty program, whose time is the harness's.
* Path: nanoseconds for one frame through the kernel's receive path, with no filter, with this filter (generic XDP),
  and with ``xt_cluster`` (iptables; skipped if that is not installed). The kernel makes the frames itself (test run
  with live frames), so no sender's time is in it; they arrive at the loopback interface of a namespace of its own. What
  is accepted ends in one UDP socket whose buffer is full, what is dropped ends in the filter. The three take turns.
* Extension: decisions in a second by the batch interface on one core.
* Evenness: the busiest of 2 to 32 equal hosts over the mean, in buckets and in a million clients.

Needs root. Other load on the machine makes the figures worse, and the least of many short runs is reported beside the
median.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine
from clussvc.model.ids import HostId
from clussvc.nlb.bucket_map import BUCKETS_COMPATIBLE, BUCKETS_LARGE, counts, empty_map, next_map
from clussvc.nlb.filter.binding import XdpFilter, build
from clussvc.nlb.filter_table import RuleBuckets, Verdict
from tests.packets.frames import ACK, SYN, Packet
from tests.packets.tables import table

RESULTS: Final = Path(__file__).with_name("results")
REPEATS: Final = 200_000
LIVE_FRAMES: Final = 100_000
CLIENTS: Final = 1_000_000
RULES_32: Final = (
    "All 80 TCP Multiple None",
    *(f"All {1000 * number}-{1000 * number + 79} TCP Multiple None" for number in range(1, 32)),
)

_BPF: Final = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _TEST_RUN, _PROG_BY_ID = 0, 2, 5, 10, 13
_PROG_ARRAY, _LIVE, _HAS_FRAGS, _XDP = 3, 2, 32, 37


# --- the kernel's test run --------------------------------------------------------------------------------------------


def bpf(command: int, words: bytes) -> tuple[int, bytes]:
    """The bpf system call: what it returns, and what it wrote to its attributes."""
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = ctypes.create_string_buffer(words.ljust(144, b"\0"), 144)
    result = libc.syscall(_BPF[os.uname().machine], command, attributes, 144)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result, attributes.raw


def instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """One of the kernel's for BPF; target and source are registers."""
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


class Program:
    """A program for XDP out of its instructions."""

    def __init__(self, *instructions: bytes) -> None:
        code = ctypes.create_string_buffer(b"".join(instructions))
        license_text = ctypes.create_string_buffer(b"none")
        words = struct.pack("=IIQQ", 6, len(instructions), ctypes.addressof(code), ctypes.addressof(license_text))
        # As the filter is loaded: only programs that are alike in this go on with each other.
        words += struct.pack("=IIQII16xII", 0, 0, 0, 0, _HAS_FRAGS, 0, _XDP)
        self.fd = bpf(_PROG_LOAD, words)[0]
        self.after = b""
        """The frame as the last run left it."""

    def run(self, frame: bytes, repeat: int, *, live: bool = False) -> int:
        """Nanoseconds for one frame; live ones go on into the receive path of this namespace's loopback interface."""
        data, out = ctypes.create_string_buffer(frame, len(frame)), ctypes.create_string_buffer(4096)
        words = struct.pack(
            "=IIIIQQIIIIQQII",
            *(self.fd, 0, len(frame), 0 if live else 4096),
            *(ctypes.addressof(data), 0 if live else ctypes.addressof(out)),
            *(repeat, 0, 0, 0, 0, 0, _LIVE if live else 0, 0),
        )
        _, answer = bpf(_TEST_RUN, words)
        self.after = out.raw[: len(frame)]
        return int(struct.unpack_from("=I", answer, 36)[0])

    def close(self) -> None:
        """Give the program back."""
        os.close(self.fd)


class Passing(Program):
    """Lets everything pass: the harness alone, and the source of live frames."""

    def __init__(self) -> None:
        super().__init__(instruction(0xB7, 0, value=2), instruction(0x95))  # r0 = XDP_PASS; exit


class Changing(Program):
    """Gives every frame a client of its own, and hands it to the program with that descriptor.

    A test run has one frame only, but what a program changes in it lasts from one to the next, and the next run begins
    with what the last one left. ``second``: every client sends two frames, a SYN and what follows it; the frame to
    begin with must be what follows.
    """

    def __init__(self, then: int, frame: bytes, *, second: bool = False) -> None:
        self._frame = frame
        self._programs = bpf(_MAP_CREATE, struct.pack("=IIII", _PROG_ARRAY, 4, 4, 1))[0]
        key, value = ctypes.c_uint32(0), ctypes.c_uint32(then)
        words = struct.pack("=IIQQQ", self._programs, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
        bpf(_MAP_UPDATE, words)
        flip = (
            instruction(0x71, 5, 2, 47),  # r5 = the flags of TCP
            instruction(0xA7, 5, value=SYN ^ ACK),
            instruction(0x73, 2, 5, 47),
            instruction(0x55, 5, 0, 3, SYN),  # if that is no SYN, the client stays
        )
        change = (
            instruction(0x61, 5, 2, 26),  # r5 = the address of the source
            instruction(0x04, 5, value=0x1E3779B1),  # plus an odd number: every address comes in its turn
            instruction(0x63, 2, 5, 26),
        )
        changes = (*flip, *change) if second else change
        super().__init__(
            instruction(0xBF, 6, 1),  # r6 = the context
            instruction(0x61, 2, 1, 0),  # r2 = the frame, r3 its end
            instruction(0x61, 3, 1, 4),
            instruction(0xBF, 4, 2),
            instruction(0x07, 4, value=54),
            instruction(0x2D, 4, 3, len(changes)),  # if it is shorter than its headers, it is not changed
            *changes,
            instruction(0xBF, 1, 6),
            instruction(0x18, 2, 1, value=self._programs),  # r2 = the map; two instructions long
            instruction(0),
            instruction(0xB7, 3, value=0),
            instruction(0x85, value=12),  # the other program goes on
            instruction(0xB7, 0, value=2),
            instruction(0x95),
        )

    def go_on(self) -> int:
        """Nanoseconds for one of so many frames, none of which was there before."""
        taken = self.run(self._frame, REPEATS)
        self._frame = self.after
        return taken

    def close(self) -> None:
        """Give both back."""
        super().close()
        os.close(self._programs)


def kernel(rounds: int) -> list[dict[str, Any]]:
    """The verdicts by themselves."""
    passing = Passing()
    rows = []

    def measure(about: str, case: str, run: Callable[[], int], harness: Callable[[], int]) -> None:
        taken, floor = [run() for _ in range(rounds)], [harness() for _ in range(rounds)]
        rows.append({"table": about, "case": case, "ns": taken, "floor_ns": floor})
        print(f"{about}, {case}: {min(taken)} ns, harness {min(floor)} ns", flush=True)

    for name, rules, buckets in (
        ("1 rule, 60 buckets", (), BUCKETS_COMPATIBLE),
        ("32 rules, 960 buckets", RULES_32, BUCKETS_LARGE),
    ):
        found = XdpFilter()
        found.load(table(*rules, buckets=buckets))
        mine, others = clients_of(found)
        cases = {
            "foreign": Packet(target="192.0.2.99").frame(),
            "own, in a connection": mine.but(flags=ACK).frame(),
            "own, datagram": mine.but(protocol=17, target_port=9999).frame() if not rules else b"",
            "own, SYN": mine.but(flags=SYN, source=another_of(found, mine)).frame(),
            "another host's": others.but(flags=ACK).frame(),
            "own, in a connection, IPv6": next(
                each.but(flags=ACK).frame()
                for number in range(1, 99)
                for each in (Packet(source=f"2001:db8:{number}::1", target="2001:db8::10"),)
                if accepted(found, each)
            ),
        }
        for case, frame in cases.items():
            if frame:
                measure(name, case, partial(test_run_ns, found, frame), partial(passing.run, frame, REPEATS))
        # All clients are this host's from here on: none of them is the one before.
        found.load(table(*rules, buckets=buckets, hosts=1))
        program = bpf(_PROG_BY_ID, struct.pack("=I", found.identity()[0]))[0]
        for case, second, frame in (
            ("own, SYN of a new client", False, mine.but(flags=SYN).frame()),
            ("own, mean of a new client's SYN and second packet", True, mine.but(flags=ACK).frame()),
        ):
            changing, floor = (Changing(then, frame, second=second) for then in (program, passing.fd))
            measure(name, case, changing.go_on, floor.go_on)
            changing.close()
            floor.close()
        os.close(program)
        found.close()
    passing.close()
    return rows


def test_run_ns(found: XdpFilter, frame: bytes) -> int:
    """Nanoseconds for that frame in the filter, harness and all."""
    return found.test_run(frame, REPEATS)[1]


def accepted(found: XdpFilter, packet: Packet) -> bool:
    """Whether this host takes the first packet of such a connection."""
    decision = found.explain(
        client=ip_address(packet.source),
        server=ip_address(packet.target),
        client_port=packet.source_port,
        server_port=packet.target_port,
    )
    return decision.verdict is Verdict.ACCEPT


def clients_of(found: XdpFilter) -> tuple[Packet, Packet]:
    """A client of this host, and one of another."""
    packets = [Packet(source=f"198.51.100.{number}") for number in range(1, 100)]
    mine = next(packet for packet in packets if accepted(found, packet))
    others = next(packet for packet in packets if not accepted(found, packet))
    return mine, others


def another_of(found: XdpFilter, mine: Packet) -> str:
    """A second client of this host, which has no connection yet."""
    return next(
        address
        for address in (f"198.51.100.{number}" for number in range(1, 100))
        if address != mine.source and accepted(found, mine.but(source=address))
    )


# --- the receive path -------------------------------------------------------------------------------------------------


@contextmanager
def namespace() -> Iterator[None]:
    """A network namespace for this thread, with the virtual address on its loopback interface."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if libc.unshare(0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", "192.0.2.10/32", "dev", "lo")
        for name in ("all", "lo"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
        yield
    finally:
        libc.setns(before, 0x40000000)
        os.close(before)


def run(*words: str) -> None:
    """One command."""
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)


def xt_cluster_node(address: str) -> bool:
    """Whether xt_cluster with two nodes gives that client to node 1, found out by asking it."""
    begin_xt_cluster()
    try:
        passing = Passing()
        before = arrived()
        passing.run(datagram(address).frame(), 10, live=True)
        passing.close()
        return arrived() > before
    finally:
        end_xt_cluster()


def datagram(source: str) -> Packet:
    """What arrives at the loopback interface, whose link address is zero."""
    return Packet(source=source, protocol=17, target_port=9, mac=bytes(6))


def arrived() -> int:
    """UDP datagrams that reached the end of the path."""
    lines = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if line[:4] == "Udp:"]
    values = dict(zip(lines[0][1:], map(int, lines[1][1:]), strict=True))
    return values["InDatagrams"] + values["RcvbufErrors"] + values["NoPorts"]


def begin_xt_cluster() -> None:
    """Node 1 of two: what is not marked is dropped, as its manual shows it."""
    chain = ("iptables", "-t", "mangle", "-A", "PREROUTING", "-i", "lo", "-d", "192.0.2.10")
    run(
        *(*chain, "-m", "cluster", "--cluster-total-nodes", "2", "--cluster-local-node", "1"),
        *("--cluster-hash-seed", "0xdeadbeef", "-j", "MARK", "--set-mark", "0xffff"),
    )
    run(*chain, "-m", "mark", "!", "--mark", "0xffff", "-j", "DROP")


def end_xt_cluster() -> None:
    """Away with it."""
    run("iptables", "-t", "mangle", "-F", "PREROUTING")


def path(rounds: int) -> list[dict[str, Any]]:
    """No filter, ours, and xt_cluster, in turn."""
    with namespace(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as full:
        # Every datagram that is accepted comes to this socket, which has no room for more than a few.
        full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        full.bind(("192.0.2.10", 9))
        passing, found = Passing(), XdpFilter()
        current = replace(table("All 0-65535 Both Multiple Single"), own_mac=None)
        found.load(current)
        packets = [datagram(f"198.51.100.{number}") for number in range(1, 60)]
        ways: dict[str, tuple[Callable[[], None], Callable[[], None], Callable[[Packet], bool]]] = {
            "no filter": (lambda: None, lambda: None, lambda _: True),
            "this filter": (lambda: found.attach("lo"), found.detach, lambda packet: accepted(found, packet)),
        }
        if shutil.which("iptables"):
            ways["xt_cluster"] = (begin_xt_cluster, end_xt_cluster, lambda packet: xt_cluster_node(packet.source))
        frames: dict[tuple[str, str], bytes] = {}
        for way, (_, _, takes) in ways.items():
            for case, wanted in (("own", True), ("another's", False)):
                if way != "no filter" or wanted:
                    frames[way, case] = next(p for p in packets if takes(p) is wanted).frame()
        taken: dict[tuple[str, str], list[int]] = {key: [] for key in frames}
        for _ in range(rounds):
            for (way, case), frame in frames.items():
                begin, end, _ = ways[way]
                begin()
                try:
                    passing.run(frame, 1000, live=True)
                    before = arrived()
                    taken[way, case].append(passing.run(frame, LIVE_FRAMES, live=True))
                    came = arrived() - before
                finally:
                    end()
                expected = LIVE_FRAMES if case == "own" else 0
                if came != expected:
                    raise SystemExit(f"{way}, {case}: {came} of {LIVE_FRAMES} frames arrived, not {expected}")
        found.close()
        passing.close()
    for (way, case), values in taken.items():
        print(f"{way}, {case}: least {min(values)} ns, median {statistics.median(values):.0f} ns", flush=True)
    return [{"way": way, "case": case, "ns": values} for (way, case), values in taken.items()]


# --- the extension ----------------------------------------------------------------------------------------------------


def batches(rounds: int) -> list[dict[str, Any]]:
    """Decisions in a second on one core, by processor time."""
    rows = []
    for name, rules, buckets in (
        ("1 rule, 60 buckets", (), BUCKETS_COMPATIBLE),
        ("32 rules, 960 buckets", RULES_32, BUCKETS_LARGE),
    ):
        built = build(table(*rules, buckets=buckets))
        frames = [
            Packet(source=f"198.51.{number % 100}.{number % 250 + 1}", source_port=1024 + number).frame()
            for number in range(4096)
        ]
        data, ends, end = b"".join(frames), array("I"), 0
        for frame in frames:
            end += len(frame)
            ends.append(end)
        out = bytearray(4 * len(frames))
        best = []
        for _ in range(rounds):
            begin_ns = time.process_time_ns()
            for _ in range(100):
                built.decide_batch(data, ends, out)
            best.append(round(100 * len(frames) / (time.process_time_ns() - begin_ns) * 1e3, 2))
        rows.append({"table": name, "millions_per_s": best})
        print(f"batches, {name}: median {statistics.median(best):.1f}, best {max(best):.1f} million/s", flush=True)
    return rows


# --- evenness ---------------------------------------------------------------------------------------------------------


def evenness() -> list[dict[str, Any]]:
    """One host after the other joins. What each has of the buckets, and of a million clients with random addresses."""
    rows = []
    for buckets in (BUCKETS_COMPATIBLE, BUCKETS_LARGE):
        weights: dict[HostId, int] = {}
        owners = empty_map(buckets)
        for host in range(1, 33):
            weights[HostId(host)] = 50
            owners = next_map(owners, weights)
            if host == 1:
                continue
            had = counts(owners)
            row = {"buckets": buckets, "hosts": host, "busiest_over_mean": max(had.values()) * host / buckets}
            if host in (2, 3, 7, 8, 16, 29, 32):
                row["clients_over_mean"] = clients_over_mean(owners, host)
            rows.append(row)
        worst = max((row for row in rows if row["buckets"] == buckets), key=lambda row: row["busiest_over_mean"])
        print(f"{buckets} buckets: at most {worst['busiest_over_mean']:.3f} ({worst['hosts']} hosts)", flush=True)
    return rows


def clients_over_mean(owners: tuple[int, ...], hosts: int) -> float:
    """The busiest host's share of a million clients over the mean, as the C core decides."""
    current = replace(table(buckets=len(owners)), rule_buckets=(RuleBuckets(owners=owners),))
    built = build(current)
    frame = bytearray(Packet().frame())
    had = [0] * 33
    size, step = len(frame), 100_000
    ends = array("I", [size * (number + 1) for number in range(step)])
    for begin in range(0, CLIENTS, step):
        data = bytearray(frame * step)
        for number in range(step):
            # Knuth's multiplicative sequence: addresses without a pattern that the buckets could follow.
            data[size * number + 26 : size * number + 30] = ((begin + number) * 2654435761 % 2**32).to_bytes(4, "big")
        out = bytearray(4 * step)
        built.decide_batch(data, ends, out)
        for owner in range(1, hosts + 1):
            had[owner] += out[2::4].count(owner)
    return max(had) * hosts / sum(had)


def main() -> int:
    """Measure all of it and write the results."""
    parser = argparse.ArgumentParser(prog="filter", description="What the packet filter costs.")
    parser.add_argument("--rounds", type=int, default=15, help="short runs of each case (default 15)")
    rounds = parser.parse_args().rounds
    results = {
        "kind": "filter",
        "machine": machine(),
        "rounds": rounds,
        "kernel": kernel(rounds),
        "path": path(rounds),
        "batches": batches(rounds),
        "evenness": evenness(),
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"filter-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    file.write_text(json.dumps(results, indent=1))
    print(f"Written: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

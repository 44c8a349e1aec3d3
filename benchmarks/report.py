"""Tables and plots of what was measured last: ``python -m benchmarks.report``.

Reads the newest results of each benchmark in ``benchmarks/results/`` and writes them into ``docs/performance.md``,
between the lines that mark each part, with plots beside it. What a part means, and what limits it, is written by hand
around the marks and stays.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.__main__ import CONTENDERS, TWO_NODES

RESULTS: Final = Path(__file__).with_name("results")
DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
PLOTS: Final = DOCUMENT.with_name("performance")

FAULT_WORDS: Final = {
    "crash": "crash of the active node",
    "leader": "crash of the coordinator",
    "cut": "cable pulled",
    "mute": "silent cut",
    "server": "server process killed",
    "daemon": "cluster service killed",
    "move": "planned move",
}
THREE_NODES: Final = [tag for tag in CONTENDERS if tag not in TWO_NODES]
BAR_PX, GAP_PX, LABEL_PX, WIDTH_PX = 14, 10, 250, 860
COLOURS: Final = ("#2f6fb0", "#5aa0e0", "#b0562f", "#e08a5a", "#5f8f3a", "#97c46b")

Table = list[list[str]]


def newest(kind: str) -> dict[str, Any] | None:
    """The newest results of one benchmark; None if there are none."""
    files = sorted(RESULTS.glob(f"{kind}-2*.json"), key=lambda path: path.stat().st_mtime)
    found: dict[str, Any] | None = json.loads(files[-1].read_text()) if files else None
    return found


def lines_of(header: list[str], rows: Table) -> str:
    """A table for people."""
    return "\n".join(
        [
            "| " + " | ".join(header) + " |",
            "|" + "---|" * len(header),
            *("| " + " | ".join(row) + " |" for row in rows),
        ]
    )


# --- parts -----------------------------------------------------------------------------------------------------------


def merged(kind: str, tags: list[str]) -> dict[str, Any] | None:
    """The newest rounds of each of these contenders, which may have been measured one after the other."""
    rounds: dict[str, list[dict[str, Any]]] = {}
    about: dict[str, Any] = {}
    commits: dict[str, str] = {}
    for path in sorted(RESULTS.glob(f"{kind}-2*.json"), key=lambda path: path.stat().st_mtime):
        found = json.loads(path.read_text())
        measured = {one["tag"] for one in found["rounds"]} & set(tags)
        about = found["machine"] if measured else about
        for tag in measured:
            rounds[tag] = [one for one in found["rounds"] if one["tag"] == tag]
            commits[tag] = about.get("commit", "unknown")
    ordered = [one for tag in tags for one in rounds.get(tag, [])]
    used = list(dict.fromkeys(commits[tag] for tag in tags if tag in commits))
    return {"machine": {**about, "commits": used}, "rounds": ordered} if ordered else None


def machine() -> str:
    """What was measured on, when, and which commit."""
    found = merged("peers", THREE_NODES)
    if found is None:
        return ""
    about = found["machine"]
    return (
        f"Measured on {about['date']}, each row at one of the commits {', '.join(about['commits'])}:"
        f" {about['cores']} cores ({about['processor']}),"
        f" {about['memory_gib']} GiB, Linux {about['kernel']}, Python {about['python']}."
    )


def outages() -> str:
    """Outages of all contenders, with a plot."""
    found = merged("peers", THREE_NODES)
    if found is None:
        return ""
    rounds = found["rounds"]
    contenders = list(dict.fromkeys(one["contender"] for one in rounds))
    rows, bars = [], []
    for fault, words in FAULT_WORDS.items():
        group = []
        for contender in contenders:
            mine = [one for one in rounds if (one["contender"], one["fault"]) == (contender, fault)]
            if not mine:
                continue
            taken = [one["outage_s"] for one in mine]
            back = max(one["gap_on_return_s"] for one in mine)
            figures = (min(taken), statistics.median(taken), max(taken))
            rows.append([words, contender, str(len(mine)), *(f"{one:.3f}" for one in figures), f"{back:.3f}"])
            group.append((contender, figures))
        if group:
            bars.append((words, group))
    (PLOTS / "outages.svg").write_text(plot(bars, contenders, "seconds without an answer"))
    versions = "; ".join(dict.fromkeys(str(one["version"]) for one in rounds))
    header = ["fault", "contender", "n", "min s", "median s", "max s", "gap on return, max s"]
    return f"![Outages](performance/outages.svg)\n\n{lines_of(header, rows)}\n\nVersions: {versions}."


def two_nodes() -> str:
    """Outages of two nodes between which a disk or a third machine decides, without a plot."""
    found = merged("peers", [tag for tag in CONTENDERS if tag in TWO_NODES])
    if found is None:
        return ""
    rows = []
    for fault, contender in dict.fromkeys((one["fault"], one["contender"]) for one in found["rounds"]):
        mine = [one for one in found["rounds"] if (one["fault"], one["contender"]) == (fault, contender)]
        taken = [one["outage_s"] for one in mine]
        figures = (min(taken), statistics.median(taken), max(taken), max(one["gap_on_return_s"] for one in mine))
        rows.append([FAULT_WORDS[fault], contender, str(len(mine)), *(f"{one:.3f}" for one in figures)])
    rows.sort(key=lambda row: list(FAULT_WORDS.values()).index(row[0]))
    about = found["machine"]
    versions = "; ".join(dict.fromkeys(str(one["version"]) for one in found["rounds"]))
    return (
        f"Measured on {about['date']} at commit {', '.join(about['commits'])}.\n\n"
        f"{lines_of(['fault', 'contender', 'n', 'min s', 'median s', 'max s', 'gap on return, max s'], rows)}\n\n"
        f"Versions: {versions}."
    )


def updates(found: dict[str, Any]) -> str:
    """Latency and throughput of committed updates."""
    rows = [
        [
            one["contender"],
            str(one["clients"]),
            f"{one['per_second']:.0f}",
            *(f"{one[name]:.1f}" for name in ("median_ms", "p99_ms", "max_ms")),
        ]
        for one in found["steps"]
    ]
    bars = []
    for clients in dict.fromkeys(one["clients"] for one in found["steps"]):
        mine = [one for one in found["steps"] if one["clients"] == clients]
        group = [(one["contender"], (one["min_ms"], one["median_ms"], one["p99_ms"])) for one in mine]
        bars.append((f"{clients} client{'s' if clients > 1 else ''}", group))
    contenders = list(dict.fromkeys(one["contender"] for one in found["steps"]))
    (PLOTS / "updates.svg").write_text(
        plot(bars, contenders, "milliseconds for a committed update", most="99th percentile")
    )
    header = ["contender", "clients", "updates per second", "median ms", "p99 ms", "max ms"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"![Updates](performance/updates.svg)\n\n{lines_of(header, rows)}\n\nWriting and syncing 512 bytes alone takes"
        f" {found['sync_ms']} ms on this disk. Versions: {versions}."
    )


def startup(found: dict[str, Any]) -> str:
    """Questions of an administrator."""
    rows = [
        [f"`{one['program']}`", *(str(one[name]) for name in ("median_ms", "min_ms", "max_ms", "cpu_ms"))]
        for one in found["programs"]
    ]
    return lines_of(["program", "median ms", "min ms", "max ms", "processor ms"], rows)


def planning(found: dict[str, Any]) -> str:
    """Planning beside crm_simulate."""
    rows = [
        [one["contender"], one["situation"], *(str(one[name]) for name in ("median_ms", "max_ms", "planned"))]
        for one in found["plans"]
    ]
    return lines_of(["contender", "situation", "median ms", "max ms", "decisions or actions"], rows)


def bulk(found: dict[str, Any]) -> str:
    """Many resources: starting them, losing a node, memory."""
    title = (
        f"{found['resources']} resources in {found['groups']} groups on {found['nodes']} nodes, `{found['profile']}`:"
    )
    rows = [
        [
            words,
            str(found[name].get("online_s", found[name].get("answered_s", ""))),
            str(found[name].get("cpu_total_s", "")),
        ]
        for name, words in (
            ("create", "created"),
            ("online", "all online after one request"),
            ("move", "all moved"),
            ("crash", "a node lost, all online again"),
        )
        if name in found
    ]
    parts = [title, lines_of(["step", "seconds", "processor seconds, all nodes"], rows)]
    if "crash" in found:
        crash = found["crash"]
        parts.append(
            f"The lost node's {found['lost_resources']} resources were online again {crash['after_detection_s']} s"
            f" after the death was declared ({crash['detected_s']} s after the crash)."
        )
    idle = [
        [name, node, str(one["cpu_percent"]), str(one["pss_mib"])]
        for name in ("empty", "loaded")
        for node, one in found.get(name, {}).items()
    ]
    if idle:
        parts.append(lines_of(["standing still", "node", "processor, % of a core", "memory (PSS), MiB"], idle))
    return "\n\n".join(parts)


def quorum_disk(found: dict[str, Any]) -> str:
    """Two nodes with a disk: outages, and updates beside the disk's own writes."""
    outages_of, updates_of = [], []
    for disk, told in found["disks"].items():
        for fault, owns in dict.fromkeys((one["fault"], one["owns"]) for one in told["rounds"]):
            mine = [one["outage_s"] for one in told["rounds"] if (one["fault"], one["owns"]) == (fault, owns)]
            whose = "which owns the disk" if owns else "which does not own the disk"
            figures = [f"{value:.3f}" for value in (min(mine), statistics.median(mine), max(mine))]
            outages_of.append([disk, f"{FAULT_WORDS[fault]}, {whose}", str(len(mine)), *figures])
        updates_of.append(
            [
                disk,
                str(told["log"]["write"]["median_ms"]),
                str(told["log"]["entry"]["median_ms"]),
                f"{told['log']['ratio']:.2f}",
                str(told["log"]["entries_per_s"]),
                str(told["updates_on_owner"]["median_ms"]),
                str(told["updates_on_other"]["median_ms"]),
            ]
        )
    about = found["machine"]
    return "\n\n".join(
        [
            f"Measured on {about['date']} at commit {about['commit']}.",
            lines_of(["disk", "fault", "rounds", "min s", "median s", "max s"], outages_of),
            lines_of(
                [
                    *("disk", "its own write, median ms", "entry at the log, median ms", "ratio", "entries per second"),
                    *("update by command on the owner, median ms", "on the other node, median ms"),
                ],
                updates_of,
            ),
        ]
    )


def load(kind: str) -> Callable[[], str]:
    """Ten minutes with all cores busy, one profile."""

    def told() -> str:
        found = newest(f"load-{kind}")
        if found is None:
            return ""
        return (
            f"`{found['profile']}`: {found['minutes']:g} minutes with {found['busy_processes']} busy processes on"
            f" {found['machine']['cores']} cores: {found['declared_down']} nodes declared down,"
            f" {sum(found['leases_lost'].values())} leases lost; the client's longest gap was"
            f" {found['longest_gap_s']} s."
        )

    return told


def packet_filter(found: dict[str, Any]) -> str:
    """What a frame costs in the program, on the whole path, and in the extension; and how even the shares are."""

    def figures(values: list[float], form: str = "{:.0f}") -> list[str]:
        return [form.format(min(values)), form.format(statistics.median(values))]

    cases = [
        [
            one["table"],
            one["case"],
            *figures(one["ns"]),
            f"{min(one['ns']) - min(one['floor_ns'])}",
        ]
        for one in found["kernel"]
    ]
    ways = [[one["way"], one["case"], *figures(one["ns"])] for one in found["path"]]
    batches = [[one["table"], *figures(one["millions_per_s"], "{:.1f}")[1:]] for one in found["batches"]]
    shares = []
    for buckets in dict.fromkeys(one["buckets"] for one in found["evenness"]):
        mine = [one for one in found["evenness"] if one["buckets"] == buckets]
        worst = max(mine, key=lambda one: one["busiest_over_mean"])
        by_clients = max((one for one in mine if "clients_over_mean" in one), key=lambda one: one["clients_over_mean"])
        shares.append(
            [
                str(buckets),
                f"{worst['busiest_over_mean']:.3f} ({worst['hosts']} hosts)",
                f"{by_clients['clients_over_mean']:.3f} ({by_clients['hosts']} hosts)",
            ]
        )
    about = found["machine"]
    kernel_header = ["table", "frame", "least ns", "median ns", "least, harness deducted"]
    return (
        f"Measured on {about['date']} at commit {about['commit']}, Linux {about['kernel']}.\n\n"
        f"{lines_of(kernel_header, cases)}\n\n"
        f"{lines_of(['path', 'frame', 'least ns', 'median ns'], ways)}\n\n"
        f"{lines_of(['extension', 'million decisions a second'], batches)}\n\n"
        f"{lines_of(['buckets', 'busiest host over mean, at worst', 'of a million clients, at worst'], shares)}"
    )


def part_of(kind: str, told: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    """A part that is left as it is when nothing was measured."""

    def part() -> str:
        found = newest(kind)
        return told(found) if found is not None else ""

    return part


PARTS: Final[dict[str, Callable[[], str]]] = {
    "machine": machine,
    "outages": outages,
    "updates": part_of("updates", updates),
    "startup": part_of("startup", startup),
    "planning": part_of("planning", planning),
    "bulk": part_of("bulk-3-500", bulk),
    "bulk-8": part_of("bulk-8-1000", bulk),
    "quorum-disk": part_of("quorum-disk", quorum_disk),
    "two-nodes": two_nodes,
    "packet-filter": part_of("filter", packet_filter),
    "load-lan": load("lan"),
    "load-fast": load("fast"),
}


# --- plots -----------------------------------------------------------------------------------------------------------


def plot(
    groups: Iterable[tuple[str, list[tuple[str, tuple[float, float, float]]]]],
    contenders: list[str],
    axis: str,
    *,
    most: str = "most",
) -> str:
    """Bars of medians on a logarithmic scale, with whiskers from the least to the most; an SVG for light and dark."""
    groups = list(groups)
    values = [value for _, bars in groups for _, figures in bars for value in figures]
    low, high = 10.0 ** math.floor(math.log10(min(values))), 10.0 ** math.ceil(math.log10(max(values)))
    high = max(high, 10 * low)

    def x(value: float) -> float:
        return LABEL_PX + (WIDTH_PX - LABEL_PX - 60) * math.log(max(value, low) / low) / math.log(high / low)

    parts, y = [], 30.0 + 16 * ((len(contenders) + 2) // 3)
    begin = y
    for title, bars in groups:
        parts.append(f'<text x="8" y="{y + 11:.0f}" class="title">{html.escape(title)}</text>')
        y += 18
        for name, (least, median, greatest) in bars:
            colour = COLOURS[contenders.index(name) % len(COLOURS)]
            middle = y + BAR_PX / 2
            parts.append(
                f'<text x="{LABEL_PX - 8}" y="{y + 11:.0f}" class="label">{html.escape(name)}</text>'
                f'<rect x="{LABEL_PX}" y="{y:.0f}" width="{max(x(median) - LABEL_PX, 1):.1f}" height="{BAR_PX}"'
                f' fill="{colour}"/><line x1="{x(least):.1f}" y1="{middle:.0f}" x2="{x(greatest):.1f}"'
                f' y2="{middle:.0f}"'
                f' class="whisker"/><text x="{x(greatest) + 6:.1f}" y="{y + 11:.0f}" class="value">{median:.3g}</text>'
            )
            y += BAR_PX + 3
        y += GAP_PX
    ticks = []
    tick = low
    while tick <= high * 1.001:
        ticks.append(
            f'<line x1="{x(tick):.1f}" y1="{begin:.0f}" x2="{x(tick):.1f}" y2="{y:.0f}" class="grid"/>'
            f'<text x="{x(tick):.1f}" y="{y + 14:.0f}" class="tick">{tick:g}</text>'
        )
        tick *= 10
    legend = "".join(
        f'<rect x="{8 + 280 * (number % 3)}" y="{8 + 16 * (number // 3)}" width="10" height="10"'
        f' fill="{COLOURS[number % len(COLOURS)]}"/><text x="{24 + 280 * (number % 3)}" y="{17 + 16 * (number // 3)}"'
        f' class="value">{html.escape(name)}</text>'
        for number, name in enumerate(contenders)
    )
    height = y + 36
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {height:.0f}" width="{WIDTH_PX}"'
        f' height="{height:.0f}" role="img"><title>{html.escape(axis)}</title><style>text{{font:12px sans-serif;'
        "fill:#333}.title{font-weight:bold}.label{text-anchor:end}.tick{text-anchor:middle;fill:#777}"
        ".grid{stroke:#999;stroke-opacity:.25}.whisker{stroke:#222;stroke-width:1.5}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}.whisker{stroke:#eee}}</style>"
        f'{legend}{"".join(ticks)}{"".join(parts)}<text x="{LABEL_PX}" y="{height - 6:.0f}" class="value">'
        f"{html.escape(axis)} (logarithmic; bar: median, line: least to {most})</text></svg>\n"
    )


def main() -> int:
    """Write the parts for which there is something to say."""
    parser = argparse.ArgumentParser(prog="report", description="Tables and plots of the newest results.")
    parser.parse_args()
    PLOTS.mkdir(exist_ok=True)
    text = DOCUMENT.read_text()
    for name, told in PARTS.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if begin not in text:
            print(f"{DOCUMENT} has no place for {name}")
            return 1
        before, rest = text.split(begin)
        _, after = rest.split(end)
        content = told()
        if content:
            text = f"{before}{begin}{content}\n{end}{after}"
    DOCUMENT.write_text(text)
    print(f"Written: {DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

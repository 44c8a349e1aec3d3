"""The choice of the quorum, and its settings.

A local quorum and a majority node set have the same log, so one becomes the other by a word. A quorum disk has another
log, on the disk. A change to a quorum with another log is a *cut*: the last update of the log that is left.
"""

from __future__ import annotations

import re
from dataclasses import replace

from clussvc.global_update.outcome import Done, Result, note
from clussvc.global_update.refusals import not_settled, quorum_changed
from clussvc.global_update.update import SetQuorum
from clussvc.model.config import Config
from clussvc.model.quorum import (
    DEVICE_LENGTH_MAX,
    HOLD_MS_RANGE,
    LOG_KB_RANGE,
    NODE_NUMBER_MAX,
    Quorum,
    QuorumKind,
)
from clussvc.model.reports import Report, bad_argument, bad_property, limit_reached, quorum_cannot_become
from clussvc.model.settings import PROFILES, Timing, disk_timing
from clussvc.quorum.majority import is_majority

_DISK = re.compile(r"[0-9a-f]{16}", re.ASCII)


def check_quorum(quorum: Quorum) -> Report | None:
    """Whether the settings of a quorum make sense by themselves; the disk itself is looked at by those who open it."""
    (least_kb, most_kb), (shortest_ms, longest_ms) = LOG_KB_RANGE, HOLD_MS_RANGE
    if not least_kb <= quorum.max_log_kb <= most_kb:
        return bad_property("the quorum", "MaxLogSize", f"{quorum.max_log_kb} KB is outside {least_kb}..{most_kb}")
    if quorum.hold_ms and not shortest_ms <= quorum.hold_ms <= longest_ms:
        return bad_property("the quorum", "HoldMs", f"{quorum.hold_ms} is outside {shortest_ms}..{longest_ms}")
    if quorum.generation < 0 or len(quorum.device) > DEVICE_LENGTH_MAX:
        return bad_argument(f"A quorum device has at most {DEVICE_LENGTH_MAX} characters.")
    if quorum.on_disk and not (quorum.device and _DISK.fullmatch(quorum.disk)):
        return bad_argument("A quorum disk needs a device and the identifier that stands on it.")
    if quorum.on_disk and quorum.max_log_kb > quorum.most_log_kb:
        return bad_property("the quorum", "MaxLogSize", f"the disk has room for a log of {quorum.most_log_kb} KB")
    return None


def unsettled_nodes(config: Config) -> list[str]:
    """The names of the nodes that may act by the majority that was before the quorum disk."""
    return [node.name for node in config.nodes.values() if node.unsettled]


def set_quorum(config: Config, update: SetQuorum) -> Result:
    """All of it, or nothing."""
    if update.quorum is not None:
        return _cut(config, update.quorum, update.voters_version, anew=update.anew)
    before = config.quorum
    kind = update.kind or before.kind
    if kind is not before.kind:
        if config.witness.chosen:
            return _witness_first(before, kind)
        if before.on_disk or kind is QuorumKind.DISK:
            return quorum_cannot_become(
                before.kind.value, kind.value, "it has another log, which this release of clussvc prepares first"
            )
        if bad := _not_alone(config, kind):
            return bad
    if update.max_log_kb and not before.on_disk:
        return bad_property("the quorum", "MaxLogSize", f"a {before.kind.value} has no log on a disk")
    if update.hold_ms and not before.on_disk:
        return bad_property("the quorum", "HoldMs", f"nobody holds a {before.kind.value}")
    if update.hold_ms < -1:
        return bad_property("the quorum", "HoldMs", f"{update.hold_ms} is no time")
    hold_ms = max(0, update.hold_ms) if update.hold_ms else before.hold_ms
    quorum = replace(before, kind=kind, max_log_kb=update.max_log_kb or before.max_log_kb, hold_ms=hold_ms)
    if bad := check_quorum(quorum):
        return bad
    if quorum == before:
        return Done(config=config)
    messages = []
    if kind is not before.kind:
        messages.append(f"The quorum of cluster {config.name} is a {kind.value} now.")
    if quorum.max_log_kb != before.max_log_kb:
        messages.append(f"The log on the quorum disk may grow to {quorum.max_log_kb} KB now.")
    if hold_ms != before.hold_ms:
        now_ms = disk_timing(PROFILES[config.timing.profile], hold_ms).hold_ms
        messages.append(f"The owner of the quorum disk holds it for {now_ms} ms at a time now.")
    return Done(
        config=with_timing(replace(config, quorum=quorum), quorum.timing_of(config.timing.profile)),
        records=note("cluster.quorum", " ".join(messages), kind="cluster", thing=config.name),
    )


def with_timing(config: Config, timing: Timing) -> Config:
    """The configuration by another timing.

    Raises ``voters_version``: whoever counted silences by the former one is refused, so that no node is declared down
    while a lease of a slower kind runs (rule R3). After a change to a faster one, a node that has not said that it has
    read of it is judged by the slowest timing there is (``timing_version``).
    """
    if timing == config.timing:
        return config
    version = config.voters_version + 1
    quicker = timing.quicker_than(config.timing)
    return replace(
        config,
        timing=timing,
        # The newest change to a faster timing is this one, and not one of the quorum.
        quorum=replace(config.quorum, former_silence_ms=0) if quicker else config.quorum,
        voters_version=version,
        timing_version=version if quicker else config.timing_version,
    )


def _not_alone(config: Config, wanted: QuorumKind) -> Report | None:
    if wanted is not QuorumKind.LOCAL or len(config.nodes) == 1:
        return None
    others = [node.name for node in config.nodes.values()][1:]
    return quorum_cannot_become(
        config.quorum.kind.value,
        wanted.value,
        f"a local quorum is one node's own; evict {', '.join(others)} first (cluster node NAME /evict)",
    )


def _witness_first(before: Quorum, wanted: QuorumKind) -> Report:
    """What the witness has decided counts for a majority node set alone, and for its own log."""
    why = "it has a witness; remove that first (cluster /quorum /witness:none)"
    return quorum_cannot_become(before.kind.value, wanted.value, why)


def _cut(config: Config, wanted: Quorum, voters_version: int, *, anew: bool) -> Result:
    """The last update of the present log. What follows it there is ignored by everybody; the log of the next generation
    begins with the state after it (docs/decisions/0020). ``anew``: only for the sake of that (docs/decisions/0018)."""
    before = config.quorum
    if wanted.generation != before.generation + 1 or voters_version != config.voters_version:
        return quorum_changed()
    if unsettled := unsettled_nodes(config):
        return not_settled(unsettled)
    if config.witness.chosen:
        return _witness_first(before, wanted.kind)
    if anew and not (wanted.replicated and wanted.kind is before.kind):
        return quorum_cannot_become(before.kind.value, wanted.kind.value, "only a log among the nodes is begun anew")
    if wanted.same_log(before) and not anew:
        return quorum_cannot_become(before.kind.value, wanted.kind.value, "its log is the same one")
    if bad := _not_alone(config, wanted.kind) or check_quorum(wanted) or _short_of_votes(config, wanted):
        return bad
    if wanted.on_disk and config.next_node_id - 1 > NODE_NUMBER_MAX:
        return limit_reached("node numbers on a quorum disk", NODE_NUMBER_MAX)
    timing = wanted.timing_of(config.timing.profile)
    version = config.voters_version + 1
    quicker = timing.quicker_than(config.timing)
    settling = before.replicated and wanted.on_disk
    # Somebody may hold the disk, or a lease, by a slower profile that was in force before.
    hold_ms = before.longest_hold_ms(config.timing.profile, any_profile=bool(config.timing_version))
    changed = replace(
        config,
        quorum=replace(wanted, former_hold_ms=hold_ms, former_silence_ms=config.timing.silence_ms() if quicker else 0),
        timing=timing,
        voters_version=version,
        timing_version=version if quicker else config.timing_version,
        settling_version=version if settling else config.settling_version,
    )
    if settling:
        nodes = {node.id: replace(node, unsettled=node.up) for node in config.nodes.values()}
        changed = replace(changed, nodes=nodes)
    where = f" ({wanted.device})" if wanted.on_disk else ""
    message = f"The quorum of cluster {config.name} is a {wanted.kind.value}{where} now."
    because = f"an administrator has changed it; it was a {before.kind.value} before"
    if anew:
        message, because = f"The log of cluster {config.name} begins anew.", "an administrator wants it to"
    return Done(
        config=changed, records=note("cluster.quorum", message, kind="cluster", thing=config.name, because=because)
    )


def _short_of_votes(config: Config, wanted: Quorum) -> Report | None:
    """Whether a majority of the voters is up; without one the change itself would take the quorum from everybody."""
    if not wanted.replicated:
        return None
    up = [voter for voter in config.voters if config.nodes[voter].up]
    if is_majority(set(up), set(config.voters)):
        return None
    down = ", ".join(config.node_name(voter) for voter in sorted(config.voters) if not config.nodes[voter].up)
    return quorum_cannot_become(
        config.quorum.kind.value,
        wanted.kind.value,
        f"{len(up)} of {len(config.voters)} voters are up, which is no majority; start {down} first",
    )

"""``cluster simulate``, ``explain``, ``events``, ``validate-timing``: what would happen, why it is so, what happened,
how fast this cluster may be."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from cluster_cli import render
from cluster_cli.render import Screen
from cluster_cli.session import Failed, Session
from cluster_cli.syntax import Invocation

EVENTS_SHOWN = 50
MEASURED_S = 10
MEASURED_S_MAX = 3_600
EVENTS_MAX = 1_000


def run(invocation: Invocation, session: Session) -> Screen:
    """Do what the command says."""
    match invocation.object:
        case "explain":
            if invocation.name is None:
                raise Failed(87, "Which group? cluster explain GROUP.", "bad-argument")
            return explain(session, invocation.name)
        case "simulate":
            return _simulate(invocation, session)
        case "validate-timing":
            return _validate_timing(invocation, session)
        case _:
            return _events(invocation, session)


def explain(session: Session, name: str) -> Screen:
    """Why a group is where it is."""
    data = session.call("Group", "explain", name)
    places = ("Nodes, in the order in which it looks at them:", [one["words"] for one in data["candidates"]])
    first = [line for line in (data["owner"], data["because"], data["next"]) if line]
    return Screen(text=_paragraphs(first, [places, ("Policies:", data["policies"])]), data=data)


def _simulate(invocation: Invocation, session: Session) -> Screen:
    words = invocation.words
    if len(words) < 3:
        raise Failed(
            87,
            "What is to be simulated? cluster simulate node NAME down|pause|resume|up, or group NAME moveto [NODE],"
            " or resource NAME fail.",
            "bad-argument",
        )
    kind = {"res": "resource", "resourcegroup": "group", "resgroup": "group"}.get(words[0].lower(), words[0].lower())
    event = {"move": "moveto"}.get(words[2].lower(), words[2].lower())
    data = session.call("Cluster", "what_if", kind, event, words[1], words[3] if len(words) > 3 else None)
    return Screen(text=_supposed(data), data=data)


def _supposed(data: Mapping[str, Any]) -> str:
    """What would happen, who would own what, and what nobody could help."""
    changes = [f"{one['group']}: {one['before'] or '(none)'} -> {one['after'] or '(none)'}" for one in data["changes"]]
    return _paragraphs(
        [f"Suppose: {data['event']}", data["quorum"]],
        [
            ("What would happen:", data["steps"]),
            ("Groups with another owner:", changes),
            ("Groups that nobody could take:", data["blocked"]),
            ("Later:", data["later"]),
            ("", [f"Groups that would stay where they are: {data['unchanged']}"]),
        ],
    )


def _paragraphs(first: list[str], parts: Iterable[tuple[str, list[str]]]) -> str:
    """Sentences, then lists under their titles; empty lists are left out."""
    lines = list(first)
    for title, sentences in parts:
        if sentences:
            lines.append("")
            lines.extend([title, *(f"  {one}" for one in sentences)] if title else sentences)
    return "\n".join(lines)


def _validate_timing(invocation: Invocation, session: Session) -> Screen:
    """Measure for a while how late heartbeats are, and say which timing profile bears that."""
    seconds = _number(invocation, "seconds", MEASURED_S)
    if not 1 <= seconds <= MEASURED_S_MAX:
        raise Failed(87, f"/seconds:{seconds} must lie in 1..{MEASURED_S_MAX}.", "bad-argument")
    session.call("Cluster", "measure_timing")
    session.progress(f"Measuring for {seconds} s ...")
    time.sleep(seconds)
    data = session.call("Cluster", "measure_timing")
    gaps = [f"{name}: {gap_ms} ms between two heartbeats" for name, gap_ms in data["gaps_ms"].items()]
    fits = [
        f"{one['profile']}: {'fits' if one['fits'] else 'does not fit'}; {one['because']}" for one in data["profiles"]
    ]
    if data["recommended"]:
        verdict = f"Recommended: {data['recommended']}."
    else:
        verdict = "No profile bears this; look for what delays this machine or its network."
    first = [
        f"Seen by {data['node']} in {seconds} s, at the worst (heartbeats every {data['interval_ms']} ms, profile"
        f" {data['profile']}):",
        f"  its own heartbeats were sent {data['sender_late_ms']} ms late",
        f"  its service was {data['core_late_ms']} ms late",
        *(f"  {line}" for line in gaps),
    ]
    return Screen(text=_paragraphs(first, [("Profiles:", fits), ("", [verdict])]), data=data)


def _events(invocation: Invocation, session: Session) -> Screen:
    limit = _number(invocation, "limit", EVENTS_SHOWN)
    if not 1 <= limit <= EVENTS_MAX:
        raise Failed(87, f"/limit:{limit} must lie in 1..{EVENTS_MAX}.", "bad-argument")
    if invocation.has("after"):
        events, cursor = session.client.events(_number(invocation, "after", 0), limit=limit)
    else:
        answer = session.call("EventStream", "newest", limit)
        events, cursor = answer["events"], answer["cursor"]
    if invocation.has("follow"):
        _follow(session, events, cursor)
    lines = [render.event_line(event) for event in events]
    text = "\n".join([*lines, "", f"Cursor: {cursor}"])
    return Screen(text=text, data={"events": events, "cursor": cursor})


def _follow(session: Session, events: list[dict[str, Any]], cursor: int) -> None:
    """Show events until interrupted; in JSON, one object on each line."""
    import json

    def show(event: dict[str, Any]) -> None:
        print(json.dumps(event, ensure_ascii=False) if session.json else render.event_line(event), flush=True)

    for event in events:
        show(event)
    for event in session.client.follow(cursor):
        show(event)


def _number(invocation: Invocation, option: str, default: int) -> int:
    argument = invocation.argument(option)
    if argument is None:
        return default
    if not argument.isdecimal() or len(argument) > 18:
        raise Failed(87, f"/{option}:{argument} is not a number.", "bad-argument")
    return int(argument)

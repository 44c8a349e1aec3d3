"""``cluster simulate``, ``cluster explain`` and ``cluster events``: what would happen, why it is so, what happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster_cli import render
from cluster_cli.render import Screen
from cluster_cli.session import Failed, Session
from cluster_cli.syntax import Invocation

EVENTS_SHOWN = 50
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

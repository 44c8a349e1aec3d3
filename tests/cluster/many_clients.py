"""Many clients of a load-balanced service, in one process on the client machine.

``many_clients.py connect ADDRESS PORT COUNT [FIRST [LIMIT_MS]]`` makes COUNT connections, each from an address of its
own (10.79.x.y, counted from FIRST on; over IPv6 all from that of the machine), and prints a line of JSON: who answered
each, or null after the limit.
``many_clients.py drip ADDRESS PORT COUNT LINES`` opens COUNT downloads of that many lines at once, prints ``begun``
when all of them have, and at the end for each the lines that came.
``many_clients.py steady ADDRESS PORT COUNT SECONDS LIMIT_MS FIRST`` has COUNT clients, each with an address of its own,
ask again and again until the time is over, and prints for each attempt: client, start, duration in seconds, answer or
null.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from typing import Any, Final

AT_ONCE: Final = 64
REQUEST: Final = b"GET /%s HTTP/1.0\r\n\r\n"


def source(number: int) -> str:
    """The address of one client."""
    return f"10.79.{number // 250 % 250}.{number % 250 + 1}"


def ask(
    path: bytes, where: tuple[str, int], sources: list[str], limit_s: float, *, announce: bool = False
) -> list[tuple[float, float, str | None]]:
    """One request from each source, AT_ONCE at a time: start, duration, body (None: none came within the limit).

    With ``announce`` a line ``begun`` is printed when the first bytes of every answer have come.
    """
    selector = selectors.DefaultSelector()
    silent = set(range(len(sources)))
    results: dict[int, tuple[float, float, str | None]] = {}
    waiting = list(enumerate(sources))[::-1]
    open_: dict[socket.socket, list[Any]] = {}
    while waiting or open_:
        while waiting and len(open_) < AT_ONCE:
            number, address = waiting.pop()
            made = socket.socket(socket.AF_INET6 if ":" in where[0] else socket.AF_INET)
            made.setblocking(False)
            if made.family == socket.AF_INET:
                made.bind((address, 0))
            made.connect_ex(where)
            open_[made] = [number, time.monotonic(), b""]
            selector.register(made, selectors.EVENT_WRITE)
        for key, events in selector.select(0.01):
            made = key.fileobj  # type: ignore[assignment]
            entry = open_[made]
            try:
                if events & selectors.EVENT_WRITE:
                    made.send(REQUEST % path)
                    selector.modify(made, selectors.EVENT_READ)
                    continue
                chunk = made.recv(65536)
            except OSError:
                chunk = b""
            silent.discard(entry[0])
            if announce and not silent:
                announce = False
                print("begun", flush=True)
            entry[2] += chunk
            if not chunk:
                head, _, body = entry[2].partition(b"\r\n\r\n")
                _finish(selector, open_, made, results, body.decode() if head.startswith(b"HTTP/1.0 200") else None)
        now_s = time.monotonic()
        for made in [each for each, entry in open_.items() if now_s - entry[1] > limit_s]:
            _finish(selector, open_, made, results, None)
    return [results[number] for number in range(len(sources))]


def _finish(
    selector: selectors.BaseSelector,
    open_: dict[socket.socket, list[Any]],
    made: socket.socket,
    results: dict[int, tuple[float, float, str | None]],
    body: str | None,
) -> None:
    number, start_s, _ = open_.pop(made)
    selector.unregister(made)
    made.close()
    results[number] = (start_s, time.monotonic() - start_s, body)


def steady(
    where: tuple[str, int], clients: int, seconds: float, limit_s: float, first: int
) -> list[tuple[int, float, float, str | None]]:
    """Rounds of requests, one from each client, until the time is over."""
    attempts = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        round_ = ask(b"whoami", where, [source(first + number) for number in range(clients)], limit_s)
        attempts += [(number, *each) for number, each in enumerate(round_)]
    return attempts


def main() -> None:
    """See the module."""
    what, address, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    where = (address, port)
    rest = [float(word) for word in sys.argv[5:]]
    if what == "steady":
        print(json.dumps(steady(where, count, rest[0], rest[1] / 1000, int(rest[2]))))
        return
    if what == "drip":
        answers = ask(
            b"drip/%d" % int(rest[0]), where, [source(number) for number in range(count)], 60.0, announce=True
        )
    else:
        first = int(rest[0]) if rest else 0
        limit_s = rest[1] / 1000 if len(rest) > 1 else 5.0
        answers = ask(b"whoami", where, [source(first + number) for number in range(count)], limit_s)
    print(json.dumps([None if body is None else body.strip() for _, _, body in answers]))


if __name__ == "__main__":
    main()

"""A client that never stops asking, and the arithmetic of what it saw.

Run as a program it opens a new TCP connection to a web server many times a second, whatever became of the earlier ones,
sends ``GET /whoami`` on each and gives each the same short time. Every attempt becomes one line of JSON with times of
CLOCK_MONOTONIC, which all network namespaces of one machine share.

The outage of a fault is the longest time between two answers that follow each other, the second of which came after the
fault. It so includes the end of the last answer before, and its resolution is the distance of two attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

RATE_HZ = 100
LIMIT_MS = 250
ANSWER_BYTES_MAX = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One connection: when it was begun and ended (seconds of CLOCK_MONOTONIC), and the answer if there was one."""

    begun_s: float
    ended_s: float
    answer: str | None
    """What the server said, which names its node; None when the attempt failed."""
    error: str = ""

    @property
    def node(self) -> str | None:
        """The node that answered."""
        return self.answer.split(" ", 1)[0] if self.answer else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The time between two answers that follow each other."""

    before: Attempt
    after: Attempt

    @property
    def length_s(self) -> float:
        """Seconds in which no answer came."""
        return self.after.ended_s - self.before.ended_s


def longest_gap(attempts: Iterable[Attempt], *, since_s: float, until_s: float = float("inf")) -> Gap | None:
    """The longest gap that ends after ``since_s`` and begins before ``until_s``; None when no answer closes one.

    A gap that was open at ``since_s`` counts from its beginning.
    """
    answers = sorted((attempt for attempt in attempts if attempt.answer), key=lambda attempt: attempt.ended_s)
    gaps = [
        Gap(before=before, after=after)
        for before, after in itertools.pairwise(answers)
        if after.ended_s > since_s and before.ended_s < until_s
    ]
    return max(gaps, key=lambda gap: gap.length_s, default=None)


def settled(attempts: Sequence[Attempt], *, since_s: float, answers: int) -> bool:
    """Whether the last ``answers`` attempts, all begun after ``since_s``, were all answered."""
    last = attempts[-answers:]
    return len(last) == answers and all(attempt.answer and attempt.begun_s > since_s for attempt in last)


def read_attempts(path: Path) -> list[Attempt]:
    """The attempts of a file that may still be written to; a last line that is not whole is left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [Attempt(**json.loads(line)) for line in lines]


class Prober:
    """Asks one address again and again, and writes down what becomes of it."""

    def __init__(self, address: str, port: int, output: IO[str], *, limit_ms: int = LIMIT_MS) -> None:
        self._where = (address, port)
        self._output = output
        self._limit_s = limit_ms / 1000
        self._request = f"GET /whoami HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, rate_hz: int, ended: asyncio.Event) -> None:
        """Begin an attempt every ``1/rate_hz`` seconds until ``ended`` is set, then wait for the last ones."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while not ended.is_set():
            task = loop.create_task(self._attempt())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            # A machine that stood still does not catch up with a burst of attempts.
            due_s = max(due_s + 1 / rate_hz, loop.time() - 0.05)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), max(due_s - loop.time(), 0))
        await asyncio.gather(*self._running)

    async def _attempt(self) -> None:
        begun_s = time.monotonic()
        answer, error = None, ""
        try:
            async with asyncio.timeout(self._limit_s):
                answer = await self._ask()
        except TimeoutError:
            error = "timeout"
        except (OSError, ValueError) as problem:
            error = type(problem).__name__
        attempt = {"begun_s": begun_s, "ended_s": time.monotonic(), "answer": answer, "error": error}
        self._output.write(json.dumps(attempt) + "\n")

    async def _ask(self) -> str:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            await loop.sock_connect(client, self._where)
            await loop.sock_sendall(client, self._request)
            received = b""
            while len(received) < ANSWER_BYTES_MAX and (chunk := await loop.sock_recv(client, ANSWER_BYTES_MAX)):
                received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or not body:
            raise ValueError("no answer")
        return body.decode("ascii", "replace").strip()


async def probe(arguments: argparse.Namespace) -> None:
    """Ask until SIGTERM, or until the lab at the other end of the standard input is gone."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_reader(0, lambda: ended.set() if not os.read(0, 64) else None)
    with open(arguments.output, "w", buffering=1) as output:
        await Prober(arguments.address, arguments.port, output, limit_ms=arguments.limit_ms).run(arguments.rate, ended)


def main() -> None:
    """The program of the client machine."""
    parser = argparse.ArgumentParser(description="Ask a web server for /whoami many times a second.")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--rate", type=int, default=RATE_HZ, help="attempts a second")
    parser.add_argument("--limit-ms", type=int, default=LIMIT_MS, help="time of one attempt")
    parser.add_argument("--output", required=True)
    asyncio.run(probe(parser.parse_args()))


if __name__ == "__main__":
    main()

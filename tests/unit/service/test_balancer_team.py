"""Members of a team ask each other: who is able, who is not, and by which table all decide."""

from __future__ import annotations

import json
import selectors
import socket
from pathlib import Path
from typing import Any

from clussvc.model.ids import HostId, ResourceId
from clussvc.nlb.messages import Passing, SlotTable, Table
from clussvc.nlb.port_rule import PortRule
from clussvc.resources.types import balancer_socket
from clussvc.service.balancer_team import ASK_INTERVAL_MS, SILENCE_MS, Partner, read_table, write_table

TABLE = Table(
    number=7,
    generation=3,
    active=True,
    host=HostId(2),
    rules=(PortRule(start_port=80, end_port=80),),
    slots=(
        SlotTable(owners=(1, 2) * 30, dirty=0b1010, passing=Passing.DRAINING),
        SlotTable(owners=(1,) * 60),
    ),
)


class Mate:
    """The other member, played here, and the one that asks it."""

    def __init__(self, folder: Path) -> None:
        self.now = 10_000
        self.news = 0
        self.selector = selectors.DefaultSelector()
        self._listening: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._folder = folder
        self.partner = Partner(ResourceId("mate"), master=True, folder=folder, selector=self.selector, news=self._heard)

    def _heard(self) -> None:
        self.news += 1

    def begin(self) -> None:
        """Listen."""
        self._listening = balancer_socket.listen(self._folder, balancer_socket.socket_name(ResourceId("mate")))

    def turn(self, answer: bytes | None) -> None:
        """One interval passes; the mate answers this, if anything."""
        self.now += ASK_INTERVAL_MS
        self.partner.tick(self.now)
        if self._listening is not None and self._connection is None:
            self._connection, _ = self._listening.accept()
        if self._connection is not None and answer is not None:
            assert json.loads(self._connection.recv(1000)) == {"ask": "team"}
            self._connection.sendall(answer)
            for key, _ in self.selector.select(5):
                key.data()

    def end(self) -> None:
        """Both ends are closed."""
        self.partner.close()
        for each in (self._connection, self._listening):
            if each is not None:
                each.close()
        self.selector.close()


def said(able: bool, table: Table | None = None) -> bytes:
    answer: dict[str, Any] = {"able": able, "table": write_table(table)}
    return json.dumps(answer).encode() + b"\n"


def test_a_table_survives_the_way() -> None:
    """But for what its owner alone needs."""
    written = write_table(TABLE)

    assert written is not None
    assert TABLE == read_table(json.loads(json.dumps(written)))


def test_a_mate_is_able_while_it_says_so(tmp_path: Path) -> None:
    """Before it listens, after it fell silent, and when it says no, it is not; only news are told."""
    mate = Mate(tmp_path)
    mate.turn(None)
    assert not mate.partner.able(mate.now)
    mate.begin()
    mate.turn(said(True, TABLE))
    mate.turn(said(True, TABLE))
    assert mate.partner.able(mate.now)
    assert TABLE == mate.partner.table(mate.now)
    assert 1 == mate.news
    mate.turn(said(False))
    assert not mate.partner.able(mate.now)
    mate.turn(said(True))
    assert mate.partner.able(mate.now)
    for _ in range(SILENCE_MS // ASK_INTERVAL_MS + 1):
        mate.turn(None)
    assert not mate.partner.able(mate.now)
    assert None is mate.partner.table(mate.now)
    mate.end()


def test_nonsense_is_passed_over(tmp_path: Path) -> None:
    """And does not make a mate able."""
    mate = Mate(tmp_path)
    mate.begin()
    mate.turn(b"nonsense\n[1]\n")
    assert not mate.partner.able(mate.now)
    mate.turn(said(True))
    assert mate.partner.able(mate.now)
    mate.end()

"""The process of a third-party quorum: ``python -m clussvc.service.quorum_type_main --fd N``.

Started by the service with one end of a socket pair. It loads the type, arbitrates and releases, reads and writes, as
it is asked; after the type has called ``lost`` everything is refused until the next arbitration. It ends when the
service does, and after some time without work while it holds nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, assert_never, cast

import msgspec

from clussvc.model.errors import ClusterError
from clussvc.model.monitoring import PropertyValue
from clussvc.quorum.devices.type_protocol import (
    FRAME_BYTES_MAX,
    LENGTH,
    QUESTIONS,
    TEXT_MAX,
    Answer,
    Arbitrate,
    Done,
    Failed,
    Lost,
    Question,
    ReadAt,
    Release,
    Said,
    WriteAt,
    frame,
)
from clussvc.resources.type_info import ResourceTypeInfo, check_private, complete_private
from clussvc.resources.types.base import Resource, TypeCatalogue
from clussvc.resources.types.quorum import OwnedElsewhere, QuorumType, Storage
from clussvc.service.priority import give_priority_back

IDLE_S: Final = 30.0
"""After so long without a question a process that holds nothing ends; the next question starts another one."""
LAST_WORDS_S: Final = 2.0
"""How long ``release`` may take when the service is gone."""
BROKEN: Final = 3


class QuorumResource:
    """What a quorum type knows of its resource: name, properties and the log. It belongs to no group."""

    def __init__(self, name: str, properties: Mapping[str, PropertyValue], say: Callable[[str, str], None]) -> None:
        self.name = name
        self.properties = dict(properties)
        self._say = say

    def log_information(self, text: str) -> None:
        """Write to the log of the service."""
        self._say("info", text)

    def log_warning(self, text: str) -> None:
        """Write to the log of the service."""
        self._say("warning", text)

    def log_error(self, text: str) -> None:
        """Write to the log of the service."""
        self._say("error", text)


class Host:
    """Answers the service's questions, one after the other."""

    def __init__(self, connection: socket.socket, find: Callable[[str], type[Any]]) -> None:
        self._socket = connection
        self._find = find
        self._sending = threading.Lock()
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self._asked: Arbitrate | None = None
        self._type: QuorumType | None = None
        self._storage: Storage | None = None
        self._run = 0
        self._lost = ""

    def run(self) -> int:
        """Until the service is gone, or there is nothing to do for long. The exit status."""
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            holds = self._asked if self._storage is not None else None
            silence_s = holds.silence_ms / 1000 if holds is not None else IDLE_S
            try:
                question = self._questions.get(timeout=silence_s)
            except queue.Empty:
                if holds is None:
                    return 0
                # A service that is stuck must not keep the others from the quorum.
                if not self._give_up(f"the service has asked for nothing for {silence_s:g} s"):
                    return BROKEN
                continue
            if question is None:
                return self._end()
            self._send(self._answer(question))

    def _give_up(self, because: str) -> bool:
        """False if the type does not let go; its process has to end then."""
        self._lost = because
        try:
            self._release()
        except Exception as error:  # noqa: BLE001 (whatever a type raises is its failure)
            self._send(Said("error", f"release: {_words(error, 'failed')}"))
            return False
        return True

    def _end(self) -> int:
        """The service is gone: release, but hang in nothing."""
        self._watchdog(LAST_WORDS_S)
        with contextlib.suppress(Exception):
            self._release()
        return 0

    def _listen(self) -> None:
        """What the service says. When it is gone, a call of the type that hangs does not keep the process."""
        try:
            while True:
                (length,) = LENGTH.unpack(self._received(LENGTH.size))
                if length > FRAME_BYTES_MAX:
                    raise EOFError
                self._questions.put(QUESTIONS.decode(self._received(length)))
        except (OSError, EOFError, msgspec.MsgspecError):
            self._watchdog(2 * LAST_WORDS_S)
            self._questions.put(None)

    @staticmethod
    def _watchdog(seconds: float) -> None:
        timer = threading.Timer(seconds, os._exit, (BROKEN,))
        timer.daemon = True
        timer.start()

    def _received(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _send(self, message: Answer | Lost | Said) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(frame(message))

    # --- questions --------------------------------------------------------------------------------------------------

    def _answer(self, question: Question) -> Answer:
        number = question.number
        try:
            match question:
                case Arbitrate():
                    return Done(number, size_bytes=self._arbitrate(question))
                case ReadAt():
                    data = bytes(self._won().read(question.at, question.size))
                    # If the quorum was lost meanwhile, another node may have written, or write over this.
                    self._won()
                    return Done(number, data=data)
                case WriteAt():
                    self._won().write(question.at, question.data)
                    self._won()
                    return Done(number)
                case Release():
                    self._release()
                    return Done(number)
                case _:
                    assert_never(question)
        except OwnedElsewhere as error:
            return Failed(number, "reservation-conflict", _words(error, "another node has it"))
        except ClusterError as error:
            return Failed(number, error.code, error.message[:TEXT_MAX])
        except Exception as error:  # noqa: BLE001 (whatever a type raises is its failure)
            line = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(line.filename)} line {line.lineno}"
            return Failed(number, "device-lost", f"{type(error).__name__}: {_words(error, 'failed')} ({where})")

    def _won(self) -> Storage:
        if self._lost:
            raise ClusterError("reservation-conflict", f"this node has lost the quorum: {self._lost}")
        if self._storage is None:
            raise ClusterError("device-lost", "this node has not won the arbitration")
        return self._storage

    def _arbitrate(self, question: Arbitrate) -> int:
        self._release()
        made = self._made(question)
        self._run += 1
        self._lost = ""
        run = self._run

        def lost(because: str) -> None:
            """Of an arbitration that is over, it means nothing any more."""
            if run == self._run and not self._lost:
                self._lost = str(because)[:TEXT_MAX] or "it does not say why"
                self._send(Lost(self._lost))

        try:
            self._storage = made.arbitrate(lost)
            return int(self._storage.size_bytes)
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        """Nothing is won afterwards, whatever the type says."""
        self._storage = None
        self._run += 1
        if self._type is not None and self._asked is not None:
            self._type.release()

    def _made(self, question: Arbitrate) -> QuorumType:
        same = self._asked is not None and (self._asked.type, self._asked.properties) == (
            question.type,
            question.properties,
        )
        if self._type is None or not same:
            kind = self._find(question.type)
            info = kind.info
            properties = _properties(info, question.properties)
            resource = QuorumResource(
                info.name, properties, lambda level, text: self._send(Said(level, text[:TEXT_MAX]))
            )
            self._type, self._asked = cast(QuorumType, kind(cast(Resource, resource))), question
            self._type.open()
        self._asked = question
        return self._type


def find_quorum_type(name: str) -> type[Any]:
    """The type of that name, in which a hyphen may stand for a blank.

    Raises ClusterError(``device-unsuitable``) when there is none, or it can be no quorum.
    """
    catalogue = TypeCatalogue()
    try:
        try:
            found = catalogue.find(name)
        except ClusterError as error:
            if error.code != "type-not-installed" or "-" not in name:
                raise
            found = catalogue.find(name.replace("-", " "))
    except ClusterError as error:
        raise ClusterError("device-unsuitable", error.message) from error
    if not found.info.quorum_capable or not all(hasattr(found, each) for each in ("arbitrate", "release")):
        raise ClusterError(
            "device-unsuitable", f"the resource type {found.info.name!r} cannot be a quorum: it is not quorum-capable"
        )
    return found


def _properties(info: ResourceTypeInfo, texts: Mapping[str, str]) -> dict[str, PropertyValue]:
    values: dict[str, PropertyValue] = {}
    for name, text in texts.items():
        if not name and not info.private:
            raise ClusterError("device-unsuitable", f"{info.name} takes no argument")
        known = info.private[0] if not name else info.property_named(name)
        kind = known.kind if known is not None else "S"
        if kind == "D" and not (text.isascii() and text.isdecimal()):
            raise ClusterError("device-unsuitable", f"{known.name if known else name} is {text!r}; it must be a number")
        value: PropertyValue = int(text) if kind == "D" else tuple(text.split(";")) if kind == "M" else text
        values[known.name if known is not None else name] = value
    if problems := check_private(info, values):
        raise ClusterError("device-unsuitable", "; ".join(problems))
    return complete_private(info, values)


def _words(error: Exception, otherwise: str) -> str:
    return (str(error) or otherwise)[:TEXT_MAX]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the service is gone."""
    parser = argparse.ArgumentParser(prog="clussvc-quorum-type", description="A quorum type; started by clussvc.")
    parser.add_argument("--fd", type=int, required=True, help="inherited end of the socket pair to the service")
    options = parser.parse_args(arguments)
    give_priority_back()
    # The service ends this process by closing the connection; a Ctrl-C in its terminal must not come first.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.set_inheritable(options.fd, False)
    return Host(socket.socket(fileno=options.fd), find_quorum_type).run()


if __name__ == "__main__":
    # A thread of the type may hang; nothing is waited for.
    status = main()
    sys.stderr.flush()
    os._exit(status)

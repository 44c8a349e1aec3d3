"""Asks the server of this machine behind a virtual address whether it answers: one connection, in a loop.

The connection goes to the virtual address as clients' do, and so finds a server that listens on it alone, and none that
listens elsewhere only. It also comes *from* the virtual address, which the kernel allows only while this machine has
it: when it has not, the question fails here and is not answered by another host. Nothing here waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import selectors
import socket
from collections.abc import Callable
from typing import Final

from clussvc.nlb.mac import Address

STATUS_BYTES_MAX: Final = 4_096
"""In which the first line of an answer must end."""
REST_BYTES_MAX: Final = 1 << 16
_BIND_ADDRESS_NO_PORT: Final = 24
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?$")


class Question:
    """One question. It registers its own socket with the selector, whose keys carry what is to be called."""

    def __init__(self, selector: selectors.BaseSelector, ended: Callable[[str], None]) -> None:
        """``ended`` is called once, when the question has ended: with nothing when it was answered, or with why not."""
        self._selector = selector
        self._ended = ended
        self._socket: socket.socket | None = None
        self._path = ""
        self._address = ""
        self._said = b""

    def ask(self, address: Address, port: int, path: str) -> None:
        """Connect; with a ``path``, ask for it over HTTP. It may have ended when this returns."""
        self._path, self._address = path, f"[{address}]" if address.version == 6 else str(address)
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            # The port is chosen when it connects, so that all that were used in the last minute need not differ.
            self._socket.setsockopt(socket.SOL_IP, _BIND_ADDRESS_NO_PORT, 1)
            self._socket.bind((str(address), 0))
            number = self._socket.connect_ex((str(address), port))
        except OSError as error:
            self._end(f"the virtual address {address} cannot be used: {error.strerror}")
            return
        if number not in (0, errno.EINPROGRESS):
            self._end(_said_by_kernel(number))
            return
        self._selector.register(self._socket, selectors.EVENT_WRITE, self._connected)

    def give_up(self) -> None:
        """End without a word."""
        self._close()

    def _connected(self) -> None:
        if self._socket is None:
            # Given up in the same turn of the loop in which the selector has found it.
            return
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number or not self._path:
            self._end(_said_by_kernel(number) if number else "")
            return
        request = (
            f"GET {self._path} HTTP/1.1\r\nHost: {self._address}\r\nUser-Agent: clussvc\r\nConnection: close\r\n\r\n"
        )
        try:
            # A new connection has room for so few bytes.
            self._socket.send(request.encode())
        except OSError as error:
            self._end(_said_by_kernel(error.errno or 0))
            return
        self._selector.modify(self._socket, selectors.EVENT_READ, self._read)

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            chunk = self._socket.recv(STATUS_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(_said_by_kernel(error.errno or 0))
            return
        self._said += chunk
        line, newline, _ = self._said.partition(b"\n")
        if newline:
            found = _STATUS.match(line)
            status = int(found[1]) if found is not None else 0
            self._end("" if 200 <= status < 400 else f"the status is {status}" if status else "its answer is not HTTP")
        elif not chunk:
            self._end("it hung up before it answered")
        elif len(self._said) > STATUS_BYTES_MAX:
            self._end("its answer is not HTTP")

    def _end(self, why: str) -> None:
        self._close()
        self._ended(why)

    def _close(self) -> None:
        held, self._socket = self._socket, None
        if held is None:
            return
        with contextlib.suppress(KeyError):
            self._selector.unregister(held)
        with contextlib.suppress(OSError):
            # What has come is taken, since the kernel answers what was not read with a reset, which servers log.
            held.recv(REST_BYTES_MAX)
        held.close()


def _said_by_kernel(number: int) -> str:
    return "the connection is refused" if number == errno.ECONNREFUSED else os.strerror(number)

"""The log of the service: one line for each event, with fields, on the error output and in a file of bounded size.

Any part of the product logs with ``structlog.get_logger()``; :func:`configure` decides, once for each process, where
that goes. What libraries say through Python's own ``logging`` goes the same way.

A line is made by the thread that logs and written by a thread of its own, so a slow disk never holds the core up, on
whose punctuality the leases depend. When the writer falls behind by more than LINES_WAITING_MAX lines, further ones are
dropped and counted, and the log says so itself. A ``critical`` line waits, for a short time, until it is written, since
the process usually ends after it.

The file is renamed to ``NAME.1`` when it would exceed its size, and the ``NAME.1`` of before is lost: two files, 8 MiB
each, which is the size that MSCS gives its cluster log. Times are UTC.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

from clussvc.model.errors import ClusterError
from clussvc.model.records import Record
from clussvc.model.reports import Severity

FILE_BYTES_MAX: Final = 8 * 1024 * 1024
"""The size of one log file; there are at most two."""
LINES_WAITING_MAX: Final = 10_000
"""How many lines may wait for the writer."""
VALUE_CHARS_MAX: Final = 4_096
"""The longest text of one field; the rest is cut off and its length told."""
LINE_BYTES_MAX: Final = 32 * 1024
"""The longest line."""
CRITICAL_WAIT_S: Final = 2.0
"""How long a critical line waits to be written."""

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
Form = Literal["text", "json"]

_SEVERITY_LEVELS: Final = {
    Severity.INFORMATION: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.ERROR: logging.ERROR,
}
_PLAIN: Final = re.compile(r"[\w.:/@+-]+\Z", re.ASCII)


class CappedFile:
    """A file that lines are added to, with one predecessor."""

    def __init__(self, path: Path, *, max_bytes: int = FILE_BYTES_MAX) -> None:
        """Open the file for appending, readable for its owner and group. Raises OSError."""
        self._path = path
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._reopen()

    def write(self, line: bytes) -> None:
        """Add one line, which ends in a newline. Raises OSError; the next call then opens the file anew."""
        try:
            file = self._file or self._reopen()
            if self._size and self._size + len(line) > self._max_bytes:
                file.close()
                self._file = None
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                file = self._reopen()
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._size += len(line)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Release the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _reopen(self) -> BinaryIO:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._file = open(descriptor, "ab", buffering=0)  # noqa: SIM115 - open as long as the log
        self._size = os.fstat(descriptor).st_size
        return self._file


class LogWriter:
    """The thread that writes, and the bounded queue before it."""

    def __init__(self, file: CappedFile | None, stream: BinaryIO | None, form: Form) -> None:
        self._form = form
        self._file = file
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._writing = False
        self._closing = False
        self._dropped = 0
        self.lines_lost = 0
        """Lines that were dropped, or that the file did not take."""
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queue a line; never blocks."""
        with self._changed:
            if len(self._lines) >= LINES_WAITING_MAX or self._closing:
                self._dropped += 1
                self.lines_lost += 1
                return
            self._lines.append(line)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that was queued is written; False when it took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is waiting and release the file; a disk that hangs is not waited for longer than that."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._closing)
                if not self._lines:
                    break
                lines = list(self._lines)
                self._lines.clear()
                self._writing = True
                dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(_told(dropped, self._form))
            for line in lines:
                self._write(line)
        if self._file is not None:
            self._file.close()

    def _write(self, line: bytes) -> None:
        # A log that cannot be written must not end a service that works; the number of lost lines is a statistic.
        if self._stream is not None:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):
                self._stream = None
        if self._file is not None:
            try:
                self._file.write(line)
            except OSError:
                self.lines_lost += 1


class EventLog:
    """What configure returns: the log of this process, until it is closed."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._libraries = _FromLibraries()

    @property
    def lines_lost(self) -> int:
        """Lines that were never written, for diagnosis."""
        return self._writer.lines_lost

    def flush(self, timeout_s: float = CRITICAL_WAIT_S) -> bool:
        """Wait until everything so far is written; False when it took too long."""
        return self._writer.flush(timeout_s)

    def attach_libraries(self) -> None:
        """Take over what libraries log at warning and above."""
        logging.getLogger().addHandler(self._libraries)

    def close(self) -> None:
        """Write what is waiting; later lines go where structlog sends them by default."""
        logging.getLogger().removeHandler(self._libraries)
        structlog.reset_defaults()
        self._writer.close()


def configure(
    path: Path | None,
    *,
    level: str = "info",
    form: Form = "text",
    stream: BinaryIO | None = None,
    fields: Mapping[str, str] | None = None,
    max_bytes: int = FILE_BYTES_MAX,
) -> EventLog:
    """Send all logging of this process to a file (unless None) and to a stream (the error output unless given).

    ``level`` is one of LEVELS; ``fields``, such as the name of the node, are in every line. Raises
    ClusterError(``log-unusable``) that names the file, and ClusterError(``unknown-log-level``).
    """
    if level not in LEVELS:
        raise ClusterError("unknown-log-level", f"there is no log level {level!r}; choose one of {', '.join(LEVELS)}")
    try:
        file = CappedFile(path, max_bytes=max_bytes) if path is not None else None
    except OSError as error:
        raise ClusterError(
            "log-unusable",
            f"the log file {path} cannot be opened: {error.strerror}; make sure that its folder exists and that the"
            " service may write to it",
        ) from error
    writer = LogWriter(file, stream if stream is not None else sys.stderr.buffer, form)
    given = dict(fields or {})

    def add_fields(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        return {**given, **line}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_fields,
            structlog.processors.add_log_level,
            _STAMP,
            structlog.processors.format_exc_info,
            _RENDERERS[form],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=False,
    )
    made = EventLog(writer)
    made.attach_libraries()
    return made


def record_to_log(record: Record, *, cursor: int = 0) -> None:
    """Write an event of the cluster to the log as well, under its dotted name."""
    said: dict[str, Any] = {"message": record.message, record.kind: record.object}
    if record.node and record.kind != "node":
        said["node"] = record.node
    if record.because:
        said["because"] = record.because
    if record.event_id:
        said["event_id"] = record.event_id
    if cursor:
        said["cursor"] = cursor
    structlog.get_logger().log(_SEVERITY_LEVELS[record.severity], record.name, **said)


# --- from values to lines --------------------------------------------------------------------------------------------


class _Lines:
    """The end of structlog's chain: whatever the level, the line goes to the writer."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def msg(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace")
        if len(data) >= LINE_BYTES_MAX:
            data = data[: LINE_BYTES_MAX - 4].decode("utf-8", "ignore").encode() + b"..."
        self._writer.put(data + b"\n")

    debug = info = warning = error = msg

    def critical(self, line: str) -> None:
        self.msg(line)
        self._writer.flush(CRITICAL_WAIT_S)

    fatal = critical


class _FromLibraries(logging.Handler):
    """Brings records of Python's own logging into ours."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """One line with the name of the library's logger."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # The library's format does not fit its arguments.
            message = str(record.msg)
        known = record.levelname.lower()
        level = getattr(logging, record.levelname) if known in LEVELS else logging.WARNING
        # Never critical: only the service itself knows when it ends.
        level = min(level, logging.ERROR)
        told = {"exc_info": record.exc_info} if record.exc_info else {}
        structlog.get_logger().log(level, "library.said", library=record.name, message=message, **told)


def _bounded(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else str(value)
    if len(text) > VALUE_CHARS_MAX:
        return f"{text[:VALUE_CHARS_MAX]}... ({len(text)} characters)"
    return text


def _render_json(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    return json.dumps({name: _bounded(value) for name, value in line.items()})


def _render_text(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    """Time, level and event; then ``name=value``. A value that is not one plain word is quoted, so no text from
    outside can look like another line or another field."""
    head = f"{line.pop('at')} {line.pop('level'):<8} {_word(line.pop('event', ''))}"
    return " ".join([head, *(f"{_word(name)}={_word(value)}" for name, value in line.items())])


def _word(value: object) -> str:
    text = str(_bounded(value))
    if _PLAIN.match(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _told(dropped: int, form: Form) -> bytes:
    line: EventDict = {"level": "warning", "event": "log.lines_dropped", "count": dropped}
    line["because"] = "they came faster than they could be written"
    return _RENDERERS[form](None, "", _STAMP(None, "", line)).encode() + b"\n"


_STAMP: Final = structlog.processors.TimeStamper(fmt="iso", utc=True, key="at")
_RENDERERS: Final = {"text": _render_text, "json": _render_json}

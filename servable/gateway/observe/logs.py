"""Log lines as JSON or text on standard error, written by a thread of their own.

A reader that does not read must not stop the server: lines wait in a bounded queue and are dropped when it is full.
"""

from __future__ import annotations

import contextvars
import json
import logging
import re
import sys
import threading
import time
from collections import deque
from typing import Any, Callable, Optional, Protocol

from servable.config.sections import LogSection

LOGGER = "servable"  # the server's; libraries log under their own names
MAX_WAITING_LINES = 10_000
LIBRARY_RECORDS_A_SECOND = 10
GATHER_S = 0.02
STOP_S = 1.0
_PLAIN = re.compile(r"[A-Za-z0-9._:/-]+")
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


class Stream(Protocol):
    def write(self, text: str, /) -> object: ...

    def flush(self) -> None: ...


class _ThreadHandler(logging.Handler):
    """Formats in the caller (what a line speaks of may change later), writes elsewhere, many lines at a time."""

    dropped = 0  # of all handlers: what /metrics tells

    def __init__(self, formatter: logging.Formatter, stream: Stream) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._lines: deque[str] = deque()
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) >= MAX_WAITING_LINES:
            _ThreadHandler.dropped += 1
            return
        self._lines.append(self.format(record))
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join(STOP_S)
        super().close()

    def _write(self) -> None:
        while not self._ended or self._lines:
            self._wake.wait()
            if not self._ended:
                time.sleep(GATHER_S)  # waking for every line would take the interpreter from the call that wrote it
            self._wake.clear()
            text = "".join(self._lines.popleft() + "\n" for _ in range(len(self._lines)))
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                _ThreadHandler.dropped += text.count("\n")  # closed or full; the server goes on


class _LibraryHandler(logging.Handler):
    """The records of libraries, a few a second: what makes one log a traceback may be in any caller's hands."""

    def __init__(self, target: _ThreadHandler) -> None:
        super().__init__(logging.WARNING)
        self._target = target
        self._second = self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        second = int(record.created)
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        if self._count <= LIBRARY_RECORDS_A_SECOND:
            self._target.emit(record)
        else:
            _ThreadHandler.dropped += 1


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, the call's request_id, and the fields given with the record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: one line, fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        parts = [_time(record), record.levelname.lower(), message]
        if request_id.get():
            parts.append(f"request_id={request_id.get()}")
        parts += [f"{key}={_value(value)}" for key, value in getattr(record, "fields", {}).items()]
        line = " ".join(parts)
        return line + "\n" + self.formatException(record.exc_info) if record.exc_info else line


def dropped_lines() -> int:
    """Lines lost since the process started."""
    return _ThreadHandler.dropped


def configure_logging(settings: LogSection, stream: Optional[Stream] = None) -> Callable[[], None]:
    """Sends the lines of logger "servable", and what libraries warn of, to `stream` (standard error).

    The function returned ends that.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # nothing of it is written
    logger = logging.getLogger(LOGGER)
    formatter: logging.Formatter = JsonFormatter() if settings.format == "json" else TextFormatter()
    handler = _ThreadHandler(formatter, stream or sys.stderr)
    libraries, root = _LibraryHandler(handler), logging.getLogger()
    logger.addHandler(handler)
    root.addHandler(libraries)
    logger.setLevel(settings.level.upper())
    logger.propagate = False

    def close() -> None:
        logger.removeHandler(handler)
        root.removeHandler(libraries)
        logger.propagate = True
        handler.close()

    return close


def _value(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _time(record: logging.LogRecord) -> str:
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{second}.{int(record.msecs):03d}Z"

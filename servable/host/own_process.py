"""What this process asks of the kernel before it serves, and what other libraries write to its standard error.

gRPC, over which traces are sent, writes lines of its own to descriptor 2 and waits
until they are taken: a pipe that nobody reads would stop the server. Here they go through a pipe of ours into the
server's log, a few a second.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import re
import resource
import threading
import time
from typing import Optional

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2
SAY_S = 1.0
BLOCK_BYTES = 65536
MOST_LINES_A_SECOND = 50
MOST_CHARACTERS = 500  # of one line
# absl's form: "E0917 12:34:56.789012 4711 file.cc:123] text"
_ABSL = re.compile(r"(?P<level>[IWEF])\d{4} [\d:.]+ +\d+ (?P<where>[^\s\]]+)\] (?P<text>.*)")
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}
log = logging.getLogger("servable.standard_error")


def raise_descriptor_limit() -> None:
    """The soft limit of descriptors becomes the hard one: 1,024, the usual soft one, is little for a server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # more than the kernel gives to one process
            log.warning("the limit of %d descriptors cannot be raised to %d", soft, hard)


class Descriptor:
    """Text to a descriptor, without a buffer: at its end Python waits for those of sys.stdout and sys.stderr."""

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(self._number, data) :]

    def flush(self) -> None:
        pass


def say(line: str) -> None:
    """A line on standard output. Who does not read it, or has closed it, holds nothing up."""

    def write() -> None:
        with contextlib.suppress(OSError):
            Descriptor(STANDARD_OUTPUT).write(line + "\n")

    thread = threading.Thread(target=write, daemon=True, name="standard-output")
    thread.start()
    thread.join(SAY_S)


class StandardErrorLog:
    """From `start` to `stop`, what is written to descriptor 2 becomes lines of the log. One in a process.

    `stream`: what 2 was before; the log itself writes there, and Python when it crashes.
    """

    def __init__(self) -> None:
        self._earlier = os.dup(STANDARD_ERROR)
        self.stream = Descriptor(self._earlier)
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        """To be called when the log writes to `stream`: it would read its own lines otherwise."""
        reading, writing = os.pipe()
        os.dup2(writing, STANDARD_ERROR)
        os.close(writing)
        faulthandler.enable(file=self._earlier)
        self._thread = threading.Thread(target=_carry, args=(reading,), daemon=True, name="standard-error")
        self._thread.start()

    def stop(self) -> None:
        """Descriptor 2 is again what it was, for whatever is said at the end."""
        os.dup2(self._earlier, STANDARD_ERROR)
        if self._thread is not None:
            self._thread.join(1.0)  # the pipe has no writer any more, unless a child holds it


def _carry(pipe: int) -> None:
    """Reads on whatever happens: a pipe that is full stops its writers."""
    left = b""
    second, said, left_out = 0, 0, 0
    with os.fdopen(pipe, "rb", buffering=0) as source:
        while True:
            data = source.read(BLOCK_BYTES)
            if not data:
                break
            *lines, left = (left + data).split(b"\n")
            left = left[-BLOCK_BYTES:]
            for line in lines:
                now = int(time.monotonic())
                if now != second:
                    if left_out:
                        log.warning("%d more lines of libraries were left out", left_out)
                    second, said, left_out = now, 0, 0
                if said < MOST_LINES_A_SECOND:
                    said += 1
                    _say(line)
                else:
                    left_out += 1
    if left:
        _say(left)
    if left_out:
        log.warning("%d more lines of libraries were left out", left_out)


def _say(line: bytes) -> None:
    text = line.decode(errors="replace").rstrip()[:MOST_CHARACTERS]
    match = _ABSL.fullmatch(text)
    if match:
        log.log(_LEVELS[match["level"]], "gRPC: %s (%s)", match["text"], match["where"])
    elif text:
        log.warning("%s", text)

"""Orders to a running server over a unix socket in its private run directory: one JSON line there, one back.

Who may enter the directory (mode 0700) may give orders; there is no other check, and none is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable, Optional

from metric_learn_client.contract.exit_codes import ExitCode

SOCKET_NAME = "control.sock"
MAX_LINE_BYTES = 65536
CONNECT_S = 5.0

Answer = dict[str, Any]
Handler = Callable[[dict[str, Any]], Awaitable[Answer]]


class ControlServer:
    """Hands each order to `handler`, which answers {"exit_code": int, "message": str, ...} and never raises."""

    def __init__(self, run_dir: Path, handler: Handler) -> None:
        self._path = run_dir / SOCKET_NAME
        self._handler = handler
        self._server: Optional[asyncio.AbstractServer] = None

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=MAX_LINE_BYTES)
        self._path.chmod(0o600)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            answer = await self._answer(reader)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        try:
            order = json.loads(await reader.readline())
        except ValueError as error:
            return {"exit_code": ExitCode.USAGE, "message": f"not an order: {error}"}
        if not isinstance(order, dict):
            return {"exit_code": ExitCode.USAGE, "message": f"not an order: {order!r}"}
        return await self._handler(order)


def give_order(run_dir: Path, order: dict[str, Any], timeout_s: float) -> Answer:
    """Sends `order` to the server of `run_dir` and returns its answer. Raises OSError when none answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONNECT_S)
        connection.connect(str(run_dir / SOCKET_NAME))
        connection.settimeout(timeout_s)
        connection.sendall(json.dumps(order).encode() + b"\n")
        with connection.makefile("rb") as answers:
            line = answers.readline()
    if not line:
        raise ConnectionError("the server ended the connection without an answer")
    answer: Answer = json.loads(line)
    return answer

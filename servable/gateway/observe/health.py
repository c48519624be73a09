"""grpc.health.v1: Check and Watch, for "" and for the Predict service. Open to everybody: probes carry no token.

Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Callable

import grpc
from google.protobuf.message import DecodeError

from metric_learn_client.wire import (
    HEALTH_SERVICE_ALL,
    HEALTH_SERVICE_PREDICT,
    HealthCheckRequest,
    HealthCheckResponse,
    ServingStatus,
)
from servable.gateway.errors import CallError, invalid
from servable.gateway.limits.share import Share

SERVICES = (HEALTH_SERVICE_ALL, HEALTH_SERVICE_PREDICT)
WATCHERS, WATCHERS_EACH = 1024, 8  # in all, of one connection; a client needs one for each service


class HealthService:
    """`serving` is asked each time; `changed` tells those who watch."""

    def __init__(self, serving: Callable[[], bool]) -> None:
        self._serving = serving
        self._watchers: set[asyncio.Event] = set()
        self._share = Share("watchers", WATCHERS, WATCHERS_EACH)

    def changed(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    async def check(self, body: bytes, _context: Any) -> bytes:
        """Raises CallError: INVALID_ARGUMENT, NOT_FOUND."""
        service = _service(body)
        if service not in SERVICES:
            raise CallError(grpc.StatusCode.NOT_FOUND, f"unknown service; known: {', '.join(map(repr, SERVICES))}")
        return self._reply(service)

    async def watch(self, body: bytes, context: Any) -> AsyncIterator[bytes]:
        """The status now and after every change; SERVICE_UNKNOWN for a name that is not ours, as the protocol says.

        Raises CallError: INVALID_ARGUMENT, RESOURCE_EXHAUSTED.
        """
        service = _service(body)
        connection = context.connection
        self._share.take(connection)
        event = asyncio.Event()
        self._watchers.add(event)
        last = None
        try:
            while True:
                event.clear()
                reply = self._reply(service)
                if reply != last:
                    yield reply
                    last = reply
                await event.wait()
        finally:
            self._watchers.discard(event)
            self._share.give_back(connection)

    def _reply(self, service: str) -> bytes:
        status = ServingStatus.SERVICE_UNKNOWN
        if service in SERVICES:
            status = ServingStatus.SERVING if self._serving() else ServingStatus.NOT_SERVING
        reply: bytes = HealthCheckResponse(status=status).SerializeToString()
        return reply


def _service(body: bytes) -> str:
    try:
        return str(HealthCheckRequest.FromString(body).service)
    except DecodeError:
        raise invalid("request", "the body is not a HealthCheckRequest") from None

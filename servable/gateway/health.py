"""grpc.health.v1: Check and Watch, for "" and for the Predict service. Open to everybody: probes carry no token.

Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Callable

import grpc

from metric_learn_client.wire import (
    HEALTH_SERVICE_ALL,
    HEALTH_SERVICE_PREDICT,
    HealthCheckRequest,
    HealthCheckResponse,
    ServingStatus,
)

SERVICES = (HEALTH_SERVICE_ALL, HEALTH_SERVICE_PREDICT)
MAX_WATCHERS = 256


class HealthService:
    """`serving` is asked each time; `changed` tells those who watch."""

    def __init__(self, serving: Callable[[], bool]) -> None:
        self._serving = serving
        self._watchers: set[asyncio.Event] = set()

    def changed(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    async def check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:
        if request.service not in SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=self._status(request.service))

    async def watch(self, request: HealthCheckRequest, context: Any) -> AsyncIterator[HealthCheckResponse]:
        """The status now and after every change; SERVICE_UNKNOWN for a name that is not ours, as the protocol says."""
        if len(self._watchers) >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} watchers are the most")
        event = asyncio.Event()
        self._watchers.add(event)
        last = None
        try:
            while True:
                event.clear()
                status = self._status(request.service)
                if status != last:
                    yield HealthCheckResponse(status=status)
                    last = status
                await event.wait()
        finally:
            self._watchers.discard(event)

    def _status(self, service: str) -> ServingStatus:
        if service not in SERVICES:
            return ServingStatus.SERVICE_UNKNOWN
        return ServingStatus.SERVING if self._serving() else ServingStatus.NOT_SERVING

"""The gateway: what stands between callers and MindSpore Serving, and makes its one call safe to expose."""

from __future__ import annotations

from servable.gateway.backends import Backend, Backends, Golden, Served, State, UnknownVersion
from servable.gateway.errors import StartError
from servable.gateway.logs import configure_logging
from servable.gateway.server import Gateway
from servable.gateway.settings import (
    AuthSettings,
    DeadlineSettings,
    GatewaySettings,
    LimitSettings,
    LogSettings,
    ReadinessSettings,
    TlsSettings,
    TracingSettings,
)

__all__ = [
    "AuthSettings",
    "Backend",
    "Backends",
    "DeadlineSettings",
    "Gateway",
    "GatewaySettings",
    "Golden",
    "LimitSettings",
    "LogSettings",
    "ReadinessSettings",
    "Served",
    "StartError",
    "State",
    "TlsSettings",
    "TracingSettings",
    "UnknownVersion",
    "configure_logging",
]

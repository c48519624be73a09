"""The gateway: what stands between callers and MindSpore Serving, and makes its one call safe to expose."""

from __future__ import annotations

from servable.gateway.backends import BackendFacts, Backends, Golden, Served, State, UnknownVersion
from servable.gateway.errors import StartError
from servable.gateway.gateway import Gateway
from servable.gateway.observe.logs import configure_logging
from servable.gateway.preparation import prepare

__all__ = [
    "BackendFacts",
    "Backends",
    "Gateway",
    "Golden",
    "Served",
    "StartError",
    "State",
    "UnknownVersion",
    "configure_logging",
    "prepare",
]

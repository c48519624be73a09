"""GET /: a page that says what is served and tries it; GET /model/metric_learn: what the page's script asks for.

The page is the same bytes for everybody, so there is nothing to escape: what the server, the browser and the pictures'
names say gets there as text nodes. The policy below lets a browser run this one script and ask this server alone.
Where tokens are wanted, whoever has none is told whether the server is ready, and no more.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from metric_learn_client.wire import METADATA_AUTHORIZATION, SERVABLE_NAME, GetModelReply
from servable.config.sections import Config
from servable.gateway.backends import Backends
from servable.gateway.call.model_service import describe_model
from servable.gateway.errors import CallError
from servable.gateway.http.description import (
    COUNT,
    FLAG,
    JSON,
    MODEL,
    TEXT,
    Description,
    Schema,
    listed,
    or_null,
    record,
)
from servable.gateway.http.requests import Request, Response, json_response
from servable.gateway.http.routes import Question, Route
from servable.gateway.security.tokens import Tokens

HTML = "text/html; charset=utf-8"
PAGE = (Path(__file__).parent / "page.html").read_bytes()


def _hash_of(tag: bytes) -> str:
    """The source expression of Content Security Policy 3 for the page's one inline `tag`."""
    (content,) = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_hash_of(b'script')}; style-src {_hash_of(b'style')}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True)
class PageState:
    """not_ready: why the server should get no calls, "" when it should; grpc_port: None on a unix socket."""

    not_ready: Callable[[], str]
    grpc_port: Callable[[], Optional[int]]


def page_routes(settings: Config, backends: Backends, tokens: Optional[Tokens], state: PageState) -> Sequence[Route]:
    def page(_request: Request) -> Response:
        return Response(PAGE, HTML, headers=HEADERS)

    def describe(request: Request) -> Response:
        request.query(())
        token = request.headers.get(METADATA_AUTHORIZATION)
        told = tokens is None or token is not None
        if tokens is not None and token is not None:
            tokens.check(token)
        reason = state.not_ready()
        answer = {
            "ready": not reason,
            "reason": reason if told else "",
            "token_required": tokens is not None,
            "grpc_port": state.grpc_port(),
            "model": _model(settings, backends) if told else None,
        }
        return json_response(answer)

    return (
        Question("GET", "/", page, public=True, description=Description("A page for people.", {HTML: TEXT})),
        Question("GET", f"/model/{SERVABLE_NAME}", describe, public=True, description=_DESCRIPTION),
    )


def _model(settings: Config, backends: Backends) -> Optional[Mapping[str, Any]]:
    """What GetModel says of the default version; None before its first start."""
    try:
        reply = GetModelReply.FromString(describe_model(b"", backends, settings.limits))
    except CallError:
        return None
    values = {each.name: getattr(reply, each.name) for each in GetModelReply.DESCRIPTOR.fields}
    return {name: value if isinstance(value, (str, int)) else list(value) for name, value in values.items()}


_NUMBERS = ("version", "dim", "max_instances", "max_request_bytes", "max_image_bytes", "max_image_px")
_FACTS: Mapping[str, Schema] = {
    "name": MODEL,
    **{name: COUNT for name in _NUMBERS},
    **{name: TEXT for name in ("fingerprint", "preprocessing", "server_version")},
    "weights": {"enum": ["published", "custom", "stand-in"]},
    "methods": listed(TEXT),
    "versions": listed(COUNT),
}
_DESCRIPTION = Description(
    "What is served here and whether it is ready. Where tokens are wanted: without one, ready alone.",
    {
        JSON: record(
            {
                "ready": FLAG,
                "reason": TEXT,
                "token_required": FLAG,
                "grpc_port": or_null(COUNT),
                "model": or_null(record(_FACTS)),
            }
        )
    },
    statuses=(401,),
)

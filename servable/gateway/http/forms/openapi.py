"""GET /openapi.json: the registry of routes, written as OpenAPI 3.1. What a route does is said beside the route."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from metric_learn_client import __version__
from servable.gateway.http.description import JSON, Description, Schema
from servable.gateway.http.requests import Request, Response, json_response
from servable.gateway.http.routes import CallRoute, Question, Route

_TITLE = "metric_learn: image embeddings"
_ABOUT = (
    "Pictures in, embeddings out: float32 [2048] of unit length for each. Pictures travel in the calls themselves: "
    "URLs are never fetched. Requests are not compressed. Every answer has x-request-id."
)
_WORDS = {
    400: "The request is wrong, or a picture of it; sending the same again cannot help.",
    401: "The server wants a token, another one than this.",
    404: "The model, its version or the thing asked for is not here.",
    405: "The path has other methods; `allow` names them.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the server takes.",
    415: "The kind of body is not taken here, or it is compressed.",
    429: "Too much to do: nothing of the call was done. Send it again after `retry-after`.",
    500: "A fault of the server; its log has the reason for this x-request-id.",
    503: "Not now: send it again after `retry-after`.",
    504: "Not done within the deadline.",
}
_OF_ALL = (400, 500)
_OF_CALLS = (404, 408, 413, 415, 429, 503, 504)
_RETRY_AFTER = {"retry-after": {"description": "whole seconds", "schema": {"type": "integer", "minimum": 1}}}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def openapi_routes(others: Sequence[Route]) -> Sequence[Route]:
    """GET /openapi.json, which describes the others and itself."""
    about = Description("This document.", {JSON: {"type": "object"}})

    def describe(_request: Request) -> Response:
        return answer

    own = Question("GET", "/openapi.json", describe, public=True, description=about)
    answer = json_response(document([*others, own]))
    return (own,)


def _operation(route: Route) -> dict[str, Any]:
    about = route.description
    public = isinstance(route, Question) and route.public
    statuses = sorted(
        {*_OF_ALL, *(() if public else (401,)), *(_OF_CALLS if isinstance(route, CallRoute) else ()), *about.statuses}
    )
    operation: dict[str, Any] = {
        "summary": about.summary,
        "parameters": [
            *(_parameter("path", name, schema) for name, schema in _in_path(route).items()),
            *(_parameter("query", name, schema) for name, schema in about.query.items()),
        ],
        "responses": {
            "200": {"description": "Done.", "content": _content(about.replies)},
            **{str(status): _failure(status, about.error) for status in statuses},
        },
        # {}: a server without tokens takes everybody's calls, and this document is the same for both.
        "security": [] if public else [{}, {"token": []}],
    }
    if about.body:
        operation["requestBody"] = {"required": not about.may_be_empty, "content": _content(about.body)}
    return operation


def _in_path(route: Route) -> Mapping[str, Schema]:
    plain: Schema = {"type": "string", "pattern": "^[^/:]+$"}
    return {name: route.description.path.get(name, plain) for name in re.findall(r"{(\w+)}", route.path)}


def _parameter(where: str, name: str, schema: Schema) -> dict[str, Any]:
    return {"in": where, "name": name, "required": where == "path", "schema": schema}


def _content(by_type: Mapping[str, Schema]) -> dict[str, Any]:
    return {media_type: {"schema": schema} for media_type, schema in by_type.items()}


def _failure(status: int, schema: Schema) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": _WORDS[status], "content": _content({JSON: schema})}
    if status in (429, 503):
        answer["headers"] = _RETRY_AFTER
    return answer

"""What a handler gets and gives: one request, read whole, and one response. Pure."""

from __future__ import annotations

import urllib.parse
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

import orjson

from servable.gateway.call.calls import Embedded
from servable.gateway.call.request import PredictWork
from servable.gateway.errors import invalid
from servable.gateway.http.description import JSON

# Runs a call's images through the one internal call. Raises CallError.
Embed = Callable[[PredictWork], Awaitable[Embedded]]


@dataclass
class Request:
    """parameters: of the path's template. pairs: headers as they came, names in lower case; headers: by name.

    body: complete; empty until a call's handler runs, and again when it asks for embeddings.
    """

    method: str
    path: str
    query_string: str
    pairs: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def query(self, allowed: Sequence[str]) -> dict[str, str]:
        """The query's parameters. Raises CallError (INVALID_ARGUMENT): one that is not allowed, or there twice."""
        found: dict[str, str] = {}
        if not self.query_string:
            return found
        try:
            pairs = urllib.parse.parse_qsl(self.query_string, keep_blank_values=True, max_num_fields=64)
        except ValueError:
            raise invalid("query", "more than 64 parameters") from None
        for name, value in pairs:
            if name not in allowed:
                known = ", ".join(allowed) or "none"
                raise invalid(name[:64], f"unknown parameter in the query; known here: {known}")
            if name in found:
                raise invalid(name, "there twice in the query; give it once")
            found[name] = value
        return found

    @property
    def content_type(self) -> str:
        """The media type alone, in lower case; "" without one."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True)
class Response:
    body: bytes
    content_type: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(value: Any, status: int = 200) -> Response:
    """value: what orjson writes."""
    try:
        body = orjson.dumps(value)
    except TypeError:  # half of a pair of UTF-16 in a caller's words, which UTF-8 cannot hold
        body = orjson.dumps(_whole(value))
    return Response(body, status=status)


def _whole(value: Any) -> Any:
    """The same with a question mark for each half of a pair."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(each) for key, each in value.items()}
    return value

"""The registry of paths: which handler answers what.

A wire adds its paths by giving a list of `Route` to `Routes` (see `servable.gateway.http.forms`):

    CallRoute("POST", "/v1/embeddings", handler, wire="openai", error=openai_error)
        A call of the model. `await handler(request, embed)` runs inside the one internal call (`call/calls.py`): token,
        deadline, limits, drain, log and metrics are taken care of, `request.body` is complete, and
        `await embed(PredictWork(...))` gives the outcomes. Long bodies and answers: see `aside`.
    Question("GET", "/v1/models", handler, public=False)
        A small answer beside it; `handler(request)` gets no body. public: also without a token.

Both give a `Response` or raise `CallError` (with a status of its own: `HttpError`), which `error` writes as the form's
own JSON. A path is a template: `{name}` stands for one or more characters other than `/` and `:`. GET answers HEAD too.
`description` is what GET /openapi.json says beside that.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Callable, Union

import grpc

from servable.gateway.http.description import Description
from servable.gateway.http.errors import ErrorForm, HttpError, openai_error
from servable.gateway.http.requests import Embed, Request, Response


@dataclass(frozen=True)
class CallRoute:
    """wire: as the log and the metrics name it. version_field: how the form writes the version that is asked for.

    always_200: failures say 200 too, for programs that look into the body alone.
    """

    method: str
    path: str
    handler: Callable[[Request, Embed], Awaitable[Response]]
    wire: str
    error: ErrorForm = openai_error
    version_field: str = "version"
    always_200: bool = False
    description: Description = Description()


@dataclass(frozen=True)
class Question:
    method: str
    path: str
    handler: Callable[[Request], Response]
    public: bool = False
    error: ErrorForm = openai_error
    description: Description = Description()


Route = Union[CallRoute, Question]


class Routes:
    """All paths. Raises ValueError where two routes claim one method of one path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.all = tuple(routes)
        self._fixed: dict[str, dict[str, Route]] = {}  # path -> method -> route
        self._templates: dict[str, tuple[re.Pattern[str], dict[str, Route]]] = {}
        for route in self.all:
            if "{" in route.path:
                pattern = re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", re.escape(route.path)))
                by_method = self._templates.setdefault(route.path, (pattern, {}))[1]
            else:
                by_method = self._fixed.setdefault(route.path, {})
            if route.method in by_method:
                raise ValueError(f"{route.method} {route.path} is there twice")
            by_method[route.method] = route

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """(route, its parameters). Raises HttpError: 404, or 405 with the methods that are there."""
        wanted = "GET" if method == "HEAD" else method
        allowed: set[str] = set()
        for by_method, parameters in self._matches(path):
            if wanted in by_method:
                return by_method[wanted], parameters
            allowed.update(by_method)
        if not allowed:
            known = ", ".join(sorted({route.path for route in self.all}))
            raise HttpError(
                404, f"there is no such path here; known: {known}", status=grpc.StatusCode.NOT_FOUND, code="not_found"
            )
        names = ", ".join(sorted(allowed | {"HEAD"} if "GET" in allowed else allowed))
        raise HttpError(
            405,
            f"{method[:16]} is not for this path; it takes {names}",
            status=grpc.StatusCode.UNIMPLEMENTED,
            headers={"allow": names},
        )

    def _matches(self, path: str) -> Iterable[tuple[dict[str, Route], dict[str, str]]]:
        fixed = self._fixed.get(path)
        if fixed is not None:
            yield fixed, {}
        for pattern, by_method in self._templates.values():
            found = pattern.fullmatch(path)
            if found:
                yield by_method, found.groupdict()

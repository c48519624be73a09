"""From a request to its answer: the ASGI application behind every connection.

Calls of the model go through the one internal call (`call/calls.py`), small questions beside it. Whatever fails is
written in the form of the path that was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Callable, Optional

import grpc

from metric_learn_client.wire import METADATA_AUTHORIZATION, METADATA_REQUEST_ID
from servable.config.sections import Config
from servable.gateway.call.calls import Call, Calls, Embedded, refuse_repeated, request_id_of
from servable.gateway.call.request import PredictWork
from servable.gateway.errors import CallError, invalid
from servable.gateway.http.aside import aside
from servable.gateway.http.errors import ErrorForm, HttpError, headers_of, openai_error, plain_error, status_of
from servable.gateway.http.http_connection import Connection
from servable.gateway.http.requests import Request, Response, json_response
from servable.gateway.http.routes import CallRoute, Question, Routes
from servable.gateway.limits.arriving import ArrivingBodies, BodyTooLarge
from servable.gateway.limits.connections import TAKE_REPLY_S
from servable.gateway.limits.time_limit import TimeIsUp, TimeLimit
from servable.gateway.security.tokens import Tokens

TIMEOUT_HEADER = "x-request-timeout-s"
ONCE = (
    "content-type",
    "content-encoding",
    "inference-header-content-length",
    TIMEOUT_HEADER,
)  # beside those that `refuse_repeated` knows
LINGER_S = 2.0  # in which what is left of a refused body is thrown away, so that the caller sees the refusal
SHORT_BODY_BYTES = 1024 * 1024  # it is thrown away before the refusal, and the connection goes on
log = logging.getLogger(__name__)
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
_ALWAYS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}  # unless a response says otherwise


class Application:
    """`routes`: see servable.gateway.http.routes."""

    def __init__(self, settings: Config, calls: Calls, routes: Routes, tokens: Optional[Tokens]) -> None:
        self._limits = settings.limits
        self._calls = calls
        self._routes = routes
        self._tokens = tokens
        self._bodies = ArrivingBodies(settings.limits.max_in_flight_bytes, settings.deadlines.read_body_s)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        connection: Connection = scope["state"]["connection"]
        request = _read_head(scope)
        body = _ReceivedBody(receive, request.headers)
        try:
            response = await self._answer(connection, request, body)
            await self._send(connection, response, body, send)
        except asyncio.CancelledError:  # the caller is gone; uvicorn would log it as an error of ours
            connection.abort()

    async def _answer(self, connection: Connection, request: Request, body: _ReceivedBody) -> Response:
        try:
            route, request.parameters = self._routes.find(request.method, request.path)
        except CallError as error:
            form = plain_error if request.path.startswith("/v2/") else openai_error
            return _failed(error, form, {METADATA_REQUEST_ID: request_id_of(request.headers)})
        if isinstance(route, Question):
            return self._question(route, request)
        call = Call(
            route.wire,
            f"{route.method} {route.path}",
            request.pairs,
            request.headers,
            connection.key,
            connection.peer,
            lambda: _time_left_s(request),
        )
        outcome = await self._calls.answer(call, lambda: self._embed(route, call, request, body))
        identity = {name: str(value) for name, value in call.identity()}
        if isinstance(outcome, CallError):
            return _failed(outcome, route.error, identity, route.always_200)
        return Response(outcome.body, outcome.content_type, outcome.status, {**outcome.headers, **identity})

    async def _embed(self, route: CallRoute, call: Call, request: Request, body: _ReceivedBody) -> Response:
        _check_head(request)
        with self._calls.reading():
            pieces = await self._read(request, body)
        size = call.bytes = sum(map(len, pieces))
        with contextlib.ExitStack() as kept:
            kept.enter_context(self._bodies.kept(size))
            request.body = await aside(size, lambda: b"".join(pieces))
            pieces.clear()

            async def embed(work: PredictWork) -> Embedded:
                kept.close()  # what is kept of it from here on are its images, and they count among those in flight
                request.body = b""
                return await self._calls.embed(call, work, size, route.version_field)

            return await route.handler(request, embed)

    async def _read(self, request: Request, body: _ReceivedBody) -> list[bytes]:
        most = self._limits.max_request_bytes
        too_large = HttpError(
            413, f"the body is larger than {most} bytes (limits.max_request_bytes); send fewer or smaller images"
        )
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        try:
            return await self._bodies.read(body.piece, most)
        except BodyTooLarge:
            raise too_large from None
        except TimeIsUp:
            what = f"the request's body did not arrive within {self._bodies.read_s:g} s"
            raise HttpError(408, what, status=grpc.StatusCode.DEADLINE_EXCEEDED) from None

    def _question(self, route: Question, request: Request) -> Response:
        identity = {METADATA_REQUEST_ID: request_id_of(request.headers)}
        try:
            refuse_repeated(request.pairs)
            if self._tokens is not None and not route.public:
                self._tokens.check(request.headers.get(METADATA_AUTHORIZATION))
            response = route.handler(request)
        except CallError as error:
            return _failed(error, route.error, identity)
        except Exception:
            log.exception("a request ended by an error of the gateway, request %s", identity[METADATA_REQUEST_ID])
            words = f"the gateway failed; its log has the reason for request {identity[METADATA_REQUEST_ID]}"
            return _failed(CallError(grpc.StatusCode.INTERNAL, words), route.error, identity)
        return Response(response.body, response.content_type, response.status, {**response.headers, **identity})

    async def _send(self, connection: Connection, response: Response, body: _ReceivedBody, send: Send) -> None:
        """Raises CancelledError where the caller goes; who takes too long to read is put out."""
        if not body.complete and body.soon:
            await body.throw_away(SHORT_BODY_BYTES)
        named = {**_ALWAYS, "content-type": response.content_type, **response.headers}
        headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in named.items()]
        headers.append((b"content-length", b"%d" % len(response.body)))
        if self._calls.draining or connection.last or not body.complete:
            headers.append((b"connection", b"close"))
        self._calls.unread.add(connection.key, len(response.body))
        try:
            with TimeLimit(TAKE_REPLY_S):
                await send({"type": "http.response.start", "status": response.status, "headers": headers})
                await send({"type": "http.response.body", "body": response.body, "more_body": True})
                if not body.complete:
                    await body.throw_away(self._limits.max_request_bytes)
                await send({"type": "http.response.body"})  # after all of it is with the kernel
        except TimeIsUp:
            connection.abort()
        finally:
            self._calls.unread.give_back(connection.key, len(response.body))


class _ReceivedBody:
    """What comes of a request's body."""

    def __init__(self, receive: Receive, headers: Mapping[str, str]) -> None:
        self._receive = receive
        chunked = "transfer-encoding" in headers
        length = int(headers.get("content-length", 0))
        self.complete = not length and not chunked
        self.soon = length <= SHORT_BODY_BYTES and not chunked and "expect" not in headers

    async def piece(self) -> tuple[bytes, bool]:
        """(bytes, whether there is more). Raises CancelledError where the caller is gone."""
        message = await self._receive()
        if message["type"] != "http.request":
            raise asyncio.CancelledError
        self.complete = not message["more_body"]
        return message["body"], message["more_body"]

    async def throw_away(self, most: int) -> None:
        try:
            with TimeLimit(LINGER_S):
                while not self.complete and most > 0:
                    most -= len((await self.piece())[0])
        except TimeIsUp:
            pass


def _read_head(scope: Any) -> Request:
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    raw = scope["raw_path"]
    # A slash that is written %2F separates nothing (RFC 3986, section 2.2): what a proxy lets through as one name must
    # not be another path here.
    path = raw.decode("latin-1") if b"%2f" in raw.lower() else scope["path"]
    return Request(scope["method"], path, scope["query_string"].decode("latin-1"), pairs, dict(pairs))


def _check_head(request: Request) -> None:
    """Raises CallError where the head says something of the body that is not taken here."""
    if len(request.pairs) != len(request.headers):
        for name in ONCE:
            count = sum(1 for each, _ in request.pairs if each == name)
            if count > 1:
                raise invalid(name, f"there {count} times; send it once")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise HttpError(415, f"content-encoding {coding[:32]!r} is not taken; send the body uncompressed")


def _time_left_s(request: Request) -> Optional[float]:
    given = request.headers.get(TIMEOUT_HEADER)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise invalid(TIMEOUT_HEADER, f"{given[:32]!r}; it must be the seconds that the call may take, as 2.5")
    return seconds


def _failed(error: CallError, form: ErrorForm, identity: dict[str, str], always_200: bool = False) -> Response:
    status = status_of(error)
    answer = json_response(form(status, error), 200 if always_200 else status)
    return Response(answer.body, answer.content_type, answer.status, {**headers_of(status, error), **identity})

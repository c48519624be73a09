"""Why an HTTP request fails: the status of each gRPC code, and what a failure adds to its answer. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Callable, Optional

import grpc

from servable.gateway.errors import CallError

HTTP_STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,  # nobody is there to read it
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNKNOWN: 500,
}
# OpenAI's names, by status; any other of 400 and more is a fault of the request, of 500 and more of the server.
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class HttpError(CallError):
    """A failure that has a status of HTTP's own. code: for programs, "E_DECODE" or "model_not_found"."""

    def __init__(
        self,
        http_status: int,
        message: str,
        *,
        status: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT,
        field: Optional[str] = None,
        code: Optional[str] = None,
        headers: Mapping[str, str] = {},
    ) -> None:
        super().__init__(status, message, field=field)
        self.http_status = http_status
        self.code = code
        self.headers = headers


# How a form writes a failure: (HTTP status, error) -> what becomes the JSON body.
ErrorForm = Callable[[int, CallError], Any]


def status_of(error: CallError) -> int:
    return error.http_status if isinstance(error, HttpError) else HTTP_STATUS[error.status]


def headers_of(status: int, error: CallError) -> dict[str, str]:
    """Beside the body: when to come again (whole seconds, as HTTP has it), and what kind of credentials are wanted."""
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_ms / 1000)))
        headers["retry-after-ms"] = str(error.retry_after_ms)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers


def plain_error(_status: int, error: CallError) -> dict[str, Any]:
    """{"error": "..."}: TensorFlow Serving's, and that of the Open Inference Protocol."""
    return {"error": error.message}


def openai_error(status: int, error: CallError) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}: OpenAI's, and that of everything without a form of its own."""
    code = error.code if isinstance(error, HttpError) else None
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
            "param": error.field,
            "code": code or _CODES.get(status),
        }
    }

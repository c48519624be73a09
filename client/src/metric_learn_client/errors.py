"""Everything the client raises. A failed call raises; a failed image inside a good call is an ImageFailure, a value.

MetricLearnError
|- EndpointError            the call as a whole failed; .code is the gRPC status' name
|  |- UnreachableError      UNAVAILABLE, CANCELLED: nothing serves at the endpoint, it is not ready, or it is stopped
|  |- DeadlineError         DEADLINE_EXCEEDED: no answer within deadline_s
|  |- OverloadedError       RESOURCE_EXHAUSTED: try again later, or send less at once
|  |- ServerError           INTERNAL, UNKNOWN, DATA_LOSS, ABORTED: the server failed
|  `- RejectedError         the server will not take this call, however often it is sent: INVALID_ARGUMENT, NOT_FOUND,
|     |                     ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED
|     `- AuthenticationError  UNAUTHENTICATED, PERMISSION_DENIED, no TLS handshake: token or certificate
|- IdentityError            the server's model is not the expected one, or not the one of the replies before
|- ReplyError               the server's answer does not fit the request
|- ClosedError              the client was closed
`- ImagesFailedError        some images of a good call failed; .errors has each with its index

Programmer's mistakes are ValueError and TypeError, raised before anything is sent. All of these can be pickled.

Codes of an ImageFailure: those of the servable (E_DECODE, E_TOO_LARGE, E_EMPTY, E_UNSUPPORTED, E_SHAPE, E_NON_FINITE,
E_CRASH), E_READ (the file cannot be read here; nothing was sent) and E_INTERNAL (the servable failed on this image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ImageFailure:
    """One image that could not be embedded. index: its place in the call; code: "E_DECODE" and the like."""

    index: int
    code: str
    message: str


class MetricLearnError(Exception):
    pass


class EndpointError(MetricLearnError):
    """code: the name of the gRPC status, "UNAVAILABLE". details: the server's own words."""

    def __init__(self, message: str, code: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code, self.details)


class UnreachableError(EndpointError):
    pass


class DeadlineError(EndpointError):
    pass


class OverloadedError(EndpointError):
    pass


class ServerError(EndpointError):
    pass


class RejectedError(EndpointError):
    pass


class AuthenticationError(RejectedError):
    pass


class IdentityError(MetricLearnError):
    pass


class ReplyError(MetricLearnError):
    pass


class ClosedError(MetricLearnError):
    pass


class ImagesFailedError(MetricLearnError):
    def __init__(self, errors: Sequence[ImageFailure]) -> None:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"image {first.index}: {first.code}: {first.message}{more}")
        self.errors = tuple(errors)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errors,)


BY_STATUS: dict[str, type[EndpointError]] = {
    "OK": EndpointError,  # never the status of a failure; here so that the table is whole
    "CANCELLED": UnreachableError,  # by the server or a proxy; the caller's own is never a status
    "UNKNOWN": ServerError,
    "INVALID_ARGUMENT": RejectedError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "NOT_FOUND": RejectedError,
    "ALREADY_EXISTS": RejectedError,
    "PERMISSION_DENIED": AuthenticationError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "FAILED_PRECONDITION": RejectedError,
    "ABORTED": ServerError,
    "OUT_OF_RANGE": RejectedError,
    "UNIMPLEMENTED": RejectedError,
    "INTERNAL": ServerError,
    "UNAVAILABLE": UnreachableError,
    "DATA_LOSS": ServerError,
    "UNAUTHENTICATED": AuthenticationError,
}


# gRPC reports a failed TLS handshake as UNAVAILABLE and says why in the text alone.
_HANDSHAKE = ("handshake failed", "certificate_verify_failed", "is not in peer certificate", "hostname verification")


def is_handshake_failure(details: str) -> bool:
    """Whether UNAVAILABLE means that TLS was refused, which no repetition mends."""
    return any(text in details.lower() for text in _HANDSHAKE)


def from_status(code: str, details: str, endpoint: str, deadline_s: float) -> EndpointError:
    """The error of a gRPC status by name; one table for all of them."""
    kind = BY_STATUS.get(code, EndpointError)
    if kind is UnreachableError and is_handshake_failure(details):
        return AuthenticationError(
            f"no TLS connection to {endpoint}: {details}; check ca_file, server_name, cert_file and key_file",
            code,
            details,
        )
    if code == "CANCELLED":
        return kind(
            f"{endpoint} ended the call ({details}); was the server, or a proxy before it, stopped?", code, details
        )
    if kind is UnreachableError:
        remedy = "is the server started and ready?"
        if "socket closed" in details.lower():  # TLS 1.3: the client has finished before its certificate is refused
            remedy += " If it asks for client certificates: check cert_file and key_file"
        if " through the proxy " in endpoint:
            remedy += " If it should be reached without the proxy: name its host in no_proxy"
        return kind(f"nothing serves at {endpoint}: {details}; {remedy}", code, details)
    if kind is DeadlineError:
        said = "" if details.lower() in ("", "deadline exceeded") else f": {details}"  # gRPC's own words add nothing
        return kind(f"{endpoint} gave no answer within deadline_s={deadline_s:g}{said}", code, details)
    if kind is AuthenticationError:
        return kind(f"{endpoint} refuses this caller: {code}: {details}; check token and certificate", code, details)
    return kind(f"{endpoint}: {code}: {details}", code, details)

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
Codes of an ImageFailure: contract.image_codes.
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
    """What all errors of this package are. Catch it to catch them all."""


class EndpointError(MetricLearnError):
    """A call failed as a whole; raised as one of the kinds below.

    code: the name of the gRPC status, "UNAVAILABLE". details: the server's own words.
    """

    def __init__(self, message: str, code: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code, self.details)


class UnreachableError(EndpointError):
    """Nothing serves at any of the endpoints, or what serves there is not ready, or was stopped.

    Cause: a wrong address, a server that starts, stops or is down, a network or a proxy between.
    Do: try again later; the client has tried `retries` rounds over all endpoints. `metric-learn status` says more.
    """


class DeadlineError(EndpointError):
    """No answer within `deadline_s`, which bounds the call as a whole, reading and retries included.

    Cause: a slow or hung server or network, a file that does not answer, more images than the time is enough for.
    Do: a longer `deadline_s`, fewer images in a call, or `embed_iter`, where it holds for each batch.
    """


class OverloadedError(EndpointError):
    """The server had no room until the deadline, or refuses a message of this size.

    Cause: more callers than the server serves, or a message over its limits.
    Do: try again later; more servers; a smaller `max_in_flight` or `batch_size`. Nothing of the refused calls was done.
    """


class ServerError(EndpointError):
    """The server failed on the call.

    Cause: a fault of the server, or of a proxy before it.
    Do: once more; where it stays, tell the operator: the server's log has the reason under the request id.
    """


class RejectedError(EndpointError):
    """The server will not take this call, however often it is sent.

    Cause: another or older server than the client was made for, a version that is not served, a wrong address.
    Do: read the message, which has the field; compare the versions of server and client.
    """


class AuthenticationError(RejectedError):
    """The server refuses this caller, or there is no TLS connection to it.

    Cause: no token or a wrong one, a certificate that is expired, of another authority or for another name.
    Do: look at `token`, `token_file` and `TlsOptions`; the message says which of them it is.
    """


class IdentityError(MetricLearnError):
    """The server's model is not the expected one, or not the one of the replies before.

    Cause: a switch to another version, or endpoints that serve different models.
    Do: never mix the two kinds of embeddings. Embed anew, or pin the model with `expected_fingerprint`.
    """


class ReplyError(MetricLearnError):
    """The server's answer does not fit the request: rows missing, of a wrong length, or no message at all.

    Cause: something else than this service at the address, or a fault of it.
    Do: look at the address; else report it.
    """


class ClosedError(MetricLearnError):
    """The client was closed, before the call or while it ran.

    Cause: this program.
    Do: make the client live as long as its calls.
    """


class ImagesFailedError(MetricLearnError):
    """Some images of a call that went well failed; errors: an ImageFailure for each, with its index and code.

    Cause: the images.
    Do: `on_error="return"` gives the rows of the others.
    """

    def __init__(self, errors: Sequence[ImageFailure]) -> None:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"image {first.index}: {first.code}: {first.message}{more}")
        self.errors = tuple(errors)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errors,)


BY_STATUS: dict[str, type[EndpointError]] = {
    "OK": EndpointError,
    "CANCELLED": UnreachableError,
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
"""What each status means when this service, or what stands before it, says it.

OK: never the status of a failure; here so that the table is whole.
CANCELLED: the server or a proxy before it ended the call; the caller's own cancellation is never a status.
UNKNOWN: a proxy's answer that is not gRPC.
INVALID_ARGUMENT: a field of the request is missing, unknown, of a wrong type or over a limit; the text starts with it.
DEADLINE_EXCEEDED: no answer within the caller's deadline, or the server's `deadlines.max_s`.
NOT_FOUND: a version of the model that is not served.
ALREADY_EXISTS: not said by this service.
PERMISSION_DENIED: a proxy's HTTP 403; the service itself says UNAUTHENTICATED.
RESOURCE_EXHAUSTED: no room at present, nothing was done; without a retry hint: metadata of over 16 KiB.
FAILED_PRECONDITION: not said by this service.
ABORTED: not said by this service.
OUT_OF_RANGE: not said by this service.
UNIMPLEMENTED: no such path or method, or a compressed message; a proxy's HTTP 404.
INTERNAL: a fault of the server, or a broken connection; the server's log has the reason under the request id.
UNAVAILABLE: nothing listens, the server stops, its model is being restarted, or a proxy says HTTP 429, 502, 503 or 504.
DATA_LOSS: not said by this service.
UNAUTHENTICATED: no token, or none of the valid ones; a proxy's HTTP 401.
"""


# gRPC reports a failed TLS handshake as UNAVAILABLE and says why in the text alone.
_HANDSHAKE = ("handshake failed", "certificate_verify_failed", "is not in peer certificate", "hostname verification")


def is_handshake_failure(details: str) -> bool:
    """Whether UNAVAILABLE means that TLS was refused, which a repetition at the same place does not mend."""
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
        # TLS 1.3: the client has finished before its certificate is refused.
        if any(text in details.lower() for text in ("socket closed", "connection reset")):
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

"""Everything the client raises.

MetricLearnError
|- EndpointError          the call as a whole failed; .code is the gRPC status' name
|  |- UnreachableError    UNAVAILABLE: nothing serves at the endpoint, or it is not ready
|  |- DeadlineError       DEADLINE_EXCEEDED: no answer within deadline_s
|  |- OverloadedError     RESOURCE_EXHAUSTED: try again later, or send less at once
|  `- RejectedError       the server will not take this call, however often it is sent
|- ReplyError             the server's answer does not fit the request
`- ImagesFailedError      some images of a good call failed; .errors has each with its index
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc


@dataclass(frozen=True)
class ImageFailure:
    """One image that could not be embedded. index: its place in the call; code: "E_DECODE" and the like."""

    index: int
    code: str
    message: str


class MetricLearnError(Exception):
    pass


class EndpointError(MetricLearnError):
    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class UnreachableError(EndpointError):
    pass


class DeadlineError(EndpointError):
    pass


class OverloadedError(EndpointError):
    pass


class RejectedError(EndpointError):
    pass


class ReplyError(MetricLearnError):
    pass


class ImagesFailedError(MetricLearnError):
    def __init__(self, errors: Sequence[ImageFailure]) -> None:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"image {first.index}: {first.code}: {first.message}{more}")
        self.errors = tuple(errors)


_BY_STATUS = {
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.INVALID_ARGUMENT: RejectedError,
    grpc.StatusCode.NOT_FOUND: RejectedError,
    grpc.StatusCode.UNIMPLEMENTED: RejectedError,
    grpc.StatusCode.UNAUTHENTICATED: RejectedError,
    grpc.StatusCode.PERMISSION_DENIED: RejectedError,
    grpc.StatusCode.FAILED_PRECONDITION: RejectedError,
    grpc.StatusCode.OUT_OF_RANGE: RejectedError,
}


def from_status(status: grpc.StatusCode, details: str, endpoint: str, deadline_s: float) -> EndpointError:
    """The error of a gRPC status; one table for all of them, EndpointError itself where no class fits."""
    kind = _BY_STATUS.get(status, EndpointError)
    if kind is UnreachableError:
        return kind(f"nothing serves at {endpoint}: {details}; is the server started and ready?", status.name)
    if kind is DeadlineError:
        return kind(f"{endpoint} gave no answer within deadline_s={deadline_s:g}", status.name)
    return kind(f"{endpoint}: {status.name}: {details}", status.name)

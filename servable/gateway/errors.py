"""Why a call fails as a whole: one status, one short sentence, and what a client can read by program. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Optional

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from metric_learn_client.wire import METADATA_RETRY_AFTER_MS
from servable.config.problem import Problem

STATUS_DETAILS = "grpc-status-details-bin"  # google.rpc.Status, the richer error model of gRPC
RETRY_AFTER_MS = 1000  # where nothing says better when there will be room
Metadata = tuple[tuple[str, "str | bytes"], ...]


class StartError(Exception):
    """The gateway cannot start: keys, addresses or credential files, one line for each problem with its remedy."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@contextlib.contextmanager
def gathered(problems: list[Problem]) -> Iterator[None]:
    """Adds to `problems` instead of raising StartError, so that an operator sees all of them at once."""
    try:
        yield
    except StartError as error:
        problems += error.problems


class CallError(Exception):
    """The call fails with `status`. `field`: what of the request is wrong; `retry_after_ms`: when to send it again."""

    def __init__(
        self,
        status: grpc.StatusCode,
        message: str,
        *,
        field: Optional[str] = None,
        retry_after_ms: Optional[int] = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message if field is None else f"{field}: {message}"
        self.field = field
        self.retry_after_ms = retry_after_ms

    def trailing_metadata(self) -> Metadata:
        """The retry hint and the wrong field, as plain metadata and as google.rpc.Status."""
        details = []
        metadata: list[tuple[str, str | bytes]] = []
        if self.retry_after_ms is not None:
            metadata.append((METADATA_RETRY_AFTER_MS, str(self.retry_after_ms)))
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(self.retry_after_ms)
            details.append(retry)
        if self.field is not None:
            violation = error_details_pb2.BadRequest.FieldViolation(field=self.field, description=self.message)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if details:
            status = status_pb2.Status(code=code_pb2.Code.Value(self.status.name), message=self.message)
            for detail in details:
                status.details.add().Pack(detail)
            metadata.append((STATUS_DETAILS, status.SerializeToString()))
        return tuple(metadata)


def invalid(field: str, message: str) -> CallError:
    """INVALID_ARGUMENT: sending the same again cannot help."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, message, field=field)


def unavailable(message: str, retry_after_ms: int) -> CallError:
    """UNAVAILABLE: not now; the same call may be sent again after `retry_after_ms`."""
    return CallError(grpc.StatusCode.UNAVAILABLE, message, retry_after_ms=retry_after_ms)


def overloaded(message: str, retry_after_ms: int) -> CallError:
    """RESOURCE_EXHAUSTED: nothing of the call was done; send it again after `retry_after_ms`, or to another server."""
    return CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, message, retry_after_ms=retry_after_ms)

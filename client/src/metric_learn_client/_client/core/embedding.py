"""The calls of a client, as steps: a batch of images, the model, readiness. No I/O; see `steps`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Optional, Union

import numpy as np

from metric_learn_client import wire
from metric_learn_client._client.core.batches import Batch
from metric_learn_client._client.core.calling import HEALTH_CHECK, Core, Deadline, TooLargeError, call, why_not_serving
from metric_learn_client._client.core.codec import decode_reply
from metric_learn_client._client.core.identity import ModelInfo, ModelLimits, Origin, decode_model, origin_of
from metric_learn_client._client.core.pool import names
from metric_learn_client._client.core.steps import Failure, Reply, Send, Sleep, Steps
from metric_learn_client._client.core.targets import Target
from metric_learn_client.errors import ImageFailure, RejectedError, UnreachableError
from metric_learn_client.results import BatchResult, changed_during_call
from metric_learn_client.wire.instances import encode_request
from metric_learn_client.wire.rows import Embeddings

_READY_CHECK_S = 2.0  # one target has so long to answer a readiness check
_READY_POLL_S = 0.1


def embed_batch(
    core: Core, method: str, batch: Batch, deadline: Deadline, out: Optional[Embeddings] = None
) -> Steps[BatchResult]:
    """One batch, in one call or, where the server takes no message of that size, in several.

    out: where the rows go, float32 [batch.count, 2048]; made here where it is not given.
    """
    rows = np.empty((batch.count, wire.EMBEDDING_DIM), np.float32) if out is None else out
    if len(batch.images) == batch.count:
        try:
            failures, origin = yield from _predict(core, method, batch.images, rows, deadline)
            return BatchResult(batch.start, rows, _at(batch.positions, failures), origin)
        except TooLargeError:
            pass
    rows[:] = np.nan
    return (yield from _embed_parts(core, method, batch, deadline, rows))


def _embed_parts(core: Core, method: str, batch: Batch, deadline: Deadline, rows: Embeddings) -> Steps[BatchResult]:
    """The batch without its failed images, halved until the server takes the parts."""
    failures = list(batch.failures)
    origin: Optional[Origin] = None
    parts = [batch] if batch.images else []
    while parts:
        part = parts.pop()
        found = np.empty((len(part.images), wire.EMBEDDING_DIM), np.float32)
        try:
            failed, part_origin = yield from _predict(core, method, part.images, found, deadline)
        except TooLargeError as error:
            if len(part.images) > 1:
                parts.extend(part.halves())
            else:
                failures.append(ImageFailure(part.positions[0], "E_TOO_LARGE", f"the server refuses it: {error}"))
            continue
        if origin is not None and origin.fingerprint != part_origin.fingerprint:
            raise changed_during_call(origin, part_origin)
        origin = part_origin
        rows[np.asarray(part.positions) - batch.start] = found
        failures.extend(_at(part.positions, failed))
    return BatchResult(batch.start, rows, tuple(failures), origin)


def _predict(
    core: Core, method: str, images: Sequence[bytes], out: Embeddings, deadline: Deadline
) -> Steps[tuple[list[ImageFailure], Origin]]:
    def read(reply: Reply, target: Target) -> Union[tuple[list[ImageFailure], Origin], Failure]:
        failures = decode_reply(reply.body, out)
        if isinstance(failures, Failure):
            return failures
        origin = origin_of(reply.trailing)
        core.guard.check(origin.fingerprint, str(target))
        return failures, origin

    body = encode_request(method, images)
    return (yield from call(core, wire.PREDICT_PATH, body, deadline, read, len(images)))


def _at(positions: Sequence[int], failures: Sequence[ImageFailure]) -> tuple[ImageFailure, ...]:
    """The failures of a part, with their index in the whole call."""
    return tuple(replace(failure, index=positions[failure.index]) for failure in failures)


def fetch_model(core: Core, deadline: Deadline) -> Steps[ModelInfo]:
    """Asks the server what it serves. A bare MindSpore Serving has no ModelService: RejectedError."""

    def read(reply: Reply, target: Target) -> ModelInfo:
        model = decode_model(reply.body)
        core.guard.check(model.fingerprint or None, str(target))
        return model

    body = wire.GetModelRequest(name=wire.SERVABLE_NAME).SerializeToString()
    model = yield from call(core, wire.GET_MODEL_PATH, body, deadline, read)
    core.model, core.model_known = model, True
    return model


def known_limits(core: Core, deadline: Deadline) -> Steps[ModelLimits]:
    """The server's limits, asked for once; the gateway's defaults for a server that has no ModelService."""
    if not core.model_known:
        try:
            yield from fetch_model(core, deadline)
        except RejectedError as error:
            if error.code != "UNIMPLEMENTED":
                raise
            core.model_known = True
    return core.model.limits if core.model is not None else ModelLimits()


def check_ready(core: Core, timeout_s: float) -> Steps[Optional[str]]:
    """None where any target is ready to embed, else why none is. One look, without retries."""
    reasons = []
    limit = core.now() + timeout_s
    for target in core.pool.targets:
        left_s = max(0.0, min(_READY_CHECK_S, limit - core.now()))
        answer = yield Send(target, wire.HEALTH_CHECK_PATH, HEALTH_CHECK, left_s, core.metadata())
        if isinstance(answer, Reply):
            said = why_not_serving(answer.body)
            if said is None:
                return None
            reasons.append(f"{target}: {said}")
        elif answer.code == "UNIMPLEMENTED":  # a bare MindSpore Serving: it opens its port when it is ready
            return None
        else:
            reasons.append(f"{target}: {answer.code}: {answer.details}")
    return "; ".join(reasons)


def wait_ready(core: Core, timeout_s: float) -> Steps[None]:
    """Raises UnreachableError with the last reason where none is ready in time."""
    limit = core.now() + timeout_s
    reason = ""
    while True:
        said = yield from check_ready(core, limit - core.now())
        if said is None:
            return
        if not reason or "DEADLINE_EXCEEDED" not in said:  # a look that our own end cuts short tells nothing new
            reason = said
        if core.now() + _READY_POLL_S >= limit:
            raise UnreachableError(
                f"{names(core.pool.targets)} not ready within timeout_s={timeout_s:g}: {reason}", "UNAVAILABLE", reason
            )
        yield Sleep(_READY_POLL_S)

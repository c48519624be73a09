"""FakeServable: the gateway's public surface in this process, with embeddings that need no model."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client import wire
from metric_learn_client._client.fork_safe_grpc import grpc
from metric_learn_client.testing.embeddings import fake_embeddings, is_corrupt
from metric_learn_client.testing.faults import Faults, Limits
from metric_learn_client.wire.rows import pack_rows

_FINGERPRINT = "fa4e" * 16
_MAX_WORKERS = 256  # threads appear as calls need them; a black hole holds one for every call
_SHUFFLE_S = 0.02
_OVERLOAD_HINT_MS = 20

Embed = Callable[[Sequence[bytes]], npt.NDArray[np.float32]]


class FakeServable:
    """An in-process server for tests: Predict, health and GetModel as the gateway has them.

        with FakeServable() as server, EmbeddingClient(server.endpoint) as client:
            server.faults.delay_s = 0.2

    Any bytes are an image, and `fake_embeddings` says which row they get; bytes that start with b"corrupt" get
    E_DECODE, empty ones E_EMPTY, too many E_TOO_LARGE, each at its own index. `embed` replaces the function: encoded
    images, or pixels as bytes, to float32 [N, 2048]. `token` demands that bearer token; `credentials` makes it TLS.
    Counters: `calls` and `images` of Predict, `peak_in_flight`. Thread-safe. start() works again after stop(), at the
    same address.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        *,
        embed: Embed = fake_embeddings,
        fingerprint: str = _FINGERPRINT,
        version: int = 1,
        limits: Optional[Limits] = None,
        faults: Optional[Faults] = None,
        token: Optional[str] = None,
        credentials: Optional[grpc.ServerCredentials] = None,
    ) -> None:
        self.endpoint = address
        self.fingerprint = fingerprint
        self.version = version
        self.preprocessing = "fake"
        self.limits = limits or Limits()
        self.faults = faults or Faults()
        self.ready = True  # False: health says NOT_SERVING and Predict UNAVAILABLE
        self.calls = 0
        self.images = 0
        self.peak_in_flight = 0
        self._embed = embed
        self._token = token
        self._credentials = credentials
        self._in_flight = 0
        self._lock = threading.Lock()
        self._server: Optional[Any] = None
        self._threads: Optional[ThreadPoolExecutor] = None

    def start(self) -> FakeServable:
        """Binds the address; with port 0, `endpoint` says afterwards which one it is."""
        self._threads = ThreadPoolExecutor(_MAX_WORKERS, thread_name_prefix="fake-servable")
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", wire.MAX_MESSAGE_BYTES),
        ]
        self._server = grpc.server(self._threads, options=options)
        for path, handler in (
            (wire.PREDICT_PATH, self._predict),
            (wire.HEALTH_CHECK_PATH, self._check),
            (wire.GET_MODEL_PATH, self._get_model),
        ):
            _, service, method = path.split("/")
            unary = grpc.unary_unary_rpc_method_handler(handler)
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: unary}),))
        if self._credentials is None:
            port = self._server.add_insecure_port(self.endpoint)
        else:
            port = self._server.add_secure_port(self.endpoint, self._credentials)
        if not self.endpoint.startswith("unix:"):
            self.endpoint = f"{self.endpoint.rpartition(':')[0]}:{port}"
        self._server.start()
        return self

    def stop(self) -> None:
        """Ends every connection at once, as a killed server would, and every thread."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def __enter__(self) -> FakeServable:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _predict(self, body: bytes, context: Any) -> bytes:
        with self._lock:
            self.calls += 1
            self._in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
            in_flight, faults = self._in_flight, self._strike()
        try:
            return self._answer(body, context, faults, in_flight)
        finally:
            with self._lock:
                self._in_flight -= 1

    def _strike(self) -> Faults:
        """The faults of this call; under the lock."""
        if self.faults.calls is None:
            return self.faults
        self.faults.calls -= 1
        return self.faults if self.faults.calls >= 0 else Faults()

    def _answer(self, body: bytes, context: Any, faults: Faults, in_flight: int) -> bytes:
        self._authorize(context)
        self._hold(context, faults)
        context.set_trailing_metadata(
            (
                (wire.METADATA_FINGERPRINT, faults.fingerprint or self.fingerprint),
                (wire.METADATA_VERSION, str(self.version)),
            )
        )
        if not self.ready:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not ready")
        if faults.max_in_flight is not None and in_flight > faults.max_in_flight:
            self._abort_with_hint(context, "RESOURCE_EXHAUSTED", "too many calls at once", _OVERLOAD_HINT_MS)
        if faults.status is not None:
            self._abort_with_hint(context, faults.status, faults.details, faults.retry_after_ms)
        if faults.in_band is not None:
            return _failed_call(*faults.in_band)
        request = wire.PredictRequest.FromString(body)
        images = self._images_of(request, len(body), context)
        with self._lock:
            self.images += len(images)
        return self._reply(request.servable_spec.method_name, images, faults)

    def _images_of(self, request: wire.PredictRequest, size: int, context: Any) -> list[bytes]:
        method = request.servable_spec.method_name
        if request.servable_spec.name != wire.SERVABLE_NAME or method not in (
            wire.METHOD_EMBED,
            wire.METHOD_EMBED_PIXELS,
        ):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no method {method!r} of {request.servable_spec.name!r}")
        count = len(request.instances)
        if not 1 <= count <= self.limits.max_instances or size > self.limits.max_request_bytes:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{count} instances in {size} bytes; the limits are {self.limits.max_instances} instances and"
                f" {self.limits.max_request_bytes} bytes",
            )
        if method == wire.METHOD_EMBED:
            return [instance.items[wire.ITEM_IMAGE].bytes_val[0] for instance in request.instances]
        return [instance.items[wire.ITEM_PIXELS].data for instance in request.instances]

    def _reply(self, method: str, images: list[bytes], faults: Faults) -> bytes:
        errors = {index: text for index, image in enumerate(images) for text in (self._image_error(image),) if text}
        rows = self._embed(images)
        if faults.reordered_rows:
            rows = rows[::-1]
        if faults.missing_rows:
            rows = rows[: max(0, len(rows) - faults.missing_rows)]
        if not errors and not faults.short_rows:
            return pack_rows(method, rows)
        if len(errors) == len(images) == 1:  # one error without instances, as MindSpore Serving answers
            return _failed_call(wire.ServingCode.SYSTEM_ERROR, errors[0])
        reply = wire.PredictReply()
        for index, row in enumerate(rows):
            instance, error = reply.instances.add(), reply.error_msg.add()
            if index in errors:
                error.error_code, error.error_msg = wire.ServingCode.SYSTEM_ERROR, errors[index].encode()
            else:
                tensor = instance.items[wire.ITEM_EMBEDDING]
                tensor.dtype = wire.DataType.MS_FLOAT32
                tensor.shape.dims.append(len(row))
                tensor.data = row.astype("<f4").tobytes()[: -4 if faults.short_rows else None]
        return reply.SerializeToString()

    def _image_error(self, image: bytes) -> Optional[str]:
        if not image:
            return "E_EMPTY: the image has no bytes"
        if len(image) > self.limits.max_image_bytes:
            return f"E_TOO_LARGE: {len(image)} bytes; the limit is {self.limits.max_image_bytes}"
        return "E_DECODE: the image is broken or cut off" if is_corrupt(image) else None

    def _check(self, body: bytes, context: Any) -> bytes:
        self._hold(context, Faults(black_hole=self.faults.black_hole))
        service = wire.HealthCheckRequest.FromString(body).service
        if service not in (wire.HEALTH_SERVICE_ALL, wire.HEALTH_SERVICE_PREDICT):
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {service!r}")
        status = wire.ServingStatus.SERVING if self.ready else wire.ServingStatus.NOT_SERVING
        return wire.HealthCheckResponse(status=status).SerializeToString()

    def _get_model(self, body: bytes, context: Any) -> bytes:
        self._authorize(context)
        self._hold(context, Faults(black_hole=self.faults.black_hole))
        request = wire.GetModelRequest.FromString(body)
        if request.name not in ("", wire.SERVABLE_NAME):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no servable {request.name!r}")
        return wire.GetModelReply(
            name=wire.SERVABLE_NAME,
            version=self.version,
            fingerprint=self.fingerprint,
            dim=wire.EMBEDDING_DIM,
            weights="fake",
            preprocessing=self.preprocessing,
            **vars(self.limits),
            methods=[wire.METHOD_EMBED, wire.METHOD_EMBED_PIXELS],
            server_version="fake",
            versions=[self.version],
        ).SerializeToString()

    def _authorize(self, context: Any) -> None:
        given = dict(context.invocation_metadata()).get(wire.METADATA_AUTHORIZATION)
        if self._token is not None and given != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong")

    def _hold(self, context: Any, faults: Faults) -> None:
        """Waits as the faults say; returns early, by an abort, when the caller gave up or the fake stops."""
        seconds = faults.delay_s + (random.random() * _SHUFFLE_S if faults.out_of_order else 0.0)
        if not seconds and not faults.black_hole:
            return
        over = threading.Event()  # stop() ends every call, and with it this wait
        gone = not context.add_callback(over.set) or over.wait(None if faults.black_hole else seconds)
        if gone:
            context.abort(grpc.StatusCode.CANCELLED, "the caller gave up or the fake stops")

    def _abort_with_hint(self, context: Any, status: str, details: str, retry_after_ms: Optional[int]) -> None:
        if retry_after_ms is not None:
            context.set_trailing_metadata(((wire.METADATA_RETRY_AFTER_MS, str(retry_after_ms)),))
        context.abort(grpc.StatusCode[status], details)


def _failed_call(code: int, text: str) -> bytes:
    reply = wire.PredictReply()
    reply.error_msg.add(error_code=code, error_msg=text.encode())
    return reply.SerializeToString()

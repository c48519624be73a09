"""A stand-in for MindSpore Serving's public port: its wire, its in-band errors, and faults on demand.

For tests of the gateway alone; the real one is behind tests/e2e.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Callable, Optional

import grpc
import grpc.aio
import numpy as np

from metric_learn_client import wire
from servable.engine.packed_batch import pack_rows, unpack_images
from servable.gateway import Golden

GOLDEN_IMAGE = b"golden picture"
MAX_BATCH = 16


def embedding_of(payload: bytes, salt: bytes = b"") -> np.ndarray:
    """Another unit vector for every payload; float32 [2048]."""
    seed = int.from_bytes(hashlib.sha256(salt + payload).digest()[:8], "little")
    row = np.random.default_rng(seed).standard_normal(wire.EMBEDDING_DIM).astype(np.float32)
    return (row / np.linalg.norm(row)).astype(np.float32)


@dataclass
class FakeBackend:
    """What the supervisor tells the gateway of a backend."""

    target: str
    version: int = 1
    fingerprint: str = "f" * 64
    most_batches: int = 3
    max_batch: int = MAX_BATCH
    workers: int = 1
    embedding_dim: int = wire.EMBEDDING_DIM
    weights: str = "stand-in"
    preprocessing: str = "test"
    golden: Golden = field(default_factory=lambda: Golden(GOLDEN_IMAGE, embedding_of(GOLDEN_IMAGE)))
    ran_since: Callable[[float], bool] = lambda at: False  # whether a device ran the network


class FakeServing:
    """Set the attributes to make it misbehave. `batches`: how many images each call brought."""

    def __init__(self, salt: bytes = b"", echo: bool = False) -> None:
        self.salt = salt
        self.echo = echo  # one ready-made embedding for everything: costs nothing, for benchmarks
        self.delay_s = 0.0
        self.silent = False  # takes calls and never answers
        self.error: Optional[tuple[int, str]] = None  # in-band error of every whole call
        self.status: Optional[grpc.StatusCode] = None
        self.raw_reply: Optional[bytes] = None
        self.golden_right = False  # the golden picture gets no raw_reply
        self.image_errors: dict[bytes, str] = {}  # payload -> its error
        self.poison: set[bytes] = set()  # payloads that end the worker
        self.hangs_on: Optional[bytes] = None  # a payload after which nothing is answered
        self.hangs_one_of_two: Optional[bytes] = None  # the batch with it is never answered; the rest is
        self.golden_silent = False
        self.crashes = 0
        self._crash: Optional[asyncio.Future] = None
        self._golden_refused = 0  # since the crash
        self._held: Optional[asyncio.Event] = None
        self.batches: list[int] = []
        self.requests: list[bytes] = []
        self.keep_requests = False
        self.in_flight = self.most_in_flight = 0
        self._server: Optional[grpc.aio.Server] = None
        self._canned, self._golden = embedding_of(b"canned"), embedding_of(GOLDEN_IMAGE)

    async def start(self, path: str) -> str:
        self._server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        )
        handler = grpc.unary_unary_rpc_method_handler(self._predict)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("mindspore.serving.proto.MSService", {"Predict": handler}),)
        )
        target = f"unix:{path}"
        self._server.add_insecure_port(target)
        await self._server.start()
        return target

    def hold(self) -> None:
        """Takes calls and answers them at `release`, which runs on the event loop."""
        self._held = asyncio.Event()

    def release(self) -> None:
        self._held.set()
        self._held = None

    async def stop(self) -> None:
        await self._server.stop(0)

    async def _predict(self, body: bytes, context) -> bytes:
        request = wire.PredictRequest.FromString(body)
        payloads = self._payloads(request)
        count = len(payloads)
        golden = payloads == [GOLDEN_IMAGE]
        if not golden:
            self.batches.append(count)
            if self.keep_requests:
                self.requests.append(body)
            self.in_flight += count
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self.silent |= self.hangs_on in payloads
            if self.hangs_one_of_two in payloads:
                await asyncio.Event().wait()
            if self.silent or (golden and self.golden_silent):
                await asyncio.Event().wait()
            if self._held is not None and not golden:
                await self._held.wait()
            if self.poison:
                await self._survive(payloads, golden, context)
            if self.status is not None:
                await context.abort(self.status, "File /secret/path/server.cc: what the library says")
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.raw_reply is not None and not (golden and self.golden_right):
                return self.raw_reply
            return self._reply(request, payloads)
        finally:
            if not golden:
                self.in_flight -= count

    async def _survive(self, payloads, golden, context) -> None:
        """The poison ends the worker, and with it every call that it has and every call that was on its way.

        The next one comes with the second golden picture since: once the gateway has heard that the first one failed,
        it sends nothing else. A wait in seconds would make several ends of one on a machine that is slower still.
        """
        if self._crash is not None and self._crash.done() and golden:
            self._golden_refused += 1
            if self._golden_refused == 2:
                self._crash = None
        crash = self._crash = self._crash or asyncio.get_running_loop().create_future()
        if not crash.done():
            if self.poison.intersection(payloads):
                self.crashes += 1
                self._golden_refused = 0
                crash.set_result(None)
            await asyncio.wait({crash}, timeout=0.05)
        if crash.done():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def _payloads(self, request) -> list[bytes]:
        (instance,) = request.instances
        ((name, tensor),) = instance.items.items()
        assert name == {"embed": "image", "embed_pixels": "pixels"}[request.servable_spec.method_name]
        images, _ = unpack_images(np.frombuffer(tensor.bytes_val[0], np.uint8))
        return [image.tobytes() for image in images]

    def _reply(self, request, payloads) -> bytes:
        reply = wire.PredictReply()
        reply.servable_spec.CopyFrom(request.servable_spec)
        if self.error is not None:
            reply.error_msg.add(error_code=self.error[0], error_msg=self.error[1].encode())
            return reply.SerializeToString()
        rows = np.zeros((len(payloads), wire.EMBEDDING_DIM), np.float32)
        errors = [self.image_errors.get(payload) for payload in payloads]
        for row, payload, error in zip(rows, payloads, errors):
            if error is None:
                row[:] = self._embedding(payload)
        tensor = reply.instances.add().items[wire.ITEM_EMBEDDING]
        packed = pack_rows(rows, errors)
        tensor.dtype = wire.DataType.MS_UINT8
        tensor.shape.dims.append(len(packed))
        tensor.data = packed.tobytes()
        return reply.SerializeToString()

    def _embedding(self, payload) -> np.ndarray:
        if not self.echo:
            return embedding_of(payload, self.salt)
        return self._golden if payload == GOLDEN_IMAGE else self._canned

"""The three stages. Each returns exactly one array per instance or raises: anything else would end the worker.

Contract with MindSpore Serving 2.0.2 (server/worker/task.py): a batched stage receives a tuple of instances; an
exception while item k is produced fails that instance alone, and the stage is called again with the items after k.

Images are decoded in processes of their own, which can do nothing else (metric_learn_client.preprocess.sandbox):
whatever one does there is its own error, and this worker never runs a codec.

All Python stages of a worker share one thread, and later stages go first. So that images are decoded while the
network runs, `preprocess` only hands them to the decoders and passes on tickets, for more images than one run takes;
`embed` redeems the tickets of its run. A lone image is waited for at once: that spares it the way through `embed`'s
queue as a ticket.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client.preprocess import DecodeLimits, ImageError
from metric_learn_client.preprocess.sandbox.decoder_pool import DecoderPool
from servable.engine.batch_stats import BatchStats

from .batching import plan
from .device import Device, call_with_retry

SIDE_PX = 224
EMBEDDING_DIM = 2048

Array = npt.NDArray[Any]
Instances = tuple[tuple[Array, ...], ...]  # what MindSpore Serving hands a batched stage

WORKER = json.loads(os.environ["METRIC_LEARN_WORKER"])
LIMITS = DecodeLimits(**WORKER["limits"])
SIZES = tuple(WORKER["batch_sizes"])
MODELS: dict[int, Any] = {}  # batch size -> Model, filled by servable_config
STATS = BatchStats(Path(WORKER["run_dir"]), SIZES)
# Full batches that are decoded ahead. MindSpore Serving has three times the largest batch in a worker at most.
AHEAD = 3

# What the decoders have to say goes to MindSpore Serving's log, where this worker's output goes.
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
_pool = DecoderPool(WORKER["preprocess_threads"], LIMITS, on_restart=STATS.count_decoder_restarts)


class StageError(Exception):
    """An instance's error; its text starts with a stable code."""


class _Tickets:
    """Images handed to the decoders, by number. The number travels as int64 [1] to the next stage for the pixels."""

    def __init__(self, kept: int) -> None:
        self._kept, self._number = kept, 0
        self._pending: dict[int, Future[Any]] = {}

    def issue(self, image: Array) -> Array:
        self._number += 1
        self._pending[self._number] = _submit(image)
        # MindSpore Serving drops what stands between two stages when it gives a request up.
        self._pending.pop(self._number - self._kept, None)
        return np.array([self._number], np.int64)

    def redeem(self, item: Array) -> Any:
        """What the decoders made of a ticket, pixels or StageError; pixels themselves are given back."""
        return _outcome(self._pending.pop(int(item[0]))) if item.dtype == np.int64 else item


class _Results:
    """Values and errors in order. After an error Serving asks again for the rest, which is not computed again."""

    def __init__(self) -> None:
        self._items: tuple[Array, ...] = ()
        self._results: list[Any] = []

    def of(self, instances: Instances, compute: Callable[[list[Array]], list[Any]]) -> Iterator[Array]:
        """Results of `instances`, computed now or left over from the call that an error cut short."""
        items = [instance[0] for instance in instances]
        left = self._items[len(self._items) - len(items) :] if len(items) <= len(self._items) else None
        if not left or any(a is not b for a, b in zip(left, items)):
            self._items, self._results = tuple(items), compute(items)
        offset = len(self._items) - len(items)
        for index in range(offset, len(self._items)):
            result = self._results[index]
            if index == len(self._items) - 1:
                self._items, self._results = (), []  # never keep a request's memory
            if isinstance(result, Exception):
                raise result
            yield result


_device: Optional[Device] = None  # made at the first run: while this module is imported there is no model yet
_embedded = _Results()
_tickets = _Tickets(kept=8 * AHEAD * max(SIZES))  # far more than MindSpore Serving ever has in a worker


def preprocess(instances: Instances) -> list[Array]:
    """Encoded images, uint8 [bytes] each -> uint8 [224, 224, 3] BGR each, or the ticket of one."""
    if len(instances) == 1:
        pixels = _outcome(_submit(instances[0][0]))
        if isinstance(pixels, Exception):
            raise pixels
        return [pixels]
    return [_tickets.issue(image) for (image,) in instances]


def check_pixels(instances: Instances) -> Iterator[Array]:
    """The entry of embed_pixels: uint8 [224, 224, 3] or E_SHAPE. MindSpore Serving compares no shapes itself."""
    for (pixels,) in instances:
        if getattr(pixels, "dtype", None) != np.uint8 or pixels.shape != (SIDE_PX, SIDE_PX, 3):
            raise StageError("E_SHAPE: pixels must be uint8 [224, 224, 3], channels BGR")
        yield np.ascontiguousarray(pixels)


def embed(instances: Instances) -> Iterator[Array]:
    """Pixels or tickets -> float32 [2048] each, not normalised; an image that did not decode raises here."""
    return _embedded.of(instances, _embed_all)


def l2_normalize(instances: Instances) -> Iterator[Array]:
    """float32 [2048] each -> unit norm. A zero or non-finite row is that instance's error."""
    for (features,) in instances:
        norm = float(np.linalg.norm(features.astype(np.float64)))
        if features.shape != (EMBEDDING_DIM,) or not np.isfinite(norm) or norm == 0.0:
            raise StageError("E_NON_FINITE: the network gave no usable embedding for this image")
        yield np.ascontiguousarray(features / np.float32(norm), np.float32)


def _submit(image: Array) -> Future[Any]:
    """The array is a view of the request, which may be gone when it is decoded: it is copied before this returns."""
    return _pool.submit(image)


def _outcome(future: Future[Any]) -> Any:
    """The pixels of one encoded image, or its StageError."""
    try:
        return future.result()
    except ImageError as error:
        return StageError(str(error))
    except Exception as error:  # no image's fault: the gateway knows the word "worker" and asks again
        return StageError(f"this worker cannot decode: {error}")


def _redeem(items: list[Array]) -> list[Any]:
    """The last first: it is decoded last, so that this thread sleeps once and not once an image."""
    return [_tickets.redeem(item) for item in reversed(items)][::-1]


def _run(size: int, instances: list[list[Array]]) -> Any:
    """One run of the network: here, or on a device, which is watched; a worker without one asks those that have."""
    global _device
    if WORKER["device"] == "cpu":
        return MODELS[size].call(instances)
    number = os.environ.get("SERVING_DEVICE_ID")  # MindSpore Serving sets it in workers with a device alone
    if number is None:
        return call_with_retry(MODELS[size], instances)
    if _device is None:
        settings = WORKER["watch"]
        golden = _pool.submit(Path(settings["golden_image"]).read_bytes()).result()
        embedding = np.load(settings["golden_embedding"], allow_pickle=False)
        _device = Device(int(number), MODELS, golden, embedding, settings)
    return _device.run(size, instances)


def _embed_all(items: list[Array]) -> list[Any]:
    results = _redeem(items)
    good = [index for index, result in enumerate(results) if not isinstance(result, Exception)]
    done = 0
    for size in plan(len(good), SIZES, WORKER["run_overhead_images"]) if good else ():
        run = good[done : done + size]
        rows = _run(size, [[results[index]] for index in run])
        STATS.count(size, images=len(run))
        for index, row in zip(run, rows):
            results[index] = np.ascontiguousarray(row[0], np.float32)
        done += size
    return results

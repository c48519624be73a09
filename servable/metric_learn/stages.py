"""The stages. Each instance is a packed batch (servable.engine.packed_batch), and so is what comes of it. Each stage
returns exactly one array per instance or raises: anything else would end the worker.

Contract with MindSpore Serving 2.0.2 (server/worker/task.py): a batched stage receives a tuple of instances; an
exception while item k is produced fails that instance alone, and the stage is called again with the items after k.

Images are decoded in processes of their own, which can do nothing else (metric_learn_client.preprocess.sandbox):
whatever one does there is its own error, and this worker never runs a codec.

All Python stages of a worker share one thread, and later stages go first. So the first stage only hands the images to
the decoders and the batch to the network's thread (runs), and passes a ticket on, which `l2_normalize` redeems.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client.contract import EMBEDDING_DIM, PIXELS_SHAPE
from metric_learn_client.preprocess import DecodeLimits, ImageError
from metric_learn_client.preprocess.sandbox.decoder_pool import DecoderPool
from servable.engine.batch_stats import BatchStats
from servable.engine.packed_batch import OF_THE_WORKER, MalformedBatch, pack_rows, unpack_images
from servable.engine.settings import WORKER_VARIABLE, WorkerSettings

from .batching import plan
from .device import Device, call_with_retry
from .golden_row import GoldenRow
from .runs import Picture, Runs

Array = npt.NDArray[Any]
Instances = tuple[tuple[Array, ...], ...]  # what MindSpore Serving hands a batched stage

WORKER: WorkerSettings = json.loads(os.environ[WORKER_VARIABLE])
LIMITS = DecodeLimits(**WORKER["limits"])
SIZES = tuple(WORKER["batch_sizes"])
MODELS: dict[int, list[Any]] = {}  # batch size -> Models of it, filled by servable_config
COPIES = WORKER.get("copies", {})
STATS = BatchStats(Path(WORKER["run_dir"]), SIZES)
KEPT_TICKETS = 1024  # of the 16 batches of each worker (servable.backend.launcher), should one get them all

# What the decoders have to say goes to MindSpore Serving's log, where this worker's output goes.
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
_pool = DecoderPool(WORKER["preprocess_threads"], LIMITS, on_restart=STATS.count_decoder_restarts)


class StageError(Exception):
    """An instance's error; its text starts with a stable code."""


# Made at the first run: while this module is imported there is no model yet.
_golden: Optional[GoldenRow] = None  # where there are devices
_device: Optional[Device] = None  # in a device's own worker
_making = threading.Lock()


def preprocess(instances: Instances) -> Iterator[Array]:
    """Packed images -> a ticket each, int64 [1]. Files are copied before this returns. Pixels, uint8 [224, 224, 3], are
    not: their memory is the request's, which MindSpore Serving keeps until it is answered."""
    for (packed,) in instances:
        try:
            images, are_pixels = unpack_images(packed)
        except MalformedBatch as error:
            raise StageError(f"{OF_THE_WORKER}got {error}") from None
        pictures = [_pixels(image) if are_pixels else _pool.submit(image) for image in images]
        yield np.array([_runs.submit(pictures)], np.int64)


def embed(instances: Instances) -> Iterator[Array]:
    """Tickets -> the same, when their turn has come: until then this thread takes in the next batches of the other lane
    (servable.gateway.queue.backend_request)."""
    for (ticket,) in instances:
        _runs.hold_back(int(ticket[0]))
        yield ticket


def l2_normalize(instances: Instances) -> Iterator[Array]:
    """Tickets -> packed rows of unit norm, and errors of images. A zero or non-finite row is that image's error."""
    for (ticket,) in instances:
        try:
            rows, errors = _runs.redeem(int(ticket[0]))
        except KeyError:
            raise StageError(OF_THE_WORKER + "has lost the batch") from None
        norms = np.array([np.linalg.norm(row) for row in rows.astype(np.float64)])
        usable = np.isfinite(norms) & (norms > 0)
        norms[~usable] = 1
        for index in np.flatnonzero(~usable):
            errors[index] = errors[index] or "E_NON_FINITE: the network gave no usable embedding for this image"
        yield pack_rows(rows / norms.astype(np.float32)[:, None], errors)


def _pixels(image: Array) -> Picture:
    if len(image) != math.prod(PIXELS_SHAPE):
        return StageError("E_SHAPE: pixels must be uint8 [224, 224, 3], channels BGR")
    return image.reshape(PIXELS_SHAPE)


def _describe(error: Exception) -> str:
    """What the gateway is told of an image without pixels."""
    if isinstance(error, (ImageError, StageError)):
        return str(error)
    if _pool.failed:  # for good, and beside workers that can decode nobody else would notice
        logging.error("this worker ends: %s", error)
        os._exit(1)
    return f"{OF_THE_WORKER}cannot decode: {error}"


def _run(model: Any, instances: list[list[Array]]) -> Any:
    """One run of the network: here, or on a device, which is watched; a worker without one asks those that have."""
    if _golden is None:
        return model.call(instances)
    return call_with_retry(_golden, model, instances) if _device is None else _device.run(model, instances)


def _make_device() -> None:
    """Once, where there are devices."""
    global _device, _golden
    with _making:
        if WORKER["device"] == "cpu" or _golden is not None:
            return
        settings = WORKER["watch"]
        picture = _pool.submit(Path(settings["golden_image"]).read_bytes()).result()
        embedding = np.load(settings["golden_embedding"], allow_pickle=False)
        golden = GoldenRow(MODELS, picture, embedding, settings["limit"], settings["row_check_s"])
        number = os.environ.get("SERVING_DEVICE_ID")  # MindSpore Serving sets it in workers with a device alone
        _device = None if number is None else Device(int(number), MODELS, golden, settings)
        _golden = golden


def _embed_all(which: int, pictures: list[Array]) -> list[Array]:
    """uint8 [224, 224, 3] each -> float32 [2048] each, in as many runs as it takes, with `which` of the Models."""
    _make_device()
    rows: list[Array] = []
    while len(rows) < len(pictures):
        size = plan(len(pictures) - len(rows), SIZES, WORKER["run_overhead_images"])[0]
        models = MODELS[size]
        model = models[which % len(models)]
        places = size if _golden is None else _golden.places(model)
        run = pictures[len(rows) : len(rows) + places]
        made = _run(model, [[picture] for picture in run])
        STATS.count(size, images=len(run))
        rows.extend(row for (row,) in made)
    return rows


# As many threads as a batch size has Models, each with its own.
_runs = Runs(
    [partial(_embed_all, which) for which in range(max(COPIES.values(), default=1))],
    _describe,
    most=max(SIZES),
    dim=EMBEDDING_DIM,
    kept=KEPT_TICKETS,
)

"""The three stages. Each returns exactly one array per instance or raises: anything else would end the worker.

Contract with MindSpore Serving 2.0.2 (server/worker/task.py): a batched stage receives a tuple of instances; an
exception while item k is produced fails that instance alone, and the stage is called again with the items after k.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from metric_learn_client.preprocess import DecodeLimits
from metric_learn_client.preprocess import preprocess as preprocess_image

from .batching import plan

SIDE_PX = 224
EMBEDDING_DIM = 2048

WORKER = json.loads(os.environ["METRIC_LEARN_WORKER"])
LIMITS = DecodeLimits(**WORKER["limits"])
SIZES = tuple(WORKER["batch_sizes"])
MODELS = {}  # batch size -> Model, filled by servable_config

cv2.setNumThreads(1)  # images run in parallel instead, and workers x threads must not exceed the cores
_pool = ThreadPoolExecutor(WORKER["preprocess_threads"], thread_name_prefix="preprocess")


class StageError(Exception):
    """An instance's error; its text starts with a stable code."""


class _Results:
    """Values and errors in order. After an error Serving asks again for the rest: `rest` hands it out, once."""

    def __init__(self):
        self._items, self._results = (), []

    def of(self, instances, compute):
        """Results of `instances`, computed now or left over from the call that an error cut short."""
        images = [instance[0] for instance in instances]
        left = self._items[len(self._items) - len(images) :] if len(images) <= len(self._items) else None
        if left is None or not left or any(a is not b for a, b in zip(left, images)):
            self._items, self._results = tuple(images), compute(images)
        offset = len(self._items) - len(images)
        for index in range(offset, len(self._items)):
            result = self._results[index]
            if index == len(self._items) - 1:
                self._items, self._results = (), []  # never keep a request's memory
            if isinstance(result, Exception):
                raise result
            yield result


_preprocessed = _Results()


def preprocess(instances):
    """Encoded images, uint8 [bytes] each -> uint8 [224, 224, 3] BGR each."""
    return _preprocessed.of(instances, _preprocess_all)


def check_pixels(instances):
    """The entry of embed_pixels: uint8 [224, 224, 3] or E_SHAPE. MindSpore Serving compares no shapes itself."""
    for (pixels,) in instances:
        if getattr(pixels, "dtype", None) != np.uint8 or pixels.shape != (SIDE_PX, SIDE_PX, 3):
            raise StageError("E_SHAPE: pixels must be uint8 [224, 224, 3], channels BGR")
        yield np.ascontiguousarray(pixels)


def embed(instances):
    """uint8 [224, 224, 3] each -> float32 [2048] each, not normalised; batch sizes by what is queued."""
    images = [[pixels] for (pixels,) in instances]
    features = []
    for size in plan(len(images), SIZES, WORKER["run_overhead_images"]):
        batch = images[len(features) : len(features) + size]
        features.extend(np.ascontiguousarray(row[0], np.float32) for row in MODELS[size].call(batch))
    return features


def l2_normalize(instances):
    """float32 [2048] each -> unit norm. A zero or non-finite row is that instance's error."""
    for (features,) in instances:
        norm = float(np.linalg.norm(features.astype(np.float64)))
        if features.shape != (EMBEDDING_DIM,) or not np.isfinite(norm) or norm == 0.0:
            raise StageError("E_NON_FINITE: the network gave no usable embedding for this image")
        yield np.ascontiguousarray(features / np.float32(norm), np.float32)


def _preprocess_all(images):
    return list(_pool.map(_preprocess_one, images))


def _preprocess_one(image):
    try:
        return preprocess_image(image, LIMITS)
    except Exception as error:  # an instance's failure must stay its own
        text = str(error) if str(error).startswith("E_") else "E_DECODE: the image could not be decoded"
        return StageError(text)

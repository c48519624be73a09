"""CPU of the preprocessing, one thread: the reference t_ref and the product's, in turn, on the same pictures.

Run with the engine's Python: `python -m tests.benchmarks.host_work PICTURES.npz ROUNDS` prints one JSON document;
`python -m tests.benchmarks.host_work PICTURES.npz decoders COUNT` prints how many of its first pictures so many
decoder processes of the product prepare in a second, with nothing beside them.

t_ref is what a careful user of OpenCV writes: imdecode, LANCZOS4 to a short side of 224, linear to 224 x 224, then
(pixels / 255 - mean) / std in float32 and HWC to CHW. It runs on the very OpenCV that the engine uses. The product's
part ends with uint8 pixels because its network normalises inside the graph, so that is part of what it saves.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Callable

import cv2
import numpy as np
import numpy.typing as npt

from metric_learn_client import preprocess
from metric_learn_client.preprocess.sandbox.decoder_pool import DecoderPool

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
REPEATED = 16  # a decoder process prepares some hundred pictures a second
STD = np.array([0.229, 0.224, 0.225], np.float32)


def reference_pixels(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    pixels = cv2.imdecode(image, cv2.IMREAD_COLOR)
    height, width = pixels.shape[:2]
    factor = 224.0 / min(height, width)
    size = (round(width * factor), round(height * factor))
    short = cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4)
    return np.asarray(cv2.resize(short, (224, 224), interpolation=cv2.INTER_LINEAR), np.uint8)


def reference(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    pixels = reference_pixels(image).astype(np.float32)
    return np.ascontiguousarray(((pixels / 255.0 - MEAN) / STD).transpose(2, 0, 1), np.float32)


def decode(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(image, cv2.IMREAD_COLOR), np.uint8)


def by_decoders(pictures_file: str, count: int) -> None:
    encoded = next(iter(np.load(pictures_file, allow_pickle=True).values()))
    images = [np.frombuffer(image, np.uint8) for image in encoded] * REPEATED
    with DecoderPool(count, preprocess.DecodeLimits()) as pool:
        for future in [pool.submit(image) for image in images[: 4 * count]]:
            future.result()
        began = time.perf_counter()
        for future in [pool.submit(image) for image in images]:
            future.result()
        print(len(images) / (time.perf_counter() - began))


def main(pictures_file: str, rounds: int) -> None:
    cv2.setNumThreads(1)
    steps: dict[str, Callable[[npt.NDArray[np.uint8]], object]] = {
        "reference": reference,
        "product": preprocess.preprocess,
        "decode alone": decode,
    }
    report: dict[str, object] = {"opencv": cv2.__version__, "resize": preprocess.KERNEL}
    for size, encoded in np.load(pictures_file, allow_pickle=True).items():
        images = [np.frombuffer(image, np.uint8) for image in encoded]
        unequal = sum(not np.array_equal(preprocess.preprocess(image), reference_pixels(image)) for image in images)
        cpu_ms: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                began = time.thread_time()
                for image in images:
                    step(image)
                cpu_ms[name].append((time.thread_time() - began) / len(images) * 1e3)
        ratios = [ours / theirs for ours, theirs in zip(cpu_ms["product"], cpu_ms["reference"])]
        report[size] = {
            "pictures": len(images),
            "pictures with unequal pixels": unequal,
            "cpu_ms": {name: statistics.median(values) for name, values in cpu_ms.items()},
            "ratios": ratios,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    if sys.argv[2] == "decoders":
        by_decoders(sys.argv[1], int(sys.argv[3]))
    else:
        main(sys.argv[1], int(sys.argv[2]))

"""Load on one system and what it costs: offline (as fast as it takes), one at a time, Poisson arrivals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.benchmarks.systems import System


@dataclass(frozen=True)
class Offline:
    images_per_s: float
    server_cpu_ms: float  # an image, over the system's process tree
    client_cpu_ms: float  # an image, of the one process that sends


def offline(system: System, images: Sequence[bytes], per_call: int = 0, in_flight: int = 0) -> Offline:
    """All images once, `in_flight` calls at a time."""
    per_call, in_flight = per_call or system.images_per_call, in_flight or system.in_flight
    calls = [images[start : start + per_call] for start in range(0, len(images), per_call)]
    with ThreadPoolExecutor(in_flight) as pool:
        cpu, own, began = system.cpu_s(), time.process_time(), time.perf_counter()
        rows = sum(len(embeddings) for embeddings in pool.map(system.embed, calls))
        wall, own = time.perf_counter() - began, time.process_time() - own
        cpu = system.cpu_s() - cpu
    assert rows == len(images)
    return Offline(rows / wall, cpu / rows * 1e3, own / rows * 1e3)


def alone(system: System, images: Sequence[bytes]) -> npt.NDArray[np.float64]:
    """Milliseconds of each image, sent when the one before is back."""
    spent = []
    for image in images:
        began = time.perf_counter()
        system.embed([image])
        spent.append((time.perf_counter() - began) * 1e3)
    return np.array(spent)


def poisson(system: System, images: Sequence[bytes], per_s: float, seed: int) -> npt.NDArray[np.float64]:
    """Milliseconds of each image from the moment it was due, at `per_s` arrivals a second, one image a call.

    Counted from the due time, so a system that falls behind is charged for the queue it causes.
    """
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / per_s, len(images)))
    began = time.perf_counter()

    def one(index: int) -> float:
        time.sleep(max(0.0, due[index] - (time.perf_counter() - began)))
        system.embed([images[index]])
        return (time.perf_counter() - began - float(due[index])) * 1e3

    with ThreadPoolExecutor(min(64, len(images))) as pool:
        return np.array(list(pool.map(one, range(len(images)))))

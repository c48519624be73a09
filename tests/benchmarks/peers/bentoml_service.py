"""BentoML with ONNX Runtime: one image a request, BentoML's own adaptive batching.

.venv/bench/bin/bentoml serve tests.benchmarks.peers.bentoml_service:Embedding --port PORT, with NETWORK in the
environment.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
import numpy as np

from tests.benchmarks.peers import network


@bentoml.service(workers=1, traffic={"timeout": 300, "max_concurrency": 1024})
class Embedding:
    def __init__(self) -> None:
        self.network = network.load_network(os.environ["NETWORK"])
        self.pool = ThreadPoolExecutor(network.THREADS)

    @bentoml.api(batchable=True, max_batch_size=network.MAX_BATCH, max_latency_ms=60000)
    def embed(self, images: list[Path]) -> list[np.ndarray]:
        pixels = list(self.pool.map(lambda image: network.preprocess(image.read_bytes()), images))
        return list(network.embed(self.network, pixels))

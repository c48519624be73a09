"""LitServe with ONNX Runtime: one image a request, LitServe's own batching, base64 in JSON both ways as LitServe asks.

.venv/bench/bin/python -m tests.benchmarks.peers.litserve_server NETWORK.onnx PORT
"""

from __future__ import annotations

import base64
import sys
from concurrent.futures import ThreadPoolExecutor

import litserve
import numpy as np

from tests.benchmarks.peers import network

BATCH_WAIT_S = 0.01


class Embedding(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002  LitServe's signature
        self.network = network.load_network(sys.argv[1])
        self.pool = ThreadPoolExecutor(network.THREADS)

    def decode_request(self, request: dict) -> bytes:
        return base64.b64decode(request["image"])

    def batch(self, inputs: list) -> list:
        return list(self.pool.map(network.preprocess, inputs))  # in parallel: better than LitServe's own, one by one

    def predict(self, batch: list) -> np.ndarray:
        return network.embed(self.network, batch)

    def unbatch(self, output: np.ndarray) -> list:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict:
        return {"embedding": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    api = Embedding(max_batch_size=network.MAX_BATCH, batch_timeout=BATCH_WAIT_S)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False
    )

"""Recall@K on 30,003 x 2048 synthetic embeddings, beside the model zoo's definition written straight down.

    .venv/client/bin/python -m tests.benchmarks.recall [--images 30003] [--isotropic]

The set has the zoo's half list's size: 30,003 images of 5,184 classes. Its variance falls along the dimensions, slowly
over the first hundred and quickly after, as trained embeddings' does; --isotropic spreads it evenly over all 2,048, the
hardest case for bounds. Noise is set so that Recall@1 is near the published 0.739.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

IMAGES, CLASSES, DIM = 30_003, 5_184, 2048
SPREAD = 0.0


def synthetic(images: int, isotropic: bool) -> tuple[np.ndarray, np.ndarray]:
    """float32 [images, 2048] and labels."""
    rng = np.random.default_rng(0)
    scale = np.ones(DIM) if isotropic else (1.0 + (np.arange(DIM) / 50.0) ** 2) ** -0.5
    scale = scale.astype(np.float32)
    labels = np.sort(np.arange(images) % max(2, images * CLASSES // IMAGES))
    centres = rng.standard_normal((labels.max() + 1, DIM), dtype=np.float32) * scale
    # Products differ in how alike their pictures are: the spread within a class is drawn for each.
    spread = (rng.lognormal(0, SPREAD, labels.max() + 1) * (3.2 if isotropic else 1.5)).astype(np.float32)
    rows = centres[labels]
    rows += rng.standard_normal(rows.shape, dtype=np.float32) * scale * spread[labels, None]
    rows += scale * 2  # a common direction, as features behind a ReLU have
    return rows, labels


def transcription(features: np.ndarray, labels: np.ndarray) -> float:
    """The zoo's Recall@1: normalise, squared distances, 1e8 on self, every row sorted, 100 blocks."""
    features = features / np.sqrt(np.sum(features**2, 1)).reshape(-1, 1)
    squares = np.sum(features**2, 1).reshape(-1, 1)
    count, right = len(features), 0
    for block in range(100):
        start, end = count * block // 100, count * (block + 1) // 100
        distance = squares[start:end] + squares.T - 2 * np.dot(features[start:end], features.T)
        distance[np.arange(end - start), np.arange(start, end)] += 1e8
        nearest = np.argsort(distance, 1)[:, :10]
        right += int(np.count_nonzero(labels[nearest[:, 0]] == labels[start:end]))
    return right / count


def ours(features: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    from metric_learn_client.evaluation.metrics import retrieval_metrics

    return retrieval_metrics(features, labels).as_dict()


def measure(which: str, images: int, isotropic: bool) -> dict[str, object]:
    """One side, in this process: its value, seconds, and the process's peak memory in MB."""
    features, labels = synthetic(images, isotropic)
    start, cpu = time.perf_counter(), time.process_time()
    value = transcription(features, labels) if which == "transcription" else ours(features, labels)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"value": value, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_mb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--isotropic", action="store_true")
    parser.add_argument("--only", choices=["ours", "transcription"])
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.images, arguments.isotropic)))
        return
    made = {}
    for which in ("ours", "transcription"):
        command = [sys.executable, "-m", "tests.benchmarks.recall", "--only", which, "--images", str(arguments.images)]
        command += ["--isotropic"] if arguments.isotropic else []
        made[which] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(which, made[which], flush=True)
    kernel = os.environ.get("OPENBLAS_CORETYPE", "as OpenBLAS detects it")
    print(f"OpenBLAS kernel: {kernel}; numpy {np.__version__}; {os.cpu_count()} cores")
    ratio = made["transcription"]["seconds"] / made["ours"]["seconds"]
    agree = made["ours"]["value"]["recall"]["1"] == made["transcription"]["value"]
    print(f"{ratio:.1f} times as fast; the same Recall@1: {agree}")


if __name__ == "__main__":
    main()

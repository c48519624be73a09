"""The whole server on simulated devices: how busy they are kept, what the host spends, how long a call takes.

.venv/client/bin/python -m tests.benchmarks.devices [--rates 500,2000,4000] [--images 1,8,32] [--callers 1,8,64]
    [--seconds 4] [--set backend.workers=1 ...] [--pictures] > results.jsonl

The device is tests/ascend/simulated_cann: the product, MindSpore Serving and MindSpore Lite's Ascend plugins are real,
a run takes the time given here and no CPU, and every row is the golden embedding. `embed_pixels` unless --pictures:
pixels are 150,528 bytes an image. The load comes from a process of its own on the same cores, with grpc.aio and
ready-made requests; its CPU is given apart. Needs root (a mount namespace) and g++.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import psutil

from metric_learn_client import wire
from metric_learn_client.wire.instances import encode_request
from tests.ascend.simulated_host import SimulatedHost
from tests.benchmarks.corpus import SIZES_PX, pictures
from tests.e2e.conftest import REPOSITORY, exported_versions

LIBRARIES = REPOSITORY / ".runtime" / "simulated-cann"
BATCH = 16  # the largest MindIR of configs/ascend310.yaml
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
WARM_S = 0.7


def run_ms(rate: int) -> str:
    """A device of so many images a second: SIMULATED_CANN_RUN_MS."""
    return ",".join(f"{size}:{1000 * size / rate:g}" for size in (1, 4, BATCH))


@contextmanager
def simulated(rate: int, *flags: str) -> Iterator[tuple[Any, SimulatedHost]]:
    """(server, host)."""
    exported_versions()
    with tempfile.TemporaryDirectory(prefix="devices-") as folder:
        host = SimulatedHost(LIBRARIES, Path(folder))
        host.set(NUMBERS="golden", RUN_MS=run_ms(rate))
        with host.server("log.access=false", *flags) as server:
            if not server.ready_line.startswith("ready"):
                raise RuntimeError(server.said())
            yield server, host


def bodies(images: int, files: bool) -> list[bytes]:
    if files:
        corpus = pictures(SIZES_PX[0], 64)
        groups = [[corpus[(start + index) % 64] for index in range(images)] for start in range(0, 64, min(images, 16))]
        return [encode_request(wire.METHOD_EMBED, group) for group in groups]
    pixels = np.full(wire.PIXELS_SHAPE, 128, np.uint8).tobytes()
    return [encode_request(wire.METHOD_EMBED_PIXELS, [pixels] * images)]


def send(endpoint: str, images: int, callers: int, seconds: float, files: bool, answer: Any) -> None:
    """The load's process: each caller sends its next call when the one before is answered."""

    async def load() -> None:
        spent: list[tuple[float, float]] = []
        requests = bodies(images, files)
        async with grpc.aio.insecure_channel(endpoint, options=OPTIONS) as channel:
            call = channel.unary_unary(wire.PREDICT_PATH)
            await call(requests[0], wait_for_ready=True, timeout=60)
            end = time.monotonic() + WARM_S + seconds

            async def caller(number: int) -> None:
                while time.monotonic() < end:
                    began = time.monotonic()
                    await call(requests[number % len(requests)], timeout=60)
                    number += 1
                    spent.append((began, time.monotonic()))

            await asyncio.gather(*(caller(number) for number in range(callers)))
        answer.send((end - seconds, end, spent, time.process_time()))

    asyncio.run(load())


def cpu_by_role(root: psutil.Process) -> dict[str, float]:
    """CPU seconds so far: gateway (the server's own process), master, workers, decoders."""
    spent = dict.fromkeys(("gateway", "master", "workers", "decoders"), 0.0)
    for process in [root, *root.children(recursive=True)]:
        line, times = " ".join(process.cmdline()), process.cpu_times()
        role = "gateway"
        if "decoder_process" in line:
            role = "decoders"
        elif "start_worker" in line or "start_extra_worker" in line:
            role = "workers"
        elif ".master" in line:
            role = "master"
        spent[role] += times.user + times.system
    return spent


def measure(
    server: Any, host: SimulatedHost, images: int, callers: int, seconds: float, files: bool = False
) -> dict[str, Any]:
    """One row: images/s, the device's busy share, CPU milliseconds an image by process, milliseconds of a call."""
    root = psutil.Process(server.process.pid)
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=send, args=(server.endpoint, images, callers, seconds, files, theirs)
    )
    process.start()
    before = cpu_by_role(root)
    began, end, spent, client_s = ours.recv()
    process.join()
    after = cpu_by_role(root)
    everything = images * len(spent)
    inside = sorted(stop - start for start, stop in spent if began <= stop <= end)
    runs = [each for each in host.records("execute") if began <= each["at_ms"] / 1000 <= end]
    per_image = {role: round(1000 * (after[role] - before[role]) / everything, 4) for role in after}
    return {
        "images": images,
        "callers": callers,
        "images_per_s": round(images * len(inside) / seconds),
        "busy": round(sum(each["ms"] for each in runs) / 1000 / seconds, 3),
        "fill": round(images * len(inside) / max(1, sum(each["batch"] for each in runs)), 3),
        "p50_ms": round(1000 * statistics.median(inside), 2),
        "p99_ms": round(1000 * inside[int(0.99 * len(inside))], 2),
        "cpu_ms": {**per_image, "client": round(1000 * client_s / everything, 4)},
    }


def numbers(text: str) -> Sequence[int]:
    return [int(each) for each in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=numbers, default=[500, 2000, 4000], help="images/s of the device")
    parser.add_argument("--images", type=numbers, default=[1, 8, 32], help="of one call")
    parser.add_argument("--callers", type=numbers, default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=4.0, help="of one row")
    parser.add_argument("--pictures", action="store_true", help="encoded pictures, `embed`")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    for rate in options.rates:
        with simulated(rate, *options.set) as (server, host):
            for images in options.images:
                for callers in options.callers:
                    row = measure(server, host, images, callers, options.seconds, options.pictures)
                    print(json.dumps({"device_per_s": rate, **row}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(REPOSITORY))
    sys.exit(main())

"""What the gateway costs: latency and CPU with and without it, side by side in one run.

.venv/server/bin/python -m tests.benchmarks.gateway_cost [--backend unix:/path/of/a/running/MindSpore/Serving]

Without --backend the far end is an echo that answers at once, so all the time that is seen is transport and gateway.
Calls alternate between the two ways, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil

from metric_learn_client import wire
from servable.gateway import Backends, Gateway, GatewaySettings, LimitSettings, LogSettings
from tests.integration.servable.gateway.fake_serving import FakeBackend, FakeServing

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE_BYTES = 60_000  # a 500 x 400 photo as JPEG
IMAGES_PER_CALL = (1, 8, 32)
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


async def serve_echo(path: str) -> None:
    await FakeServing(echo=True).start(path)
    print("listening", flush=True)
    await asyncio.Event().wait()


async def serve_gateway(path: str, target: str, access_log: bool) -> None:
    backend = FakeBackend(target=target, window_instances=1024, max_batch=32)
    backends = Backends(backend.version)
    settings = GatewaySettings(
        address=f"unix:{path}",
        http_address="127.0.0.1:0",
        limits=LimitSettings(max_in_flight_instances=4096),
        log=LogSettings(access=access_log),
    )
    from servable.gateway import configure_logging

    configure_logging(settings.log)
    gateway = Gateway(settings, backends, on_unhealthy=lambda served, reason: print(reason, file=sys.stderr))
    await gateway.start()
    backends.set_ready(backend)
    if not await backends.wait_serving(0, 30):
        raise SystemExit(backends.default.reason)
    print("listening", flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "tests.benchmarks.gateway_cost", *arguments]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline().strip() == "listening"
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        process.stdout.close()


def body_of(images: int) -> bytes:
    request = wire.PredictRequest()
    request.servable_spec.name, request.servable_spec.method_name = wire.SERVABLE_NAME, wire.METHOD_EMBED
    for _ in range(images):
        tensor = request.instances.add().items[wire.ITEM_IMAGE]
        tensor.dtype = wire.DataType.MS_BYTES
        tensor.shape.dims.append(1)
        tensor.bytes_val.append(os.urandom(IMAGE_BYTES))
    return request.SerializeToString()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(direct: str, through: str, gateway: psutil.Process, images: int, seconds: float) -> dict[str, float]:
    """Median latencies in ms, one caller; CPU seconds of the gateway an image, with as many callers as keep it busy."""
    body = body_of(images)
    taken: dict[str, list[float]] = {direct: [], through: []}
    with grpc.insecure_channel(direct, OPTIONS) as first, grpc.insecure_channel(through, OPTIONS) as second:
        calls = {direct: first.unary_unary(wire.PREDICT_PATH), through: second.unary_unary(wire.PREDICT_PATH)}
        for call in calls.values():
            call(body, wait_for_ready=True, timeout=30)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for target, call in calls.items():
                began = time.perf_counter()
                call(body, timeout=30)
                taken[target].append(1000 * (time.perf_counter() - began))
        before, sent = cpu_s(gateway), 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            futures = [calls[through].future(body, timeout=30) for _ in range(8)]
            for future in futures:
                future.result()
            sent += images * len(futures)
    medians = {target: statistics.median(values) for target, values in taken.items()}
    return {
        "images_per_call": images,
        "direct_ms": round(medians[direct], 3),
        "through_ms": round(medians[through], 3),
        "added_ms": round(medians[through] - medians[direct], 3),
        "gateway_cpu_us_per_image": round(1e6 * (cpu_s(gateway) - before) / sent, 1),
        "images_per_s": round(sent / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", help="gRPC target of a MindSpore Serving that runs; default: an echo")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each of the two measurements of a size")
    parser.add_argument("--no-access-log", action="store_true")
    parser.add_argument("--role", choices=["echo", "gateway"], help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "echo":
        asyncio.run(serve_echo(options.path))
    elif options.role == "gateway":
        asyncio.run(serve_gateway(options.path, options.backend, not options.no_access_log))
    else:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            target = options.backend or f"unix:{folder}/echo.sock"
            if options.backend is None:
                stack.enter_context(child("--role", "echo", "--path", f"{folder}/echo.sock"))
            flags = ["--no-access-log"] if options.no_access_log else []
            gateway = stack.enter_context(
                child("--role", "gateway", "--path", f"{folder}/gateway.sock", "--backend", target, *flags)
            )
            for images in IMAGES_PER_CALL:
                row = measure(target, f"unix:{folder}/gateway.sock", gateway, images, options.seconds)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

"""One MindSpore Serving for a benchmark, with a gateway before it where asked. Run with the server's Python.

python -m tests.benchmarks.serve bare|plain|direct|no-network|echo|echo-alone VERSION_DIRECTORY SCRATCH; prints the
address and serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import grpc
import numpy as np

from servable.backend.bounded_log import BoundedLog
from servable.backend.serving_process import ServingProcess
from servable.backend.staging import STAGED_VERSION, stage
from servable.config.sections import Config, LogSection, ServerSection
from servable.engine.settings import MasterSettings, WorkerSettings
from servable.gateway import Backends, Gateway, configure_logging
from servable.host.memory import keep_memory
from servable.runtime.engine_python import engine_python
from servable.runtime.lite_runtime import lite_directory
from tests.benchmarks.no_network import constant_embedding, copy_without_network
from tests.integration.servable.gateway.fake_serving import FakeBackend, Golden

HERE = Path(__file__).resolve().parent
START_S = 120.0
LOG_BYTES = 16 * 1024 * 1024
FRONTED = ("no-network", "echo")  # with a gateway
ALONE = "echo-alone"  # without


def start(kind: str, version: Path, scratch: Path) -> tuple[ServingProcess, str]:
    cores = len(os.sched_getaffinity(0))
    mindirs = json.loads((version / "manifest.json").read_text())["mindir"]
    name = "metric_learn"
    if kind in (*FRONTED, ALONE):
        code = copy_without_network(scratch / "code", decode=kind == "no-network")
    elif kind == "direct":  # the product without its gateway
        code = HERE.parents[1] / "servable" / "metric_learn"
    else:
        code = HERE / "servables" / kind
    servables = stage(code, version, scratch)
    address = f"unix:{scratch}/{kind}.sock"
    settings = MasterSettings(
        servable_directory=str(servables),
        servable_name=name,
        version_number=STAGED_VERSION,
        address=address,
        device_type=None,
        device_ids=(),
        workers=1,
    )
    worker: WorkerSettings = {
        "device": "cpu",
        "threads": cores,
        "preprocess_threads": cores,
        "run_overhead_images": 0.2,
        "batch_sizes": [entry["batch_size"] for entry in mindirs],
        "models": {str(entry["batch_size"]): entry["file"] for entry in mindirs},
        "limits": {},
        "run_dir": str(scratch),
    }
    log = BoundedLog(scratch / "backend.log", LOG_BYTES)
    backend = ServingProcess(engine_python(Config()), settings, scratch, lite_directory(), worker, log, scratch, None)
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(START_S)
    return backend, address


def constant_golden() -> Golden:
    """What a servable without the network gives for any picture."""
    return Golden(next((HERE.parent / "golden" / "images").glob("astronaut_420*")).read_bytes(), constant_embedding())


async def front(target: str, scratch: Path) -> None:
    """The product's gateway before `target`, on a unix socket of its own."""
    settings = Config(
        server=ServerSection(address=f"unix:{scratch}/gateway.sock", http_address="127.0.0.1:0", api_address=""),
        log=LogSection(access=False),
    )
    configure_logging(settings.log)
    keep_memory()  # as the server does
    backends = Backends(1)
    gateway = Gateway(settings, backends, on_unhealthy=lambda served, reason: print(reason, file=sys.stderr))
    await gateway.start()
    backends.set_ready(FakeBackend(target=target, most_batches=16, max_batch=16, golden=constant_golden()))
    if not await backends.wait_serving(0, 30):
        raise SystemExit(backends.default.reason)
    print(settings.server.address, flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


def main(kind: str, version: Path, scratch: Path) -> None:
    np.seterr(all="raise")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    backend, address = start(kind, version, scratch)
    try:
        if kind in FRONTED:
            asyncio.run(front(address, scratch))
        else:
            print(address, flush=True)
            signal.pause()
    finally:
        backend.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

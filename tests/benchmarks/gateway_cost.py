"""What the gateway costs: latency and CPU with and without it, side by side in one run.

.venv/server/bin/python -m tests.benchmarks.gateway_cost
.venv/server/bin/python -m tests.benchmarks.serve direct VERSION_DIRECTORY SCRATCH &   # prints its address; then
.venv/server/bin/python -m tests.benchmarks.gateway_cost --backend ADDRESS --version VERSION_DIRECTORY --seconds 25
.venv/server/bin/python -m tests.benchmarks.serve echo-alone VERSION_DIRECTORY SCRATCH &   # prints its address; then
.venv/server/bin/python -m tests.benchmarks.gateway_cost --backend ADDRESS --without-network

The first has an echo at the far end that answers at once, so all the time that is seen is transport and gateway; the
second the real MindSpore Serving, the third the same without decoding and network.
Ways that are compared: straight to the far end, through the gateway over gRPC, through a bare pass-through that only
hands bytes on with the same grpc.aio - what any gateway of this kind costs at least - and through the gateway over
HTTP: /v1/embeddings with base64 both ways, /embed with an array of NumPy as its answer, and the Open Inference Protocol
with binary tensors both ways, which gRPC has too. Calls alternate between the ways, so that whatever else the machine
does meets all alike.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import http.client
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Optional

import grpc
import grpc.aio
import numpy as np
import psutil

from metric_learn_client import wire
from metric_learn_client.wire.messages import ModelInferRequest
from servable.config.sections import Config, LimitsSection, LogSection, ServerSection
from servable.gateway import Backends, Gateway, Golden
from servable.gateway.queue.backend_request import LANES, batch_pieces
from servable.host.memory import keep_memory
from tests.benchmarks.serve import constant_golden
from tests.integration.servable.gateway.fake_serving import FakeBackend, FakeServing

REPOSITORY = Path(__file__).resolve().parents[2]
# 67 KB, an ordinary photo
PHOTO = (REPOSITORY / "tests" / "golden" / "images" / "astronaut_420_q90.jpg").read_bytes()
IMAGES_PER_CALL = (1, 8, 32)
ROUNDS = 5  # of the throughput: the three ways alternate
AT_A_TIME = 8  # calls
API = ".http"  # what the path of the gateway's HTTP socket has more than that of gRPC
HTTP_WAYS = ("openai", "embed", "oip")
OTHER_WAYS = (*HTTP_WAYS, "oip_grpc")  # through the gateway, beside Predict
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
BOUNDARY = b"------------------------d74496d66958873e"  # as curl makes them
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


async def serve_echo(path: str) -> None:
    await FakeServing(echo=True).start(path)
    print("listening", flush=True)
    await asyncio.Event().wait()


async def serve_bare(path: str, target: str) -> None:
    channel = grpc.aio.insecure_channel(target, options=OPTIONS)
    onward = channel.unary_unary(wire.PREDICT_PATH)

    async def predict(body: bytes, _context: object) -> bytes:
        reply: bytes = await onward(body, timeout=30)
        return reply

    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(predict)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("mindspore.serving.proto.MSService", {"Predict": handler}),)
    )
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    print("listening", flush=True)
    await asyncio.Event().wait()


def golden_of(version: Optional[Path], without_network: bool) -> Golden:
    if without_network:
        return constant_golden()
    if version is None:  # the echo's
        return FakeBackend(target="").golden
    named = json.loads((version / "manifest.json").read_text())["golden"]
    image, embedding = (version / named[part]["file"] for part in ("image", "embedding"))
    return Golden(image.read_bytes(), np.load(embedding))


async def serve_gateway(path: str, target: str, access_log: bool, golden: Golden) -> None:
    backend = FakeBackend(target=target, most_batches=16, max_batch=16, golden=golden)
    backends = Backends(backend.version)
    settings = Config(
        server=ServerSection(address=f"unix:{path}", http_address="127.0.0.1:0", api_address=f"unix:{path}{API}"),
        limits=LimitsSection(max_in_flight_instances=4096),
        log=LogSection(access=access_log),
    )
    from servable.gateway import configure_logging

    configure_logging(settings.log)
    keep_memory()  # as the server does
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


def body_of(images: int, photo: bytes = PHOTO) -> bytes:
    request = wire.PredictRequest()
    request.servable_spec.name, request.servable_spec.method_name = wire.SERVABLE_NAME, wire.METHOD_EMBED
    for _ in range(images):
        tensor = request.instances.add().items[wire.ITEM_IMAGE]
        tensor.dtype = wire.DataType.MS_BYTES
        tensor.shape.dims.append(1)
        tensor.bytes_val.append(photo)
    return request.SerializeToString()


class Http:
    """One connection to the gateway's HTTP socket, kept alive."""

    def __init__(self, path: str, way: str, images: int) -> None:
        self._connection = http.client.HTTPConnection("localhost", timeout=60)
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.connect(path)
        self._path, self._body, self._headers = REQUESTS[way](images)

    def __call__(self) -> None:
        self._connection.request("POST", self._path, self._body, self._headers)
        answer = self._connection.getresponse()
        if answer.status != 200 or not answer.read():
            raise SystemExit(f"{self._path}: {answer.status}")

    def close(self) -> None:
        self._connection.close()


def openai_request(images: int, photo: bytes = PHOTO) -> tuple[str, bytes, dict[str, str]]:
    uri = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
    asked = {"model": wire.SERVABLE_NAME, "input": [uri] * images, "encoding_format": "base64"}
    return "/v1/embeddings", json.dumps(asked).encode(), {"content-type": "application/json"}


def rest_request(images: int, photo: bytes = PHOTO) -> tuple[str, bytes, dict[str, str]]:
    item = {"image": {"b64": base64.b64encode(photo).decode()}}
    return f"/model/{wire.SERVABLE_NAME}:embed", json.dumps({"instances": [item] * images}).encode(), {}


def embed_request(images: int, photo: bytes = PHOTO) -> tuple[str, bytes, dict[str, str]]:
    if images == 1:
        return "/embed", photo, {"accept": "application/x-npy"}
    head = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    body = (head + photo + b"\r\n") * images + b"--" + BOUNDARY + b"--\r\n"
    return (
        "/embed",
        body,
        {"accept": "application/x-npy", "content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"},
    )


def oip_request(images: int, photo: bytes = PHOTO) -> tuple[str, bytes, dict[str, str]]:
    behind = packed(images, photo)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [images], "parameters": {"binary_data_size": len(behind)}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return f"/v2/models/{wire.SERVABLE_NAME}/infer", text + behind, headers


def oip_body_of(images: int) -> bytes:
    request = ModelInferRequest(model_name=wire.SERVABLE_NAME, raw_input_contents=[packed(images)])
    request.inputs.add(name="image", datatype="BYTES", shape=[images])
    return request.SerializeToString()


def packed(images: int, photo: bytes = PHOTO) -> bytes:
    return (len(photo).to_bytes(4, "little") + photo) * images


REQUESTS = {"openai": openai_request, "rest": rest_request, "embed": embed_request, "oip": oip_request}


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(
    targets: dict[str, str], children: dict[str, psutil.Process], images: int, seconds: float
) -> dict[str, float]:
    """Latencies of one caller, median in ms. With 8 callers: CPU an image of the process in between, in microseconds,
    and images per second, of which gateway_throughput is the gateway's rate over the direct one, median of rounds."""
    row: dict[str, float] = {"images_per_call": images}
    between = {**children, **{way: children["gateway"] for way in OTHER_WAYS}}
    with contextlib.ExitStack() as stack:
        ways: dict[str, list[Callable[[], object]]] = {}
        # The far end takes a packed batch, as the gateway sends it.
        batch = b"".join(batch_pieces(wire.METHOD_EMBED, LANES[0], [PHOTO] * images))
        by_grpc = {way: (at, wire.PREDICT_PATH, batch) for way, at in targets.items()}
        by_grpc["gateway"] = (targets["gateway"], wire.PREDICT_PATH, body_of(images))
        by_grpc["oip_grpc"] = (targets["gateway"], MODEL_INFER, oip_body_of(images))
        for way, (at, path, body) in by_grpc.items():
            channel = stack.enter_context(grpc.insecure_channel(at, OPTIONS))
            call = functools.partial(channel.unary_unary(path), body, timeout=60)
            call(wait_for_ready=True)
            ways[way] = [call] * AT_A_TIME
        for way in HTTP_WAYS:
            path = targets["gateway"].removeprefix("unix:") + API
            ways[way] = [stack.enter_context(contextlib.closing(Http(path, way, images))) for _ in range(AT_A_TIME)]
        pool = stack.enter_context(ThreadPoolExecutor(AT_A_TIME))
        taken: dict[str, list[float]] = {way: [] for way in ways}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for way, calls in ways.items():
                began = time.perf_counter()
                calls[0]()
                taken[way].append(1000 * (time.perf_counter() - began))
        for way, values in taken.items():
            row[f"{way}_ms"] = round(statistics.median(values), 3)
        for way in ("bare", "gateway"):
            row[f"{way}_adds_ms"] = round(row[f"{way}_ms"] - row["direct_ms"], 3)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        spent, sent = dict.fromkeys(between, 0.0), dict.fromkeys(ways, 0)
        for _ in range(ROUNDS):
            for way, calls in ways.items():
                before = cpu_s(between[way]) if way in between else 0.0
                count, took = throughput(pool, calls, seconds / ROUNDS)
                rates[way].append(count * images / took)
                sent[way] += count * images
                if way in between:
                    spent[way] += cpu_s(between[way]) - before
        for way, values in rates.items():
            row[f"{way}_images_per_s"] = round(statistics.median(values), 1)
        for way, process_s in spent.items():
            row[f"{way}_cpu_us_per_image"] = round(1e6 * process_s / sent[way], 1)
        for way in OTHER_WAYS:
            row[f"{way}_cpu_ratio"] = round(row[f"{way}_cpu_us_per_image"] / row["gateway_cpu_us_per_image"], 2)
        shares = [ours / direct for ours, direct in zip(rates["gateway"], rates["direct"])]
        row["gateway_throughput"] = round(statistics.median(shares), 3)
    return row


def throughput(pool: ThreadPoolExecutor, calls: list[Callable[[], object]], seconds: float) -> tuple[int, float]:
    """Calls that were answered, eight at a time, and how long it took."""
    count, began = 0, time.monotonic()
    while time.monotonic() < began + seconds:
        for future in [pool.submit(call) for call in calls]:
            future.result()
            count += 1
    return count, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", help="gRPC target of a MindSpore Serving that runs; default: an echo")
    parser.add_argument("--version", type=Path, help="its exported version, whose golden picture the gateway asks for")
    parser.add_argument("--without-network", action="store_true", help="it is one of serve echo-alone")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each of the two measurements of a size")
    parser.add_argument("--no-access-log", action="store_true")
    parser.add_argument("--role", choices=["echo", "bare", "gateway"], help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "echo":
        asyncio.run(serve_echo(options.path))
    elif options.role == "bare":
        asyncio.run(serve_bare(options.path, options.backend))
    elif options.role == "gateway":
        golden = golden_of(options.version, options.without_network)
        asyncio.run(serve_gateway(options.path, options.backend, not options.no_access_log, golden))
    else:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            targets = {
                "direct": options.backend or f"unix:{folder}/echo.sock",
                "bare": f"unix:{folder}/bare.sock",
                "gateway": f"unix:{folder}/gateway.sock",
            }
            if options.backend is None:
                stack.enter_context(child("--role", "echo", "--path", f"{folder}/echo.sock"))
            flags = ["--no-access-log"] if options.no_access_log else []
            if options.version is not None:
                flags += ["--version", str(options.version.resolve())]
            if options.without_network:
                flags.append("--without-network")
            children = {}
            for way in ("bare", "gateway"):
                arguments = ["--role", way, "--path", f"{folder}/{way}.sock", "--backend", targets["direct"], *flags]
                children[way] = stack.enter_context(child(*arguments))
            for images in IMAGES_PER_CALL:
                print(json.dumps(measure(targets, children, images, options.seconds)), flush=True)


if __name__ == "__main__":
    main()

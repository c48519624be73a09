"""Everything that is measured behind one interface: start it, send it images, ask for its process tree, stop it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import grpc
import numpy as np
import numpy.typing as npt
import psutil

from metric_learn_client import EmbeddingClient, wire
from tests.benchmarks.start_up import start_watched
from tests.e2e.conftest import VERSIONS, exported_versions, stop

REPOSITORY = Path(__file__).resolve().parents[2]
VERSION = VERSIONS / "1"
ENGINE_PYTHON = str(REPOSITORY / ".venv" / "engine" / "bin" / "python")
SERVER_PYTHON = str(REPOSITORY / ".venv" / "server" / "bin" / "python")
PEER_PYTHON = str(REPOSITORY / ".venv" / "bench" / "bin" / "python")
NETWORK = REPOSITORY / ".runtime" / "bench" / "network.onnx"
CALL_S = 300.0
START_S = 120.0
Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class System:
    """embed: images -> float32 [N, 2048], called from several threads. images_per_call, in_flight: what suits it."""

    name: str
    root: psutil.Process
    embed: Callable[[Sequence[Any]], Rows]
    images_per_call: int = 32
    in_flight: int = 3
    embed_pixels: Optional[Callable[[Sequence[Any]], Rows]] = None  # uint8 [224, 224, 3] each

    def processes(self) -> list[psutil.Process]:
        return [self.root, *self.root.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system seconds of the tree so far. Its processes live as long as it does."""
        times = [process.cpu_times() for process in self.processes()]
        return float(sum(each.user + each.system for each in times))

    def cpu_by_role(self) -> dict[str, float]:
        """The same by what the process is."""
        spent: dict[str, float] = {}
        for process in self.processes():
            line, times = " ".join(process.cmdline()), process.cpu_times()
            role = "worker" if "start_" in line else "master" if "servable.engine.master" in line else "gateway"
            spent[role] = spent.get(role, 0.0) + times.user + times.system
        return spent

    def memory_mb(self) -> float:
        return float(sum(process.memory_info().rss for process in self.processes())) / 1e6


def _embedder(client: EmbeddingClient) -> Callable[[Sequence[bytes]], Rows]:
    return lambda images: client.embed(list(images)).embeddings


@contextlib.contextmanager
def product(name: str = "product", *flags: str) -> Iterator[tuple[System, dict[str, float]]]:
    """The server as users start it, through its gateway, and how long which part of its start took.

    flags: `section.key=value`, beside what configs/cpu.yaml says.
    """
    with tempfile.TemporaryDirectory(prefix="metric-learn-bench-") as run_dir:
        server, steps = start_watched(run_dir, *flags)
        try:
            with EmbeddingClient(server.endpoint, deadline_s=CALL_S, batch_size=128) as client:
                system = System(
                    name,
                    psutil.Process(server.process.pid),
                    _embedder(client),
                    embed_pixels=lambda pixels: client.embed_pixels(np.stack(pixels)).embeddings,
                )
                yield system, steps
        finally:
            stop(server)


@contextlib.contextmanager
def serving(kind: str) -> Iterator[tuple[System, str]]:
    """A MindSpore Serving of tests.benchmarks.serve and its address."""
    scratch = Path(tempfile.mkdtemp(prefix="bench-"))
    command = [SERVER_PYTHON, "-m", "tests.benchmarks.serve", kind, str(VERSION), str(scratch)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            log = scratch / "backend.log"
            raise RuntimeError(f"{kind} did not start: {log.read_text()[-500:] if log.exists() else 'no log'}")
        with EmbeddingClient(address, deadline_s=CALL_S, batch_size=128) as client:
            yield System(kind, psutil.Process(process.pid), _embedder(client)), address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
        shutil.rmtree(scratch, ignore_errors=True)


class Bare:
    """The network alone, timed inside the worker."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._call = self._channel.unary_unary(
            wire.PREDICT_PATH,
            request_serializer=wire.PredictRequest.SerializeToString,
            response_deserializer=wire.PredictReply.FromString,
        )

    def run(self, batch_size: int, runs: int) -> npt.NDArray[np.float64]:
        """float64 [runs, 2]: wall and CPU seconds of each run."""
        request = wire.PredictRequest()
        request.servable_spec.name, request.servable_spec.method_name = wire.SERVABLE_NAME, "bare"
        tensor = request.instances.add().items["order"]
        tensor.dtype = wire.DataType.MS_INT32
        tensor.shape.dims.append(2)
        tensor.data = np.array([batch_size, runs], np.int32).tobytes()
        reply = self._call(request, timeout=CALL_S)
        for error in reply.error_msg:
            raise RuntimeError(error.error_msg.decode())
        return np.frombuffer(reply.instances[0].items["seconds"].data, np.float64).reshape(runs, 2)

    def close(self) -> None:
        self._channel.close()


def _litserve_call(port: int) -> Callable[[Sequence[bytes]], Rows]:
    def embed(images: Sequence[bytes]) -> Rows:
        (image,) = images
        body = json.dumps({"image": base64.b64encode(image).decode()}).encode()
        reply = _post(f"http://127.0.0.1:{port}/predict", body, "application/json")
        return np.frombuffer(base64.b64decode(json.loads(reply)["embedding"]), np.float32)[None]

    return embed


def _bentoml_call(port: int) -> Callable[[Sequence[bytes]], Rows]:
    def embed(images: Sequence[bytes]) -> Rows:
        head = '--part\r\nContent-Disposition: form-data; name="images"; filename="{}.jpg"\r\n\r\n'
        parts = [head.format(index).encode() + image + b"\r\n" for index, image in enumerate(images)]
        reply = _post(
            f"http://127.0.0.1:{port}/embed", b"".join(parts) + b"--part--\r\n", "multipart/form-data; boundary=part"
        )
        return np.array(json.loads(reply), np.float32)

    return embed


def _post(url: str, body: bytes, kind: str) -> bytes:
    request = urllib.request.Request(url, data=body, headers={"content-type": kind})
    with urllib.request.urlopen(request, timeout=CALL_S) as reply:
        content: bytes = reply.read()
    return content


@contextlib.contextmanager
def peer(name: str) -> Iterator[System]:
    """LitServe or BentoML with ONNX Runtime, in .venv/bench."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "NETWORK": str(NETWORK), "BENTOML_DO_NOT_TRACK": "true"}
    if name == "LitServe":
        command = [PEER_PYTHON, "-m", "tests.benchmarks.peers.litserve_server", str(NETWORK), str(port)]
        embed, per_call, in_flight = _litserve_call(port), 1, 48
    else:
        command = [PEER_PYTHON, "-m", "bentoml", "serve", "tests.benchmarks.peers.bentoml_service:Embedding"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        embed, per_call, in_flight = _bentoml_call(port), 16, 3
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True, **quiet)
    try:
        _wait_http(port, process)
        yield System(name, psutil.Process(process.pid), embed, per_call, in_flight)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_http(port: int, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/docs", timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{process.args} did not come up")


def make_models(peers: bool) -> None:
    """The MindIRs, and for the peers the same checkpoint as ONNX; each exported once."""
    exported_versions()
    if peers and not NETWORK.is_file():
        NETWORK.parent.mkdir(parents=True, exist_ok=True)
        python = str(REPOSITORY / ".venv" / "export" / "bin" / "python")
        checkpoint = next(VERSIONS.glob("*.ckpt"))
        command = [python, "-m", "tests.benchmarks.peers.export_onnx", str(checkpoint), str(NETWORK)]
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=sys.stderr)

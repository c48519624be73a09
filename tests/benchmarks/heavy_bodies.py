"""What callers of gRPC feel of heavy bodies: small calls beside others' 32 pictures of 1 MB each, form by form.

.venv/server/bin/python -m tests.benchmarks.heavy_bodies [--seconds 4] [--callers 8] [--forms FORM ...]

The gateway with an echo at the far end, which decodes nothing: what is seen is transport, gateway and queue. Beside the
heavy callers one calls Predict with a photo of 67 KB, and one asks for the health, which waits for the gateway's event
loop alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Callable

import grpc
import numpy as np
import psutil

from metric_learn_client import wire
from tests.benchmarks.gateway_cost import API, OPTIONS, REQUESTS, body_of, child

PICTURES, PICTURE_BYTES = 32, 1 << 20
PAUSE_S = 0.005  # of the small callers, between two calls
AGAIN_S = 1.0  # of a heavy caller that was refused
HEALTH = "/grpc.health.v1.Health/Check"
FORMS = ("none", *REQUESTS, "grpc")


@contextlib.contextmanager
def by_grpc(path: str, method: str, body: bytes) -> Iterator[Callable[[], bool]]:
    """A call on a connection of its own, which says whether it was answered."""
    with grpc.insecure_channel(f"unix:{path}", [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = functools.partial(channel.unary_unary(method), body, timeout=60)

        def send() -> bool:
            try:
                call()
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                return False
            return True

        yield send


@contextlib.contextmanager
def by_http(path: str, request: tuple[str, bytes, dict[str, str]]) -> Iterator[Callable[[], bool]]:
    connection = http.client.HTTPConnection("localhost", timeout=60)

    def send() -> bool:
        if connection.sock is None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(path + API)
        connection.request("POST", *request)
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (200, 429):
            raise SystemExit(f"{request[0]}: {answer.status}")
        return answer.status == 200

    with contextlib.closing(connection):
        yield send


class Caller(threading.Thread):
    """Calls one after the other until the end; `seconds` that each answered one took."""

    def __init__(
        self, sender: contextlib.AbstractContextManager[Callable[[], bool]], over: threading.Event, pause_s: float
    ) -> None:
        super().__init__(daemon=True)
        self._sender, self._over, self._pause_s = sender, over, pause_s
        self.seconds: list[float] = []
        self.refused = 0

    def run(self) -> None:
        with self._sender as send:
            while not self._over.is_set():
                began = time.perf_counter()
                if send():
                    self.seconds.append(time.perf_counter() - began)
                    self._over.wait(self._pause_s)
                else:
                    self.refused += 1
                    self._over.wait(AGAIN_S)


def measure(path: str, gateway: psutil.Process, form: str, callers: int, seconds: float) -> dict[str, object]:
    picture, over = os.urandom(PICTURE_BYTES), threading.Event()
    small = Caller(by_grpc(path, wire.PREDICT_PATH, body_of(1)), over, PAUSE_S)
    health = Caller(by_grpc(path, HEALTH, b""), over, PAUSE_S)
    if form == "none":
        heavy = []
    elif form == "grpc":
        body = body_of(PICTURES, picture)
        heavy = [Caller(by_grpc(path, wire.PREDICT_PATH, body), over, 0) for _ in range(callers)]
    else:
        request = REQUESTS[form](PICTURES, picture)
        heavy = [Caller(by_http(path, request), over, 0) for _ in range(callers)]
    for each in (small, health, *heavy):
        each.start()
    time.sleep(seconds)
    over.set()
    for each in (small, health, *heavy):
        each.join(60)

    def in_ms(caller: Caller) -> dict[str, float]:
        return {f"p{q}": round(1000 * float(np.percentile(caller.seconds, q)), 1) for q in (50, 99, 100)}

    return {
        "heavy": form,
        "heavy_calls": sum(len(each.seconds) for each in heavy),
        "refused": sum(each.refused for each in heavy),
        "predict_ms": in_ms(small),
        "health_ms": in_ms(health),
        "gateway_mb": gateway.memory_info().rss >> 20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, help="of the heavy bodies")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each form")
    parser.add_argument("--callers", type=int, default=8, help="with heavy bodies")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        echo, path = f"{folder}/echo.sock", f"{folder}/gateway.sock"
        stack.enter_context(child("--role", "echo", "--path", echo))
        role = ("--role", "gateway", "--path", path, "--backend", f"unix:{echo}", "--no-access-log")
        gateway = stack.enter_context(child(*role))
        for form in options.forms:
            print(json.dumps(measure(path, gateway, form, options.callers, options.seconds)), flush=True)


if __name__ == "__main__":
    main()

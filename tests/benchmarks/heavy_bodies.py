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
import multiprocessing
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
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
    at, body, headers = request
    headers = {**headers, "content-length": str(len(body))}

    def send() -> bool:
        if connection.sock is None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(path + API)
        connection.request("POST", at, [body], headers)  # a list: else head and body are joined first
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (200, 429):
            raise SystemExit(f"{at}: {answer.status}")
        return answer.status == 200

    with contextlib.closing(connection):
        yield send


Sender = contextlib.AbstractContextManager[Callable[[], bool]]


class Caller(threading.Thread):
    """Calls one after the other until the end; `seconds` that each answered one took."""

    def __init__(self, sender: Sender, over: Event, pause_s: float) -> None:
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
                    time.sleep(self._pause_s)
                else:
                    self.refused += 1
                    time.sleep(AGAIN_S)


def call_heavily(path: str, form: str, callers: int, over: Event, counts: Queue[tuple[int, int]]) -> None:
    """In a process of its own, so that the small callers do not wait for its interpreter."""
    picture, senders = os.urandom(PICTURE_BYTES), list[Sender]()
    if form == "grpc":
        body = body_of(PICTURES, picture)
        senders = [by_grpc(path, wire.PREDICT_PATH, body) for _ in range(callers)]
    elif form != "none":
        request = REQUESTS[form](PICTURES, picture)
        senders = [by_http(path, request) for _ in range(callers)]
    running = [Caller(sender, over, 0) for sender in senders]
    for each in running:
        each.start()
    counts.put((0, 0))  # it has begun
    for each in running:
        each.join()
    counts.put((sum(len(each.seconds) for each in running), sum(each.refused for each in running)))


def measure(path: str, gateway: psutil.Process, form: str, callers: int, seconds: float) -> dict[str, object]:
    spawn = multiprocessing.get_context("spawn")
    over, counts = spawn.Event(), spawn.Queue()
    heavy = spawn.Process(target=call_heavily, args=(path, form, callers, over, counts), daemon=True)
    heavy.start()
    counts.get(timeout=60)
    small = Caller(by_grpc(path, wire.PREDICT_PATH, body_of(1)), over, PAUSE_S)
    health = Caller(by_grpc(path, HEALTH, b""), over, PAUSE_S)
    for each in (small, health):
        each.start()
    time.sleep(seconds)
    over.set()
    for each in (small, health):
        each.join(60)
    answered, refused = counts.get(timeout=60)
    heavy.join(60)

    def in_ms(caller: Caller) -> dict[str, float]:
        return {f"p{q}": round(1000 * float(np.percentile(caller.seconds, q)), 1) for q in (50, 99, 100)}

    return {
        "heavy": form,
        "heavy_calls": answered,
        "refused": refused,
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

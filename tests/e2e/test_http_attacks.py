"""Ten thousand hostile HTTP requests to the real server, and a gRPC caller beside them who must not notice."""

import json
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import psutil
import pytest

from .conftest import REPOSITORY, start, stop
from .load import EXPECTED, predict_on, request_of, wrong_rows

MB = 1024 * 1024
COUNT, SEED = 10_000, 20261126
QUIET_S = 15
pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]


class Caller:
    """One gRPC call of one picture after the other; how long each took, and those that went wrong."""

    def __init__(self, endpoint):
        self._endpoint = endpoint
        self._over = threading.Event()
        self.seconds, self.wrong = [], []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._over.set()
        self._thread.join(60)

    def _run(self):
        with grpc.insecure_channel(self._endpoint) as channel:
            call = predict_on(channel)
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    self.wrong += wrong_rows(call(request_of([0]), timeout=60), [0], EXPECTED)
                except grpc.RpcError as error:
                    self.wrong.append(error.code().name)
                self.seconds.append(time.monotonic() - began)
                self._over.wait(0.05)

    def percentile(self, share):
        return float(np.percentile(self.seconds, share))


@pytest.fixture(scope="module")
def attacked(versions, tmp_path_factory):
    """A server with a short deadline for bodies, so that the stalled ones end within the test's time."""
    started = start(tmp_path_factory.mktemp("run"), "deadlines.read_body_s=2")
    assert started.ready_line.startswith("ready"), started.said()
    yield started
    stop(started)


def test_10000_hostile_requests_cost_a_grpc_caller_no_call_and_the_server_little_memory(attacked):
    gateway = psutil.Process(attacked.process.pid)
    with Caller(attacked.endpoint) as quiet:
        time.sleep(QUIET_S)
    before = most = gateway.memory_info().rss
    command = [sys.executable, "-m", "tests.e2e.attacks.fuzz_http", attacked.api_endpoint]
    command += ["--count", str(COUNT), "--seed", str(SEED)]
    with Caller(attacked.endpoint) as caller:
        fuzzing = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        while fuzzing.poll() is None:
            most = max(most, gateway.memory_info().rss)
            time.sleep(0.1)
    report = json.loads(fuzzing.stdout.read())
    fuzzing.stdout.close()
    print(
        json.dumps(
            {
                **report,
                "grown_mb": (gateway.memory_info().rss - before) // MB,
                "most_grown_mb": (most - before) // MB,
                "calls_beside": len(caller.seconds),
                "p50_quiet_s": quiet.percentile(50),
                "p50_beside_s": caller.percentile(50),
                "p99_quiet_s": quiet.percentile(99),
                "p99_beside_s": caller.percentile(99),
            }
        )
    )
    assert report["requests"] == COUNT and report["faults"] == []
    assert caller.wrong == [] and quiet.wrong == []
    assert most - before < 400 * MB
    # The attack computes honest pictures too, on the same cores: each call may wait for some of them.
    assert caller.percentile(99) < 10 * quiet.percentile(99) + 1

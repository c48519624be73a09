"""kill -9 and SIGSTOP of every process, again and again, under load; ten times the load that can be served."""

import asyncio
import signal
import time

import grpc.aio
import numpy as np
import psutil
import pytest

from tests.patience import patient

from .conftest import ONE_SIZE, stop
from .load import EXPECTED, IMAGES, OPTIONS, Load, predict_on, request_of, wrong_rows
from .processes import (
    assert_nothing_left,
    master_of,
    noticing_hangs_soon,
    running,
    segments,
    serving_in,
    wait_until,
    worker_of,
)
from .service_manager import ServiceManager

READY_AGAIN_S = 30  # of an idle machine, where it takes 5 to 8
ROUNDS = 20
# stable_s = 0: hits that follow each other at once are no reason to wait longer and longer before a restart.
QUICK = (ONE_SIZE, "supervision.stable_s=0", "readiness.interval_s=1")
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)


def assert_answered_once(load):
    """Rightly, or with a status that a client sends again."""
    assert not load.failures(), (load.summary(), load.failures()[:3])
    assert len(load.answers) == load.sent


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", SIGNALS, ids=["kill", "stop"])
@pytest.mark.parametrize("target", ["worker", "master"])
def test_mindspore_serving_is_hit_again_and_again(versions, tmp_path, target, number):
    before, seconds = segments(), []
    with serving_in(tmp_path, *noticing_hangs_soon(*QUICK)) as server:
        with Load(server.endpoint, threads=3) as load:
            load.wait_for_good(5, time.monotonic(), READY_AGAIN_S)
            descriptors = psutil.Process(server.process.pid).num_fds()
            for _ in range(ROUNDS):
                victim = {"worker": worker_of, "master": master_of}[target](server)
                master, at = master_of(server), time.monotonic()
                victim.send_signal(number)
                wait_until(lambda one=master: not running([one]), READY_AGAIN_S, "the replacement")
                seconds.append(load.wait_for_good(5, at + 0.5, READY_AGAIN_S))
        assert psutil.Process(server.process.pid).num_fds() <= descriptors + 5
        print(f"{number.name} on {target}, {ROUNDS} rounds: {spread(seconds)} to five good answers; {load.summary()}")
        assert_answered_once(load)
        assert stop(server) == 0
        assert_nothing_left(tmp_path, before)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("number", "rounds"),
    [
        pytest.param(signal.SIGSTOP, 1, id="stop"),
        pytest.param(signal.SIGKILL, ROUNDS, id="kill-20", marks=pytest.mark.long),
        pytest.param(signal.SIGSTOP, ROUNDS, id="stop-20", marks=pytest.mark.long),
    ],
)
def test_the_gateway_is_hit_and_its_service_manager_starts_it_again(versions, tmp_path, number, rounds):
    before, seconds = segments(), []
    run_dir = tmp_path / "run"
    with ServiceManager(run_dir, *noticing_hangs_soon(*QUICK)) as manager:
        assert manager.ready.wait(60)
        with Load(manager.endpoint, threads=3) as load:
            load.wait_for_good(5, time.monotonic(), READY_AGAIN_S)
            for _ in range(rounds):
                at = time.monotonic()
                manager.ready.clear()
                manager.process.send_signal(number)
                assert manager.ready.wait(patient(READY_AGAIN_S))
                seconds.append(load.wait_for_good(5, at + 0.5, READY_AGAIN_S))
    print(f"{number.name} on the gateway, {rounds} rounds: {spread(seconds)} to five good answers; {load.summary()}")
    assert_answered_once(load)
    assert len(manager.ended) == rounds, manager.ended
    assert manager.watchdog_kills == (rounds if number is signal.SIGSTOP else 0)
    assert manager.exit_code == 0
    assert any("READY=1" in text for text in manager.notified)
    assert_nothing_left(run_dir, before)


class Flood:
    """Calls at a fixed rate, whatever comes back: an open loop."""

    def __init__(self, endpoint, calls_per_s, images, deadline_s):
        self.endpoint, self.calls_per_s, self.images, self.deadline_s = endpoint, calls_per_s, images, deadline_s
        self.codes, self.accepted_s, self.wrong = {}, [], 0

    async def _call(self, predict, indices):
        began = time.monotonic()
        try:
            reply = await predict(request_of(indices), timeout=self.deadline_s)
        except grpc.aio.AioRpcError as error:
            self.codes[error.code()] = self.codes.get(error.code(), 0) + 1
            return
        self.accepted_s.append(time.monotonic() - began)
        self.wrong += len(wrong_rows(reply, indices, EXPECTED))

    async def _run(self, seconds):
        random = np.random.default_rng(0)
        async with grpc.aio.insecure_channel(self.endpoint, options=OPTIONS) as channel:
            predict, calls, began = predict_on(channel), set(), time.monotonic()
            while time.monotonic() - began < seconds:
                due = int((time.monotonic() - began) * self.calls_per_s) - self.sent
                for _ in range(due):
                    self.sent += 1
                    call = asyncio.ensure_future(
                        self._call(predict, random.integers(0, len(IMAGES), self.images).tolist())
                    )
                    calls.add(call)
                    call.add_done_callback(calls.discard)
                await asyncio.sleep(0.005)
            await asyncio.gather(*calls)

    def run(self, seconds):
        self.sent = 0
        asyncio.run(self._run(seconds))


def throughput(endpoint, seconds):
    """Images a second with a few callers, closed loop."""
    with Load(endpoint, threads=4, images=4) as load:
        began = time.monotonic()
        load.wait_for_good(4, began, 60)
        start_at, time_at = len(load.answers), time.monotonic()
        wait_until(lambda: time.monotonic() - time_at > seconds, seconds + 5, "the measurement")
        rate = (len(load.answers) - start_at) * load.images / (time.monotonic() - time_at)
    assert_answered_once(load)
    return rate


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ten_times_the_load_is_shed_and_forgotten_in_seconds(versions, tmp_path):
    deadline_s = 60.0
    with serving_in(tmp_path) as server:
        tree = [psutil.Process(server.process.pid), master_of(server), worker_of(server)]
        sustainable = throughput(server.endpoint, 10)
        flood = Flood(server.endpoint, 10 * sustainable / 4, 4, deadline_s)
        memory = []
        import threading

        done = threading.Event()

        def sample():
            while not done.wait(1.0):
                memory.append(sum(process.memory_info().rss for process in tree) / 2**20)

        sampler = threading.Thread(target=sample)
        sampler.start()
        flood.run(60)
        ended = time.monotonic()
        done.set()
        sampler.join()
        wait_until(lambda: time.monotonic() - ended > 5, 6, "five seconds")
        after = throughput(server.endpoint, 10)
        p99 = float(np.percentile(flood.accepted_s, 99))
        print(
            f"sustainable {sustainable:.1f} images/s; offered {flood.sent * 4 / 60:.0f} for 60 s; "
            f"answered {len(flood.accepted_s)} of {flood.sent} calls, p99 {p99:.1f} s; refused {flood.codes}; "
            f"memory {max(memory[5:25]):.0f} -> {max(memory[-20:]):.0f} MB; after 5 s {after:.1f} images/s"
        )
        assert set(flood.codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert flood.sent * 4 / 60 > 8 * sustainable
        assert not flood.wrong
        assert p99 < deadline_s
        assert max(memory[-20:]) < 1.1 * max(memory[5:25])
        assert after > 0.8 * sustainable
        assert stop(server) == 0


def spread(seconds):
    return f"{min(seconds):.1f} to {max(seconds):.1f} s, median {sorted(seconds)[len(seconds) // 2]:.1f} s"

"""Pictures that end MindSpore Serving's worker, or hold it up: they fail alone, and the service stays."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from metric_learn_client import EmbeddingClient
from tests.patience import patient

from . import deadly
from .load import EXPECTED, IMAGES, Load, distance
from .processes import noticing_hangs_soon, serving_in, wait_until, worker_of
from .test_metrics import samples, total

METRIC_LEARN = [sys.executable, "-c", "from metric_learn_client.cli import main; main()"]
DEADLINE_S = 120.0  # two restarts on a busy machine
QUICK = ("readiness.interval_s=0.5", "backend.batch_sizes=[1,4]")
numbers = iter(range(10_000))


def killer(order):
    """A picture that nobody has sent before."""
    return deadly.picture(IMAGES[0], order, next(numbers))


def assert_embedded(result, indices, crashed=()):
    """The golden pictures' embeddings, and E_CRASH at `crashed`, and nothing else."""
    assert [(error.index, error.code) for error in result.errors] == [(place, "E_CRASH") for place in crashed]
    for place, (row, index) in enumerate(zip(result.embeddings, indices)):
        assert np.isnan(row).all() if place in crashed else distance(row, EXPECTED[index]) < 1e-4


def call(server, images):
    with EmbeddingClient(server.endpoint, deadline_s=DEADLINE_S) as client:
        return client.embed(images, on_error="return")


def restarts(server):
    return total(samples(server), "metric_learn_backend_restarts_total")


def outcomes(server):
    found = samples(server)
    return {
        result: total(found, "metric_learn_suspect_images_total", result=result)
        for result in ("cleared", "failed", "remembered")
    }


@pytest.fixture(scope="module")
def copy(versions, tmp_path_factory):
    return deadly.copy_of_the_server(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def server(copy, tmp_path_factory):
    with serving_in(tmp_path_factory.mktemp("run"), *noticing_hangs_soon(*QUICK), repository=copy) as started:
        yield started


def restarted(server, before, most):
    """Waits for the service; returns how many restarts there were."""
    wait_until(lambda: total(samples(server), "metric_learn_ready") == 1, 60, "ready again")
    assert server.process.poll() is None
    assert restarts(server) - before <= most
    return restarts(server) - before


def hit(server, order):
    """One call of 16 pictures, one of which obeys `order`; then the same again."""
    before, indices = restarts(server), [index % len(IMAGES) for index in range(16)]
    images = [IMAGES[index] for index in indices]
    images[7] = killer(order)
    assert_embedded(call(server, images), indices, crashed=[7])
    restarted(server, before, 1)
    began = time.monotonic()
    assert_embedded(call(server, images), indices, crashed=[7])
    assert time.monotonic() - began < patient(10)
    restarted(server, before, 1)


@pytest.mark.long
@pytest.mark.parametrize("order", ["kill", "crash", "spin", "stop", "sleep"])
def test_the_other_images_of_the_call_are_answered_and_the_culprit_fails_with_its_code(server, order):
    hit(server, order)


def test_ten_clients_at_once_cost_one_restart_in_all_and_others_get_their_answers(server):
    before, culprit, results = restarts(server), killer("crash"), {}

    def send(number):
        results[number] = call(server, [IMAGES[number], culprit])

    with Load(server.endpoint, threads=2, deadline_s=DEADLINE_S) as load:
        load.wait_for_good(2, time.monotonic(), 60)
        senders = [threading.Thread(target=send, args=(number,)) for number in range(10)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(DEADLINE_S)
    for number in range(10):
        assert_embedded(results[number], [number, 0], crashed=[1])
    restarted(server, before, 1)
    assert load.summary() == {"None": load.sent}


def test_a_job_over_such_a_file_ends_with_one_failure_row(server, tmp_path):
    before, folder = restarts(server), tmp_path / "in"
    folder.mkdir()
    for index in range(40):
        (folder / f"{index:03d}.jpg").write_bytes(IMAGES[index % len(IMAGES)])
    (folder / "017.jpg").write_bytes(killer("kill"))
    command = ["embed", str(folder), "--output-dir", str(tmp_path / "out"), "--endpoint", server.endpoint, "--json"]
    ran = subprocess.run([*METRIC_LEARN, *command], capture_output=True, text=True)
    assert ran.returncode == 3, ran.stderr
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert (summary["succeeded"], summary["failed"], summary["codes"]) == (39, 1, {"E_CRASH": 1})
    (row,) = pq.read_table(tmp_path / "out" / "failures", partitioning=None).to_pylist()
    assert Path(row["image_path"]).name == "017.jpg" and row["code"] == "E_CRASH"
    restarted(server, before, 1)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_new_killers_one_after_the_other_do_not_end_the_service(copy, tmp_path):
    """As it is configured by default; those who send the pictures do not even wait for their answers."""
    with serving_in(tmp_path, repository=copy) as server:
        with Load(server.endpoint, threads=2, deadline_s=DEADLINE_S) as load:
            for turn in range(10):
                if turn % 2:
                    assert_embedded(call(server, [killer("kill")]), [0], crashed=[0])
                else:
                    with EmbeddingClient(server.endpoint, deadline_s=0.5, retries=0) as client:
                        with pytest.raises(Exception, match=r"DEADLINE_EXCEEDED|UNAVAILABLE|deadline"):
                            client.embed([killer("kill")])
            load.wait_for_good(5, time.monotonic(), 60)
        assert server.process.poll() is None
        assert load.summary() == {"None": load.sent}
        assert outcomes(server)["failed"] >= 5


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_operators_kill_again_and_again_blames_no_image_and_never_ends_the_service(versions, tmp_path):
    """As it is configured by default, with calls in flight each time."""
    with serving_in(tmp_path) as server:
        with Load(server.endpoint, threads=4, images=8, deadline_s=DEADLINE_S) as load:
            for _ in range(8):
                load.wait_for_good(8, time.monotonic(), 60)
                worker_of(server).kill()
                time_of = time.monotonic()
                load.wait_for_good(4, time_of + 0.5, 60)
        assert server.process.poll() is None
        assert load.summary() == {"None": load.sent}
        assert outcomes(server)["failed"] == 0 and outcomes(server)["cleared"] > 0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(psutil.virtual_memory().total < 12 * 2**30, reason="two workers need 12 GB")
def test_two_workers_do_not_hand_a_killer_to_each_other(copy, tmp_path):
    with serving_in(tmp_path, *noticing_hangs_soon(*QUICK), "backend.workers=2", repository=copy) as server:
        hit(server, "kill")

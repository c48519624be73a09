"""Pictures that crash, hang or mislead a decoder, on the real server: each is its own error, and nobody else's."""

import contextlib
import json
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from metric_learn_client import EmbeddingClient
from metric_learn_client.jobs import embed_dataset
from tests.patience import patient

from .conftest import ONE_SIZE, REPOSITORY, stop
from .load import GOLDEN, IMAGES
from .processes import assert_nothing_left, decoders_of, running, segments, server_in, tree_of, wait_until, worker_of
from .test_jobs import make_pictures, read
from .test_metrics import samples, total

HOSTILE = REPOSITORY / "tests" / "golden" / "hostile"
EXPECTED = json.loads((HOSTILE / "expected.json").read_text())
# They ended the worker, held everyone up, or were embedded wrongly without a sign. Their codes; None: they are read.
CASES = {
    "found/apng_badfilter.png": "E_DECODE",
    "found/apng_short_idat.png": "E_DECODE",
    "cgbi.png": "E_UNSUPPORTED",
    "data_missing_inside.jpg": "E_DECODE",
    "found/exif6.webp": None,
    "found/exif6_after_xmp.jpg": None,
    "found/fctl_empty.png": None,
    "precision12.jpg": "E_UNSUPPORTED",
    "found/scans_12000.jpg": "E_TOO_LARGE",
}
GOOD = [IMAGES[index % len(IMAGES)] for index in range(16)]
SAME = 1e-5  # between two runs of one picture in batches of different sizes
OTHERS_P99_S = 2.0


def is_right(name, error):
    code, words = EXPECTED[name]
    return error is None if code == "same as" else (error.code, words in error.message) == (code, True)


@pytest.fixture(scope="module")
def client(server):
    with EmbeddingClient(server.endpoint, deadline_s=60) as made:
        yield made


@pytest.fixture(scope="module")
def alone(client):
    return client.embed(GOOD).embeddings


@pytest.fixture
def untouched(server):
    """The worker is the same one before and after, and no restart was counted."""
    worker, restarts = worker_of(server).pid, total(samples(server), "metric_learn_backend_restarts_total")
    yield
    assert worker_of(server).pid == worker
    assert total(samples(server), "metric_learn_backend_restarts_total") == restarts


def test_every_hostile_picture_is_its_own_error_or_what_it_shows(untouched, client):
    names = list(EXPECTED)
    result = client.embed([HOSTILE / name for name in names], on_error="return")
    errors = {error.index: error for error in result.errors}
    assert not [name for index, name in enumerate(names) if not is_right(name, errors.get(index))]


@pytest.fixture(scope="module")
def with_an_empty_one(client):
    return client.embed([*GOOD[:7], b"", *GOOD[8:]], on_error="return").embeddings


@pytest.mark.parametrize("name", CASES)
def test_alone_and_among_good_pictures_it_has_its_own_outcome_and_changes_no_other(
    untouched, client, alone, with_an_empty_one, name
):
    expected = [CASES[name]] * bool(CASES[name])
    began = time.monotonic()
    assert [error.code for error in client.embed([HOSTILE / name], on_error="return").errors] == expected
    assert time.monotonic() - began < patient(OTHERS_P99_S)
    result = client.embed([*GOOD[:7], HOSTILE / name, *GOOD[8:]], on_error="return")
    assert [(error.index, error.code) for error in result.errors] == [(7, code) for code in expected]
    if expected:  # the same batch, so there is no rounding to allow for
        assert np.array_equal(result.embeddings, with_an_empty_one, equal_nan=True)
    else:
        assert np.abs(np.delete(result.embeddings - alone, 7, axis=0)).max() <= SAME


@contextlib.contextmanager
def another_caller(server):
    """Yields the seconds that each of its calls takes meanwhile, one picture at a time."""
    ended, took = threading.Event(), []

    def call():
        with EmbeddingClient(server.endpoint, deadline_s=60) as other:
            while not ended.is_set():
                began = time.monotonic()
                other.embed_one(GOOD[0])
                took.append(time.monotonic() - began)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield took
    finally:
        ended.set()
        caller.join()


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_beside_one_that_is_sent_again_and_again_another_caller_is_answered_in_time(untouched, server, client, name):
    with another_caller(server) as took:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            client.embed([HOSTILE / name], on_error="return")
    print(f"{name}: {len(took)} calls beside it, p99 {np.quantile(took, 0.99):.2f} s, the slowest {max(took):.2f} s")
    assert np.quantile(took, 0.99) < OTHERS_P99_S


def embed_folder(server, pictures, out):
    """One small call at a time: another caller waits for hostile pictures, if for anything, not for a full queue."""
    return embed_dataset(pictures, out, endpoint=server.endpoint, engine="local", batch_size=8, in_flight=1)


def test_a_job_of_a_hundred_has_one_failure_row_for_each_and_others_are_served_meanwhile(
    untouched, server, client, tmp_path
):
    pictures = make_pictures(tmp_path / "in", 100)
    hostile = {f"{5 + 10 * index:05d}.jpg": name for index, name in enumerate(CASES)}
    for place, name in hostile.items():
        (pictures / place).write_bytes((HOSTILE / name).read_bytes())
    with another_caller(server) as beside_good:
        embed_folder(server, make_pictures(tmp_path / "good", 24), tmp_path / "good_out")
    with another_caller(server) as took:
        summary = embed_folder(server, pictures, tmp_path / "out")
    codes = Counter(code for code in CASES.values() if code)
    assert (summary.succeeded, summary.codes) == (100 - sum(codes.values()), dict(codes))
    paths, embeddings = read(tmp_path / "out")
    some = [place for place, path in enumerate(paths) if path.rpartition("/")[2] not in hostile][::6]
    direct = client.embed([paths[place] for place in some]).embeddings
    assert np.abs(embeddings[some] - direct).max() <= SAME
    print(f"beside the job: p99 {np.quantile(took, 0.99):.2f} s, beside good pictures {max(beside_good):.2f} s")
    # Where others use the cores as well, the network alone takes seconds: then no more than good pictures cost.
    assert np.quantile(took, 0.99) < max(patient(OTHERS_P99_S), 3 * max(beside_good))


def test_the_decoders_of_a_worker_are_confined(server):
    decoders = decoders_of(server)
    assert decoders
    for decoder in decoders:
        status = Path(f"/proc/{decoder.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status and "CapPrm:\t0000000000000000" in status
        limits = Path(f"/proc/{decoder.pid}/limits").read_text()
        assert re.search(r"Max open files +0 +0", limits) and re.search(r"Max processes +0 +0", limits)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("times", [3, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_decoders_that_are_ended_or_stopped_at_work_fail_no_call(untouched, server, client, number, times):
    photo = cv2.resize(cv2.imread(str(GOLDEN / "images" / "coffee_444_q95.jpg")), (4000, 3000))
    images = [*GOOD[:2], cv2.imencode(".jpg", photo)[1].tobytes()]  # the photo keeps a decoder at work while it is hit
    usual, right = len(decoders_of(server)), client.embed(images).embeddings
    before = total(samples(server), "metric_learn_decoder_restarts_total")
    ended, wrong, calls, codes = threading.Event(), [], [0], Counter()

    def load():
        while not ended.is_set():
            result = client.embed(images, on_error="return")
            codes.update(error.code for error in result.errors)
            rows = [index for index in range(len(images)) if index not in {error.index for error in result.errors}]
            wrong.extend(row for row in rows if np.abs(result.embeddings[row] - right[row]).max() > SAME)
            calls[0] += 1

    def hit():
        at_work = [decoder for decoder in decoders_of(server) if decoder.status() == psutil.STATUS_RUNNING]
        at_work[0].send_signal(number)
        return True

    callers = [threading.Thread(target=load) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(times):
            wait_until(hit, 20, "a decoder at work")
            done = calls[0]
            wait_until(lambda done=done: calls[0] > done, 20, "an answer")
    finally:
        ended.set()
        for caller in callers:
            caller.join(60)
    restarts = total(samples(server), "metric_learn_decoder_restarts_total") - before
    print(f"{times} times {number.name}: {calls[0]} calls, {restarts:.0f} decoders replaced, errors: {dict(codes)}")
    assert not wrong
    # An image is given up only where the decoder that it is tried again in is hit as well.
    assert set(codes) <= {"E_CRASH"} and codes["E_CRASH"] <= times / 2
    assert restarts >= times / 2  # one may be hit twice before it is gone
    wait_until(lambda: len(decoders_of(server)) == len(running(decoders_of(server))) == usual, 20, "the usual decoders")
    assert psutil.STATUS_STOPPED not in {decoder.status() for decoder in decoders_of(server)}


def decoding_processes(server):
    (nursery,) = worker_of(server).children()
    return [nursery, *nursery.children()]


def test_nothing_is_left_of_decoders_when_the_nursery_and_then_the_worker_is_killed(versions, tmp_path):
    before = segments()
    with server_in(tmp_path / "run", ONE_SIZE) as server, EmbeddingClient(server.endpoint, deadline_s=60) as client:
        assert server.ready_line.startswith("ready"), server.said()
        first, worker = decoding_processes(server), worker_of(server)
        first[0].kill()
        wait_until(lambda: not running(first), 15, "the end of the decoders")
        client.embed(GOOD)
        assert running([worker])
        second = decoding_processes(server)
        worker.kill()
        wait_until(lambda: not running([worker, *second]), 15, "the end of the worker and its decoders")
        assert stop(server) == 0
        assert_nothing_left(tmp_path / "run", before)


@pytest.mark.long
def test_nothing_runs_on_when_the_server_is_killed(versions, tmp_path):
    with server_in(tmp_path / "run") as server:
        assert server.ready_line.startswith("ready"), server.said()
        everything = tree_of(server)
        server.process.kill()
        wait_until(lambda: not running(everything), 15, "the end of the server")

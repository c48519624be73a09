"""Pictures that crash, hang or mislead a decoder, on the real server: each is its own error, and nobody else's."""

import contextlib
import json
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from metric_learn_client import EmbeddingClient
from metric_learn_client.jobs import embed_dataset

from .conftest import REPOSITORY, stop
from .load import IMAGES
from .processes import assert_nothing_left, running, segments, server_in, tree_of, wait_until, worker_of
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


def decoders_of(server):
    """The nursery's children."""
    return [decoder for nursery in worker_of(server).children() for decoder in nursery.children()]


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


@pytest.mark.parametrize("name", CASES)
def test_beside_sixteen_good_pictures_it_changes_none_of_them(untouched, client, alone, name):
    began = time.monotonic()
    errors = client.embed([HOSTILE / name], on_error="return").errors
    assert [error.code for error in errors] == [CASES[name]] * bool(CASES[name])
    assert time.monotonic() - began < OTHERS_P99_S
    result = client.embed([*GOOD[:7], HOSTILE / name, *GOOD[7:]], on_error="return")
    assert {each.index for each in result.errors} <= {7}
    others = np.delete(result.embeddings, 7, axis=0)
    assert np.abs(others - alone).max() <= SAME


def test_with_a_hostile_picture_in_place_of_another_the_others_are_bit_equal(untouched, client):
    """The batch is the same, so there is no rounding to allow for."""
    with_empty = client.embed([*GOOD[:7], b"", *GOOD[8:]], on_error="return").embeddings
    for name in [name for name, code in CASES.items() if code]:
        result = client.embed([*GOOD[:7], HOSTILE / name, *GOOD[8:]], on_error="return")
        assert np.array_equal(result.embeddings, with_empty, equal_nan=True)


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


def embed_folder(server, pictures, out):
    """One small call at a time: another caller waits for hostile pictures, if for anything, not for a full queue."""
    return embed_dataset(pictures, out, endpoint=server.endpoint, engine="local", batch_size=8, in_flight=1)


def test_a_job_of_two_hundred_has_one_failure_row_for_each_and_others_are_served_meanwhile(
    untouched, server, client, tmp_path
):
    pictures = make_pictures(tmp_path / "in", 200)
    hostile = {f"{10 + 20 * index:05d}.jpg": name for index, name in enumerate(CASES)}
    for place, name in hostile.items():
        (pictures / place).write_bytes((HOSTILE / name).read_bytes())
    with another_caller(server) as beside_good:
        embed_folder(server, make_pictures(tmp_path / "good", 40), tmp_path / "good_out")
    with another_caller(server) as took:
        summary = embed_folder(server, pictures, tmp_path / "out")
    codes = Counter(code for code in CASES.values() if code)
    assert (summary.succeeded, summary.codes) == (200 - sum(codes.values()), dict(codes))
    paths, embeddings = read(tmp_path / "out")
    some = [place for place, path in enumerate(paths) if path.rpartition("/")[2] not in hostile][::12]
    direct = client.embed([paths[place] for place in some]).embeddings
    assert np.abs(embeddings[some] - direct).max() <= SAME
    # Where others use the cores as well, the network alone takes seconds: then no more than good pictures cost.
    assert np.quantile(took, 0.99) < max(OTHERS_P99_S, 3 * max(beside_good))


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
def test_decoders_that_are_ended_or_stopped_under_load_fail_no_call(untouched, server, client, alone, number, times):
    before = total(samples(server), "metric_learn_decoder_restarts_total")
    stop, problems, rounds = threading.Event(), [], [0]

    def load():
        while not stop.is_set():
            result = client.embed(GOOD, on_error="return")
            problems.extend(error for error in result.errors if error.code != "E_CRASH")
            rows = [index for index in range(16) if index not in {error.index for error in result.errors}]
            if np.abs(result.embeddings[rows] - alone[rows]).max() > SAME:
                problems.append("a wrong embedding")
            rounds[0] += 1

    callers = [threading.Thread(target=load) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        for turn in range(times):
            wait_until(lambda: running(decoders_of(server)), 20, "a decoder")
            hit = running(decoders_of(server))
            with contextlib.suppress(psutil.NoSuchProcess):
                hit[turn % len(hit)].send_signal(number)
            done = rounds[0]
            wait_until(lambda done=done: rounds[0] > done, 20, "an answer")
    finally:
        stop.set()
        for caller in callers:
            caller.join(60)
    assert not problems
    assert total(samples(server), "metric_learn_decoder_restarts_total") > before


@pytest.mark.parametrize("who", ["worker", "nursery", "server"])
def test_nothing_is_left_of_a_decoder_when_those_above_it_are_killed(versions, tmp_path, who):
    before = segments()
    with server_in(tmp_path / "run") as server:
        assert server.ready_line.startswith("ready"), server.said()
        worker = worker_of(server)
        (nursery,) = worker.children()
        below = [nursery, *nursery.children()]
        assert len(below) >= 2
        everything = tree_of(server)
        {"worker": worker, "nursery": nursery, "server": psutil.Process(server.process.pid)}[who].kill()
        wait_until(lambda: not running(below), 15, "the end of the decoders")
        if who == "nursery":
            with EmbeddingClient(server.endpoint, deadline_s=30) as client:
                client.embed(GOOD)
            assert running([worker])
        if who == "server":
            wait_until(lambda: not running(everything), 15, "the end of the server")
        else:
            assert stop(server) == 0
            assert_nothing_left(tmp_path / "run", before)

"""The stages as MindSpore Serving drives them (server/worker/task.py), with a plain function for the network."""

import importlib
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from metric_learn_client.preprocess import preprocess
from servable.engine.batch_stats import read
from servable.engine.packed_batch import images_head, unpack_rows
from servable.metric_learn.golden_row import GoldenRow

IMAGES = Path(__file__).parents[3] / "golden" / "images"
GOOD = [(IMAGES / name).read_bytes() for name in ("cat_tiny_60x40.jpg", "coffee_225x224.bmp", "one_pixel.png")]
SIZES = [1, 4, 16]


class Network:
    """The features of an image are its first 2048 pixel values."""

    def __init__(self, size):
        self.size, self.runs = size, []

    def call(self, instances):
        assert 1 <= len(instances) <= self.size
        self.runs.append(len(instances))
        return [(np.asarray(pixels, np.float32).ravel()[:2048],) for (pixels,) in instances]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def loaded(run_dir):
    settings = {
        "limits": {},
        "batch_sizes": SIZES,
        "device": "cpu",
        "preprocess_threads": 2,
        "run_overhead_images": 0.2,
        "run_dir": str(run_dir),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METRIC_LEARN_WORKER", json.dumps(settings))
        module = importlib.import_module("servable.metric_learn.stages")  # which starts the decoders
    yield module
    module._pool.close()


@pytest.fixture
def stages(loaded):
    loaded.MODELS.update({size: [Network(size)] for size in SIZES})
    return loaded


def drive(stage, values):
    """What task.py does with one batched stage: results in order, an exception fails one and the rest are asked for."""
    instances = tuple((value,) for value in values)
    done = []
    while len(done) < len(instances):
        left = len(instances) - len(done)
        try:
            result = iter(stage(instances[len(done) :]))
        except Exception as error:
            return done + [error] * left
        try:
            for _ in range(left):
                done.append(next(result))
        except Exception as error:
            done.append(error)
    return done


def packed(*images, pixels=False):
    """What the gateway sends: one instance of all images."""
    return np.frombuffer(images_head(images, pixels=pixels) + b"".join(images), np.uint8)


def embedded(stages, *batches, pixels=False):
    """Per batch: rows and errors."""
    return rows_of(stages, drive(stages.preprocess, [packed(*batch, pixels=pixels) for batch in batches]))


def rows_of(stages, tickets):
    return [unpack_rows(outcome) for outcome in drive(stages.l2_normalize, drive(stages.embed, tickets))]


def expected(image):
    return normal(preprocess(image).ravel()[:2048].astype(np.float32))


def normal(row):
    return row / np.float32(np.linalg.norm(row.astype(np.float64)))


def counted(run_dir, before):
    now = read(run_dir).runs
    return {size: (now[size][0] - before[size][0], now[size][1] - before[size][1]) for size in SIZES}


def test_the_images_of_several_batches_come_back_in_order(stages):
    batches = [[GOOD[index % 3] for index in range(count)] for count in (16, 1, 5)]
    for batch, (rows, errors) in zip(batches, embedded(stages, *batches)):
        assert errors == [None] * len(batch)
        assert np.array_equal(rows, [expected(image) for image in batch])
    assert not stages._runs._batches


def test_a_full_run_of_a_device_gives_up_a_place_for_the_golden_row_and_no_row_is_lost_or_moved(stages, monkeypatch):
    golden = preprocess(GOOD[0])
    row = GoldenRow(stages.MODELS, golden, expected(GOOD[0]), 1e-3, every_s=60)
    monkeypatch.setattr(stages, "_golden", row)
    for runs in ([[1, 1], [], [16]], [[], [], [16]]):  # it is due in the first batch alone
        batch = [GOOD[1 + index % 2] for index in range(16)]
        for models in stages.MODELS.values():
            models[0].runs.clear()
        ((rows, errors),) = embedded(stages, batch)
        assert errors == [None] * 16 and np.array_equal(rows, [expected(image) for image in batch])
        assert [stages.MODELS[size][0].runs for size in SIZES] == runs


def test_failed_images_fail_alone_and_nothing_runs_twice(stages):
    images = [GOOD[0], b"nonsense", GOOD[1], b"", GOOD[2], GOOD[0][:300]]
    ((rows, errors),) = embedded(stages, images)
    assert [(error or "").partition(":")[0] for error in errors] == ["", "E_UNSUPPORTED", "", "E_EMPTY", "", "E_DECODE"]
    for index in (0, 2, 4):
        assert np.array_equal(rows[index], expected(images[index]))
    assert sum(sum(network.runs) for (network,) in stages.MODELS.values()) == 3


def test_a_batch_of_failures_runs_no_network(stages):
    ((_, errors),) = embedded(stages, [b"x", b"y", b"z"])
    assert all(error.startswith("E_UNSUPPORTED") for error in errors)
    assert not any(network.runs for (network,) in stages.MODELS.values())


def test_batches_of_files_and_of_pixels_may_come_together(stages):
    pixels = preprocess(GOOD[1]).tobytes()
    together = [packed(GOOD[0]), packed(pixels, pixels, pixels=True), packed(GOOD[2])]
    rows = [rows for rows, _ in rows_of(stages, drive(stages.preprocess, together))]
    for index, image in ((0, GOOD[0]), (1, GOOD[1]), (2, GOOD[2])):
        assert np.array_equal(rows[index][-1], expected(image))


def test_the_request_may_be_gone_once_preprocess_returned(stages):
    batch = packed(*GOOD * 4).copy()
    tickets = drive(stages.preprocess, [batch])
    batch[:] = 0
    ((rows, _),) = rows_of(stages, tickets)
    assert np.array_equal(rows, [expected(image) for image in GOOD * 4])


def test_bytes_that_are_no_batch_fail_alone(stages):
    first, wrong, last = drive(stages.preprocess, [packed(GOOD[0]), np.zeros(40, np.uint8), packed(GOOD[1])])
    assert "worker" in str(wrong)  # the gateway's word for what is not an image's fault
    for ticket, image in ((first, GOOD[0]), (last, GOOD[1])):
        (((row,), _),) = rows_of(stages, [ticket])
        assert np.array_equal(row, expected(image))


def test_a_batch_that_is_lost_is_the_workers_fault(stages):
    (outcome,) = drive(stages.l2_normalize, [np.array([0], np.int64)])
    assert str(outcome) == "this worker has lost the batch"


def test_a_network_that_fails_fails_its_batch_and_the_next_one_runs(stages, monkeypatch):
    monkeypatch.setattr(stages, "_run", lambda size, instances: 1 / 0)
    (outcome,) = drive(stages.l2_normalize, drive(stages.preprocess, [packed(*GOOD)]))
    assert isinstance(outcome, ZeroDivisionError)
    monkeypatch.undo()
    ((rows, _),) = embedded(stages, GOOD)
    assert np.array_equal(rows, [expected(image) for image in GOOD])


def test_every_run_is_counted_with_its_images(stages, run_dir):
    before = read(run_dir).runs
    pixels = preprocess(GOOD[0]).tobytes()
    embedded(stages, [pixels] * 16, pixels=True)
    embedded(stages, [pixels] * 5, pixels=True)
    assert counted(run_dir, before) == {1: (1, 1), 4: (1, 4), 16: (1, 16)}


def test_decoders_that_end_are_replaced_and_counted(stages, run_dir):
    before = read(run_dir).decoders
    ended = [decoder for nursery in psutil.Process().children() for decoder in nursery.children()]
    for decoder in ended:
        decoder.kill()
    ((rows, _),) = embedded(stages, GOOD * 4)
    assert np.array_equal(rows, [expected(image) for image in GOOD * 4])
    limit = time.monotonic() + 10
    while read(run_dir).decoders < before + len(ended):  # an idle one's end is seen when it is
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_pixels_of_another_size_are_refused_alone(stages):
    right = preprocess(GOOD[0]).tobytes()
    ((rows, errors),) = embedded(stages, [right, right[1:], right], pixels=True)
    assert errors[1].startswith("E_SHAPE") and errors[0] is errors[2] is None
    assert np.array_equal(rows[0], expected(GOOD[0])) and np.array_equal(rows[2], rows[0])


@pytest.mark.parametrize("features", [np.zeros(2048), np.full(2048, np.nan), np.full(2048, np.inf)])
def test_an_unusable_row_is_an_error_and_no_embedding(stages, monkeypatch, features):
    right = np.arange(2048, dtype=np.float32)
    made = [(right,), (features.astype(np.float32),), (right,), (right,)]
    monkeypatch.setattr(stages, "_run", lambda size, instances: made)
    ((rows, errors),) = embedded(stages, [preprocess(GOOD[0]).tobytes()] * 4, pixels=True)
    assert errors[1].startswith("E_NON_FINITE") and errors[0] is errors[2] is errors[3] is None
    assert np.linalg.norm(rows[0]) == pytest.approx(1) and np.array_equal(rows[0], rows[2])


def test_normalising_a_batch_gives_the_bits_of_normalising_each_row(stages, monkeypatch):
    features = np.random.default_rng(3).gamma(0.5, 2.0, (16, 2048)).astype(np.float32)
    monkeypatch.setattr(stages, "_run", lambda size, instances: [(row,) for row in features])
    ((rows, _),) = embedded(stages, [preprocess(GOOD[0]).tobytes()] * 16, pixels=True)
    assert np.array_equal(rows, [normal(row) for row in features])


def test_a_ticket_is_passed_on_before_its_batch_has_run(stages, monkeypatch):
    may_run = threading.Event()
    right = stages._run
    monkeypatch.setattr(stages, "_run", lambda size, instances: may_run.wait(10) and right(size, instances))
    tickets = drive(stages.preprocess, [packed(*GOOD)])
    passed = drive(stages.embed, tickets)  # would wait here for ever
    may_run.set()
    ((rows, _),) = [unpack_rows(outcome) for outcome in drive(stages.l2_normalize, passed)]
    assert np.array_equal(rows, [expected(image) for image in GOOD])


def test_a_worker_whose_decoders_are_gone_for_good_ends(stages, monkeypatch):
    ended = []
    monkeypatch.setattr(stages.os, "_exit", ended.append)
    assert stages._describe(RuntimeError("no process")).startswith("this worker cannot decode: no process")
    assert not ended
    monkeypatch.setattr(stages, "_pool", SimpleNamespace(failed=True))
    stages._describe(RuntimeError("no process"))
    assert ended == [1]

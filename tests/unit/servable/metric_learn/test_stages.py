"""The stages as MindSpore Serving drives them (server/worker/task.py), with a plain function for the network."""

import importlib
import json
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from metric_learn_client.preprocess import preprocess
from servable.engine.batch_stats import decoder_restarts, read

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
    loaded.MODELS.update({size: Network(size) for size in SIZES})
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


def encoded(images):
    return [np.frombuffer(image, np.uint8) for image in images]


def expected(image):
    return preprocess(image).ravel()[:2048].astype(np.float32)


def test_many_images_come_back_in_order(stages):
    images = [GOOD[index % 3] for index in range(21)]
    tickets = drive(stages.preprocess, encoded(images))
    assert all(ticket.dtype == np.int64 for ticket in tickets)
    rows = drive(stages.embed, tickets[:16]) + drive(stages.embed, tickets[16:])
    for image, row in zip(images, rows):
        assert np.array_equal(row, expected(image))
    assert not stages._tickets._pending


def test_a_lone_image_is_decoded_at_once(stages):
    (pixels,) = drive(stages.preprocess, encoded(GOOD[:1]))
    assert np.array_equal(pixels, preprocess(GOOD[0]))
    (row,) = drive(stages.embed, [pixels])
    assert np.array_equal(row, expected(GOOD[0]))


def test_failed_images_fail_alone_and_nothing_runs_twice(stages):
    images = [GOOD[0], b"nonsense", GOOD[1], b"", GOOD[2], GOOD[0][:300]]
    rows = drive(stages.embed, drive(stages.preprocess, encoded(images)))
    codes = [str(row).partition(":")[0] if isinstance(row, Exception) else "" for row in rows]
    assert codes == ["", "E_UNSUPPORTED", "", "E_EMPTY", "", "E_DECODE"]
    for index in (0, 2, 4):
        assert np.array_equal(rows[index], expected(images[index]))
    assert sum(sum(network.runs) for network in stages.MODELS.values()) == 3


def test_a_batch_of_failures_runs_no_network(stages):
    rows = drive(stages.embed, drive(stages.preprocess, encoded([b"x", b"y", b"z"])))
    assert all(str(row).startswith("E_UNSUPPORTED") for row in rows)
    assert not any(network.runs for network in stages.MODELS.values())


def test_the_request_may_be_gone_once_preprocess_returned(stages):
    images = encoded(GOOD * 4)
    views = [image.copy() for image in images]
    tickets = drive(stages.preprocess, views)
    for view in views:
        view[:] = 0
    for image, row in zip(GOOD * 4, drive(stages.embed, tickets)):
        assert np.array_equal(row, expected(image))


def test_tickets_that_are_never_redeemed_do_not_pile_up(stages):
    for _ in range(60):
        drive(stages.preprocess, encoded(GOOD[2:] * 16))
    assert len(stages._tickets._pending) <= stages._tickets._kept


def test_every_run_is_counted_with_its_images(stages, run_dir):
    before = read(run_dir)
    drive(stages.embed, [preprocess(GOOD[0])] * 16)
    drive(stages.embed, [preprocess(GOOD[0])] * 5)
    now = read(run_dir)
    counted = {size: (now[size][0] - before[size][0], now[size][1] - before[size][1]) for size in SIZES}
    assert counted == {1: (1, 1), 4: (1, 4), 16: (1, 16)}


def test_decoders_that_end_are_replaced_and_counted(stages, run_dir):
    before = decoder_restarts(run_dir)
    ended = [decoder for nursery in psutil.Process().children() for decoder in nursery.children()]
    for decoder in ended:
        decoder.kill()
    rows = drive(stages.embed, drive(stages.preprocess, encoded(GOOD * 4)))
    for image, row in zip(GOOD * 4, rows):
        assert np.array_equal(row, expected(image))
    limit = time.monotonic() + 10
    while decoder_restarts(run_dir) < before + len(ended):  # an idle one's end is seen when it is
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize(
    "pixels", [np.zeros((3, 224, 224), np.uint8), np.zeros((224, 224, 3), np.float32), np.zeros(1)]
)
def test_pixels_of_another_kind_are_refused_alone(stages, pixels):
    right = preprocess(GOOD[0])
    first, wrong, last = drive(stages.check_pixels, [right, pixels, right])
    assert str(wrong).startswith("E_SHAPE") and np.array_equal(first, last)


@pytest.mark.parametrize("features", [np.zeros(2048), np.full(2048, np.nan), np.full(2048, np.inf), np.ones(7)])
def test_an_unusable_row_is_an_error_and_no_embedding(stages, features):
    right = np.arange(2048, dtype=np.float32)
    first, wrong, last = drive(stages.l2_normalize, [right, features.astype(np.float32), right])
    assert str(wrong).startswith("E_NON_FINITE")
    assert np.linalg.norm(first) == pytest.approx(1) and np.array_equal(first, last)

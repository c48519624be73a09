"""A device's worker: the proof before the first answer, the end of a worker whose device is not to be trusted."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from servable.engine.device_watch import DeviceWatch, read
from servable.metric_learn.device import call_with_retry
from servable.metric_learn.golden_row import GoldenRow, WrongRow

REPOSITORY = Path(__file__).parents[4]
# A network whose features are the first 2048 pixel values; a child, since a wrong one ends the process.
CHILD = """
import sys
import numpy as np
from servable.metric_learn.device import Device
from servable.metric_learn.golden_row import GoldenRow
golden = np.random.default_rng(7).integers(0, 256, (224, 224, 3), np.uint8)
features = lambda picture: np.asarray(picture, np.float32).ravel()[:2048]
runs = []
class Network:
    def __init__(self, size): self.size = size
    def call(self, instances):
        runs.append(len(instances))
        rows = [(features(picture),) for (picture,) in instances]
        return WRONG(rows)
small = Network(1)
embedding = features(golden) / np.linalg.norm(features(golden))
models = {1: [small], 4: [Network(4) for _ in range(COPIES)]}
row = GoldenRow(models, golden, embedding, 2e-2, ROW_S)
device = Device(3, models, row, {"directory": sys.argv[1], "check_s": CHECK_S})
for _ in range(2):
    device.run(small, [[golden]])
print(runs)
"""


def child(folder, wrong="lambda rows: rows", check_s=60, copies=1, row_s=60, setup=""):
    code = textwrap.dedent(CHILD).replace("WRONG", f"({wrong})").replace("CHECK_S", str(check_s))
    code = setup + code.replace("COPIES", str(copies)).replace("ROW_S", str(row_s))
    return subprocess.run([sys.executable, "-c", code, str(folder)], cwd=REPOSITORY, capture_output=True, text=True)


def test_every_batch_size_is_proved_once_before_the_first_answer(tmp_path):
    done = child(tmp_path)
    assert done.stdout == "[1, 1, 4, 1, 1]\n", done.stderr  # golden, its negative, both in four places; then the calls
    (state,) = read(tmp_path)
    assert (state.device, state.proved, state.running_s) == (3, True, 0.0)


def test_each_of_a_sizes_models_is_proved(tmp_path):
    assert child(tmp_path, copies=2).stdout == "[1, 1, 4, 4, 1, 1]\n"


def test_it_is_proved_again_when_the_proof_is_old(tmp_path):
    assert child(tmp_path, check_s=0).stdout == "[1, 1, 4, 1, 1, 1, 4, 1]\n"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("lambda rows: [(row * 0 + 1,) for (row,) in rows]", "WrongEmbeddingError: at batch size 1"),
        ("lambda rows: [(row * np.nan,) for (row,) in rows]", "WrongEmbeddingError: at batch size 1"),
        ("lambda rows: rows[1:] + rows[:1]", "WrongEmbeddingError: at batch size 4"),  # right numbers, wrong places
        ("lambda rows: 1 / 0", "DeviceError: a run of 1 images failed (division by zero)"),
    ],
)
def test_a_device_that_is_not_to_be_trusted_ends_its_worker_with_the_reason(tmp_path, wrong, says):
    done = child(tmp_path, wrong)
    assert done.returncode == -9 and done.stdout.startswith(says) and "device 3 is taken out" in done.stdout
    (state,) = read(tmp_path)
    assert state.taken_out and not state.proved and not state.doubtful


def test_a_row_that_is_not_finite_makes_the_device_prove_itself_and_run_again(tmp_path):
    once = "[(row * (np.nan if len(runs) == 4 else 1),) for (row,) in rows]"  # the first call after the proof
    assert child(tmp_path, f"lambda rows: {once}").stdout == "[1, 1, 4, 1, 1, 1, 4, 1, 1]\n"


def test_a_picture_that_never_has_finite_rows_costs_one_proof_a_second_and_no_device(tmp_path):
    always = "[(row * (np.nan if len(runs) in (4, 8, 9) else 1),) for (row,) in rows]"
    assert child(tmp_path, f"lambda rows: {always}").stdout == "[1, 1, 4, 1, 1, 1, 4, 1, 1]\n"


def test_a_device_that_gives_rows_that_are_not_finite_from_now_on_is_taken_out(tmp_path):
    done = child(tmp_path, "lambda rows: [(row * (np.nan if len(runs) > 3 else 1),) for (row,) in rows]")
    assert done.returncode == -9 and done.stdout.startswith("WrongEmbeddingError: at batch size 1")


@pytest.mark.parametrize(("other_s", "taken_out"), [(0.002, True), (0.01, False)])
def test_one_that_is_far_slower_than_another_is_taken_out(tmp_path, other_s, taken_out):
    DeviceWatch(tmp_path, 4).proved(other_s)
    done = child(
        tmp_path, "lambda rows: (time.sleep(0.06 if len(rows) == 4 else 0), rows)[1]", copies=1, setup="import time"
    )
    assert done.returncode == (-9 if taken_out else 0), done.stderr
    if taken_out:
        assert re.match(r"DeviceError: a run of 4 images takes 0\.\d+ s, another device 0.002 s: device 3", done.stdout)


def test_a_slow_run_or_two_are_none(tmp_path):
    DeviceWatch(tmp_path, 4).proved(0.002)
    done = child(tmp_path, "lambda rows: (time.sleep(0.06 if len(runs) < 6 else 0), rows)[1]", setup="import time")
    assert done.returncode == 0, done.stdout


def test_a_run_under_way_is_seen_with_its_time(tmp_path):
    watch = DeviceWatch(tmp_path, 0)
    assert not watch.proved_within(60)
    with watch.run():
        (state,) = read(tmp_path)
        assert state.pid == os.getpid() and state.running_s > 0 and not state.proved
        with watch.run():
            watch.proved(0.25)
        (later,) = read(tmp_path)
        assert later.running_s >= state.running_s and later.proved  # the first still is under way
    (state,) = read(tmp_path)
    assert state.proved and state.full_run_s == 0.25 and state.running_s == 0 and watch.proved_within(60)


def test_a_file_that_is_being_made_counts_as_nothing(tmp_path):
    (tmp_path / "device-1.state").write_bytes(b"")
    assert read(tmp_path) == []


def test_a_worker_beside_the_device_asks_again_when_a_run_was_lost_with_its_device_or_is_wrong():
    class Model:
        bad, calls = 0, 0
        fails: Callable[[Any], Any] = staticmethod(lambda instances: 1 / 0)

        def call(self, instances):
            self.calls += 1
            if self.calls <= self.bad:
                return self.fails(instances)
            return [(np.eye(1, 4)[0],) for _ in instances]

    for fails in (Model.fails, lambda instances: [(np.ones(4),) for _ in instances]):
        model, lost = Model(), Model()
        model.bad, lost.bad, model.fails, lost.fails = 2, 9, fails, fails
        row = GoldenRow({4: [model, lost]}, np.zeros(1, np.uint8), np.eye(1, 4)[0], 1e-2, 60)
        assert len(call_with_retry(row, model, [[1]])) == 1 and model.calls == 3
        with pytest.raises((ZeroDivisionError, WrongRow)):
            call_with_retry(row, lost, [[1]])
        assert lost.calls == 3

"""Which MindIR runs for how many images."""

import importlib.util
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[4] / "servable" / "metric_learn" / "batching.py"
_spec = importlib.util.spec_from_file_location("batching", SOURCE)
batching = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(batching)
SIZES = (1, 4, 16)


@pytest.mark.parametrize(("count", "runs"), [(1, (1,)), (4, (4,)), (7, (4, 1, 1, 1)), (16, (16,)), (20, (16, 4))])
def test_where_time_grows_with_the_batch_nothing_is_padded(count, runs):
    assert batching.plan(count, SIZES, 0.2) == runs


@pytest.mark.parametrize(("count", "runs"), [(1, (1,)), (3, (4,)), (15, (16,))])
def test_where_a_call_is_dear_one_padded_run_wins(count, runs):
    assert batching.plan(count, SIZES, 2.0) == runs


def test_every_count_is_covered_and_costs_no_more_than_one_by_one():
    for count in range(1, 100):
        runs = batching.plan(count, SIZES, 0.2)
        assert sum(runs) >= count
        assert sum(runs) + 0.2 * len(runs) <= count * 1.2 + 1e-9


def test_no_images_are_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        batching.plan(0, SIZES, 0.2)

"""A load test's arithmetic: percentiles, windows that agree, arrivals."""

import math

import numpy as np
import pytest

from metric_learn_client.bench.levels import (
    CallRecord,
    Window,
    arrivals,
    is_stable,
    parse_range,
    percentile_of,
    summarise,
)


def window(latencies, images=1, seconds=1.0, failed=0):
    records = [CallRecord(latency, images, False) for latency in latencies]
    return Window(seconds, tuple(records + [CallRecord(9.0, 0, True)] * failed))


def test_percentiles_are_values_that_occurred():
    ordered = [float(n) for n in range(1, 101)]
    assert [percentile_of(ordered, p) for p in (50, 90, 95, 99)] == [50.0, 90.0, 95.0, 99.0]
    assert percentile_of([7.0], 50) == percentile_of([7.0], 99) == 7.0
    assert percentile_of([1.0, 2.0, 3.0], 50) == 2.0


def test_a_level_is_stable_when_its_last_three_windows_agree():
    quiet, slower, fewer = window([0.1] * 100), window([0.13] * 100), window([0.1] * 70)
    assert is_stable([slower, fewer, quiet, quiet, quiet], 10, None)
    assert not is_stable([quiet, quiet], 10, None)
    assert not is_stable([quiet, quiet, slower], 10, None)
    assert not is_stable([quiet, quiet, fewer], 10, None)
    assert is_stable([quiet, quiet, slower], 25, None)
    assert not is_stable([window([])] * 3, 50, None)


def test_the_latency_compared_is_the_one_asked_for():
    tail = window([0.1] * 98 + [5.0] * 2)
    assert is_stable([window([0.1] * 100), window([0.1] * 100), tail], 10, 50)
    assert not is_stable([window([0.1] * 100), window([0.1] * 100), tail], 10, 99)


def test_a_level_is_the_mean_of_its_last_three_windows_and_failed_calls_are_not_images():
    level = summarise(2, [window([9.0]), *[window([0.1] * 90 + [0.3] * 10, images=4, failed=5)] * 3], 90)
    assert (level.images_per_s, level.calls_per_s, level.calls, level.failed) == (400.0, 100.0, 300, 15)
    assert level.percentiles_ms == (100.0, 100.0, 300.0, 300.0) and level.watched_ms == 100.0
    assert level.avg_ms == pytest.approx(120.0)
    assert math.isnan(window([], failed=3).latency_s(None))


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process():
    source = arrivals(100.0, "poisson", seed=1)
    gaps = np.diff([next(source) for _ in range(20_000)])
    assert gaps.mean() == pytest.approx(0.01, rel=0.03) and gaps.std() == pytest.approx(0.01, rel=0.05)
    again = arrivals(100.0, "poisson", seed=1)
    assert next(again) != next(arrivals(100.0, "poisson", seed=2))
    constant = arrivals(50.0, "constant", seed=0)
    assert [next(constant) for _ in range(3)] == pytest.approx([0.02, 0.04, 0.06])


@pytest.mark.parametrize(
    ("text", "levels"),
    [("4", [4]), ("1:3", [1, 2, 3]), ("1:32:8", [1, 9, 17, 25]), ("0.5:2:0.5", [0.5, 1, 1.5, 2]), ("2:2", [2])],
)
def test_a_range_includes_its_end(text, levels):
    assert parse_range(text) == levels


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "3:1", "1:2:0", "1:2:3:4", "nan", "1e9"])
def test_a_wrong_range_is_named(text):
    with pytest.raises(ValueError, match=r"start:end|below its start"):
        parse_range(text)

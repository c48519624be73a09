"""Evaluation by 8-bit integers: sums as NumPy's, bounds that hold, the same metrics to the last bit without it."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from metric_learn_client import int8_kernel as module
from metric_learn_client.int8_kernel import FIELDS, PANEL, Margins, int8_kernel
from metric_learn_client.retrieval import counting, quantised
from metric_learn_client.retrieval.bounds import mean_unit_row
from metric_learn_client.retrieval.metrics import retrieval_metrics
from metric_learn_client.retrieval.similarity import rows_of, similarity_of_pairs
from metric_learn_client.retrieval.work import Work

compiled = pytest.mark.skipif(int8_kernel() is None, reason="no compiled kernel for this processor")


def test_the_kernel_runs_where_a_compiler_and_the_instructions_are():
    cpu = Path("/proc/cpuinfo")
    if shutil.which("cc") and cpu.exists() and "avx512_vnni" in cpu.read_text():
        assert int8_kernel() is not None or os.environ.get("METRIC_LEARN_INT8") == "off"


def side_of(values, best):
    """A set whose similarities are the products of its integers; best: its thresholds as queries."""
    count, dim = values.shape
    padded = -(-count // PANEL) * PANEL
    side = {name: np.zeros(padded, kind) for name, kind in FIELDS.items()}
    side["values"] = np.zeros((padded, dim), np.int8)
    side["values"][:count] = values
    side["packed"] = int8_kernel().pack(side["values"], count)
    side["sum"][:count] = values.sum(1, dtype=np.int32)
    side["scale"][:] = side["inverse_norms"] = np.ones(padded)
    side["rows"] = values.astype(np.float32)
    side["low_best"][:] = side["high_best"][:] = side["low_cut"][:] = np.inf
    side["low_best"][:count] = side["high_best"][:count] = best
    return side


@compiled
@pytest.mark.parametrize("kind", ["noise", "most", "least"])
@pytest.mark.parametrize(
    ("rows", "columns", "dim"), [(1, 1, 4), (7, 65, 64), (64, 64, 132), (50, 200, 2048), (13, 130, 32768)]
)
def test_counts_and_open_pairs_are_those_of_numpys_integers(kind, rows, columns, dim):
    rng = np.random.default_rng(rows)
    some = {"noise": None, "most": 127, "least": -127}[kind]
    left = rng.integers(-127, 128, (rows, dim)).astype(np.int8) if some is None else np.full((rows, dim), some, np.int8)
    right = rng.integers(-127, 128, (columns, dim)).astype(np.int8)
    right[0] = 127
    wanted = left.astype(np.int64) @ right.astype(np.int64).T
    best_of_rows = wanted[np.arange(rows), rng.integers(0, columns, rows)].astype(np.float32)
    best_of_columns = wanted[rng.integers(0, rows, columns), np.arange(columns)].astype(np.float32)
    sides = side_of(left, best_of_rows), side_of(right, best_of_columns)
    sides[0]["label"][:], sides[0]["own"][:] = 1 + np.arange(len(sides[0]["label"])), columns - 1
    other = np.ones((rows, columns), bool)
    other[:, -1] = False
    made = int8_kernel().compare(*sides, (0, rows), (0, columns), Margins(0.0, 0.0, 0.0), both=True)
    assert (made.ahead_rows == ((wanted > best_of_rows[:, None]) & other).sum(1)).all()
    assert (made.ahead_columns == ((wanted > best_of_columns) & other).sum(0)).all()
    open_pairs = {(int(n), int(m)) for n, m in np.argwhere((wanted == best_of_rows[:, None]) & other)}
    turned = {(int(m), int(n)) for n, m in np.argwhere((wanted == best_of_columns) & other)}
    assert sorted(made.open[["query", "image"]].tolist()) == sorted([*open_pairs, *turned])


@compiled
def test_a_query_keeps_as_many_reached_similarities_as_it_wants_and_its_cut_is_the_least():
    rng = np.random.default_rng(1)
    values = rng.integers(-127, 128, (300, 64)).astype(np.int8)
    product = values.astype(np.int64) @ values.astype(np.int64).T
    side = side_of(values, np.inf)
    side["label"][:], side["own"][:] = np.arange(len(side["label"])), -1
    wanted = rng.integers(1, 9, 300)
    side["start"] = np.concatenate([[0], np.cumsum(wanted)])
    side["top"] = np.full(wanted.sum(), -(2**24), np.float32)
    side["low_cut"][:300] = -(2**24)
    made = int8_kernel().compare(side, side, (0, 300), (0, 300), Margins(0.0, 0.0, 0.0), both=False)
    np.fill_diagonal(product, -(2**24))
    least = -np.sort(-product, axis=1)[np.arange(300), wanted - 1]
    assert (side["low_cut"][:300] == np.nextafter(least.astype(np.float32), np.float32(-np.inf))).all()
    reached = set(made.open[["query", "image"]].tolist())
    assert reached >= {(int(n), int(m)) for n, m in np.argwhere(product >= least[:, None])}
    assert len(reached) == len(made.open) < 300 * 299 / 3  # each once, and few of all


def sets():
    rng = np.random.default_rng(7)
    labels = np.arange(420) % 70
    centres = rng.standard_normal((70, 96))
    plain = centres[labels] + 1.3 * rng.standard_normal((420, 96))
    heavy = plain * rng.standard_t(1.5, plain.shape)
    twice = np.concatenate([plain[:210], plain[:210]])
    ties = rng.integers(-1, 2, (420, 5)) + 2.0
    alike = plain * 1e-4 + rng.standard_normal(96) * 5
    scales = plain * 10.0 ** rng.integers(-9, 9, (420, 1))
    single = plain + 1e3 * np.eye(96)[3]
    return {
        "plain": plain,
        "heavy tails": heavy,
        "every row twice": twice,
        "ties": ties,
        "alike": alike,
        "rows of many lengths": scales,
        "one large dimension": single,
        "too small for float32": plain * 1e-30,
        "one dimension": 1.0 + rng.random((420, 1)),
        "of no use": np.ones((420, 33)),
    }, labels


SETS, LABELS = sets()


@compiled
@pytest.mark.parametrize("name", SETS)
def test_no_similarity_is_outside_the_bounds_of_its_integers(name):
    rows = rows_of(SETS[name])
    mean = mean_unit_row(rows)
    with ThreadPoolExecutor(2) as pool:
        made = quantised.quantise(int8_kernel(), rows, mean, LABELS, np.arange(rows.count), pool)
    margins = quantised.margins_of(made, made, mean)
    part = {key: array[: rows.count].astype(np.float64) for key, array in made.arrays.items() if array.ndim == 1}
    steps = made.arrays["values"][: rows.count].astype(np.float64) * part["scale"][:, None]
    middle = steps @ steps.T + part["bias"][:, None] + part["bias"] + margins.offset
    width = np.outer(part["norm"], part["error"]) + np.outer(part["error"], part["reach"]) + margins.slack
    first, second = np.divmod(np.arange(rows.count**2), rows.count)
    exact = similarity_of_pairs(rows, first, rows, second).reshape(middle.shape)
    assert (np.abs(exact - middle) <= width).all()
    if name in ("plain", "heavy tails", "one large dimension"):
        assert np.median(width) < 0.03 * np.median(part["norm"]) ** 2  # tight enough to be of use


@compiled
@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("name", SETS)
def test_with_and_without_the_kernel_every_value_is_the_same(name, forced, monkeypatch):
    rows, used = SETS[name].astype(np.float32), []
    compare = quantised.Comparison.compare
    monkeypatch.setattr(quantised.Comparison, "compare", lambda self, tile: used.append(tile) or compare(self, tile))
    if forced:
        monkeypatch.setattr(quantised.Comparison, "pays", lambda self: True)
    cuts = [(1, 64, 64), (2, 70, 64), (3, 128, 64), (2, None, 64), (2, 64, 4)]
    for split in (None, 150):
        arguments = (rows, LABELS) if split is None else (rows[:split], LABELS[:split], rows[split:], LABELS[split:])
        with monkeypatch.context() as without:
            without.setattr(counting, "int8_kernel", lambda: None)
            expected = retrieval_metrics(*arguments)
        for threads, block, many in cuts:
            made = retrieval_metrics(*arguments, work=Work(threads=threads, block_rows=block, many=many))
            assert made.as_dict() == expected.as_dict()
            for field in ("first_rank", "hits", "average_precision"):
                assert (getattr(made.ranking, field) == getattr(expected.ranking, field)).all()
    assert bool(used) or not forced or name == "too small for float32"


@compiled
def test_queries_of_which_only_some_are_few_are_compared_by_themselves(monkeypatch):
    rows = SETS["plain"].astype(np.float32)
    labels = np.where(np.arange(420) < 300, 1000, LABELS)
    spans = []
    compare = quantised.Comparison.compare
    monkeypatch.setattr(quantised.Comparison, "pays", lambda self: True)
    monkeypatch.setattr(quantised.Comparison, "compare", lambda self, tile: spans.append(tile) or compare(self, tile))
    made = retrieval_metrics(rows, labels)
    assert max(span[0][1] for span in spans) <= 120 and not any(both for _, _, both in spans)
    monkeypatch.setattr(counting, "int8_kernel", lambda: None)
    assert made.as_dict() == retrieval_metrics(rows, labels).as_dict()


@compiled
def test_more_open_pairs_than_the_buffer_holds_change_nothing(monkeypatch):
    monkeypatch.setattr(quantised.Comparison, "pays", lambda self: True)
    expected = retrieval_metrics(SETS["ties"], LABELS)
    monkeypatch.setattr(module, "BUFFER", 2 * module.ROWS * PANEL)
    assert retrieval_metrics(SETS["ties"], LABELS).as_dict() == expected.as_dict()


@compiled
def test_a_kernel_that_adds_wrongly_is_left_out(monkeypatch):
    kernel = int8_kernel()
    pack = module.Int8Kernel.pack
    monkeypatch.setattr(module.Int8Kernel, "pack", lambda self, values, count: pack(self, values, count) ^ np.uint8(1))
    assert not module._agrees(kernel)
    monkeypatch.undo()
    assert module._agrees(kernel)


def test_a_file_that_is_no_library_is_left_out(tmp_path, monkeypatch):
    for content in (None, b"", b"\x7fELF of another machine"):
        file = tmp_path / "_int8.so"
        if content is not None:
            file.write_bytes(content)
        monkeypatch.setattr(module, "LIBRARY", file)
        assert int8_kernel.__wrapped__() is None


def test_it_can_be_switched_off():
    program = "from metric_learn_client.int8_kernel import int8_kernel; assert int8_kernel() is None"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "METRIC_LEARN_INT8": "off"}, check=True)

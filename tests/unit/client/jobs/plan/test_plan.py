"""Shards are cut alike every time; a shuffle is a permutation that its seed decides."""

import pyarrow as pa
import pytest

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.input_kinds import open_input
from metric_learn_client.jobs.inputs.input_rows import one_batch
from metric_learn_client.jobs.options import InputSpec, RunOptions
from metric_learn_client.jobs.plan.plan import build, cut, load


def listed(tmp_path, count, **options):
    lines = tmp_path / "list.txt"
    lines.write_text("".join(f"{index}.jpg\n" for index in range(count)))
    return InputSpec((str(lines),), **options)


def planned(plan):
    return [path for shard in range(plan.shards) for path in plan.read(shard).column(0).to_pylist()]


def test_shards_hold_every_row_once_in_order(tmp_path):
    spec = listed(tmp_path, 25)
    plan = build(open_input(spec), spec, 10, tmp_path / "plan")
    assert [plan.span(shard) for shard in range(plan.shards)] == [(0, 10), (10, 10), (20, 5)]
    assert planned(load(tmp_path / "plan", 0, 1)) == [f"{index}.jpg" for index in range(25)]


def test_a_list_that_is_still_written_while_it_is_listed_is_refused_and_planned_once_it_is_whole(tmp_path):
    spec = listed(tmp_path, 25)
    source = open_input(spec)
    batches = source.batches

    def growing():
        yield from batches()
        with open(spec.inputs[0], "a") as file:
            file.write("late.jpg\n")

    source.batches = growing
    with pytest.raises(InputError, match=r"list.txt changed while it was listed; run the same command once nothing"):
        build(source, spec, 10, tmp_path / "plan")
    assert load(tmp_path / "plan", 0, 1) is None
    assert build(open_input(spec), spec, 10, tmp_path / "plan").rows == 26


@pytest.mark.parametrize("sizes", [[1] * 25, [25], [3, 0, 20, 2]])
def test_cutting_does_not_depend_on_how_rows_arrive(sizes):
    batches, first = [], 0
    for size in sizes:
        batches.append(pa.RecordBatch.from_pydict({"n": pa.array(range(first, first + size), pa.int64())}))
        first += size
    shards = [batch.column(0).to_pylist() for batch in cut(batches, 10)]
    assert shards == [list(range(10)), list(range(10, 20)), list(range(20, 25))]


class Overfull:
    """A table as Arrow has one whose column is over 2 GiB: what is combined is still in two pieces."""

    def __init__(self, table):
        self.num_rows = table.num_rows
        self._table = table

    def combine_chunks(self):
        return pa.concat_tables([self._table.slice(0, 1), self._table.slice(1)])


def test_a_shard_that_does_not_fit_one_batch_is_refused_with_the_remedy_and_loses_no_row():
    table = pa.table({"n": [1, 2, 3]})
    assert one_batch(pa.concat_tables([table, table])).column(0).to_pylist() == [1, 2, 3, 1, 2, 3]
    with pytest.raises(InputError, match="3 rows of one shard have more than 2 GiB in one column: lower --shard-size"):
        one_batch(Overfull(table))


def test_a_shuffle_is_a_permutation_and_its_seed_decides_it(tmp_path):
    def order(seed, name):
        spec = listed(tmp_path, 3000, shuffle_seed=seed)
        return planned(build(open_input(spec), spec, 700, tmp_path / name))

    one, again, other = order(1, "a"), order(1, "b"), order(2, "c")
    plain = [f"{index}.jpg" for index in range(3000)]
    assert one == again and one != other and one != plain and sorted(one) == sorted(plain)
    # neighbours are not neighbours any more: a shuffle within chunks would fail here
    places = {path: place for place, path in enumerate(one)}
    near = sum(abs(places[f"{i}.jpg"] - places[f"{i + 1}.jpg"]) < 30 for i in range(2999))
    assert near < 200


def test_a_limit_takes_the_first_rows_and_of_a_shuffle_the_first_shuffled(tmp_path):
    spec = listed(tmp_path, 3000, limit=5)
    assert planned(build(open_input(spec), spec, 2, tmp_path / "a")) == [f"{index}.jpg" for index in range(5)]
    whole, few = listed(tmp_path, 3000, shuffle_seed=3), listed(tmp_path, 3000, shuffle_seed=3, limit=7)
    everything = planned(build(open_input(whole), whole, 100, tmp_path / "b"))
    assert planned(build(open_input(few), few, 100, tmp_path / "c")) == everything[:7]


def test_an_extension_has_shards_of_its_own_with_the_new_rows_only(tmp_path):
    spec = listed(tmp_path, 25)
    before = build(open_input(spec), spec, 10, tmp_path / "plan")
    old = planned(before)
    spec = listed(tmp_path, 40)
    plan = build(open_input(spec), spec, 10, tmp_path / "plan", before=before)
    assert planned(plan) == old + [f"{index}.jpg" for index in range(25, 40)]
    assert [plan.span(shard) for shard in range(plan.shards)] == [(0, 10), (10, 10), (20, 5), (25, 10), (35, 5)]
    same = build(open_input(spec), spec, 10, tmp_path / "plan", before=plan)
    assert same.extents == plan.extents


def test_too_many_shards_are_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("metric_learn_client.jobs.plan.plan.MAX_SHARDS", 3)
    spec = listed(tmp_path, 25)
    with pytest.raises(InputError, match="13 shards; there can be 3: raise --shard-size above 2"):
        build(open_input(spec), spec, 2, tmp_path / "plan")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"engine": "spark"}, "engine='spark': must be local, processes or ray"),
        ({"workers": 0}, "workers=0: must be a whole number, 1 or more"),
        ({"shard_index": 2, "num_shards": 2}, "shard_index=2: with num_shards=2 it is 0 to 1"),
        ({"max_outage_s": float("nan")}, "max_outage_s=nan"),
    ],
)
def test_options_that_cannot_be_are_refused_with_their_value(options, text):
    with pytest.raises(ValueError, match=text):
        RunOptions(**options)

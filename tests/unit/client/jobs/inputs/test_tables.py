"""A table's columns are kept or the table is refused in one line; its pictures are read whatever their type."""

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.input_kinds import open_input
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.jobs.plan.plan import build
from metric_learn_client.jobs.work.reader import Reader

CATEGORICAL = Path(__file__).parents[4] / "golden" / "inputs" / "categorical_parquet"


def table(path, columns, names=None, **options):
    """columns: {name: values}, or a list of arrays with `names`, which may repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = pa.table(columns) if names is None else pa.Table.from_arrays(list(map(pa.array, columns)), names=names)
    pq.write_table(made, path, **options)
    return path


def rows_of(*names, **options):
    source = open_input(InputSpec(tuple(map(str, names)), **options))
    found = pa.Table.from_batches(list(source.batches()))
    return found.drop_columns([name for name in found.column_names if name.startswith("plan:")])


def images_of(folder, *names, **options):
    spec = InputSpec(tuple(map(str, names)), **options)
    plan = build(open_input(spec), spec, 1000, folder / "plan")
    reader, rows = Reader(plan, 1 << 20), plan.read(0)
    images = reader.prepare(rows) or reader.read(rows)
    reader.close()
    return [getattr(image, "code", image) for image in images]


def test_categories_that_differ_from_file_to_file_are_kept_as_text(tmp_path):
    shutil.copytree(CATEGORICAL, tmp_path / "t")
    rows = rows_of(tmp_path / "t", input_format="parquet")
    assert rows["label"].to_pylist() == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    assert rows.schema.field("label").type == pa.string()


def test_categories_that_differ_within_a_file_go_into_one_shard(tmp_path):
    frames = [pd.DataFrame({"path": [f"{c}.jpg"], "c": pd.Categorical([c])}) for c in "abc"]
    with pq.ParquetWriter(tmp_path / "t.parquet", pa.Table.from_pandas(frames[0]).schema) as writer:
        for frame in frames:
            writer.write_table(pa.Table.from_pandas(frame))
    spec = InputSpec((str(tmp_path / "t.parquet"),))
    assert build(open_input(spec), spec, 10, tmp_path / "plan").read(0).column("c").to_pylist() == ["a", "b", "c"]


DICTIONARY = pa.dictionary(pa.int8(), pa.string())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string_view(), ["x", None]),
        (pa.large_string(), ["x", None]),
        (DICTIONARY, ["x", None]),
        (pa.binary_view(), [b"x", None]),
        (pa.list_(DICTIONARY), [["x", "y"], None]),
        (pa.large_list(pa.large_string()), [["x"], []]),
        (pa.struct([("a", DICTIONARY), ("b", pa.int8())]), [{"a": "x", "b": 1}, None]),
        (pa.map_(pa.string(), DICTIONARY), [[("k", "x")], None]),
        (pa.dictionary(pa.int32(), pa.int64()), [7, None]),
        (pa.null(), [None, None]),
        (pa.list_(pa.float32(), 2), [[1.0, 2.0], None]),
        (pa.timestamp("us", "UTC"), [None, None]),
        (pa.decimal128(9, 2), [None, None]),
    ],
    ids=str,
)
def test_a_column_of_any_type_is_kept_and_can_be_written_again(tmp_path, kind, values):
    made = pa.table({"path": ["a.jpg", "b.jpg"], "jpg": [b"1", b"2"], "c": pa.array(values, kind)})
    pq.write_table(made, tmp_path / "t.parquet")
    kept = rows_of(tmp_path / "t.parquet", bytes_column="jpg")
    assert kept["c"].to_pylist() == values
    pq.write_table(kept, tmp_path / "again.parquet")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), DICTIONARY], ids=str)
@pytest.mark.parametrize("other", [pa.string(), pa.large_string(), pa.string_view(), pa.null()], ids=str)
def test_files_may_store_the_same_text_in_different_ways(tmp_path, kind, other):
    one = table(tmp_path / "1.parquet", {"path": pa.array(["a.jpg"], kind), "c": pa.array(["x"], kind)})
    value = None if other == pa.null() else "y"
    two = table(tmp_path / "2.parquet", {"path": ["b.jpg"], "c": pa.array([value], other)})
    assert rows_of(one, two).to_pylist() == [{"image_path": "a.jpg", "c": "x"}, {"image_path": "b.jpg", "c": value}]


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.binary())], ids=str
)
def test_pictures_are_read_from_bytes_of_any_type(tmp_path, kind):
    name = table(tmp_path / "t.parquet", {"picture": pa.array([b"1", None, b"3"], kind)})
    assert images_of(tmp_path, name) == [b"1", b"", b"3"]


def test_pictures_of_one_size_are_read_where_the_column_is_named(tmp_path):
    name = table(tmp_path / "t.parquet", {"hash": pa.array([b"1", b"2"], pa.binary(1)), "path": ["a.jpg", "b.jpg"]})
    assert images_of(tmp_path, name, bytes_column="hash") == [b"1", b"2"]
    assert rows_of(name)["hash"].to_pylist() == [b"1", b"2"]  # not taken for pictures without being asked


def test_hugging_face_tables_of_several_splits_have_paths_of_their_own(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split in ("train", "test"):
        values = [{"bytes": split.encode(), "path": "0.png"}, {"bytes": None, "path": None}, None]
        table(tmp_path / f"data/{split}-00000-of-00001.parquet", {"image": pa.array(values, kind), "label": [0, 1, 2]})
    (tmp_path / "data/README.md").write_text("card")
    spec = InputSpec((f"{tmp_path}/data",), input_format="parquet")
    plan = build(open_input(spec), spec, 100, tmp_path / "plan")
    paths = plan.read(0).column("image_path").to_pylist()
    tail = "-00000-of-00001.parquet#"
    assert paths == ["0.png", f"test{tail}1", f"test{tail}2", "0.png#2", f"train{tail}1", f"train{tail}2"]
    assert images_of(tmp_path, tmp_path / "data", input_format="parquet") == [
        b"test",
        *("E_EMPTY", "E_EMPTY"),
        b"train",
        *("E_EMPTY", "E_EMPTY"),
    ]
    assert list(plan.skipped) == [".md"]


def test_partitions_are_columns_with_their_escapes_undone(tmp_path):
    for folder in ("label=a%2Fb c/year=2024", "label=__HIVE_DEFAULT_PARTITION__/year=2025", "x"):
        table(tmp_path / "t" / folder / "part-0.parquet", {"path": [f"{folder}.jpg"]})
    rows = rows_of(tmp_path / "t", input_format="parquet").to_pylist()
    assert [(row["label"], row["year"]) for row in rows] == [(None, "2025"), ("a/b c", "2024"), (None, None)]
    few = rows_of(tmp_path / "t", input_format="parquet", columns=("year",))
    assert few.column_names == ["image_path", "year"]
    assert rows_of(tmp_path / "t/label=a%2Fb c/year=2024/*.parquet")["label"].to_pylist() == ["a/b c"]


def test_a_column_of_the_table_goes_before_a_partition_of_its_name(tmp_path):
    name = table(tmp_path / "label=folder/t.parquet", {"path": ["a.jpg"], "label": ["column"]})
    assert rows_of(name)["label"].to_pylist() == ["column"]


def test_what_writers_of_tables_leave_beside_them_is_counted_and_not_read(tmp_path):
    table(tmp_path / "t/part-0.parquet", {"path": ["a.jpg"]})
    table(tmp_path / "t/UPPER.PARQUET", {"path": ["b.jpg"]})
    for name in ("_SUCCESS", "_metadata", "._part-0.parquet", ".part-0.parquet.crc", "_temporary/0/part-1.parquet"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_bytes(b"no table")
    (tmp_path / "t/part-0.csv").write_bytes(b"no table")
    source = open_input(InputSpec((f"{tmp_path}/t",), input_format="parquet"))
    assert sum(batch.num_rows for batch in source.batches()) == 2
    counts = {kind: each["count"] for kind, each in source.skipped.as_json().items()}
    assert counts == {"_*": 3, "._*": 1, ".*": 1, ".csv": 1}


def test_tables_without_rows_or_row_groups_are_no_rows(tmp_path):
    empty = table(tmp_path / "0.parquet", {"path": pa.array([], pa.string()), "n": pa.array([], pa.int64())})
    full = table(tmp_path / "1.parquet", {"path": ["a.jpg"], "n": [1]})
    assert pq.ParquetFile(empty).num_row_groups in (0, 1)
    assert rows_of(empty, full).num_rows == 1
    spec = InputSpec((str(empty),))
    with pytest.raises(InputError, match="the input has no images"):
        build(open_input(spec), spec, 10, tmp_path / "plan")


def test_two_columns_of_one_name_are_refused_unless_others_are_kept(tmp_path):
    name = table(tmp_path / "t.parquet", [["a.jpg"], [1], [2], [3]], names=["path", "n", "n", "m"])
    with pytest.raises(InputError, match=r"t.parquet: two columns are called 'n': rename one, or keep others with --c"):
        rows_of(name)
    assert rows_of(name, columns=("m",)).to_pylist() == [{"image_path": "a.jpg", "m": 3}]
    name = table(tmp_path / "u.parquet", [["a.jpg"], ["b.jpg"]], names=["path", "path"])
    with pytest.raises(InputError, match="two columns are called 'path'"):
        rows_of(name)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"n": [1]}, "column 'path' is missing"),
        ({"path": ["b.jpg"]}, "column 'n' is missing"),
        ({"path": ["b.jpg"], "n": ["1"]}, "column 'n' is string; in .*1.parquet it is int64"),
        ({"path": ["b.jpg"], "n": [1], "more": [1]}, "1.parquet has no column 'more'; say with --columns"),
    ],
    ids=["path", "missing", "type", "more"],
)
def test_a_table_that_is_not_like_the_first_is_refused_with_the_column(tmp_path, other, text):
    one = table(tmp_path / "1.parquet", {"path": ["a.jpg"], "n": [1]})
    two = table(tmp_path / "2.parquet", other)
    with pytest.raises(InputError, match=f"2.parquet: .*{text}"):
        rows_of(one, two)


def test_a_later_table_without_the_pictures_is_refused(tmp_path):
    one = table(tmp_path / "1.parquet", {"jpg": [b"1"], "n": [1]})
    two = table(tmp_path / "2.parquet", {"png": [b"1"], "n": [1]})
    with pytest.raises(InputError, match=r"2.parquet: column 'jpg' is missing"):
        rows_of(one, two)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_the_same_table_has_the_same_column_of_paths_in_every_format(tmp_path, suffix):
    frame = pd.DataFrame({"url": ["remote.jpg"], "image": ["local.jpg"], "key": ["k"]})
    name = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(name)
    else:
        frame.to_csv(name, index=False, sep="," if suffix == "csv" else "\t")
    row = rows_of(name).select(["image_path", "url", "key"]).to_pylist()[0]
    assert row == {"image_path": "local.jpg", "url": "remote.jpg", "key": "k"}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_paths_belong_to_the_folder_of_their_table(tmp_path, suffix):
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/a.jpg").write_bytes(b"A")
    frame = pd.DataFrame({"path": ["sub/a.jpg"]})
    name = tmp_path / f"in/t.{suffix}"
    frame.to_parquet(name) if suffix == "parquet" else frame.to_csv(name, index=False)
    assert images_of(tmp_path, name) == [b"A"]


def test_columns_whose_names_have_dots_are_not_fields_of_others(tmp_path):
    name = table(tmp_path / "t.parquet", {"a.path": ["a.jpg"], "a.n": [1], "a": [{"n": 2, "path": "b.jpg"}], "z": [9]})
    rows = rows_of(name, path_column="a.path").to_pylist()
    assert rows == [{"image_path": "a.jpg", "a.n": 1, "a": {"n": 2, "path": "b.jpg"}, "z": 9}]


def test_lists_of_pictures_are_refused_with_the_columns(tmp_path):
    name = table(tmp_path / "t.parquet", {"images": [[{"bytes": b"1", "path": "a"}]]})
    with pytest.raises(InputError, match="no column of paths or images among images: say --path-column"):
        rows_of(name)


def test_a_table_that_two_names_stand_for_is_read_once(tmp_path):
    table(tmp_path / "t/label=a/part-0.parquet", {"jpg": [b"1"]})
    rows = rows_of(f"{tmp_path}/t", f"{tmp_path}//t/label=a", input_format="parquet").to_pylist()
    assert rows == [{"image_path": "label=a/part-0.parquet#0", "label": "a"}]


@pytest.mark.parametrize("name", ["img.v1", "a.b.c"])
def test_pictures_are_read_from_a_column_whose_name_has_dots(tmp_path, name):
    structs = [{"bytes": b"1", "path": "a.jpg"}, {"bytes": b"2", "path": "b.jpg"}]
    one, two = tmp_path / "structs.parquet", tmp_path / "bytes.parquet"
    pq.write_table(pa.table({name: structs, "label": [1, 2]}), one)
    pq.write_table(pa.table({name: [b"1", b"2"], "label": [1, 2]}), two)
    for table in (one, two):
        assert images_of(tmp_path / f"plan of {table.name}", table) == [b"1", b"2"]

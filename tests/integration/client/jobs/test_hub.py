"""Datasets of a Hugging Face hub, and tables as they have them: structs of bytes and path."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client.exit_codes import ExitCode
from metric_learn_client.jobs import embed_dataset, verify
from tests.integration.client.jobs.conftest import Job, make_images
from tests.integration.client.jobs.hub import REPOSITORY, Hub
from tests.integration.client.jobs.test_sync import rows_of

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(folder, name, images, labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    labels = list(range(len(images))) if labels is None else labels
    pq.write_table(pa.table({"image": pa.array(images, IMAGE), "label": labels}), folder / name, row_group_size=2)


def picture(number):
    return {"bytes": b"picture %d" % number, "path": f"{number}.jpg"}


def test_a_dataset_of_the_hub_is_embedded_as_from_a_folder(tmp_path, fake, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="hf:// is read with huggingface_hub, which is not installed here")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "hub"
    write(folder / "data", "train-00000-of-00002.parquet", [picture(number) for number in range(5)])
    write(folder / "data", "train-00001-of-00002.parquet", [picture(number) for number in range(5, 9)])
    (folder / "README.md").write_text("a dataset")
    embed_dataset(folder / "data", tmp_path / "local", endpoint=fake.endpoint, input_format="parquet", shard_size=4)
    with Hub(folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for index, name in enumerate(("data/*.parquet", "data/train-0000{0..1}-of-00002.parquet")):
            job = Job(f"hf://datasets/{REPOSITORY}/{name}", tmp_path / f"out{index}", fake.endpoint, "--shard-size", 4)
            code, _events, err = job.run()
            assert code == ExitCode.DONE, err
            assert rows_of(tmp_path / f"out{index}") == rows_of(tmp_path / "local")
            sent = fake.images
            assert job.run()[0] == ExitCode.DONE and fake.images == sent
        code, _, err = Job(f"hf://datasets/{REPOSITORY}/none/*.parquet", tmp_path / "none", fake.endpoint).run()
    assert code == ExitCode.USAGE and len(err.splitlines()) == 1, err


def test_a_dataset_of_plain_files_is_a_folder(tmp_path, fake, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="hf:// is read with huggingface_hub, which is not installed here")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    make_images(tmp_path / "hub" / "images", 5)
    with Hub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        code, events, err = Job(f"hf://datasets/{REPOSITORY}/images", tmp_path / "out", fake.endpoint).run()
    assert code == ExitCode.DONE, err
    assert events[-1]["succeeded"] == 5


def test_rows_without_bytes_are_read_beside_their_table_or_fail_with_the_reason(tmp_path, fake):
    folder = tmp_path / "in"
    rows = [
        {"bytes": b"in the table", "path": "a.jpg"},
        {"bytes": None, "path": "beside/b.jpg"},
        {"bytes": None, "path": "missing.jpg"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"", "path": "a.jpg"},
    ]
    write(folder, "t.parquet", rows)
    (folder / "beside").mkdir()
    (folder / "beside" / "b.jpg").write_bytes(b"beside the table")
    summary = embed_dataset(folder / "t.parquet", tmp_path / "out", endpoint=fake.endpoint)
    assert (summary.rows, summary.succeeded, summary.failed) == (6, 2, 4)
    failures = pq.read_table(tmp_path / "out/failures").to_pylist()
    assert [(each["row"], each["code"]) for each in failures] == [
        (2, "E_NOT_FOUND"),
        (3, "E_EMPTY"),
        (4, "E_EMPTY"),
        (5, "E_EMPTY"),
    ]
    assert failures[0]["message"] == "the row has no bytes, and beside the table: no such file"
    assert failures[1]["message"] == failures[2]["message"] == "the row has neither bytes nor a path"
    assert verify(tmp_path / "out", with_input=True).problems == ()


def test_a_table_from_elsewhere_names_no_file_of_this_machine(tmp_path, fake, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="hf:// is read with huggingface_hub, which is not installed here")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    paths = ["beside.jpg", str(secret), f"../{secret.name}", f"file://{secret}", "missing.jpg"]
    write(tmp_path / "hub", "t.parquet", [{"bytes": None, "path": path} for path in paths])
    (tmp_path / "hub" / "beside.jpg").write_bytes(b"beside")
    with Hub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        code, events, err = Job(f"hf://datasets/{REPOSITORY}/t.parquet", tmp_path / "out", fake.endpoint).run()
    assert code == ExitCode.SOME_FAILED, err
    assert (events[-1]["succeeded"], events[-1]["codes"]) == (1, {"E_READ": 3, "E_NOT_FOUND": 1})

"""What a job leaves: every row once, in formats that others read, with the identity of model and input."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.jobs import embed_dataset, verify
from metric_learn_client.testing import fake_embeddings
from tests.integration.client.commands import run
from tests.integration.client.jobs.conftest import Job, data, make_images


def columns_of(folder):
    return pq.read_table(folder, partitioning=None)


def test_each_row_is_once_in_embeddings_or_failures_and_belongs_to_its_image(tmp_path, fake):
    images = make_images(tmp_path / "in", 95)
    (images / "00007.jpg").write_bytes(b"corrupt")
    (images / "00050.jpg").write_bytes(b"")
    summary = embed_dataset(images, tmp_path / "out", endpoint=fake.endpoint, shard_size=40, batch_size=7)
    assert (summary.succeeded, summary.failed, summary.codes) == (93, 2, {"E_DECODE": 1, "E_EMPTY": 1})
    arrays = [np.load(path) for path in sorted((tmp_path / "out/img_emb").iterdir())]
    assert [array.shape for array in arrays] == [(39, 2048), (39, 2048), (15, 2048)]
    metadata = columns_of(tmp_path / "out/metadata").to_pandas()
    failures = columns_of(tmp_path / "out/failures").to_pandas()
    assert sorted([*metadata["row"], *failures["row"]]) == list(range(95))
    assert list(failures["code"]) == ["E_DECODE", "E_EMPTY"]
    assert [os.path.basename(path) for path in failures["image_path"]] == ["00007.jpg", "00050.jpg"]
    expected = fake_embeddings([Path(path).read_bytes() for path in metadata["image_path"]])
    np.testing.assert_array_equal(np.concatenate(arrays), expected)
    assert not verify(tmp_path / "out").problems


def test_parquet_opens_in_pandas_with_a_fixed_size_list_and_its_identity(tmp_path, fake):
    images = make_images(tmp_path / "in", 5)
    embed_dataset(images, tmp_path / "out", endpoint=fake.endpoint, output_format="parquet", embedding_column="vector")
    name = tmp_path / "out/embeddings/embeddings_00000.parquet"
    schema = pq.read_schema(name)
    assert schema.field("vector").type == pa.list_(pa.float32(), 2048)
    assert schema.metadata[b"metric_learn.fingerprint"].decode() == fake.fingerprint
    assert schema.metadata[b"metric_learn.version"] == b"1"
    job = json.loads((tmp_path / "out/job.json").read_text())
    assert schema.metadata[b"metric_learn.input_sha256"].decode() == job["input"]["sha256"]
    frame = pd.read_parquet(tmp_path / "out/embeddings")
    np.testing.assert_array_equal(np.stack(frame["vector"]), fake_embeddings([b"image %d" % i for i in range(5)]))
    assert not verify(tmp_path / "out").problems


@pytest.mark.parametrize("output_format", ["npy", "parquet"])
def test_float16_files_hold_the_rounded_embeddings(tmp_path, fake, output_format):
    images = make_images(tmp_path / "in", 5)
    embed_dataset(images, tmp_path / "out", endpoint=fake.endpoint, output_format=output_format, dtype="float16")
    if output_format == "npy":
        found = np.load(tmp_path / "out/img_emb/img_emb_00000.npy")
    else:
        column = columns_of(tmp_path / "out/embeddings")["embedding"].combine_chunks()
        found = column.flatten().to_numpy().reshape(-1, 2048)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, fake_embeddings([b"image %d" % i for i in range(5)]).astype(np.float16))
    assert not verify(tmp_path / "out").problems


def test_a_shard_in_which_all_fail_has_failures_only_and_its_embeddings_once_they_are_repaired(tmp_path, fake):
    images = make_images(tmp_path / "in", 20)
    embed_dataset(images, tmp_path / "good", endpoint=fake.endpoint, shard_size=10)
    for index in range(10):
        (images / f"{index:05d}.jpg").write_bytes(b"corrupt")
    for output_format in ("npy", "parquet"):
        out = tmp_path / output_format
        summary = embed_dataset(images, out, endpoint=fake.endpoint, shard_size=10, output_format=output_format)
        assert (summary.succeeded, summary.failed) == (10, 10)
        assert not verify(out).problems
    # readers pair the files of the two folders and cannot read one without rows
    assert [path.name for path in (tmp_path / "npy/img_emb").iterdir()] == ["img_emb_00001.npy"]
    make_images(images, 20)
    summary = embed_dataset(images, tmp_path / "npy", endpoint=fake.endpoint, shard_size=10, retry_failed=True)
    assert summary.succeeded == 20
    assert data(tmp_path / "npy") == data(tmp_path / "good")


@pytest.mark.parametrize("flags", [[], ["--shuffle-seed", "1"], ["--format", "parquet"]])
def test_an_output_whose_name_is_no_text_is_one_as_any_other(tmp_path, fake, flags):
    images = make_images(tmp_path / "in" / "a", 3).parent
    out = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xff"))
    (images / "a" / "00000.jpg").write_bytes(b"corrupt")
    assert Job(images, out, fake.endpoint, *flags).run()[0] == ExitCode.SOME_FAILED
    (images / "a" / "00001.jpg").unlink()
    make_images(images / "b", 1)
    assert Job(images, out, fake.endpoint, *flags).run("--sync")[0] == ExitCode.SOME_FAILED
    assert run("job", "verify", out, "--complete").returncode == 0
    assert run("evaluate", out, "--label-from-folder").returncode == 0
    assert run("index", "build", out, "--output", tmp_path / "index").returncode == 0
    refused = run("index", "build", out, "--output", out + "-index")
    assert refused.returncode == 2 and "FAISS opens no file whose name is not UTF-8" in refused.stderr


def test_columns_of_a_table_travel_with_their_rows(tmp_path, fake):
    count = 30
    content = [b"corrupt" if index == 4 else b"img %d" % index for index in range(count)]
    table = pa.table({"jpg": content, "label": list(range(count)), "tags": [["a", str(i)] for i in range(count)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=8)
    embed_dataset(tmp_path / "t.parquet", tmp_path / "out", endpoint=fake.endpoint, shard_size=12, batch_size=5)
    metadata = columns_of(tmp_path / "out/metadata")
    assert metadata["label"].to_pylist() == [index for index in range(count) if index != 4]
    assert metadata["tags"].to_pylist()[-1] == ["a", "29"]
    found = np.concatenate([np.load(path) for path in sorted((tmp_path / "out/img_emb").iterdir())])
    np.testing.assert_array_equal(found, fake_embeddings([content[n] for n in metadata["label"].to_pylist()]))


def test_the_command_says_in_json_what_the_files_hold_and_exits_with_3(tmp_path, fake):
    images = make_images(tmp_path / "in", 50)
    (images / "00007.jpg").write_bytes(b"corrupt")
    code, events, err = Job(images, tmp_path / "out", fake.endpoint, "--shard-size", 20).run()
    assert code == ExitCode.SOME_FAILED, err
    assert [event["event"] for event in events if event["event"] != "progress"] == [
        "started",
        *["shard"] * 3,
        "summary",
    ]
    assert sum(event["succeeded"] for event in events if event["event"] == "shard") == events[-1]["succeeded"] == 49
    assert events[-1]["failed"] == 1 and events[-1]["codes"] == {"E_DECODE": 1} and events[-1]["complete"]
    assert "--retry-failed does only them again" in err


def test_every_part_of_a_divided_job_does_its_shards_and_together_they_are_the_whole(tmp_path, fake):
    images = make_images(tmp_path / "in", 95)
    embed_dataset(images, tmp_path / "whole", endpoint=fake.endpoint, shard_size=10)
    jobs = [
        Job(images, tmp_path / "out", fake.endpoint, "--shard-size", 10, "--num-shards", 3, "--shard-index", index)
        for index in range(3)
    ]
    processes = [job.start() for job in jobs]
    summaries = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        summaries.append(json.loads(out.splitlines()[-1]))
    assert [each["shards"] for each in summaries] == [4, 3, 3]
    assert sum(each["succeeded"] for each in summaries) == 95
    assert data(tmp_path / "out") == data(tmp_path / "whole")


@pytest.mark.timeout(90)
def test_a_worker_process_takes_large_tasks_while_it_has_much_to_say(tmp_path, fake):
    """Of 240 kB each, more than fits on the way to it, beside more words than fit on the way back."""
    (tmp_path / "list.txt").write_text("".join(f"{index}.jpg\n" for index in range(60_000)))
    (tmp_path / "0.jpg").write_bytes(b"the only one that is there")
    options = {"endpoint": fake.endpoint, "shard_size": 30_000}
    assert embed_dataset(tmp_path / "list.txt", tmp_path / "out", **options, batch_size=1000).failed == 59_999
    options.update(engine="processes", workers=1, retry_failed=True)
    assert embed_dataset(tmp_path / "list.txt", tmp_path / "out", **options).failed == 59_999


def test_worker_processes_write_the_same_files(tmp_path, fake):
    images = make_images(tmp_path / "in", 95)
    (images / "00007.jpg").write_bytes(b"corrupt")
    embed_dataset(images, tmp_path / "whole", endpoint=fake.endpoint, shard_size=10)
    code, _events, err = Job(images, tmp_path / "out", fake.endpoint, "--shard-size", 10, "--engine", "processes").run()
    assert code == ExitCode.SOME_FAILED, err
    assert data(tmp_path / "out") == data(tmp_path / "whole")


def test_a_dry_run_counts_estimates_and_writes_nothing(tmp_path, fake):
    images = make_images(tmp_path / "in", 95)
    job = Job(images, tmp_path / "out", fake.endpoint, "--shard-size", 10, "--dry-run")
    code, events, err = job.run()
    assert code == ExitCode.DONE, err
    (event,) = events
    assert (event["rows"], event["shards"], event["missing_rows"]) == (95, 10, 95)
    assert event["rows_per_s"] > 0 and event["seconds"] > 0
    assert not (tmp_path / "out").exists()
    fake.stop()
    code, events, _ = job.run()
    assert code == ExitCode.NOT_REACHABLE and events[0]["rows"] == 95 and events[0]["seconds"] is None


def test_job_options_without_an_output_directory_are_refused(tmp_path, fake):
    job = Job("a.jpg", tmp_path, fake.endpoint)
    job.arguments = ["embed", "a.jpg", "--shard-size", "5"]
    code, _, err = job.run()
    assert code == ExitCode.USAGE and "--shard-size needs --output-dir" in err


def test_a_terminal_gets_a_bar_with_rate_failures_and_shards(tmp_path, fake):
    images = make_images(tmp_path / "in", 60)
    (images / "00007.jpg").write_bytes(b"corrupt")
    job = Job(images, tmp_path / "out", fake.endpoint, "--shard-size", 20)
    job.arguments.remove("--json")
    master, terminal = os.openpty()
    process = job.start(streams=(terminal, terminal, terminal))
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal shows
        while block := os.read(master, 4096):
            shown += block
    os.close(master)
    text = shown.decode()
    assert process.wait(30) == ExitCode.SOME_FAILED, text
    assert "60/60" in text and "failed=1" in text and "row/s" in text and "59 embedded, 1 failed, of 60 rows" in text


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"shard": 0, "generation": "x"}'])
def test_stats_that_say_nothing_are_a_problem_and_no_traceback(tmp_path, fake, content):
    embed_dataset(make_images(tmp_path / "in", 3), tmp_path / "out", endpoint=fake.endpoint)
    (tmp_path / "out/stats/00000.json").write_text(content)
    assert len(verify(tmp_path / "out").problems) >= 1

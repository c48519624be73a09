"""A million rows: memory does not grow with them, and a job that goes on at 90 % sends within 5 s."""

import time

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client.exit_codes import ExitCode
from metric_learn_client.jobs import verify
from tests.integration.client.conftest import fake_process
from tests.integration.client.jobs.conftest import Job, kill, until

ROWS = 1_000_000


def table_of_bytes(tmp_path):
    name = tmp_path / "rows.parquet"
    schema = pa.schema([("jpg", pa.binary()), ("image_path", pa.string())])
    with pq.ParquetWriter(name, schema) as writer:
        for first in range(0, ROWS, 50_000):
            numbers = range(first, first + 50_000)
            writer.write_table(
                pa.table({"jpg": [b"img %d" % n for n in numbers], "image_path": [f"{n}.jpg" for n in numbers]}, schema)
            )
    return name


def list_of_files(tmp_path):
    for index in range(1000):
        (tmp_path / f"{index}.jpg").write_bytes(b"img %d" % index)
    lines = tmp_path / "list.txt"
    lines.write_text("".join(f"{index % 1000}.jpg\n" for index in range(ROWS)))
    return lines


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("make", [table_of_bytes, list_of_files])
def test_a_million_rows_are_done_in_flat_memory_and_resumed_at_once(tmp_path, make, capsys):
    source = make(tmp_path)
    with fake_process() as (endpoint, _):
        # float16: 4 GB of files instead of 8; the arrays on their way are the same
        flags = ("--dtype", "float16", "--batch-size", 64)
        job = Job(source, tmp_path / "out", endpoint, *flags)
        process = job.start()
        memory = {}
        started = time.monotonic()
        while (event := until_any(process, ("shard", "summary")))["event"] == "shard":
            done = event["shard"] + 1
            memory[done] = psutil.Process(process.pid).memory_info().rss / 1e6
            if done == 90:
                break
        rate = 900_000 / (time.monotonic() - started)
        kill(process)
        restarted = time.monotonic()
        process = job.start()
        until(process, "progress")
        resumed_s = time.monotonic() - restarted
        _out, err = process.communicate(timeout=300)
        assert process.returncode == ExitCode.DONE, err
    early, late = np.median([memory[n] for n in range(10, 30)]), np.median([memory[n] for n in range(70, 90)])
    with capsys.disabled():
        print(
            f"\n{make.__name__}: {rate:.0f} rows/s, memory {early:.0f} MB early and {late:.0f} MB late, "
            f"resumed after {resumed_s:.1f} s"
        )
    assert late < early * 1.1
    assert resumed_s < 5.0
    found = verify(tmp_path / "out")
    assert (found.problems, found.succeeded, found.complete) == ((), ROWS, True)


def until_any(process, names):
    import json

    for line in process.stdout:
        event = json.loads(line)
        if event["event"] in names:
            return event
    raise AssertionError(process.stderr.read())

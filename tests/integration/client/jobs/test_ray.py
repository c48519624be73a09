"""Ray writes what the local engine writes, and survives the death of its workers; a Ray Data user embeds a column."""

import json
import os

import numpy as np
import psutil
import pyarrow as pa
import pytest

from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.jobs import verify
from metric_learn_client.testing import fake_embeddings
from tests.integration.client.jobs.conftest import Job, data, make_images, until

ray = pytest.importorskip("ray")

FLAGS = ("--shard-size", 50, "--batch-size", 10, "--in-flight", 2, "--read-threads", 2)


def ray_processes():
    """Of Ray, started here since; their names say so."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] in ("raylet", "gcs_server") or (process.info["cmdline"] or [""])[0].startswith("ray::")
    ]


def test_ray_writes_the_same_files_and_leaves_no_process(tmp_path, fake):
    images = make_images(tmp_path / "in", 320)
    (images / "00007.jpg").write_bytes(b"corrupt")
    assert Job(images, tmp_path / "whole", fake.endpoint, *FLAGS).run()[0] == ExitCode.SOME_FAILED
    before = {process.pid for process in ray_processes()}
    # more workers than there are cores: those that find no room must not hold shards back
    job = Job(images, tmp_path / "out", fake.endpoint, *FLAGS, "--engine", "ray", "--workers", os.cpu_count() + 2)
    code, events, err = job.run()
    assert code == ExitCode.SOME_FAILED, err
    assert (events[-1]["succeeded"], events[-1]["failed"]) == (319, 1)
    assert data(tmp_path / "out") == data(tmp_path / "whole")
    left = [process for process in ray_processes() if process.pid not in before]
    assert psutil.wait_procs(left, timeout=10)[1] == []


@pytest.mark.long
def test_a_ray_actor_that_is_killed_is_started_again_and_its_shard_repeated(tmp_path, fake):
    images = make_images(tmp_path / "in", 1000)
    assert Job(images, tmp_path / "whole", fake.endpoint, *FLAGS).run()[0] == ExitCode.DONE
    fake.faults.delay_s = 0.05
    before = {process.pid for process in ray_processes()}
    sent = fake.images
    process = Job(images, tmp_path / "out", fake.endpoint, *FLAGS, "--engine", "ray").start()
    until(process, "shard")
    for _ in range(2):  # an actor is a worker process of its own
        actors = [each for each in ray_processes() if "ShardWorker" in " ".join(each.info["cmdline"] or [])]
        mine = [each for each in actors if each.pid not in before]
        mine[0].kill()
        assert verify(tmp_path / "out").problems == ()
        until(process, "shard")
    out, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.DONE, err
    assert json.loads(out.splitlines()[-1])["succeeded"] == 1000
    assert fake.images - sent - 1000 <= 2 * 50  # a shard for each actor that died
    assert data(tmp_path / "out") == data(tmp_path / "whole")


@pytest.mark.long
def test_an_outage_under_ray_ends_with_4_and_goes_on_with_another_engine(tmp_path, fake):
    images = make_images(tmp_path / "in", 400)
    assert Job(images, tmp_path / "whole", fake.endpoint, *FLAGS).run()[0] == ExitCode.DONE
    fake.faults.delay_s = 0.05
    flags = (*FLAGS, "--max-outage-s", 1, "--deadline-s", 2)
    process = Job(images, tmp_path / "out", fake.endpoint, *flags, "--engine", "ray").start()
    until(process, "shard")
    fake.faults.status = "UNAVAILABLE"
    _, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.NOT_REACHABLE and "no call worked" in err, err
    fake.faults.status, fake.faults.delay_s = None, 0.0
    assert Job(images, tmp_path / "out", fake.endpoint, *flags).run()[0] == ExitCode.DONE
    assert data(tmp_path / "out") == data(tmp_path / "whole")


def test_the_callable_embeds_a_batch_and_a_bad_row_costs_itself_only(fake):
    from metric_learn_client.jobs import RayEmbedder

    embedder = RayEmbedder(fake.endpoint, column="jpg")
    batch = {"jpg": np.array([b"one", b"corrupt", None, b"two"], dtype=object), "id": np.arange(4)}
    out = embedder(batch)
    np.testing.assert_array_equal(out["embedding"][[0, 3]], fake_embeddings([b"one", b"two"]))
    assert np.isnan(out["embedding"][[1, 2]]).all()
    assert [text.split(":")[0] for text in out["error"]] == ["", "E_DECODE", "E_EMPTY", ""]
    assert list(out["id"]) == [0, 1, 2, 3] and "jpg" not in out and set(out["fingerprint"]) == {fake.fingerprint}
    embedder.close()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_ray_data_pipeline_embeds_a_column_in_four_lines(tmp_path, fake):
    images = make_images(tmp_path / "in", 100)
    (images / "00007.jpg").write_bytes(b"corrupt")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        # the documentation's four lines: client/docs/jobs.md
        from metric_learn_client.jobs import RayEmbedder

        ds = ray.data.read_binary_files(str(images), include_paths=True)
        ds = ds.map_batches(RayEmbedder, fn_constructor_args=(fake.endpoint,), batch_size=16, concurrency=1)
        ds.write_parquet(str(tmp_path / "out"))
    finally:
        ray.shutdown()
    import pyarrow.parquet as pq

    table = pa.concat_tables(pq.read_table(tmp_path / "out" / name) for name in os.listdir(tmp_path / "out"))
    assert table.num_rows == 100
    failed = [bool(text) for text in table["error"].to_pylist()]
    assert sum(failed) == 1

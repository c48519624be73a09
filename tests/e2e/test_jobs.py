"""A batch job against the real server: order, counts and embeddings are those of direct calls."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from metric_learn_client import EmbeddingClient
from metric_learn_client.jobs import embed_dataset, verify

from .processes import decoders_of

GOLDEN = Path(__file__).parents[1] / "golden" / "images"
METRIC_LEARN = [sys.executable, "-c", "from metric_learn_client.cli import main; main()"]
SAME = 1e-5  # between two runs of one picture: batches differ, and so does the order of additions
LONG = pytest.param(1000, marks=pytest.mark.long)


def make_pictures(folder, count, width=270, height=240):
    """Views of the golden pictures, each different, as JPEG."""
    folder.mkdir()
    sources = [cv2.imread(str(path)) for path in sorted(GOLDEN.glob("*.jpg"))]
    for index in range(count):
        source = sources[index % len(sources)]
        source = cv2.resize(source, (320, 280))
        left, top = index % 37, index % 23
        view = cv2.convertScaleAbs(source[top : top + 240, left : left + 270], alpha=0.7 + index % 61 / 100)
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), cv2.resize(view, (width, height)))
    return folder


def read(out):
    """(paths, embeddings) of a job, in order."""
    metadata = pq.read_table(out / "metadata", partitioning=None)
    assert metadata["row"].to_pylist() == sorted(metadata["row"].to_pylist())
    arrays = [np.load(path) for path in sorted((out / "img_emb").iterdir())]
    return metadata["image_path"].to_pylist(), np.concatenate(arrays)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [60, LONG])
def test_a_folder_of_pictures_gives_what_direct_calls_give(server, tmp_path, count):
    pictures = make_pictures(tmp_path / "in", count)
    (pictures / "00003.jpg").write_bytes(b"")
    (pictures / "00040.jpg").write_bytes((pictures / "00040.jpg").read_bytes()[:-500])
    command = ["embed", str(pictures), "--output-dir", str(tmp_path / "out"), "--endpoint", server.endpoint]
    ran = subprocess.run([*METRIC_LEARN, *command, "--shard-size", "32", "--json"], capture_output=True, text=True)
    assert ran.returncode == 3, ran.stderr
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert (summary["succeeded"], summary["failed"]) == (count - 2, 2)
    assert summary["codes"] == {"E_EMPTY": 1, "E_DECODE": 1}
    paths, embeddings = read(tmp_path / "out")
    assert [Path(path).name for path in paths] == [f"{i:05d}.jpg" for i in range(count) if i not in (3, 40)]
    some = list(range(0, len(paths), max(1, len(paths) // 40)))
    with EmbeddingClient(server.endpoint) as client:
        direct = client.embed([paths[index] for index in some]).embeddings
        fingerprint = client.model().fingerprint
    assert np.abs(direct - embeddings[some]).max() < SAME
    # the check can fail: every picture is nearest to itself among all
    nearest = np.argmax(direct @ embeddings.T, axis=1)
    assert list(nearest) == some
    assert summary["fingerprint"] == fingerprint
    assert verify(tmp_path / "out").problems == ()


@pytest.mark.timeout(600)
def test_pixels_prepared_by_the_job_give_the_same_rows_and_spare_the_server(server, tmp_path, capsys):
    count = 32
    pictures = make_pictures(tmp_path / "in", count, 3600, 2700)  # photographs
    (pictures / "00020.jpg").write_bytes((pictures / "00020.jpg").read_bytes()[:-500])
    found, cpu_s = {}, {}
    embed_dataset(pictures, tmp_path / "warm", endpoint=server.endpoint, limit=16)
    decoders = decoders_of(server)
    for where in ("server", "local"):
        before = cpu_of(decoders)
        summary = embed_dataset(pictures, tmp_path / where, endpoint=server.endpoint, preprocess=where)
        cpu_s[where] = (cpu_of(decoders) - before) / count
        assert (summary.succeeded, summary.codes) == (count - 1, {"E_DECODE": 1})
        found[where] = read(tmp_path / where)
        failures = pq.read_table(tmp_path / where / "failures", partitioning=None)
        found[where] += (failures.to_pylist(),)
    assert found["server"][0] == found["local"][0]
    assert found["server"][2] == found["local"][2]
    worst = np.abs(found["server"][1] - found["local"][1]).max()
    with capsys.disabled():
        print(
            f"\nthe decoders' CPU per image: {1e3 * cpu_s['server']:.1f} ms with the server's preprocessing, "
            f"{1e3 * cpu_s['local']:.1f} ms with pixels; largest difference {worst:.2g}"
        )
    assert worst < SAME
    assert cpu_s["local"] < 0.1 * cpu_s["server"]


def cpu_of(processes):
    """Their CPU seconds so far."""
    return sum(times.user + times.system for times in (each.cpu_times() for each in processes))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_job_has_at_least_95_percent_of_the_measured_throughput(server, tmp_path, capsys):
    pictures = make_pictures(tmp_path / "in", 400)
    files = [str(path) for path in sorted(pictures.iterdir())[:64]]
    bench = ["bench", *files, "--endpoint", server.endpoint, "-b", "32", "--concurrency-range", "8", "--json"]
    rates = {"bench": [], "job": []}
    for turn in range(2):  # in turns, so that a slow minute of the machine strikes both
        ran = subprocess.run([*METRIC_LEARN, *bench], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        rates["bench"].append(json.loads(ran.stdout.splitlines()[-1])["images_per_s"])
        started = time.monotonic()
        embed_dataset(pictures, tmp_path / f"out{turn}", endpoint=server.endpoint, shard_size=100)
        rates["job"].append(400 / (time.monotonic() - started))
    ratio = max(rates["job"]) / max(rates["bench"])
    with capsys.disabled():
        print(f"\njob {rates['job']} bench {rates['bench']} images/s: ratio {ratio:.3f} on {os.cpu_count()} cores")
    assert ratio >= 0.95

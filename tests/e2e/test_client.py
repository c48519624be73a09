"""The client library and its commands against the real server; the stock client beside them."""

import asyncio
import csv
import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from metric_learn_client import AsyncEmbeddingClient, EmbeddingClient
from metric_learn_client._client.core import codec
from metric_learn_client.preprocess import preprocess
from metric_learn_client.wire.instances import encode_request

from .conftest import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden"
NAMES = [str(name) for name in np.load(GOLDEN / "reference.npz")["names"]]
PATHS = [GOLDEN / "images" / name for name in NAMES]
REFERENCE = np.load(GOLDEN / "reference.npz")["embeddings_f32"]
COMMAND = str(REPOSITORY / ".venv" / "client" / "bin" / "metric-learn")
STOCK = str(REPOSITORY / ".venv" / "export" / "bin" / "python")
README = (REPOSITORY / "client" / "README.md").read_text()


@pytest.fixture(scope="module")
def client(server):
    with EmbeddingClient(server.endpoint, deadline_s=120) as made:
        yield made


def run(*arguments, **options):
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=200, **options)


def worst(actual, expected):
    return (np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()


def test_files_bytes_arrays_and_pixels_give_the_reference_embeddings(client):
    assert worst(client.embed(PATHS).embeddings, REFERENCE) <= 1e-4
    arrays = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in PATHS]
    assert worst(client.embed(arrays).embeddings, REFERENCE) <= 1e-4
    swapped = client.embed([np.ascontiguousarray(array[:, :, ::-1]) for array in arrays[:4]])
    assert worst(swapped.embeddings, REFERENCE[:4]) > 1e-2  # the comparison can fail
    pixels = np.stack([preprocess(path.read_bytes()) for path in PATHS])
    assert worst(client.embed_pixels(pixels).embeddings, REFERENCE) <= 1e-4


def test_server_exact_resize_gives_identical_embeddings(server, client):
    with EmbeddingClient(server.endpoint, deadline_s=120, resize="server-exact") as resizing:
        for path in PATHS[:6]:
            assert (resizing.embed_one(path) == client.embed_one(path)).all()


def test_rows_of_the_real_server_are_taken_without_message_objects(client, monkeypatch):
    def refuse(*_):
        raise AssertionError("the general decoder was used")

    monkeypatch.setattr(codec, "_decode", refuse)
    assert worst(client.embed(PATHS).embeddings, REFERENCE) <= 1e-4


def test_the_async_client_gets_the_same_rows(server, client):
    async def main():
        async with AsyncEmbeddingClient(server.endpoint, deadline_s=120, batch_size=4) as made:
            await made.wait_ready(30)
            return await made.embed(PATHS), await made.model()

    result, model = asyncio.run(main())
    assert worst(result.embeddings, REFERENCE) <= 1e-4
    assert result.fingerprint == model.fingerprint == client.model().fingerprint and model.weights == "stand-in"


def test_a_request_is_byte_for_byte_the_stock_clients(tmp_path):
    script = (
        "import sys, numpy as np\n"
        "from mindspore_serving.client import Client\n"
        "for method, output, names in (('embed', sys.argv[1], sys.argv[3:]), ('embed_pixels', sys.argv[2], [])):\n"
        "    client = Client('127.0.0.1:1', 'metric_learn', method)\n"
        "    instances = [{'image': open(name, 'rb').read()} for name in names]\n"
        "    pixels = np.arange(3 * 224 * 224 * 3, dtype=np.int64).astype(np.uint8).reshape(3, 224, 224, 3)\n"
        "    instances = instances or [{'pixels': each} for each in pixels]\n"
        "    with open(output, 'wb') as file:\n"
        "        file.write(client._create_request(instances).SerializeToString(deterministic=True))\n"
    )
    files = [tmp_path / "embed", tmp_path / "embed_pixels"]
    subprocess.run([STOCK, "-c", script, *map(str, files), *map(str, PATHS)], check=True)
    assert files[0].read_bytes() == encode_request("embed", [path.read_bytes() for path in PATHS])
    pixels = np.arange(3 * 224 * 224 * 3, dtype=np.int64).astype(np.uint8).reshape(3, -1)
    assert files[1].read_bytes() == encode_request("embed_pixels", [each.tobytes() for each in pixels])


def test_the_readmes_examples_run(server, monkeypatch, capsys):
    blocks = re.findall(r"<!-- run -->\n```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(REPOSITORY)
    for block in blocks:
        exec(compile(block.replace("127.0.0.1:5500", server.endpoint), "README.md", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert "(2, 2048)" in printed and "1 E_UNSUPPORTED" in printed and "2 E_READ" in printed


def test_the_readmes_web_application_is_the_example():
    (name, block), *_ = re.findall(r"<!-- same as (\S+) -->\n```python\n(.*?)```", README, re.DOTALL)
    source = (REPOSITORY / name).read_text()
    assert source.endswith(block)
    compile(source, name, "exec")


def test_a_typed_program_passes_mypy_strict(tmp_path):
    """From a folder of its own, so that none of the repository's settings help."""
    example = REPOSITORY / "client" / "examples" / "typed_user.py"
    flags = ["--strict", "--config-file", os.devnull, "--cache-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *flags, str(example)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from metric_learn_client import EmbeddingClient\nEmbeddingClient().embed(3)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *flags, str(wrong)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "arg-type" in done.stdout


def test_status_says_what_is_served(server, client):
    done = run("status", "--endpoint", server.endpoint)
    assert done.returncode == 0 and done.stderr == ""
    assert f"ready: {server.endpoint} serves metric_learn version" in done.stdout and "stand-in weights" in done.stdout
    parsed = json.loads(run("status", "--endpoint", server.endpoint, "--json").stdout)
    assert parsed["ready"] and parsed["model"]["fingerprint"] == client.model().fingerprint


def test_embed_writes_every_format(server, tmp_path):
    import pyarrow.parquet as pq

    names = [*map(str, PATHS[:5]), str(tmp_path / "none.jpg"), str(PATHS[5])]
    for kind in ("npy", "parquet", "jsonl"):
        done = run("embed", *names, "--endpoint", server.endpoint, "--output", tmp_path / f"x.{kind}")
        assert done.returncode == 3 and "none.jpg: E_READ" in done.stderr, done.stderr
    expected = np.insert(REFERENCE[:6], 5, np.nan, axis=0)
    good = [0, 1, 2, 3, 4, 6]
    array = np.load(tmp_path / "x.npy")
    table = pq.read_table(tmp_path / "x.parquet")
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert np.isnan(array[5]).all() and worst(array[good], expected[good]) <= 1e-4
    rows = table["embedding"].to_pylist()
    assert rows[5] is None and worst(np.array([rows[n] for n in good]), expected[good]) <= 1e-4
    assert table["image_path"].to_pylist() == names and table["code"].to_pylist()[5] == "E_READ"
    assert len(table.schema.metadata[b"metric_learn.fingerprint"]) == 64
    assert (
        lines[5]["code"] == "E_READ" and worst(np.array([lines[n]["embedding"] for n in good]), expected[good]) <= 1e-4
    )
    done = run("embed", "-", "--endpoint", server.endpoint, input="\n".join(map(str, PATHS[:2])))
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2


def test_bench_reports_only_what_is_stable(server, tmp_path):
    options = ["--endpoint", server.endpoint, "--measurement-interval-s", "1.5", "--batch-size", "4"]
    table = tmp_path / "x.csv"
    done = run("bench", *PATHS[:4], *options, "--stability-percentage", "60", "--csv", table, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    (same,) = csv.DictReader(table.read_text().splitlines())
    assert row["failed"] == 0 and row["images_per_s"] > 1 and row["p50_ms"] <= row["p99_ms"]
    assert float(same["images_per_s"]) == row["images_per_s"]
    unstable = run("bench", PATHS[0], *options[:2], "--measurement-interval-s", "0.2", "--stability-percentage", "0")
    assert unstable.returncode == 5 and "not stable" in unstable.stderr and len(unstable.stdout.splitlines()) == 1


def test_a_command_without_a_server_says_so_and_ends_with_four():
    for command in (["status"], ["embed", str(PATHS[0])], ["bench", str(PATHS[0])]):
        done = run(*command, "--endpoint", "127.0.0.1:1", "--deadline-s", "5")
        assert done.returncode == 4, done.stderr
        assert "127.0.0.1:1" in done.stdout + done.stderr and "Traceback" not in done.stderr

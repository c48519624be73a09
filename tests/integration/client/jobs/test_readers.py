"""embedding_reader and autofaiss, as published, read a job's output without help. In an environment of their own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from metric_learn_client.jobs import embed_dataset
from metric_learn_client.testing import fake_embeddings
from tests.integration.client.jobs.conftest import make_images

# They want NumPy 1, which the newest pyarrow does not take any more.
PACKAGES = ("embedding_reader==1.8.1", "autofaiss==2.18.0", "pyarrow<20", "faiss-cpu<1.12")
READ = """
import json, sys
import numpy as np
from embedding_reader import EmbeddingReader
out, kind = sys.argv[1:]
if kind == "npy":
    reader = EmbeddingReader(
        f"{out}/img_emb", metadata_folder=f"{out}/metadata", meta_columns=["image_path"], file_format="parquet_npy"
    )
else:
    reader = EmbeddingReader(f"{out}/embeddings", file_format="parquet", embedding_column="embedding",
                             meta_columns=["image_path"])
rows, paths = [], []
for embeddings, meta in reader(batch_size=17, show_progress=False):
    rows.append(embeddings)
    paths += list(meta["image_path"])
np.save(f"{out}/read.npy", np.concatenate(rows))
print(json.dumps({"count": int(reader.count), "dimension": int(reader.dimension), "paths": paths}))
"""
INDEX = """
import json, sys
import numpy as np
from autofaiss import build_index
out, kind = sys.argv[1:]
options = {"npy": {"embeddings": f"{out}/img_emb"},
           "parquet": {"embeddings": f"{out}/embeddings", "file_format": "parquet",
                       "embedding_column_name": "embedding"}}[kind]
index, _ = build_index(save_on_disk=False, metric_type="ip", index_key="Flat", verbose=40, nb_cores=1, **options)
queries = np.load(f"{out}/read.npy")
print(json.dumps({"count": index.ntotal, "nearest": index.search(queries, 1)[1][:, 0].tolist()}))
"""


@pytest.fixture(scope="session")
def readers(tmp_path_factory):
    """A Python that has the two; METRIC_LEARN_READERS_PYTHON names one that is there already."""
    ready = os.environ.get("METRIC_LEARN_READERS_PYTHON")
    if ready:
        return ready
    folder = tmp_path_factory.mktemp("readers")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    installed = subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES])
    if installed.returncode:
        pytest.skip("embedding_reader and autofaiss cannot be installed here")
    return python


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["npy", "parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("empty_shard", [False, True])
def test_published_readers_find_every_row_at_its_place(tmp_path, fake, readers, kind, dtype, empty_shard):
    images = make_images(tmp_path / "in", 90)
    failed = range(30, 60) if empty_shard else [45]
    for index in failed:
        (images / f"{index:05d}.jpg").write_bytes(b"corrupt")
    out = tmp_path / "out"
    embed_dataset(images, out, endpoint=fake.endpoint, shard_size=30, output_format=kind, dtype=dtype)
    kept = [index for index in range(90) if index not in failed]

    def run(script):
        ran = subprocess.run([readers, "-c", script, str(out), kind], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]
        return json.loads(ran.stdout.splitlines()[-1])

    found = run(READ)
    assert (found["count"], found["dimension"]) == (len(kept), 2048)
    assert [os.path.basename(path) for path in found["paths"]] == [f"{index:05d}.jpg" for index in kept]
    expected = fake_embeddings([b"image %d" % index for index in kept]).astype(dtype)
    np.testing.assert_array_equal(np.load(out / "read.npy").astype(dtype), expected)
    found = run(INDEX)
    assert (found["count"], found["nearest"]) == (len(kept), list(range(len(kept))))

"""Rows keep their paths in every shard, approximate indexes reach their recall, models are not mixed."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client.evaluation.embedding_set import EmbeddingSetError, read_embedding_set
from metric_learn_client.evaluation.nearest import nearest
from metric_learn_client.evaluation.similarity import rows_of
from metric_learn_client.search.duplicates import TooManyPairs, near_duplicates
from metric_learn_client.search.index import (
    FingerprintMismatch,
    SearchIndexError,
    build_index,
    load_index,
)


def write_job(folder, shards, fingerprint="a" * 64, output_format="npy", padding=5):
    """shards: (embeddings, paths) each, in the layout that a job writes."""
    for name in ("img_emb", "metadata", "embeddings", "stats"):
        (folder / name).mkdir(parents=True)
    for number, (embeddings, paths) in enumerate(shards):
        text = f"{number:0{padding}d}"
        table = pa.table({"row": np.arange(len(paths)), "image_path": paths, "label": [p.split("/")[0] for p in paths]})
        if output_format == "npy":
            np.save(folder / "img_emb" / f"img_emb_{text}.npy", embeddings)
            pq.write_table(table, folder / "metadata" / f"metadata_{text}.parquet")
        else:
            column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
            pq.write_table(
                table.append_column("embedding", column), folder / "embeddings" / f"embeddings_{text}.parquet"
            )
        (folder / "stats" / f"{text}.json").write_text(json.dumps({"fingerprint": fingerprint}))
    (folder / "job.json").write_text(json.dumps({"model": {"weights": "custom", "version": 3, "name": "metric_learn"}}))
    return folder


def clustered(count, dim, clusters, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, clusters, count)
    centres = rng.standard_normal((clusters, dim))
    return (centres[labels] + 0.4 * rng.standard_normal((count, dim))).astype(np.float32), labels


def sharded(embeddings, labels, shards):
    paths = [f"c{label}/image-{row}.jpg" for row, label in enumerate(labels)]
    parts = np.array_split(np.arange(len(paths)), shards)
    return [(embeddings[part], [paths[row] for row in part]) for part in parts], paths


@pytest.mark.parametrize(("output_format", "padding"), [("npy", 5), ("npy", 1), ("parquet", 1)])
def test_each_of_ten_thousand_self_queries_over_a_hundred_shards_finds_its_path(tmp_path, output_format, padding):
    embeddings, labels = clustered(10_000, 64, 400)
    shards, paths = sharded(embeddings, labels, 100)
    source = write_job(tmp_path / "job", shards, output_format=output_format, padding=padding)
    build_index(source).save(tmp_path / "index")
    index = load_index(tmp_path / "index")
    ids, similarity = index.search(embeddings, 1)
    stored = index.paths
    assert [stored[each] for each in ids[:, 0]] == paths
    assert np.abs(similarity - 1).max() < 1e-5
    assert index.facts.weights == "custom" and index.items.column("label")[77].as_py() == paths[77].split("/")[0]


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_index_reaches_its_recall_on_clustered_data(tmp_path, kind):
    drawn, labels = clustered(6300, 64, 120, seed=1)
    embeddings, queries, labels = drawn[:6000], drawn[6000:], labels[:6000]
    shards, _ = sharded(embeddings, labels, 4)
    index = build_index(write_job(tmp_path / "job", shards), kind)
    truth, _ = nearest(rows_of(queries), rows_of(embeddings), 10)
    index.save(tmp_path / "index")
    found, _ = load_index(tmp_path / "index").search(queries, 10)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, truth)])
    assert recall >= 0.95 and index.facts.recall_at_10 >= 0.95
    assert index.facts.recall_queries == 1000 and index.facts.breadth >= 1


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("copies", [2, 30, 3000])
def test_identical_pictures_are_no_misses_of_an_approximate_index(tmp_path, kind, copies):
    rng = np.random.default_rng(3)
    embeddings = np.repeat(rng.standard_normal((3000 // copies, 32)).astype(np.float32), copies, axis=0)
    shards, _ = sharded(embeddings, np.zeros(3000, int), 2)
    index = build_index(write_job(tmp_path / "job", shards), kind)
    assert index.facts.recall_at_10 >= 0.95


def test_a_narrow_search_that_misses_is_still_measured_as_one(tmp_path):
    rng = np.random.default_rng(3)
    shards, _ = sharded(rng.standard_normal((6000, 64)).astype(np.float32), np.zeros(6000, int), 2)
    index = build_index(write_job(tmp_path / "job", shards), "ivf", target_recall=0.01)
    assert index.facts.breadth == 1 and index.facts.recall_at_10 < 0.5


def test_another_models_query_is_refused_and_so_is_a_mixed_set(tmp_path):
    embeddings, labels = clustered(50, 16, 5)
    shards, _ = sharded(embeddings, labels, 2)
    source = write_job(tmp_path / "job", shards)
    index = build_index(source)
    index.search(embeddings[:1], 1, fingerprint="a" * 64)
    with pytest.raises(FingerprintMismatch, match="bbbb"):
        index.search(embeddings[:1], 1, fingerprint="b" * 64)
    (source / "stats" / "00001.json").write_text(json.dumps({"fingerprint": "c" * 64}))
    with pytest.raises(EmbeddingSetError, match="mixes"):
        build_index(source)


def test_what_cannot_be_searched_is_refused_with_the_reason(tmp_path):
    embeddings, labels = clustered(50, 16, 5)
    shards, _ = sharded(embeddings, labels, 2)
    index = build_index(write_job(tmp_path / "job", shards))
    for queries, k, said in [(embeddings[:, :8], 1, "8 dimensions"), (embeddings[:1], 51, "k is 51")]:
        with pytest.raises(SearchIndexError, match=said):
            index.search(queries, k)
    with pytest.raises(SearchIndexError, match="zero or not finite"):
        index.search(np.zeros((1, 16)), 1)
    index.save(tmp_path / "index")
    with pytest.raises(SearchIndexError, match="exists"):
        index.save(tmp_path / "index")
    with pytest.raises(SearchIndexError, match="not an index"):
        load_index(tmp_path / "nothing")
    (tmp_path / "index" / "index.faiss").write_bytes(b"x" * 10)
    with pytest.raises(SearchIndexError, match="cannot be read"):
        load_index(tmp_path / "index")
    with pytest.raises(EmbeddingSetError, match="not the output of a job"):
        build_index(tmp_path)


def test_rows_of_failed_images_are_left_out_with_their_paths(tmp_path):
    embeddings, labels = clustered(30, 16, 5)
    embeddings[[3, 17]] = np.nan
    shards, paths = sharded(embeddings, labels, 3)
    source = write_job(tmp_path / "job", shards)
    kept = [path for row, path in enumerate(paths) if row not in (3, 17)]
    assert build_index(source).paths == kept
    whole = read_embedding_set(source)
    assert whole.paths == kept and whole.dropped == 2 and whole.identity.fingerprint == "a" * 64


def test_a_shard_that_is_not_committed_is_not_read(tmp_path):
    embeddings, labels = clustered(30, 16, 5)
    shards, paths = sharded(embeddings, labels, 3)
    source = write_job(tmp_path / "job", shards)
    (source / "stats" / "00002.json").unlink()
    assert read_embedding_set(source).paths == paths[:20]


def test_nearest_equals_sorting_everything():
    rng = np.random.default_rng(0)
    gallery = rng.integers(-2, 3, (400, 6)).astype(np.float32) + np.float32(0.25)
    rows = rows_of(gallery)
    units = gallery.astype(np.float64) * rows.inverse_norms[:, None]
    similarity = np.rint(units @ units.T * 2**40)
    images, _ = nearest(rows, rows, 7, excluded=np.arange(400))
    for query in range(400):
        order = sorted((i for i in range(400) if i != query), key=lambda i: (-similarity[query, i], i))
        assert images[query].tolist() == order[:7]


def test_near_duplicates_are_grouped_across_blocks():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2500, 32)).astype(np.float32)
    rows[2000], rows[2400] = rows[5], rows[5] + np.float32(1e-4)
    rows[1500] = rows[7] * np.float32(3)
    groups = near_duplicates(rows_of(rows), 0.999)
    assert [group.rows for group in groups] == [(5, 2000, 2400), (7, 1500)]
    assert all(0.999 <= group.least <= 1 for group in groups)
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates(rows_of(rows), 0.0)
    with pytest.raises(TooManyPairs, match="raise the threshold"):
        near_duplicates(rows_of(np.ones((4000, 4), np.float32)), 0.5)


def test_a_set_is_exported_to_milvus_lite_and_found_there(tmp_path):
    pymilvus = pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    from metric_learn_client.search.milvus import MilvusExportError, export_to_milvus

    embeddings, labels = clustered(60, 16, 5)
    embeddings[[7, 30]] = np.nan  # these failed: they have no place in a collection
    shards, paths = sharded(embeddings, labels, 3)
    source = write_job(tmp_path / "job", shards)
    uri = str(tmp_path / "milvus.db")
    assert export_to_milvus(source, uri, "pictures") == 58
    client = pymilvus.MilvusClient(uri=uri)
    hits = client.search("pictures", [embeddings[41].tolist()], limit=1, output_fields=["image_path", "fingerprint"])
    entity = hits[0][0]["entity"]
    client.close()
    assert (entity["image_path"], entity["fingerprint"]) == (paths[41], "a" * 64)
    with pytest.raises(MilvusExportError, match="already"):
        export_to_milvus(source, uri, "pictures")

"""Every metric against the definition written out, and against the model zoo's own definition of Recall@1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_learn_client.evaluation import ranking
from metric_learn_client.evaluation.metrics import retrieval_metrics
from metric_learn_client.evaluation.screening import Screen
from metric_learn_client.evaluation.similarity import rows_of, similarity_of_pairs


def brute_force(queries, query_labels, gallery=None, gallery_labels=None, ks=(1, 10)):
    """The definitions, one query and one place at a time; what differs by rounding alone ties; ties by place."""
    excluded = gallery is None
    gallery, gallery_labels = (queries, query_labels) if excluded else (gallery, gallery_labels)

    def unit(rows):
        rows = rows.astype(np.float64)
        return rows / np.sqrt((rows * rows).sum(1))[:, None]

    gallery_units, recall = unit(gallery), {k: [] for k in ks}
    r_precision, map_at_r = [], []
    for query, row in enumerate(unit(queries)):
        similarity = [round(float(np.sum(row * other)) * 2**40) for other in gallery_units]
        places = sorted(range(len(gallery)), key=lambda image: (-similarity[image], image))
        places = [image for image in places if not (excluded and image == query)]
        hits = [gallery_labels[image] == query_labels[query] for image in places]
        relevant = sum(hits)
        for k in ks:
            recall[k].append(any(hits[:k]))
        r_precision.append(sum(hits[:relevant]) / relevant if relevant else 0.0)
        precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(relevant) if hits[n]]
        map_at_r.append(sum(precisions) / relevant if relevant else 0.0)
    return {**{k: np.mean(v) for k, v in recall.items()}, "r": np.mean(r_precision), "map": np.mean(map_at_r)}


def zoo_recall_at_1(features, labels):
    """What the zoo's evaluation defines: normalise, squared distance, 1e8 added to self, label of the nearest."""
    features = features / np.sqrt(np.sum(features**2, 1)).reshape(-1, 1)
    squares = np.sum(features**2, 1)
    distance = squares[:, None] + squares[None, :] - 2 * np.dot(features, features.T)
    distance[np.arange(len(features)), np.arange(len(features))] += 1e8
    nearest = np.argsort(distance, 1, kind="stable")[:, 0]
    return float(np.mean(labels[nearest] == labels))


def same(metrics, expected, ks=(1, 10)):
    for k in ks:
        assert metrics.recall[k] == pytest.approx(expected[k], abs=1e-9)
    assert metrics.precision_at_1 == pytest.approx(expected[1], abs=1e-9)
    assert metrics.r_precision == pytest.approx(expected["r"], abs=1e-9)
    assert metrics.map_at_r == pytest.approx(expected["map"], abs=1e-9)


def random_set(rng, count=80, dim=24, classes=12):
    labels = rng.integers(0, classes, count)
    centres = rng.standard_normal((classes, dim))
    return (centres[labels] + 1.2 * rng.standard_normal((count, dim))).astype(np.float32), labels


def tied_set(rng):
    return rng.integers(-1, 2, (60, 4)).astype(np.float32) + np.float32(2), rng.integers(0, 9, 60)


def lonely_set(rng):
    embeddings, labels = random_set(rng)
    labels[:20] = 1000 + np.arange(20)
    return embeddings, labels


def duplicate_set(rng):
    embeddings, labels = random_set(rng)
    embeddings[40:] = embeddings[:40]
    return embeddings, labels


def collapsed_set(rng):
    """All images nearly alike, as untrained weights give."""
    embeddings, labels = random_set(rng)
    return (embeddings * 1e-3 + rng.standard_normal(embeddings.shape[1]) * 5).astype(np.float32), labels


SETS = [random_set, tied_set, lonely_set, duplicate_set, collapsed_set]


@pytest.mark.parametrize("make", SETS)
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_equals_its_definition(make, seed, monkeypatch):
    embeddings, labels = make(np.random.default_rng(seed))
    monkeypatch.setattr(ranking, "MOST_ROWS", 17)
    metrics = retrieval_metrics(embeddings, labels, ks=(1, 10))
    same(metrics, brute_force(embeddings, labels))


@pytest.mark.parametrize("make", SETS)
def test_a_gallery_of_its_own_is_ranked_whole(make):
    rng = np.random.default_rng(5)
    embeddings, labels = make(rng)
    queries, query_labels = embeddings[:25] + np.float32(0.01), labels[:25]
    metrics = retrieval_metrics(queries, query_labels, embeddings, labels, ks=(1, 10))
    same(metrics, brute_force(queries, query_labels, embeddings, labels))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 6), st.integers(1, 5))
def test_small_sets_of_any_shape_equal_the_definition(seed, count, dim, classes):
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(1, 4, (count, dim)).astype(np.float32)
    labels = rng.integers(0, classes, count)
    metrics = retrieval_metrics(embeddings, labels, ks=(1,))
    same(metrics, brute_force(embeddings, labels, ks=(1,)), ks=(1,))


@pytest.mark.parametrize("make", SETS)
def test_the_size_of_a_block_changes_no_bit(make, monkeypatch):
    rng = np.random.default_rng(11)
    parts = [make(rng) for _ in range(3)]
    embeddings = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    made = []
    for rows in (1024, 64, 23, 1):
        monkeypatch.setattr(ranking, "MOST_ROWS", rows)
        made.append(retrieval_metrics(embeddings, labels, ks=(1, 10)))
    for other in made[1:]:
        assert other.as_dict() == made[0].as_dict()
        for field in ("first_rank", "hits", "average_precision"):
            assert (getattr(other.ranking, field) == getattr(made[0].ranking, field)).all()


def structured_set(rng, count, dim, classes):
    """Clusters whose spectrum falls as that of trained embeddings does."""
    scale = (1 + np.arange(dim)) ** -0.8
    labels = np.arange(count) % classes
    centres = rng.standard_normal((classes, dim)) * scale
    rows = centres[labels] + 0.7 * rng.standard_normal((count, dim)) * scale
    return (rows + 2 * scale).astype(np.float32), labels


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_a_set_of_thousands_has_the_zoos_recall(noise):
    rng = np.random.default_rng(3)
    embeddings, labels = structured_set(rng, 3000, 512, 500)
    embeddings += np.float32(noise) * rng.standard_normal(embeddings.shape).astype(np.float32) / 30
    metrics = retrieval_metrics(embeddings, labels)
    assert 0.05 < metrics.recall[1] < 0.999
    assert metrics.recall[1] == zoo_recall_at_1(embeddings.astype(np.float64), labels)


def sets_of_every_kind():
    rng = np.random.default_rng(7)
    labels = np.arange(420) % 70
    centres = rng.standard_normal((70, 96))
    plain = centres[labels] + 1.3 * rng.standard_normal((420, 96))
    return {
        "plain": plain,
        "heavy tails": plain * rng.standard_t(1.5, plain.shape),
        "every row twice": np.concatenate([plain[:210], plain[:210]]),
        "ties": rng.integers(-1, 2, (420, 5)) + 2.0,
        "alike": plain * 1e-4 + rng.standard_normal(96) * 5,
        "rows of many lengths": plain * 10.0 ** rng.integers(-9, 9, (420, 1)),
        "one large dimension": plain + 1e3 * np.eye(96)[3],
        "too small for float32's normal range": plain * 1e-30,
        "one dimension": 1.0 + rng.random((420, 1)),
        "all the same": np.ones((420, 33)),
    }, labels


KINDS, LABELS = sets_of_every_kind()


@pytest.mark.parametrize("kind", KINDS)
def test_no_similarity_is_outside_its_slack(kind):
    rows = rows_of(KINDS[kind])
    values, offset, slack = Screen(rows).compare(rows, np.arange(rows.count))
    first, second = np.divmod(np.arange(rows.count**2), rows.count)
    exact = similarity_of_pairs(rows, first, rows, second).reshape(values.shape)
    assert (np.abs(values + offset[:, None] - exact) <= slack[:, None]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_set_equals_the_definition(kind):
    rows = KINDS[kind].astype(np.float32)
    same(retrieval_metrics(rows, LABELS, ks=(1, 10)), brute_force(rows, LABELS))


def test_nearly_identical_embeddings_leave_few_pairs_to_compute():
    """As stand-in weights give: without the mean taken off, every pair would be nearer than float32 can tell."""
    rows = rows_of(collapsed_set(np.random.default_rng(0))[0])
    values, _, slack = Screen(rows).compare(rows, np.arange(rows.count))
    assert np.median(slack) < 0.01 * np.median(np.abs(values - np.median(values)))


def test_faiss_gives_the_same_metrics_where_nothing_ties():
    embeddings, labels = structured_set(np.random.default_rng(6), 700, 64, 90)
    exact = retrieval_metrics(embeddings, labels)
    made = retrieval_metrics(embeddings, labels, faiss=True)
    assert made.recall == exact.recall and (made.ranking.first_rank == exact.ranking.first_rank).all()
    assert (made.map_at_r, made.r_precision) == pytest.approx((exact.map_at_r, exact.r_precision), abs=1e-12)
    split = retrieval_metrics(embeddings[:50], labels[:50], embeddings[50:], labels[50:], faiss=True)
    wanted = retrieval_metrics(embeddings[:50], labels[:50], embeddings[50:], labels[50:])
    assert split.recall == wanted.recall and split.map_at_r == pytest.approx(wanted.map_at_r, abs=1e-12)


def test_what_cannot_be_measured_is_refused():
    rows = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="2 labels"):
        retrieval_metrics(rows, [1, 2])
    with pytest.raises(ValueError, match="row 1 of the queries is zero or not finite"):
        retrieval_metrics(np.array([[1, 0], [np.nan, 0], [0, 1]], np.float32), [1, 1, 2])
    with pytest.raises(ValueError, match="K is 0"):
        retrieval_metrics(rows, [1, 1, 2], ks=[0])
    with pytest.raises(ValueError, match="nothing to measure"):
        retrieval_metrics(rows[:1], [1])
    with pytest.raises(ValueError, match="gallery_labels"):
        retrieval_metrics(rows, [1, 1, 2], rows)


def test_a_k_that_no_query_can_reach_is_left_out_and_lonely_classes_are_misses():
    metrics = retrieval_metrics(np.eye(4, dtype=np.float32) + 0.1, ["a", "a", "b", "c"], ks=(1, 3, 4))
    assert list(metrics.recall) == [1, 3]
    assert metrics.recall[3] == 0.5 and metrics.without_match == 2

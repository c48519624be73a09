"""The report of an evaluation: numbers, plots, the worst queries with what was returned in their place, classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from metric_learn_client._version import __version__
from metric_learn_client.evaluation.evaluation import Evaluation
from metric_learn_client.evaluation.metrics import class_numbers
from metric_learn_client.evaluation.nearest import nearest
from metric_learn_client.evaluation.report import plots
from metric_learn_client.evaluation.report.pages import item, png_uri, render
from metric_learn_client.evaluation.report.thumbnails import Pictures
from metric_learn_client.evaluation.similarity import Indices, Rows, rows_of, similarity_of_pairs
from metric_learn_client.printable import printable

_WORST_QUERIES = 24
_RETURNED = 5
_CLASSES_SHOWN = 60


def make_plots(evaluation: Evaluation) -> list[tuple[str, bytes]]:
    """(name, PNG) of each plot."""
    rows = rows_of(evaluation.queries.embeddings)
    same, other = plots.sampled_similarities(rows, _codes(evaluation.labels))
    return [
        ("recall", plots.recall_plot(evaluation.metrics)),
        ("similarity", plots.similarity_plot(same, other)),
        ("norms", plots.norm_plot(1.0 / rows.inverse_norms)),
    ]


def report_page(evaluation: Evaluation, drawn: list[tuple[str, bytes]], pictures: Pictures) -> str:
    metrics = evaluation.metrics
    identity = evaluation.queries.identity
    numbers = [(f"Recall@{k}", f"{value:.4f}") for k, value in metrics.recall.items()]
    numbers += [
        ("precision@1", f"{metrics.precision_at_1:.4f}"),
        ("R-precision", f"{metrics.r_precision:.4f}"),
        ("MAP@R", f"{metrics.map_at_r:.4f}"),
        ("queries", f"{metrics.queries:,}"),
        ("gallery images", f"{metrics.gallery:,}"),
        ("classes", f"{metrics.classes:,}"),
        ("queries without another image of their class", f"{metrics.without_match:,}"),
        ("rows without an embedding, left out", f"{evaluation.dropped:,}"),
    ]
    about = [
        ("weights", identity.weights or "unknown"),
        ("fingerprint", identity.fingerprint or "unknown"),
        ("version", identity.version if identity.version is not None else "unknown"),
        ("queries", printable(evaluation.queries.source)),
        ("gallery", printable((evaluation.gallery or evaluation.queries).source)),
        ("order", evaluation.order),
        ("made by", f"metric-learn {__version__}"),
    ]
    verdicts = [vars(check) for check in evaluation.checks]
    if identity.weights == "stand-in":
        verdicts.append(
            {"passed": False, "text": "Stand-in weights: these numbers say nothing of the model's quality."}
        )
    classes = class_rows(evaluation)
    return render(
        "report.html.j2",
        title="Retrieval evaluation",
        verdicts=verdicts,
        protocol=f"{evaluation.protocol.sentence[0].upper()}{evaluation.protocol.sentence[1:]}.",
        numbers=numbers,
        identity=about,
        plots=[{"name": name, "uri": png_uri(data)} for name, data in drawn],
        worst=worst_queries(evaluation, pictures),
        classes=classes[:_CLASSES_SHOWN],
        classes_note=f"Lowest first; {min(len(classes), _CLASSES_SHOWN):,} of {len(classes):,} classes.",
    )


def worst_queries(evaluation: Evaluation, pictures: Pictures) -> list[dict[str, Any]]:
    """The queries with a match whose first right image has the highest rank, above 1."""
    ranking = evaluation.metrics.ranking
    wrong = np.flatnonzero(ranking.first_rank > 1)
    worst = wrong[np.argsort(-ranking.first_rank[wrong], kind="stable")][:_WORST_QUERIES]
    if not worst.size:
        return []
    queries = rows_of(evaluation.queries.embeddings[worst])
    own = evaluation.gallery is None
    gallery_set = evaluation.gallery or evaluation.queries
    gallery = rows_of(gallery_set.embeddings)
    labels = list(evaluation.gallery_labels if evaluation.gallery_labels is not None else evaluation.labels)
    codes, gallery_codes = class_numbers(evaluation.labels, labels)
    count = min(_RETURNED, gallery.count - 1)
    images, similarity = nearest(queries, gallery, count, excluded=worst if own else None)
    paths = gallery_set.paths
    query_paths = evaluation.queries.paths
    made = []
    for row, query in enumerate(worst.tolist()):
        label = evaluation.labels[query]
        same = np.flatnonzero(gallery_codes == codes[query])
        right = _nearest_of(same[same != query] if own else same, queries, row, gallery)
        made.append(
            {
                "label": printable(str(label)),
                "relevant": int(ranking.relevant[query]),
                "query": item(pictures, query_paths[query]),
                "neighbours": [
                    item(pictures, paths[image], float(value), printable(f"class {labels[image]}"))
                    for image, value in zip(images[row].tolist(), similarity[row])
                ],
                "right": item(pictures, paths[right[0]], right[1], f"rank {ranking.first_rank[query]}"),
            }
        )
    return made


def _nearest_of(images: Indices, queries: Rows, row: int, gallery: Rows) -> tuple[int, float]:
    similarity = similarity_of_pairs(queries, np.full(len(images), row), gallery, images)
    best = int(np.argmax(similarity))
    return int(images[best]), float(similarity[best])


def class_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Recall@1 and MAP@R of each class's queries, lowest first."""
    codes = _codes(evaluation.labels)
    ranking = evaluation.metrics.ranking
    counts = np.bincount(codes)
    recall = np.bincount(codes, ranking.first_rank == 1) / counts
    average = np.bincount(codes, ranking.average_precision) / counts
    names = np.unique(np.asarray(evaluation.labels))
    order = np.lexsort((average, recall))
    return [
        {
            "label": printable(str(names[code])),
            "images": int(counts[code]),
            "recall": float(recall[code]),
            "map_at_r": float(average[code]),
        }
        for code in order
    ]


def _codes(labels: Any) -> Any:
    return np.unique(np.asarray(labels), return_inverse=True)[1].ravel()

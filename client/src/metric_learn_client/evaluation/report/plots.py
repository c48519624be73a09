"""The plots of an evaluation, as PNG bytes: Recall@K, similarities of pairs, norms. No display is needed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metric_learn_client.evaluation.metrics import Metrics
from metric_learn_client.evaluation.similarity import Doubles, Rows, similarity_of_pairs

_SAMPLED_PAIRS = 200_000
SAME, OTHER = "#1f6fb4", "#c2571a"


def recall_plot(metrics: Metrics) -> bytes:
    """Recall@K over K, on a logarithmic axis, with the measured K marked."""
    reachable = max(2, metrics.gallery - 1)
    ks = np.unique(np.round(np.logspace(0, np.log10(min(reachable, 10_000)), 60)).astype(int))
    first = metrics.ranking.first_rank
    curve = [np.count_nonzero((first > 0) & (first <= k)) / len(first) for k in ks]
    figure, axes = _figure()
    axes.plot(ks, curve, color=SAME)
    axes.plot(list(metrics.recall), list(metrics.recall.values()), "o", color=SAME)
    for k, value in metrics.recall.items():
        axes.annotate(f"{value:.3f}", (k, value), textcoords="offset points", xytext=(4, -12), fontsize=8)
    axes.set(
        xscale="log",
        xlabel="K",
        ylabel="Recall@K",
        ylim=(0, 1.02),
        title="Queries with a right one among the K nearest",
    )
    return _png(figure)


def sampled_similarities(rows: Rows, labels: npt.NDArray[Any]) -> tuple[Doubles, Doubles]:
    """(of pairs of one class, of pairs of two): a random sample of each, at most 200,000 pairs; the same each time."""
    rng = np.random.default_rng(0)
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    begin, end = np.searchsorted(ordered, ordered, "left"), np.searchsorted(ordered, ordered, "right")
    places = np.flatnonzero(end - begin > 1)
    same = np.empty(0)
    if places.size:
        chosen = rng.choice(places, min(_SAMPLED_PAIRS, 20 * places.size))
        partner = begin[chosen] + rng.integers(0, (end - begin)[chosen])
        kept = partner != chosen
        same = similarity_of_pairs(rows, order[chosen[kept]], rows, order[partner[kept]])
    count = min(_SAMPLED_PAIRS, 20 * rows.count)
    left, right = rng.integers(0, rows.count, count), rng.integers(0, rows.count, count)
    apart = labels[left] != labels[right]
    return same, similarity_of_pairs(rows, left[apart], rows, right[apart])


def similarity_plot(same: Doubles, other: Doubles) -> bytes:
    figure, axes = _figure()
    both = np.concatenate([same, other])
    if both.size:
        low, high = float(both.min()), float(both.max())
        bins = np.linspace(low, high if high > low else low + 1e-6, 80)
        for values, name, colour in ((other, "another class", OTHER), (same, "the same class", SAME)):
            if values.size:
                axes.hist(
                    values, bins, weights=np.full(len(values), 1 / len(values)), alpha=0.6, label=name, color=colour
                )
        axes.legend(frameon=False)
    axes.set(xlabel="cosine similarity", ylabel="share of sampled pairs", title="Similarity of two images")
    return _png(figure)


def norm_plot(norms: Doubles) -> bytes:
    figure, axes = _figure()
    low, high = float(norms.min()), float(norms.max())
    axes.hist(norms, np.linspace(low, high if high - low > 1e-6 else low + 1e-6, 60), color=SAME)
    axes.set(xlabel="norm of the stored embedding", ylabel="images", title="Norms (the service gives 1)")
    axes.ticklabel_format(useOffset=False)
    return _png(figure)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    made = io.BytesIO()
    figure.savefig(made, format="png", metadata={"Software": None})
    return made.getvalue()


def save_plots(plots: Sequence[tuple[str, bytes]], folder: Path) -> None:
    """Writes name.png for each into folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in plots:
        (folder / f"{name}.png").write_bytes(data)

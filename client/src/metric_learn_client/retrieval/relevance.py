"""Which gallery images are relevant to which query: those of the same label, the query itself left out. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metric_learn_client.retrieval.similarity import Indices


@dataclass(frozen=True)
class Relevance:
    """counts int64 [Q]; order: gallery images by label; begin, end int64 [Q]: a query's part of `order`."""

    counts: Indices
    order: Indices
    begin: Indices
    end: Indices
    self_excluded: bool

    def of(self, query: int) -> Indices:
        """The relevant images of one query, by their place in the gallery."""
        found = self.order[self.begin[query] : self.end[query]]
        return found[found != query] if self.self_excluded else found

    def pairs(self, queries: Indices) -> tuple[Indices, Indices]:
        """(query, image) of every relevant pair of these queries, in the queries' order."""
        sizes = self.end[queries] - self.begin[queries]
        owner = np.repeat(queries, sizes)
        first = np.repeat(self.begin[queries] - np.cumsum(sizes) + sizes, sizes)
        image = self.order[np.arange(len(owner)) + first]
        kept = owner != image if self.self_excluded else np.ones(len(owner), bool)
        return owner[kept], image[kept]


def relevance_of(query_labels: Indices, gallery_labels: Indices, self_excluded: bool) -> Relevance:
    order = np.argsort(gallery_labels, kind="stable").astype(np.int64)
    ordered = gallery_labels[order]
    begin = np.searchsorted(ordered, query_labels, "left").astype(np.int64)
    end = np.searchsorted(ordered, query_labels, "right").astype(np.int64)
    return Relevance(end - begin - int(self_excluded), order, begin, end, self_excluded)

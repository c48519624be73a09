"""Client library of metric-learn-serving: images in, float32 [N, 2048] embeddings out."""

from __future__ import annotations

from metric_learn_client._version import __version__

__all__ = ["__version__"]

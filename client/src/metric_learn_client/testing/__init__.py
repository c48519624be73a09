"""For users' tests: an in-process server that speaks the wire, with faults to switch on. Not for production use."""

from __future__ import annotations

from metric_learn_client.testing.embeddings import fake_embeddings, is_corrupt
from metric_learn_client.testing.fake import FakeServable
from metric_learn_client.testing.faults import Faults, Limits

__all__ = ["FakeServable", "Faults", "Limits", "fake_embeddings", "is_corrupt"]

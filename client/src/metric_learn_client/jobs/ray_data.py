"""RayEmbedder: a Ray Data pipeline embeds a column of encoded images, and keeps the rows that fail.

ds = ray.data.read_binary_files("photos", include_paths=True)
ds = ds.map_batches(RayEmbedder, fn_constructor_kwargs={"endpoint": "host:5500"}, batch_size=64, concurrency=2)
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, Optional

import numpy as np

from metric_learn_client import wire
from metric_learn_client._client.client import EmbeddingClient
from metric_learn_client.jobs.errors import RefusedError, RowError
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.options import RunOptions
from metric_learn_client.jobs.work.model import job_model
from metric_learn_client.jobs.work.sender import Patience, Sendable, Sender
from metric_learn_client.jobs.work.worker import Connect
from metric_learn_client.options import ClientOptions, Endpoints


class RayEmbedder:
    """A callable class for `map_batches` with batch_format="numpy", the default.

    column: encoded images, bytes. Adds `embedding` float32 [n, 2048] (a failed row is NaN), `error` ("E_DECODE: ...",
    "" where there is none) and `fingerprint`, and drops `column` unless keep_column. A bad image costs its own row and
    never the block; an outage is waited for, up to max_outage_s. connect makes the client where an endpoint is not
    enough (TLS, tokens).
    """

    def __init__(
        self,
        endpoint: Endpoints = ClientOptions.endpoints,
        *,
        column: str = "bytes",
        embedding_column: str = "embedding",
        keep_column: bool = False,
        deadline_s: float = ClientOptions.deadline_s,
        max_outage_s: float = RunOptions.max_outage_s,
        connect: Optional[Connect] = None,
    ) -> None:
        self._column = column
        self._embedding_column = embedding_column
        self._keep_column = keep_column
        make: Connect = connect or partial(EmbeddingClient, endpoint, deadline_s=deadline_s)
        stop = threading.Event()
        self._fingerprint = job_model(make, max_outage_s, stop, Observer()).fingerprint
        self._client = make()
        self._sender = Sender(self._client, Patience(max_outage_s, stop), self._fingerprint)

    def close(self) -> None:
        """Ends the connection. Ray ends the actor's process, which does so as well."""
        self._client.close()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self._column not in batch:
            raise RefusedError(f"no column {self._column!r} among {', '.join(batch)}: say column=")
        images: list[Sendable] = [
            bytes(each) if isinstance(each, (bytes, bytearray, memoryview)) else RowError("E_EMPTY", "the row is null")
            for each in batch[self._column]
        ]
        sent = self._sender.send(images)
        embeddings = np.full((len(images), wire.EMBEDDING_DIM), np.nan, np.float32)
        embeddings[sent.succeeded] = sent.embeddings
        errors = [""] * len(images)
        for row, code, message in sent.failures:
            errors[row] = f"{code}: {message}"
        kept = {name: values for name, values in batch.items() if self._keep_column or name != self._column}
        return {
            **kept,
            self._embedding_column: embeddings,
            "error": np.array(errors, dtype=object),
            "fingerprint": np.array([self._fingerprint] * len(images), dtype=object),
        }

"""A job's embeddings into a Milvus collection, through Milvus' own client (extra [milvus]). Milvus Lite is a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metric_learn_client.errors import MetricLearnError
from metric_learn_client.evaluation.embedding_set import iterate_shards, read_identity

_ROWS_AT_ONCE = 1000  # of 2048 numbers: 8 MB a call
_MOST_PATH_BYTES = 8192


class MilvusExportError(MetricLearnError):
    """The collection could not be made or filled; the message says why."""


def export_to_milvus(source: Path, uri: str, collection: str, *, token: str = "") -> int:
    """Writes id (the row number), embedding, image_path and fingerprint of every row that has an embedding; returns how
    many these are.

    Raises MilvusExportError where the collection exists: two models' embeddings must not end up in one.
    """
    from pymilvus import DataType, MilvusClient  # type: ignore[import-untyped]
    from pymilvus.exceptions import MilvusException  # type: ignore[import-untyped]

    fingerprint = read_identity(source).fingerprint or ""
    client: Any = None
    try:
        client = MilvusClient(uri=uri, token=token)
        if client.has_collection(collection):
            raise MilvusExportError(f"{uri} has a collection {collection!r} already; choose another name or drop it")
        seen = written = 0
        for shard in iterate_shards(source):
            if not seen:
                schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
                schema.add_field("id", DataType.INT64, is_primary=True)
                schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=shard.embeddings.shape[1])
                schema.add_field("image_path", DataType.VARCHAR, max_length=_MOST_PATH_BYTES)
                schema.add_field("fingerprint", DataType.VARCHAR, max_length=64)
                index = client.prepare_index_params()
                index.add_index("embedding", index_type="FLAT", metric_type="COSINE")
                client.create_collection(collection, schema=schema, index_params=index)
            finite = np.asarray(np.isfinite(shard.embeddings).all(axis=1))
            paths = shard.table.column("image_path").to_pylist()
            rows = [
                {"id": seen + n, "embedding": row, "image_path": path, "fingerprint": fingerprint}
                for n, (row, path) in enumerate(zip(shard.embeddings, paths))
                if finite[n]
            ]
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                client.insert(collection, rows[start : start + _ROWS_AT_ONCE])
            seen += len(shard.embeddings)
            written += len(rows)
        return written
    except MilvusException as error:
        raise MilvusExportError(f"{uri}: {error.message}") from error
    finally:
        if client is not None:
            client.close()

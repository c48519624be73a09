"""How a typed program uses the client; type-checked strictly by a test, with nothing but the installed package."""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt

from metric_learn_client import (
    AsyncEmbeddingClient,
    EmbeddingClient,
    EmbeddingResult,
    ImageFailure,
    ModelInfo,
    TlsOptions,
    UnreachableError,
)


def nearest(client: EmbeddingClient, query: str, gallery: npt.NDArray[np.float32]) -> int:
    row: npt.NDArray[np.float32] = client.embed_one(query)
    return int(np.argmax(gallery @ row))


def failed_paths(client: EmbeddingClient, paths: list[str]) -> list[str]:
    result: EmbeddingResult = client.embed(paths, on_error="return")
    failures: tuple[ImageFailure, ...] = result.errors
    return [paths[failure.index] for failure in failures]


def stream(client: EmbeddingClient, paths: list[str]) -> float:
    total = 0.0
    for row in client.embed_iter(paths):
        total += float(row.sum())
    for answer in client.embed_iter(paths, on_error="return"):
        if isinstance(answer, ImageFailure):
            print(answer.code)
        else:
            total += float(answer.sum())
    return total


async def model_of(endpoint: str) -> ModelInfo:
    async with AsyncEmbeddingClient(endpoint, tls=TlsOptions()) as client:
        async for row in client.embed_iter([b"image"], window=8):
            print(row.shape)
        return await client.model()


def main() -> None:
    try:
        print(asyncio.run(model_of("example.com:5500")).limits.max_instances)
    except UnreachableError as error:
        print(error.code, error.details)

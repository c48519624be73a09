"""EmbeddingClient: one call, right order, an error per image, always a deadline. The socket side of the codec."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Literal, Optional, Union

import grpc
import numpy as np
import numpy.typing as npt

from metric_learn_client import wire
from metric_learn_client.codec import decode_reply, encode_request
from metric_learn_client.errors import ImageFailure, ImagesFailedError, MetricLearnError, from_status

DEFAULT_ENDPOINT = "127.0.0.1:5500"
DEFAULT_DEADLINE_S = 60.0
DEFAULT_BATCH_SIZE = 32  # images per call to the server; more saves little, see peers' practice of 16 to 64

ImageInput = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, BinaryIO]


@dataclass(frozen=True)
class EmbeddingResult:
    """embeddings: float32 [N, 2048] in input order, unit norm; a failed image's row is NaN. errors: by index."""

    embeddings: npt.NDArray[np.float32]
    errors: tuple[ImageFailure, ...]


class EmbeddingClient:
    """Embeds images through a server at `endpoint` ("host:port" or "unix:path").

    deadline_s bounds each `embed` as a whole. Thread-safe. Use as a context manager, or call close().
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        if deadline_s <= 0 or batch_size < 1:
            raise ValueError(f"deadline_s={deadline_s} and batch_size={batch_size} must be positive")
        self.endpoint = endpoint
        self._deadline_s = deadline_s
        self._batch_size = batch_size
        self._channel = grpc.insecure_channel(
            endpoint,
            options=[
                ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", wire.MAX_MESSAGE_BYTES),
            ],
        )
        self._predict = self._channel.unary_unary(
            wire.PREDICT_PATH,
            request_serializer=wire.PredictRequest.SerializeToString,
            response_deserializer=wire.PredictReply.FromString,
        )

    def embed(self, images: Sequence[ImageInput], *, on_error: Literal["raise", "return"] = "raise") -> EmbeddingResult:
        """Embeds encoded images: paths, bytes or binary file objects, mixed as you like; a str is a path.

        Raises ImagesFailedError for failed images unless on_error="return"; EndpointError for a failed call;
        OSError for a file that cannot be read; TypeError for anything that is not a sequence of images.
        """
        if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)):
            raise TypeError("embed takes a sequence of images; for one, write embed([image])")
        limit = time.monotonic() + self._deadline_s
        embeddings = np.full((len(images), wire.EMBEDDING_DIM), np.nan, np.float32)
        errors: list[ImageFailure] = []
        for start, batch in self._batches(images):
            reply = self._call(encode_request(batch), limit - time.monotonic())
            for offset, (row, failure) in enumerate(decode_reply(reply, len(batch), start)):
                if row is not None:
                    embeddings[start + offset] = row
                elif failure is not None:
                    errors.append(failure)
        if errors and on_error == "raise":
            raise ImagesFailedError(errors)
        return EmbeddingResult(embeddings, tuple(errors))

    def close(self) -> None:
        """Ends the connection and its threads. The client cannot be used afterwards."""
        self._channel.close()

    def __enter__(self) -> EmbeddingClient:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def _batches(self, images: Sequence[ImageInput]) -> Iterator[tuple[int, list[bytes]]]:
        """(index of its first image, encoded images), bounded by count and by bytes."""
        start, size = 0, 0
        batch: list[bytes] = []
        for index, image in enumerate(images):
            encoded = _read(image)
            if batch and (len(batch) == self._batch_size or size + len(encoded) > wire.DEFAULT_MAX_REQUEST_BYTES):
                yield start, batch
                start, batch, size = index, [], 0
            batch.append(encoded)
            size += len(encoded)
        if batch:
            yield start, batch

    def _call(self, request: wire.PredictRequest, left_s: float) -> wire.PredictReply:
        try:
            reply: wire.PredictReply = self._predict(request, timeout=max(0.0, left_s))
            return reply
        except grpc.RpcError as error:
            raise from_status(error.code(), error.details() or "", self.endpoint, self._deadline_s) from error
        except ValueError as error:  # what grpc raises on a closed channel
            raise MetricLearnError("the client is closed") from error


def _read(image: ImageInput) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        with open(image, "rb") as file:
            return file.read()
    if hasattr(image, "read"):
        content = image.read()
        if isinstance(content, bytes):
            return content
    raise TypeError(f"an image is a path, bytes or a binary file object, not {type(image).__name__}")

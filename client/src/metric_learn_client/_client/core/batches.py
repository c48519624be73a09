"""Images -> batches that fit a call: bounded by count and by bytes, below the server's limits. Reads as it goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from metric_learn_client._client.core.identity import ModelLimits
from metric_learn_client.errors import DeadlineError, ImageFailure
from metric_learn_client.inputs import UnreadableError, check_image, read_image
from metric_learn_client.wire.instances import INSTANCE_OVERHEAD_BYTES, REQUEST_OVERHEAD_BYTES


@dataclass(frozen=True)
class Batch:
    """Images start..start+count of a call: `images` to send, their `positions`, and those that failed already."""

    start: int
    count: int
    positions: tuple[int, ...]
    images: tuple[bytes, ...]
    failures: tuple[ImageFailure, ...] = ()

    def halves(self) -> tuple[Batch, Batch]:
        """The images in two parts, for a server that takes no message of this size. Failures are left out."""
        middle = len(self.images) // 2
        return (
            Batch(self.start, self.count, self.positions[:middle], self.images[:middle]),
            Batch(self.start, self.count, self.positions[middle:], self.images[middle:]),
        )


def pack(images: Iterable[Any], batch_size: int, limits: ModelLimits, first: int = 0) -> Iterator[Batch]:
    """Batches in order, the first image being image `first` of its call; one that cannot be read, or is too large, is
    among its batch's failures."""
    max_count = min(batch_size, limits.max_instances)
    max_bytes = limits.max_request_bytes - REQUEST_OVERHEAD_BYTES
    max_image_bytes = min(limits.max_image_bytes, max_bytes - INSTANCE_OVERHEAD_BYTES)
    start, size = first, 0
    positions: list[int] = []
    contents: list[bytes] = []
    failures: list[ImageFailure] = []
    index = first - 1
    for index, image in enumerate(images, first):
        try:
            content = read_image(image, max_image_bytes)
        except UnreadableError as error:
            failures.append(ImageFailure(index, error.code, error.message))
        else:
            cost = len(content) + INSTANCE_OVERHEAD_BYTES
            if size + cost > max_bytes:
                yield Batch(start, index - start, tuple(positions), tuple(contents), tuple(failures))
                start, size, positions, contents, failures = index, 0, [], [], []
            positions.append(index)
            contents.append(content)
            size += cost
        if index + 1 - start == max_count:
            yield Batch(start, max_count, tuple(positions), tuple(contents), tuple(failures))
            start, size, positions, contents, failures = index + 1, 0, [], [], []
    if index >= start:
        yield Batch(start, index + 1 - start, tuple(positions), tuple(contents), tuple(failures))


def chunks(images: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The images of a stream, so many at a time, each checked when its turn comes."""
    chunk: list[Any] = []
    for index, image in enumerate(images):
        check_image(image, index)
        chunk.append(image)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class Reading:
    """The batches of one chunk, made by `batches` in a thread that may hang: in a file on a mount that does not
    answer. Who waits for it says by `late` what it was that kept it."""

    def __init__(self, chunk: list[Any], batch_size: int, limits: ModelLimits, first: int) -> None:
        self.may_hang = not all(isinstance(image, bytes) for image in chunk)
        self._pack = pack(self._noted(chunk, first), batch_size, limits, first)
        self._now: Any = None

    def batches(self) -> list[Batch]:
        return list(self._pack)

    def late(self, budget_s: float) -> DeadlineError:
        """The error of a deadline that ended first."""
        index, image = self._now or (0, None)
        name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else type(image).__name__
        return DeadlineError(
            f"deadline_s={budget_s:g} was over while image {index} ({name}) was read: what holds it does not answer",
            "DEADLINE_EXCEEDED",
        )

    def _noted(self, chunk: list[Any], first: int) -> Iterator[Any]:
        for each in enumerate(chunk, first):
            self._now = each
            yield each[1]

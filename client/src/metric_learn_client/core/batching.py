"""Images -> batches that fit a call: bounded by count and by bytes, below the server's limits. Reads as it goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from metric_learn_client.core.identity import ModelLimits
from metric_learn_client.errors import ImageFailure
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


def checked(images: Iterable[Any]) -> Iterator[Any]:
    """The images of a stream, each checked when its turn comes."""
    for index, image in enumerate(images):
        check_image(image, index)
        yield image

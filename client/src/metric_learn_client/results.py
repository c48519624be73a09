"""What embedding gives back, and how the parts of it are put together. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client import wire
from metric_learn_client._client.core.batches import Batch
from metric_learn_client._client.core.identity import Origin
from metric_learn_client.errors import IdentityError, ImageFailure, ImagesFailedError
from metric_learn_client.wire.rows import Embeddings

OnError = Literal["raise", "return"]
Row = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingResult:
    """The embeddings of one call, in input order.

    embeddings: float32 [N, 2048], unit norm; the row of a failed image is NaN.
    errors: the failed images by rising index. ok: bool [N], False for those.
    fingerprint, version: of the model that made them; None where the server says nothing or nothing was sent.

    It can be used where NumPy expects an array (`np.asarray(result)`, `result @ gallery.T` by way of it), has a length,
    and is indexed and iterated by row. Comparison and arithmetic are the array's: take `result.embeddings`.
    """

    embeddings: npt.NDArray[np.float32]
    errors: tuple[ImageFailure, ...]
    fingerprint: Optional[str] = None
    version: Optional[int] = None

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        good = np.ones(len(self.embeddings), np.bool_)
        good[[failure.index for failure in self.errors]] = False
        return good

    def __len__(self) -> int:
        return len(self.embeddings)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.embeddings)

    def __getitem__(self, index: Any) -> Any:
        return self.embeddings[index]

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> npt.NDArray[Any]:
        converted = self.embeddings if dtype is None else self.embeddings.astype(dtype, copy=bool(copy))
        return converted.copy() if copy and converted is self.embeddings else converted


@dataclass(frozen=True)
class BatchResult:
    """Rows start..start+len(rows) of a call; failures have their index in the whole call."""

    start: int
    rows: npt.NDArray[np.float32]
    failures: tuple[ImageFailure, ...]
    origin: Optional[Origin]


def changed_during_call(first: Origin, then: Origin) -> IdentityError:
    return IdentityError(
        f"the model changed during the call: fingerprint {first.fingerprint}, then {then.fingerprint};"
        " embed these images again"
    )


class OneModel:
    """The model that a call's batches come from, None before the first that says."""

    def __init__(self) -> None:
        self.origin: Optional[Origin] = None

    def check(self, part: BatchResult) -> None:
        """Raises IdentityError where this batch comes from another model than those before."""
        if part.origin is not None:
            if self.origin is not None and self.origin.fingerprint != part.origin.fingerprint:
                raise changed_during_call(self.origin, part.origin)
            self.origin = part.origin


class Collector:
    """The array that the batches of a call write their rows to, and what else they bring, in whatever order."""

    def __init__(self, count: int) -> None:
        self._embeddings = np.empty((count, wire.EMBEDDING_DIM), np.float32)
        self._failures: list[ImageFailure] = []
        self._model = OneModel()

    def place(self, batch: Batch) -> Embeddings:
        """Where the rows of a batch belong."""
        return self._embeddings[batch.start : batch.start + batch.count]

    def add(self, part: BatchResult) -> None:
        """Raises IdentityError where the batches come from two models."""
        self._model.check(part)
        self._failures.extend(part.failures)

    def result(self, on_error: OnError) -> EmbeddingResult:
        """Raises ImagesFailedError where images failed and on_error is "raise"."""
        failures = tuple(sorted(self._failures, key=lambda failure: failure.index))
        if failures and on_error == "raise":
            raise ImagesFailedError(failures)
        origin = self._model.origin or Origin(None, None)
        return EmbeddingResult(self._embeddings, failures, origin.fingerprint, origin.version)


def check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "return"):
        raise ValueError(f'on_error={on_error!r} must be "raise" or "return"')

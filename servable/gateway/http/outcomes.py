"""Between a form and the internal call: texts become pictures, rows become arrays, and failed pictures an error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Callable, Optional, TypeVar, Union

import numpy as np
import numpy.typing as npt

from servable.gateway.call.methods import Method
from servable.gateway.call.reply import FailedImage, Row
from servable.gateway.call.request import Payload, PredictWork
from servable.gateway.errors import invalid
from servable.gateway.http.errors import HttpError
from servable.gateway.http.images import BrokenBase64

Outcome = Union[Row, FailedImage]
MOST_NAMED = 8  # failed pictures that an error names
TURN_BYTES = 4 * 1024 * 1024  # decoded at one turn of the event loop, some 2 ms
T = TypeVar("T")


async def read_work(
    method: Method, version: int, items: Sequence[T], read: Callable[[T, int], Payload], place: str, most: int
) -> PredictWork:
    """The work that `items` ask for, each read by `read(item, index)`. Other callers have their turn in between.

    A picture whose base64 is broken fails alone. Raises CallError (INVALID_ARGUMENT), `read`'s own too: none, or more
    than `most`.
    """
    if not items:
        raise invalid(place, "there are none; a call carries at least one image")
    if len(items) > most:
        raise invalid(place, f"{len(items)} images; the most is {most}: split them over several calls")
    payloads: list[Payload] = []
    failed: dict[int, str] = {}
    turn = 0
    for index, item in enumerate(items):
        try:
            payloads.append(read(item, index))
        except BrokenBase64 as error:
            payloads.append(b"")
            failed[index] = str(error)
        turn += len(payloads[-1])
        if turn > TURN_BYTES:
            turn = 0
            await asyncio.sleep(0)
    return PredictWork(method, version, payloads, failed=failed)


def row(outcome: Row) -> npt.NDArray[np.float32]:
    """float32 [dim]."""
    return np.frombuffer(outcome, "<f4")


def refuse_failed(outcomes: Sequence[Outcome], place: Optional[str]) -> list[Row]:
    """The rows. Raises HttpError (400) with the first failed picture's code and `place`[index]; None: there is one."""
    failed = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, FailedImage)]
    if failed:
        index, first = failed[0]
        words = first.text
        if len(failed) > 1:
            others = ", ".join(f"[{at}] {each.name}" for at, each in failed[1:MOST_NAMED])
            more = f" and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
            words = f"{words}; {len(failed)} pictures failed, also {others}{more}"
        raise HttpError(400, words, field=place and f"{place}[{index}]", code=first.name)
    return [outcome for outcome in outcomes if not isinstance(outcome, FailedImage)]


def null_wanted(value: object, field: str) -> bool:
    """on_error: whether failed pictures become null instead of an error. Raises CallError (INVALID_ARGUMENT)."""
    if value not in ("null", "fail", None):
        raise invalid(field, f"{str(value)[:32]!r}; it must be 'null' (null rows) or 'fail', the default")
    return value == "null"

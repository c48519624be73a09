"""Between a form and the internal call: texts become pictures, rows become arrays, and failed pictures an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional, TypeVar, Union

import numpy as np
import orjson

from servable.gateway.call.calls import Embedded
from servable.gateway.call.methods import Method
from servable.gateway.call.reply import FailedImage, Row
from servable.gateway.call.request import Payload, PredictWork
from servable.gateway.errors import invalid
from servable.gateway.http.aside import aside
from servable.gateway.http.errors import HttpError
from servable.gateway.http.images import BrokenBase64
from servable.gateway.http.requests import Response, json_response

Outcome = Union[Row, FailedImage]
JSON_ROW_BYTES = 64 * 1024  # one embedding takes as long to write as these to read, 0.05 ms
MOST_NAMED = 8  # failed pictures that an error names
T = TypeVar("T")


def read_work(
    method: Method, version: int, items: Sequence[T], read: Callable[[T, int], Payload], place: str, most: int
) -> PredictWork:
    """The work that `items` ask for, each read by `read(item, index)`.

    A picture whose base64 is broken fails alone. Raises CallError (INVALID_ARGUMENT), `read`'s own too: none, or more
    than `most`.
    """
    if not items:
        raise invalid(place, "there are none; a call carries at least one image")
    if len(items) > most:
        raise invalid(place, f"{len(items)} images; the most is {most}: split them over several calls")
    payloads: list[Payload] = []
    failed: dict[int, str] = {}
    for index, item in enumerate(items):
        try:
            payloads.append(read(item, index))
        except BrokenBase64 as error:
            payloads.append(b"")
            failed[index] = str(error)
    return PredictWork(method, version, payloads, failed=failed)


def json_numbers(outcome: Row) -> bytes:
    """Each as the shortest text that reads back to the same bits; NaN is null.

    One row at a time: 256 of them at once would hold the interpreter's lock for 13 ms.
    """
    return orjson.dumps(np.frombuffer(outcome, "<f4"), option=orjson.OPT_SERIALIZE_NUMPY)


def json_row(outcome: Row) -> orjson.Fragment:
    return orjson.Fragment(json_numbers(outcome))


def json_size(embedded: Embedded) -> int:
    """Of all its rows, as `aside` counts."""
    return len(embedded.outcomes) * JSON_ROW_BYTES


async def json_answer(value: Callable[[], Any], embedded: Embedded) -> Response:
    """`value`: makes what is written of all outcomes of the call. Raises what it raises."""
    return await aside(json_size(embedded), lambda: json_response(value()))


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

"""POST /embed: a file as the body, or several as multipart/form-data; JSON or an array of NumPy as the answer."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any, Callable, TypeVar

import numpy as np

from metric_learn_client.wire import EMBEDDING_DIM, SERVABLE_NAME
from servable.config.sections import LimitsSection
from servable.gateway.call.calls import Embedded
from servable.gateway.call.methods import METHODS
from servable.gateway.call.reply import FailedImage
from servable.gateway.call.request import Payload
from servable.gateway.errors import invalid
from servable.gateway.http.aside import aside
from servable.gateway.http.description import (
    BYTES,
    COUNT,
    IMAGE_ERROR,
    JSON,
    MODEL,
    TEXT,
    VECTOR,
    Description,
    Schema,
    listed,
    or_null,
    record,
)
from servable.gateway.http.errors import HttpError
from servable.gateway.http.outcomes import json_answer, json_row, null_wanted, read_work, refuse_failed
from servable.gateway.http.requests import Embed, Request, Response
from servable.gateway.http.routes import CallRoute, Route

WIRE = "embed"
NPY = "application/x-npy"
MULTIPART = "multipart/form-data"
FAILED_HEADER = "x-metric-learn-failed"  # of an array, where failed pictures are rows of NaN: "1=E_DECODE,4=E_EMPTY"
MOST_PART_HEAD_BYTES = 4096
HEAD_COST = 256  # a byte of a part's head can take as long as so many of pictures: 4 KB 0.6 ms
MOST_PARAMETERS = 8  # of a header; email's reader takes the square of them
MOST_BOUNDARY = 70  # RFC 2046
_SHOWN = 256  # characters of a file's name
T = TypeVar("T")


@dataclass(frozen=True)
class Upload:
    name: str
    payload: Payload


def upload_routes(limits: LimitsSection) -> Sequence[Route]:
    async def embed_files(request: Request, embed: Embed) -> Response:
        on_null = null_wanted(request.query(("on_error",)).get("on_error"), "on_error")
        several = request.content_type == MULTIPART
        if several:
            given = request.headers["content-type"]
            parts = await aside(len(request.body), lambda: split_multipart(request.body, given, limits.max_instances))
            size = HEAD_COST * sum(len(head) for head, _ in parts)
            uploads = await aside(size, lambda: named(parts))
        elif request.content_type.startswith("multipart/"):
            raise HttpError(415, f"{request.content_type[:64]!r} is not taken; send {MULTIPART}, or the file itself")
        elif request.content_type == "application/json":
            raise HttpError(415, "the body must be the picture itself, or multipart; JSON is for /v1/embeddings")
        else:
            uploads = [Upload("", request.body)]
        place = "files"
        work = read_work(METHODS["embed"], 0, uploads, lambda upload, _: upload.payload, place, limits.max_instances)
        embedded = await embed(work)
        if not on_null:
            refuse_failed(embedded.outcomes, place if several else None)
        if NPY in request.headers.get("accept", ""):
            return _array(embedded)
        return await json_answer(lambda: _several(uploads, embedded) if several else _single(embedded), embedded)

    return (CallRoute("POST", "/embed", embed_files, wire=WIRE, description=_description(limits)),)


def _description(limits: LimitsSection) -> Description:
    identity: Mapping[str, Schema] = {"model": MODEL, "version": COUNT}
    single = record({"embedding": or_null(VECTOR), **identity}, {"error": IMAGE_ERROR})
    failed = record({"index": COUNT, "name": TEXT, "code": TEXT, "message": TEXT})
    several = record(
        {"embeddings": listed(or_null(VECTOR)), "names": listed(TEXT), "errors": listed(failed), **identity}
    )
    files = {"type": "array", "items": BYTES, "minItems": 1, "maxItems": limits.max_instances}
    return Description(
        "The embedding of the picture that is the body, or those of the pictures of a form.",
        {JSON: {"anyOf": [single, several]}, NPY: BYTES},
        {"application/octet-stream": BYTES, MULTIPART: {"type": "object", "additionalProperties": files}},
        query={"on_error": {"enum": ["fail", "null"], "description": "null: failed pictures are null in a good reply"}},
        may_be_empty=True,  # that is E_EMPTY, like any picture that fails
    )


def split_multipart(body: bytes, content_type: str, most: int) -> list[tuple[bytes, memoryview]]:
    """(head, content) of each part; the content is a view of the body.

    Source: RFC 7578, and RFC 2046 section 5.1.1 for the delimiters. Raises CallError (INVALID_ARGUMENT).
    """
    given = _read(lambda: _parameters("content-type", content_type).get_boundary(""), "content-type")
    boundary = given.encode("latin-1", "replace")
    if not 0 < len(boundary) <= MOST_BOUNDARY:
        raise invalid("content-type", f"has no boundary of 1 to {MOST_BOUNDARY} characters")
    view, parts = memoryview(body), list[tuple[bytes, memoryview]]()
    delimiter = b"\r\n--" + boundary
    at = -2 if body.startswith(delimiter[2:]) else body.find(delimiter)
    while at != -1:
        at += len(delimiter)
        if body.startswith(b"--", at):
            return parts
        place = f"files[{len(parts)}]"
        if len(parts) == most:
            raise invalid("files", f"more than {most}; split them over several calls")
        line = body.find(b"\r\n", at, at + MOST_PART_HEAD_BYTES)
        end = body.find(b"\r\n\r\n", line, line + MOST_PART_HEAD_BYTES)
        if line < 0 or end < 0 or body[at:line].strip(b" \t"):
            raise invalid(place, f"no headers of at most {MOST_PART_HEAD_BYTES} bytes after its boundary")
        start = end + 4
        at = body.find(delimiter, end + 2)
        parts.append((body[line:end], view[start : max(start, at)]))
    raise invalid("body", "not multipart/form-data with the boundary of content-type, or cut off before its end")


def named(parts: Sequence[tuple[bytes, memoryview]]) -> list[Upload]:
    """Each part is a file, whatever its field is called. Raises CallError (INVALID_ARGUMENT)."""
    return [Upload(_file_name(head, f"files[{at}]"), content) for at, (head, content) in enumerate(parts)]


def _file_name(head: bytes, place: str) -> str:
    """Of a part with these headers: its file's, else its field's."""
    headers = [line.partition(":") for line in head.decode("latin-1").split("\r\n")]
    values = {name.strip().lower(): value.strip() for name, _, value in headers}
    if values.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise invalid(place, "content-transfer-encoding is not taken; send the bytes as they are")
    disposition = _parameters("content-disposition", values.get("content-disposition", "form-data"))
    name = _read(lambda: disposition.get_filename() or disposition.get_param("name", "", "content-disposition"), place)
    # Browsers write UTF-8 where RFC 7578 lets them; a name in the form of RFC 2231 is decoded already.
    text = name if isinstance(name, str) else ""
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    return text[:_SHOWN]


def _read(parameter: Callable[[], T], place: str) -> T:
    try:
        return parameter()
    except ValueError:  # of which UnicodeError is one
        raise invalid(place, "a header's text is in no character set that is read; write it in UTF-8") from None


def _parameters(name: str, value: str) -> Message:
    if value.count(";") > MOST_PARAMETERS:
        raise invalid(name, f"{value.count(';')} times ';'; the most is {MOST_PARAMETERS}")
    message = Message()
    message[name] = value
    return message


def _single(embedded: Embedded) -> Mapping[str, Any]:
    (outcome,) = embedded.outcomes
    failed = isinstance(outcome, FailedImage)
    return {
        "embedding": None if isinstance(outcome, FailedImage) else json_row(outcome),
        **({"error": _error(outcome)} if failed else {}),
        **_identity(embedded),
    }


def _several(uploads: Sequence[Upload], embedded: Embedded) -> Mapping[str, Any]:
    failed = [
        {"index": index, "name": uploads[index].name, **_error(outcome)}
        for index, outcome in enumerate(embedded.outcomes)
        if isinstance(outcome, FailedImage)
    ]
    return {
        "embeddings": [None if isinstance(each, FailedImage) else json_row(each) for each in embedded.outcomes],
        "names": [upload.name for upload in uploads],
        "errors": failed,
        **_identity(embedded),
    }


def _error(outcome: Any) -> dict[str, str]:
    return {"code": outcome.name, "message": outcome.text}


def _identity(embedded: Embedded) -> dict[str, Any]:
    return {"model": SERVABLE_NAME, "version": embedded.version}


def _array(embedded: Embedded) -> Response:
    """float32 [n, 2048] as numpy.save writes it; a failed picture is a row of NaN."""
    nothing = np.full(EMBEDDING_DIM, np.nan, np.float32)
    rows = [nothing if isinstance(each, FailedImage) else np.frombuffer(each, "<f4") for each in embedded.outcomes]
    file = io.BytesIO()
    np.save(file, np.stack(rows).astype("<f4", copy=False))
    failed = [f"{at}={each.name}" for at, each in enumerate(embedded.outcomes) if isinstance(each, FailedImage)]
    return Response(file.getvalue(), NPY, headers={FAILED_HEADER: ",".join(failed)} if failed else {})

"""POST /embed: a file as the body, or several as multipart/form-data; JSON or an array of NumPy as the answer."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from metric_learn_client.wire import EMBEDDING_DIM, SERVABLE_NAME
from servable.config.sections import LimitsSection
from servable.gateway.call.calls import Embedded
from servable.gateway.call.methods import METHODS
from servable.gateway.call.reply import FailedImage
from servable.gateway.call.request import Payload
from servable.gateway.errors import invalid
from servable.gateway.http.errors import HttpError
from servable.gateway.http.outcomes import null_wanted, read_work, refuse_failed, row
from servable.gateway.http.requests import Embed, Request, Response, json_response
from servable.gateway.http.routes import Call, Route

WIRE = "embed"
NPY = "application/x-npy"
MULTIPART = "multipart/form-data"
FAILED_HEADER = "x-metric-learn-failed"  # of an array, where failed pictures are rows of NaN: "1=E_DECODE,4=E_EMPTY"
MOST_PART_HEAD_BYTES = 4096
MOST_BOUNDARY = 70  # RFC 2046
_SHOWN = 256  # characters of a file's name


@dataclass(frozen=True)
class Upload:
    name: str
    payload: Payload


def upload_routes(limits: LimitsSection) -> Sequence[Route]:
    async def embed_files(request: Request, embed: Embed) -> Response:
        on_null = null_wanted(request.query(("on_error",)).get("on_error"), "on_error")
        several = request.content_type == MULTIPART
        if several:
            uploads = read_multipart(request.body, request.headers["content-type"], limits.max_instances)
        elif request.content_type.startswith("multipart/"):
            raise HttpError(415, f"{request.content_type[:64]!r} is not taken; send {MULTIPART}, or the file itself")
        elif request.content_type == "application/json":
            raise HttpError(415, "the body must be the picture itself, or multipart; JSON is for /v1/embeddings")
        else:
            uploads = [Upload("", request.body)]
        place = "files"
        work = await read_work(
            METHODS["embed"], 0, uploads, lambda upload, _: upload.payload, place, limits.max_instances
        )
        embedded = await embed(work)
        if not on_null:
            refuse_failed(embedded.outcomes, place if several else None)
        if NPY in request.headers.get("accept", ""):
            return _array(embedded)
        return json_response(_several(uploads, embedded) if several else _single(embedded))

    return (Call("POST", "/embed", embed_files, wire=WIRE),)


def read_multipart(body: bytes, content_type: str, most: int) -> list[Upload]:
    """Each part is a file, whatever its field is called. Raises CallError (INVALID_ARGUMENT)."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= MOST_BOUNDARY:
        raise invalid("content-type", f"has no boundary of 1 to {MOST_BOUNDARY} characters")
    parts = _Parts(body, most)
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(body)
        parser.finalize()
    except MultipartParseError:
        raise invalid("body", "not multipart/form-data with the boundary that content-type names") from None
    if not parts.ended:
        raise invalid("body", "the multipart body is cut off: its last boundary is missing")
    return parts.uploads


class _Parts:
    """Collects the parts. A part's content is a view of the body where it came in one piece."""

    def __init__(self, body: bytes, most: int) -> None:
        self._view = memoryview(body)
        self._most = most
        self._head = 0
        self._field = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[memoryview] = []
        self.uploads: list[Upload] = []
        self.ended = False

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._name,
            "on_header_value": self._content,
            "on_header_end": self._header,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._last,
        }

    def _begin(self) -> None:
        if len(self.uploads) >= self._most:
            raise invalid("files", f"more than {self._most}; split them over several calls")
        self._head, self._headers, self._pieces = 0, {}, []
        self._field = self._value = b""

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._field += data[start:end]

    def _content(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MOST_PART_HEAD_BYTES:
            raise invalid("files", f"more than {MOST_PART_HEAD_BYTES} bytes of headers in a part")

    def _header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _data(self, _data: bytes, start: int, end: int) -> None:
        self._pieces.append(self._view[start:end])

    def _end(self) -> None:
        place = f"files[{len(self.uploads)}]"
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
            raise invalid(place, "content-transfer-encoding is not taken; send the bytes as they are")
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        name = options.get(b"filename", options.get(b"name", b"")).decode("utf-8", "replace")
        payload: Payload = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self.uploads.append(Upload(name[:_SHOWN], payload))

    def _last(self) -> None:
        self.ended = True


def _single(embedded: Embedded) -> Mapping[str, Any]:
    (outcome,) = embedded.outcomes
    failed = isinstance(outcome, FailedImage)
    return {
        "embedding": None if isinstance(outcome, FailedImage) else row(outcome),
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
        "embeddings": [None if isinstance(each, FailedImage) else row(each) for each in embedded.outcomes],
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
    rows = [nothing if isinstance(each, FailedImage) else row(each) for each in embedded.outcomes]
    file = io.BytesIO()
    np.save(file, np.stack(rows).astype("<f4", copy=False))
    failed = [f"{at}={each.name}" for at, each in enumerate(embedded.outcomes) if isinstance(each, FailedImage)]
    return Response(file.getvalue(), NPY, headers={FAILED_HEADER: ",".join(failed)} if failed else {})

"""OpenAI's form: POST /v1/embeddings with pictures as data URIs, and GET /v1/models.

Source of the fields: the API reference of OpenAI, "Embeddings" and "Models"; pictures in `input` are how other servers
of this form take them.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import grpc

from metric_learn_client.wire import EMBEDDING_DIM, SERVABLE_NAME
from servable.config.sections import LimitsSection
from servable.gateway.backends import Backends
from servable.gateway.call.calls import Embedded
from servable.gateway.call.methods import METHODS, VERSION
from servable.gateway.call.reply import FailedImage, Row
from servable.gateway.call.request import PredictWork
from servable.gateway.errors import CallError, invalid
from servable.gateway.http.aside import aside
from servable.gateway.http.description import (
    COUNT,
    IMAGE_ERROR,
    JSON,
    PIXEL_URI,
    TEXT,
    VECTOR,
    Description,
    Schema,
    listed,
    or_null,
    record,
)
from servable.gateway.http.errors import HttpError
from servable.gateway.http.images import read_data_uri
from servable.gateway.http.json_text import LONG, most_values_of, read_json, shown
from servable.gateway.http.outcomes import json_answer, json_row, null_wanted, read_work, refuse_failed
from servable.gateway.http.requests import Embed, Request, Response, json_response
from servable.gateway.http.routes import CallRoute, Question, Route

WIRE = "openai"
PARAMETERS = ("model", "input", "encoding_format", "dimensions", "user", "on_error")
OWNER = "metric-learn-serving"


def openai_routes(backends: Backends, limits: LimitsSection) -> Sequence[Route]:
    async def embeddings(request: Request, embed: Embed) -> Response:
        request.query(())
        asked, work = await aside(len(request.body), lambda: _read(request.body, limits.max_instances))
        try:
            embedded = await embed(work)
        except CallError as error:
            if error.status is grpc.StatusCode.NOT_FOUND:
                raise _no_model(asked["model"], backends) from None
            raise
        return await json_answer(lambda: _reply(asked, embedded), embedded)

    def models(request: Request) -> Response:
        request.query(())
        return json_response({"object": "list", "data": [_model(name) for name in _names(backends)]})

    def model(request: Request) -> Response:
        request.query(())
        name = request.parameters["model"]
        if name not in _names(backends):
            raise _no_model(name, backends)
        return json_response(_model(name))

    described = _descriptions(limits)
    return (
        CallRoute(
            "POST", "/v1/embeddings", embeddings, wire=WIRE, version_field="model", description=described["embeddings"]
        ),
        Question("GET", "/v1/models", models, description=described["models"]),
        Question("GET", "/v1/models/{model}", model, description=described["model"]),
    )


def _descriptions(limits: LimitsSection) -> Mapping[str, Description]:
    name: Schema = {"type": "string", "pattern": f"^{SERVABLE_NAME}(@{VERSION})?$", "examples": [SERVABLE_NAME]}
    uri: Schema = {"type": "string", "pattern": "^data:image/[a-z]+;base64,", "examples": [PIXEL_URI]}
    url = {"anyOf": [uri, record({"url": uri}, {"detail": {}})]}
    item = {"anyOf": [uri, record({"image_url": url}, {"type": {"const": "image_url"}})]}
    base64_row = {"type": "string", "contentEncoding": "base64", "description": "little-endian float32"}
    entry = record(
        {
            "object": {"const": "embedding"},
            "index": COUNT,
            "embedding": {"anyOf": [VECTOR, base64_row, {"type": "null"}]},
        },
        {"error": IMAGE_ERROR},
    )
    usage = record({"prompt_tokens": {"const": 0}, "total_tokens": {"const": 0}})
    model = record({"id": name, "object": {"const": "model"}, "created": COUNT, "owned_by": TEXT})
    optional: Mapping[str, Schema] = {
        "encoding_format": or_null({"enum": ["float", "base64"]}),
        "dimensions": or_null({"const": EMBEDDING_DIM}),
        "user": or_null(TEXT),
        "on_error": or_null(
            {"enum": ["fail", "null"], "description": "null: failed pictures are null in a good reply"}
        ),
    }
    several = listed(item, minItems=1, maxItems=limits.max_instances)
    asked = record({"model": name, "input": {"anyOf": [item, several]}}, optional)
    reply = record({"object": {"const": "list"}, "data": listed(entry), "model": name, "usage": usage})
    models = record({"object": {"const": "list"}, "data": listed(model)})
    return {
        "embeddings": Description("Embeddings, as OpenAI's API has them.", {JSON: reply}, {JSON: asked}),
        "models": Description("The models: the default version, and each by its number.", {JSON: models}),
        "model": Description("One of the models.", {JSON: model}, statuses=(404,)),
    }


def _read(body: bytes, most: int) -> tuple[dict[str, Any], PredictWork]:
    """(the parameters beside the pictures, the pictures). Raises CallError."""
    asked = _read_parameters(read_json(body, most_values=most_values_of(most)))
    version = _version_of(asked["model"])
    return asked, read_work(METHODS["embed"], version, _items(asked.pop("input")), _read_item, "input", most)


def _read_parameters(asked: Any) -> dict[str, Any]:
    """The same, its parameters checked but for the pictures. Raises CallError (INVALID_ARGUMENT)."""
    if not isinstance(asked, dict):
        raise invalid("body", "must be a JSON object with model and input")
    for name in asked:
        if name not in PARAMETERS:
            raise invalid(name[:64], f"unknown parameter; known: {', '.join(PARAMETERS)}")
    for name in ("model", "input"):
        if asked.get(name) is None:
            raise invalid(name, "is missing")
    if not isinstance(asked["model"], str):
        raise invalid("model", f"{shown(asked['model'])}; it must be {SERVABLE_NAME!r}")
    if asked.get("encoding_format") not in ("float", "base64", None):
        raise invalid("encoding_format", f"{shown(asked['encoding_format'])}; it must be 'float' or 'base64'")
    dimensions = asked.get("dimensions")
    if dimensions is not None and (isinstance(dimensions, bool) or dimensions != EMBEDDING_DIM):
        raise invalid(
            "dimensions", f"{shown(dimensions)}; it must be {EMBEDDING_DIM}: this model has no shorter embeddings"
        )
    if asked.get("user") is not None and not isinstance(asked["user"], str):
        raise invalid("user", f"{shown(asked['user'])}; it must be text of at most {LONG} characters")
    asked["on_error"] = null_wanted(asked.get("on_error"), "on_error")
    return asked


def _items(given: Any) -> Sequence[Any]:
    """One picture alone is a list of one."""
    if isinstance(given, list):
        if given and all(isinstance(each, (int, float)) for each in given):
            raise invalid("input", "this model embeds pictures, not tokens; send data URIs")
        return given
    return [given]


def _read_item(item: Any, index: int) -> bytes:
    """A data URI, or {"type": "image_url", "image_url": {"url": <data URI>}}, or the same with the URI itself."""
    place = f"input[{index}]"
    if isinstance(item, dict):
        unknown = [name for name in item if name not in ("type", "image_url")]
        if unknown or item.get("type", "image_url") != "image_url" or "image_url" not in item:
            raise invalid(place, 'must be {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,..."}}')
        item = item["image_url"]
        if isinstance(item, dict):
            unknown = [name for name in item if name not in ("url", "detail")]
            if unknown:
                raise invalid(f"{place}.image_url", f"unknown key {unknown[0][:64]!r}; known: url, detail")
            item = item.get("url")
    if not isinstance(item, (str, memoryview)):
        raise invalid(place, f"{shown(item)}; it must be a data URI, or an object with one in image_url")
    return read_data_uri(item, place)


def _reply(asked: dict[str, Any], embedded: Embedded) -> dict[str, Any]:
    if not asked["on_error"]:
        refuse_failed(embedded.outcomes, "input")
    as_text = asked.get("encoding_format") == "base64"
    data = [_entry(index, outcome, as_text) for index, outcome in enumerate(embedded.outcomes)]
    # Tokens are what these numbers count, and a picture has none.
    return {
        "object": "list",
        "data": data,
        "model": asked["model"],
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }


def _entry(index: int, outcome: Union[Row, FailedImage], as_text: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"object": "embedding", "index": index, "embedding": None}
    if isinstance(outcome, FailedImage):
        entry["error"] = {"code": outcome.name, "message": outcome.text}
    else:
        entry["embedding"] = binascii.b2a_base64(outcome, newline=False).decode() if as_text else json_row(outcome)
    return entry


def _names(backends: Backends) -> list[str]:
    """The default version by the model's name alone, each version by name@number."""
    return [SERVABLE_NAME, *(f"{SERVABLE_NAME}@{served.version}" for served in backends.all())]


def _version_of(model: str) -> int:
    """0: the default. Raises HttpError (404) for a model that is none of ours."""
    name, at, number = model.partition("@")
    if name != SERVABLE_NAME or (at and not (re.fullmatch(VERSION, number) and int(number) < 2**31)):
        raise _no_model(model, None)
    return int(number) if at else 0


def _no_model(model: str, backends: Optional[Backends]) -> HttpError:
    names = [SERVABLE_NAME] if backends is None else _names(backends)
    return HttpError(
        404,
        f"the model {model[:64]!r} is not served here; served: {', '.join(names)}",
        status=grpc.StatusCode.NOT_FOUND,
        field="model",
        code="model_not_found",
    )


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}

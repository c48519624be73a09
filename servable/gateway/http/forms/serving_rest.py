"""MindSpore Serving's own REST, and TensorFlow Serving's, whose row form it took over.

POST /model/metric_learn[/version/N]:METHOD with {"instances": [{"image": {"b64": "..."}}]} gives
{"instances": [{"embedding": [...]} or {"error_msg": "E_..."}]}. Source: MindSpore Serving 2.0.2,
ccsrc/master/restful; unlike there a failure has a status of its own (`server.rest_status_always_200`), and broken
base64 gets an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import grpc

from metric_learn_client.wire import ITEM_EMBEDDING, SERVABLE_NAME
from servable.config.sections import LimitsSection
from servable.gateway.call.methods import METHODS, Method
from servable.gateway.call.reply import FailedImage
from servable.gateway.call.request import PredictWork
from servable.gateway.errors import CallError, invalid
from servable.gateway.http.aside import aside
from servable.gateway.http.description import (
    COUNT,
    JSON,
    MODEL,
    PIXEL,
    TEXT,
    VECTOR,
    Description,
    Schema,
    listed,
    record,
)
from servable.gateway.http.errors import plain_error
from servable.gateway.http.images import read_base64
from servable.gateway.http.json_text import most_values_of, read_json, shown
from servable.gateway.http.outcomes import json_answer, json_row, read_work, refuse_failed
from servable.gateway.http.requests import Embed, Request, Response
from servable.gateway.http.routes import CallRoute, Route

WIRE = "rest"
TENSORFLOW_WIRE = "tensorflow"
SIGNATURE = {"signature_name": "serving_default"}  # TensorFlow Serving's clients send it
TYPES = {"embed": "bytes", "embed_pixels": "uint8"}  # of the item, as this REST names them


def serving_rest_routes(limits: LimitsSection, *, always_200: bool) -> Sequence[Route]:
    async def instances(request: Request, embed: Embed) -> Response:
        _check_servable(request)
        embedded = await embed(await _work(request, _method(request), limits.max_instances))
        return await json_answer(lambda: {"instances": [_instance(each) for each in embedded.outcomes]}, embedded)

    async def predictions(request: Request, embed: Embed) -> Response:
        _check_servable(request)
        embedded = await embed(await _work(request, METHODS["embed"], limits.max_instances, SIGNATURE))
        rows = refuse_failed(embedded.outcomes, "instances")
        return await json_answer(lambda: {"predictions": [json_row(each) for each in rows]}, embedded)

    about, about_tensorflow = _describe(limits, always_200)

    def own(path: str) -> Route:
        return CallRoute("POST", path, instances, wire=WIRE, error=_error_msg, always_200=always_200, description=about)

    def tensorflow(path: str) -> Route:
        return CallRoute(
            "POST", path, predictions, wire=TENSORFLOW_WIRE, error=plain_error, description=about_tensorflow
        )

    return (
        own("/model/{servable}:{method}"),
        own("/model/{servable}/version/{version}:{method}"),
        tensorflow("/v1/models/{servable}:predict"),
        tensorflow("/v1/models/{servable}/versions/{version}:predict"),
    )


def _describe(limits: LimitsSection, always_200: bool) -> tuple[Description, Description]:
    """(MindSpore Serving's form, TensorFlow Serving's)."""
    base64: Schema = {"type": "string", "contentEncoding": "base64", "examples": [PIXEL]}
    item = record({"b64": base64}, {"type": {"enum": list(TYPES.values())}, "shape": listed(COUNT)})
    given = {"anyOf": [*(record({method.item: item}) for method in METHODS.values()), item]}
    several = listed(given, minItems=1, maxItems=limits.max_instances)
    asked = {"instances": {"anyOf": [several, given]}}
    signature = {name: {"const": only} for name, only in SIGNATURE.items()}
    failure = record({"error_msg": TEXT})
    reply = record({"instances": listed({"anyOf": [record({ITEM_EMBEDDING: VECTOR}), failure]})})
    path = {
        "servable": MODEL,
        "method": {"enum": sorted(METHODS)},
        "version": {"type": "integer", "minimum": 0, "description": "0: the default"},
    }
    return (
        Description(
            "Embeddings, as MindSpore Serving's REST has them: each instance has its embedding or its error.",
            {JSON: {"anyOf": [reply, failure]} if always_200 else reply},
            {JSON: record(asked)},
            path,
            error=failure,
        ),
        Description(
            "Embeddings, as TensorFlow Serving's row form has them.",
            {JSON: record({"predictions": listed(VECTOR)})},
            {JSON: record(asked, signature)},
            path,
            error=record({"error": TEXT}),
        ),
    )


def _check_servable(request: Request) -> None:
    name = request.parameters["servable"]
    if name != SERVABLE_NAME:
        raise CallError(
            grpc.StatusCode.NOT_FOUND, f"{name[:64]!r}; this server serves {SERVABLE_NAME!r}", field="servable"
        )


def _method(request: Request) -> Method:
    name = request.parameters["method"]
    if name not in METHODS:
        raise CallError(
            grpc.StatusCode.NOT_FOUND,
            f"{name[:64]!r}; {SERVABLE_NAME} has {', '.join(sorted(METHODS))}",
            field="method",
        )
    return METHODS[name]


def _version(request: Request) -> int:
    text = request.parameters.get("version", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**31):
        raise invalid("version", f"{text[:32]!r}; it must be a whole number, or left out for the default")
    return int(text)


async def _work(
    request: Request, method: Method, most: int, beside: Mapping[str, str] = MappingProxyType({})
) -> PredictWork:
    """beside: what may stand beside the instances."""
    request.query(())
    version = _version(request)
    return await aside(len(request.body), lambda: _read_instances(request.body, method, version, most, beside))


def _read_instances(body: bytes, method: Method, version: int, most: int, beside: Mapping[str, str]) -> PredictWork:
    asked = read_json(body, most_values=most_values_of(most))
    for name, only in beside.items() if isinstance(asked, dict) else ():
        given = asked.pop(name, only)
        if given != only:
            raise invalid(name, f"{shown(given)}; it must be {only!r}, or left out")
    if not isinstance(asked, dict) or asked.keys() != {"instances"}:
        raise invalid("body", f'must be {{"instances": [{{"{method.item}": {{"b64": "..."}}}}]}}')
    instances = asked["instances"]
    if isinstance(instances, dict):
        instances = [instances]
    if not isinstance(instances, list):
        raise invalid("instances", "must be a list, or one object")
    return read_work(method, version, instances, lambda item, at: _read_instance(item, at, method), "instances", most)


def _read_instance(instance: Any, index: int, method: Method) -> bytes:
    """{"image": {"b64": ...}}, or {"b64": ...} alone as TensorFlow Serving has it where there is one input."""
    place = f"instances[{index}]"
    if not isinstance(instance, dict):
        raise invalid(place, f'must be an object with {method.item!r}: {{"b64": "..."}}')
    item = instance
    if "b64" not in instance:
        if instance.keys() != {method.item}:
            raise invalid(place, f"must hold {method.item!r} and nothing else; {method.name} takes one input")
        item, place = instance[method.item], f"{place}.{method.item}"
    if not isinstance(item, dict) or not {"b64"} <= item.keys() <= {"b64", "type", "shape"}:
        raise invalid(place, 'must be {"b64": "..."}; beside b64 only type and shape')
    if item.get("type", TYPES[method.name]) != TYPES[method.name]:
        raise invalid(f"{place}.type", f"{shown(item['type'])}; it must be {TYPES[method.name]!r}")
    shape = item.get("shape", list(method.shapes[0]))
    if not isinstance(shape, list) or tuple(shape) not in method.shapes:
        raise invalid(f"{place}.shape", f"{shown(shape)}; it must be {list(method.shapes[0])}")
    text = item["b64"]
    if not isinstance(text, (str, memoryview)):
        raise invalid(f"{place}.b64", "must be text")
    payload = read_base64(text)
    if method.size_bytes and len(payload) != method.size_bytes:
        raise invalid(f"{place}.b64", f"{len(payload)} bytes; {method.name} takes {method.size_bytes}")
    return payload


def _instance(outcome: Any) -> dict[str, Any]:
    return {"error_msg": outcome.text} if isinstance(outcome, FailedImage) else {ITEM_EMBEDDING: json_row(outcome)}


def _error_msg(_status: int, error: CallError) -> dict[str, Any]:
    return {"error_msg": error.message}

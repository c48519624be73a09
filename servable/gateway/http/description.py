"""What a route says of itself for GET /openapi.json, and the schemas that several routes share. Pure.

OpenAPI 3.1: https://spec.openapis.org/oas/v3.1.0; its schemas are JSON Schema 2020-12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metric_learn_client.wire import EMBEDDING_DIM, SERVABLE_NAME

Schema = Mapping[str, Any]
JSON = "application/json"
# A grey PNG of one pixel, for examples that work.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNoaGgAAAMEAYFL09IQAAAAAElFTkSuQmCC"
PIXEL_URI = f"data:image/png;base64,{PIXEL}"


def listed(items: Schema, **limits: Any) -> Schema:
    return {"type": "array", "items": items, **limits}


def record(required: Mapping[str, Schema], optional: Mapping[str, Schema] = {}, **more: Any) -> Schema:
    """An object with these properties and no other."""
    properties = {**required, **optional}
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
        **more,
    }


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
BYTES: Schema = {"type": "string", "format": "binary"}
MODEL: Schema = {"type": "string", "const": SERVABLE_NAME}
VECTOR: Schema = listed({"type": "number"}, minItems=EMBEDDING_DIM, maxItems=EMBEDDING_DIM)
IMAGE_ERROR: Schema = record({"code": {"type": "string", "pattern": "^E_[A-Z_]+$"}, "message": TEXT})


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


OPENAI_ERROR: Schema = record(
    {"error": record({"message": TEXT, "type": TEXT, "param": or_null(TEXT), "code": or_null(TEXT)})}
)


@dataclass(frozen=True)
class Description:
    """What the registry does not know: it has the path, and who may call.

    body, replies: media type -> schema, of the request and of a reply of 200. path, query: parameter -> schema.
    error: of the body of every failure. statuses: beside those that all routes of its kind have.
    """

    summary: str = ""
    replies: Mapping[str, Schema] = field(default_factory=dict)
    body: Mapping[str, Schema] = field(default_factory=dict)
    path: Mapping[str, Schema] = field(default_factory=dict)
    query: Mapping[str, Schema] = field(default_factory=dict)
    error: Schema = field(default_factory=lambda: OPENAI_ERROR)
    statuses: Sequence[int] = ()
    may_be_empty: bool = False  # a request without a body has an answer of its own

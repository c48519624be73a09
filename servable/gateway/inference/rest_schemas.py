"""What the protocol's paths say of themselves in GET /openapi.json. Pure."""

from __future__ import annotations

from servable.config.sections import LimitsSection
from servable.gateway.call.methods import VERSION
from servable.gateway.http.description import (
    BYTES,
    COUNT,
    FLAG,
    JSON,
    MODEL,
    PIXEL,
    TEXT,
    Description,
    Schema,
    listed,
    or_null,
    record,
)
from servable.gateway.inference.rest import BINARY_DATA, BINARY_OUTPUT, BINARY_SIZE, HEADER_LENGTH
from servable.gateway.inference.tensors import INPUTS, MAX_ID_CHARACTERS, ON_ERROR, OUTPUT

OCTETS = "application/octet-stream"
_ERROR = record({"error": TEXT})
_NUMBER: Schema = {"type": "integer"}
_VERSION: Schema = {"type": "string", "pattern": f"^{VERSION}$"}
_PATH = {"model": MODEL, "version": _VERSION}
_TENSOR = record({"name": TEXT, "datatype": TEXT, "shape": listed(_NUMBER)})
_SIZE = or_null(record({}, {BINARY_SIZE: COUNT}))
_YES: Schema = {"const": True}

SERVER = Description(
    "Open Inference Protocol: the server.",
    {JSON: record({"name": TEXT, "version": TEXT, "extensions": listed(TEXT)})},
    error=_ERROR,
    statuses=(401,),
)
LIVE = Description("Open Inference Protocol: whether the server runs.", {JSON: record({"live": _YES})}, error=_ERROR)
READY = Description(
    "Open Inference Protocol: whether the server is ready; 503 where not.",
    {JSON: record({"ready": _YES})},
    error=_ERROR,
    statuses=(503,),
)
MODEL_READY = Description(
    "Open Inference Protocol: whether the version is ready; 503 where not.",
    {JSON: record({"name": MODEL, "ready": _YES})},
    path=_PATH,
    error=_ERROR,
    statuses=(404, 503),
)
MODEL_METADATA = Description(
    "Open Inference Protocol: the model's versions and tensors.",
    {
        JSON: record(
            {
                "name": MODEL,
                "versions": listed(_VERSION),
                "platform": TEXT,
                "inputs": listed(_TENSOR),
                "outputs": listed(_TENSOR),
            }
        )
    },
    path=_PATH,
    error=_ERROR,
    statuses=(401, 404),
)


def _images(count: int) -> Schema:
    """So many files inside the JSON: a schema can say that shape and data agree only for a number of its own."""
    file: Schema = {"type": "string", "contentEncoding": "base64", "examples": [PIXEL]}
    data = listed(file, minItems=count, maxItems=count)
    return record(
        {"name": {"const": "image"}, "datatype": {"const": "BYTES"}, "shape": {"const": [count]}, "data": data},
        {"parameters": or_null(record({}))},
        examples=[{"name": "image", "datatype": "BYTES", "shape": [count], "data": [PIXEL] * count}],
    )


def _many(most: int) -> Schema:
    """Any number of files or pixels, inside the JSON or behind it."""
    return record(
        {
            "name": {"enum": [each.name for each in INPUTS.values()]},
            "datatype": {"enum": [each.datatype for each in INPUTS.values()]},
            "shape": listed({**_NUMBER, "minimum": 1, "maximum": most}, minItems=1, maxItems=4),
        },
        {"data": listed({}, description="base64 or data URIs of files; or numbers"), "parameters": _SIZE},
    )


def describe_infer(limits: LimitsSection) -> Description:
    tensor = {"anyOf": [*(_images(count) for count in (1, 2)), _many(limits.max_instances)]}
    output = record({"name": {"const": OUTPUT.name}}, {"parameters": or_null(record({}, {BINARY_DATA: FLAG}))})
    parameters = record({}, {BINARY_OUTPUT: FLAG, ON_ERROR: {"enum": ["fail", "null", None]}})
    identifier: Schema = {"type": "string", "maxLength": MAX_ID_CHARACTERS}
    request = record(
        {"inputs": listed(tensor, minItems=1, maxItems=1)},
        {
            "id": or_null(identifier),
            "model_name": or_null(MODEL),
            "outputs": or_null(listed(output, maxItems=1)),
            "parameters": or_null(parameters),
        },
    )
    row: Schema = listed({"type": ["number", "null"]}, minItems=OUTPUT.shape[0])
    answered: Schema = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"const": OUTPUT.name},
            "datatype": {"const": OUTPUT.datatype},
            "shape": listed(COUNT, minItems=2, maxItems=2),
            "data": row,
            "parameters": {"type": "object"},
        },
        "additionalProperties": False,
    }
    reply = record(
        {"model_name": MODEL, "model_version": _VERSION, "outputs": listed(answered, minItems=1, maxItems=1)},
        {"id": identifier},
    )
    return Description(
        f"Open Inference Protocol: embeddings. Behind the JSON, if {HEADER_LENGTH} says its length, a binary tensor.",
        {JSON: reply, OCTETS: BYTES},
        {JSON: request},
        path=_PATH,
        error=_ERROR,
    )

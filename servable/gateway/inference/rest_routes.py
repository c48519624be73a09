"""The protocol's paths on the HTTP port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable, Optional

from metric_learn_client.wire import SERVABLE_NAME
from servable.config.sections import LimitsSection
from servable.gateway.backends import Backends, Served
from servable.gateway.call.model_service import resolve
from servable.gateway.http.errors import plain_error
from servable.gateway.http.requests import Embed, Request, Response, json_response
from servable.gateway.http.routes import Call, Question, Route
from servable.gateway.inference import rest
from servable.gateway.inference.tensors import check_model

WIRE = "oip"
_MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")


def inference_routes(
    backends: Backends, limits: LimitsSection, ready: Callable[[Optional[Served]], bool]
) -> Sequence[Route]:
    """ready: whether a version is, None for the default one. It is told to everybody, as by the pages for probes."""

    def served_by(parameters: Mapping[str, str]) -> Served:
        return resolve(backends, _version(parameters), "version")

    async def infer(request: Request, embed: Embed) -> Response:
        request.query(())
        header_length = request.headers.get(rest.HEADER_LENGTH.lower())
        asked = await rest.read_request(request.body, header_length, _version(request.parameters), limits)
        return rest.encode_response(asked, await embed(asked))

    def describe_server(request: Request) -> Response:
        return json_response(rest.describe_server())

    def describe_model(request: Request) -> Response:
        served_by(request.parameters)
        return json_response(rest.describe_model([served.version for served in backends.all()]))

    def live(request: Request) -> Response:
        return json_response({"live": True})

    def server_ready(request: Request) -> Response:
        return _ready({"ready": ready(None)})

    def model_ready(request: Request) -> Response:
        return _ready({"name": SERVABLE_NAME, "ready": ready(served_by(request.parameters))})

    return (
        Question("GET", "/v2", describe_server, error=plain_error),
        Question("GET", "/v2/health/live", live, public=True, error=plain_error),
        Question("GET", "/v2/health/ready", server_ready, public=True, error=plain_error),
        *(Question("GET", path, describe_model, error=plain_error) for path in _MODEL),
        *(Question("GET", f"{path}/ready", model_ready, public=True, error=plain_error) for path in _MODEL),
        *(Call("POST", f"{path}/infer", infer, wire=WIRE, error=plain_error) for path in _MODEL),
    )


def _version(parameters: Mapping[str, str]) -> int:
    return check_model(parameters["model"], parameters.get("version", ""))


def _ready(answer: Mapping[str, object]) -> Response:
    return json_response(answer, status=200 if answer["ready"] else 503)

"""The protocol's paths on the HTTP port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable, Optional

from metric_learn_client.wire import SERVABLE_NAME
from servable.config.sections import LimitsSection
from servable.gateway.backends import Backends, Served
from servable.gateway.call.model_service import resolve
from servable.gateway.errors import RETRY_AFTER_MS, unavailable
from servable.gateway.http.aside import aside
from servable.gateway.http.description import Description
from servable.gateway.http.errors import plain_error
from servable.gateway.http.outcomes import json_size
from servable.gateway.http.requests import Embed, Request, Response, json_response
from servable.gateway.http.routes import CallRoute, Question, Route
from servable.gateway.inference import rest
from servable.gateway.inference.rest_schemas import LIVE, MODEL_METADATA, MODEL_READY, READY, SERVER, describe_infer
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
        version = _version(request.parameters)
        asked = await aside(len(request.body), lambda: rest.read_request(request.body, header_length, version, limits))
        embedded = await embed(asked)
        return await aside(json_size(embedded), lambda: rest.encode_response(asked, embedded))

    def describe_server(_request: Request) -> Response:
        return json_response(rest.describe_server())

    def describe_model(request: Request) -> Response:
        served_by(request.parameters)
        return json_response(rest.describe_model([served.version for served in backends.all()]))

    def live(_request: Request) -> Response:
        return json_response({"live": True})

    def server_ready(_request: Request) -> Response:
        return _ready(ready(None))

    def model_ready(request: Request) -> Response:
        return _ready(ready(served_by(request.parameters)), name=SERVABLE_NAME)

    def question(path: str, handler: Callable[[Request], Response], about: Description, public: bool = False) -> Route:
        return Question("GET", path, handler, public=public, error=plain_error, description=about)

    about_infer = describe_infer(limits)
    return (
        question("/v2", describe_server, SERVER),
        question("/v2/health/live", live, LIVE, public=True),
        question("/v2/health/ready", server_ready, READY, public=True),
        *(question(path, describe_model, MODEL_METADATA) for path in _MODEL),
        *(question(f"{path}/ready", model_ready, MODEL_READY, public=True) for path in _MODEL),
        *(
            CallRoute("POST", f"{path}/infer", infer, wire=WIRE, error=plain_error, description=about_infer)
            for path in _MODEL
        ),
    )


def _version(parameters: Mapping[str, str]) -> int:
    return check_model(parameters["model"], parameters.get("version", ""))


def _ready(ready: bool, **more: str) -> Response:
    """Raises CallError (UNAVAILABLE) where it is not; the reason is not told to everybody."""
    if not ready:
        raise unavailable("not ready; the page /readyz of server.http_address says why", RETRY_AFTER_MS)
    return json_response({**more, "ready": True})

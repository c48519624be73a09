"""All that the API answers: the routes of every form, in one registry. A new form is added here."""

from __future__ import annotations

from servable.config.sections import Config
from servable.gateway.backends import Backends
from servable.gateway.http.openai import openai_routes
from servable.gateway.http.routes import Routes
from servable.gateway.http.serving_rest import serving_rest_routes
from servable.gateway.http.upload import upload_routes


def api(settings: Config, backends: Backends) -> Routes:
    return Routes(
        [
            *openai_routes(backends, settings.limits),
            *upload_routes(settings.limits),
            *serving_rest_routes(settings.limits, always_200=settings.server.rest_status_always_200),
        ]
    )

"""All that the API answers: the routes of every form, in one registry. A new form is added here."""

from __future__ import annotations

from typing import Callable, Optional

from servable.config.sections import Config
from servable.gateway.backends import Backends, Served
from servable.gateway.http.forms.openai import openai_routes
from servable.gateway.http.forms.openapi import openapi_routes
from servable.gateway.http.forms.page import PageState, page_routes
from servable.gateway.http.forms.serving_rest import serving_rest_routes
from servable.gateway.http.forms.upload import upload_routes
from servable.gateway.http.routes import Routes
from servable.gateway.inference.rest_routes import inference_routes
from servable.gateway.security.tokens import Tokens


def api(
    settings: Config,
    backends: Backends,
    tokens: Optional[Tokens],
    state: PageState,
    ready: Callable[[Optional[Served]], bool],
) -> Routes:
    """ready: whether a version is, None for the default one."""
    routes = [
        *openai_routes(backends, settings.limits),
        *upload_routes(settings.limits),
        *serving_rest_routes(settings.limits, always_200=settings.server.rest_status_always_200),
        *inference_routes(backends, settings.limits, ready),
        *page_routes(settings, backends, tokens, state),
    ]
    return Routes([*routes, *openapi_routes(routes)])

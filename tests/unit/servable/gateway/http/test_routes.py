"""The registry of paths, and what two programs could read in two ways."""

import pytest

from servable.gateway.http.errors import HTTP_STATUS, HttpError
from servable.gateway.http.http_connection import ambiguous
from servable.gateway.http.requests import Response
from servable.gateway.http.routes import CallRoute, Question, Routes


async def call(request, embed):
    return Response(b"")


def question(request):
    return Response(b"")


ROUTES = Routes(
    [
        CallRoute("POST", "/v1/models/{model}:predict", call, wire="a"),
        CallRoute("POST", "/model/{name}/version/{version}:{method}", call, wire="b"),
        Question("GET", "/v1/models/{model}", question),
        Question("GET", "/v1/models", question),
        Question("DELETE", "/v1/models", question),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "template", "parameters"),
    [
        ("GET", "/v1/models", "/v1/models", {}),
        ("HEAD", "/v1/models", "/v1/models", {}),
        ("GET", "/v1/models/a@2", "/v1/models/{model}", {"model": "a@2"}),
        ("POST", "/v1/models/a:predict", "/v1/models/{model}:predict", {"model": "a"}),
        (
            "POST",
            "/model/version/version/3:embed",
            "/model/{name}/version/{version}:{method}",
            {"name": "version", "version": "3", "method": "embed"},
        ),
    ],
)
def test_a_path_finds_its_route_and_its_parameters(method, path, template, parameters):
    route, found = ROUTES.find(method, path)
    assert (route.path, found) == (template, parameters)


@pytest.mark.parametrize("path", ["/", "/v1/models/", "/v1/models/a/b", "/v1/models/a:b:predict", "/V1/models", ""])
def test_an_unknown_path_is_not_found_and_known_ones_are_told(path):
    with pytest.raises(HttpError, match=r"/v1/models/{model}:predict") as caught:
        ROUTES.find("GET", path)
    assert caught.value.http_status == 404


def test_another_verb_is_told_which_are_there():
    with pytest.raises(HttpError) as caught:
        ROUTES.find("PUT", "/v1/models")
    assert caught.value.http_status == 405 and caught.value.headers == {"allow": "DELETE, GET, HEAD"}


def test_two_handlers_of_one_path_and_verb_are_a_mistake():
    with pytest.raises(ValueError, match="GET /a is there twice"):
        Routes([Question("GET", "/a", question), Question("GET", "/a", question)])


def test_every_status_of_grpc_has_one_of_http():
    import grpc

    assert set(HTTP_STATUS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize(
    ("version", "headers", "fine"),
    [
        ("1.1", "host:a", True),
        ("1.0", "", True),
        ("1.1", "host:a content-length:12", True),
        ("1.1", "host:a transfer-encoding:Chunked expect:100-Continue", True),
        ("1.1", "", False),
        ("1.1", "host:a host:a", False),
        ("2.0", "host:a", False),
        ("0.9", "", False),
        ("1.0", "host:a transfer-encoding:chunked", False),
        ("1.1", "host:a content-length:1 content-length:1", False),
        ("1.1", "host:a content-length:1 transfer-encoding:chunked", False),
        ("1.1", "host:a transfer-encoding:chunked transfer-encoding:chunked", False),
        ("1.1", "host:a transfer-encoding:gzip", False),
        ("1.1", "host:a content-length:", False),
        ("1.1", "host:a content-length:\u00b2", False),
        ("1.1", "host:a content-length:1_0", False),
        ("1.1", "host:a content-length:9999999999999999999", False),
        ("1.1", "host:a expect:200-ok", False),
    ],
)
def test_only_what_everybody_reads_alike_is_read(version, headers, fine):
    pairs = [tuple(part.encode().split(b":", 1)) for part in headers.split(" ") if part]
    assert (ambiguous(pairs, version) == "") is fine

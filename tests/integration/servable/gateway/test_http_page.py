"""The page, what its script asks for, and /openapi.json: what is told to whom."""

import json

import pytest

from servable.gateway.http.description import Description
from servable.gateway.http.forms.page import PAGE
from tests.integration.servable.gateway.harness import Harness, config_of

TOKEN = "a-token-of-16-or-more"


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory):
    with Harness(tmp_path_factory.mktemp("open")) as harness:
        yield harness


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    tokens = folder / "tokens"
    tokens.touch(0o600)
    tokens.write_text(TOKEN)
    with Harness(folder, config_of(security={"tokens_file": str(tokens)})) as harness:
        yield harness


def test_the_page_comes_with_its_policy_and_is_in_no_frame(open_to_all):
    status, headers, body = open_to_all.api("GET", "/")
    assert (status, body, headers["content-type"]) == (200, PAGE, "text/html; charset=utf-8")
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    assert headers["referrer-policy"] == "no-referrer"


def test_whoever_asks_is_told_what_is_served_where_there_are_no_tokens(open_to_all):
    answer = json.loads(open_to_all.api("GET", "/model/metric_learn")[2])
    assert (answer["ready"], answer["reason"], answer["token_required"]) == (True, "", False)
    assert open_to_all.address.endswith(f":{answer['grpc_port']}")
    model = answer["model"]
    assert (model["name"], model["version"], model["versions"], model["dim"]) == ("metric_learn", 1, [1], 2048)
    assert (model["fingerprint"], model["weights"]) == ("f" * 64, "stand-in")
    assert model["max_instances"] == open_to_all.settings.limits.max_instances


def test_without_a_token_only_the_state_is_told_where_tokens_are_wanted(with_tokens):
    answer = json.loads(with_tokens.api("GET", "/model/metric_learn")[2])
    assert answer.pop("grpc_port")
    assert answer == {"ready": True, "reason": "", "token_required": True, "model": None}
    assert with_tokens.api("GET", "/")[0] == 200
    assert with_tokens.api("GET", "/openapi.json")[0] == 200


def test_a_valid_token_is_told_what_is_served_and_a_wrong_one_is_refused(with_tokens):
    status, _, body = with_tokens.api("GET", "/model/metric_learn", headers={"authorization": f"Bearer {TOKEN}"})
    assert (status, json.loads(body)["model"]["weights"]) == (200, "stand-in")
    assert (
        with_tokens.api("GET", "/model/metric_learn", headers={"authorization": "Bearer of-something-else"})[0] == 401
    )


def test_a_server_that_is_starting_says_why_it_is_not_ready(tmp_path):
    with Harness(tmp_path, start_backend=False) as harness:
        answer = json.loads(harness.api("GET", "/model/metric_learn")[2])
    assert not answer["ready"] and "version 1" in answer["reason"]
    assert answer["model"] is None


def test_the_document_describes_every_route_and_no_other(open_to_all):
    document = json.loads(open_to_all.api("GET", "/openapi.json")[2])
    routes = open_to_all.gateway._api._config.app._routes.all
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in routes}
    assert [route.path for route in routes if route.description == Description()] == []


def test_the_document_says_which_routes_want_a_token(open_to_all):
    paths = json.loads(open_to_all.api("GET", "/openapi.json")[2])["paths"]
    assert paths["/embed"]["post"]["security"] == [{}, {"token": []}]
    assert paths["/"]["get"]["security"] == []

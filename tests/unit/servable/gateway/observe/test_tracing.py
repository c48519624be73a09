"""Where spans may go."""

import pytest

from servable.config.problem import exit_code
from servable.config.sections import Config
from servable.gateway.observe.tracing import tracing_problems


def problems(endpoint, enabled=True):
    return list(tracing_problems(Config(tracing={"enabled": enabled, "otlp_endpoint": endpoint})))


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:4317", "HTTPS://collector", "https://[::1]:4317/", "http://a.b:1"]
)
def test_http_and_https_with_a_host_are_taken(endpoint):
    assert problems(endpoint) == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://[::1:4317",
        "http://\u2100:4317",
        "localhost:4317",
        "ftp://x",
        "unix:/socket",
        "http://",
        "http://:4317",
        "http://x:0",
        "http://x:99999",
        "http://x:port",
        "http://x y:4317",
        "",
    ],
)
def test_anything_else_is_refused_where_tracing_is_on(endpoint):
    (problem,) = problems(endpoint)
    assert f"tracing.otlp_endpoint = {endpoint}: must be http:// or https://" in problem.text
    assert exit_code([problem]) == 2
    assert problems(endpoint, enabled=False) == []

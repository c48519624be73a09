"""Which endpoints go through a proxy, and how it is named."""

import pytest

from metric_learn_client import EmbeddingClient
from metric_learn_client._client.channels import channel_options
from metric_learn_client._client.core.proxies import proxy_of

PROXY = {"http_proxy": "http://user:secret@proxy.corp:3128"}


@pytest.mark.parametrize(
    "endpoint",
    [
        "127.0.0.1:5500",
        "[::1]:5500",
        "localhost:5500",
        "unix:/run/x",
        "dns:///localhost:5500",
        "ipv4:127.0.0.1:5500",
    ],
)
def test_what_is_on_this_machine_never_goes_through_a_proxy(endpoint):
    assert proxy_of(endpoint, {**PROXY, "grpc_proxy": "http://p:1", "https_proxy": "http://p:1"}) is None


def test_a_proxy_is_named_with_its_variable_and_without_its_password():
    assert proxy_of("svc.example:5500", PROXY) == "http://proxy.corp:3128 (http_proxy)"
    assert proxy_of("10.1.2.3:5500", {"https_proxy": "http://p", **PROXY}) == "http://p:443 (https_proxy)"
    assert proxy_of("dns:///svc:5500", {"grpc_proxy": "http://p:1", **PROXY}) == "http://p:1 (grpc_proxy)"


@pytest.mark.parametrize("value", ["", "socks5://p:1", "https://p:1", "proxy.corp:3128", "http://", "http://p:port"])
def test_what_grpc_takes_for_no_proxy_is_none(value):
    assert proxy_of("svc:5500", {"http_proxy": value}) is None


@pytest.mark.parametrize(
    ("endpoint", "excluded", "direct"),
    [
        ("svc.example:1", "example", True),
        ("svc.example:1", " .EXAMPLE , other", True),
        ("svc.example:1", "*.example", True),
        ("svc.example:1", "*", True),
        ("svc.example:1", "other", False),
        ("10.1.2.3:1", "10.0.0.0/8", True),
        ("10.1.2.3:1", "10.1.2.3", True),
        ("10.1.2.3:1", "192.168.0.0/16,x", False),
        ("[fd00::1]:1", "fd00::/8", True),
        ("dns:///svc.example:1", "example", True),
    ],
)
def test_no_proxy_is_read_as_names_addresses_and_networks(endpoint, excluded, direct):
    assert (proxy_of(endpoint, {**PROXY, "no_proxy": excluded}) is None) == direct
    assert (proxy_of(endpoint, {**PROXY, "no_grpc_proxy": excluded, "no_proxy": "*"}) is None) == direct


def test_a_token_in_plain_text_is_refused_with_the_proxy_that_would_read_it(monkeypatch):
    monkeypatch.setenv("http_proxy", PROXY["http_proxy"])
    with pytest.raises(ValueError, match=r"read by the proxy http://proxy.corp:3128 \(http_proxy\)") as caught:
        EmbeddingClient("svc.example:1", token="t")
    assert "secret" not in str(caught.value)
    EmbeddingClient("127.0.0.1:1", token="t")


def test_a_name_behind_a_proxy_is_the_proxys_to_look_up(monkeypatch):
    monkeypatch.setenv("http_proxy", PROXY["http_proxy"])
    client = EmbeddingClient("svc.example:1,127.0.0.1:1")
    assert client._core.pool.unresolved(0.0) is None
    proxied, direct = client._core.pool.targets
    assert str(proxied) == "svc.example:1 through the proxy http://proxy.corp:3128 (http_proxy)"
    assert ("grpc.enable_http_proxy", 1) in channel_options(proxied, None)
    assert ("grpc.enable_http_proxy", 0) in channel_options(direct, None)

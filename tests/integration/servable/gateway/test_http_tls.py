"""TLS on the API's port: the same files as gRPC's, read again for both, and mutual TLS as there."""

import contextlib
import socket
import ssl
import time
import warnings

import pytest
import trustme

from servable.gateway import listener
from tests.integration.servable.gateway.harness import Harness, config_of, until
from tests.integration.servable.gateway.test_security import Files, call, client_credentials, replace

LOCALHOST = {"address": "localhost:0", "api_address": "localhost:0"}


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def trusting(authority, leaf=None):
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    if leaf is not None:
        leaf.configure_cert(context)
    return context


def embedded(harness, context):
    return harness.api("POST", "/embed", b"abc", context=context)[0]


def test_tls_with_the_right_ca_and_http_1_1_alone(tmp_path, files):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls())) as harness:
        context = trusting(files.authority)
        assert embedded(harness, context) == 200
        with pytest.raises(ssl.SSLError):
            embedded(harness, trusting(trustme.CA()))
        context.set_alpn_protocols(["h2", "http/1.1"])
        with harness.api_socket() as plain, context.wrap_socket(plain, server_hostname="localhost") as spoken:
            assert spoken.selected_alpn_protocol() == "http/1.1" and spoken.version() in ("TLSv1.2", "TLSv1.3")


def test_old_versions_of_tls_are_not_spoken(tmp_path, files):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls())) as harness:
        context = trusting(files.authority)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer Pythons warn of the name alone
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            embedded(harness, context)


def test_mutual_tls_takes_certificates_of_the_configured_ca_and_no_other(tmp_path, files):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls(mutual=True))) as harness:
        leaf = files.authority.issue_cert("client@example.org")
        assert embedded(harness, trusting(files.authority, leaf)) == 200
        for wrong in (None, trustme.CA().issue_cert("client@example.org")):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                embedded(harness, trusting(files.authority, wrong))


def test_a_renewed_certificate_serves_the_next_connection_of_both_ports(tmp_path, files):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls())) as harness:
        assert embedded(harness, trusting(files.authority)) == 200
        new = trustme.CA()
        files.issue("localhost", authority=new)
        for _ in range(2):  # each port asks for itself: neither hides the change from the other
            assert embedded(harness, trusting(new)) == 200
            assert call(harness, client_credentials(files, new))[0].instances
        assert 'metric_learn_security_reloads_total{result="ok"} 1.0' in harness.http("/metrics")[1]


def test_a_new_client_ca_takes_the_place_of_the_old_one(tmp_path, files):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls(mutual=True))) as harness:
        other = trustme.CA()
        old, new = (each.issue_cert("client@example.org") for each in (files.authority, other))
        assert embedded(harness, trusting(files.authority, old)) == 200
        replace(files.ca, other.cert_pem.bytes())
        assert embedded(harness, trusting(files.authority, new)) == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            embedded(harness, trusting(files.authority, old))


def test_connections_that_never_greet_give_way_and_end(tmp_path, files, monkeypatch):
    monkeypatch.setattr(listener, "HANDSHAKE_S", 0.5)
    limits = {"max_connections": 16}
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls(), limits=limits)) as harness:
        with contextlib.ExitStack() as stack:
            silent = [stack.enter_context(harness.api_socket()) for _ in range(40)]
            assert embedded(harness, trusting(files.authority)) == 200
            assert len(harness.gateway._api._listener.open) <= 16
            for each in silent[:20]:
                with contextlib.suppress(ConnectionError):
                    assert each.recv(1) == b""
            until(lambda: not harness.gateway._api._listener.open, "the end of all handshakes", 5)


def test_plain_text_on_a_tls_port_gets_no_answer_and_ends(tmp_path, files):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls())) as harness:
        with harness.api_socket() as plain:
            began = time.monotonic()
            plain.sendall(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
            with contextlib.suppress(ConnectionError, socket.timeout):
                assert not plain.recv(100).startswith(b"HTTP")
            assert time.monotonic() - began < 5

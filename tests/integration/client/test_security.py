"""TLS and tokens: the right ones work, each wrong one is its own clear error within five seconds."""

import time
from types import SimpleNamespace

import grpc
import pytest
import trustme

from metric_learn_client import AuthenticationError, TlsOptions, UnreachableError
from metric_learn_client.testing import FakeServable


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pem")
    ca, other = trustme.CA(), trustme.CA()
    server = ca.issue_cert("localhost", "127.0.0.1")
    elsewhere = ca.issue_cert("elsewhere.test")
    client, stranger = ca.issue_cert("client@test"), other.issue_cert("client@test")
    files = SimpleNamespace()
    for name, blob in {
        "ca": ca.cert_pem,
        "other_ca": other.cert_pem,
        "cert": client.cert_chain_pems[0],
        "key": client.private_key_pem,
        "stranger_cert": stranger.cert_chain_pems[0],
        "stranger_key": stranger.private_key_pem,
    }.items():
        path = folder / f"{name}.pem"
        path.write_bytes(blob.bytes())
        setattr(files, name, path)

    def credentials(issued, demand):
        pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
        return grpc.ssl_server_credentials([pair], ca.cert_pem.bytes() if demand else None, demand)

    files.one_way, files.mutual = credentials(server, False), credentials(server, True)
    files.elsewhere = credentials(elsewhere, False)
    return files


def refused(make_client, endpoint, tls, kind=AuthenticationError, **options):
    started = time.monotonic()
    with make_client(endpoint, tls=tls, deadline_s=4, retries=1, **options) as client:
        with pytest.raises(kind) as caught:
            client.embed([b"a"])
    assert time.monotonic() - started < 8  # twice deadline_s
    return str(caught.value)


def test_tls_mutual_tls_and_a_token_are_accepted(make_client, pem):
    tls = TlsOptions(pem.ca, pem.cert, pem.key)
    with FakeServable(credentials=pem.mutual, token="right") as server:
        with make_client(server.endpoint, tls=tls, token="right") as client:
            assert client.is_ready() and client.embed([b"a"]).ok.all()
    with FakeServable(credentials=pem.one_way) as server:
        with make_client(server.endpoint, tls=TlsOptions(ca_file=str(pem.ca))) as client:
            assert client.embed([b"a"]).ok.all()


def test_another_authority_is_refused(make_client, pem):
    with FakeServable(credentials=pem.one_way) as server:
        assert "ca_file" in refused(make_client, server.endpoint, TlsOptions(pem.other_ca))
        assert "ca_file" in refused(make_client, server.endpoint, True)


def test_an_endpoint_whose_certificate_is_refused_is_left_out_while_another_answers(make_client, pem):
    with FakeServable(credentials=pem.one_way) as good, FakeServable(credentials=pem.elsewhere) as wrong:
        with make_client([good.endpoint, wrong.endpoint], tls=TlsOptions(pem.ca), deadline_s=20) as client:
            for _ in range(10):
                assert client.embed([b"a"]).ok.all()
    assert (good.calls, wrong.calls) == (10, 0)


def test_another_name_is_refused_unless_it_is_the_expected_one(make_client, pem):
    with FakeServable(credentials=pem.elsewhere) as server:
        assert "server_name" in refused(make_client, server.endpoint, TlsOptions(pem.ca))
        with make_client(server.endpoint, tls=TlsOptions(pem.ca, server_name="elsewhere.test")) as client:
            assert client.embed([b"a"]).ok.all()


def test_no_certificate_and_a_strangers_are_refused_where_one_is_demanded(make_client, pem):
    with FakeServable(credentials=pem.mutual) as server:
        for tls in (TlsOptions(pem.ca), TlsOptions(pem.ca, pem.stranger_cert, pem.stranger_key)):
            message = refused(make_client, server.endpoint, tls, (AuthenticationError, UnreachableError))
            assert server.endpoint in message


def test_plain_text_to_a_tls_port_is_an_error_in_time(make_client, pem):
    with FakeServable(credentials=pem.one_way) as server:
        refused(make_client, server.endpoint, None, UnreachableError)
    with FakeServable() as server:
        refused(make_client, server.endpoint, TlsOptions(pem.ca), (AuthenticationError, UnreachableError))


def test_a_missing_or_wrong_token_is_said_without_a_retry_and_without_the_token(make_client):
    with FakeServable(token="right") as server:
        for options in ({}, {"token": "wrong"}):
            message = refused(make_client, server.endpoint, None, AuthenticationError, **options)
            assert "UNAUTHENTICATED" in message and "wrong " not in message and "right" not in message
        assert server.calls == 0  # GetModel, asked first, was refused already


def test_a_rotated_token_is_used_without_a_new_client(make_client, tmp_path):
    path = tmp_path / "token"
    path.write_text("old")
    with FakeServable(token="old") as server, make_client(server.endpoint, token_file=path) as client:
        client.embed([b"a"])
        server._token = "new"
        with pytest.raises(AuthenticationError):
            client.embed([b"a"])
        path.write_text("new")
        assert client.embed([b"a"]).ok.all()

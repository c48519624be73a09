"""The real server with mutual TLS and tokens: the right credentials open it, each wrong one has its own clear error.

Both sides are looked at: what the client raises, and what the server says when its own files are wrong.
"""

import datetime
import os
import ssl
import subprocess
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from metric_learn_client import EmbeddingClient, EndpointError, TlsOptions, wire
from tests.patience import patient

from .conftest import ONE_SIZE, REPOSITORY, VERSIONS, start, stop
from .load import EXPECTED, IMAGES
from .processes import wait_until
from .test_http_api import ask

TOKEN, SECOND_TOKEN = "first-token-of-16-or-more", "second-token-of-16-or-more"


class Files:
    """Two authorities (servers', clients') and what they issued, as PEM files in `folder`."""

    def __init__(self, folder):
        self.folder = folder
        self.servers, self.clients = trustme.CA(), trustme.CA()
        self.ca = self.write("servers.pem", self.servers.cert_pem)
        self.client_ca = self.write("clients.pem", self.clients.cert_pem)
        self.server = self.pair("server", self.servers.issue_cert("127.0.0.1"))
        self.client = self.pair("client", self.clients.issue_cert("someone@example.org"))
        self.tokens = folder / "tokens"
        self.tokens.write_text(f"{TOKEN}\n{SECOND_TOKEN}\n")
        self.tokens.chmod(0o600)

    def write(self, name, *blobs):
        path = self.folder / name
        new = path.with_suffix(".new")
        new.touch(0o600)
        new.write_bytes(b"".join(blob.bytes() for blob in blobs))
        os.replace(new, path)
        return path

    def pair(self, name, leaf):
        return (
            self.write(f"{name}.pem", *leaf.cert_chain_pems),
            self.write(f"{name}.key", leaf.private_key_pem),
        )

    def flags(self):
        return (
            f"security.tls_certificate={self.server[0]}",
            f"security.tls_private_key={self.server[1]}",
            f"security.tls_client_ca={self.client_ca}",
            f"security.tokens_file={self.tokens}",
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secured(versions, files, tmp_path_factory):
    server = start(tmp_path_factory.mktemp("run"), ONE_SIZE, *files.flags())
    assert server.ready_line.startswith("ready"), server.said()
    yield server
    assert stop(server) == 0


def client(server, files, *, ca=None, pair=None, token=TOKEN, host=None, certificate=True):
    cert, key = (pair or files.client) if certificate else (None, None)
    endpoint = server.endpoint if host is None else server.endpoint.replace("127.0.0.1", host)
    tls = TlsOptions(ca_file=ca or files.ca, cert_file=cert, key_file=key)
    return EmbeddingClient(endpoint, tls=tls, token=token, deadline_s=4.5, retries=1)


def test_the_right_certificates_and_each_token_open_the_server(secured, files):
    for token in (TOKEN, SECOND_TOKEN):
        with client(secured, files, token=token) as made:
            row = made.embed([IMAGES[0]]).embeddings[0]
        assert np.linalg.norm(row - EXPECTED[0]) <= 1e-4


def expired(files):
    past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    return files.pair("late", files.clients.issue_cert("late@example.org", not_after=past))


def stranger(files):
    return files.pair("stranger", trustme.CA().issue_cert("someone@example.org"))


def of_the_servers_authority(files):
    return files.pair("other", files.servers.issue_cert("someone@example.org"))


def other_ca(files):
    return files.write("other-ca.pem", trustme.CA().cert_pem)


CLIENTS = {
    "no client certificate": (lambda files: {"certificate": False}, "UNAVAILABLE", "cert_file"),
    "client certificate of a stranger": (lambda files: {"pair": stranger(files)}, "UNAVAILABLE", "cert_file"),
    "client certificate of the servers' CA": (
        lambda files: {"pair": of_the_servers_authority(files)},
        "UNAVAILABLE",
        "cert_file",
    ),
    "expired client certificate": (lambda files: {"pair": expired(files)}, "UNAVAILABLE", "cert_file"),
    "wrong CA for the server": (lambda files: {"ca": other_ca(files)}, "UNAVAILABLE", "certificate"),
    "wrong host name": (lambda files: {"host": "localhost"}, "UNAVAILABLE", "host"),
    "no token": (lambda files: {"token": None}, "UNAUTHENTICATED", "no token"),
    "wrong token": (lambda files: {"token": "not-one-of-the-tokens"}, "UNAUTHENTICATED", "not valid"),
    "token with a word more": (lambda files: {"token": TOKEN + "x"}, "UNAUTHENTICATED", "not valid"),
}


@pytest.mark.parametrize("case", CLIENTS)
def test_wrong_credentials_of_a_client_are_a_clear_error_within_5_seconds(secured, files, case):
    options, code, words = CLIENTS[case]
    began = time.monotonic()
    with client(secured, files, **options(files)) as made, pytest.raises(EndpointError) as caught:
        made.embed([IMAGES[0]])
    seconds = time.monotonic() - began
    print(f"{case}: {seconds:.2f} s: {caught.value}")
    assert caught.value.code == code and words in str(caught.value).lower() and seconds < patient(5)


def test_the_servers_log_says_why_a_certificate_was_refused(secured, files):
    for options in ({"certificate": False}, {"pair": stranger(files)}):
        with client(secured, files, **options) as made, pytest.raises(EndpointError):
            made.embed([IMAGES[0]])
    wanted = ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "CERTIFICATE_VERIFY_FAILED")
    wait_until(lambda: all(words in log_of(secured) for words in wanted), 5, "both reasons in the log")


def log_of(server):
    return os.pread(server.log.fileno(), 10_000_000, 0).decode()


def test_plain_text_does_not_reach_a_server_with_tls(secured):
    began = time.monotonic()
    with EmbeddingClient(secured.endpoint, deadline_s=4.5, retries=1) as made, pytest.raises(EndpointError) as caught:
        made.embed([IMAGES[0]])
    assert caught.value.code == "UNAVAILABLE" and time.monotonic() - began < patient(5)


def test_without_credentials_the_health_of_a_server_with_tokens_is_open(secured, files):
    """mTLS still holds: a probe needs a certificate and no token."""
    roots = files.ca.read_bytes()
    credentials = grpc.ssl_channel_credentials(roots, files.client[1].read_bytes(), files.client[0].read_bytes())
    with grpc.secure_channel(secured.endpoint, credentials) as channel:
        call = channel.unary_unary(wire.HEALTH_CHECK_PATH, response_deserializer=wire.HealthCheckResponse.FromString)
        assert call(b"", timeout=5).status == wire.ServingStatus.SERVING


def test_tokens_and_client_certificates_of_the_api_over_http_are_those_of_grpc(secured, files):
    assert secured.ready_line.endswith(f"; HTTP: https://{secured.api_endpoint}")
    context = ssl.create_default_context(cafile=files.ca)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(secured, "GET", "/v1/models", context=context)
    context.load_cert_chain(*files.client)
    assert ask(secured, "POST", "/embed", IMAGES[0], context=context)[0] == 401
    good = {"authorization": f"Bearer {TOKEN}"}
    assert ask(secured, "POST", "/embed", IMAGES[0], good, context=context)[0] == 200


def test_a_renewed_certificate_is_served_without_a_dropped_call(secured, files):
    """A connection stays open and in use while the pair is replaced by another authority's."""
    successor = trustme.CA()
    with client(secured, files) as old:
        old.embed([IMAGES[0]])
        earlier = [path.read_bytes() for path in files.server]
        files.pair("server", successor.issue_cert("127.0.0.1"))
        with client(secured, files, ca=files.write("successor.pem", successor.cert_pem)) as new:
            new.embed([IMAGES[0]])
        old.embed([IMAGES[0]])
    for path, content in zip(files.server, earlier):
        path.write_bytes(content)


def missing(files):
    return {"security.tls_private_key": files.folder / "nowhere.key"}, "nowhere.key"


def unmatched(files):
    _, key = files.pair("unmatched", files.servers.issue_cert("127.0.0.1"))
    return {"security.tls_private_key": key}, "is not the key of"


def late(files):
    past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    certificate, key = files.pair("late-server", files.servers.issue_cert("127.0.0.1", not_after=past))
    return {"security.tls_certificate": certificate, "security.tls_private_key": key}, "expired"


def no_tokens(files):
    path = files.folder / "empty-tokens"
    path.touch(0o600)
    return {"security.tokens_file": path}, "token"


@pytest.mark.parametrize("case", [missing, unmatched, late, no_tokens])
def test_wrong_files_of_a_server_are_one_line_and_exit_2_within_5_seconds(versions, files, tmp_path, case):
    changes, words = case(files)
    settings = dict(flag.split("=", 1) for flag in files.flags())
    settings.update({key: str(value) for key, value in changes.items()})
    settings.update({f"server.{name}": "127.0.0.1:0" for name in ("address", "http_address", "api_address")})
    settings.update({"server.run_dir": str(tmp_path), "model.directory": str(VERSIONS)})
    command = [
        str(REPOSITORY / ".venv/server/bin/python"),
        "-m",
        "servable.serving_server",
        "--config",
        "configs/cpu.yaml",
    ]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    began = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=patient(30))
    seconds = time.monotonic() - began
    print(f"{case.__name__}: {seconds:.2f} s: {done.stderr.strip()}")
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
    assert seconds < patient(5) and "Traceback" not in done.stderr and not Path(tmp_path / "lock").exists()

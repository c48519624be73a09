"""Certificates and tokens: the right ones open, each wrong one gets its own clear error, files are read again."""

import contextlib
import datetime
import re
import resource
import socket
import ssl
import threading
import time

import grpc
import pytest
import trustme

from metric_learn_client import wire
from servable.config.sections import SecuritySection
from servable.gateway import StartError
from servable.gateway.listener import HANDSHAKE_S
from tests.integration.servable.gateway.harness import Harness, config_of, predict, request, until
from tests.unit.servable.doctor.scene import authority

LOCALHOST = {"address": "localhost:0"}
TOKEN, SECOND_TOKEN = "0123456789abcdef-first", "0123456789abcdef-second"


class Files:
    """A CA, a server certificate for localhost and a client certificate, as PEM files."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        self.issue("localhost")

    def issue(self, *names, authority=None, **options):
        leaf = (authority or self.authority).issue_cert(*names, **options)
        # In this order and whole: a reload in between sees a pair that does not fit and keeps the earlier one.
        replace(self.certificate, b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        replace(self.key, leaf.private_key_pem.bytes())
        return leaf

    def tls(self, mutual=False):
        return SecuritySection(
            tls_certificate=self.certificate, tls_private_key=self.key, tls_client_ca=self.ca if mutual else None
        )


def guarded_by(tokens):
    return config_of(security=SecuritySection(tokens_file=tokens))


def replace(path, content):
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(path)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def client_credentials(files, authority=None, leaf=None):
    roots = (authority or files.authority).cert_pem.bytes()
    if leaf is None:
        return grpc.ssl_channel_credentials(roots)
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    return grpc.ssl_channel_credentials(roots, leaf.private_key_pem.bytes(), chain)


def call(harness, credentials, **options):
    # A pool of its own: connections are shared between channels with equal arguments otherwise.
    with harness.channel(credentials, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return predict(channel, request(b"x"), timeout=5, **options)


def refused(harness, credentials, **options):
    """(code, details, seconds)."""
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        call(harness, credentials, **options)
    return caught.value.code(), caught.value.details(), time.monotonic() - began


def test_tls_with_the_right_ca(tmp_path, files):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls())) as harness:
        reply, _ = call(harness, client_credentials(files))
        assert reply.instances


@pytest.mark.parametrize(
    ("case", "words"),
    [("wrong CA", "CERTIFICATE_VERIFY_FAILED"), ("wrong host name", "Hostname"), ("plain text", "")],
)
def test_a_client_does_not_take_a_wrong_server_for_the_right_one(tmp_path, files, case, words):
    credentials = client_credentials(files, trustme.CA() if case == "wrong CA" else None)
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls())) as harness:
        if case == "wrong host name":
            files.issue("other.example")
        code, details, seconds = refused(harness, None if case == "plain text" else credentials)
        assert code is grpc.StatusCode.UNAVAILABLE and seconds < 5
        assert words.lower() in details.lower(), details


def test_a_certificate_that_expires_while_it_serves_is_refused_by_clients_and_seen_in_the_metrics(tmp_path, files):
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    files.issue("localhost", not_after=end)
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls())) as harness:
        until(lambda: datetime.datetime.now(datetime.timezone.utc) > end + datetime.timedelta(seconds=1), "expiry")
        code, details, seconds = refused(harness, client_credentials(files))
        assert code is grpc.StatusCode.UNAVAILABLE and seconds < 5
        assert "certificate has expired" in details, details
        metrics = harness.http("/metrics")[1]
        seen = re.search(r"^metric_learn_certificate_expiry_timestamp_seconds (\S+)", metrics, re.MULTILINE)
        assert abs(float(seen[1]) - end.timestamp()) < 2


def test_mutual_tls_takes_certificates_of_the_configured_ca_and_no_other(tmp_path, files):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls(mutual=True))) as harness:
        leaf = files.authority.issue_cert("client@example.org")
        assert call(harness, client_credentials(files, leaf=leaf))[0].instances
        stranger = trustme.CA().issue_cert("client@example.org")
        past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
        expired = files.authority.issue_cert("late@example.org", not_after=past)
        for wrong in (None, stranger, expired):
            code, _, seconds = refused(harness, client_credentials(files, leaf=wrong))
            assert code is grpc.StatusCode.UNAVAILABLE and seconds < 5


@pytest.mark.parametrize("order", [1, -1], ids=["expired last", "expired first"])
def test_an_expired_ca_beside_the_new_one_keeps_nobody_out(tmp_path, files, order):
    both = [files.ca.read_bytes(), authority("2019-01-01", "2020-01-01").encode()][::order]
    replace(files.ca, b"".join(both))
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls(mutual=True))) as harness:
        leaf = files.authority.issue_cert("client@example.org")
        assert call(harness, client_credentials(files, leaf=leaf))[0].instances
        assert refused(harness, client_credentials(files))[0] is grpc.StatusCode.UNAVAILABLE


def test_a_renewed_certificate_serves_new_connections_and_old_ones_stay(tmp_path, files):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls())) as harness:
        with harness.channel(client_credentials(files), [("grpc.use_local_subchannel_pool", 1)]) as old:
            predict(old, request(b"x"))
            successor = trustme.CA()
            files.issue("localhost", authority=successor)
            assert call(harness, client_credentials(files, successor))[0].instances
            predict(old, request(b"x"))
        assert refused(harness, client_credentials(files))[0] is grpc.StatusCode.UNAVAILABLE
        assert 'metric_learn_security_reloads_total{result="ok"} 1.0' in harness.http("/metrics")[1]


def test_a_broken_renewal_keeps_the_earlier_certificate(tmp_path, files):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls())) as harness:
        replace(files.key, trustme.CA().issue_cert("localhost").private_key_pem.bytes())
        assert call(harness, client_credentials(files))[0].instances
        assert 'metric_learn_security_reloads_total{result="failed"} 1.0' in harness.http("/metrics")[1]


def broken(files, case):
    """Breaks one file; returns (its name, words of the error)."""
    past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    future = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    if case == "missing certificate":
        files.certificate.unlink()
        return files.certificate, "No such file"
    if case == "missing key":
        files.key.unlink()
        return files.key, "No such file"
    if case == "unmatched key":
        files.key.write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
        return files.key, "is not the key of"
    if case == "no key":
        files.key.write_bytes(b"nonsense")
        return files.key, "is no PEM key"
    if case == "no certificate":
        files.certificate.write_bytes(b"nonsense")
        return files.certificate, "no PEM certificate"
    if case == "expired":
        files.issue("localhost", not_after=past)
        return files.certificate, "expired at"
    if case == "not yet valid":
        files.issue("localhost", not_before=future, not_after=future + datetime.timedelta(days=1))
        return files.certificate, "valid from"
    if case == "no client CA":
        files.ca.write_bytes(b"nonsense")
        return files.ca, "no PEM certificate"
    raise AssertionError(case)


@pytest.mark.parametrize(
    "case",
    [
        "missing certificate",
        "missing key",
        "unmatched key",
        "no key",
        "no certificate",
        "expired",
        "not yet valid",
        "no client CA",
    ],
)
def test_a_server_does_not_start_with_wrong_files_and_names_them(tmp_path, files, case):
    file, words = broken(files, case)
    began = time.monotonic()
    with pytest.raises(StartError) as caught:
        with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls(mutual=True))):
            pass
    assert time.monotonic() - began < 5
    assert str(file) in str(caught.value) and words in str(caught.value) and len(caught.value.problems) == 1


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    replace(path, f"# the team's\n{TOKEN}\n\n{SECOND_TOKEN} # the notebook's\n".encode())
    return path


def bearer(token):
    return {"metadata": [("authorization", f"Bearer {token}")]}


def test_each_of_several_tokens_opens_and_everything_else_is_unauthenticated(tmp_path, tokens):
    with Harness(tmp_path, guarded_by(tokens)) as harness:
        for token in (TOKEN, SECOND_TOKEN):
            assert call(harness, None, **bearer(token))[0].instances
        wrong = [
            ({}, "no token"),
            (bearer(""), "not a bearer token"),
            ({"metadata": [("authorization", f"Basic {TOKEN}")]}, "not a bearer token"),
            ({"metadata": [("authorization", TOKEN)]}, "not a bearer token"),
            (bearer(TOKEN[:-1]), "not valid"),
            (bearer(TOKEN + "x"), "not valid"),
            (bearer("# the team's"), "not valid"),
        ]
        for options, words in wrong:
            code, details, seconds = refused(harness, None, **options)
            assert code is grpc.StatusCode.UNAUTHENTICATED and words in details and seconds < 5
            assert TOKEN not in details


def test_without_a_token_the_body_is_not_read(tmp_path, tokens):
    """The status comes although the caller never sends its message."""
    with Harness(tmp_path, guarded_by(tokens)) as harness, harness.channel() as channel:
        ended, began = threading.Event(), time.monotonic()
        waiting = (b"" for _ in range(1) if ended.wait(10))
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(wire.PREDICT_PATH)(waiting, timeout=10)
        ended.set()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED and time.monotonic() - began < 2


def test_get_model_needs_the_token_and_health_does_not(tmp_path, tokens):
    with Harness(tmp_path, guarded_by(tokens)) as harness, harness.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(wire.GET_MODEL_PATH)(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        channel.unary_unary(wire.GET_MODEL_PATH)(b"", timeout=5, **bearer(TOKEN))
        channel.unary_unary(wire.HEALTH_CHECK_PATH)(b"", timeout=5)


def test_a_changed_tokens_file_counts_within_two_seconds(tmp_path, tokens):
    with Harness(tmp_path, guarded_by(tokens)) as harness:
        replace(tokens, b"another-token-of-16-or-more\n")

        def code():
            try:
                call(harness, None, **bearer("another-token-of-16-or-more"))
                return True
            except grpc.RpcError:
                return False

        until(code, "the new token", 2.5)
        assert refused(harness, None, **bearer(TOKEN))[0] is grpc.StatusCode.UNAUTHENTICATED


def test_a_broken_tokens_file_keeps_the_earlier_tokens(tmp_path, tokens):
    with Harness(tmp_path, guarded_by(tokens)) as harness:
        replace(tokens, b"short\n")
        failed = 'metric_learn_security_reloads_total{result="failed"} 1.0'

        def reloaded():
            assert call(harness, None, **bearer(TOKEN))[0].instances
            return failed in harness.http("/metrics")[1]

        until(reloaded, "the failed reload", 5)


def test_a_tokens_file_that_everybody_could_read_counts_as_soon_as_it_is_closed(tmp_path, tokens):
    with Harness(tmp_path, guarded_by(tokens)) as harness:
        tokens.chmod(0o644)
        tokens.write_bytes(b"another-token-of-16-or-more\n")

        def result(word):
            for token in (TOKEN, "another-token-of-16-or-more"):
                with contextlib.suppress(grpc.RpcError):
                    call(harness, None, **bearer(token))
            return f'metric_learn_security_reloads_total{{result="{word}"}} 1.0' in harness.http("/metrics")[1]

        until(lambda: result("failed"), "the refusal", 5)
        tokens.chmod(0o600)
        until(lambda: result("ok"), "the reload", 5)
        assert call(harness, None, **bearer("another-token-of-16-or-more"))[0].instances


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("", "holds no token"),
        ("# only a comment\n", "holds no token"),
        ("short\n", "line 1 is not a token of at least 16"),
        ("0123456789abcdef and more\n", "without spaces"),
        ("0123456789abcdéfgh\n", "ASCII"),
    ],
)
def test_a_server_does_not_start_with_a_wrong_tokens_file(tmp_path, content, words):
    path = tmp_path / "tokens"
    if content is not None:
        replace(path, content.encode())
    with pytest.raises(StartError) as caught:
        with Harness(tmp_path, guarded_by(path)):
            pass
    assert str(path) in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("0.0.0.0:0", "plain text"),
        ("[::]:0", "plain text"),
        ("unix:/nowhere/at/all.sock", "/nowhere/at"),
        ("203.0.113.1:5500", "plain text"),
    ],
)
def test_an_address_that_cannot_be_used_is_named_with_a_remedy(tmp_path, address, words):
    with pytest.raises(StartError) as caught:
        with Harness(tmp_path, config_of(server={"address": address})):
            pass
    assert words in str(caught.value) and address in str(caught.value)


def test_plain_text_for_everybody_needs_the_flag(tmp_path):
    settings = config_of(server={"address": "0.0.0.0:0"}, security=SecuritySection(allow_insecure=True))
    with Harness(tmp_path, settings) as harness:
        harness.address = harness.address.replace("0.0.0.0", "127.0.0.1")
        assert call(harness, None)[0].instances


def test_a_port_in_use_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Harness(tmp_path / "a") as first:
        for part in ({"address": first.address}, {"http_address": first.http_address}):
            settings = config_of(server=part)
            with pytest.raises(StartError, match=r"Address already in use; .*choose another port") as caught:
                with Harness(tmp_path / "b", settings):
                    pass
            assert next(iter(part.values())) in str(caught.value)


def test_it_serves_on_a_unix_socket(tmp_path):
    settings = config_of(server={"address": f"unix:{tmp_path}/public.sock"})
    with Harness(tmp_path, settings) as harness:
        assert call(harness, None)[0].instances


def complaints(caplog):
    return [record for record in caplog.records if "not reloaded" in record.getMessage()]


def test_a_certificate_that_is_missing_for_a_while_is_said_once_and_not_with_every_handshake(tmp_path, files, caplog):
    with Harness(tmp_path, config_of(server=LOCALHOST, security=files.tls())) as harness:
        content = files.certificate.read_bytes()
        files.certificate.unlink()
        for _ in range(10):
            assert call(harness, client_credentials(files))[0].instances
        assert len(complaints(caplog)) == 1
        replace(files.certificate, b"no PEM")  # another fault is another line
        for _ in range(5):
            assert call(harness, client_credentials(files))[0].instances
        assert len(complaints(caplog)) == 2
        replace(files.certificate, content)
        assert call(harness, client_credentials(files))[0].instances
        assert len(complaints(caplog)) == 2


def test_files_that_cannot_be_opened_for_a_while_are_read_when_they_can(tmp_path, files, caplog):
    """As long as no descriptor is free, say: the file has changed, and it must not count as seen."""
    tokens = tmp_path / "tokens"
    replace(tokens, TOKEN.encode() + b"\n")
    with Harness(tmp_path, guarded_by(tokens)) as harness, harness.channel() as channel:
        tokens.write_text(SECOND_TOKEN + "\n")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        predict(channel, request(b"x"), metadata=(("authorization", f"Bearer {TOKEN}"),))
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        try:
            end = time.monotonic() + 1.3
            while time.monotonic() < end:
                predict(channel, request(b"x"), metadata=(("authorization", f"Bearer {TOKEN}"),))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(complaints(caplog)) == 1

        def second_counts():
            try:
                return predict(channel, request(b"x"), metadata=(("authorization", f"Bearer {SECOND_TOKEN}"),))
            except grpc.RpcError:
                return None

        until(second_counts, "the second token")


def client_hello():
    """The first bytes of a TLS connection, made in memory."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


@pytest.mark.long
def test_handshakes_that_stall_at_any_step_are_ended_and_others_are_served(tmp_path, files):
    """Nothing, half a ClientHello, a whole one without what follows: each goes after the time for handshakes."""
    hello = client_hello()
    settings = config_of(server=LOCALHOST, security=files.tls(mutual=True))
    with Harness(tmp_path, settings) as harness, contextlib.ExitStack() as stack:
        host, _, port = harness.address.rpartition(":")
        began = time.monotonic()
        stalled = []
        for first in [b"", hello[: len(hello) // 2], hello] * 50:
            one = stack.enter_context(socket.create_connection((host, int(port)), 5))
            one.sendall(first)
            stalled.append(one)
        leaf = files.authority.issue_cert("client@example.org")
        assert call(harness, client_credentials(files, leaf=leaf))[0].instances
        limit = HANDSHAKE_S + 5
        for one in stalled:
            one.settimeout(max(0.1, began + limit - time.monotonic()))
            with contextlib.suppress(ConnectionError):
                while one.recv(65536):
                    pass
        assert time.monotonic() - began < limit

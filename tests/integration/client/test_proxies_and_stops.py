"""What proxies and servers that stop do to a call: it goes to another endpoint, and ends within its deadline."""

import asyncio
import socket
import socketserver
import threading
from typing import Any

import grpc
import pytest

from metric_learn_client import AsyncEmbeddingClient, AuthenticationError, EndpointError, errors
from metric_learn_client.testing import FakeServable, Faults, fake_embeddings

from .wrong_http2 import WrongHttp2, goaway, no_trailers, page, reset

ROWS = fake_embeddings([b"a"])
GONE = {
    **{f"RST_STREAM {code}": reset(code) for code in (0, 1, 2, 3, 7, 8, 11)},
    **{f"HTTP {status}": page(status) for status in (200, 408, 429, 500, 502, 503, 504)},
    "GOAWAY": goaway,
    "no trailers": no_trailers,
}


def embed(make_client, endpoints, **options):
    with make_client(endpoints, **{"deadline_s": 20.0, **options}) as client:
        return client.embed([b"a"]).embeddings


@pytest.mark.parametrize("answer", GONE.values(), ids=GONE.keys())
def test_a_call_that_a_proxy_or_a_stopping_server_ends_goes_to_the_other_endpoint(make_client, fake, answer):
    with WrongHttp2(answer) as wrong:
        for _ in range(2):  # one of the two calls meets the wrong one first
            assert (embed(make_client, [wrong.endpoint, fake.endpoint]) == ROWS).all()
            assert (embed(make_client, [fake.endpoint, wrong.endpoint]) == ROWS).all()
    assert wrong.calls


def test_one_endpoint_that_cancels_every_call_is_asked_again_and_then_unreachable(make_client):
    with (
        WrongHttp2(reset(8)) as wrong,
        pytest.raises(errors.UnreachableError, match=r"ended the call.*stopped") as caught,
    ):
        embed(make_client, wrong.endpoint, retries=1)
    assert wrong.calls == 2 and caught.value.code == "CANCELLED"


@pytest.mark.parametrize("status", [401, 403])
def test_a_proxys_refusal_of_the_caller_is_final(make_client, status):
    with WrongHttp2(page(status)) as wrong, pytest.raises(AuthenticationError):
        embed(make_client, wrong.endpoint)
    assert wrong.calls == 1


def test_a_proxys_limit_on_bodies_gets_smaller_calls(make_client):
    """nginx answers 413 above its client_max_body_size."""
    with WrongHttp2(page(413)) as wrong, make_client(wrong.endpoint, deadline_s=20) as client:
        client._core.model_known = True  # the question for the model is not what is too large
        result = client.embed([b"a", b"b", b"c", b"d"], on_error="return")
    assert [error.code for error in result.errors] == ["E_TOO_LARGE"] * 4 and wrong.calls >= 7  # 4, 2 and 2, 4 times 1


@pytest.mark.parametrize("status", ["CANCELLED", "DEADLINE_EXCEEDED"])
def test_a_status_that_a_server_gives_before_the_deadline_is_not_the_callers(make_client, status):
    with FakeServable(faults=Faults(status=status)) as broken, FakeServable() as whole:
        with make_client([broken.endpoint, whole.endpoint], deadline_s=20) as client:
            for _ in range(4):
                assert (client.embed([b"a"]).embeddings == ROWS).all()
        assert broken.calls


def test_the_callers_own_cancellation_is_final():
    async def run(server):
        async with AsyncEmbeddingClient(server.endpoint, deadline_s=20) as client:
            task = asyncio.ensure_future(client.embed([b"a"]))
            while not server.calls:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with FakeServable(faults=Faults(delay_s=10)) as server:
        asyncio.run(run(server))
        assert server.calls == 1


def test_a_failed_call_without_another_endpoint_keeps_its_code(make_client):
    with FakeServable(faults=Faults(status="DATA_LOSS")) as server, pytest.raises(EndpointError) as caught:
        embed(make_client, server.endpoint)
    assert caught.value.code == grpc.StatusCode.DATA_LOSS.name and server.calls == 1


class ConnectProxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy that does CONNECT, to `to` whatever is asked for; None: it refuses. `asked` lists the targets."""

    daemon_threads = True

    def __init__(self, to):
        super().__init__(("127.0.0.1", 0), _Connect)
        self.to, self.asked = to, []
        self.address = f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Connect(socketserver.BaseRequestHandler):
    server: Any

    def handle(self):
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(4096)
        self.server.asked.append(head.split()[1].decode())
        if self.server.to is None:
            self.request.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        host, port = self.server.to.split(":")
        with socket.create_connection((host, int(port))) as onward:
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_pump, args=(onward, self.request), daemon=True)
            back.start()
            _pump(self.request, onward)
            back.join(5)


def _pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_a_call_to_this_machine_passes_no_proxy(make_client, fake, monkeypatch):
    with ConnectProxy(fake.endpoint) as proxy:
        for name in ("grpc_proxy", "https_proxy", "http_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        port = fake.endpoint.rpartition(":")[2]
        for endpoint in (fake.endpoint, f"localhost:{port}", f"dns:///localhost:{port}"):
            assert (embed(make_client, endpoint, token="t") == ROWS).all()
    assert proxy.asked == []


def test_a_call_elsewhere_goes_through_the_proxy_by_name(make_client, fake, monkeypatch):
    with ConnectProxy(fake.endpoint) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        assert (embed(make_client, "embeddings.invalid:5500") == ROWS).all()
    assert proxy.asked == ["embeddings.invalid:5500"]


def test_a_proxy_that_refuses_or_is_gone_is_named_without_its_password(make_client, monkeypatch):
    with ConnectProxy(None) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:secret@{proxy.address}")
        with pytest.raises(errors.UnreachableError, match=f"through the proxy http://{proxy.address}") as refused:
            embed(make_client, "embeddings.invalid:5500", retries=1)
    with pytest.raises(errors.UnreachableError, match=f"through the proxy http://{proxy.address}") as gone:
        embed(make_client, "embeddings.invalid:5500", retries=1)
    assert proxy.asked and "secret" not in f"{refused.value}{gone.value}" and "no_proxy" in str(gone.value)

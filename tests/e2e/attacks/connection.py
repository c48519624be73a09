"""An HTTP/2 connection that sends whatever frames it is told to: frames and header coding of h2, without its rules."""

import socket
import ssl
import struct

import hpack
from hyperframe import frame as frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TIMEOUT_S = 10.0
PREDICT_PATH = "/mindspore.serving.proto.MSService/Predict"
HEALTH_PATH = "/grpc.health.v1.Health/Check"
WATCH_PATH = "/grpc.health.v1.Health/Watch"
GET_MODEL_PATH = "/metric_learn.v1.ModelService/GetModel"


_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_TLS.check_hostname, _TLS.verify_mode = False, ssl.CERT_NONE
_TLS.set_alpn_protocols(["h2"])


class Connection:
    """To "host:port". tls: plain TLS without a certificate of its own. settings: what it announces (id -> value)."""

    def __init__(self, endpoint, *, tls=False, settings=None, preface=True):
        host, _, port = endpoint.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), TIMEOUT_S)
        if tls:
            self.socket = _TLS.wrap_socket(self.socket)
        self._encoder = hpack.Encoder()
        self._next = 1
        self._unread = self._unsent = b""
        self._initial = 65535  # RFC 9113, 6.9.2
        self._windows = {0: self._initial}
        if preface:
            self.send(PREFACE + frames.SettingsFrame(0, settings=settings or {}).serialize())
            self.send(frames.SettingsFrame(0, flags=["ACK"]).serialize())

    def send(self, data):
        self.socket.sendall(data)

    def send_some(self, data):
        """As much as goes without waiting, of what was left the last time, or else of `data`."""
        self._unsent = self._unsent or data
        self.socket.setblocking(False)
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        finally:
            self.socket.settimeout(TIMEOUT_S)

    def drain(self):
        """Reads what is there; returns it. Raises ConnectionError when the server has closed."""
        self.socket.setblocking(False)
        got = []
        try:
            while True:
                data = self.socket.recv(1 << 20)
                if not data:
                    raise ConnectionError("closed by the server")
                got.append(data)
        except (BlockingIOError, ssl.SSLWantReadError):
            return b"".join(got)
        finally:
            self.socket.settimeout(TIMEOUT_S)

    def repeat(self, block, count):
        """Sends the same again and again, and reads what comes back; yields `count`, its frames, after each."""
        while True:
            self.send(block)
            self.drain()
            yield count

    def wait_for_window(self, stream, size):
        """Until `size` more bytes of DATA may be sent. Raises ConnectionError when the server ended the stream."""
        while min(self._windows[0], self._windows.setdefault(stream, self._initial)) < size:
            for made in self._frames():
                self._note(made)
                if isinstance(made, (frames.RstStreamFrame, frames.GoAwayFrame)) or "END_STREAM" in made.flags:
                    raise ConnectionError("ended by the server")
        self._windows[0] -= size
        self._windows[stream] -= size

    def wait_for_headers(self, stream):
        """Until the server answers the stream. Raises ConnectionError when it refuses it or closes."""
        while True:
            for made in self._frames():
                self._note(made)
                if made.stream_id == stream and isinstance(made, frames.HeadersFrame):
                    return
                if isinstance(made, (frames.RstStreamFrame, frames.GoAwayFrame)):
                    raise ConnectionError("ended by the server")

    def _note(self, made):
        """Keeps count of the windows that the server gives."""
        if isinstance(made, frames.WindowUpdateFrame):
            self._windows[made.stream_id] = self._windows.get(made.stream_id, self._initial) + made.window_increment
        elif isinstance(made, frames.SettingsFrame) and not made.flags:
            new = made.settings.get(frames.SettingsFrame.INITIAL_WINDOW_SIZE, self._initial)
            for number in self._windows:
                self._windows[number] += (new - self._initial) if number else 0
            self._initial = new

    def send_where_it_may(self, streams, piece):
        """A piece of DATA on each of the streams whose window has room for it. Raises ConnectionError."""
        for made in self._parsed(self.drain()):
            self._note(made)
        for stream in streams:
            if min(self._windows[0], self._windows.setdefault(stream, self._initial)) >= len(piece):
                self._windows[0] -= len(piece)
                self._windows[stream] -= len(piece)
                self.send(data(stream, piece))

    def _frames(self):
        """Those that arrive next. Raises ConnectionError, TimeoutError."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("closed by the server")
        return self._parsed(data)

    def _parsed(self, data):
        self._unread += data
        found = []
        while len(self._unread) >= 9:
            made, length = frames.Frame.parse_frame_header(memoryview(self._unread[:9]))
            if len(self._unread) < 9 + length:
                break
            made.parse_body(memoryview(self._unread[9 : 9 + length]))
            self._unread = self._unread[9 + length :]
            found.append(made)
        return found

    def questions(self, count):
        """The bytes of whole calls of Health."""
        calls = (self.headers(HEALTH_PATH) for _ in range(count))
        return b"".join(head + data(stream, message(b""), end_stream=True) for stream, head in calls)

    def headers(self, path, extra=(), *, more=b"", end_stream=False, end_headers=True):
        """(stream id, bytes of the HEADERS frame) of a gRPC call. more: header fields that are coded already."""
        stream, self._next = self._next, self._next + 2
        block = self._encoder.encode([*pseudo(path), *extra]) + more
        flags = [*(["END_STREAM"] if end_stream else []), *(["END_HEADERS"] if end_headers else [])]
        return stream, b"".join(split_block(stream, block, flags))

    def close(self):
        self.socket.close()


def pseudo(path):
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "attack"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]


def split_block(stream, block, flags, size=16384):
    """HEADERS and the CONTINUATION frames that a long block needs."""
    parts = [block[start : start + size] for start in range(0, len(block), size)] or [b""]
    last = len(parts) - 1
    for index, part in enumerate(parts):
        wanted = [flag for flag in flags if flag != "END_HEADERS" or index == last]
        if index == 0:
            yield frames.HeadersFrame(stream, part, flags=wanted).serialize()
        else:
            last_flags = [flag for flag in wanted if flag == "END_HEADERS"]
            yield frames.ContinuationFrame(stream, part, flags=last_flags).serialize()


def ping(number=0):
    return frames.PingFrame(0, struct.pack(">Q", number)).serialize()


def message(body, compressed=False):
    """A gRPC message: flag, length, body."""
    return struct.pack(">BI", int(compressed), len(body)) + body


def data(stream, body, *, end_stream=False):
    return frames.DataFrame(stream, body, flags=["END_STREAM"] if end_stream else []).serialize()

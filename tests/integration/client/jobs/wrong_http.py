"""An HTTP server whose answers are wrong in one way or another; each path is one way."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTENT = bytes(range(256)) * 40


class WrongHttp(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.over = threading.Event()  # ends what never answers
        self.asked = []

    def handle_error(self, request, client_address):
        pass  # a client that goes away in the middle is what is tested

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        getattr(self, "answer_" + self.path.strip("/").split("/")[0].split(".")[0], self.answer_missing)()

    def say(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def answer_missing(self):
        self.say(404, {"Content-Length": "0"})

    def answer_good(self):
        """Whole files and ranges."""
        asked = self.headers.get("Range")
        if asked is None:
            self.say(200, {"Content-Length": str(len(CONTENT))}, CONTENT)
            return
        start, end = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        part = CONTENT[start : end + 1]
        where = f"bytes {start}-{start + len(part) - 1}/{len(CONTENT)}"
        self.say(206, {"Content-Length": str(len(part)), "Content-Range": where}, part)

    def answer_plain(self):
        """No ranges: always the whole file."""
        self.say(200, {"Content-Length": str(len(CONTENT))}, CONTENT)

    def answer_elsewhere(self):
        """Another range than was asked for."""
        self.say(206, {"Content-Length": "5", "Content-Range": f"bytes 0-4/{len(CONTENT)}"}, CONTENT[:5])

    def answer_unsaid(self):
        """A range that nobody says which."""
        self.say(206, {"Content-Length": "5"}, CONTENT[:5])

    def answer_short(self):
        """Fewer bytes than it says."""
        self.say(200, {"Content-Length": str(len(CONTENT))}, CONTENT[:100])
        self.close_connection = True

    def answer_silent(self):
        """Never a byte."""
        self.server.over.wait(120)

    def answer_dripping(self):
        """A byte now and then, for ever."""
        self.say(200, {"Content-Length": "100000"})
        while not self.server.over.wait(0.1):
            self.wfile.write(b"x")

    def answer_endless(self):
        """As many bytes as anybody takes."""
        self.say(200, {"Connection": "close"})
        while not self.server.over.is_set():
            self.wfile.write(bytes(65536))

    def answer_moved(self):
        self.say(302, {"Location": "/good", "Content-Length": "0"})

    def answer_loop(self):
        self.say(302, {"Location": "/loop", "Content-Length": "0"})

    def answer_forbidden(self):
        self.say(403, {"Content-Length": "0"})

    def answer_broken(self):
        self.say(500, {"Content-Length": "0"})

    def answer_empty(self):
        self.say(200, {"Content-Length": "0"})

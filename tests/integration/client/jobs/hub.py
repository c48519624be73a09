"""A Hugging Face hub on this machine: the calls that HfFileSystem makes to list and read one public dataset.

Simulated are the tree, the paths' facts and the files with their ranges; not Xet, LFS, other revisions or tokens.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPOSITORY = "someone/pictures"
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves the files below `folder` as datasets/someone/pictures."""

    def __init__(self, folder):
        hub = self
        self.folder = Path(folder)
        self.asked = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                hub._answer(self)

            do_HEAD = do_POST = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, request):
        path = unquote(urlsplit(request.path).path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.asked.append((request.command, path))
        api, files = f"/api/datasets/{REPOSITORY}", f"/datasets/{REPOSITORY}/resolve/"
        if path.startswith(files):
            self._file(request, path[len(files) :].partition("/")[2])
        elif path in (api, f"{api}/revision/main"):
            self._json(request, {"id": REPOSITORY, "sha": _COMMIT, "private": False, "siblings": []})
        elif path.startswith(f"{api}/tree/"):
            below = self.folder / path[len(f"{api}/tree/") :].partition("/")[2]
            if not below.is_dir():
                self._json(request, {"error": "Entry not found"}, 404, "EntryNotFound")
                return
            self._json(request, [self._facts(each) for each in sorted(below.iterdir())])
        elif path.startswith(f"{api}/paths-info/"):
            content = body.decode()
            if content.startswith("{"):
                wanted = json.loads(content)["paths"]
            else:
                wanted = [unquote(each.partition("=")[2]) for each in content.split("&") if each.startswith("paths=")]
            there = [self.folder / each for each in ([wanted] if isinstance(wanted, str) else wanted)]
            self._json(request, [self._facts(each) for each in there if each.exists()])
        else:
            self._json(request, {"error": "Repository not found"}, 404, "RepoNotFound")

    def _facts(self, path):
        name = str(path.relative_to(self.folder))
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        return {"type": "file", "oid": "1" * 40, "size": path.stat().st_size, "path": name}

    def _json(self, request, value, status=200, code=None):
        self._send(request, status, json.dumps(value).encode(), {"Content-Type": "application/json"}, code)

    def _file(self, request, name):
        path = self.folder / name
        if not path.is_file():
            self._send(request, 404, b"", {}, "EntryNotFound")
            return
        content = path.read_bytes()
        headers = {"ETag": '"etag"', "X-Repo-Commit": _COMMIT, "Accept-Ranges": "bytes"}
        span = request.headers.get("Range", "")
        if not span:
            self._send(request, 200, content, headers)
            return
        start, _, end = span.partition("=")[2].partition("-")
        part = content[int(start) : int(end or len(content)) + 1]
        headers["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"
        self._send(request, 206, part, headers)

    def _send(self, request, status, body, headers, code=None):
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        if code is not None:
            request.send_header("X-Error-Code", code)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

"""An object store on this machine: moto's S3 behind a server that can be told to fail.

Conditions of PutObject hold for one request at a time, as a real store's do: moto looks and writes in two steps.
"""

import logging
import threading
import time

import boto3
import moto.core  # noqa: F401  # its models are made when it is imported
from botocore.config import Config
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"
logging.getLogger("werkzeug").setLevel(logging.CRITICAL)


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_):
        pass


class Store:
    """faults: called with (method, key, headers) before a request is done; returns None, or what becomes of it: "503",
    "403 AccessDenied" (a status and a code), "lost" (done, and the connection ends without an answer), "hangs"."""

    def __init__(self):
        self.faults = lambda method, key, headers: None
        self.asked, self.hosts = [], set()
        self.conditions = True
        self._application = create_backend_app("s3")  # not moto's dispatcher, which looks for the service every time
        self._one = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Handler)
        self._server.daemon_threads = True  # type: ignore[attr-defined]  # of its mixin
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self):
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="testing",
            aws_secret_access_key="secret-of-the-test",
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}),
        )
        return self

    def stop(self):
        self.client.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def objects(self, prefix):
        """{key below the prefix: content}"""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        return {key[len(prefix) + 1 :]: self.get(key) for key in keys}

    def get(self, key):
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def put(self, key, content):
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def _answer(self, environ, start_response):
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].partition(f"/{BUCKET}/")[2]
        own = "boto3" in environ.get("HTTP_USER_AGENT", "").lower() and "aiobotocore" not in environ["HTTP_USER_AGENT"]
        fault = None
        if not own:
            self.asked.append((method, key))
            self.hosts.add(environ["HTTP_HOST"].partition(":")[0])
            fault = self.faults(method, key, environ)
        if not self.conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
            environ.pop("HTTP_IF_MATCH", None)
        if fault == "hangs":
            time.sleep(300)
        if fault is not None and fault != "lost":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, _, code = fault.partition(" ")
            body = f"<Error><Code>{code or 'SlowDown'}</Code><Message>secret-of-the-test</Message></Error>".encode()
            start_response(f"{status} Fault", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
            return [body]
        with self._one:
            replies = []
            body = b"".join(self._application(environ, lambda *reply: replies.append(reply)))
        if fault == "lost":
            environ["werkzeug.socket"].shutdown(2)
            raise ConnectionResetError
        start_response(*replies[0][:2])
        return [body]


def once(fault, wanted):
    """A fault for the first request that `wanted(method, key)` says yes to."""
    left = [fault]

    def faults(method, key, headers):
        return left.pop() if left and wanted(method, key) else None

    return faults

"""For every wire: `server` is that of tests/e2e (one a session); the golden pictures, and the rows that gRPC gives.

`secured` is a second server, of those tests that need TLS, tokens or little room.
"""

import gc
import warnings
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from ..conftest import Server, start, stop
from ..load import IMAGES, OPTIONS, predict_on, request_of, rows_of

TOKEN = "a-token-of-16-or-more"


def pytest_collection_modifyitems(items):
    """What other people's packages leave open is theirs, and is told whenever Python looks for garbage."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish():
    """The same at the end, when no test's filter holds any more and pytest looks for garbage itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@dataclass(frozen=True)
class Secured:
    """TLS with a certificate for 127.0.0.1 from `ca`, one token, and room for one call of all golden pictures."""

    server: Server
    ca: Path
    token: str = TOKEN


@pytest.fixture(scope="session")
def pictures():
    """The golden pictures' files, in the order of `grpc_rows`."""
    return IMAGES


@pytest.fixture(scope="session")
def grpc_rows(server):
    """float32 [n, 2048]: MSService/Predict's rows, which every wire must give bit for bit."""
    with grpc.insecure_channel(server.endpoint, options=OPTIONS) as channel:
        reply = predict_on(channel)(request_of(range(len(IMAGES))), timeout=120)
    assert not reply.error_msg
    rows = np.stack(rows_of(reply))
    assert rows.shape == (len(IMAGES), 2048)
    return rows


@pytest.fixture(scope="session")
def secured(versions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    files = {name: folder / name for name in ("ca.pem", "tls.crt", "tls.key", "tokens")}
    contents = (authority.cert_pem.bytes(), leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes())
    for path, content in zip(files.values(), (*contents, f"{TOKEN}\n".encode())):
        path.touch(0o600)
        path.write_bytes(content)
    started = start(
        tmp_path_factory.mktemp("run"),
        f"security.tls_certificate={files['tls.crt']}",
        f"security.tls_private_key={files['tls.key']}",
        f"security.tokens_file={files['tokens']}",
        f"limits.max_instances={len(IMAGES)}",
        f"limits.max_in_flight_instances={len(IMAGES)}",
        "deadlines.default_s=120",  # most of these clients send none, and all pictures take over 30 s on busy cores
    )
    assert started.ready_line.startswith("ready"), started.said()
    yield Secured(started, files["ca.pem"])
    stop(started)

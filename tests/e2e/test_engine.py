"""What the engine is made of: its processes and its environment hold no gRPC, no HTTP and nothing of the other ones.

MindSpore Serving brings gRPC in its own C++ libraries, on a private socket; that is all there is.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from .conftest import REPOSITORY, start, stop
from .processes import marked

ENGINE = REPOSITORY / ".venv" / "engine"
# Packages by which Python speaks with others, by the name under which they are imported or installed.
NETWORK = {
    *("grpc", "google", "tritonclient", "kserve"),
    *("http", "ssl", "asyncio", "socketserver", "xmlrpc", "ftplib", "smtplib"),
    *("starlette", "fastapi", "uvicorn", "h11", "h2", "httptools", "uvloop", "anyio", "hypercorn", "gunicorn"),
    *("aiohttp", "requests", "urllib3", "httpx", "httpcore", "tornado", "flask", "werkzeug", "websockets", "twisted"),
}
DISTRIBUTIONS = NETWORK | {"grpcio", "protobuf", "googleapis-common-protos", "pyopenssl", "cryptography"}


@pytest.fixture(scope="module")
def engine(versions, tmp_path_factory):
    """(modules that were imported, by top-level name; files that are mapped) by master, worker and decoders."""
    run_dir = tmp_path_factory.mktemp("run")
    server = start(run_dir, environment={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    try:
        assert server.ready_line.startswith("ready"), server.said()
        processes = marked(run_dir)
        maps = [Path(f"/proc/{process.pid}/maps").read_text() for process in processes]
        log = (run_dir / "mindspore_serving.log").read_text(errors="replace")
    finally:
        stop(server)
    modules = set(re.findall(r"^import time: +\d+ \| +\d+ \| +([\w.]+)$", log, re.MULTILINE))
    return modules, set(re.findall(r" (/\S+)", "\n".join(maps)))


def test_no_process_of_the_engine_imports_grpc_protobuf_or_http(engine):
    modules, _ = engine
    assert {"mindspore_serving.server", "metric_learn.stages", "servable.engine.settings", "cv2"} <= modules
    assert not {name for name in modules if name.partition(".")[0] in NETWORK or name == "urllib.request"}


def test_no_process_of_the_engine_maps_a_file_of_another_environment_or_of_tls(engine):
    _, files = engine
    environments = {path.split("/.venv/")[1].split("/")[0] for path in files if "/.venv/" in path}
    assert environments == {"engine"}
    assert any("libpython3.9.so" in path for path in files)
    # OpenCV's wheel is linked to an FFmpeg and its libssl, which nothing here calls.
    others = {path for path in files if "/opencv_python_headless.libs/" not in path}
    assert not {path for path in others if re.search(r"/(libssl|_ssl|cygrpc|_upb|_message)\b[^/]*$", path)}


def test_the_engines_environment_holds_no_package_that_speaks_with_others():
    program = "import importlib.metadata as m; print(*{d.metadata['Name'].lower() for d in m.distributions()})"
    done = subprocess.run([ENGINE / "bin" / "python", "-c", program], capture_output=True, text=True, check=True)
    installed = set(done.stdout.split())
    assert {"mindspore-serving", "metric-learn-client", "opencv-python-headless"} <= installed
    assert not installed & DISTRIBUTIONS

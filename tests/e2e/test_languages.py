"""client/docs/languages.md, followed word for word by somebody who has no Python client: grpcurl, JavaScript, Go, Java.

Go and Java with the libraries that Debian has: .ci/run installs them.
"""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from metric_learn_client import EmbeddingClient

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "client" / "docs" / "languages.md").read_text()
TOOLS = REPOSITORY / ".venv" / "client" / "bin"
JAVASCRIPT = Path(__file__).parent / "javascript"  # the lock file of the program's two packages
GO_LIBRARIES = Path("/usr/share/gocode")
JAVA_LIBRARIES = Path("/usr/share/java")
IMAGES = REPOSITORY / "tests" / "golden" / "images"


def blocks(language):
    """The blocks of code in the language's own section of the page, by their kind."""
    section = re.search(rf"^## {language}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    return dict(re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL))


def needs(*commands, library=None):
    missing = [command for command in commands if shutil.which(command) is None]
    if library is not None and not library.exists():
        missing.append(str(library))
    return pytest.mark.skipif(bool(missing), reason=f"not here: {', '.join(missing)}; .ci/run installs what is missing")


def run(command, folder, **more):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """With a.jpg, b.jpg and the messages, as the page's reader has them."""
    shutil.copy(IMAGES / "astronaut_420_q90.jpg", tmp_path / "a.jpg")
    shutil.copy(IMAGES / "cat_progressive.jpg", tmp_path / "b.jpg")
    shutil.copytree(REPOSITORY / "client" / "proto", tmp_path / "client" / "proto")
    return tmp_path


@pytest.fixture
def expected(server, folder):
    with EmbeddingClient(server.endpoint) as client:
        a, b = client.embed([folder / "a.jpg", folder / "b.jpg"])
    return float(a @ b)


def similarity(printed):
    return float(re.fullmatch(r"similarity (\S+)\n", printed)[1])


def grpcurl(command, endpoint):
    environment = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    return json.loads(run(["sh", "-c", command.replace("127.0.0.1:5500", endpoint)], REPOSITORY, env=environment))


@pytest.mark.skipif(not (TOOLS / "grpcurl").exists(), reason="grpcurl is installed on x86_64 alone")
def test_get_model_by_grpcurl_says_what_is_served(server):
    assert grpcurl(blocks("grpcurl")["sh"].splitlines()[0], server.endpoint)["dim"] == 2048


@pytest.mark.skipif(not (TOOLS / "grpcurl").exists(), reason="grpcurl is installed on x86_64 alone")
def test_predict_by_grpcurl_gives_the_clients_row(server):
    reply = grpcurl(blocks("grpcurl")["sh"].splitlines()[1], server.endpoint)
    data = base64.b64decode(reply["instances"][0]["items"]["embedding"]["data"])
    with EmbeddingClient(server.endpoint) as client:
        row = client.embed([IMAGES / "coffee_rgb.png"]).embeddings[0]
    assert np.array_equal(np.frombuffer(data, "<f4"), row)


@needs("node", library=JAVASCRIPT / "node_modules")
def test_the_javascript_program_gets_the_clients_embeddings(server, folder, expected):
    shutil.copy(folder / "client/proto/ms_service.proto", folder)
    (folder / "node_modules").symlink_to(JAVASCRIPT / "node_modules")
    (folder / "embed.mjs").write_text(blocks("JavaScript")["js"].replace("127.0.0.1:5500", server.endpoint))
    assert similarity(run(["node", "embed.mjs"], folder)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.long  # some 10 s of compiling each
@needs("go", "protoc", "protoc-gen-go", library=GO_LIBRARIES / "src/google.golang.org/grpc")
def test_the_go_program_gets_the_clients_embeddings(server, folder, expected):
    module = folder / "src" / "embed"
    (module / "serving").mkdir(parents=True)
    # Debian's gRPC for Go is of 2020 and so is its generator, which takes other flags than the page's.
    flags = "plugins=grpc,paths=source_relative,import_path=embed/serving"
    run(["protoc", "-Iclient/proto", f"--go_out={flags}:{module}/serving", "ms_service.proto"], folder)
    (module / "main.go").write_text(blocks("Go")["go"].replace("127.0.0.1:5500", server.endpoint))
    paths = {"GOPATH": f"{folder}:{GO_LIBRARIES}", "GOCACHE": f"{folder}/cache", "GO111MODULE": "off"}
    run(["go", "build", "-o", f"{folder}/program", "."], module, env={**os.environ, **paths})
    assert similarity(run([str(folder / "program")], folder)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.long
@needs("javac", "java", "protoc", "grpc_java_plugin", library=JAVA_LIBRARIES / "grpc-netty.jar")
def test_the_java_program_gets_the_clients_embeddings(server, folder, expected):
    code = blocks("Java")
    run(["sh", "-c", code["sh"]], folder)
    (folder / "Embed.java").write_text(code["java"].replace("127.0.0.1:5500", server.endpoint))
    names = (
        "grpc-*",
        "netty-*",
        "protobuf",
        "guava",
        "failureaccess",
        "perfmark-api",
        "opencensus-api",
        "*annotation-1.3-spec",
    )
    jars = [str(jar) for name in names for jar in JAVA_LIBRARIES.glob(f"{name}.jar")]
    libraries = ":".join([str(folder), *jars])
    run(
        [
            "javac",
            "-proc:none",
            "-cp",
            libraries,
            "-d",
            ".",
            "Embed.java",
            *map(str, folder.glob("mindspore/**/*.java")),
        ],
        folder,
    )
    assert similarity(run(["java", "-cp", libraries, "Embed"], folder)) == pytest.approx(expected, abs=1e-5)

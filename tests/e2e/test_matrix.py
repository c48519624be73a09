"""The built distribution, as built: wheel and sdist, and Python x protobuf x NumPy against the real server.

Each combination gets a throw-away environment with nothing but the wheel and what it depends on.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from metric_learn_client import __version__
from metric_learn_client.testing import FakeServable
from metric_learn_client.wire.instances import encode_request

from .conftest import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden"
# python -> (protobuf, NumPy, grpcio); None is what pip finds newest
COMBINATIONS = [
    ("3.9", "protobuf==3.20.3", "numpy<2", "grpcio==1.47.5"),
    ("3.9", "protobuf>=3.20,<4", "numpy>=2", "grpcio<1.60"),
    ("3.9", "protobuf>=4,<5", "numpy<2", "grpcio"),
    ("3.9", "protobuf>=5,<6", "numpy>=2", "grpcio"),
    ("3.9", "protobuf>=6,<7", "numpy<2", "grpcio"),
    ("3.9", "protobuf", "numpy>=2", "grpcio"),
    ("3.12", "protobuf>=4,<5", "numpy<2", "grpcio"),
    ("3.12", "protobuf>=4,<5", "numpy>=2", "grpcio"),
    ("3.12", "protobuf>=5,<6", "numpy<2", "grpcio"),
    ("3.12", "protobuf>=5,<6", "numpy>=2", "grpcio"),
    ("3.12", "protobuf>=6,<7", "numpy<2", "grpcio"),
    ("3.12", "protobuf>=6,<7", "numpy>=2", "grpcio"),
    ("3.12", "protobuf", "numpy<2", "grpcio"),
    ("3.12", "protobuf", "numpy>=2", "grpcio"),
]
# The second: protobuf 4 under Python 3.12, on its own import.
WARNINGS = ("-W", "error", "-W", "ignore:Type google._upb:DeprecationWarning")
ROUND_TRIP = """
import asyncio, hashlib, json, pathlib, sys
import google.protobuf, grpc, numpy
from metric_learn_client import AsyncEmbeddingClient, EmbeddingClient
from metric_learn_client.wire.instances import encode_request

endpoint, *names = sys.argv[1:]
images = [pathlib.Path(name).read_bytes() for name in names]
with EmbeddingClient(endpoint, deadline_s=100) as client:
    result = client.embed([*images, b"no image", numpy.zeros((9, 9, 3), numpy.uint8)], on_error="return")
    pixels = client.embed_pixels(numpy.zeros((2, 224, 224, 3), numpy.uint8))
    streamed = numpy.stack(list(client.embed_iter(images)))

async def main():
    async with AsyncEmbeddingClient(endpoint, deadline_s=100) as client:
        return (await client.embed(images)).embeddings

rows = result.embeddings[: len(images)]
print(json.dumps({
    "versions": [google.protobuf.__version__, numpy.__version__, grpc.__version__],
    "request": hashlib.sha256(encode_request("embed", images)).hexdigest(),
    "embeddings": rows.tolist(),
    "apart": max(float(abs(other - rows).max()) for other in (streamed, asyncio.run(main()))),
    "codes": [error.code for error in result.errors],
    "pixels": list(pixels.embeddings.shape),
}))
"""


def interpreter(version):
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in (*sorted(root.glob(f"{version}.*/bin/python3"), reverse=True), shutil.which(f"python{version}")):
        if candidate and subprocess.run([str(candidate), "-c", "import venv, ensurepip"]).returncode == 0:
            return str(candidate)
    pytest.skip(f"no Python {version} with venv on this machine")


def pip(python, *arguments):
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def distributions(tmp_path_factory):
    """(wheel, sdist), built from a copy of client/ and, for the wheel, from the sdist alone."""
    source = shutil.copytree(REPOSITORY / "client", tmp_path_factory.mktemp("source") / "client")
    output = tmp_path_factory.mktemp("dist")
    environment = {**os.environ, "METRIC_LEARN_PURE": "1"}  # one wheel for every Python of the matrix
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = output.glob("*.whl"), output.glob("*.tar.gz")
    return wheel, sdist


def environment_of(folder, python, wheel, *requirements):
    subprocess.run([interpreter(python), "-m", "venv", str(folder)], check=True)
    made = folder / "bin" / "python"
    pip(made, "install", wheel, *requirements)
    return made


def test_wheel_and_sdist_hold_the_package_its_types_and_nothing_else(distributions):
    wheel, sdist = distributions
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.split("/")[0] for name in names}
    assert inside == {"metric_learn_client", f"metric_learn_client-{__version__}.dist-info"}
    for needed in (
        "py.typed",
        "wire/messages.pyi",
        "wire/wire.desc",
        "testing/fake.py",
        "cli/embed.py",
        "_client/aio.py",
    ):
        assert f"metric_learn_client/{needed}" in names
    (metadata,) = [name for name in names if name.endswith("METADATA")]
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert f"Version: {__version__}" in text and "Requires-Python: >=3.9" in text and "# metric-learn-client" in text
    with tarfile.open(sdist) as archive:
        in_sdist = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"README.md", "pyproject.toml", "src/metric_learn_client/py.typed"} <= in_sdist
    assert not [name for name in in_sdist if name.startswith(("tests", "servable", "export"))]


def test_the_wheel_works_alone_and_names_the_extra_that_is_missing(distributions, tmp_path):
    wheel, _ = distributions
    python = environment_of(tmp_path / "venv", "3.12", wheel)
    script = (
        "import sys\n"
        "from metric_learn_client import EmbeddingClient\n"
        "from metric_learn_client.testing import fake_embeddings\n"
        "with EmbeddingClient(sys.argv[1]) as client:\n"
        "    assert (client.embed([b'a']).embeddings == fake_embeddings([b'a'])).all()\n"
        "    try:\n"
        "        client.embed([b'a'], show_progress=True)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
        "try:\n"
        "    EmbeddingClient(sys.argv[1], resize='server-exact')\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    with FakeServable() as fake:
        done = subprocess.run([python, "-c", script, fake.endpoint], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "metric-learn-client[cli]" in done.stdout and "metric-learn-client[preprocess]" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(("python", "protobuf", "numpy", "grpcio"), COMBINATIONS)
def test_every_combination_makes_the_same_request_and_gets_the_same_rows(
    distributions, server, tmp_path, python, protobuf, numpy, grpcio
):
    wheel, _ = distributions
    made = environment_of(tmp_path / "venv", python, wheel, protobuf, numpy, grpcio)
    reference = np.load(GOLDEN / "reference.npz")
    names = [str(GOLDEN / "images" / str(name)) for name in reference["names"][:6]]
    done = subprocess.run(
        [str(made), *WARNINGS, "-c", ROUND_TRIP, server.endpoint, *names],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=250,
    )
    shutil.rmtree(tmp_path / "venv")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    rows = np.array(said["embeddings"])
    expected = reference["embeddings_f32"][:6]
    distance = np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert distance.max() <= 1e-4 and said["apart"] <= 1e-5
    assert said["codes"] == ["E_UNSUPPORTED"] and said["pixels"] == [2, 2048]
    images = [Path(name).read_bytes() for name in names]
    assert said["request"] == hashlib.sha256(encode_request("embed", images)).hexdigest()
    print(python, *said["versions"])


@pytest.mark.long
def test_the_web_application_of_the_readme_serves(distributions, tmp_path):
    wheel, _ = distributions
    python = environment_of(tmp_path / "venv", "3.12", wheel, "fastapi", "python-multipart", "httpx")
    source = (REPOSITORY / "client" / "examples" / "fastapi_app.py").read_text()
    script = (
        "from fastapi.testclient import TestClient\n"
        "with TestClient(app) as web:\n"
        "    answer = web.post('/embed', files={'image': b'an image'})\n"
        "    assert answer.status_code == 200 and len(answer.json()['embedding']) == 2048, answer.text\n"
        "    assert web.post('/embed', files={'image': b'corrupt'}).status_code == 422\n"
    )
    with FakeServable() as fake:
        program = source.replace("127.0.0.1:5500", fake.endpoint) + script
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr

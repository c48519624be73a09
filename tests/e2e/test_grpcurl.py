"""The gateway's page, followed word for word by somebody who has no Python client: grpcurl and the .proto files."""

import base64
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from metric_learn_client import EmbeddingClient

from .conftest import REPOSITORY

TOOLS = REPOSITORY / ".venv" / "client" / "bin"
pytestmark = pytest.mark.skipif(not (TOOLS / "grpcurl").exists(), reason="grpcurl is installed on x86_64 alone")


def answer_of(command, endpoint):
    environment = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    command = command.replace("127.0.0.1:5500", endpoint)
    done = subprocess.run(
        ["sh", "-c", command], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def commands():
    page = (REPOSITORY / "servable" / "gateway" / "README.md").read_text()
    return re.search(r"## From another language.*?```sh\n(.*?)```", page, re.DOTALL)[1].splitlines()


def test_get_model_says_what_is_served(server, commands):
    assert answer_of(commands[0], server.endpoint)["dim"] == 2048


def test_predict_gives_the_clients_row(server, commands):
    reply = answer_of(commands[1], server.endpoint)
    data = base64.b64decode(reply["instances"][0]["items"]["embedding"]["data"])
    with EmbeddingClient(server.endpoint) as client:
        expected = client.embed([Path(REPOSITORY / "tests/golden/images/coffee_rgb.png")]).embeddings[0]
    assert np.array_equal(np.frombuffer(data, "<f4"), expected)

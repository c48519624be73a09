"""The README's commands, run as they stand there, against stand-in weights in a directory of their own."""

import json
import os
import re
import shlex
import signal
import subprocess

import numpy as np
import pytest

from metric_learn_client import EmbeddingClient

from .conftest import REPOSITORY, free_port

README = (REPOSITORY / "README.md").read_text()
READY_S = 120


def commands():
    """Every line of the README's shell blocks, without its comment."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.strip()]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return {
        **os.environ,
        "MODELS": str(tmp_path_factory.mktemp("models")),
        "METRIC_LEARN_ENDPOINT": f"127.0.0.1:{free_port()}",
        "METRIC_LEARN_SERVER__HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
        "METRIC_LEARN_SERVER__API_ADDRESS": f"127.0.0.1:{free_port()}",
        "METRIC_LEARN_SERVER__RUN_DIR": str(tmp_path_factory.mktemp("run")),
    }


@pytest.fixture(scope="module")
def served(versions, environment):
    """What `make export` and `make serve` of the README lead to."""
    checkpoint = str(versions / "metric_learn_stand_in.ckpt")
    export = next(command for command in commands() if command.startswith("make export"))
    command = re.sub(r"CKPT=\S+", f"CKPT={checkpoint}", export)
    subprocess.run(shlex.split(command), cwd=REPOSITORY, env=environment, check=True)
    serve = next(command for command in commands() if command.startswith("make serve"))
    process = subprocess.Popen(
        shlex.split(serve),
        cwd=REPOSITORY,
        env={**environment, "METRIC_LEARN_SERVER__ADDRESS": environment["METRIC_LEARN_ENDPOINT"]},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    line = next((line for line in process.stdout if line.startswith("ready")), "")
    yield line
    os.killpg(process.pid, signal.SIGTERM)  # as a terminal's Ctrl-C, to make and to the server
    process.wait(READY_S)
    process.stdout.close()


def test_every_command_of_the_readme_is_run_here():
    assert [re.split(r"[ =]", command)[0:2] for command in commands()] == [
        ["make", "demo"],
        ["make", "export"],
        ["make", "serve"],
        [".venv/client/bin/metric-learn", "embed"],
        ["curl", "--data-binary"],
        ["echo", '\'{"model":'],
    ]


def test_the_demo_runs_and_draws_its_contact_sheet():
    done = subprocess.run(["make", "demo"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sheet = re.search(r"contact sheet: (\S+)", done.stdout).group(1)
    assert (REPOSITORY / sheet).stat().st_size > 100_000
    assert "pictures" in done.stdout and "astronaut-crop 0." in done.stdout


def test_export_and_serve_lead_to_a_ready_server(served):
    assert served.startswith("ready: ")


def test_the_embed_command_writes_its_rows(served, environment, tmp_path):
    command = shlex.split(next(command for command in commands() if " embed " in command))
    pictures = [str(REPOSITORY / "tests/golden/images" / name) for name in ("coffee_rgb.png", "cat_tiny_60x40.jpg")]
    command[0] = str(REPOSITORY / command[0])
    arguments = [pictures.pop(0) if part.endswith((".jpg", ".png")) else part for part in command]
    subprocess.run(arguments, cwd=tmp_path, env=environment, check=True)
    assert np.load(tmp_path / "x.npy").shape == (2, 2048)


def curl_lines():
    """As they stand there, quotes and pipes and all."""
    return [
        line
        for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
        for line in block.splitlines()
        if "curl" in line
    ]


def test_the_curl_lines_give_the_pictures_embedding(served, environment):
    rows = []
    for line in curl_lines():
        command = line.replace("127.0.0.1:5502", environment["METRIC_LEARN_SERVER__API_ADDRESS"])
        answer = json.loads(
            subprocess.run(["sh", "-c", command], cwd=REPOSITORY, capture_output=True, check=True).stdout
        )
        rows.append(answer["data"][0]["embedding"] if "data" in answer else answer["embedding"])
    with EmbeddingClient(environment["METRIC_LEARN_ENDPOINT"]) as client:
        expected = client.embed([REPOSITORY / "tests/golden/images/coffee_rgb.png"]).embeddings[0]
    assert len(rows) == 2
    assert all(np.array_equal(np.float32(row), expected) for row in rows)


def test_the_python_of_the_readme_runs(served, environment, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    monkeypatch.chdir(REPOSITORY)
    for block in blocks:
        exec(block.replace("127.0.0.1:5500", environment["METRIC_LEARN_ENDPOINT"]), {})

"""The commands of the README and of the quickstart, run as they stand there, against stand-in weights in a directory of
their own."""

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from metric_learn_client import EmbeddingClient

from .conftest import REPOSITORY, free_port

README = (REPOSITORY / "README.md").read_text()
QUICKSTART = (REPOSITORY / "client" / "docs" / "quickstart.md").read_text()
READY_S = 120


def lines_of(blocks):
    """Every line of some shell blocks, without its comment."""
    lines = [line.partition("   #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def commands(page):
    return lines_of(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))


def steps():
    """(commands, the lines that they print) of each part of the quickstart that an endpoint is asked in."""
    parts = re.findall(r"```sh\n(.*?)```(?:\n```text\n(.*?)```)?", QUICKSTART, re.DOTALL)
    told = [(lines_of([block]), printed.splitlines()) for block, printed in parts]
    return [(lines, printed) for lines, printed in told if "metric-learn " in lines[0]]


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
    """What `make export` and `make serve` lead to."""
    checkpoint = str(versions / "metric_learn_stand_in.ckpt")
    export = next(command for command in commands(QUICKSTART) if command.startswith("make export"))
    command = re.sub(r"CKPT=\S+", f"CKPT={checkpoint}", export)
    subprocess.run(shlex.split(command), cwd=REPOSITORY, env=environment, check=True)
    serve = next(command for command in commands(README) if command.startswith("make serve"))
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


@pytest.fixture
def folder(tmp_path):
    """A folder to work in that looks like the repository's to the commands, so that their files are left in it."""
    for name in ("client", "tests", ".venv"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


def masked(text):
    """Times and cosines differ from machine to machine."""
    return re.sub(r"\d+\.\d+", "#", text)


def words(lines):
    return [" ".join(re.split(r"[ =]", line)[:2]) for line in lines]


def test_every_command_of_the_readme_is_run_here():
    assert words(commands(README)) == [
        "make demo",
        "make serve",
        ".venv/client/bin/metric-learn embed",
        "curl --data-binary",
        'echo \'{"model":',
    ]


def test_every_command_of_the_quickstart_is_run_here_but_the_way_into_the_folder():
    assert words(commands(QUICKSTART))[:5] == [
        "git clone",
        "cd metric-learn-serving",
        "make demo",
        "make serve",
        "make export",
    ]
    assert set(words(commands(QUICKSTART))[5:]) == set(words(line for lines, _ in steps() for line in lines))


def test_the_demo_runs_and_draws_its_contact_sheet():
    done = subprocess.run(["make", "demo"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sheet = re.search(r"contact sheet: (\S+)", done.stdout).group(1)
    assert (REPOSITORY / sheet).stat().st_size > 100_000
    assert "pictures" in done.stdout and "astronaut-crop 0." in done.stdout


def test_export_and_serve_lead_to_a_ready_server(served):
    assert served.startswith("ready: ")


def test_the_export_that_the_quickstart_makes_records_its_parity(served, environment):
    (manifest,) = Path(environment["MODELS"]).glob("*/manifest.json")
    parity = json.loads(manifest.read_text())["parity"]
    assert max(parity["worst_relative_distance"].values()) <= parity["tolerance"] == 1e-4


def test_the_embed_command_writes_its_rows(served, environment, folder):
    command = next(command for command in commands(README) if " embed " in command)
    subprocess.run(command, shell=True, cwd=folder, env=environment, check=True)
    assert np.load(folder / "pictures.npy").shape == (10, 2048)


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


def test_the_quickstart_can_be_followed_word_for_word(served, environment, folder):
    for lines, printed in steps():
        said = ""
        for line in lines:
            done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, (line, done.stderr)
            said += (done.stdout + done.stderr).replace(environment["METRIC_LEARN_ENDPOINT"], "127.0.0.1:5500")
        assert [line for line in printed if masked(line) not in masked(said)] == []
    assert np.load(folder / "two.npy").shape == (2, 2048)
    assert (folder / "found.html").stat().st_size > 10_000


@pytest.mark.parametrize("page", [README, QUICKSTART], ids=["readme", "quickstart"])
def test_the_python_of_the_pages_runs(served, environment, monkeypatch, page):
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    monkeypatch.chdir(REPOSITORY)
    for block in blocks:
        exec(block.replace("127.0.0.1:5500", environment["METRIC_LEARN_ENDPOINT"]), {})

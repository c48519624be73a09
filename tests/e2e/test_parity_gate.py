"""The gate passes on the real server, and names each mistake that was made in a servable on purpose."""

import json
import os
import subprocess

import pytest

from . import conftest
from .mistaken import command_line, copy_of_the_export, copy_of_the_server
from .processes import serving_in
from .second_version import ALTERED, two_versions

GOLDEN = conftest.REPOSITORY / "tests" / "golden"
# Enough to tell every mistake from the others: large and small, tall and wide, turned by EXIF.
PICTURES = [
    GOLDEN / "images" / name
    for name in (
        "astronaut_420_q90.jpg",
        "astronaut_tall_90x1200.jpg",
        "cat_exif2.jpg",
        "cat_progressive.jpg",
        "coffee_444_q95.jpg",
        "coffee_exif6.jpg",
        "coffee_rgb.png",
        "coffee_wide_1500x90.jpg",
    )
]


def record_golden(checkpoint, output, *options):
    python = str(conftest.REPOSITORY / ".venv" / "export" / "bin" / "python")
    command = [python, "-m", "export", "golden", *PICTURES, "--checkpoint", checkpoint, "--output", output]
    environment = {**os.environ, "GLOG_v": "3"}
    subprocess.run([*map(str, command), *options], cwd=conftest.REPOSITORY, env=environment, check=True)


@pytest.fixture(scope="module")
def recorded(versions, tmp_path_factory):
    """A golden set from the stand-in checkpoint, by the command that users have."""
    folder = tmp_path_factory.mktemp("golden") / "set"
    record_golden(versions / "metric_learn_stand_in.ckpt", folder)
    return folder


@pytest.fixture(scope="module")
def switch(tmp_path_factory):
    file = tmp_path_factory.mktemp("switch") / "mistake"
    file.write_text("none")
    return file


@pytest.fixture(scope="module")
def mistaken(versions, switch, tmp_path_factory):
    folder = copy_of_the_server(tmp_path_factory.mktemp("copy"), switch)
    with serving_in(tmp_path_factory.mktemp("run"), conftest.ONE_SIZE, repository=folder) as started:
        yield started


def gate(endpoint, golden, *options):
    done = command_line("verify", "--endpoint", endpoint, "--golden", golden, "--json", *options)
    assert done.returncode in (0, 5), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_gate_passes_on_the_oracles_set(server, tmp_path):
    output = tmp_path / "verdict.json"
    done = command_line("verify", "--endpoint", server.endpoint, "--golden", GOLDEN, "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: all 18 pictures" in done.stdout
    verdict = json.loads(output.read_text())
    assert verdict["references"]["worst"] <= 1e-4 and verdict["preprocessing"]["worst"] <= 1e-4


def test_a_set_recorded_from_the_checkpoint_passes_in_either_precisions_terms(server, recorded):
    for precision in ("float32", "float16"):
        code, verdict = gate(server.endpoint, recorded, "--precision", precision)
        assert code == 0 and verdict["passed"], verdict
    assert verdict["references"]["neighbours_agree"] == 1.0
    assert verdict["served"]["fingerprint"] == verdict["reference"]["fingerprint"]


@pytest.mark.parametrize(
    "mistake",
    ["rgb", "pillow-lanczos", "one-bilinear-resize", "centre-crop", "exif-ignored", "not-normalised"],
)
def test_a_mistake_in_a_servable_fails_the_gate_and_is_named(mistaken, recorded, switch, mistake):
    switch.write_text(mistake)
    code, verdict = gate(mistaken.endpoint, recorded)
    switch.write_text("none")
    assert code == 5 and not verdict["passed"]
    first = verdict["diagnosis"][0]
    assert (first["mistake"], first["certain"]) == (mistake, True), verdict["diagnosis"]


def test_two_endpoints_are_compared_by_the_same_command(server, mistaken, recorded, switch):
    switch.write_text("none")
    assert gate(server.endpoint, recorded, "--against", mistaken.endpoint)[0] == 0
    switch.write_text("rgb")
    code, verdict = gate(mistaken.endpoint, recorded, "--against", server.endpoint)
    assert code == 5 and verdict["diagnosis"][0]["mistake"] == "rgb"
    assert verdict["reference"]["name"] == server.endpoint


def test_a_set_of_ones_own_pictures_is_recorded_from_an_endpoint(server, tmp_path):
    output = tmp_path / "mine"
    pictures = sorted((GOLDEN / "images").glob("coffee*"))
    done = command_line("golden", "record", *pictures, "--output", output, "--endpoint", server.endpoint)
    assert done.returncode == 0, done.stderr
    assert gate(server.endpoint, output)[0] == 0
    again = command_line("golden", "record", *pictures, "--output", output, "--endpoint", server.endpoint)
    assert again.returncode == 2 and "exists" in again.stderr


def test_a_mindir_without_normalisation_fails_the_gate_and_is_named(versions, recorded, tmp_path):
    edits = [("export/network.py", "x * self.scale - self.shift", "x * ms.Tensor(np.float32(1 / 255))")]
    export = copy_of_the_export(tmp_path / "export-copy", edits)
    checkpoint = versions / "metric_learn_stand_in.ckpt"
    export("convert", "--checkpoint", checkpoint, "--version", 1, "--directory", tmp_path / "versions")
    with serving_in(tmp_path / "run", f"model.directory={tmp_path / 'versions'}") as started:
        code, verdict = gate(started.endpoint, recorded)
    assert code == 5
    first = verdict["diagnosis"][0]
    assert (first["mistake"], first["certain"]) == ("missing-normalisation", True)


def test_another_versions_weights_fail_the_gate_and_the_version_is_named(versions, recorded, tmp_path):
    flags = (f"model.directory={two_versions()}", "model.version=2", conftest.ONE_SIZE)
    with serving_in(tmp_path / "run", *flags) as started:
        code, verdict = gate(started.endpoint, recorded)
        record_golden(ALTERED, tmp_path / "golden-v2", "--references-only")
        named = gate(started.endpoint, recorded, "--other-version", tmp_path / "golden-v2")[1]
    assert code == 5 and verdict["diagnosis"][0]["mistake"] == "wrong-version"
    assert "golden-v2" in named["diagnosis"][0]["sentence"] and named["diagnosis"][0]["certain"]


def test_an_endpoint_that_is_not_there_is_exit_4_and_a_missing_set_exit_2(tmp_path):
    nowhere = f"127.0.0.1:{conftest.free_port()}"
    done = command_line("verify", "--endpoint", nowhere, "--golden", GOLDEN, "--deadline-s", "2")
    assert done.returncode == 4 and nowhere in done.stderr
    done = command_line("verify", "--endpoint", nowhere, "--golden", tmp_path)
    assert done.returncode == 2 and "not a golden set" in done.stderr

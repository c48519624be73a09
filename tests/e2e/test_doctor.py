"""`--check` as an operator runs it: exit codes 0, 2 and 4. What it finds is in tests/unit/servable/doctor."""

import subprocess
import sys
import time

import pytest

from tests.patience import patient
from tests.unit.servable.doctor.scene import REPOSITORY, Scene

SERVER_PYTHON = str(REPOSITORY / ".venv" / "server" / "bin" / "python")


@pytest.fixture
def scene(monkeypatch):
    with Scene(monkeypatch) as scene:
        yield scene


def serving_server(scene, *arguments, python=SERVER_PYTHON):
    command = [python, "-m", "servable.serving_server", "--config", str(scene.write()), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_a_right_configuration_passes_in_about_a_second_and_writes_nothing(scene):
    began = time.monotonic()
    done = serving_server(scene, "--check")
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ok: version 1, stand-in weights, cpu\n" and not done.stderr
    assert not (scene.folder / "run").exists()
    assert seconds < patient(5)  # 0.6 s on an idle machine


def test_each_problem_is_a_line_on_stderr_and_a_wrong_configuration_exits_2(scene):
    scene.set("server", run_dir="run")
    scene.set("deadlines", default_s=200)
    scene.set("model", version=7)
    done = serving_server(scene, "--check")
    assert done.returncode == 2 and not done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("serving_server: ") for line in lines)


def test_an_interpreter_without_the_servers_packages_is_named_and_exits_4(scene):
    done = serving_server(scene, "--check", python=sys.executable)
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert sys.executable in line and "is not installed; run `make server-env`" in line


def test_without_mindspore_servings_interpreter_check_and_start_say_the_same_line_and_exit_4(scene):
    scene.set("backend", engine_python=sys.executable)
    for arguments in (["--check"], []):
        done = serving_server(scene, *arguments)
        assert done.returncode == 4 and not done.stdout
        (line,) = done.stderr.splitlines()
        assert sys.executable in line and "make engine-env" in line
    assert not (scene.folder / "run").exists()


def test_a_second_server_on_the_same_port_is_refused_before_it_starts_anything(scene):
    scene.listen(scene.config["server"]["address"])
    done = serving_server(scene)
    assert done.returncode == 4 and "already in use" in done.stderr
    assert not (scene.folder / "run").exists()

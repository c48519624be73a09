"""`make engine-env` on an Ascend host: MindSpore Serving's Python gets what CANN's operator compiler imports."""

import re
import shutil
import subprocess

import pytest

from tests.e2e.conftest import REPOSITORY

PARTS = [
    "configs/environments",
    "servable/engine/requirements.txt",
    "servable/engine/requirements-ascend.txt",
    "tests/requirements.txt",
    "client/pyproject.toml",
]
# As CANN's installation guide lists it.
COMPILER_IMPORTS = set(
    "absl-py attrs cffi cython decorator numpy pathlib2 protobuf psutil pyyaml requests scipy sympy".split()
)
# A Python 3.9 that makes environments of itself and writes down what it is to install.
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-c "*) echo "$0" ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *) echo "$@" >> installed ;;
esac
"""


@pytest.fixture
def install(tmp_path):
    """The command, in a checkout that is only its parts; and what it installed."""
    for part in PARTS:
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (REPOSITORY / part).is_dir() else shutil.copy
        copy(REPOSITORY / part, tmp_path / part)
    python = tmp_path / "python3.9"
    python.write_text(PYTHON)
    python.chmod(0o755)
    command = f"cd {tmp_path} && PYTHON39={python} sh configs/environments/install.sh engine"
    return ("sh", "-c", command), lambda: re.findall(r"-r (\S+)", (tmp_path / "installed").read_text())


def test_it_installs_the_operator_compilers_lock_where_cann_is(host, install):
    command, installed = install
    done = host.run(*command)
    assert done.returncode == 0, done.stderr
    assert "servable/engine/requirements-ascend.txt" in installed()


def test_it_does_not_elsewhere(install):
    command, installed = install
    subprocess.run(command, check=True, timeout=60)
    assert installed() and "servable/engine/requirements-ascend.txt" not in installed()


def test_the_locks_hold_what_the_operator_compiler_imports():
    locks = "".join((REPOSITORY / part).read_text() for part in PARTS[1:3])
    held = dict(re.findall(r"^([\w-]+)==[^\n]*\\\n((?:    --hash=\S+[ \\]*\n)+)", locks, re.MULTILINE))
    assert set(held) >= COMPILER_IMPORTS

"""`make release` in a copy of this checkout: the same commit gives the same bytes, and a tag that says which."""

import hashlib
import os
import re
import shutil
import subprocess

import pytest

from .conftest import REPOSITORY

PYTHON = str(REPOSITORY / ".venv" / "release" / "bin" / "python")
VERSION = re.search(r'__version__ = "(.*)"', (REPOSITORY / "client/src/metric_learn_client/_version.py").read_text())[1]
COMMAND_S = 900  # two builds and eight SBOMs: 45 s of processor time, and many times that beside others


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND_S, **options).stdout


@pytest.fixture
def copy(tmp_path):
    """What git knows of this checkout, as it is now, as the one commit of a repository of its own."""
    names = run("git", "ls-files", "-z", cwd=REPOSITORY).split("\0")
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tmp_path / name)
    for command in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-q", "-m", "all"]):
        run("git", *command, cwd=tmp_path, env=environment())
    return tmp_path


def environment():
    who = {
        f"GIT_{role}_{key}": f"{key.lower()}@example.org"
        for role in ("AUTHOR", "COMMITTER")
        for key in ("NAME", "EMAIL")
    }
    return {**os.environ, **who}


@pytest.mark.long
@pytest.mark.timeout(3 * COMMAND_S)
def test_a_release_is_tagged_and_its_commit_gives_the_same_bytes_again(copy, tmp_path_factory):
    run("sh", "configs/environments/install.sh", "release", cwd=REPOSITORY)
    script = [PYTHON, "client/release/release.py", VERSION, "--output"]
    first, again = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("again")
    said = run(*script, str(first), cwd=copy, env=environment())
    assert f"tagged v{VERSION}" in said
    assert run("git", "describe", "--exact-match", cwd=copy).strip() == f"v{VERSION}"
    assert f"## [{VERSION}] - 20" in run("git", "show", f"v{VERSION}:CHANGELOG.md", cwd=copy)
    run(*script, str(again), "--dry-run", cwd=copy, env=environment())
    files = {path.name: path.read_bytes() for path in first.iterdir()}
    assert files == {path.name: path.read_bytes() for path in again.iterdir()}
    assert {name.rpartition(".")[2] for name in files} == {"gz", "whl", "json", "SHA256SUMS"}
    for line in files["SHA256SUMS"].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(files[name]).hexdigest() == digest
    assert not [name for name, content in files.items() if name.endswith(".json") and b"://pypi" in content]

"""The export's last gate: a MindIR that is not the checkpoint's network is found in the runtime that serves it."""

import hashlib
import json
import os
import shutil
import subprocess

from .conftest import REPOSITORY
from .second_version import two_versions

PYTHON = str(REPOSITORY / ".venv" / "export" / "bin" / "python")


def export(*arguments):
    environment = {**os.environ, "GLOG_v": "3"}
    return subprocess.run([PYTHON, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_verify_fails_for_a_mindir_of_other_weights_and_says_which(versions, tmp_path):
    version = tmp_path / "1"
    shutil.copytree(versions / "1", version)
    mindir = version / "metric_learn_b4.mindir"
    shutil.copy(two_versions() / "2" / mindir.name, mindir)
    manifest = json.loads((version / "manifest.json").read_text())
    entry = next(entry for entry in manifest["mindir"] if entry["batch_size"] == 4)
    entry["sha256"] = hashlib.sha256(mindir.read_bytes()).hexdigest()
    (version / "manifest.json").write_text(json.dumps(manifest))

    done = export("-m", "export", "verify", "--version", "1", "--directory", str(tmp_path))
    assert done.returncode == 5, done.stderr
    assert "do not serve it" in done.stderr.splitlines()[-1]
    recorded = json.loads((version / "manifest.json").read_text())["parity"]["worst_relative_distance"]
    assert recorded["4"] > 1e-4 > max(recorded["1"], recorded["16"])

"""The export's last gate: a MindIR that is not the checkpoint's network is found in the runtime that serves it."""

import hashlib
import json
import os
import shutil
import subprocess

from .conftest import REPOSITORY

PYTHON = str(REPOSITORY / ".venv" / "export" / "bin" / "python")
# Another network than the checkpoint's: one normalisation scaled, batch size 4 alone.
MAKE_WRONG = """
import sys
from pathlib import Path
import mindspore as ms, numpy as np
from export.checkpoint import read_checkpoint
from export.facts import model_facts
from export.mindir import build_graph
facts = model_facts()
checkpoint = read_checkpoint(Path(sys.argv[1]), facts.expected_extras)
checkpoint.weights["layer2.1.bn2.gamma"] *= 1.5
ms.export(build_graph(checkpoint, facts), ms.Tensor(np.zeros((4, 224, 224, 3), np.uint8)),
          file_name=sys.argv[2], file_format="MINDIR")
"""


def export(*arguments):
    environment = {**os.environ, "GLOG_v": "3"}
    return subprocess.run([PYTHON, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_verify_fails_for_a_mindir_of_other_weights_and_says_which(versions, tmp_path):
    version = tmp_path / "1"
    shutil.copytree(versions / "1", version)
    mindir = version / "metric_learn_b4.mindir"
    mindir.unlink()
    made = export("-c", MAKE_WRONG, str(versions / "metric_learn_stand_in.ckpt"), str(mindir.with_suffix("")))
    assert made.returncode == 0, made.stderr
    manifest = json.loads((version / "manifest.json").read_text())
    entry = next(entry for entry in manifest["mindir"] if entry["batch_size"] == 4)
    mindir.chmod(0o644)
    entry["sha256"] = hashlib.sha256(mindir.read_bytes()).hexdigest()
    (version / "manifest.json").write_text(json.dumps(manifest))

    done = export("-m", "export", "verify", "--version", "1", "--directory", str(tmp_path))
    assert done.returncode == 5, done.stderr
    assert "do not serve it" in done.stderr.splitlines()[-1]
    recorded = json.loads((version / "manifest.json").read_text())["parity"]["worst_relative_distance"]
    assert recorded["4"] > 1e-4 > max(recorded["1"], recorded["16"])

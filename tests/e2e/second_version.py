"""A second version with other weights, beside version 1: exported once, then kept like the first."""

import errno
import fcntl
import os
import shutil
import subprocess

from .conftest import REPOSITORY, VERSIONS

TWO = REPOSITORY / ".runtime" / "two-versions"
ALTERED = TWO / "altered.ckpt"  # what version 2 was exported from
# Runs in the export environment: the stand-in weights, the last stage's BatchNorm scaled channel by channel.
ALTER = """
import sys
from pathlib import Path
import numpy as np
from export.checkpoint import read_checkpoint, write_checkpoint
weights = dict(read_checkpoint(Path(sys.argv[1]), ()).weights)
random = np.random.default_rng(2)
name = [name for name in sorted(weights) if name.endswith("gamma")][-1]
weights[name] = (weights[name] * random.uniform(0.2, 1.8, weights[name].shape)).astype(np.float32)
write_checkpoint(weights, Path(sys.argv[2]))
"""


def two_versions():
    """Folder with versions 1 and 2. Call after the `versions` fixture, which exports the first."""
    wanted = (VERSIONS / ".exported-by").read_text()
    TWO.mkdir(parents=True, exist_ok=True)
    with (TWO / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = TWO / ".exported-by"
        if not made.is_file() or made.read_text() != wanted or not ALTERED.is_file():
            _export()
            made.write_text(wanted)
    return TWO


def link_tree(source, target):
    """A folder with the files of another: linked, or copied where `target` is on another file system. A file that is
    replaced there leaves the original."""

    def link_or_copy(file, name):
        try:
            os.link(file, name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copyfile(file, name)

    shutil.copytree(source, target, copy_function=link_or_copy)


def copy_version(source, target, number):
    """Version `number` with the files of `source`, linked, and a manifest of its own."""
    link_tree(source, target / str(number))
    manifest = target / str(number) / "manifest.json"
    text = manifest.read_text().replace(f'"version": {source.name}', f'"version": {number}')
    manifest.unlink()
    manifest.write_text(text)
    return target / str(number)


def _export():
    for number in ("1", "2"):
        shutil.rmtree(TWO / number, ignore_errors=True)
    link_tree(VERSIONS / "1", TWO / "1")
    python = str(REPOSITORY / ".venv" / "export" / "bin" / "python")
    environment = {**os.environ, "GLOG_v": "3"}
    for arguments in (
        ["-c", ALTER, str(VERSIONS / "metric_learn_stand_in.ckpt"), str(ALTERED)],
        ["-m", "export", "convert", "--checkpoint", str(ALTERED), "--version", "2", "--directory", str(TWO)],
    ):
        subprocess.run([python, *arguments], cwd=REPOSITORY, env=environment, check=True)

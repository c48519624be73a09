"""The private servable directory that MindSpore Serving reads: this repository's code, the exported version's files.

MindSpore Serving refuses or silently misreads much of what users' folders look like (symlinks, spaces, leading
zeros, several versions). It sees a copy of the code and one link to one version instead.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from metric_learn_client.contract import SERVABLE_NAME

STAGED_VERSION = 1


def stage(code: Path, version_directory: Path, run_dir: Path) -> Path:
    """Makes run_dir/servables/metric_learn/ with the *.py of `code` and the version. Returns run_dir/servables."""
    root = run_dir / "servables"
    shutil.rmtree(root, ignore_errors=True)
    target = root / SERVABLE_NAME
    target.mkdir(parents=True)
    for file in code.glob("*.py"):
        shutil.copyfile(file, target / file.name)
    (target / str(STAGED_VERSION)).symlink_to(version_directory.resolve(), target_is_directory=True)
    return root

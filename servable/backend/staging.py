"""The private servable directory that MindSpore Serving reads: this repository's code, the exported version's files.

MindSpore Serving refuses or silently misreads much of what users' folders look like (symlinks, spaces, leading
zeros, several versions). It sees a copy of the code and one link to one version instead.
"""

from __future__ import annotations

import shutil
from pathlib import Path


def stage(code: Path, version_directory: Path, run_dir: Path, servable_name: str) -> Path:
    """Makes run_dir/servables/<name>/ with the *.py of `code` and the version as "1". Returns run_dir/servables."""
    root = run_dir / "servables"
    shutil.rmtree(root, ignore_errors=True)
    target = root / servable_name
    target.mkdir(parents=True)
    for file in code.glob("*.py"):
        shutil.copyfile(file, target / file.name)
    (target / "1").symlink_to(version_directory.resolve(), target_is_directory=True)
    return root


STAGED_VERSION = 1

"""The environment of MindSpore Serving and its workers: the same however a start came about, and for `--check`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from servable.host.memory import memory_environment
from servable.runtime.cann import Cann, cann_environment

REPOSITORY = Path(__file__).resolve().parents[2]
LISTS = ("LD_LIBRARY_PATH", "PYTHONPATH", "PATH")


def child_environment(
    library_path: Path, cann: Optional[Cann], inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """`library_path`: MindSpore Lite's folder. `cann`: for a device; None for a CPU."""
    added = {"LD_LIBRARY_PATH": str(library_path), "PYTHONPATH": str(REPOSITORY)}
    if cann is not None:
        for name, value in cann_environment(cann.root).items():
            added[name] = _joined(added.get(name), value) if name in LISTS else value
    environment = dict(inherited)
    for name, value in added.items():
        environment[name] = _joined(value, inherited.get(name)) if name in LISTS else value
    environment["PYTHONUNBUFFERED"] = "1"
    environment.setdefault("GLOG_v", "2")
    for name, value in memory_environment().items():
        environment.setdefault(name, value)
    environment.pop("NOTIFY_SOCKET", None)  # the service manager hears the server alone
    environment.pop("PYTHONHOME", None)  # of the server's own Python, which is another
    return environment


def _joined(*parts: Optional[str]) -> str:
    return ":".join(part for part in parts if part)

"""CANN on this host: where it is installed, which version it is, and the environment in which it can be loaded.

CANN's own set_env.sh is for shells. A service has none, and MindSpore Serving 2.0.2 looks for the device before it adds
anything to the environment itself. So the server gives every MindSpore Serving what set_env.sh would have set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

ASCEND = Path("/usr/local/Ascend")
# In this order MindSpore Serving 2.0.2 looks for CANN (server/worker/check_version.py); it cannot be told another.
SERVING_PLACES = ("nnae/latest", "ascend-toolkit/latest", "latest")
NEWER_PLACES = ("cann",)  # CANN 8.5's installers
VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")  # set by set_env.sh, newest first
DRIVERS = (
    ASCEND / "driver",
    Path("/home/data/miniD/driver"),  # Atlas 500
)
_VERSION = re.compile(r"^version\s*=\s*\[?\s*([\w.]+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Cann:
    """root: the folder that holds lib64 and opp. origin: the variable that named it, or nothing."""

    root: Path
    origin: str = ""

    @property
    def version(self) -> str:
        """As its installer wrote it, such as "6.3.RC2" or "8.0.0"; else that of its compiler; else nothing."""
        for pattern in ("*-linux/ascend_*_install.info", "compiler/version.info", "version.info"):
            for file in sorted(self.root.glob(pattern)):
                try:
                    found = _VERSION.search(file.read_text(errors="replace"))
                except OSError:
                    continue
                if found:
                    return found[1]
        return ""


def find_cann(environment: Mapping[str, str]) -> Optional[Cann]:
    """What a variable names, else the first of the places where installers put it; None where there is none."""
    for name in VARIABLES:
        if environment.get(name):
            return Cann(Path(environment[name]), name)
    for place in (*SERVING_PLACES, *NEWER_PLACES):
        if (ASCEND / place / "lib64").is_dir():
            return Cann(ASCEND / place)
    return None


def serving_cann() -> Optional[Path]:
    """The one that MindSpore Serving adds in front of everything else, wherever a variable points."""
    for place in SERVING_PLACES:
        if (ASCEND / place / "compiler" / "version.info").exists():
            return ASCEND / place
    return None


def cann_environment(root: Path) -> dict[str, str]:
    """What CANN's set_env.sh sets for the installation in `root`. Paths that are lists go before inherited ones."""
    operators = root / "opp" / "built-in" / "op_impl" / "ai_core" / "tbe"
    libraries = [root / "lib64" / below for below in ("", "plugin/opskernel", "plugin/nnengine")]
    libraries += [driver / "lib64" / below for driver in DRIVERS for below in ("", "common", "driver")]
    return {
        "ASCEND_HOME_PATH": str(root),
        "ASCEND_TOOLKIT_HOME": str(root),
        "ASCEND_OPP_PATH": str(root / "opp"),
        "ASCEND_AICPU_PATH": str(root),
        "TOOLCHAIN_HOME": str(root / "toolkit"),
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONPATH": f"{root / 'python' / 'site-packages'}:{operators}",
        "PATH": f"{root / 'bin'}:{root / 'compiler' / 'ccec_compiler' / 'bin'}",
    }

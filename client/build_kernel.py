"""Compiles the resize kernel beside its source; hatch runs it while it builds a wheel, `make` when the source is newer.

The library holds no Python, so one file serves every version. Without a C compiler the wheel is a pure one, and the
client resizes with OpenCV: slower, the same pixels. METRIC_LEARN_PURE=1 asks for that.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Optional

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run as a script
    BuildHookInterface = object  # type: ignore[assignment,misc]

PACKAGE = Path(__file__).resolve().parent / "src" / "metric_learn_client"
SOURCE = PACKAGE / "_resize.c"
LIBRARY = PACKAGE / "_resize.so"
# No fused multiply-add: the weights are OpenCV's to the last bit. Integers wrap, as OpenCV's do.
FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-ffp-contract=off", "-fwrapv"]
COMPILE_S = 120


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if compile_kernel() is None:
            return
        build_data["artifacts"].append(str(LIBRARY.relative_to(PACKAGE.parent.parent)))
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def compile_kernel() -> Optional[Path]:
    """The library, compiled unless it is newer than its source; None where that cannot be."""
    if os.environ.get("METRIC_LEARN_PURE"):
        LIBRARY.unlink(missing_ok=True)
        return None
    newest = max(SOURCE.stat().st_mtime_ns, Path(__file__).stat().st_mtime_ns)
    if LIBRARY.is_file() and LIBRARY.stat().st_mtime_ns > newest:
        return LIBRARY
    compiler = _compiler()
    if compiler is None:
        print("resize kernel: no C compiler; OpenCV will resize (slower, the same pixels)", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory(dir=PACKAGE, prefix=".build-") as scratch:
        built = Path(scratch) / LIBRARY.name
        try:
            _compile(compiler, Path(scratch), built)
        except (OSError, subprocess.SubprocessError) as error:
            detail = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
            print(f"resize kernel: {detail}; OpenCV will resize (slower, the same pixels)", file=sys.stderr)
            return None
        built.replace(LIBRARY)  # at once: another process may be loading it
    return LIBRARY


def _compiler() -> Optional[list[str]]:
    configured = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split()
    for command in (configured, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return command
    return None


def _compile(compiler: list[str], scratch: Path, library: Path) -> None:
    def run(*arguments: str) -> None:
        subprocess.run([*compiler, *arguments], check=True, capture_output=True, text=True, timeout=COMPILE_S)

    objects = [str(scratch / "any.o")]
    defined = []
    if platform.machine() in ("x86_64", "AMD64"):
        objects.append(str(scratch / "avx2.o"))
        defined = ["-DHAVE_AVX2"]
        run(*FLAGS, "-mavx2", "-DWITH_AVX2", "-c", str(SOURCE), "-o", objects[1])
    run(*FLAGS, *defined, "-c", str(SOURCE), "-o", objects[0])
    run("-shared", "-o", str(library), *objects, "-lm")


if __name__ == "__main__":
    compile_kernel()

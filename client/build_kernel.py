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
# No fused multiply-add: the weights are OpenCV's to the last bit. Integers wrap, as OpenCV's do.
FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-ffp-contract=off", "-fwrapv"]
COMPILE_S = 120


SOURCE = PACKAGE / "preprocess" / "_resize.c"
LIBRARY = SOURCE.with_suffix(".so")
INSTEAD = "OpenCV will resize (slower, the same pixels)"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  hatchling's signature
        if not compile_kernel():
            return
        build_data["artifacts"].append(str(LIBRARY.relative_to(PACKAGE.parent.parent)))
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def compile_kernel() -> bool:
    """True where the library is there, compiled now unless it is newer than its source."""
    if os.environ.get("METRIC_LEARN_PURE"):
        LIBRARY.unlink(missing_ok=True)
        return False
    newest = max(SOURCE.stat().st_mtime_ns, Path(__file__).stat().st_mtime_ns)
    if LIBRARY.is_file() and LIBRARY.stat().st_mtime_ns > newest:
        return True
    compiler = _compiler()
    if compiler is None:
        print(f"resize kernel: no C compiler; {INSTEAD}", file=sys.stderr)
        return False
    with tempfile.TemporaryDirectory(dir=PACKAGE, prefix=".build-") as scratch:
        built = Path(scratch) / LIBRARY.name
        try:
            _compile(compiler, Path(scratch), built)
        except (OSError, subprocess.SubprocessError) as error:
            detail = (str(getattr(error, "stderr", "") or error).strip() or "the compiler failed").splitlines()[-1]
            print(f"resize kernel: {detail}; {INSTEAD}", file=sys.stderr)
            return False
        built.replace(LIBRARY)  # at once: another process may be loading it
    return True


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
    if platform.machine() in ("x86_64", "AMD64"):  # a second time for AVX2
        objects.append(str(scratch / "avx2.o"))
        defined = ["-DHAVE_AVX2"]
        run(*FLAGS, "-mavx2", "-DWITH_AVX2", "-c", str(SOURCE), "-o", objects[1])
    run(*FLAGS, *defined, "-c", str(SOURCE), "-o", objects[0])
    run("-shared", "-o", str(library), *objects, "-lm")


if __name__ == "__main__":
    compile_kernel()

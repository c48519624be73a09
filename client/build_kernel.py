"""Compiles the kernels beside their sources; hatch runs it while it builds a wheel, `make` when a source is newer.

The libraries hold no Python, so one file serves every version. Without a C compiler the wheel is a pure one: the
client resizes with OpenCV and evaluates with NumPy alone: slower, the same results. METRIC_LEARN_PURE=1 asks for that.
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
from typing import Any, NamedTuple, Optional

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run as a script
    BuildHookInterface = object  # type: ignore[assignment,misc]

PACKAGE = Path(__file__).resolve().parent / "src" / "metric_learn_client"
# No fused multiply-add: the weights are OpenCV's to the last bit. Integers wrap, as OpenCV's do.
FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-ffp-contract=off", "-fwrapv"]
COMPILE_S = 120


class Kernel(NamedTuple):
    folder: Path
    name: str
    instead: str  # what happens without it
    twice: bool  # a second time for AVX2; otherwise the source names the instructions of each function itself

    @property
    def source(self) -> Path:
        return self.folder / f"_{self.name}.c"

    @property
    def library(self) -> Path:
        return self.folder / f"_{self.name}.so"


KERNELS = (
    Kernel(PACKAGE / "preprocess", "resize", "OpenCV will resize (slower, the same pixels)", True),
    Kernel(PACKAGE, "int8", "evaluation will use floats (slower, the same values)", False),
)


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        libraries = compile_kernels()
        if not libraries:
            return
        build_data["artifacts"] += [str(library.relative_to(PACKAGE.parent.parent)) for library in libraries]
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def compile_kernels() -> list[Path]:
    """The libraries, each compiled unless it is newer than its source; without those that cannot be."""
    if os.environ.get("METRIC_LEARN_PURE"):
        for kernel in KERNELS:
            kernel.library.unlink(missing_ok=True)
        return []
    return [library for library in map(compile_kernel, KERNELS) if library is not None]


def compile_kernel(kernel: Kernel) -> Optional[Path]:
    newest = max(kernel.source.stat().st_mtime_ns, Path(__file__).stat().st_mtime_ns)
    if kernel.library.is_file() and kernel.library.stat().st_mtime_ns > newest:
        return kernel.library
    compiler = _compiler()
    if compiler is None:
        print(f"{kernel.name} kernel: no C compiler; {kernel.instead}", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory(dir=PACKAGE, prefix=".build-") as scratch:
        built = Path(scratch) / kernel.library.name
        try:
            _compile(compiler, kernel, Path(scratch), built)
        except (OSError, subprocess.SubprocessError) as error:
            detail = (str(getattr(error, "stderr", "") or error).strip() or "the compiler failed").splitlines()[-1]
            print(f"{kernel.name} kernel: {detail}; {kernel.instead}", file=sys.stderr)
            return None
        built.replace(kernel.library)  # at once: another process may be loading it
    return kernel.library


def _compiler() -> Optional[list[str]]:
    configured = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split()
    for command in (configured, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return command
    return None


def _compile(compiler: list[str], kernel: Kernel, scratch: Path, library: Path) -> None:
    def run(*arguments: str) -> None:
        subprocess.run([*compiler, *arguments], check=True, capture_output=True, text=True, timeout=COMPILE_S)

    objects = [str(scratch / "any.o")]
    defined = []
    if kernel.twice and platform.machine() in ("x86_64", "AMD64"):
        objects.append(str(scratch / "avx2.o"))
        defined = ["-DHAVE_AVX2"]
        run(*FLAGS, "-mavx2", "-DWITH_AVX2", "-c", str(kernel.source), "-o", objects[1])
    run(*FLAGS, *defined, "-c", str(kernel.source), "-o", objects[0])
    run("-shared", "-o", str(library), *objects, "-lm")


if __name__ == "__main__":
    compile_kernels()

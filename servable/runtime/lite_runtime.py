"""Lays out the MindSpore Lite runtime from its PyPI wheel, under the names MindSpore Serving looks for.

The wheel is tagged for Python 3.7, but its libraries do not depend on Python, so it is downloaded without being
installed. Idempotent; safe when two run at once. Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Optional

REQUIREMENT = "mindspore-lite==2.0.0"
# machine -> (pip's platform tag, sha256 of the wheel)
WHEELS = {
    "x86_64": ("manylinux1_x86_64", "199cd0605cc985b88eddb273db9dfe9000a585ba10ca2292b6b36ebfff07b3ec"),
    "aarch64": ("any", "9006b56a0285833802b4880f34cbce5f94111ef5ca4071d5df5c61e8c2a3a6f7"),
}
ROOT = Path(__file__).resolve().parents[2] / ".runtime"
# MindSpore Serving opens this name; the wheel calls the same library libmindspore-extendrt_python.so.
SERVING_NAME = "libmindspore-lite.so"
PACKAGE_LIBRARIES = Path("runtime", "lib")  # in the package of MindSpore's download page


def lite_directory() -> Path:
    """Folder of the runtime's libraries. METRIC_LEARN_LITE_DIR names another, or an unpacked package that holds one."""
    package = package_directory()
    if package is not None:
        return package / PACKAGE_LIBRARIES
    given = os.environ.get("METRIC_LEARN_LITE_DIR")
    return Path(given) if given else ROOT / "mindspore-lite-2.0.0"


def package_directory() -> Optional[Path]:
    """The unpacked package of MindSpore Lite that METRIC_LEARN_LITE_DIR names: itself, or its runtime/lib."""
    given = Path(os.environ.get("METRIC_LEARN_LITE_DIR") or "/nowhere")
    for folder in (given, given.parent.parent):
        if (folder / PACKAGE_LIBRARIES / SERVING_NAME).is_file():
            return folder
    return None


def lay_out(directory: Path) -> None:
    """Makes `directory` hold the runtime. Raises RuntimeError with what to do."""
    if (directory / SERVING_NAME).is_file():
        return
    machine = platform.machine()
    if machine not in WHEELS:
        raise RuntimeError(f"no MindSpore Lite 2.0.0 wheel for {machine}; it exists for {', '.join(WHEELS)}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / ".lite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / SERVING_NAME).is_file():
            return
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".lite-") as scratch:
            wheel = _download(Path(scratch), *WHEELS[machine])
            libraries = Path(scratch, "lib")
            _unpack(wheel, libraries)
            shutil.rmtree(directory, ignore_errors=True)
            libraries.replace(directory)


def _download(scratch: Path, tag: str, sha256: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", "37", "--implementation", "cp", "--abi", "cp37m", "--abi", "none"]
    command += ["--platform", tag, "-d", str(scratch), REQUIREMENT]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise RuntimeError(f"pip could not download {REQUIREMENT}: {done.stderr.strip()[-300:]}")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != sha256:
        raise RuntimeError(f"{wheels[0].name} has sha256 {digest}, expected {sha256}; it was not used")
    return wheels[0]


def _unpack(wheel: Path, libraries: Path) -> None:
    libraries.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = member.rpartition("/")[2]
            if "/lib/" not in member or ".so" not in name or name.startswith("_c_lite"):
                continue
            with archive.open(member) as source, (libraries / name).open("wb") as target:
                shutil.copyfileobj(source, target)
            (libraries / name).chmod(0o755)
    # Hard links, not symlinks: a plugin is searched beside the file that was really opened.
    for file in list(libraries.glob("*_python.so")):
        os.link(file, libraries / file.name.replace("_python.so", ".so"))
    os.link(libraries / "libmindspore-extendrt_python.so", libraries / SERVING_NAME)


def main() -> int:
    try:
        lay_out(lite_directory())
    except (RuntimeError, OSError) as error:
        print(f"MindSpore Lite runtime: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A host with simulated Ascend devices: built once a checkout, private to each process tree that is started in it."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess

import pytest

from tests.e2e.conftest import REPOSITORY, exported_versions

from .simulated_host import SOURCES, SimulatedHost

BUILT = REPOSITORY / ".runtime" / "simulated-cann"


@pytest.fixture(scope="session")
def libraries():
    """The simulator's libraries. Skips, with the reason, where it cannot be built or entered."""
    reason = _unavailable()
    if reason:
        pytest.skip(f"no simulated Ascend device: {reason}")
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))).hexdigest()
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = BUILT / ".built-from"
        if not stamp.is_file() or stamp.read_text() != wanted:
            for old in BUILT.glob("*.so"):
                old.unlink()
            lite = REPOSITORY / ".runtime" / "mindspore-lite-2.0.0"
            subprocess.run([SOURCES / "build.sh", BUILT, lite], check=True, timeout=120)
            stamp.write_text(wanted)
    return BUILT


def _unavailable():
    if platform.machine() != "x86_64":
        return f"it is written for x86_64, this is {platform.machine()}"
    if os.geteuid():
        return "it needs root, for a mount namespace of its own"
    for program in ("g++", "nm", "unshare"):
        if not shutil.which(program):
            return f"{program} is not installed"
    tried = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
    )
    return tried.stderr.strip() if tried.returncode else ""


@pytest.fixture
def host(libraries, tmp_path):
    """One device, an Ascend 310 with CANN 6.3, until the test says otherwise."""
    return SimulatedHost(libraries, tmp_path)


@pytest.fixture(scope="session")
def versions():
    return exported_versions()

"""The MindSpore Lite runtime is laid out from its real wheel, once, whoever asks and however many at once."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from servable.runtime import lite_runtime

REPOSITORY = Path(__file__).parents[4]


def test_two_at_once_make_one_runtime_and_a_third_changes_nothing(tmp_path):
    directory = tmp_path / "lite"
    environment = {**os.environ, "METRIC_LEARN_LITE_DIR": str(directory)}
    command = [sys.executable, "-m", "servable.runtime.lite_runtime"]
    both = [subprocess.Popen(command, cwd=REPOSITORY, env=environment) for _ in range(2)]
    assert [process.wait(240) for process in both] == [0, 0]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".lite.lock", "lite"]
    library = directory / lite_runtime.SERVING_NAME
    # A hard link, not a symlink: a plugin is searched beside the file that was really opened.
    assert library.stat().st_ino == (directory / "libmindspore-extendrt_python.so").stat().st_ino
    made = library.stat().st_mtime_ns
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    assert library.stat().st_mtime_ns == made


def test_a_wheel_with_another_digest_is_not_used(tmp_path, monkeypatch):
    machine = platform.machine()
    tag, _ = lite_runtime.WHEELS[machine]
    monkeypatch.setitem(lite_runtime.WHEELS, machine, (tag, "0" * 64))
    with pytest.raises(RuntimeError, match="expected 0000"):
        lite_runtime.lay_out(tmp_path / "lite")
    assert [path.name for path in tmp_path.iterdir()] == [".lite.lock"]


def test_a_machine_without_a_wheel_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(RuntimeError, match=r"riscv64.*aarch64"):
        lite_runtime.lay_out(tmp_path / "lite")


@pytest.mark.long
@pytest.mark.parametrize("machine", sorted(lite_runtime.WHEELS))
def test_the_wheels_of_both_machines_have_the_digests_named(tmp_path, machine):
    assert lite_runtime._download(tmp_path, *lite_runtime.WHEELS[machine]).stat().st_size > 10_000_000

"""Checks of the host that this host cannot be made to fail: the facts are replaced, the check is the real one."""

import os
import resource
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import psutil
import pytest

from metric_learn_client import __version__
from servable.config import load_config
from servable.config.problem import Problem, exit_code
from servable.doctor import ascend, directories, interpreter
from servable.doctor import resources as host
from servable.doctor.consistency import inconsistencies
from servable.exported_version import ExportedVersion
from servable.runtime.device_probe import target_of

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def config(tmp_path):
    def make(text=""):
        file = tmp_path / "server.yaml"
        file.write_text(text)
        return load_config(file, [f"server.run_dir={tmp_path / 'run'}"], {})

    return make


def version(mindir_bytes=283_000_000):
    embedding = np.zeros(2048, np.float32)
    return ExportedVersion(1, Path("/v/1"), "f", "custom", "p", 2048, (1, 4, 16), mindir_bytes, b"", embedding)


def one(problems):
    (problem,) = problems
    assert "\n" not in str(problem)
    return problem


def test_a_static_python_beside_its_library_is_fine(tmp_path):
    (tmp_path / "libpython3.9.so.1.0").touch()
    answers = {"version": [3, 9, 18], "shared": False, "libraries": str(tmp_path), "serving": "2.0.2", "missing": []}
    assert not list(interpreter._wrong_with({**answers, "path": [], "client": __version__}, {}))


@pytest.mark.parametrize(("version", "warned"), [((3, 9, 18), True), ((3, 10, 0), False), ((3, 13, 0), False)])
def test_a_server_on_3_9_is_warned_and_on_a_newer_python_is_not(monkeypatch, version, warned):
    monkeypatch.setattr(sys, "version_info", version)
    assert bool(interpreter.interpreter_warnings()) == warned


def test_too_small_shared_memory_names_the_workers_and_what_is_needed(monkeypatch, config):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64e6, 0, 64e6))
    crowded = config("backend: {target: ascend310, device_ids: [0], workers: 9}")
    problem = one(host._shared_memory(crowded, [version()]))
    assert "backend.workers = 9" in str(problem) and "/dev/shm" in str(problem) and problem.exit_code == 4
    assert not list(host._shared_memory(config("backend: {target: ascend310, workers: 1}"), [version()]))
    assert not list(host._shared_memory(config("backend: {workers: 9}"), [version()]))


def test_too_little_memory_is_named_before_the_kernel_ends_a_worker(monkeypatch, config):
    memory = namedtuple("memory", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(512 * 2**20))
    problem = one(host.memory_problems(config(), [version()]))
    assert "backend.workers = 1" in str(problem) and "512 are free" in str(problem)


def test_a_full_disk_is_named(monkeypatch, config):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1e9, 1e9, 1e6))
    assert "server.run_dir" in str(one(directories._run_dir(config())))


def test_a_directory_that_cannot_be_written_is_named(monkeypatch, config, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "not writable" in str(one(directories._run_dir(config())))
    (tmp_path / "run").mkdir(0o700)
    assert "not writable" in str(one(directories._run_dir(config())))


def test_linked_servable_code_is_named(monkeypatch, tmp_path):
    real = tmp_path / "elsewhere"
    real.mkdir()
    (real / "servable_config.py").touch()
    (real / "stages.py").touch()
    (tmp_path / "servable").mkdir()
    (tmp_path / "servable" / "metric_learn").symlink_to(real)
    monkeypatch.setattr(directories, "REPOSITORY", tmp_path)
    problems = list(directories._code())
    assert "symbolic link" in str(problems[0])


def test_a_wrong_configuration_comes_before_an_unready_host():
    assert exit_code([Problem("host", 4), Problem("key", 2)]) == 2
    assert exit_code([Problem("host", 4)]) == 4
    assert exit_code([]) == 0


@pytest.mark.parametrize(
    ("nodes", "device_ids", "missing"),
    [
        (["davinci0", "davinci_manager"], [0], False),
        (["davinci5"], [0], False),  # a container that was given the host's sixth device: its own number 0
        (["davinci0", "davinci1"], [0, 1], False),
        (["davinci0"], [0, 1], True),
        (["davinci_manager"], [0], True),
    ],
)
def test_devices_are_counted_whatever_their_files_are_called(monkeypatch, config, tmp_path, nodes, device_ids, missing):
    for node in nodes:
        (tmp_path / node).touch()
    monkeypatch.setattr(ascend, "DEVICES", tmp_path)
    configured = config(f"backend: {{target: ascend310, device_ids: {device_ids}}}")
    text = str(one(ascend.ascend_problems(configured, load=True)))
    assert ("/dev/davinci*" in text) == missing and "CANN" in text


def test_a_full_table_of_thread_storage_names_the_library_to_load_first():
    error = "OSError: /lite/libgomp.so.1: cannot allocate memory in static TLS block"  # aarch64, glibc before 2.32
    text = ascend._load_problem("CANN 6.3 in /c", "libmindspore-lite.so", error)
    assert "static TLS" in text and "LD_PRELOAD=/usr/lib/" in text and "libgomp.so.1" in text


@pytest.mark.parametrize(
    ("chip", "target"),
    [
        ("Ascend310", "ascend310"),
        ("Ascend310P3", "ascend310"),
        ("Ascend910", "ascend910"),
        ("Ascend910A", "ascend910"),
        ("Ascend910PremiumA", "ascend910"),
        ("Ascend310B4", ""),
        ("Ascend910B1", ""),
        ("Ascend910_9391", ""),
    ],
)
def test_a_chip_fits_one_target_or_none(chip, target):
    assert target_of(chip) == target


def test_workers_beside_several_devices_are_refused_and_beside_one_they_are_not(config):
    several = config("backend: {target: ascend310, device_ids: [0, 1], workers: 3}")
    problem = one(inconsistencies(several))
    assert "backend.workers = 3" in str(problem) and "one server for each device" in str(problem)
    for fine in ("{target: ascend310, workers: 3}", "{target: ascend310, device_ids: [0, 1], workers: 2}"):
        assert not list(inconsistencies(config(f"backend: {fine}")))


@pytest.mark.parametrize(
    ("user", "allowed", "files", "words"),
    [
        (1000, 30, {}, ["ulimit -u = 30", "LimitNPROC"]),
        (1000, resource.RLIM_INFINITY, {}, []),
        (0, 30, {}, []),
        (0, 30, {"pids.max": "64", "pids.current": "50"}, ["pids.max", "14 more", "--pids-limit"]),
        (0, 30, {"pids/pids.max": "64", "pids/pids.current": "50"}, ["pids.max", "14 more"]),
        (0, 30, {"pids.max": "max", "pids.current": "50"}, []),
    ],
    ids=["ulimit", "no limit", "root", "container", "container with cgroup 1", "container without limit"],
)
def test_too_few_processes_and_threads_are_told(config, tmp_path, monkeypatch, user, allowed, files, words):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (allowed, allowed))
    problems = list(map(str, host._tasks(config("backend: {preprocess_threads: 2}"), 1)))
    assert len(problems) == bool(words) and all(word in problem for problem in problems for word in words)
    assert all("at least 38 are needed" in problem for problem in problems)


def test_fewer_batch_sizes_need_less_memory_and_must_be_there(config):
    few = version().with_batch_sizes([16, 1])
    assert few.batch_sizes == (1, 16) and few.mindir_bytes == 2 * 283_000_000 // 3
    for sizes in ([4, 16], [1, 1]):
        problem = one(inconsistencies(config(f"backend: {{batch_sizes: {sizes}}}")))
        assert f"backend.batch_sizes = {sizes}" in str(problem) and "must hold 1" in str(problem)
    assert not list(inconsistencies(config("backend: {batch_sizes: [1, 16]}")))

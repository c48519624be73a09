"""What the launcher hands to a worker, and the counts that outlive it. Nothing is launched."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from servable.backend import launcher
from servable.backend.launcher import Child, Launcher, worker_settings
from servable.config import load_config
from servable.engine.batch_stats import BatchStats
from servable.engine.device_watch import DeviceWatch
from servable.exported_version import ExportedVersion

VERSION = ExportedVersion(
    1, Path("/v/1"), "f", "custom", "p", 2048, (1, 4), 1, b"", np.zeros(2048, np.float32), models={1: "b1", 4: "b4"}
)


def config_of(tmp_path, text=""):
    file = tmp_path / "server.yaml"
    file.write_text(text)
    return load_config(file, (), {})


def test_threads_of_all_workers_never_exceed_the_cores(tmp_path):
    cores = len(os.sched_getaffinity(0))
    for workers in (1, 2, cores):
        settings = worker_settings(config_of(tmp_path, f"backend: {{workers: {workers}}}"), VERSION, tmp_path)
        assert settings["threads"] == settings["preprocess_threads"] == max(1, cores // workers)
    two = worker_settings(config_of(tmp_path, "model: {versions: [1, 2]}"), VERSION, tmp_path)
    assert two["threads"] == max(1, cores // 2)


@pytest.mark.parametrize(("devices", "workers", "versions"), [(8, 1, 1), (1, 3, 1), (2, 4, 2)])
def test_devices_and_workers_beyond_them_share_the_cores_too(tmp_path, monkeypatch, devices, workers, versions):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(192)))
    backend = f"{{target: ascend310, device_ids: {list(range(devices))}, workers: {workers}}}"
    config = config_of(tmp_path, f"backend: {backend}\nmodel: {{versions: {list(range(1, versions + 1))}}}")
    settings = worker_settings(config, VERSION, tmp_path)
    assert settings["preprocess_threads"] == settings["threads"] == 192 // (max(devices, workers) * versions)


def test_the_worker_gets_the_limits_it_knows_and_no_other(tmp_path):
    settings = worker_settings(config_of(tmp_path, "limits: {max_image_px: 77}"), VERSION, tmp_path)
    assert settings["limits"] == {"max_image_bytes": 32 * 1024 * 1024, "max_image_px": 77}
    assert settings["batch_sizes"] == [1, 4] and settings["run_dir"] == str(tmp_path)


def test_counts_of_ended_workers_stay_and_those_of_an_earlier_server_go(tmp_path):
    BatchStats(tmp_path, (1, 4)).count(4, images=3)
    launcher = Launcher(config_of(tmp_path), tmp_path)
    assert launcher.batch_runs() == {}
    worker = BatchStats(tmp_path, (1, 4))
    for _ in range(2):
        worker.count(4, images=3)
    del worker
    assert launcher.batch_runs() == {1: (0, 0), 4: (2, 6)}


def test_a_child_shares_the_cores_with_the_versions_of_its_launch(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    threads = []
    monkeypatch.setattr(launcher, "ServingProcess", lambda *arguments: threads.append(arguments[4]["threads"]))
    config = config_of(tmp_path)
    children = Launcher(config, tmp_path)
    children.launch(VERSION)
    children.launch(VERSION, config.model.model_copy(update={"versions": (1, 2, 3)}))
    assert threads == [12, 4]


def child_of_two_devices(folder):
    folder.mkdir()
    workers = SimpleNamespace(worker_ids={os.getpid(), 1}, workers_alive=lambda: 1, find_workers=lambda: 1)
    return Child(workers, VERSION, None, folder, workers=2, devices=2, hang_s=10.0)


def test_rows_that_may_be_wrong_are_told_once(tmp_path):
    child = child_of_two_devices(tmp_path / "child")
    DeviceWatch(child.directory, 1).took_out(5.0, 3)
    (told,) = child.look_at_devices()[1]
    assert (told.device, told.doubtful, told.doubtful_since) == (1, 3, 5.0)
    assert child.look_at_devices() == ([], [])


@pytest.mark.parametrize("taken_out", [True, False])
def test_a_worker_that_took_its_device_out_is_no_worker_lost_with_images(tmp_path, taken_out):
    """Two of those in a row replace the whole backend, healthy devices and all."""
    child = child_of_two_devices(tmp_path / "child")
    watch = DeviceWatch(child.directory, 1)
    if taken_out:
        watch.took_out(0.0, 0)
    assert child.look_at_devices() == ([], []) and child.workers_alive() == 1
    assert child.workers_ended() == (0 if taken_out else 1)

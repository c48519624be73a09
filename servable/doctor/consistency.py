"""Keys that contradict each other; those of the gateway are in servable/gateway. Pure but for the number of cores."""

from __future__ import annotations

import os
from collections.abc import Iterator

from servable.config.problem import Problem, value_of, wrong
from servable.config.sections import Config


def inconsistencies(config: Config) -> Iterator[Problem]:
    yield from _supervision(config)
    yield from _versions(config)
    yield from _processes(config)


def _supervision(config: Config) -> Iterator[Problem]:
    least, most = config.supervision.backoff_initial_s, config.supervision.backoff_max_s
    if least > most:
        what = f"is above supervision.backoff_max_s = {most}"
        yield wrong(config, "supervision.backoff_initial_s", what, "lower it or raise supervision.backoff_max_s")


def _versions(config: Config) -> Iterator[Problem]:
    model = config.model
    if len(set(model.versions)) < len(model.versions):
        yield wrong(config, "model.versions", "a version is listed twice", "list each once")
    elif model.version and model.versions and model.version not in model.versions:
        yield wrong(config, "model.version", f"is not among model.versions = {list(model.versions)}", "add it there")


def _processes(config: Config) -> Iterator[Problem]:
    backend = config.backend
    if backend.batch_sizes and (
        1 not in backend.batch_sizes or len(set(backend.batch_sizes)) < len(backend.batch_sizes)
    ):
        yield wrong(config, "backend.batch_sizes", "must hold 1, and each size once", "see configs/model.yaml")
    if len(set(backend.device_ids)) < len(backend.device_ids):
        yield wrong(config, "backend.device_ids", "a device is listed twice", "list each once: it gets one worker")
    if backend.target != "cpu":
        if not backend.device_ids:
            yield wrong(config, "backend.device_ids", f"{backend.target} needs a device", "list one, such as [0]")
        elif backend.workers > len(backend.device_ids) > 1:
            # MindSpore Serving runs what they ask for on any device, past that device's own proof and watch.
            what = "workers beside several devices would have runs on a device that nobody watches"
            remedy = "set it to 1, or run one server for each device (configs/deploy/ascend.md)"
            yield wrong(config, "backend.workers", what, remedy)
    elif len(backend.device_ids) > 1:
        yield wrong(config, "backend.device_ids", "a CPU has no devices", "leave it out; see backend.workers")
    cores = len(os.sched_getaffinity(0))
    versions = max(1, len(config.model.versions))
    keys = ["backend.preprocess_threads"]
    if backend.target == "cpu":  # MindSpore Lite makes no threads of its own beside a device
        keys.append("backend.threads")
    for key in keys:
        threads = value_of(config, key)
        if threads and versions * backend.processes * threads > cores:
            what = (
                f"with {backend.processes} processes (backend.workers, one for each device at the least) and "
                f"{versions} version(s) it is more than this host's {cores} cores"
            )
            yield wrong(config, key, what, "lower one of them; 0 divides the cores")
    if backend.target == "cpu" and backend.workers > cores:
        yield wrong(config, "backend.workers", f"is more than this host's {cores} cores", "lower it")

"""Keys that contradict each other. Pure but for the number of cores."""

from __future__ import annotations

import os
from collections.abc import Iterator

from servable.address import parse_address
from servable.doctor.problem import Problem, wrong
from servable.sections import Config


def inconsistencies(config: Config) -> Iterator[Problem]:
    yield from _addresses(config)
    yield from _security(config)
    yield from _limits(config)
    yield from _versions(config)
    yield from _processes(config)


def _addresses(config: Config) -> Iterator[Problem]:
    server, security = config.server, config.security
    grpc, http = parse_address(server.address), parse_address(server.http_address)
    if server.address == server.http_address and (grpc.port or grpc.path):
        yield wrong(config, "server.http_address", "is server.address too", "choose another port for one of them")
    if http.path is not None:
        yield wrong(config, "server.http_address", "probes and metrics speak HTTP over TCP", "give host:port")
    if not grpc.loopback and security.tls_certificate is None and not security.allow_insecure:
        yield wrong(
            config,
            "server.address",
            "others can reach it in plain text",
            "set security.tls_certificate and security.tls_private_key, use 127.0.0.1, or, behind a mesh that "
            "encrypts, security.allow_insecure: true",
        )


def _security(config: Config) -> Iterator[Problem]:
    security = config.security
    if security.tls_certificate is not None and security.tls_private_key is None:
        yield wrong(config, "security.tls_certificate", "has no key", "set security.tls_private_key")
    if security.tls_private_key is not None and security.tls_certificate is None:
        yield wrong(config, "security.tls_private_key", "has no certificate", "set security.tls_certificate")
    if security.tls_client_ca is not None and security.tls_certificate is None:
        yield wrong(
            config,
            "security.tls_client_ca",
            "mutual TLS needs the server's own certificate",
            "set security.tls_certificate and security.tls_private_key",
        )


def _limits(config: Config) -> Iterator[Problem]:
    limits = config.limits
    for small, large in (
        ("limits.max_image_bytes", "limits.max_request_bytes"),
        ("limits.max_request_bytes", "limits.max_in_flight_bytes"),
        ("limits.max_instances", "limits.max_in_flight_instances"),
        ("deadlines.default_s", "deadlines.max_s"),
        ("supervision.backoff_initial_s", "supervision.backoff_max_s"),
    ):
        least, most = _value(config, small), _value(config, large)
        if least > most:
            yield wrong(config, small, f"is above {large} = {most}", f"lower it or raise {large}")
    most_bytes = 256 * 1024 * 1024  # half of MindSpore Serving's 512 MB, which also hold the tensors' envelopes
    if limits.max_request_bytes > most_bytes:
        yield wrong(config, "limits.max_request_bytes", f"the most is {most_bytes}", "lower it; clients split calls")


def _versions(config: Config) -> Iterator[Problem]:
    model = config.model
    if any(version < 1 for version in model.versions):
        yield wrong(config, "model.versions", "a version is a number above 0", "list the numbers of exported versions")
    elif len(set(model.versions)) < len(model.versions):
        yield wrong(config, "model.versions", "a version is listed twice", "list each once")
    elif model.version and model.versions and model.version not in model.versions:
        yield wrong(config, "model.version", f"is not among model.versions = {list(model.versions)}", "add it there")


def _processes(config: Config) -> Iterator[Problem]:
    backend = config.backend
    if backend.batch_sizes and (
        1 not in backend.batch_sizes or len(set(backend.batch_sizes)) < len(backend.batch_sizes)
    ):
        yield wrong(config, "backend.batch_sizes", "must hold 1, and each size once", "see configs/model.yaml")
    if any(device < 0 for device in backend.device_ids):
        yield wrong(config, "backend.device_ids", "a device id is 0 or more", "see `npu-smi info`")
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
        threads = _value(config, key)
        if threads and versions * backend.processes * threads > cores:
            what = (
                f"with {backend.processes} processes (backend.workers, one for each device at the least) and "
                f"{versions} version(s) it is more than this host's {cores} cores"
            )
            yield wrong(config, key, what, "lower one of them; 0 divides the cores")
    if backend.target == "cpu" and backend.workers > cores:
        yield wrong(config, "backend.workers", f"is more than this host's {cores} cores", "lower it")


def _value(config: Config, key: str) -> float:
    section, _, name = key.partition(".")
    value: float = getattr(getattr(config, section), name)
    return value

"""What a host is: versions, the effective options without secrets, devices. Reads only; every part may be missing."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Optional
from urllib.parse import urlsplit, urlunsplit

import psutil

from servable.config.sections import Config
from servable.doctor.ascend import DEVICES, MANAGERS
from servable.exported_version import ExportedVersion
from servable.runtime.cann import ASCEND, DRIVERS, Cann, find_cann
from servable.runtime.device_probe import chip_name, dead_devices
from servable.runtime.engine_python import engine_python
from servable.runtime.lite_runtime import REQUIREMENT, lite_directory

TOOL_S = 20.0
NAMED = ("METRIC_LEARN_LITE_DIR", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "GLOG_v")


# Asked of MindSpore Serving's Python: its version, and those of what is installed there.
ENGINE = """
import importlib.metadata, json, platform
found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version(), "packages": found}))
"""


def software(config: Config) -> dict[str, Any]:
    return {
        "product": _package("metric-learn-client"),
        "python": platform.python_version(),
        "engine": _engine(engine_python(config)),
        "mindspore_lite": {"pinned": REQUIREMENT, "directory": str(lite_directory())},
        "packages": {name: _package(name) for name in ("grpcio", "protobuf", "numpy", "uvicorn")},
        "system": _system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "glibc": " ".join(platform.libc_ver()),
        "environment": {name: os.environ[name] for name in NAMED if name in os.environ},
    }


def hardware() -> dict[str, Any]:
    memory, shm = psutil.virtual_memory(), shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),  # others at work on it make the times and speeds worse
        "memory_mb": memory.total // 2**20,
        "memory_free_mb": memory.available // 2**20,
        "shm_mb": shm.total // 2**20 if shm else None,
    }


def devices(config: Config) -> Optional[dict[str, Any]]:
    """Of backend.target; None on a CPU."""
    if config.backend.target == "cpu":
        return None
    python = engine_python(config)
    cann = find_cann(os.environ)
    asked = cann if python.exists() else None
    nodes = sorted(DEVICES.glob("davinci[0-9]*")) + [DEVICES / name for name in MANAGERS]
    return {
        "cann": {"root": str(cann.root), "version": cann.version} if cann else None,
        "driver": _driver(),
        "chip": chip_name(python, asked) if asked else "",
        "cannot_be_opened": _dead(config, python, asked),
        "nodes": {str(node): _rights(node) for node in nodes if node.exists()},
        "npu_smi": _tool("npu-smi", "info"),
    }


def options(config: Config) -> dict[str, Any]:
    """Every key with its effective value. Of credentials only whether they are set; no user in a URL."""
    shown: dict[str, Any] = config.model_dump(mode="json")
    shown["security"] = {key: "(set)" if isinstance(value, str) else value for key, value in shown["security"].items()}
    shown["tracing"]["otlp_endpoint"] = without_user(config.tracing.otlp_endpoint)
    return shown


def without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def model(version: ExportedVersion) -> dict[str, Any]:
    return {
        "version": version.number,
        "weights": version.weights,
        "fingerprint": version.fingerprint,
        "preprocessing": version.preprocessing,
        "batch_sizes": list(version.batch_sizes),
        "models": {str(size): version.models[size] for size in version.batch_sizes},
        "compiled_ahead": sorted(version.compiled_ahead),
    }


def _package(name: str) -> Optional[str]:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _engine(python: Path) -> dict[str, Any]:
    try:
        done = subprocess.run([python, "-c", ENGINE], capture_output=True, text=True, timeout=TOOL_S, check=True)
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {"file": str(python), "cannot_be_run": str(error)}
    return {"file": str(python), **found}


def _system() -> str:
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return platform.platform()
    found = re.search(r'^PRETTY_NAME="?(.*?)"?$', text, re.MULTILINE)
    return found[1] if found else platform.platform()


def _processor() -> str:
    """x86 says "model name"; Arm hosts of some kernels say nothing."""
    try:
        found = re.search(r"^(?:model name|Hardware)\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def _driver() -> Optional[Mapping[str, str]]:
    for folder in DRIVERS:
        file = folder / "version.info"
        if file.is_file():
            found = re.search(r"^version\s*=\s*(\S+)", file.read_text(errors="replace"), re.IGNORECASE | re.MULTILINE)
            return {"folder": str(folder), "version": found[1] if found else ""}
    return None


def _dead(config: Config, python: Path, cann: Optional[Cann]) -> dict[str, str]:
    dead = dead_devices(python, cann, config.backend.device_ids) if cann else {}
    return {str(device): why for device, why in dead.items()}


def _rights(node: Path) -> str:
    status = node.stat()
    return f"{status.st_mode & 0o777:03o} {status.st_uid}:{status.st_gid}"


def _tool(*command: str) -> Optional[str]:
    """What the driver's tool prints, where it is there."""
    program = shutil.which(command[0]) or shutil.which(command[0], path=f"{ASCEND}/driver/tools:/usr/local/sbin")
    if program is None:
        return None
    try:
        return subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=TOOL_S).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}"

"""The command that serves: check everything, start MindSpore Serving, warm it up, wait, stop cleanly.

python -m servable.serving_server --config configs/cpu.yaml [--check] [--set section.key=value ...]
"""

from __future__ import annotations

import ctypes.util
import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Optional

import click
import grpc
import numpy as np

from metric_learn_client import wire
from servable.backend import Backend, BackendSettings
from servable.config import REPOSITORY, Config, ConfigError, load_config
from servable.lite_runtime import SERVING_NAME, lite_directory
from servable.predict import predict_pixels, wait_until_serving
from servable.staging import STAGED_VERSION, stage
from servable.version import find_version, read_manifest

POLL_S = 0.1
WARM_UP_S = 120.0


class NotReadyError(Exception):
    """The host cannot serve this configuration. Exit code 4."""


class _Stopped(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def check(config: Config) -> tuple[Path, dict[str, Any]]:
    """Everything that can be known before anything starts. Raises ConfigError or NotReadyError."""
    if config.backend.target != "cpu":
        _check_ascend(config)
    folder = find_version(config)
    manifest = read_manifest(folder)
    if config.backend.target != "ascend910" and not (lite_directory() / SERVING_NAME).is_file():
        raise NotReadyError(f"no MindSpore Lite runtime in {lite_directory()}; run `make server-env`")
    run_dir = str(config.server.run_dir)
    if " " in run_dir or " " in sys.executable:
        raise ConfigError(f"server.run_dir = {run_dir}, Python {sys.executable}: MindSpore Serving takes no spaces")
    host, _, port = config.server.address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise ConfigError(
                f"server.address = {config.server.address}: {error.strerror}; choose another port"
            ) from error
    return folder, manifest


def _check_ascend(config: Config) -> None:
    missing = []
    if not any(Path("/dev").glob("davinci[0-9]*")):
        missing.append("an Ascend device (/dev/davinci*)")
    for device in config.backend.device_ids:
        if not missing and not Path(f"/dev/davinci{device}").exists():
            missing.append(f"device {device} (/dev/davinci{device})")
    if not Path("/usr/local/Ascend/driver").is_dir():
        missing.append("the driver (/usr/local/Ascend/driver)")
    toolkits = ("/usr/local/Ascend/nnae/latest", "/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/latest")
    if not any(Path(place).is_dir() for place in toolkits) and not os.environ.get("ASCEND_OPP_PATH"):
        missing.append("CANN (/usr/local/Ascend/ascend-toolkit, or source its set_env.sh)")
    if config.backend.target == "ascend910" and not missing and not ctypes.util.find_library("mindspore"):
        missing.append("libmindspore.so (MindSpore 2.0 for Ascend on LD_LIBRARY_PATH)")
    if missing:
        raise NotReadyError(f"backend.target = {config.backend.target}: this host lacks {', '.join(missing)}")


def start(config: Config) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code. Raises ConfigError, NotReadyError, RuntimeError."""
    began = time.monotonic()
    folder, manifest = check(config)
    run_dir = config.server.run_dir.resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    run_dir.chmod(0o700)
    with (run_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"server.run_dir = {run_dir}: another server runs in it") from error
        for leftover in ("unix_socket_files", "serving_logs", "models_build_temp"):
            shutil.rmtree(run_dir / leftover, ignore_errors=True)
        return _serve(config, folder, manifest, run_dir, began)


def _serve(config: Config, folder: Path, manifest: dict[str, Any], run_dir: Path, began: float) -> int:
    cpu = config.backend.target == "cpu"
    servables = stage(Path(__file__).parent / wire.SERVABLE_NAME, folder, run_dir, wire.SERVABLE_NAME)
    settings = BackendSettings(
        servable_directory=str(servables),
        servable_name=wire.SERVABLE_NAME,
        version_number=STAGED_VERSION,
        address=config.server.address,
        device_type="cpu" if cpu else "ascend",
        device_ids=() if cpu else config.backend.device_ids,
        workers=config.backend.workers,
        enable_lite=config.backend.target != "ascend910",
    )

    def stop(number: int, _frame: Optional[FrameType]) -> None:
        raise _Stopped(number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    backend = None
    try:
        backend = Backend(settings, run_dir, lite_directory(), _worker_settings(config, manifest))
        wait_until_serving(settings.address, backend.poll, config.backend.start_timeout_s)
        _warm_up(settings.address, manifest)
        click.echo(
            f"ready: {config.server.address} serves {wire.SERVABLE_NAME} version {folder.name} on "
            f"{config.backend.target} ({manifest['weights']} weights, fingerprint {manifest['fingerprint'][:16]}) "
            f"after {time.monotonic() - began:.1f} s"
        )
        sys.stdout.flush()
        while backend.poll() is None:
            time.sleep(POLL_S)
        raise RuntimeError(f"MindSpore Serving ended with exit code {backend.poll()}; its log is {backend.log}")
    except _Stopped as stopped:
        return 0 if stopped.number == signal.SIGTERM else 130
    finally:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)  # a second signal must not leave the children behind
        if backend is not None:
            backend.stop()
        shutil.rmtree(run_dir / "unix_socket_files", ignore_errors=True)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _worker_settings(config: Config, manifest: dict[str, Any]) -> dict[str, object]:
    share = max(1, len(os.sched_getaffinity(0)) // config.backend.workers)
    return {
        "device": "cpu" if config.backend.target == "cpu" else "ascend",
        "precision_mode": config.backend.precision_mode,
        "threads": config.backend.threads or share,
        "preprocess_threads": config.backend.preprocess_threads or share,
        "run_overhead_images": config.backend.run_overhead_images,
        "batch_sizes": [entry["batch_size"] for entry in manifest["mindir"]],
        "limits": config.limits.model_dump(),
    }


def _warm_up(target: str, manifest: dict[str, Any]) -> None:
    """One full run of every batch size: the Lite backend initialises lazily, at the first."""
    grey = np.full(wire.PIXELS_SHAPE, 128, np.uint8)
    for entry in manifest["mindir"]:
        rows = predict_pixels(
            target,
            [grey] * entry["batch_size"],
            servable=wire.SERVABLE_NAME,
            method=wire.METHOD_EMBED_PIXELS,
            output=wire.ITEM_EMBEDDING,
            deadline_s=WARM_UP_S,
        )
        if rows.shape != (entry["batch_size"], manifest["embedding_dim"]) or not np.isfinite(rows).all():
            raise RuntimeError(f"warm-up of batch size {entry['batch_size']} gave {rows.shape}")


@click.command(help="Serve metric_learn with MindSpore Serving.")
@click.option("--config", "path", type=click.Path(path_type=Path), default=REPOSITORY / "configs" / "cpu.yaml")
@click.option("--check", "check_only", is_flag=True, help="check configuration, host and digests; start nothing")
@click.option("--set", "flags", multiple=True, metavar="SECTION.KEY=VALUE", help="override one key")
def cli(path: Path, check_only: bool, flags: tuple[str, ...]) -> None:
    config = load_config(path, flags)
    if check_only:
        folder, manifest = check(config)
        click.echo(f"ok: version {folder.name}, {manifest['weights']} weights, {config.backend.target}")
        return
    sys.exit(start(config))


def main() -> None:
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except ConfigError as error:
        click.echo(f"serving_server: {error}", err=True)
        sys.exit(2)
    except (NotReadyError, TimeoutError, grpc.RpcError) as error:
        click.echo(f"serving_server: {error}", err=True)
        sys.exit(4)
    except (RuntimeError, OSError) as error:
        click.echo(f"serving_server: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

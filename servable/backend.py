"""One MindSpore Serving server as a child process: its settings, its start, its end. No policy.

Run as a program (`python -m servable.backend SETTINGS.json`) it becomes the MindSpore Serving master.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

MAX_MESSAGE_MB = 512  # MindSpore Serving's own upper bound
STOP_S = 15.0  # it gives its workers 10 s, then kills them
PR_SET_PDEATHSIG = 1  # linux/prctl.h
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class BackendSettings:
    """servable_directory/servable_name/version_number hold the files; address is "host:port" or "unix:path"."""

    servable_directory: str
    servable_name: str
    version_number: int
    address: str
    device_type: str  # "cpu" or "ascend"
    device_ids: tuple[int, ...]
    workers: int
    enable_lite: bool


class Backend:
    """A running child. `run_dir` is its working directory: MindSpore Serving writes sockets and logs there."""

    def __init__(self, settings: BackendSettings, run_dir: Path, library_path: Path, worker: dict[str, object]) -> None:
        settings_file = run_dir / "backend.json"
        settings_file.write_text(json.dumps(asdict(settings)))
        environment = dict(os.environ)
        environment["LD_LIBRARY_PATH"] = str(library_path)
        if os.environ.get("LD_LIBRARY_PATH"):
            environment["LD_LIBRARY_PATH"] += ":" + os.environ["LD_LIBRARY_PATH"]
        environment["METRIC_LEARN_WORKER"] = json.dumps(worker)
        environment["PYTHONPATH"] = str(REPOSITORY)
        environment.setdefault("GLOG_v", "2")
        self.log = run_dir / "backend.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "servable.backend", str(settings_file)],
                cwd=run_dir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C reaches the server alone, which then stops this
            )

    def poll(self) -> Optional[int]:
        return self.process.poll()

    def stop(self) -> None:
        """Ends the child and everything it started. Returns when nothing of it is left."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # whatever is left of its session
        except ProcessLookupError:
            pass
        self.process.wait()


def serve(settings: BackendSettings) -> None:
    """Becomes the MindSpore Serving master. Returns after the start; its threads keep the process alive."""
    from mindspore_serving import server

    config = server.ServableStartConfig(
        servable_directory=settings.servable_directory,
        servable_name=settings.servable_name,
        device_ids=list(settings.device_ids),
        version_number=settings.version_number,
        device_type=settings.device_type,
        num_parallel_workers=settings.workers,
    )
    server.start_servables(config, enable_lite=settings.enable_lite)
    server.start_grpc_server(settings.address, max_msg_mb_size=MAX_MESSAGE_MB)


def _end_with_parent() -> None:
    """The kernel sends SIGTERM when the server dies, however it dies; workers watch this process themselves."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    _end_with_parent()
    document = json.loads(Path(sys.argv[1]).read_text())
    document["device_ids"] = tuple(document["device_ids"])
    serve(BackendSettings(**document))

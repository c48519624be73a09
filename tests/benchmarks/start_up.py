"""Where the time from the command to "ready" goes. .venv/client/bin/python -m tests.benchmarks.start_up [STARTS]

Watches from outside: when the processes of MindSpore Serving appear, and when its log says the next step is done.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.e2e.conftest import Server, exported_versions, start, stop

POLL_S = 0.02
LOG_NAME = "mindspore_serving.log"  # servable/backend/launcher.py
# What the log says -> the step that ends there
STEPS = {
    "Master server start success": "master: Python and MindSpore Serving imported",
    "libascend_kernel_plugin.so failed": "worker: Python, OpenCV, Lite runtime loaded",
    "Worker gRPC server start success": "worker: every MindIR loaded",
    "Serving gRPC server start success": "master: port open",
}
CHECKED = "server: configuration, host and digests checked"
READY = "server: golden picture and one full run of every batch size"


def watch(run_dir: Path, seen: dict[str, float], ended: threading.Event) -> None:
    while not ended.wait(POLL_S):
        log = run_dir / LOG_NAME
        if not log.is_file():
            continue
        seen.setdefault(CHECKED, time.time())
        text = log.read_text(errors="replace")
        for words, step in STEPS.items():
            if words in text:
                seen.setdefault(step, time.time())


def start_watched(folder: str, *flags: str) -> tuple[Server, dict[str, float]]:
    """A server that is ready, and step -> seconds. Raises RuntimeError where it does not start."""
    seen: dict[str, float] = {}
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(Path(folder), seen, ended))
    watcher.start()
    server = start(folder, *flags)
    seen[READY] = time.time()
    ended.set()
    watcher.join()
    if not server.ready_line.startswith("ready"):
        stop(server)
        raise RuntimeError(f"the server did not start: {server.ready_line!r}")
    began = before = psutil.Process(server.process.pid).create_time()
    steps = {}
    for step, at in sorted(seen.items(), key=lambda item: item[1]):
        steps[step], before = round(at - before, 2), at
    steps["all"] = round(before - began, 2)
    return server, steps


def one_start() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="metric-learn-start-") as folder:
        server, steps = start_watched(folder)
        stop(server)
    return steps


def main(starts: int) -> None:
    exported_versions()
    runs = [one_start() for _ in range(starts)]
    for step in runs[0]:
        values = [run.get(step, 0.0) for run in runs]
        print(f"{step:60} {statistics.median(values):6.2f} s  ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)

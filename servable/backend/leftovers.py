"""What a server that was killed left behind: processes, sockets, shared memory. Found, proved ours, removed.

Ours is a process whose environment names our run directory, which one server at a time locks; and a segment named
after the process id of such a worker. Nothing else is touched.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from metric_learn_client import wire

MARKER = "METRIC_LEARN_RUN_DIR"  # in the environment of every process that a server starts
WORKERS_FILE = "workers"  # process ids of workers, one a line: their segments outlive them
KILL_S = 10.0
SHARED_MEMORY = Path("/dev/shm")
# MindSpore Serving 2.0.2, worker/extra_worker/remote_call_model.cc: <model file>_subgraph0_input0_pid4711_0
_SEGMENT = re.compile(rf"{wire.SERVABLE_NAME}.*_subgraph\d+_(?:input|output)\d+_pid(?P<pid>\d+)_\d+")


@dataclass(frozen=True)
class Cleaned:
    processes: int
    directories: int
    segments: int

    def __bool__(self) -> bool:
        return bool(self.processes or self.directories or self.segments)


def clean(run_dir: Path) -> Cleaned:
    """Ends and removes everything of an earlier server in `run_dir`. The caller holds the directory's lock.

    Raises RuntimeError when a process does not end.
    """
    processes = marked_processes(run_dir)
    ids = {process.pid for process in processes} | _noted_workers(run_dir)
    _end(processes, run_dir)
    children = [path for path in run_dir.glob("serving-*") if path.is_dir() and not path.is_symlink()]
    for child in children:
        shutil.rmtree(child, ignore_errors=True)
    (run_dir / WORKERS_FILE).unlink(missing_ok=True)
    return Cleaned(len(processes), len(children), remove_segments(ids))


def marked_processes(run_dir: Path) -> list[psutil.Process]:
    """Processes, not this one, that a server of `run_dir` started. psutil guards against reused process ids."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(MARKER) == str(run_dir):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # another user's, or gone
    return found


def note_workers(run_dir: Path, ids: Iterable[int]) -> None:
    with (run_dir / WORKERS_FILE).open("a") as file:
        file.writelines(f"{number}\n" for number in ids)


def remove_segments(ids: Iterable[int]) -> int:
    """Unlinks the shared memory of workers that have ended; returns how many segments."""
    try:
        ended = {number for number in ids if not psutil.pid_exists(number)}
        segments = list(SHARED_MEMORY.glob(f"{wire.SERVABLE_NAME}*")) if ended else []
    except OSError:  # no descriptor free: they are removed when the server ends
        return 0
    removed = 0
    for segment in segments:
        match = _SEGMENT.fullmatch(segment.name)
        try:
            if match and int(match["pid"]) in ended and segment.stat().st_uid == os.getuid():
                segment.unlink()
                removed += 1
        except OSError:
            continue
    return removed


def _noted_workers(run_dir: Path) -> set[int]:
    try:
        return {int(line) for line in (run_dir / WORKERS_FILE).read_text().split() if line.isdigit()}
    except OSError:
        return set()


def _end(processes: list[psutil.Process], run_dir: Path) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, KILL_S)
    if alive:
        ids = ", ".join(str(process.pid) for process in alive)
        raise RuntimeError(f"server.run_dir = {run_dir}: processes {ids} of an earlier server do not end; end them")

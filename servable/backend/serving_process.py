"""One MindSpore Serving server as a child process: its start, its end, its output. No policy."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Optional

import psutil

from servable.backend.bounded_log import BoundedLog, Carrier
from servable.backend.leftovers import MARKER
from servable.engine.settings import WORKER_VARIABLE, MasterSettings, WorkerSettings
from servable.runtime.cann import Cann
from servable.runtime.child_environment import child_environment

STOP_S = 15.0  # MindSpore Serving gives its workers 10 s, then kills them
WORKERS_END_S = 5.0  # after SIGKILL: the kernel gives their memory back
WORKER_SCRIPTS = ("start_worker.py", "start_extra_worker.py")  # of mindspore_serving/server


class ServingProcess:
    """A running child of `python`. `directory` is its working directory: MindSpore Serving writes its sockets there.

    To be made in the main thread: the kernel ends the child with the thread that started it.
    """

    def __init__(
        self,
        python: Path,
        settings: MasterSettings,
        directory: Path,
        library_path: Path,
        worker: WorkerSettings,
        log: BoundedLog,
        run_dir: Path,
        cann: Optional[Cann],
    ) -> None:
        self._workers: list[psutil.Process] = []
        self._compilers: set[int] = set()
        settings_file = directory / "backend.json"
        settings_file.write_text(json.dumps(asdict(settings)))
        _send_worker_logs_to_stdout(settings, directory)
        reading, writing = os.pipe()
        try:
            self.process = subprocess.Popen(
                [str(python), "-m", "servable.engine.master", str(settings_file), str(os.getpid())],
                cwd=directory,
                env=worker_environment(library_path, cann, worker, run_dir),
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,  # a terminal's Ctrl-C reaches the server alone, which then stops this
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        try:
            self._carrier = Carrier(reading, log)
        except BaseException:  # no thread can be started
            os.close(reading)
            self.signal_kill()
            self.process.wait()
            raise

    def poll(self) -> Optional[int]:
        return self.process.poll()

    def why(self) -> str:
        """What its log says last about an error, once it has ended."""
        self._carrier.finish(1.0)
        return self._carrier.why()

    @property
    def worker_ids(self) -> set[int]:
        """Process ids of those found last."""
        return {worker.pid for worker in self._workers}

    def find_workers(self) -> int:
        """Looks for the workers among the master's children and keeps them in mind; returns how many there are.

        Raises OSError where /proc cannot be read: nothing is known then, and nothing changes.
        """
        try:
            children = psutil.Process(self.process.pid).children()
            self._workers = [child for child in children if _is_worker(child)]
        except psutil.Error:
            self._workers = []
        return len(self._workers)

    def compiles_begun(self) -> int:
        """How many models its workers have begun to compile for a device, as far as they were seen at it.

        MindSpore Lite 2.0.0 compiles each in a forked copy of the worker, whose children compile operators.
        """
        try:
            for worker in filter(_is_worker, psutil.Process(self.process.pid).children()):
                self._compilers.update(child.pid for child in worker.children() if _is_worker(child))
        except psutil.Error:
            pass
        return len(self._compilers)

    def workers_alive(self) -> int:
        """Of those found last. Cheap: nothing is searched. Raises OSError as find_workers does."""
        return sum(_alive(worker) for worker in self._workers)

    def stop(self) -> None:
        """Ends the child and everything it started. Returns when nothing of it is left."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        self.kill()

    def signal_kill(self) -> None:
        """The signal alone: a `stop` that waits comes to its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # whatever is left of its session

    def kill(self) -> None:
        """Ends it at once, also when it is stopped or hangs."""
        self.signal_kill()
        self.process.wait()
        self._carrier.finish(1.0)
        limit = time.monotonic() + WORKERS_END_S
        while self._may_have_workers() and time.monotonic() < limit:
            time.sleep(0.02)

    def _may_have_workers(self) -> bool:
        try:
            return self.workers_alive() > 0
        except OSError:  # not known now
            return True


def worker_environment(
    library_path: Path, cann: Optional[Cann], worker: WorkerSettings, run_dir: Path
) -> dict[str, str]:
    """Of the processes that run the servable's code, and what marks them as this server's."""
    environment = child_environment(library_path, cann)
    environment[WORKER_VARIABLE] = json.dumps(worker)
    environment[MARKER] = str(run_dir)
    return environment


def _send_worker_logs_to_stdout(settings: MasterSettings, directory: Path) -> None:
    """MindSpore Serving opens a log file for each worker by a name known before: here it finds its own stdout."""
    logs = directory / "serving_logs"
    logs.mkdir(exist_ok=True)
    name, version = settings.servable_name, settings.version_number
    parts = [f"device{device}" for device in settings.device_ids]
    parts += [f"extra{index}" for index in range(max(settings.workers, 1))]
    for part in parts:
        link = logs / f"log_{name}_{part}_version{version}.log"
        link.unlink(missing_ok=True)
        link.symlink_to("/proc/self/fd/1")


def _is_worker(process: psutil.Process) -> bool:
    try:
        return any(argument.endswith(WORKER_SCRIPTS) for argument in process.cmdline())
    except psutil.Error:
        return False


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False

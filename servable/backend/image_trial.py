"""Images that were in a worker when it ended, tried in a process of their own before a successor meets them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Optional

import psutil

from metric_learn_client.wire import METHOD_EMBED_PIXELS
from servable.backend.serving_process import worker_environment
from servable.engine.settings import WorkerSettings
from servable.engine.stages_trial import DONE, HEAD
from servable.gateway.call.request import Payload
from servable.gateway.queue.suspects import EndsProcess

START_S = 10.0
FROM_OUTSIDE = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
IMAGE_S = 8.0  # for one to come through, on a busy host
LOOK_S = 0.25  # between two looks at a process that has not answered
# Of the process, its decoders aside: it copies the image and takes its pixels back, which is milliseconds.
PROCESSOR_S = 1.0
IDLE_LOOKS = 6  # in a row, at which no thread of it and of its decoders ran or could have: nothing will wake it


@contextlib.asynccontextmanager
async def image_trial(python: Path, limits: dict[str, int], run_dir: Path) -> AsyncIterator[EndsProcess]:
    """Gives `ends`: whether the image ended the process that it was tried in, or held it up. A process that is still
    busy with it, or waits for a processor, when the time is over proves nothing.

    limits: of metric_learn_client.preprocess.DecodeLimits, as the workers have them. To be used in the main thread: the
    kernel ends the process with the thread that started it. Raises OSError where no process can be had.
    """
    directory = Path(tempfile.mkdtemp(prefix="serving-trial-", dir=run_dir))
    settings: WorkerSettings = {
        "device": "cpu",
        "threads": 1,
        "preprocess_threads": 1,
        "run_overhead_images": 0.0,
        "batch_sizes": [1],
        "models": {},
        "limits": limits,
        "run_dir": str(directory),
    }
    environment = worker_environment(directory, None, settings, run_dir)
    process: Optional[asyncio.subprocess.Process] = None

    async def ends(method: str, image: Payload) -> bool:
        nonlocal process
        if process is None:
            process = await _started(python, directory, environment)
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        watch = _Watch(process.pid)
        stdin.writelines((HEAD.pack(method == METHOD_EMBED_PIXELS, len(image)), image))
        reading = asyncio.ensure_future(stdout.read(1))
        while not reading.done() and not watch.held_up and watch.seconds < IMAGE_S:
            await asyncio.wait({reading}, timeout=LOOK_S)
            if not reading.done():
                await asyncio.to_thread(watch.look)
        if reading.done() and reading.result() == DONE:
            return False
        ended, process = process, None
        if reading.done():  # it closed its pipe at its end. Who stops the server may signal every process of it
            return await ended.wait() not in FROM_OUTSIDE
        await _end(ended)
        await reading
        return watch.held_up

    try:
        yield ends
    finally:
        if process is not None:
            await _end(process)
        shutil.rmtree(directory, ignore_errors=True)


class _Watch:
    """Whether a process is held up by what it was given when this was made: it spins, or nothing wakes it."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._began_at = time.monotonic()
        self._own_s = _processor_s(self._process)
        self._all_s = -1.0  # its decoders' too
        self._idle = 0
        self.held_up = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began_at

    def look(self) -> None:
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, which shows otherwise
            everyone = [self._process, *self._process.children(recursive=True)]
            all_s = sum(map(_processor_s, everyone))
            idle = all_s == self._all_s and not any(map(_wants_processor, everyone))
            self._all_s, self._idle = all_s, self._idle + 1 if idle else 0
            self.held_up = self._idle >= IDLE_LOOKS or _processor_s(self._process) - self._own_s > PROCESSOR_S


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _wants_processor(process: psutil.Process) -> bool:
    """Whether a thread of it runs, waits for a processor, or for a disk."""
    states = [
        stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{process.pid}/task").glob("*/stat")
    ]
    return any(state in "RD" for state in states)


async def _started(python: Path, directory: Path, environment: dict[str, str]) -> asyncio.subprocess.Process:
    with (directory / "stderr").open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            str(python),
            *("-m", "servable.engine.stages_trial", str(os.getpid())),
            cwd=directory,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        answer = await asyncio.wait_for(process.stdout.read(1), START_S)
    except asyncio.TimeoutError:
        answer = b""
    except BaseException:
        await _end(process)
        raise
    if answer != DONE:
        await _end(process)
        raise OSError(f"no process to try images in: {(directory / 'stderr').read_text(errors='replace')[-300:]}")
    return process


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()

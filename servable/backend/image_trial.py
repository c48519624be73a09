"""Images that were in a worker when it ended, tried in a process of their own before a successor meets them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Optional

from metric_learn_client.wire import METHOD_EMBED_PIXELS
from servable.backend.serving_process import worker_environment
from servable.engine.settings import WorkerSettings
from servable.engine.stages_trial import DONE, HEAD
from servable.gateway.call.request import Payload
from servable.gateway.queue.suspects import EndsProcess

START_S = 10.0
IMAGE_S = 8.0  # for one to come through: on a busy host, the processor time that it may take there


@contextlib.asynccontextmanager
async def image_trial(python: Path, limits: dict[str, int], run_dir: Path) -> AsyncIterator[EndsProcess]:
    """Gives `ends`: whether the image ended the process that it was tried in. No answer in time is no end.

    limits: of metric_learn_client.preprocess.DecodeLimits, as the workers have them.

    To be used in the main thread: the kernel ends the process with the thread that started it. Raises OSError where no
    process can be had.
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
        answer: Optional[bytes] = None
        stdin.writelines((HEAD.pack(method == METHOD_EMBED_PIXELS, len(image)), image))
        with contextlib.suppress(asyncio.TimeoutError):
            answer = await asyncio.wait_for(stdout.read(1), IMAGE_S)
        if answer != DONE:
            ended, process = process, None
            await _end(ended)
        return answer == b""

    try:
        yield ends
    finally:
        if process is not None:
            await _end(process)
        shutil.rmtree(directory, ignore_errors=True)


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

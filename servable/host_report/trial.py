"""MindSpore Serving as the server starts it, without the gateway: how long each part takes, what it answers, how fast.

In a run directory of its own, on a unix socket; nothing of it is left. One event loop, in the main thread.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import psutil

from metric_learn_client import wire
from metric_learn_client.contract.distance import relative_distance
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.verification.parity import TOLERANCES, unit_rows
from servable.backend.launcher import ROUNDS, Child, Launcher
from servable.backend.supervisor import LAST_WORDS_S, StartFailed, start_code
from servable.backend.warm_up import GREY, Unanswered, embed_batch, embed_in_batches
from servable.config.sections import REPOSITORY, Config
from servable.exported_version import ExportedVersion
from servable.gateway.backends import WrongEmbedding
from servable.gateway.channel import Channel

POLL_S = 0.1
MEASURE_S = 1.0  # each
CALL_S = 120.0
STAND_IN = REPOSITORY / "tests" / "golden"  # pictures whose embeddings are known for stand-in weights
LAST_LINES = 40
Say = Callable[[str], None]
Rows = npt.NDArray[np.float32]


async def run(config: Config, version: ExportedVersion, run_dir: Path, say: Say) -> tuple[dict[str, Any], int]:
    """What was seen, and the exit code."""
    launcher = Launcher(config, run_dir)
    seen: dict[str, Any] = {}
    child: Optional[Child] = None
    try:
        say("starting MindSpore Serving")
        began = time.monotonic()
        launcher.look_for_devices()
        child = launcher.launch(version)
        await _start(config, child, began, seen.setdefault("start", []), say)
        with closing(Channel(child.facts.target)) as channel:
            seen["parity"], right = await _parity(config, version, channel, say)
            seen["speed"] = await _speed(config, version, channel, say)
        seen["memory_mb"] = _memory(child.pid)
        return seen, ExitCode.DONE if right else ExitCode.GATE_FAILED
    except (StartFailed, Unanswered, OSError) as error:
        code = error.exit_code if isinstance(error, StartFailed) else ExitCode.NOT_REACHABLE
        lines = launcher.log.path.read_text(errors="replace").splitlines() if launcher.log.path.exists() else []
        return {**seen, "failed": str(error), "log": lines[-LAST_LINES:]}, code
    finally:
        if child is not None:
            await asyncio.to_thread(child.stop, at_once=False)
        launcher.log.close()


async def _start(config: Config, child: Child, began: float, parts: list[dict[str, Any]], say: Say) -> None:
    """Until every device has given the right embedding at every batch size. Raises StartFailed."""

    def reached(what: str) -> None:
        if not parts or parts[-1]["part"] != what:
            parts.append({"part": what, "after_s": round(time.monotonic() - began, 2)})
            say(f"{what} ({parts[-1]['after_s']} s)")

    listening = asyncio.create_task(_listening(child.facts.target))
    proof = asyncio.create_task(_prove(config, child, listening, reached))
    try:
        while not proof.done():
            if time.monotonic() - began > config.backend.start_timeout_s:
                raise StartFailed(f"not ready after backend.start_timeout_s = {config.backend.start_timeout_s:g}")
            await _stop_at_its_end(child)
            for hung in child.look_at_devices()[0]:
                raise StartFailed(hung)
            progress = await asyncio.to_thread(child.progress)
            if progress and not listening.done():  # a compile that was looked up meanwhile is over
                reached(progress)
            await asyncio.wait({proof}, timeout=POLL_S)
        proof.result()
    except WrongEmbedding as error:
        raise StartFailed(str(error), ExitCode.GATE_FAILED) from error
    except Unanswered as error:
        limit = time.monotonic() + LAST_WORDS_S  # it may be at its end, and its log knows why
        while time.monotonic() < limit:
            await _stop_at_its_end(child)
            await asyncio.sleep(POLL_S)
        why = await asyncio.to_thread(child.why)  # without its only worker it may end much later
        code = start_code(why)
        raise StartFailed(why if code == ExitCode.GATE_FAILED else str(error), code) from error
    finally:
        for task in (listening, proof):
            task.cancel()
        await asyncio.gather(listening, proof, return_exceptions=True)


async def _stop_at_its_end(child: Child) -> None:
    """Raises StartFailed where MindSpore Serving has ended."""
    if child.poll() is not None:
        why = await asyncio.to_thread(child.why)
        raise StartFailed(f"MindSpore Serving ended with exit code {child.poll()}: {why}", start_code(why))


async def _listening(target: str) -> None:
    with closing(Channel(target)) as channel:
        await channel.opened()


async def _prove(config: Config, child: Child, listening: asyncio.Task[None], reached: Callable[[str], None]) -> None:
    await listening
    reached("MindSpore Serving listens: every model is loaded")
    await child.prove(config.readiness.max_relative_distance)
    reached("right embeddings at every batch size")


async def _parity(config: Config, version: ExportedVersion, channel: Channel, say: Say) -> tuple[dict[str, Any], bool]:
    """Distances to what MindSpore gave at the export, and whether all are within the limit."""
    say("comparing embeddings")
    limit = TOLERANCES["float32" if config.backend.target == "cpu" else "float16"]
    golden = await _embed(channel, version, [version.golden_image])
    distances = {"golden picture": float(relative_distance(golden, version.golden_embedding[None])[0])}
    with np.load(version.folder / "probe.npz", allow_pickle=False) as probe:
        pixels, features = probe["pixels"], probe["features"]
    for size in version.batch_sizes:
        rows = await embed_in_batches(channel, pixels, size, version.embedding_dim, CALL_S)
        name = f"pixels of the export, {size} in a batch"
        distances[name] = float(np.max(relative_distance(rows, unit_rows(features))))
    if version.weights == "stand-in" and (STAND_IN / "reference.npz").is_file():
        with np.load(STAND_IN / "reference.npz") as reference:
            names, features = [str(name) for name in reference["names"]], reference["features_f32"]
        rows = await _embed(channel, version, [(STAND_IN / "images" / name).read_bytes() for name in names])
        for name, distance in zip(names, relative_distance(rows, unit_rows(features))):
            distances[name] = float(distance)
    worst = max(distances.values())
    shown = {"worst_relative_distance": worst, "limit": limit, "relative_distance": distances}
    return shown, worst <= limit


async def _speed(config: Config, version: ExportedVersion, channel: Channel, say: Say) -> list[dict[str, Any]]:
    """Pixels by batch size, one batch at a time and as many as it works on; then encoded pictures."""
    busy = ROUNDS * config.backend.processes
    dim = version.embedding_dim
    measured = []
    for size in version.batch_sizes:
        for batches in (1, busy):
            say(f"measuring pixels, batches of {size}, {batches} at a time")
            work = functools.partial(embed_batch, channel, wire.METHOD_EMBED_PIXELS, [GREY] * size, dim, CALL_S)
            measured.append({"input": "pixels", **await _measure(work, size, batches)})
    size = max(version.batch_sizes)
    say(f"measuring encoded pictures, batches of {size}, {busy} at a time")
    work = functools.partial(embed_batch, channel, wire.METHOD_EMBED, [version.golden_image] * size, dim, CALL_S)
    measured.append({"input": "encoded pictures", **await _measure(work, size, busy)})
    return measured


async def _measure(work: Callable[[], Awaitable[Rows]], images: int, at_a_time: int) -> dict[str, Any]:
    """At least one batch each after the first, which is not counted."""
    await work()
    latencies: list[float] = []
    began = time.monotonic()

    async def caller() -> None:
        while True:
            asked = time.monotonic()
            await work()
            latencies.append(time.monotonic() - asked)
            if time.monotonic() - began > MEASURE_S:
                return

    await asyncio.gather(*(caller() for _ in range(at_a_time)))
    spent = time.monotonic() - began
    return {
        "batch_size": images,
        "batches_at_a_time": at_a_time,
        "batches": len(latencies),
        "images_per_s": round(images * len(latencies) / spent, 2),
        "p50_ms": round(1000 * float(np.percentile(latencies, 50)), 2),
        "p99_ms": round(1000 * float(np.percentile(latencies, 99)), 2),
    }


async def _embed(channel: Channel, version: ExportedVersion, pictures: Sequence[bytes]) -> Rows:
    most, dim = max(version.batch_sizes), version.embedding_dim
    parts = [list(pictures[start : start + most]) for start in range(0, len(pictures), most)]
    return np.concatenate([await embed_batch(channel, wire.METHOD_EMBED, part, dim, CALL_S) for part in parts])


def _memory(master: int) -> dict[str, int]:
    """Resident, of each process; pages that several share count in each."""
    found: dict[str, int] = {}
    try:
        processes = [psutil.Process(master), *psutil.Process(master).children(recursive=True)]
    except psutil.Error:
        return found
    for process in processes:
        try:
            name = next((part for part in process.cmdline() if part.endswith(".py")), process.name()).rpartition("/")[2]
            found[f"{name} {process.pid}"] = process.memory_info().rss // 2**20
        except psutil.Error:
            continue
    return found

"""The whole server on simulated devices: how busy they are kept, what the host spends, how long a call takes.

.venv/client/bin/python -m tests.benchmarks.devices [--rates 500,2000,4000] [--images 1,8,32] [--callers 1,8,64]
    [--seconds 3] [--pictures] [--cores] [--set SECTION.KEY=VALUE ...] [--output results/bench]
.venv/client/bin/python -m tests.benchmarks.devices --single | --carried

The device is tests/ascend/simulated_cann: the product, MindSpore Serving and MindSpore Lite's Ascend plugins are real,
a run takes the time given here and no CPU, and every row is the golden embedding. `embed_pixels` unless --pictures:
pixels are 150,528 bytes an image. The load comes from a process of its own on the same cores, with grpc.aio and
ready-made requests; its CPU is given apart. --cores: the fastest device's images/s on one core, two, ... all, load
included, and a plot. --single: calls of one image, against a bare echo, and at random times. --carried: the fastest
device's images/s of what the cores carry, measured with a device that takes no time. Needs what tests/ascend needs:
root, for a mount namespace, and g++.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Optional

import grpc
import grpc.aio
import numpy as np
import psutil

from metric_learn_client import wire
from metric_learn_client.wire.instances import encode_request
from tests.ascend.simulated_host import SimulatedHost, build, why_not
from tests.benchmarks.corpus import pictures
from tests.e2e.conftest import exported_versions

RATES, IMAGES, CALLERS = (500, 2000, 4000), (1, 8, 32), (1, 8, 64)
SECONDS = 3.0
BATCH = 16  # the largest MindIR of configs/ascend310.yaml
PICTURES = "0.2 Mpx"
# 64 calls of 32 images are more than a server takes in by default, 1,024 images and 256 MB.
ROOM = ("limits.max_in_flight_instances=2048", "limits.max_in_flight_bytes=536870912")
SMALL_RUNS = "backend.batch_sizes=[1,4,16]"  # in place of [1,16]: one more model to compile or convert
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
WARM_S = 0.7
CALL_S = 60.0
SHARE = 0.7
SPAWNING = multiprocessing.get_context("spawn")


def run_ms(rate: float) -> str:
    """A device of so many images a second, as SIMULATED_CANN_RUN_MS; infinite: it takes no time."""
    return ",".join(f"{size}:{1000 * size / rate:g}" for size in (1, 4, BATCH))


@contextmanager
def simulated(rate: float, flags: Sequence[str] = (), cores: Sequence[int] = ()) -> Iterator[tuple[Any, SimulatedHost]]:
    """(server, host); on `cores` alone where they are given."""
    exported_versions()
    with tempfile.TemporaryDirectory(prefix="devices-") as folder:
        host = SimulatedHost(build(), Path(folder))
        host.set(NUMBERS="golden", RUN_MS=run_ms(rate))
        if cores:
            host.prefix = ["taskset", "-c", ",".join(map(str, cores))]
        with host.server("log.access=false", *ROOM, *flags) as server:
            if not server.ready_line.startswith("ready"):
                raise RuntimeError(server.said())
            yield server, host


def bodies(images: int, files: bool) -> list[bytes]:
    if not files:
        pixels = np.full(wire.PIXELS_SHAPE, 128, np.uint8).tobytes()
        return [encode_request(wire.METHOD_EMBED_PIXELS, [pixels] * images)]
    corpus = pictures(PICTURES, 64)
    starts = range(0, len(corpus), min(images, BATCH))
    groups = ([corpus[(start + index) % len(corpus)] for index in range(images)] for start in starts)
    return [encode_request(wire.METHOD_EMBED, group) for group in groups]


def send(endpoint: str, images: int, callers: int, seconds: float, files: bool, answer: Connection) -> None:
    """The load's process: each caller sends its next call when the one before is answered. Answers with the measured
    time's begin and end, (begin, end) of every call, and the CPU seconds of these calls; all times monotonic."""

    async def load() -> None:
        spent: list[tuple[float, float]] = []
        requests = bodies(images, files)
        async with grpc.aio.insecure_channel(endpoint, options=OPTIONS) as channel:
            call = channel.unary_unary(wire.PREDICT_PATH)
            await call(requests[0], wait_for_ready=True, timeout=CALL_S)
            cpu_s, end = time.process_time(), time.monotonic() + WARM_S + seconds

            async def caller(number: int) -> None:
                while time.monotonic() < end:
                    began = time.monotonic()
                    await call(requests[number % len(requests)], timeout=CALL_S)
                    number += 1
                    spent.append((began, time.monotonic()))

            await asyncio.gather(*(caller(number) for number in range(callers)))
        answer.send((end - seconds, end, spent, time.process_time() - cpu_s))

    asyncio.run(load())


def arrive(endpoint: str, per_s: float, seconds: float, answer: Connection) -> None:
    """The other load: calls of one image at random times, `per_s` on the average, however long the answers take.
    Answers with the seconds from when each was due, and how many calls failed."""

    async def load() -> None:
        (request,) = bodies(1, files=False)
        due = np.cumsum(np.random.default_rng(1).exponential(1 / per_s, int(per_s * (WARM_S + seconds))))
        async with grpc.aio.insecure_channel(endpoint, options=OPTIONS) as channel:
            call = channel.unary_unary(wire.PREDICT_PATH)
            await call(request, wait_for_ready=True, timeout=CALL_S)
            start = time.monotonic()

            async def one(at: float) -> float:
                await asyncio.sleep(start + at - time.monotonic())
                await call(request, timeout=CALL_S)
                return time.monotonic() - start - at

            done = await asyncio.gather(*map(one, due.tolist()), return_exceptions=True)
        late = done[int(per_s * WARM_S) :]
        answer.send(
            ([each for each in late if isinstance(each, float)], sum(isinstance(each, Exception) for each in late))
        )

    asyncio.run(load())


def serve_echo(reply: bytes, answer: Connection) -> None:
    """What any server with grpc.aio costs at least: it takes a call's bytes and answers with as many as the product."""

    async def predict(_body: bytes, _context: object) -> bytes:
        return reply

    async def serve() -> None:
        server = grpc.aio.server(options=OPTIONS)
        handler = grpc.unary_unary_rpc_method_handler(predict)
        service, _, method = wire.PREDICT_PATH.strip("/").partition("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        answer.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(serve())


def begun(target: Any, *arguments: Any) -> tuple[Any, Any]:
    """A process of its own that runs `target`, and what it answers; RuntimeError where it ends without an answer."""
    ours, theirs = SPAWNING.Pipe()
    process = SPAWNING.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()  # else nobody would hear that the process has ended
    try:
        return process, ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{target.__name__} ended without an answer, see above") from None


@contextmanager
def echo(reply: bytes) -> Iterator[str]:
    """Its endpoint."""
    process, port = begun(serve_echo, reply)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


def answered(target: Any, *arguments: Any) -> Any:
    """What a load in a process of its own answers, when that has ended."""
    process, answer = begun(target, *arguments)
    process.join()
    return answer


def single(rate: int, seconds: float = SECONDS, rounds: int = 3, flags: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Calls of one image on a device of `rate`: how many there are of what a bare echo answers; and how long they take
    that come at random, at SHARE of the device's rate or of what the cores carry, whichever is less."""
    with simulated(rate, flags) as (server, _):
        how = ", ".join([f"device of {rate}/s", *flags])
        with grpc.insecure_channel(server.endpoint, options=OPTIONS) as channel:
            reply = channel.unary_unary(wire.PREDICT_PATH)(
                bodies(1, files=False)[0], wait_for_ready=True, timeout=CALL_S
            )
        ratios = []
        with echo(reply) as bare:
            for _ in range(rounds):
                served, echoed = (
                    len(answered(send, endpoint, 1, 8, seconds, False)[2]) for endpoint in (server.endpoint, bare)
                )
                ratios.append(served / echoed)
        yield of_rounds(f"embed_pixels of one image, 8 callers, {how}: calls of a bare grpc.aio echo", ratios, 0.40)
        began, end, spent, _ = answered(send, server.endpoint, 1, 64, seconds, False)
        carried = sum(began <= stop <= end for _, stop in spent) / seconds
        per_s = SHARE * min(rate, carried)
        limit_ms = 4 * 1000 * BATCH / rate
        late, failed = answered(arrive, server.endpoint, per_s, seconds)
        if failed:
            raise RuntimeError(f"{failed} of {failed + len(late)} calls failed")
        late.sort()
        load = f"single images at random, {per_s:.0f}/s of {carried:.0f}/s that the cores carry, {how}"
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            yield {
                "what": f"{load}: {name} in ms",
                "value": round(1000 * late[int(share * len(late))], 2),
                "lowest": round(1000 * late[0], 2),
                "highest": round(1000 * late[-1], 2),
                "target": f"<= {limit_ms:g}" if name == "p99" else "",
            }


def of_rounds(what: str, ratios: Sequence[float], at_least: float) -> dict[str, Any]:
    """The row of a ratio that was measured once in each round."""
    return {
        "what": what,
        "value": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "target": f">= {at_least:.2f}",
    }


def cpu_by_role(root: psutil.Process) -> dict[str, float]:
    """CPU seconds so far: gateway (the server's own process), master, workers, decoders."""
    spent = dict.fromkeys(("gateway", "master", "workers", "decoders"), 0.0)
    for process in [root, *root.children(recursive=True)]:
        line, times = " ".join(process.cmdline()), process.cpu_times()
        role = "gateway"
        if "decoder_process" in line:
            role = "decoders"
        elif "start_worker" in line or "start_extra_worker" in line:
            role = "workers"
        elif ".master" in line:
            role = "master"
        spent[role] += times.user + times.system
    return spent


def measure(
    server: Any, host: SimulatedHost, images: int, callers: int, seconds: float, files: bool = False
) -> dict[str, Any]:
    """One row: images/s, the device's busy share, CPU milliseconds an image by process, milliseconds of a call."""
    root = psutil.Process(server.process.pid)
    before = cpu_by_role(root)
    began, end, spent, client_s = answered(send, server.endpoint, images, callers, seconds, files)
    after = cpu_by_role(root)
    everything = images * len(spent)
    inside = sorted(stop - start for start, stop in spent if began <= stop <= end)
    runs = [each for each in host.records("execute") if began <= each["at_ms"] / 1000 <= end]
    return {
        "images": images,
        "callers": callers,
        "images_per_s": round(images * len(inside) / seconds),
        "busy": round(sum(each["ms"] for each in runs) / 1000 / seconds, 3),
        "p50_ms": round(1000 * statistics.median(inside), 2),
        "p99_ms": round(1000 * inside[int(0.99 * len(inside))], 2),
        **{f"{role}_cpu_ms": round(1000 * (after[role] - before[role]) / everything, 4) for role in after},
        "client_cpu_ms": round(1000 * client_s / everything, 4),
    }


def table(
    rates: Sequence[int] = RATES,
    images: Sequence[int] = IMAGES,
    callers: Sequence[int] = CALLERS,
    seconds: float = SECONDS,
    files: bool = False,
    flags: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """A row for each rate, images a call and callers; one server for each rate."""
    for rate in rates:
        with simulated(rate, flags) as (server, host):
            for each in images:
                for count in callers:
                    yield {"device_per_s": rate, **measure(server, host, each, count, seconds, files)}


def carried(rate: int, seconds: float = SECONDS, rounds: int = 3) -> Iterator[dict[str, Any]]:
    """A device of `rate` beside one that takes no time, under the same load in turn: where the cores cannot carry
    server and load at that rate, what they carry is what the device can be kept busy with."""
    with simulated(rate) as timed, simulated(math.inf) as free:
        rows = [[measure(*each, max(IMAGES), 8, seconds) for each in (timed, free)] for _ in range(rounds)]
    shares = [at_rate["images_per_s"] / min(rate, at_most["images_per_s"]) for at_rate, at_most in rows]
    at_most = statistics.median(most["images_per_s"] for _, most in rows)
    what = f"device of {rate}/s, 32 images a call, 8 callers: images/s of the {at_most:.0f} that the cores carry"
    yield of_rounds(what, shares, 0.85)


def by_cores(rate: int, seconds: float = SECONDS, files: bool = False, flags: Sequence[str] = ()) -> Iterator[Any]:
    """One row for each number of cores, 32 images a call; server and load share them."""
    everywhere = os.sched_getaffinity(0)
    try:
        for count in range(1, len(everywhere) + 1):
            cores = sorted(everywhere)[:count]
            os.sched_setaffinity(0, cores)  # which the load inherits
            with simulated(rate, flags, cores) as (server, host):
                row = measure(server, host, max(IMAGES), 8, seconds, files)
                yield {"cores": count, "device_per_s": rate, **row}
    finally:
        os.sched_setaffinity(0, everywhere)


def plot(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Images/s against cores."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.plot([row["cores"] for row in rows], [row["images_per_s"] for row in rows], marker="o")
    axes.axhline(rows[0]["device_per_s"], color="0.4", linewidth=0.8)
    axes.set(xlabel="cores, of server and load", ylabel="images/s", xticks=[row["cores"] for row in rows])
    axes.set_ylim(bottom=0)
    axes.set_title("Whole server, simulated device (line: the device's rate)", fontsize=11)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def write(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def shown(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row printed as it comes, as JSON."""
    kept = []
    for row in rows:
        print(json.dumps(row), flush=True)
        kept.append(row)
    return kept


def run(folder: Path, short: bool) -> None:
    """What `make bench` does: the table, and images/s against cores; the short form takes one row a device."""
    reason = why_not()
    if reason:
        print(f"no simulated device, so no rows of it: {reason}")
        return
    some = {"images": (32,), "callers": (8,), "seconds": 2.0} if short else {}
    write(folder, "devices", shown(table(**some)))  # type: ignore[arg-type]
    write(folder, "carried", shown(carried(max(RATES))))
    alone = [shown(single(max(RATES), flags=flags)) for flags in ((), (SMALL_RUNS,))]
    write(folder, "single", [row for rows in alone for row in rows])
    if not short:
        rows = shown(by_cores(max(RATES)))
        write(folder, "cores", rows)
        plot(folder / "cores.png", rows)


def numbers(text: str) -> Sequence[int]:
    return [int(each) for each in text.split(",")]


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=numbers, default=RATES, help="images/s of the device")
    parser.add_argument("--images", type=numbers, default=IMAGES, help="of one call")
    parser.add_argument("--callers", type=numbers, default=CALLERS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one row")
    parser.add_argument("--pictures", action="store_true", help="encoded pictures, `embed`")
    parser.add_argument("--cores", action="store_true", help="images/s on one core, two, ... all of them")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument(
        "--output", type=Path, help="folder for devices.csv, single.csv, carried.csv, or cores.csv and cores.png"
    )
    parser.add_argument("--single", action="store_true", help="calls of one image, on the fastest device")
    parser.add_argument("--carried", action="store_true", help="the fastest device, of what the cores carry")
    given = parser.parse_args(arguments)
    name = "cores" if given.cores else "single" if given.single else "carried" if given.carried else "devices"
    if given.carried:
        rows = shown(carried(max(given.rates), given.seconds))
    elif given.single:
        rows = shown(single(max(given.rates), given.seconds, flags=given.set))
    elif given.cores:
        rows = shown(by_cores(max(given.rates), given.seconds, given.pictures, given.set))
    else:
        wanted = table(given.rates, given.images, given.callers, given.seconds, given.pictures, given.set)
        rows = shown(wanted)
    if given.output:
        write(given.output, name, rows)
        if given.cores:
            plot(given.output / "cores.png", rows)


if __name__ == "__main__":
    sys.exit(main())

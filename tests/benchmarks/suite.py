"""The benchmark: every system on the same pictures, in turn, in one run; ratios and their spread.

.venv/client/bin/python -m tests.benchmarks.suite [--short] [--output results/bench] [--without-peers]

A shared machine's absolute figures move by a factor within minutes. So everything that is compared is measured in
every round, in an order that changes, and what is reported is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from metric_learn_client.preprocess import preprocess
from servable.engine import batch_stats
from tests.benchmarks import devices, report, systems
from tests.benchmarks.corpus import SIZES_PX, digest, pictures
from tests.benchmarks.load import alone, offline, poisson
from tests.benchmarks.rounds import Rounds
from tests.benchmarks.systems import Bare, System

GOLDEN = systems.REPOSITORY / "tests" / "golden"
BATCH = 16  # the largest MindIR
SMALL, MIDDLE, LARGE = SIZES_PX
PEERS = ("LitServe", "BentoML")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def host_work(short: bool) -> dict[str, Any]:
    """t_ref and the product's preprocessing, in the engine's environment."""
    sets = {SMALL: pictures(SMALL, 24), MIDDLE: pictures(MIDDLE, 6), LARGE: pictures(LARGE, 2)}
    work: dict[str, Any] = json.loads(in_the_engine(sets, "3" if short else "9"))
    return work


def in_the_engine(sets: dict[str, Sequence[bytes]], *arguments: str) -> bytes:
    """What tests.benchmarks.host_work prints of these pictures."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pictures.npz"
        arrays = {name: np.array(images, dtype=object) for name, images in sets.items()}
        np.savez(file, **arrays)
        command = [systems.ENGINE_PYTHON, "-m", "tests.benchmarks.host_work", str(file), *arguments]
        return subprocess.run(command, cwd=systems.REPOSITORY, stdout=subprocess.PIPE, check=True).stdout


def without_network(rounds: Rounds, short: bool, facts: dict[str, Any]) -> None:
    """What the product costs beside the network: with pictures of three sizes, calls of all sizes, many at a time."""
    count, cores = 256 if short else 512, len(os.sched_getaffinity(0))
    small, one_size = pictures(SMALL, 64) * (count // 64), 32
    with systems.serving("no-network") as (served, _), systems.serving("echo") as (echo, _):
        for system in (served, echo):
            offline(system, small[:64])

        def at(
            system: System, images: Sequence[bytes], per_call: int, in_flight: int
        ) -> Callable[[], dict[str, float]]:
            def slice_() -> dict[str, float]:
                took = offline(system, images, per_call, in_flight)
                return {"server": took.server_cpu_ms, "client": took.client_cpu_ms, "images_per_s": took.images_per_s}

            return slice_

        def decoders_alone() -> dict[str, float]:
            return {"images_per_s": float(in_the_engine({SMALL: small[:64]}, "decoders", str(cores)))}

        slices = {"no-network": at(served, small, one_size, 3), "echo": at(echo, small, one_size, 3)}
        slices[report.ALL_CORES] = at(served, small * 2, one_size, 2 + 2 * cores)
        slices[report.DECODERS_ALONE] = decoders_alone
        for per_call in (1, 8, 128):
            slices[f"no-network {per_call} a call"] = at(served, small, per_call, 3 if per_call > 1 else 16)
        for in_flight in (1, 4, 32):
            slices[f"no-network {in_flight} calls at a time"] = at(served, small * 2, 8, in_flight)
        slices[f"no-network {MIDDLE}"] = at(served, pictures(MIDDLE, 16), 8, 3)
        slices[f"no-network {LARGE}"] = at(served, pictures(LARGE, 4), 2, 2)
        rounds.run(slices)
        facts["cpu_ms_by_role"] = {system.name: by_role(system, small) for system in (served, echo)}


def gateway_cost(short: bool) -> list[dict[str, float]]:
    """What each form of a call costs the gateway, in its own environment: a row for each number of images a call."""
    command = [systems.SERVER_PYTHON, "-m", "tests.benchmarks.gateway_cost", "--seconds", "1.5" if short else "5"]
    done = subprocess.run(command, cwd=systems.REPOSITORY, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def by_role(system: System, images: Sequence[bytes]) -> dict[str, float]:
    before = system.cpu_by_role()
    offline(system, images)
    after = system.cpu_by_role()
    return {role: round((after[role] - before[role]) / len(images) * 1e3, 3) for role in after}


def with_network(rounds: Rounds, short: bool, peers: Sequence[str], facts: dict[str, Any]) -> None:
    count = 48 if short else 192
    images = pictures(SMALL, 64) * 3
    pixels = [preprocess(image) for image in images[:count]]
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        bare_system, address = stack.enter_context(systems.serving("bare"))
        bare = Bare(address)
        stack.callback(bare.close)
        product, facts["start_up_s"] = stack.enter_context(systems.product())
        others = [stack.enter_context(systems.serving("plain"))[0]]
        if not short:
            flag = f"backend.workers={len(os.sched_getaffinity(0))}"
            others.append(stack.enter_context(systems.product(report.SPREAD, flag))[0])
        others += [stack.enter_context(systems.peer(name)) for name in peers]
        facts["start_s"] = round(time.monotonic() - began, 1)
        say(f"all {2 + len(others)} systems are up; warming up")
        for size in (1, 4, BATCH):
            bare.run(size, 2)
        for system in (product, *others):
            offline(system, images[:32])
            facts.setdefault("equality", {})[system.name] = distance_to_reference(system)

        def bare_at(size: int, runs: int) -> Callable[[], dict[str, float]]:
            def slice_() -> dict[str, float]:
                wall, cpu = bare.run(size, runs).T
                return {
                    "images_per_s": size * runs / float(wall.sum()),
                    "cpu_ms": float(cpu.sum()) / size / runs * 1e3,
                    "p50_ms": float(np.median(wall)) * 1e3,
                }

            return slice_

        def offline_at(system: System, items: Sequence[Any]) -> Callable[[], dict[str, float]]:
            def slice_() -> dict[str, float]:
                took = offline(system, items)
                return {"images_per_s": took.images_per_s, "cpu_ms": took.server_cpu_ms}

            return slice_

        def alone_at(system: System, times: int) -> Callable[[], dict[str, float]]:
            return lambda: {"p50_ms": float(np.median(alone(system, images[:times])))}

        as_pixels = System("pixels", product.root, product.embed_pixels or product.embed)
        slices: dict[str, Callable[[], dict[str, float]]] = {
            "bare": bare_at(BATCH, count // BATCH),
            "product": offline_at(product, images[:count]),
            "product, pixels": offline_at(as_pixels, pixels),
            "bare, alone": bare_at(1, 12),
            "product, alone": alone_at(product, 12),
        }
        for system in others:
            slices[system.name] = offline_at(system, images[:count])
        rounds.run(slices)
        facts["fill"] = fill(product)
        facts["memory_mb"] = {system.name: round(system.memory_mb()) for system in (product, bare_system, *others)}
        if not short:
            capacity = rounds.median("product", "images_per_s")
            for share in (0.25, 0.5, 0.75):
                spent = poisson(product, images[:96], share * capacity, seed=1)
                facts.setdefault("poisson", {})[f"{share:.0%}"] = {
                    f"p{q:g}": round(float(np.percentile(spent, q)), 1) for q in (50, 90, 95, 99, 100)
                }


def fill(product: System) -> dict[str, str]:
    """Batch size -> runs of the network and how full they were, as the server counted them."""
    run_dir = next(Path(word[15:]) for word in product.root.cmdline() if word.startswith("server.run_dir="))
    counted = batch_stats.read(run_dir).runs
    return {
        str(size): f"{runs} runs, {images / max(1, runs * size):.2f} full" for size, (runs, images) in counted.items()
    }


def distance_to_reference(system: System) -> float:
    """Largest difference of any number to the golden embeddings, over the golden pictures."""
    golden = np.load(GOLDEN / "reference.npz")
    images = [(GOLDEN / "images" / str(name)).read_bytes() for name in golden["names"]]
    expected = golden["embeddings_f32"] / np.linalg.norm(golden["embeddings_f32"], axis=1, keepdims=True)
    step = min(system.images_per_call, len(images))
    rows = np.concatenate([system.embed(images[start : start + step]) for start in range(0, len(images), step)])
    return float(np.abs(rows - expected).max())


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Speed of the service, in ratios measured side by side.")
    parser.add_argument("--short", action="store_true", help="fewer and shorter rounds, under 3 minutes")
    parser.add_argument("--output", type=Path, default=systems.REPOSITORY / "results" / "bench")
    parser.add_argument("--without-peers", action="store_true", help="leave LitServe and BentoML out")
    parser.add_argument("--rounds", type=int, help="rounds of each part; default 7, with --short 3")
    options = parser.parse_args(arguments)
    count = options.rounds or (3 if options.short else 7)
    random.seed(1)
    peers = () if options.without_peers else PEERS
    systems.make_models(bool(peers))
    began = time.monotonic()
    facts: dict[str, Any] = {"corpus": digest(pictures(SMALL, 64)), "short": options.short}
    say("preprocessing, one thread")
    facts["host_work"] = host_work(options.short)
    say("the product without its network")
    host = Rounds(count)
    without_network(host, options.short, facts)
    say("bare network, product and peers")
    model = Rounds(count)
    with_network(model, options.short, peers, facts)
    say("the gateway alone, by each form of a call")
    facts["gateway_cost"] = gateway_cost(options.short)
    say("simulated devices")
    devices.run(options.output, options.short)
    facts["minutes"] = round((time.monotonic() - began) / 60, 1)
    return report.write(options.output, facts, host, model)


if __name__ == "__main__":
    sys.exit(main())

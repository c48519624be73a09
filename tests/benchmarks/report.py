"""What a run says: a table on stdout, results.csv, results.json and a plot; 1 where a target was missed.

.venv/client/bin/python -m tests.benchmarks.report FOLDER writes the report of an earlier run again.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Optional

from tests.benchmarks.rounds import Rounds

UNEQUAL = 1e-5
# CPU an image in the gateway beside Predict's, at most; forms of gateway_cost.
FORMS = {"openai": ("/v1/embeddings, base64", 1.5), "oip": ("OIP, binary tensors", 1.2), "embed": ("/embed, npy", 1.2)}
PEERS = ("plain", "LitServe", "BentoML")
ALL_CORES, DECODERS_ALONE = "no-network, all cores", "decoders alone"
SPREAD = "product, a worker a core"  # backend.workers: as many as cores, one thread each


@dataclass(frozen=True)
class Row:
    what: str
    value: float
    lowest: float
    highest: float
    target: str
    met: Optional[bool]


def of(what: str, values: list[float], at_least: Optional[float] = None, at_most: Optional[float] = None) -> Row:
    value = statistics.median(values)
    met, target = None, ""
    if at_least is not None:
        met, target = value >= at_least, f">= {at_least:g}"
    if at_most is not None:
        met, target = value <= at_most, f"<= {at_most:g}"
    return Row(what, value, min(values), max(values), target, met)


def rows_of(facts: dict[str, Any], host: Rounds, model: Rounds) -> list[Row]:
    work = facts["host_work"]
    small = work["0.2 Mpx"]
    t_ref = small["cpu_ms"]["reference"]
    rows = [
        of("offline throughput: product / bare network", model.ratios("product", "bare", "images_per_s"), 0.90),
        of("  with pixels: product / bare network", model.ratios("product, pixels", "bare", "images_per_s"), 0.97),
        of("lone image p50: product / bare", model.ratios("product, alone", "bare, alone", "p50_ms"), at_most=1.25),
        of("non-model CPU an image / t_ref", [v / t_ref for v in host.values("no-network", "server")], at_most=0.6),
    ]
    # Other load on the machine moves CPU an image less than throughput. Measured whole, then put together from the
    # network alone and the product without it: the second leaves out what the two cost each other on the same cores.
    rows.append(of("CPU an image: bare network / product", model.ratios("bare", "product", "cpu_ms"), 0.90))
    rows.append(of("  with pixels: bare network / product", model.ratios("bare", "product, pixels", "cpu_ms"), 0.97))
    network = model.median("bare", "cpu_ms")
    for what, slice_ in (("", "no-network"), (", pixels", "echo")):
        shares = [network / (network + cpu_ms) for cpu_ms in host.values(slice_, "server")]
        rows.append(of(f"  put together: bare / (bare + non-model{what})", shares))
    # That it falls is no fault: images of several calls share a batch, and a batch's cost.
    slope = host.ratios("no-network 32 calls at a time", "no-network 1 calls at a time", "server")
    rows.append(of("  32 calls at a time / 1, 8 images a call", slope, at_most=1.10))
    slope = host.ratios("no-network 128 a call", "no-network 8 a call", "server")
    rows.append(of("  128 images a call / 8", slope, at_most=1.10))
    if DECODERS_ALONE in host.measured[0]:
        least = 0.9 if int(facts["machine"]["cores"]) <= 2 else 0.75
        alone = host.ratios(ALL_CORES, DECODERS_ALONE, "images_per_s")
        rows.append(of("one worker, all cores: no-network / decoders alone", alone, least))
    for name in model.measured[0]:
        if name in PEERS:
            least = 1.3 if name == "LitServe" else 1.0
            rows.append(of(f"throughput: product / {name}", model.ratios("product", name, "images_per_s"), least))
            rows.append(of(f"  CPU an image: {name} / product", model.ratios(name, "product", "cpu_ms")))
            if SPREAD in model.measured[0]:
                rows.append(of(f"  throughput: {SPREAD} / {name}", model.ratios(SPREAD, name, "images_per_s")))
    for name, far in facts["equality"].items():
        rows.append(of(f"embeddings: {name} from the reference", [far], at_most=UNEQUAL))
    for size in ("0.2 Mpx", "1 Mpx", "12 Mpx"):
        rows.append(
            of(f"pictures of {size} with unequal pixels", [work[size]["pictures with unequal pixels"]], at_most=0)
        )
        rows.append(of(f"  preprocessing CPU / reference, {size}", work[size]["ratios"]))
        for step, cpu_ms in work[size]["cpu_ms"].items():
            rows.append(of(f"  CPU ms an image, {size}: {step}", [cpu_ms]))
    for name, quantities in host.measured[0].items():
        for side in ("server", "client"):
            if side in quantities:
                rows.append(of(f"CPU ms an image: {name}, {side}", host.values(name, side)))
    for name, quantities in model.measured[0].items():
        rows += [of(f"{quantity}: {name}", model.values(name, quantity)) for quantity in quantities]
    for cost in facts.get("gateway_cost", ()):
        images = f"{cost['images_per_call']:g} a call"
        rows.append(of(f"gateway CPU us an image: Predict over gRPC, {images}", [cost["gateway_cpu_us_per_image"]]))
        for way, (form, most) in FORMS.items():
            rows.append(of(f"  {form} / Predict, {images}", [cost[f"{way}_cpu_ratio"]], at_most=most))
    rows += [of(f"memory MB: {name}", [float(size)]) for name, size in facts["memory_mb"].items()]
    return rows


def machine() -> dict[str, str]:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": model[0].partition(": ")[2] if model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.1f}",
        "commit": commit.stdout.strip(),
    }


def write(folder: Path, facts: dict[str, Any], host: Rounds, model: Rounds) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    facts.setdefault("machine", machine())
    rows = rows_of(facts, host, model)
    (folder / "results.json").write_text(
        json.dumps({"facts": facts, "without network": host.measured, "with network": model.measured}, indent=1)
    )
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([each.name for each in fields(Row)])
        writer.writerows(astuple(row) for row in rows)
    print(f"{'':58} {'median':>9} {'lowest':>9} {'highest':>9}  target")
    for row in rows:
        verdict = "" if row.met is None else "met" if row.met else "MISSED"
        print(f"{row.what:58} {row.value:9.4g} {row.lowest:9.4g} {row.highest:9.4g}  {row.target:8} {verdict}")
    for key in ("cpu_ms_by_role", "start_up_s", "fill", "poisson", "machine", "minutes"):
        if key in facts:
            print(f"{key}: {facts[key]}")
    plot(folder / "results.png", host, model)
    print(f"written: {folder}/results.csv, results.json, results.png")
    return 1 if any(row.met is False for row in rows) else 0


def again(folder: Path) -> int:
    """The same from the results.json that an earlier run left."""
    saved = json.loads((folder / "results.json").read_text())
    host, model = saved["without network"], saved["with network"]
    return write(folder, saved["facts"], Rounds(len(host), host), Rounds(len(model), model))


def plot(file: Path, host: Rounds, model: Rounds) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5))
    names = [name for name, quantities in model.measured[0].items() if "alone" not in name]
    bars(left, names, [model.ratios(name, "bare", "images_per_s") for name in names])
    left.axvline(1.0, color="0.4", linewidth=0.8)
    left.set_title("Throughput, bare network = 1 (higher is better)", fontsize=11)
    names = [name for name in host.measured[0] if "Mpx" not in name and name != DECODERS_ALONE]
    bars(right, names, [host.values(name, "server") for name in names])
    right.set_title("CPU beside the network, ms an image (lower is better)", fontsize=11)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def bars(axes: Any, names: list[str], values: list[list[float]]) -> None:
    """Medians as bars, the lowest and highest round as whiskers."""
    middle = [statistics.median(each) for each in values]
    errors = [[m - min(v) for m, v in zip(middle, values)], [max(v) - m for m, v in zip(middle, values)]]
    axes.barh(names, middle, xerr=errors, color="#4c72b0", ecolor="0.3", capsize=3)
    for index, value in enumerate(middle):
        axes.text(value + errors[1][index], index, f"  {value:.3g}", va="center", color="0.2", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(max(each) for each in values))  # room for the last label


if __name__ == "__main__":
    sys.exit(again(Path(sys.argv[1])))

"""Runs pixels through every MindIR of a version in the real serving runtime: what `export verify` compares.

python -m servable.runtime.parity_probe VERSION_DIRECTORY PIXELS.npy FEATURES.npz     names each step on stdout
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from metric_learn_client.contract.version_manifest import read_manifest
from servable.backend.direct_calls import predict_pixels, wait_until_serving
from servable.backend.serving_process import ServingProcess
from servable.backend.staging import STAGED_VERSION, stage
from servable.config import REPOSITORY, load_config
from servable.engine.settings import MasterSettings, ProbeSettings
from servable.runtime.engine_python import engine_python
from servable.runtime.lite_runtime import lite_directory

SERVABLE = "metric_learn_probe"
START_S = 120.0
CALL_S = 300.0
PER_CALL = 16  # pictures: a full batch of the largest size that the network is exported for


def probe(version_directory: Path, pixels_file: Path, features_file: Path) -> None:
    """Writes one float32 [N, 2048] array per batch size, named by it."""
    sizes = [entry["batch_size"] for entry in read_manifest(version_directory)["mindir"]]
    pixels = np.load(pixels_file)
    with tempfile.TemporaryDirectory(prefix="metric-learn-probe-") as scratch:
        run_dir = Path(scratch)
        servables = stage(REPOSITORY / "servable" / "engine" / SERVABLE, version_directory, run_dir, SERVABLE)
        settings = MasterSettings(
            servable_directory=str(servables),
            servable_name=SERVABLE,
            version_number=STAGED_VERSION,
            address=f"unix:{run_dir}/probe.sock",
            device_type="cpu",
            device_ids=(),
            workers=1,
        )
        threads = os.cpu_count() or 1
        print("starting MindSpore Serving with the Lite runtime", flush=True)
        python = engine_python(load_config(REPOSITORY / "configs" / "cpu.yaml"))
        worker: ProbeSettings = {"threads": threads, "batch_sizes": sizes}
        backend = ServingProcess(python, settings, run_dir, lite_directory(), worker)
        try:
            wait_until_serving(settings.address, backend.poll, START_S)
            parts = []
            for start in range(0, len(pixels), PER_CALL):
                print(f"images {start + 1} to {min(start + PER_CALL, len(pixels))} of {len(pixels)}", flush=True)
                parts.append(
                    predict_pixels(
                        settings.address,
                        pixels[start : start + PER_CALL],
                        servable=SERVABLE,
                        method="probe",
                        output="features",
                        deadline_s=CALL_S,
                    )
                )
        except Exception:
            sys.stderr.write(backend.log.read_text(errors="replace")[-2000:])
            raise
        finally:
            backend.stop()
    features = np.concatenate(parts).reshape(len(pixels), len(sizes), -1)
    rows: dict[str, Any] = {str(size): features[:, index] for index, size in enumerate(sizes)}
    np.savez(features_file, **rows)


if __name__ == "__main__":
    probe(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))

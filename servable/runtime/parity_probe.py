"""Runs pixels through every MindIR of a version, in MindSpore Serving as the server starts it: for `export verify`.

python -m servable.runtime.parity_probe VERSION_DIRECTORY PIXELS.npy EMBEDDINGS.npz     names each step on stdout
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from servable.backend.launcher import PROOF_CALL_S, Child, Launcher
from servable.backend.warm_up import Unanswered, embed_in_batches
from servable.config import REPOSITORY, load_config
from servable.exported_version import ExportedVersion, open_version
from servable.gateway.channel import Channel

POLL_S = 0.1

Rows = npt.NDArray[np.float32]


def probe(version_directory: Path, pixels_file: Path, embeddings_file: Path) -> None:
    """Writes one float32 [N, 2048] array of unit rows per batch size, named by it; NaN where the network gives none."""
    config = load_config(REPOSITORY / "configs" / "cpu.yaml", ["backend.target=cpu"])
    version, pixels = open_version(version_directory), np.load(pixels_file)
    print("starting MindSpore Serving with the Lite runtime", flush=True)
    with tempfile.TemporaryDirectory(prefix="metric-learn-probe-") as scratch:
        launcher = Launcher(config, Path(scratch))
        child = launcher.launch(version)
        try:
            embeddings = asyncio.run(_embed(child, version, pixels, config.backend.start_timeout_s))
        except Exception:
            sys.stderr.write(launcher.log.path.read_text(errors="replace")[-2000:])
            raise
        finally:
            child.stop(at_once=False)
            launcher.log.close()
    np.savez(embeddings_file, **embeddings)  # type: ignore[arg-type]  # one of its own arguments is no array


async def _embed(
    child: Child, version: ExportedVersion, pixels: npt.NDArray[np.uint8], start_s: float
) -> dict[str, Rows]:
    """Raises RuntimeError where it ends, or does not come to serve; Unanswered."""
    limit, made = time.monotonic() + start_s, {}
    with closing(Channel(child.facts.target)) as channel:
        ready = asyncio.ensure_future(channel.opened())
        while not ready.done():
            if child.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"MindSpore Serving does not come to serve within {start_s:g} s: {child.why()}")
            await asyncio.wait({ready}, timeout=POLL_S)
        for size in version.batch_sizes:
            print(f"{len(pixels)} images, {size} in a batch", flush=True)
            try:
                rows = await embed_in_batches(channel, pixels, size, version.embedding_dim, PROOF_CALL_S)
            except Unanswered as error:
                if "E_NON_FINITE" not in str(error):
                    raise
                rows = np.full((len(pixels), version.embedding_dim), np.nan, np.float32)
            made[str(size)] = rows
    return made


if __name__ == "__main__":
    probe(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))

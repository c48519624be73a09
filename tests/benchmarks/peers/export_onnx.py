"""The same weights as ONNX, for the peers. .venv/export/bin/python -m tests.benchmarks.peers.export_onnx CKPT OUT.onnx

Only the network: the peers normalise in their own preprocessing, as their users do.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mindspore as ms
import numpy as np

from export.checkpoint import read_checkpoint
from export.facts import model_facts
from export.mindir import build_graph


def main(checkpoint: Path, output: Path) -> None:
    facts = model_facts()
    graph = build_graph(read_checkpoint(checkpoint, facts.expected_extras), facts)
    pixels = ms.Tensor(np.zeros((16, 3, 224, 224), np.float32))
    ms.export(graph.backbone, pixels, file_name=str(output), file_format="ONNX")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

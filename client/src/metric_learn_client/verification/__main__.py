"""`python -m metric_learn_client.verification`: the picture side of a golden set made from a checkpoint.

The export environment has the network and neither OpenCV nor this package; it runs these two steps in one that has.

    pixels SCRATCH PICTURES...                 writes SCRATCH/pixels.npy
    write SCRATCH OUTPUT FACTS PICTURES...     reads SCRATCH/*.npy and the JSON text FACTS, writes the golden set
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from metric_learn_client.preprocess import ImageError, preprocess
from metric_learn_client.verification.golden import GoldenError, GoldenSet, safe_names, write_golden
from metric_learn_client.verification.parity import unit_rows


def write_pixels(scratch: Path, pictures: list[Path]) -> None:
    made = []
    for picture in pictures:
        try:
            made.append(preprocess(picture.read_bytes()))
        except ImageError as error:
            raise GoldenError(f"{picture}: {error}") from error
    np.save(scratch / "pixels.npy", np.stack(made))


def write_set(scratch: Path, output: Path, facts: str, pictures: list[Path]) -> None:
    features = np.load(scratch / "features.npy")
    wrong = {
        file.stem[len("wrong_") :]: unit_rows(np.load(file)).astype(np.float32) for file in scratch.glob("wrong_*.npy")
    }
    golden = GoldenSet(
        tuple(safe_names(pictures)),
        tuple(picture.read_bytes() for picture in pictures),
        unit_rows(features).astype(np.float32),
        np.load(scratch / "pixels.npy"),
        wrong,
        json.loads(facts),
    )
    write_golden(output, golden)


def main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["pixels"]:
            write_pixels(Path(arguments[1]), [Path(name) for name in arguments[2:]])
        else:
            write_set(Path(arguments[1]), Path(arguments[2]), arguments[3], [Path(name) for name in arguments[4:]])
    except (GoldenError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

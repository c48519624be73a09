"""`python -m metric_learn_client.verification PIXELS.npy PICTURES...`: the pictures as the network is given them.

For the export, whose environment has the network and no OpenCV. Exit code 2 for a picture that cannot be read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from metric_learn_client.preprocess import ImageError, preprocess


def main(output: str, *pictures: str) -> int:
    made = []
    for picture in pictures:
        try:
            made.append(preprocess(Path(picture).read_bytes()))
        except (ImageError, OSError) as error:
            print(f"{picture}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
            return 2
    np.save(output, np.stack(made))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

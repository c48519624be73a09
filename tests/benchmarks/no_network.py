"""The product's servable with the network taken out: what is left is all that the product adds to it.

Every step that a request meets stays real - gateway, MindSpore Serving, decoding, stages, reply - but where the network
would run, each image gets one constant row. The process tree's CPU per image is then the non-model cost itself,
not a small difference of two large numbers.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt

REPOSITORY = Path(__file__).resolve().parents[2]
PATCH = """

_CONSTANT = np.ones(EMBEDDING_DIM, np.float32)


def _run(model, instances):
    return [(_CONSTANT,)] * len(instances)
"""


NO_DECODING = """

_GREY = np.full(PIXELS_SHAPE, 128, np.uint8)


def _grey(image):
    from concurrent.futures import Future

    done = Future()
    done.set_result(_GREY)
    return done


_pool.submit = _grey
"""


def constant_embedding() -> npt.NDArray[np.float32]:
    return np.full(2048, np.float32(1 / np.sqrt(2048)), np.float32)


def copy_without_network(folder: Path, decode: bool) -> Path:
    """A copy of the servable's code in `folder` in which `_run` answers at once; images need not be decoded."""
    shutil.copytree(
        REPOSITORY / "servable" / "metric_learn", folder, ignore=shutil.ignore_patterns("[0-9]*", "__pycache__")
    )
    stages = folder / "stages.py"
    text = stages.read_text()
    if "def _run(" not in text:
        raise RuntimeError("the servable has no _run any more; this benchmark must follow it")
    stages.write_text(text + PATCH + ("" if decode else NO_DECODING))
    return folder

"""The golden picture's limit: float16's rounding is within it, every other known picture's answer is beyond it.

With stand-in weights, which put pictures close together: 23 of the 153 pairs of golden pictures are nearer to each
other than 2e-2 of their length. The nearest are one photo in two formats.
"""

from pathlib import Path

import numpy as np
import pytest

from servable.config.sections import ReadinessSection
from servable.gateway.backends import Golden

FOLDER = Path(__file__).parents[3] / "golden"
LIMIT = ReadinessSection().max_relative_distance
FLOAT16 = np.load(FOLDER / "float16.npz")
REFERENCE = np.load(FOLDER / "reference.npz")
NAMES, FLOAT32 = [str(name) for name in REFERENCE["names"]], REFERENCE["embeddings_f32"]
COUNT = len(FLOAT32)


def distances(answers):
    """float64 [18, 18]: of each picture's answer to each picture's known embedding, as the product measures them."""
    known = [Golden(b"", row, float(spread)) for row, spread in zip(FLOAT32, FLOAT16["spread"])]
    return np.array([[golden.distance(answer) for answer in answers] for golden in known])


@pytest.mark.parametrize("answers", [FLOAT32, FLOAT16["embeddings"]], ids=["float32", "float16"])
def test_no_picture_passes_as_another(answers):
    others = distances(answers)[~np.eye(COUNT, dtype=bool)]
    assert len(others) == 2 * 153 and others.min() > LIMIT


def test_a_float16_device_passes_with_its_rounding():
    own = np.diag(distances(FLOAT16["embeddings"]))
    shipped = NAMES.index("cat_exif2.jpg")  # configs/golden/image.jpg
    assert own.max() < LIMIT and own[shipped] < LIMIT / 3


def test_the_length_alone_would_let_pictures_pass_as_others():
    apart = [np.linalg.norm(FLOAT32[a] - FLOAT32[b]) for a in range(COUNT) for b in range(a)]
    assert sum(distance < 2e-2 for distance in apart) == 23 and len(apart) == 153


@pytest.mark.parametrize("row", [np.full(2048, np.nan), np.full(2048, np.inf), np.zeros(2047)])
def test_what_is_no_embedding_is_infinitely_far(row):
    assert Golden(b"", FLOAT32[0]).distance(row.astype(np.float32)) == float("inf")

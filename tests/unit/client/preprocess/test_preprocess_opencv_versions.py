"""Whatever OpenCV a host brings, the same file gives the same pixels, or the same refusal."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.unit.client.preprocess.mutations import mutations
from tests.unit.client.preprocess.small_jpeg import small_jpeg
from tests.unit.client.preprocess.test_jpeg import READ
from tests.unit.client.preprocess.test_still import KINDS, png

GOLDEN = Path(__file__).parents[3] / "golden"
VERSIONS = ["4.10.0.84", "4.11.0.86", "4.12.0.88", "4.13.0.92", "5.0.0.93"]  # client/pyproject.toml: from 4.10 on
COUNT = 400
SUBSAMPLINGS = [0x411111, 0x221111, 0x211111, 0x121111, 0x111111]
PROGRAM = """
import hashlib, json, pickle, sys
import cv2
from metric_learn_client.preprocess import KERNEL, ImageError, decode, resize
said = {}
for name, image in pickle.load(open(sys.argv[1], "rb")).items():
    try:
        pixels = decode(image)
        said[name] = hashlib.sha256(pixels.tobytes() + resize(pixels).tobytes()).hexdigest()
    except ImageError as error:
        said[name] = str(error)
print(json.dumps([cv2.__version__, KERNEL, said]))
"""


def jpegs():
    """Five subsamplings, baseline and progressive, colour and grey, quality 20 to 99, any small size."""
    random = np.random.default_rng(3)
    photos = [cv2.imread(str(GOLDEN / "images" / name)) for name in ("astronaut_420_q90.jpg", "coffee_444_q95.jpg")]
    for index in range(COUNT):
        height, width = (int(side) for side in random.integers(8, 500, 2))
        photo = cv2.resize(photos[index % 2], (width, height))
        if index % 9 == 0:
            photo = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
        flags = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(20, 100)), cv2.IMWRITE_JPEG_PROGRESSIVE, index % 4 == 0]
        flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLINGS[index % 5]]
        yield f"jpeg {index}", cv2.imencode(".jpg", photo, [int(flag) for flag in flags])[1].tobytes()


def pictures():
    """Golden, sound, hostile, generated and damaged ones, by name."""
    found = {str(path): path.read_bytes() for path in GOLDEN.rglob("*") if path.suffix not in (".csv", ".npz", "")}
    found.update(jpegs())
    for index, factors in enumerate(READ):
        for together in (True, False):
            found[f"{factors} {together}"] = small_jpeg(33, 17, factors, seed=index, restart=2, together=together)
    for depth, colour in KINDS:
        for interlaced in (0, 1):
            data = png(np.random.default_rng(depth), 33, 21, depth, colour, interlaced, metadata=True)
            found[f"png {depth} {colour} {interlaced}"] = data
    found.update(mutations(7, 3000))
    return found


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_opencv_gives_the_same_pixels_and_the_same_errors(tmp_path):
    kept = tmp_path / "pictures.pickle"
    kept.write_bytes(pickle.dumps(pictures()))
    answers = []
    for version in VERSIONS:
        place = str(tmp_path / version)
        install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        command = [*install, "--target", place, f"opencv-python-headless=={version}"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        path = ":".join(filter(None, (place, os.environ.get("PYTHONPATH"))))
        for resize in ("compiled", "opencv"):
            environment = {**os.environ, "PYTHONPATH": path, "METRIC_LEARN_RESIZE": resize}
            command = [sys.executable, "-c", PROGRAM, str(kept)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            answers.append(json.loads(done.stdout))
    assert {answer[0] for answer in answers} == {version.rpartition(".")[0] for version in VERSIONS}
    first = answers[0][2]
    assert len(set(first.values())) > 700  # not one refusal for all
    for version, kernel, said in answers:
        assert {name: (first[name], said[name]) for name in first if said[name] != first[name]} == {}, (version, kernel)

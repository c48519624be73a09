"""Whatever OpenCV a host brings, the same file gives the same pixels: decoded, and after the resizes."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

IMAGES = Path(__file__).parents[3] / "golden" / "images"
VERSIONS = ["4.11.0.86", "4.13.0.92", "5.0.0.93"]
if np.lib.NumpyVersion(np.__version__) < "2.0.0":
    VERSIONS.insert(0, "4.8.1.78")  # built for NumPy 1
COUNT = 400
SUBSAMPLINGS = [0x411111, 0x221111, 0x211111, 0x121111, 0x111111]
PROGRAM = """
import hashlib, pickle, sys
import cv2, numpy as np
from metric_learn_client.preprocess import KERNEL, preprocess
digest = hashlib.sha256()
for image in pickle.load(open(sys.argv[1], "rb")):
    digest.update(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR).tobytes())
    digest.update(preprocess(image).tobytes())
print(cv2.__version__, KERNEL, digest.hexdigest())
"""


def jpegs():
    """Five subsamplings, baseline and progressive, colour and grey, quality 20 to 99, any small size."""
    random = np.random.default_rng(3)
    photos = [cv2.imread(str(IMAGES / name)) for name in ("astronaut_420_q90.jpg", "coffee_444_q95.jpg")]
    for index in range(COUNT):
        height, width = (int(side) for side in random.integers(8, 500, 2))
        photo = cv2.resize(photos[index % 2], (width, height))
        if index % 9 == 0:
            photo = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
        flags = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(20, 100)), cv2.IMWRITE_JPEG_PROGRESSIVE, index % 4 == 0]
        flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLINGS[index % 5]]
        yield cv2.imencode(".jpg", photo, [int(flag) for flag in flags])[1].tobytes()


@pytest.mark.long
def test_every_opencv_decodes_and_resizes_to_the_same_pixels(tmp_path):
    pictures = tmp_path / "pictures.pickle"
    pictures.write_bytes(pickle.dumps(list(jpegs())))
    said = []
    for version in VERSIONS:
        place = str(tmp_path / version)
        install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        command = [*install, "--target", place, f"opencv-python-headless=={version}"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        path = ":".join(filter(None, (place, os.environ.get("PYTHONPATH"))))
        for resize in ("compiled", "opencv"):
            environment = {**os.environ, "PYTHONPATH": path, "METRIC_LEARN_RESIZE": resize}
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(pictures)], env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            said.append(done.stdout.split())
    assert {line[0] for line in said} == {version.rpartition(".")[0] for version in VERSIONS}
    assert len({line[2] for line in said}) == 1, said
